"""From an answer's text, whatever it is, to actions."""

import json
import time
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import page_table
from sb3_varl.advice.answer import ParsedAnswer, parse_answer
from sb3_varl.advice.types import Rejection

ACTION_SPACE = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32))


GOOD = '{"advice": [{"state": 1, "action": [1, 1]}]}'


def item(action: str, state: str = "0") -> str:
    """An answer with something about one state, and a good action for another."""
    return f'{{"advice": [{{"state": {state}, "action": {action}}}, {{"state": 1, "action": [1, 1]}}]}}'


# What the model is asked about is states 0, 1 and 2, with two components, from -1 to 1 and from 0 to 5.
ANSWERS = {
    "JSON in a fence": f"```json\n{GOOD}\n```",
    "JSON in prose and formulas": f"Let me see. Set {{0, 1}}: $\\frac{{a}}{{b}}$.\n\n{GOOD}\n\nThat is {{it}}.",
    "a draft, then another answer": f"First {item('[1, 1]')}? No:\n{GOOD}",
    "half a draft, then an answer": f'{{"advice": [{{"state": 0, ... }} wait. {GOOD}',
    "thoughts beside the advice": '{"thought": {"a": 1}, ' + GOOD[1:],
    "a reason for a state": '{"advice": [{"state": 1, "action": [1, 1], "reason": "It is on the left."}]}',
    "null, to abstain": item("null"),
    "nothing about a state": GOOD,
    "a state without an action": '{"advice": [{"state": 0}, {"state": 1, "action": [1, 1]}]}',
    "a state twice": item("[0, 0]", "1").replace("[0, 0]", "[1, 1]").replace("[1, 1]}]", "[0, 0]}]"),
    "a state that does not exist": item("[0, 0]", "3"),
    "a negative state": item("[0, 0]", "-1"),
    "a state as a string": item("[0, 0]", '"0"'),
    "a state as a boolean": item("[0, 0]", "true"),
    "a state with a decimal point": item("[0, 0]", "0.0"),
    "an action without a state": '{"advice": [{"action": [0, 0]}, {"state": 1, "action": [1, 1]}]}',
    "items that are none": '{"advice": [null, [0, 0], {"state": 1, "action": [1, 1]}]}',
    "too few components": item("[0]"),
    "too many components": item("[0, 0, 0]"),
    "more than 200 000 characters": item(f"[{'0,' * 100_000}0]"),
    "components in a list of their own": item("[[0], [0]]"),
    "components by name": item('{"dx": 0, "grip": 0}'),
    "words for an action": item('"left"'),
    "a string for a number": item('["0.5", 0]'),
    "a boolean for a number": item("[true, 0]"),
    "null for a number": item("[null, 0]"),
    "NaN": item("[NaN, 0]"),
    "Infinity": item("[0, -Infinity]"),
    "1e999": item("[1e999, 0]"),
    "an integer of 5000 digits": item(f"[{'9' * 5000}, 0]"),
    "an action nested a thousand deep": item("[" * 1000 + "]" * 1000),
    "a hair outside the bounds": item("[1.01, -0.04]"),
    "far outside the bounds": item("[0, 5.2]"),
    "half of a surrogate pair": item("[0, 0]").replace('"state": 0', '"state": 0, "reason": "\ud83e"'),
    "escaped halves of surrogate pairs": item("[0, 0]").replace('"state": 0', r'"state": 0, "reason": "\ud800"'),
    "nothing": "",
    "no JSON": "I would rather not.",
    "JSON that breaks off": '{"advice": [{"state": 0, "action": [0, 0]}',
    "JSON without advice": '{"state": 0, "action": [0, 0]}',
    "advice that is no list": '{"advice": {"0": [0, 0]}}',
    "lists nested a hundred thousand deep": '{"advice":' + "[" * 100_000,
    "objects nested a million deep": '{"a":' * 1_000_000,
}


def parse(items: Any, indices: tuple[int, ...] = (0, 1, 2), space: spaces.Box = ACTION_SPACE) -> ParsedAnswer:
    return parse_answer(json.dumps({"advice": items}), indices, space)


def test_good_answer() -> None:
    parsed = parse([{"state": 2, "action": [0.5, 4], "reason": "r"}, {"state": 0, "action": [-1, 5]}])
    assert parsed.rejected == ()
    assert sorted(parsed.actions) == [0, 2]
    np.testing.assert_array_equal(parsed.actions[2], np.array([0.5, 4.0], np.float32))
    assert parsed.actions[2].dtype == np.float32


@pytest.mark.parametrize("name", ANSWERS)
def test_answer(name: str) -> None:
    accepted, rejected = page_table("What a model may say")[name]
    parsed = parse_answer(ANSWERS[name], (0, 1, 2), ACTION_SPACE)
    assert (", ".join(map(str, sorted(parsed.actions))) or "none") == accepted
    reasons = dict.fromkeys(rejection.reason for rejection in parsed.rejected)
    assert (", ".join(f"`{reason}`" for reason in reasons) or "none") == rejected
    if reasons.keys() & {"not_json", "no_advice"}:
        assert [rejection.state for rejection in parsed.rejected] == [0, 1, 2]
    if 1 in parsed.actions:
        np.testing.assert_array_equal(parsed.actions[1], [1, 1])
    check_sound(parsed, (0, 1, 2), ACTION_SPACE)


def test_the_page_has_all_answers() -> None:
    assert list(page_table("What a model may say")) == list(ANSWERS)


def test_a_hair_outside_is_clipped() -> None:
    np.testing.assert_array_equal(parse([{"state": 0, "action": [1.01, -0.04]}]).actions[0], [1, 0])


def test_state_that_was_not_asked_in_this_request_is_unknown() -> None:
    assert parse([{"state": 0, "action": [0, 0]}], indices=(16, 17)).rejected == (Rejection("unknown_state"),)


def test_action_space_of_several_dimensions_is_answered_flat() -> None:
    parsed = parse([{"state": 0, "action": [1, 2, 3, 4]}], space=spaces.Box(0, 5, (2, 2)))
    np.testing.assert_array_equal(parsed.actions[0], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "pattern",
    ["x", "{", '{"', '{"a":', '{"a":[1,', "{}", '{"advice":[', '{"advice":[[],', '{  \n"', '{"a":"{', "9", "[]"],
)
def test_time_for_50_megabytes_is_bounded(pattern: str) -> None:
    text = pattern * (50_000_000 // len(pattern))
    started = time.perf_counter()
    parse_answer(text, range(16), ACTION_SPACE)
    parse_answer('{"advice":[' + text, range(16), ACTION_SPACE)
    assert time.perf_counter() - started < 5


numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([1.01, -1.02, 10**400, 1e999, float("nan"), True, "1", None])
)
values = st.recursive(
    numbers | st.text(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner), max_leaves=8
)
items = st.fixed_dictionaries(
    {},
    optional={
        "state": st.integers(-1, 4) | values,
        "action": st.lists(numbers, min_size=1, max_size=3) | values,
        "reason": st.text(),
    },
)
answers = st.fixed_dictionaries({}, optional={"advice": st.lists(items | values, max_size=6), "note": values})
bounds = st.floats(-1e6, 1e6, width=32)
boxes = st.lists(st.tuples(bounds, bounds).map(sorted), min_size=1, max_size=3).map(
    lambda pairs: spaces.Box(*np.array(pairs, np.float32).T)
)


def check_sound(parsed: ParsedAnswer, indices: tuple[int, ...], space: spaces.Box) -> None:
    assert set(parsed.actions) <= set(indices)
    assert all(space.contains(action) for action in parsed.actions.values())
    assert all(rejection.state is None or rejection.state in indices for rejection in parsed.rejected)


@settings(deadline=None)
@given(st.text(), boxes)
def test_any_text_is_survived(text: str, space: spaces.Box) -> None:
    check_sound(parse_answer(text, (0, 1, 2), space), (0, 1, 2), space)


@settings(deadline=None)
@given(st.text(alphabet='{}[]":,0123456789.eE+-aNn\\ \n\ud800'), boxes)
def test_any_text_in_the_letters_of_json_is_survived(text: str, space: spaces.Box) -> None:
    check_sound(parse_answer('{"advice":[{"state":0,"action":[' + text, (0, 1, 2), space), (0, 1, 2), space)


@settings(max_examples=300, deadline=None)
@given(answers, boxes, st.text(max_size=5), st.text(max_size=5))
def test_any_json_is_survived(answer: dict[str, Any], space: spaces.Box, before: str, after: str) -> None:
    text = before + json.dumps(answer) + after
    check_sound(parse_answer(text, (0, 1, 2), space), (0, 1, 2), space)


@settings(deadline=None)
@given(boxes, st.data())
def test_what_lies_in_the_space_comes_through(space: spaces.Box, data: st.DataObject) -> None:
    shares = data.draw(st.lists(st.floats(0, 1), min_size=space.shape[0], max_size=space.shape[0]))
    action = space.low + np.array(shares, np.float64) * (space.high.astype(np.float64) - space.low)
    parsed = parse([{"state": 1, "action": action.tolist()}], space=space)
    assert parsed.rejected == ()
    np.testing.assert_allclose(parsed.actions[1], action, rtol=1e-6, atol=1e-6)
