"""How a model is asked for rules: the names, the language, and the states that are shown."""

import json
import re

import numpy as np
import pytest
from gymnasium import spaces

from sb3_varl import ActionComponent, AdviceQuery, Briefing, ObservationSlice, Rules, TaskSheet, VisitedState
from sb3_varl.advisors.prompt import chats, state_lines, system_prompt
from sb3_varl.advisors.rules_prompt import language, pick_different
from sb3_varl.metaworld.sheets import TASKS, write_sheet
from sb3_varl.rules.names import Names

SHEET = TaskSheet(
    "Go.",
    (ActionComponent("dx"), ActionComponent("dy")),
    (
        ObservationSlice("gripper position", 0, 3, "metres", before=6),
        ObservationSlice("unused", 3, 5, "always zero"),
        ObservationSlice("opening", 5, 6),
        ObservationSlice("previously", 6, 9, "the position as it was"),
    ),
)
BRIEFING = Briefing(
    spaces.Box(-1, 1, (2,)), spaces.Box(-np.inf, np.inf, (9,)), "Go.", SHEET, frames=True, max_episode_steps=50
)


def states(*observations, frames=True):
    picture = np.zeros((30, 40, 3), np.uint8)
    return tuple(
        VisitedState(np.array(observation, np.float32), np.zeros(2), picture if frames else None, i)
        for i, observation in enumerate(observations)
    )


def spread(n, scale=1.0):
    return [[scale * i, 0, 1e-20, 0, 0, 0.5, 0, 0, 0] for i in range(n)]


def test_the_prompt_names_the_numbers_as_the_language_spells_them():
    text = system_prompt(BRIEFING, "Go.", "rules")
    assert "- gripper_position: a list of 3 numbers (metres)" in text
    assert "- opening: a number\n" in text
    assert "- previously: a list of 3 numbers (the position as it was; left out of the states below)" in text
    assert "a name's numbers less what they were a moment before, as previously has it" in text
    assert "one expression for each component of the action: dx, dy." in text
    assert "An episode ends after at most 50 steps." in text
    assert '"advice"' not in text


def test_the_example_is_in_the_language():
    """It is of a made-up environment; a model that copies it is to find that it works."""
    sheet = TaskSheet(
        "Load the ship.",
        tuple(ActionComponent(name) for name in ("rail", "rope", "magnet")),
        (
            ObservationSlice("trolley", 0, 1),
            ObservationSlice("hook", 1, 3),
            ObservationSlice("load", 3, 5, before=8),
            ObservationSlice("ship", 5, 7),
            ObservationSlice("hook force", 7, 8),
        ),
    )
    example = language(BRIEFING).split("rules may be\n")[1].split("\nMind that")[0]
    rules = Rules.parse(example, sheet, spaces.Box(-np.inf, np.inf, (10,)), spaces.Box(-1, 1, (3,)))
    assert not rules.rejected
    assert len(rules) == 5
    # trolley, hook, load, ship, force, load before
    assert rules.which(np.array([0, 0, 5, 4, 0, 9, 3, 0, 4, 0])) == 4
    assert rules.which(np.array([4, 4, 5, 4, 0, 9, 3, 0, 4, 0])) == 3
    assert rules.which(np.array([4, 4, 0.1, 4, 0, 9, 3, 0, 4, 0])) == 2
    assert rules.which(np.array([4, 4, 0.1, 4, 0, 9, 3, 1, 4, 0])) == 1
    assert rules.which(np.array([4, 4, 5, 4, 5, 9, 3, 1, 4, 5])) == 0


def test_one_chat_shows_a_few_states_that_differ():
    query = AdviceQuery(0, 0, states(*spread(32)), BRIEFING)
    (chat,) = chats(query, "Go.", range(32), form="rules")
    assert chat.states == tuple(range(32))
    parts = chat.messages[1]["content"]
    lines = [json.loads(part["text"]) for part in parts if part["type"] == "text"]
    assert sorted(line["gripper_position"][0] for line in lines) == [0, 8, 16, 24, 31]
    assert sum(part["type"] == "image_url" for part in parts) == 5
    assert [line["state"] for line in lines] == [0, 1, 2, 3, 4]
    # What is zero everywhere, what was before, and rounding, are left out.
    assert set(lines[0]) == {"state", "gripper_position", "opening", "executed_action"}
    assert lines[1]["gripper_position"][2] == 0
    assert state_lines(query, "rules") == [part["text"] for part in parts if part["type"] == "text"]


def test_states_that_are_all_alike_and_numbers_that_are_none():
    query = AdviceQuery(0, 0, states(*[[1.0] * 9] * 3, [np.nan, np.inf, *[0.0] * 7], frames=False), BRIEFING)
    (chat,) = chats(query, "Go.", range(4), form="rules")
    assert '"gripper_position": ["nan","inf",0]' in chat.messages[1]["content"]
    assert len(state_lines(query, "rules")) == 4
    assert list(chats(query, "Go.", (), form="rules")) == []


def test_states_are_picked_whatever_their_units():
    names = Names(SHEET, BRIEFING.observation_space)
    for scale in (1e-6, 1.0, 1e6):
        assert pick_different(states(*spread(9, scale)), names, 3) == [0, 4, 8]
    assert pick_different(states([0.0] * 9), names, 3) == [0]


@pytest.mark.parametrize("task", TASKS)
def test_the_prompt_of_every_task_of_meta_world(task):
    sheet = write_sheet(task, "corner4", 3)
    briefing = Briefing(spaces.Box(-1, 1, (4,)), spaces.Box(-np.inf, np.inf, (39,)), sheet.goal, sheet)
    text = system_prompt(briefing, sheet.goal, "rules")
    assert len(text) < 9000
    assert "- gripper_position: a list of 3 numbers" in text
    assert not re.search(r"\{[a-z]+\}", text)
