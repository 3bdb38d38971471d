"""Environments, answers and callbacks of the tests of advice that stands in every state."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from conftest import CounterEnv, DictEnv
from sb3_varl import (
    VARL,
    AdvisorCallback,
    ObservationSlice,
    RulesAdvisor,
    TaskSheet,
)

# Tests that ask the server.
pytest_vlm = pytest.mark.usefixtures("vlm_environment")
SLICES = (ObservationSlice("episode", 0, 1), ObservationSlice("t", 1, 2))
SHEET = TaskSheet("Count.", (), SLICES)
# Updates take time, and what is done with advice does not see them.
SMALL = {
    "learning_starts": 5,
    "gradient_steps": 0,
    "seed": 0,
    "policy_kwargs": {"net_arch": [8]},
    "shaping_steps": 1000,
}
UPDATES = {"gradient_steps": 1, "batch_size": 8}
SETTINGS = {"first_query": 20, "query_freq": 20, "states_per_query": 4, "window": 10, "frames": False, "blocking": True}
# The episode's number and the step within it, so that advice beside the wrong observation is found out.
TEXT = '{"rules": [{"name": "odd", "when": "t > 2", "action": ["episode / 10", "t / 10"]}]}'
OTHER = '{"rules": [{"name": "other", "when": "true", "action": ["-episode / 10", "-t / 10"]}]}'
ALL = {"rules": [{"name": "all", "when": "true", "action": ["t / 10 - 0.3", "0.5"]}]}


class NamedEnv(CounterEnv):
    task_sheet = SHEET


class NamedDictEnv(DictEnv):
    task_sheet = TaskSheet("Count.", (), tuple(ObservationSlice(s.name, s.start, s.stop, key="count") for s in SLICES))


def make_model(env=None, cls=VARL, **kwargs):
    env = NamedEnv() if env is None else env
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    return cls(policy, env, **{**SMALL, **kwargs})


def make_callback(advisor=None, **kwargs):
    return AdvisorCallback(advisor or RulesAdvisor(TEXT), **{**SETTINGS, "log_path": False, **kwargs})


def assert_rows_are_advised(rows, sign=1, key="observation"):
    observations = rows[f"observations/{key}"]
    np.testing.assert_allclose(rows["actions"], sign * np.clip(observations[:, :2] / 10, -1, 1), atol=1e-6)


def answers(*texts):
    """What a server says, one text after the other."""
    left = list(texts)
    return lambda states, images: left.pop(0) if len(left) > 1 else left[0]


class TargetEnv(NamedEnv):
    """Succeeds if the first component of the last action of an episode is above 0."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "is_success": bool(action[0] > 0)}


def answer_of(value):
    return json.dumps({"rules": [{"name": f"always {value}", "when": "true", "action": [str(value), "t / 10"]}]})


def executed(model):
    """Of each stored transition: the observation, and the action."""
    buffer = model.replay_buffer
    return buffer.observations[: buffer.pos, 0], buffer.actions[: buffer.pos, 0]
