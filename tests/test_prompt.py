"""From a query to a prompt, and from an answer's text to actions."""

import json
import time
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_varl.advice import (
    ActionComponent,
    AdviceQuery,
    Briefing,
    Observation,
    ObservationSlice,
    Rejection,
    TaskSheet,
    VisitedState,
)
from sb3_varl.prompt import ParsedAnswer, build_messages, parse_answer, system_prompt
from vlm_server import decode_image

ACTION_SPACE = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32))
OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (3,))
SHEET = TaskSheet(
    goal="The drawer is 10 cm open.",
    action=(ActionComponent("dx", "metres to the right"), ActionComponent("grip", "newtons, 0 is open")),
    observation=(ObservationSlice("hand", 0, 2, "metres"), ObservationSlice("drawer", 2, 3)),
    notes="The camera looks along -y.",
)


def make_query(*states: VisitedState, **briefing: Any) -> AdviceQuery:
    arguments = {"action_space": ACTION_SPACE, "observation_space": OBSERVATION_SPACE, **briefing}
    return AdviceQuery(0, 100, states, Briefing(**arguments))


def make_state(observation: Observation | None = None, frame: np.ndarray | None = None) -> VisitedState:
    if observation is None:
        observation = np.zeros(3, np.float32)
    return VisitedState(observation, np.zeros(2, np.float32), frame, step=99)


def parse(items: Any, indices: tuple[int, ...] = (0, 1, 2), space: spaces.Box = ACTION_SPACE) -> ParsedAnswer:
    return parse_answer(json.dumps({"advice": items}), indices, space)


# ---- The prompt


def test_system_prompt_says_what_the_sheet_knows() -> None:
    text = system_prompt(Briefing(ACTION_SPACE, OBSERVATION_SPACE, sheet=SHEET), "Open the drawer.")
    for line in (
        "Task: Open the drawer.",
        "Goal: The drawer is 10 cm open.",
        "- dx (metres to the right): from -1 to 1",
        "- grip (newtons, 0 is open): from 0 to 5",
        "- entries 0 to 1: hand (metres)",
        "- entries 2 to 2: drawer",
        "Notes: The camera looks along -y.",
        '{"advice": [{"state": 0, "action": [<dx>, <grip>]}, ...]}',
    ):
        assert line in text.splitlines()


def test_system_prompt_without_a_sheet() -> None:
    text = system_prompt(Briefing(ACTION_SPACE, OBSERVATION_SPACE), "Open the drawer.")
    assert "- action[0]: from -1 to 1\n- action[1]: from 0 to 5" in text
    assert "An observation is a list of 3 numbers." in text
    assert "Goal" not in text
    assert "Notes" not in text


def test_goal_is_not_said_twice() -> None:
    text = system_prompt(Briefing(ACTION_SPACE, OBSERVATION_SPACE, sheet=SHEET), SHEET.goal)
    assert text.count(SHEET.goal) == 1


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-np.inf, np.inf, "any number"),
        (-np.inf, 2.5, "at most 2.5"),
        (-0.25, np.inf, "at least -0.25"),
        (-0.1, 1e6, "from -0.1 to 1e+06"),
    ],
)
def test_bounds_are_told_as_they_are(low: float, high: float, words: str) -> None:
    text = system_prompt(Briefing(spaces.Box(low, high, (1,)), OBSERVATION_SPACE), "x")
    assert f"- action[0]: {words}\n" in text


@pytest.mark.parametrize(
    "sheet",
    [
        TaskSheet("x", action=(ActionComponent("dx"),)),
        TaskSheet("x", observation=(ObservationSlice("hand", 2, 4),)),
        TaskSheet("x", observation=(ObservationSlice("hand", 1, 1),)),
    ],
)
def test_sheet_that_does_not_fit_the_spaces(sheet: TaskSheet) -> None:
    with pytest.raises(ValueError, match="task sheet"):
        system_prompt(Briefing(ACTION_SPACE, OBSERVATION_SPACE, sheet=sheet), "x")


def test_state_lines_are_short_and_frames_follow_their_states() -> None:
    upside_down = np.zeros((20, 10, 3), np.uint8)
    upside_down[0] = 255
    query = make_query(
        make_state(np.array([0.123456, -1.0, 123456.7])),
        make_state(np.array([np.nan, np.inf, 1e-7]), frame=upside_down[::-1]),
        make_state(),
    )
    system, user = build_messages(query, (0, 1), "x", image_size=8)
    assert system["role"] == "system"
    first, second, picture = user["content"]
    assert first["text"] == '{"state": 0,"observation": [0.1235,-1,123500],"executed_action": [0,0]}'
    assert json.loads(second["text"])["observation"] == ["nan", "inf", 1e-7]
    image = decode_image(picture["image_url"]["url"])
    assert image.size == (4, 8)
    assert image.getpixel((0, 7)) > image.getpixel((0, 0))


def test_small_frames_are_not_scaled_up() -> None:
    query = make_query(make_state(frame=np.zeros((6, 4, 3), np.uint8)))
    picture = build_messages(query, (0,), "x", image_size=224)[1]["content"][1]
    assert decode_image(picture["image_url"]["url"]).size == (4, 6)


def test_without_frames_the_content_is_plain_text() -> None:
    content = build_messages(make_query(make_state(), make_state()), (0, 1), "x")[1]["content"]
    assert [json.loads(line)["state"] for line in content.splitlines()] == [0, 1]


def test_dict_observations_with_an_image() -> None:
    space = spaces.Dict({"camera": spaces.Box(0, 255, (8, 8, 3), np.uint8), "joints": spaces.Box(-1, 1, (2,))})
    observation = {"camera": np.zeros((8, 8, 3), np.uint8), "joints": np.array([0.5, -0.5])}
    system, user = build_messages(make_query(make_state(observation), observation_space=space), (0,), "x")
    assert "- camera: an image, not written out in numbers: see the picture\n" in system["content"]
    assert "- joints: a list of 2 numbers" in system["content"]
    assert json.loads(user["content"])["observation"] == {"camera": "see the picture", "joints": [0.5, -0.5]}


@pytest.mark.parametrize(
    ("space", "observation", "shown"),
    [
        (spaces.Box(0, 255, (3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8), "see the picture"),
        (spaces.Discrete(4), np.int64(3), 3),
        (spaces.MultiBinary(2), np.array([0, 1], np.int8), [0, 1]),
        (spaces.Box(-1, 1, (2, 2)), np.eye(2), [[1, 0], [0, 1]]),
    ],
)
def test_other_observations(space: spaces.Space, observation: Any, shown: Any) -> None:
    content = build_messages(make_query(make_state(observation), observation_space=space), (0,), "x")[1]["content"]
    assert json.loads(content)["observation"] == shown


# ---- The answer


def test_good_answer() -> None:
    parsed = parse([{"state": 2, "action": [0.5, 4], "reason": "r"}, {"state": 0, "action": [-1, 5]}])
    assert parsed.rejected == ()
    assert sorted(parsed.actions) == [0, 2]
    np.testing.assert_array_equal(parsed.actions[2], np.array([0.5, 4.0], np.float32))
    assert parsed.actions[2].dtype == np.float32


@pytest.mark.parametrize("item", [{"state": 1, "action": None}, {"state": 1, "reason": "unsure"}])
def test_abstentions_are_no_rejections(item: dict[str, Any]) -> None:
    assert parse([item]) == ParsedAnswer({}, ())


@pytest.mark.parametrize(
    "frame",
    [
        "```json\n{}\n```",
        "Let me see. Set {{0, 1}}: $\\frac{{a}}{{b}}$.\n\n{}\n\nThat is {{it}}.",
        'First {{"advice": [{{"state": 0, "action": [0, 0]}}]}}? No:\n{}',
        '{{"advice": [{{"state": 0, ... }} wait. {}',
    ],
)
def test_prose_around_the_json(frame: str) -> None:
    answer = '{"thought": {"a": 1}, "advice": [{"state": 1, "action": [1, 1]}]}'
    text = frame.replace("{{", "{").replace("}}", "}").replace("{}", answer)
    assert list(parse_answer(text, (0, 1), ACTION_SPACE).actions) == [1]


@pytest.mark.parametrize(
    ("item", "rejection"),
    [
        ({"state": 0, "action": [0]}, Rejection("wrong_shape", 0)),
        ({"state": 0, "action": [0, 0, 0]}, Rejection("wrong_shape", 0)),
        ({"state": 0, "action": [[0, 0]]}, Rejection("wrong_shape", 0)),
        ({"state": 0, "action": [[0], [0]]}, Rejection("not_numbers", 0)),
        ({"state": 0, "action": [True, 0]}, Rejection("not_numbers", 0)),
        ({"state": 0, "action": ["0.5", 0]}, Rejection("not_numbers", 0)),
        ({"state": 0, "action": [None, 0]}, Rejection("not_numbers", 0)),
        ({"state": 0, "action": "left"}, Rejection("not_numbers", 0)),
        ({"state": 0, "action": {"dx": 1, "grip": 0}}, Rejection("not_numbers", 0)),
        ({"state": 0, "action": [float("nan"), 0]}, Rejection("not_finite", 0)),
        ({"state": 0, "action": [0, float("-inf")]}, Rejection("not_finite", 0)),
        ({"state": 0, "action": [0, 5.2]}, Rejection("out_of_bounds", 0)),
        ({"state": 3, "action": [0, 0]}, Rejection("unknown_state")),
        ({"state": -1, "action": [0, 0]}, Rejection("unknown_state")),
        ({"state": "0", "action": [0, 0]}, Rejection("malformed_item")),
        ({"state": True, "action": [0, 0]}, Rejection("malformed_item")),
        ({"state": 0.0, "action": [0, 0]}, Rejection("malformed_item")),
        ({"action": [0, 0]}, Rejection("malformed_item")),
        ([0, 0], Rejection("malformed_item")),
        (None, Rejection("malformed_item")),
    ],
)
def test_bad_item_costs_only_itself(item: Any, rejection: Rejection) -> None:
    parsed = parse([item, {"state": 1, "action": [0, 0]}])
    assert parsed.rejected == (rejection,)
    assert list(parsed.actions) == [1]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000, "NaN"])
def test_numbers_that_are_none(number: str) -> None:
    text = f'{{"advice": [{{"state": 0, "action": [{number}, 0]}}, {{"state": 1, "action": [0, 0]}}]}}'
    parsed = parse_answer(text, (0, 1), ACTION_SPACE)
    assert parsed.rejected == (Rejection("not_finite", 0),)
    assert list(parsed.actions) == [1]


def test_a_hair_outside_is_clipped() -> None:
    np.testing.assert_array_equal(parse([{"state": 0, "action": [1.01, -0.04]}]).actions[0], [1, 0])


def test_first_of_two_items_for_a_state_counts() -> None:
    parsed = parse([{"state": 0, "action": [1, 1]}, {"state": 0, "action": [0, 0]}])
    assert parsed.rejected == (Rejection("duplicate_state", 0),)
    np.testing.assert_array_equal(parsed.actions[0], [1, 1])


def test_state_that_was_not_asked_in_this_request_is_unknown() -> None:
    assert parse([{"state": 0, "action": [0, 0]}], indices=(16, 17)).rejected == (Rejection("unknown_state"),)


def test_action_space_of_several_dimensions_is_answered_flat() -> None:
    parsed = parse([{"state": 0, "action": [1, 2, 3, 4]}], space=spaces.Box(0, 5, (2, 2)))
    np.testing.assert_array_equal(parsed.actions[0], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_json"),
        ("I would rather not.", "not_json"),
        ('{"advice": [{"state": 0, "action": [0, 0]}', "no_advice"),
        ('{"state": 0, "action": [0, 0]}', "no_advice"),
        ('{"advice": {"0": [0, 0]}}', "no_advice"),
        ("{}", "no_advice"),
        ("[" * 100_000, "not_json"),
        ('{"advice":' + "[" * 100_000, "not_json"),
        ('{"a":' * 1_000_000, "not_json"),
        ("\ud800\udfff{", "not_json"),
    ],
)
def test_unreadable_answer_is_rejected_for_each_state(text: str, reason: str) -> None:
    assert parse_answer(text, (4, 7), ACTION_SPACE) == ParsedAnswer({}, (Rejection(reason, 4), Rejection(reason, 7)))


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
