"""What a model is told of the episodes in which its rules were followed."""

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from standing import SHEET

from sb3_varl import ObservationSlice, Rules, TaskSheet
from sb3_varl.advice.types import Episode
from sb3_varl.rules.description import MAX_ROWS, describe

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
NAMES = ("place", "speed", "noise")
WAIT = Rules.parse(
    '{"rules": [{"name": "wait", "when": "true", "action": ["0", "0"]}]}',
    TaskSheet("Hit the puck.", observation=tuple(ObservationSlice(name, i, i + 1) for i, name in enumerate(NAMES))),
    BOX,
    ACTIONS,
)


def followed(path, succeeded=False):
    return Episode(tuple(path), (np.zeros(2),) * len(path), (0,) * len(path), succeeded)


def hit(at, n=200):
    """A puck that lies, is hit, and comes to rest 25 steps later: its place, its speed, and what trembles."""
    speed = np.where(np.arange(n) < at, 0.0, np.maximum(0.5 - 0.02 * (np.arange(n) - at), 0.0))
    return np.stack([np.cumsum(speed), speed, 1e-9 * np.sin(np.arange(n))], axis=1)


def rows_of(text):
    """The rows of a table, by their names."""
    lines = text.splitlines()
    (header,) = (line.split("; ") for line in lines if line.startswith("step; "))
    return [dict(zip(header, line.split("; "), strict=True)) for line in lines if line[0].isdigit()]


def test_a_table_has_what_changes_and_every_change_of_rule():
    rules = Rules.parse(
        '{"rules": [{"name": "late", "when": "t > 47", "action": ["t / 100", "0"]},'
        '{"name": "early", "when": "t < 40", "action": ["0", "0"]}]}',
        SHEET,
        BOX,
        ACTIONS,
    )
    observations = tuple(np.array([5.0, t, 0.0], np.float32) for t in range(50))
    decisions = [rules.decide(observation) for observation in observations]
    actions = tuple(np.full(2, np.nan) if d.action is None else d.action for d in decisions)
    episode = Episode(observations, actions, tuple(d.rule for d in decisions), False)
    parts = describe(rules, [episode, episode, dataclasses.replace(episode, succeeded=True)])
    text = "\n\n".join(part.text for part in parts)
    assert "followed for 3 episodes of at most 50 steps: 1 of 3 succeeded" in text
    assert '"late" 6, "early" 120, none of them 24' in text
    assert text.count("episode 5 throughout") == 3
    assert text.count("An episode that failed") == 2
    assert "\n0; early; 0; 0 0\n" in text
    assert "\n40; none; 40; nan nan\n" in text
    assert "\n48; late; 48; 0.48 0\n" in text
    assert "\n49; late; 49; 0.49 0" in text
    assert [row["step"] for row in rows_of(parts[-1].text)] == ["0", "40", "48", "49"], "the rest is on a line"


def test_a_table_has_the_steps_in_which_something_happens():
    (_, part) = describe(WAIT, [followed(hit(at=93))])
    steps = [int(row["step"]) for row in rows_of(part.text)]
    assert {0, 92, 93, 118, 199} <= set(steps), "before and after the hit, and where it comes to rest"
    assert all(92 <= step <= 118 for step in steps[1:-1])
    assert len(steps) < 20, "and no more than it takes"


@given(st.integers(2, 60), st.integers(0, 10), st.integers(0, 1000))
def test_what_a_table_leaves_out_is_near_the_line_between_its_rows(n, n_kinks, seed):
    rng = np.random.default_rng(seed)
    kinks = np.sort(rng.choice(n, min(n_kinks + 2, n), replace=False))
    path = np.stack([np.interp(np.arange(n), kinks, rng.normal(size=len(kinks))) for _ in NAMES], axis=1)
    rows = rows_of(describe(WAIT, [followed(path)])[1].text)
    steps = [int(row["step"]) for row in rows]
    assert steps[0] == 0
    assert steps[-1] == n - 1
    assert len(steps) <= MAX_ROWS
    for name, numbers in zip(NAMES, path.T, strict=True):
        if name in rows[0]:
            off = np.abs(numbers - np.interp(np.arange(n), steps, numbers[steps])).max()
            assert off <= 0.011 * np.ptp(numbers) or len(steps) == MAX_ROWS


def test_of_episodes_without_a_table_their_ends_are_told():
    outcomes = {20: False, 40: None, 60: False, 80: False, 100: True}
    episodes = [followed(hit(at), succeeded) for at, succeeded in outcomes.items()]
    first, *tables = describe(WAIT, episodes)
    assert len(tables) == 3
    ends = first.text.split("The first and the last step of 2 episodes more:\n")[1].split("\n\n")[0].splitlines()
    assert ends[0] == "succeeded; step; rule; place; action"
    told = [line.rsplit("; ", 1)[0] for line in ends[1:]]
    assert told == ["not known; 0; wait; 0", "not known; 199; wait; 6.5", "no; 0; wait; 0", "no; 199; wait; 6.5"]
    assert "The first and the last" not in describe(WAIT, episodes[-1:])[0].text


@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_small_numbers_are_shown_beside_smaller_ones(unit):
    path = np.zeros((31, len(NAMES)))
    path[:, 0] = np.linspace(-20, 20, 31) * unit
    path[15, 0] = 1e-6 * unit
    episode = dataclasses.replace(followed(path), rules=(*[0] * 15, None, *[0] * 15))
    rows = rows_of(describe(WAIT, [episode])[1].text)
    assert [row["place"] for row in rows if row["step"] in ("0", "15", "30")] == [
        f"{-20 * unit:g}",
        "0",
        f"{20 * unit:g}",
    ]


def test_numbers_that_are_not_finite_are_told_and_no_trouble():
    path = hit(at=10, n=30)
    path[12, 1], path[20, 0] = np.nan, np.inf
    text = describe(WAIT, [followed(path)])[1].text
    assert {row["place"] for row in rows_of(text)} >= {"0", "inf"}
    assert {row["speed"] for row in rows_of(text)} >= {"0", "nan"}
