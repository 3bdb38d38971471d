"""A task sheet, and rules about it, for the tests of the rules language."""

import json

import numpy as np
from gymnasium import spaces

from sb3_varl import ActionComponent, ObservationSlice, Rules, TaskSheet

SHEET = TaskSheet(
    "Go.",
    (ActionComponent("dx"), ActionComponent("dy")),
    (
        ObservationSlice("gripper position", 0, 3, before=6),
        ObservationSlice("puck", 3, 5),
        ObservationSlice("Opening", 5, 6),
        ObservationSlice("previously", 6, 9),
    ),
)
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (9,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
STATE = np.array([0.1, 0.2, 0.3, 1.0, 2.0, 0.5, 0.0, 0.25, 0.3], np.float32)
GOOD = '{"name": "a", "when": "true", "action": ["0.5", "0"]}'


def parse(text, sheet=SHEET, observation_space=OBSERVATIONS, action_space=ACTIONS):
    return Rules.parse(text, sheet, observation_space, action_space)


def rules_of(*rules):
    return parse(json.dumps({"rules": rules}))


def rule(*action, when="true", **other):
    return {"name": "go", "when": when, "action": list(action), **other}


def value(expression, when="true"):
    """Of an expression in STATE, which has to be within the bounds."""
    rules = rules_of(rule(expression, "0", when=when))
    assert not rules.rejected, rules.rejected
    action = rules(STATE)
    return None if action is None else float(action[0])


def rejection(*rules):
    (only,) = rules_of(*rules).rejected
    return only


def sheet_of(*slices):
    return TaskSheet("Go.", (), slices)
