"""From an answer's text, whatever it is, to actions."""

import json
import re
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


ITEMS = ('{"state": 0, "action": [0.5, 2]}', '{"state": 1, "action": [1, 1]}', '{"state": 2, "action": [-1, 5]}')
I0, I1, I2 = ITEMS
ALL = f'{{"advice": [{", ".join(ITEMS)}]}}'

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
# Of these a person could read that the items are meant, or some of them.
SLIPS = {
    "a list without an object around it": f"[{I0}, {I1}]",
    "a line for each state": f"{I0}\n{I1}\n{I2}",
    "a line for each state, with commas": f"{I0},\n{I1},\n{I2},",
    "a bullet for each state": f"- {I0}\n- {I1}\n- {I2}",
    "a sentence before each state": f"State 0: {I0}\nFor state 1 I would close it: {I1}\nAnd {I2}",
    "an object for each state": f'{{"advice": [{I0}]}}\n{{"advice": [{I1}]}}',
    "another key": f'{{"actions": [{I0}, {I1}]}}',
    "an object around it": f'{{"response": {ALL}}}',
    "a string with JSON in it": '{"advice": ' + json.dumps(f"[{I0}, {I1}]") + "}",
    "actions by the state's number": '{"0": [0.5, 2], "1": [1, 1]}',
    "advice by the state's number": '{"advice": {"0": {"action": [0.5, 2], "reason": "r"}, "1": [1, 1]}}',
    "a trailing comma": f'{{"advice": [{I0}, {I1},]}}',
    "trailing commas everywhere": f'{{"advice": [{I0}, {I1}]}}'.replace("]", ",]").replace("}", ",}"),
    "a comma that is missing": f'{{"advice": [{I0} {I1}]}}',
    "a plus before a number": item("[+0.5, 2]"),
    "a plus in a string": item('["+0.5", "2"]'),
    "a number without its zero": item("[.5, 2.]"),
    "a newline in a reason": '{"advice": [{"state": 0, "action": [0.5, 2], "reason": "up\nand left"}, ' + I1 + "]}",
    "quotes in a reason": '{"advice": [{"state": 0, "reason": "the "red" one", "action": [0.5, 2]}, ' + I1 + "]}",
    "a brace in a reason": '{"advice": [{"state": 0, "reason": "{x", "action": [0.5, 2]}, ' + I1 + "]}",
    "single quotes": ALL.replace('"', "'"),
    "keys without quotes": ALL.replace('"', ""),
    "a comment": '{"advice": [{"state": 0, "action": [0.5, 2]}, // left\n' + I1 + "]}",
    "None for null": '{"advice": [{"state": 0, "action": None}, ' + I1 + "]}",
    "dots for the rest": f'{{"advice": [{I0}, {I1}, ...]}}',
    "cut off in the last action": f'{{"advice": [{I0}, {{"state": 1, "action": [1, 0.',
    "cut off in the last reason": f'{{"advice": [{I0}, {{"state": 1, "action": [1, 1], "reason": "beca',
    "cut off after an item": f'{{"advice": [{I0}, {I1},',
    "cut off in a list without an object": f'[{I0}, {{"state": 1, "ac',
    "cut off before the first action": '```json\n{"advice": [{"state": 0,',
    "a draft, then an answer that is cut off": f'{ALL} No:\n{{"advice": [{I0}, {{"state": 1, "action": [0',
    "a draft, then an answer that nobody can read": f'{ALL} No:\n{{"advice": [{{"state": 0, "action": left}}]}}',
    "an answer, then a remark with braces": f"{ALL}\nI left out {{the others}}.",
    "an answer, then one state again": f'{ALL}\nOr better: {{"state": 2, "action": [0, 0]}}',
    "a draft among thoughts": f'<think>Perhaps {ALL}</think>\n{{"advice": [{I1}]}}',
    "all of it among thoughts": f"<think>I answer {ALL}</think>",
    "thoughts that never end": f"<think>Hm, {ALL}",
    "states from 1": re.sub(r"(?<=state\": )\d", lambda match: str(int(match[0]) + 1), ALL),
    "a state too many": ALL.replace("]}]", ']}, {"state": 3, "action": [0, 0]}]'),
    "states as words": item("[0.5, 2]", '"state 0"'),
    "components by name, in another order": item('{"grip": 2, "dx": 0.5}'),
    "components by other names": item('{"x": 0.5, "y": 2}'),
    "a component that is missing by name": item('{"dx": 0.5}'),
    "an action in two lists": item("[[0.5, 2]]"),
    "one number where two are needed": item("0.5"),
    "a minus that no keyboard has": item('["\u22120.5", 2]'),
    "the keys in another order": '{"advice": [{"action": [0.5, 2], "state": 0}, {"reason": "r", ' + I1[1:] + "]}",
    "a line for each state, without JSON": "State 0: [0.5, 2]\nState 1: [1, 1] (close)\nState 2: null\nGood luck!",
    "bullets with marks": "- **State 0**: [+0.5, 2] - it is left\n- **State 1:** `[1, 1]`",
    "numbered lines with words": "1. State 0: action = [0.5, 2]; go\n2. State 1: recommended action: [1, 1]",
    "an object after each state's name": 'State 0: {"action": [0.5, 2]}\nState 1: {"action": [1, 1], "reason": "r"}',
    "two actions in a line": "State 0: [0.5, 2] or [0.6, 2]\nState 1: [1, 1]",
    "a table with lists": "| State | Action | Why |\n|:--|---|---|\n| 0 | [0.5, 2] | left |\n| 1 | [1, 1] | r |",
    "a table with another number": "| State | dx | grip | far |\n|---|---|---|---|\n| 0 | 0.5 | 2 | 0.1 |",
    "YAML": "```yaml\nadvice:\n  - state: 0\n    action: [0.5, 2]\n    reason: r\n  - state: 1\n    action:\n"
    "      - 1\n      - 1\n  - state: 2\n    action: null\n```",
    "YAML by the state's name": "State 0:\n  action: [0.5, 2]\nState 1:\n  action: [1, 1]\n",
    "YAML that breaks off": "- state: 0\n  action: [0.5, 2]\n- state: 1\n  action: [1, 0.",
    "YAML without items": "state: 0\naction: [0.5, 2]\nstate: 1\naction: [1, 1]\n",
    "a draft in lines, then JSON that is cut off": 'State 0: [0, 0]\nSo:\n{"advice": [{"state": 0, "action": le',
    "words for each state": "State 0: the gripper is above the puck.\nI cannot help.",
    "an answer, then a part of it corrected": f'{ALL}\nCorrection: {{"advice": [{{"state": 2, "action": [0, 0]}}]}}',
    "a draft, then an answer about less": f'{ALL}\nFinal answer: {{"advice": [{I1}]}}',
    "an answer, then a piece of advice in words": f"{ALL}\nadvice: keep it open.",
    "a list that begins without its brace": '{"advice": ["state": 0, "action": [0.5, 2]}, ' + I1 + "]}",
    "a table": "| state | dx | grip |\n|---|---|---|\n| 0 | 0.5 | 2 |",
    "an empty list": '{"advice": []}',
    "the prompt's example": '{"advice": [{"state": 0, "action": [<number>, <number>]}, ...]}',
}
# What is meant, where it is not what ITEMS say.
MEANT = {
    "a minus that no keyboard has": {0: [-0.5, 2]},
    "an answer, then one state again": {2: [0, 0]},
    "an answer, then a part of it corrected": {2: [0, 0]},
}


def parse(items: Any, indices: tuple[int, ...] = (0, 1, 2), space: spaces.Box = ACTION_SPACE) -> ParsedAnswer:
    return parse_answer(json.dumps({"advice": items}), indices, space)


def test_good_answer() -> None:
    parsed = parse([{"state": 2, "action": [0.5, 4], "reason": "r"}, {"state": 0, "action": [-1, 5]}])
    assert parsed.rejected == ()
    assert sorted(parsed.actions) == [0, 2]
    np.testing.assert_array_equal(parsed.actions[2], np.array([0.5, 4.0], np.float32))
    assert parsed.actions[2].dtype == np.float32


@pytest.mark.parametrize("name", [*ANSWERS, *SLIPS])
def test_answer(name: str) -> None:
    accepted, rejected = page_table("What a model may say")[name]
    parsed = parse_answer({**ANSWERS, **SLIPS}[name], (0, 1, 2), ACTION_SPACE, ("dx", "grip"))
    assert (", ".join(map(str, sorted(parsed.actions))) or "none") == accepted
    reasons = dict.fromkeys(rejection.reason for rejection in parsed.rejected)
    assert (", ".join(f"`{reason}`" for reason in reasons) or "none") == rejected
    if reasons.keys() & {"not_json", "no_advice"} or (not parsed.actions and "truncated" in reasons):
        assert [rejection.state for rejection in parsed.rejected] == [0, 1, 2]
    if 1 in parsed.actions:
        np.testing.assert_array_equal(parsed.actions[1], [1, 1])
    if name in SLIPS:
        expected = {0: [0.5, 2], 1: [1, 1], 2: [-1, 5], **MEANT.get(name, {})}
        for state, action in parsed.actions.items():
            np.testing.assert_allclose(action, expected[state])
    check_sound(parsed, (0, 1, 2), ACTION_SPACE)


def test_the_page_has_all_answers() -> None:
    assert list(page_table("What a model may say")) == [*ANSWERS, *SLIPS]


def test_a_hair_outside_is_clipped() -> None:
    np.testing.assert_array_equal(parse([{"state": 0, "action": [1.01, -0.04]}]).actions[0], [1, 0])


def test_state_that_was_not_asked_in_this_request_is_unknown() -> None:
    assert parse([{"state": 0, "action": [0, 0]}], indices=(16, 17)).rejected == (Rejection("unknown_state"),)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(16, None), (0, "counted_from_1"), (1, "counted_from_1"), (17, "unknown_state"), (7, "unknown_state")],
)
def test_the_only_state_of_a_request_may_be_called_the_first(number: int, reason: str | None) -> None:
    parsed = parse([{"state": number, "action": [0.5, 1]}], indices=(16,))
    assert list(parsed.actions) == ([] if reason == "unknown_state" else [16])
    assert [rejection.reason for rejection in parsed.rejected] == ([] if reason is None else [reason])


def test_action_space_of_several_dimensions_is_answered_flat() -> None:
    parsed = parse([{"state": 0, "action": [1, 2, 3, 4]}], space=spaces.Box(0, 5, (2, 2)))
    np.testing.assert_array_equal(parsed.actions[0], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "pattern",
    [
        "<think>",
        '{"advice":[{"state":',
        '{"state":0,"action":[0',
        '{"state":0,"action":[0],',
        "</think>{",
        "x",
        "{",
        '{"',
        '{"a":',
        '{"a":[1,',
        "{}",
        '{"advice":[',
        '{"advice":[[],',
        '{  \n"',
        '{"a":"{',
        "9",
        "[]",
        " ",
        "State 0: [",
        "State 0: [0, 0]\n",
        "State 0: " + " " * 1000,
        "| state | 0 |\n",
        "|[0,",
        "- state: 0\n",
        "state: [[\n",
        "* * ",
    ],
)
def test_time_for_50_megabytes_is_bounded(pattern: str) -> None:
    text = pattern * (50_000_000 // len(pattern))
    started = time.process_time()
    parse_answer(text, range(16), ACTION_SPACE)
    parse_answer('{"advice":[' + text, range(16), ACTION_SPACE)
    assert time.process_time() - started < 5


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


_LINES = (
    *(
        "|---|",
        "|:-|-|",
        "|",
        "||",
        "| state | action |",
        "| state |",
        "| 0 | [0.5, 2] |",
        "| State 1 | null |",
        "| 2 |",
    ),
    *("State 0: [0.5, 2]", "state 1: null", "- state: 2", "  action: [0, 1]", "advice:", "```", "```yaml", "words", ""),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(_LINES), max_size=8), boxes)
def test_any_lines_of_a_table_or_of_yaml_are_survived(lines: list[str], space: spaces.Box) -> None:
    check_sound(parse_answer("\n".join(lines), (0, 1, 2), space), (0, 1, 2), space)


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


def test_states_that_may_be_counted_from_1_are_refused() -> None:
    """Nobody can tell whether 1 is the first or the second of the states that were asked about."""
    for states in ((1, 2, 6), (2, 4, 5, 6)):
        parsed = parse([{"state": state, "action": [0, 0]} for state in states], tuple(range(6)))
        assert parsed.actions == {}
        assert {(r.reason, r.state) for r in parsed.rejected} == {("counted_from_1", state) for state in range(6)}
    parsed = parse([{"state": state, "action": [0, 0]} for state in (1, 2, 5)], tuple(range(6)))
    assert sorted(parsed.actions) == [1, 2, 5]


def test_states_of_the_second_request_that_were_counted_from_1() -> None:
    parsed = parse([{"state": state, "action": [state / 40, 0]} for state in range(17, 33)], tuple(range(16, 32)))
    assert sorted(parsed.actions) == list(range(16, 32))
    assert parsed.actions[16][0] == pytest.approx(17 / 40)
    assert parsed.rejected == (Rejection("counted_from_1"),)


@pytest.mark.parametrize("cut", range(0, len(ALL), 3))
def test_an_answer_that_is_cut_off_anywhere(cut: int) -> None:
    """What is there is what was meant, and the rest is no abstention."""
    parsed = parse_answer(ALL[:cut], (0, 1, 2), ACTION_SPACE)
    for state, action in parsed.actions.items():
        np.testing.assert_allclose(action, [[0.5, 2], [1, 1], [-1, 5]][state])
    rejected = {rejection.state for rejection in parsed.rejected}
    assert {0, 1, 2} <= rejected | set(parsed.actions)
    n_whole = sum(ALL.index(item) + len(item) <= cut for item in ITEMS)
    assert len(parsed.actions) >= n_whole


@pytest.mark.parametrize(
    "text", ["\n".join(ITEMS[:2]), "State 0: [0.5, 2]\nState 1: [1, 1]", "- state: 0\n  action: [0.5, 2]"]
)
def test_what_is_known_to_be_cut_off_abstains_from_nothing(text: str) -> None:
    assert parse_answer(text, (0, 1, 2), ACTION_SPACE).rejected == ()
    parsed = parse_answer(text, (0, 1, 2), ACTION_SPACE, is_cut=True)
    assert {0, 1, 2} == {rejection.state for rejection in parsed.rejected} | set(parsed.actions)
    assert {rejection.reason for rejection in parsed.rejected} == {"truncated"}
    # Where an item has no end of its own, nobody knows whether the last one is there to its end.
    assert sorted(parsed.actions) == {"{": [0, 1], "S": [0], "-": []}[text[0]]


NOT_PLAIN = [
    "State 0: executed action: [0.1, 0.2]",
    "State 0: executed action: [0.1, 0.2]\nAdvice: [0.5, 2]",
    "State 0: [0.1, 0.2] is wrong",
    "State 0: [0.1, 0.2] is the observation, so I advise 0.5 and 2",
    "State 0: [0.1, 0.2]?",
    "State 0: [0.5, 2] * 0.5",
    "State 0: [0.5, 2]e-1",
    "State 0: [0.5, 2]/2",
    "State 0: [0.1, 0.2] + noise",
    "State 0: [0.1, 0.2] \u2192 dx 0.5, grip 2",
    "State 0: [0.1, 0.2] \u2192 [\u22120.5, 2]",
    'State 0: [0.1, 0.2] \u2192 {"dx": 0.5, "grip": 2}',
    "State 0: [0.1, 0.2] better <0.5, 2>",
    "State 0: [0.9, 2]\n  Correction: [0.5, 2]",
    "State 0: [0.1, 0.2]\nAction: [0.5, 2]",
    "State 0 = [0.1, 0.2]\nAction 0 = [0.5, 2]",
    "Observations:\nState 0: [0.1, 0.2]\nI cannot advise anything.",
    "State 0: [0.5, 2]\nExpected next positions:\nState 0: [0.2, 0.3]",
    "| State | Executed action | Advice |\n|---|---|---|\n| 0 | [0.1, 0.2] | null |",
    "| State | Observation | Action |\n|---|---|---|\n| 0 | [0.1, 0.2] | 0.5, 2 |",
    "| State | Observation |\n|---|---|\n| 0 | [0.1, 0.2] |",
    "| State | Action |\n|---|---|\n| 0 | [0.5, 2] |\n\nSo:\n| State | Next position |\n|---|---|\n| 0 | [0.1, 0.2] |",
    "| State | grip | dx |\n|---|---|---|\n| 0 | 2 | 0.1 |\n\n| State | dx | grip |\n|---|---|---|\n| 0 | 0.5 | 1 |",
    "| State | dx | grip | dx | grip |\n|---|---|---|---|---|\n| 0 | 0.5 | 2 | 0.6 | 2 |",
    "State 1: [0.5, 2]\nState 2: move left\nState 3: [-1, 5]",
    "State 0: [0.9, 2]\nFinal answer: State 0: [0.5, 2]",
    "State 0: [0.9, 2]\nState 0 (approach): [0.5, 2]",
    "State 0: [0.9, 2]\n0: [0.5, 2]",
    "State 0: [0.9, 2]\n\n- state: 0\n  action: [0.5, 2]",
    "State 0: [0.9, 2]\nState 0: [0.5, 2]",
    "- state: 0\n  action: [0.9, 2]\nNo, better:\n- state: 0\n  action: left",
    "- state: 0\n  action: [0.5, 2]\n  action: [0.6, 2]",
    "- state: 0\n  action: &a [0.5, 2]\n- state: 1\n  action: *a",
    "advice:\n- index: 0\n  action: [0.9, 2]\n  index: 1\n  action: [1, 1]",
    "state 0:\n  action: [0.5, 2]\n  state 1:\n  action: [1, 1]",
    "<think>\nState 0: [0.9, 2]\n</think>\nI would leave all as it is.",
    "State 0: [0.5, 2]\nState 1 (grasp): [1, 1]",
    "State 0: [0.5, 2]\nAll other states: [0, 0]",
    "State 0: [0.5, 2] State 1: dx=1, grip=1",
    "State 0:\nI would do [0.5, 2].\n\nState 1:\nHold.",
    "State 0:\n\nI am sorry, I cannot see",
    "- state: 0\n  action: [0.5, 2",
    "- state: 0: 1",
    '- state: 0\n  reason: "\\U00110000"\n  action: [0.5, 2]',
    "| 0 | [0.5, 2] |",
    "State 0: [0.1, 0.2]\n```\nState 0: [0.5, 2]\n```",
]


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_what_is_not_beyond_doubt_is_not_read(text: str) -> None:
    """An observation, a draft or what comes of it is no advice, and nobody abstains by being misunderstood."""
    parsed = parse_answer(text, (0, 1, 2), ACTION_SPACE, ("dx", "grip"))
    assert parsed.actions == {}
    assert {rejection.state for rejection in parsed.rejected} >= {0, 1, 2}


@pytest.mark.parametrize("digit", ["\N{SUPERSCRIPT TWO}", "\N{CIRCLED DIGIT ONE}"])
def test_digits_that_are_no_numbers(digit: str) -> None:
    parsed = parse_answer(f"- state: {digit}\n  action: [0, 0]", (0, 1, 2), ACTION_SPACE)
    assert {rejection.reason for rejection in parsed.rejected} == {"not_json"}


PLAIN = (
    "Here it is:\n\nState 0: [0.5, 2]\nState 1: [1, 1]; hold\n- State 2: [-1, 5]\n\nGood luck!",
    "| State | Action | Why |\n|---|---|---|\n| 0 | [0.5, 2] | left |\n| 1 | [1, 1] | |\n| 2 | [-1, 5] | up |",
    "| state | dx | grip |\n|---|---|---|\n| 0 | 0.5 | 2 |\n| 1 | 1 | 1 |\n| 2 | -1 | 5 |\n",
    "```yaml\n- state: 0\n  action: [0.5, 2]\n- state: 1\n  action: [1, 1]\n- state: 2\n  action:\n  - -1\n  "
    "- 5\n```\n",
)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_answers_that_are_cut_off_anywhere(text: str) -> None:
    assert sorted(parse_answer(text, (0, 1, 2), ACTION_SPACE, ("dx", "grip")).actions) == [0, 1, 2]
    for cut in range(len(text)):
        parsed = parse_answer(text[:cut], (0, 1, 2), ACTION_SPACE, ("dx", "grip"), is_cut=True)
        for state, action in parsed.actions.items():
            np.testing.assert_allclose(action, [[0.5, 2], [1, 1], [-1, 5]][state])
        assert {rejection.state for rejection in parsed.rejected} | set(parsed.actions) >= {0, 1, 2}


def test_states_from_1_are_noticed_beside_one_that_nobody_can_read() -> None:
    text = ALL.replace('"state": 2, "action": [-1, 5]', '"state": 3, "action": [-1, 5]')
    text = text.replace('"state": 1, "action": [1, 1]', '"state": 2, "action": left')
    text = text.replace('"state": 0', '"state": 1')
    parsed = parse_answer(text, (0, 1, 2), ACTION_SPACE)
    assert {state: action.tolist() for state, action in parsed.actions.items()} == {0: [0.5, 2], 2: [-1, 5]}


@pytest.mark.parametrize(
    "text",
    [
        '{"advice": [{"state": 0, "action": [' + "0.5, " * 30,
        '{"advice": [{"state": 0, "action": [' + "0.5, " * 30 + "m]}]}",
        '{"advice": [{"state": 0, "action": [' + " " * 3000 + "x",
        '{"advice": [{"state": 0, "action": {' + ", ".join(f"a{i}: 0.5" for i in range(30)),
        "State 0: [1]\nState 1: [" + " " * 15_000,
        "State 0: [" + "0.5, " * 30,
        "| state | a |\n|---|---|\n" + ("| 0 | " + " " * 290 + " x |\n") * 60,
    ],
    ids=range(7),
)
def test_time_for_what_breaks_off_is_bounded(text: str) -> None:
    started = time.process_time()
    parse_answer(text, (0, 1, 2), ACTION_SPACE)
    assert time.process_time() - started < 2


def test_one_number_for_one_component() -> None:
    space = spaces.Box(-1, 1, (1,))
    for action in (0.5, "0.5", [0.5], [[0.5]]):
        np.testing.assert_allclose(parse([{"state": 0, "action": action}], space=space).actions[0], [0.5])


def values(text: str, indices: tuple[int, ...] = (0, 1, 2)) -> dict[int, list[float]]:
    parsed = parse_answer(text, indices, ACTION_SPACE, ("dx", "grip"))
    return {state: np.round(action, 4).tolist() for state, action in parsed.actions.items()}


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("[- 0.5, 1]", [-0.5, 1]),
        ("[\u22120.5, 1]", [-0.5, 1]),
        ("[\u20130.5, 1]", [-0.5, 1]),
        ("[-(0.5), 1]", None),
        ("[-+0.5, 1]", None),
        ("{dx:-0.25,grip:2.25}", [-0.25, 2.25]),
        ('{"dx": -0.25, "grip" 2.25}', None),
        ("[0.5, 1", None),
        ("[0.15, 1.5}", None),
        ("(0.5, 1)", None),
        ("[0.5 to 0.6, 1]", None),
        ("[2*0.25, 1]", None),
        ("[50%, 1]", None),
        ("0.5", None),
    ],
)
def test_no_number_is_read_as_another(action: str, expected: list[float] | None) -> None:
    assert values(item(action)).get(0) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"advice": [{"state": 1, "executed_action": [0.1, 0.2], "action": [0.35, 0.2',
        '{"advice": [{"state": 1, "executed_action": [0.1, 0.2],',
        '{"advice": [{"state": 1, "reason": "the action: go up", "action": [0.35, 0.2',
        '{"advice": [{"state": 1, "action": (0.15, 1',
        '{"advice": [{"state": 0 and 1, "action": [0.1, 1]}]}',
        '{"advice": [{"state": 0, "action": [0.1, 1], "state": 1, "action": [0.2, 2]}]}',
        '{"advice": [{"state": ' + "1" * 5000,
    ],
)
def test_what_is_cut_off_or_ambiguous_is_nobody_s_action(text: str) -> None:
    parsed = parse_answer(text, (0, 1, 2), ACTION_SPACE)
    assert parsed.actions == {}
    assert {rejection.state for rejection in parsed.rejected} >= {0, 1, 2}


def test_an_action_stays_with_its_state() -> None:
    text = '[{"state": 0, "action": [0.15, 1.5}, {"id": 1, "action": [-0.25, 2.5]}]'
    assert values(text) == {1: [-0.25, 2.5]}


@pytest.mark.parametrize(
    ("final", "expected"),
    [
        ('{"advice": []}', {}),
        ('{"advice": null}', {}),
        ('{"advice": {"state": 0, "action": [0, 0]}}', {0: [0, 0]}),
        ('{"state_0": [0, 0]}', {0: [0, 0]}),
        ('{"advice": [{"id": 0, "action": [0, 0]}]}', {0: [0, 0]}),
        ('{"advice": [{"state": 0.0, "action": [0, 0]}]}', {0: [0, 0]}),
        ('{"adv', {}),
        ('{"advice": [', {}),
        ('[{"st', {}),
        ("advice:\n- state: 0\n  action: [0, 0]", {}),
        ("I would not change it.", {0: [0.5, 2], 1: [1, 1], 2: [-1, 5]}),
        ('Note {"state": 1, "observation": [1, 2]} is odd.', {0: [0.5, 2], 1: [1, 1], 2: [-1, 5]}),
    ],
)
def test_a_draft_does_not_stand_in_for_an_answer(final: str, expected: dict[int, list[float]]) -> None:
    assert values(f"{ALL}\nNo, better:\n{final}") == expected


@pytest.mark.parametrize(
    "broken",
    ['{"state" 1, "action": [0, 0]}', '{"stat": 1, "action": [0, 0]}', '{state": 1, "action": [0, 0]}'],
)
def test_a_line_that_nobody_can_read_is_no_abstention(broken: str) -> None:
    parsed = parse_answer(f"{I0}\n{broken}\n{I2}", (0, 1, 2), ACTION_SPACE)
    assert {0, 2} <= set(parsed.actions)
    assert 1 in {rejection.state for rejection in parsed.rejected} or parsed.actions[1].tolist() == [0, 0]


@pytest.mark.parametrize("key", ["foo", "executed_action", "advice"])
def test_an_action_under_a_key_that_nobody_knows_is_no_abstention(key: str) -> None:
    parsed = parse_answer(f'{{"advice": [{{"state": 0, "{key}": [0.5, 2]}}]}}', (0,), ACTION_SPACE)
    assert parsed.actions or [rejection.state for rejection in parsed.rejected] == [0]


@pytest.mark.parametrize(
    "text",
    [
        '{"state": 0, "action": [0.1, 1]} so ' * 4000,
        " so ".join(f'{{"state": {i}, "action": [0.1, 1]}}' for i in range(5000)),
        "".join(f'{{"advice":[{{"state":{i},"action":[0,0]}}]}}' for i in range(4000)),
        '{"state":0,"x":[' * 480 + "1," * 95_000,
        '{"state":' * 22_000,
        '{"a":[' * 60 + "1," * 95_000,
        "{'r': " + "{" * 1900,
        f'{{"advice": [{I0}]}} {{' + " " * 100_000 + "!",
        f'{{"advice": [{I0}]}} ' + '"' * 100_000,
        f'{{"advice": [{I0}]}} ' + "\\" * 100_000,
        f'{{"advice": [{I0}]}} ' + "\n" * 100_000 + "!",
        '{"advice": [{"state": "' + " " * 100_000 + '", "action": [0.5, 1]}]}',
    ],
    ids=range(12),
)
def test_time_for_long_answers_is_bounded(text: str) -> None:
    started = time.process_time()
    parse_answer(text, range(16), ACTION_SPACE)
    assert time.process_time() - started < 5


def test_what_was_not_looked_at_is_no_abstention() -> None:
    parsed = parse_answer(f"{I0}\n" + '{"a ' * 200 + I2, (0, 1, 2), ACTION_SPACE)
    assert sorted(parsed.actions) == [0]
    assert {1, 2} <= {rejection.state for rejection in parsed.rejected}
