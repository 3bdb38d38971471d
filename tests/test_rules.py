"""The rules language: what it means, that it never raises, hangs or escapes, and what it can be about."""

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_language import (
    ACTIONS,
    GOOD,
    OBSERVATIONS,
    SHEET,
    STATE,
    parse,
    rejection,
    rule,
    rules_of,
    sheet_of,
    value,
)

from sb3_varl import ArgumentError, ObservationSlice, Rules, TaskSheet

# ---- What expressions mean


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0.25", 0.25),
        ("gripper_position[1] + opening / 2", 0.45),
        ("gripper_position[-1]", 0.3),
        ("-gripper_position[0] * 2 - +0.1", -0.3),
        ("gripper_position[0] ** 2", 0.01),
        ("0.04 ** 0.5", 0.2),
        ("abs(-0.5)", 0.5),
        ("sign(-0.1) + sign(0) + 2 * sign(opening)", 1),
        ("sign(-puck)[0]", -1),
        ("min(0.5, 0.25, 0.75)", 0.25),
        ("max(gripper_position)", 0.3),
        ("min(puck - 0.75)", 0.25),
        ("clip(puck[1], -1, 0.5)", 0.5),
        ("sqrt(0.25)", 0.5),
        ("sin(0.1) * sin(0.1) + cos(0.1) * cos(0.1) - 0.5", 0.5),
        ("atan2(0.1, 1)", math.atan2(0.1, 1)),
        ("norm(gripper_position[0:2])", math.hypot(0.1, 0.2)),
        ("distance(puck, [1, 1.5])", 0.5),
        ("dot(gripper_position, [1, 1, 1])", 0.6),
        ("0.5 if opening > 0.4 else 0.25", 0.5),
        ("(0.5 if opening > 0.6 else 0.25) * true", 0.25),
        ("velocity(gripper_position)[1]", -0.05),
        ("(puck - [0.5, 1.5])[0]", 0.5),
        ("(-puck / 4)[1]", -0.5),
        ("(gripper_position if opening < 0 else [0.7, 0.8, 0.9])[2]", 0.9),
        ("1 - (0 < opening <= 0.5)", 0.0),
        ("norm(clip(puck, 0, 0.5)) - dot(puck, [0, 0])", math.hypot(0.5, 0.5)),
        (0.5, 0.5),
        (" \n 0.5", 0.5),
    ],
)
def test_expressions(expression, expected):
    assert value(expression) == pytest.approx(expected, abs=1e-6)
    # The same in a batch.
    actions, which = rules_of(rule(expression, "0")).batch(np.stack([STATE] * 3))
    np.testing.assert_allclose(actions, [[expected, 0]] * 3, atol=1e-6)
    assert which.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("true", True),
        ("True", True),
        ("false", False),
        (True, True),
        (False, False),
        (None, True),
        ("", True),
        ("otherwise", True),
        (1, True),
        ("opening == 0.5 and puck[0] != 2", True),
        ("opening >= 0.5 and not (puck[0] > 2 or false)", True),
        ("opening < 0.5 || puck[1] < 1", False),
        ("opening > 0.4 && puck[1] > 1", True),
        ("opening", True),
        ("opening - 0.5", False),
        ("0.4 < opening < 0.5", False),
        # What is not looked at has no need of a value.
        ("puck[0] > 0 or 1 / (puck[0] - 1) > 0", True),
        ("puck[0] < 0 and sqrt(-puck[0]) > 0", False),
    ],
)
def test_conditions(condition, expected):
    rules = rules_of({**rule("0.5", "0"), "when": condition})
    assert not rules.rejected
    assert (rules(STATE) is not None) == expected
    assert (rules.batch(STATE[None])[1][0] == 0) == expected


def test_the_first_rule_that_holds_gives_the_action():
    rules = rules_of(
        rule("0.1", "0", when="puck[0] > 5"),
        rule("0.2", "0", when="puck[0] > 0.5"),
        rule("0.3", "0"),
    )
    assert rules.which(STATE) == 1
    np.testing.assert_allclose(rules(STATE), [0.2, 0])
    assert rules(STATE).dtype == np.float32
    assert rules.which(np.zeros(9)) == 2
    assert len(rules) == 3


@pytest.mark.parametrize("text", [None, 3, b"{}", {"rules": []}])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(ArgumentError, match="expected a text with rules in it"):
        Rules.parse(text, SHEET, OBSERVATIONS, ACTIONS)


def test_pi_is_a_number_that_a_name_goes_before():
    rules = rules_of(rule("pi / 4", "sin(pi / 2)"))
    np.testing.assert_allclose(rules(STATE), [np.pi / 4, 1], rtol=1e-6)
    rules = rules_of(rule("pi", "0", let={"pi": "0.5"}))
    np.testing.assert_allclose(rules(STATE), [0.5, 0])


def test_numbers_stay_finite_and_whole_in_any_action_space():
    text = json.dumps({"rules": [rule("1e300", "-1e300")]})
    rules = Rules.parse(text, SHEET, OBSERVATIONS, spaces.Box(-np.inf, np.inf, (2,), np.float32))
    assert np.isfinite(rules(STATE)).all()
    assert np.isfinite(rules.batch(STATE[None])[0]).all()
    text = json.dumps({"rules": [rule("1.9", "-0.6")]})
    rules = Rules.parse(text, SHEET, OBSERVATIONS, spaces.Box(-3, 3, (2,), np.int64))
    assert rules(STATE).tolist() == rules.batch(STATE[None])[0][0].tolist() == [2, -1]


def test_no_rule_holds_or_there_is_no_advice():
    rules = rules_of({"name": "leave it", "when": "puck[0] > 0.5", "action": None}, rule("1", "1", when="puck[0] > 0"))
    assert rules(STATE) is None
    assert rules.which(STATE) == 0
    assert rules.which(np.full(9, -1)) is None
    assert rules(np.full(9, -1)) is None
    actions, which = rules.batch(np.stack([STATE, np.full(9, -1), np.full(9, 0.25)]))
    assert which.tolist() == [0, -1, 1]
    assert np.isnan(actions[:2]).all()


def test_actions_are_clipped_and_may_be_vectors():
    rules = rules_of(rule("100 * (puck - [1.5, 1.5])"))
    assert rules(STATE).tolist() == [-1, 1]
    rules = parse('{"rules": [{"when": "true", "action": "[0.5, opening]"}]}')
    assert rules(STATE).tolist() == [0.5, 0.5]
    rules = parse('{"rules": [{"when": "true", "action": {"DY": "0.25", "dx": 1}}]}')
    assert rules(STATE).tolist() == [1, 0.25]


def test_definitions_serve_their_rule_and_those_after_it():
    rules = rules_of(
        {"let": {"gap": "puck - gripper_position[0:2]"}},
        rule("gap[0] / 10", "twice / 100", let={"twice": "2 * gap[1]"}, when="norm(gap) > 100"),
        rule("gap[0] / 10", "twice / 100"),
    )
    assert not rules.rejected
    np.testing.assert_allclose(rules(STATE), [0.09, 0.036], rtol=1e-5)
    again = parse(rules.text)
    assert again == rules
    text = '{"let": {"far": "puck[0] > 0.5"}, "rules": [{"when": "far", "action": ["0.5", "0"]}]}'
    assert parse(text)(STATE)[0] == 0.5


def test_all_that_is_wrong_with_a_rule_is_told_at_once():
    rules = rules_of(rule("pluck[0]", "cos(1, 2)", when="gap > pluck[0]"), rule("gap", "gap"), rule("0.5", "0"))
    assert [lost.text.partition(",")[0] for lost in rules.rejected] == [
        *("there is no gap", "there is no pluck", "cos(a number"),
        "there is no gap",
    ]
    assert rules(STATE)[0] == 0.5


def test_what_a_lost_rule_defined_others_may_use():
    rules = rules_of(rule("nothing", "0", let={"a": "0.5"}), rule("a", "0"))
    assert [lost.reason for lost in rules.rejected] == ["unknown_name"]
    assert rules(STATE)[0] == 0.5
    assert parse(rules.text)(STATE)[0] == 0.5


def test_velocity_is_the_change_since_the_observation_before():
    rules = rules_of(rule("velocity(opening)", "velocity(puck)[1]"))
    before = STATE.copy()
    before[4:6] = [1.75, 0.25]
    np.testing.assert_allclose(rules(STATE, before), [0.25, 0.25])
    actions, _ = rules.batch(np.stack([STATE] * 2), np.stack([before, STATE]))
    np.testing.assert_allclose(actions, [[0.25, 0.25], [0, 0]])
    # It is not known what it was.
    assert rules(STATE) is None
    assert rules.batch(STATE[None])[1].tolist() == [-1]


def test_velocity_of_a_name_that_is_spelt_otherwise():
    sheet = dataclasses.replace(SHEET, observation=(ObservationSlice("hand", 0, 1, before=1), *SHEET.observation[1:3]))
    rules = parse('{"rules": [{"when": "true", "action": ["velocity(Hand)", "velocity(OPENING) + 0.5"]}]}', sheet)
    np.testing.assert_allclose(rules(STATE, STATE), [-0.1, 0.5], atol=1e-6)
    assert rejection(rule("velocity(Puck)", "0", let={"Puck": "1"})).reason == "wrong_arguments"


def test_rules_that_can_decide_in_no_state():
    rules = rules_of(
        rule("0", "0", when="1 > 2"), rule("1", "0", when="opening > 9"), rule("0.5", "0"), rule("0", "0", name="late")
    )
    assert rules.rejected == ()
    assert rules.idle == [
        "go: 1 > 2 holds in no state. Have it compare numbers of the observation",
        "late: it comes after go, which always holds. Put it before that one",
    ]


def test_dict_observations():
    sheet = TaskSheet("Go.", (), (ObservationSlice("a", 1, 2, key="x"), ObservationSlice("b c", 0, 2, key="y")))
    space = spaces.Dict({"x": spaces.Box(-1, 1, (2,)), "y": spaces.Box(-1, 1, (1, 2)), "z": spaces.Box(-1, 1, (3,))})
    rules = parse('{"rules": [{"when": "true", "action": ["a", "b_c[1]"]}]}', sheet, space)
    observation = {"x": np.array([0, 0.25]), "y": np.array([[0, 0.5]]), "z": np.zeros(3)}
    assert rules(observation).tolist() == [0.25, 0.5]
    batch = {key: np.stack([part, -part]) for key, part in observation.items()}
    assert rules.batch(batch)[0].tolist() == [[0.25, 0.5], [-0.25, -0.5]]


def test_copies():
    rules = rules_of(rule("nothing", "0"), {"let": {"a": "0.5"}}, rule("a", "0"))
    for other in (copy.deepcopy(rules), pickle.loads(pickle.dumps(rules))):
        assert other == rules
        assert other.rejected == rules.rejected
        assert other(STATE).tolist() == [0.5, 0]
    assert rules_of(rule("0", "0")) != rules


# ---- What has no value


@pytest.mark.parametrize(
    "expression",
    [
        "1 / (puck[0] - 1)",
        "sqrt(-puck[0])",
        "puck[0] * 1e308 * 10",
        "(puck[0] * 1e200) ** 2",
        "norm([puck[0] * 1e200, 0])",
        "0 * (1 / (opening - 0.5))",
        "clip(1e308 * puck[1], -1, 1)",
        "min(1, 1 / (puck[0] - 1))",
    ],
)
def test_what_has_no_value_is_no_advice_and_is_counted(expression):
    for rules in (rules_of(rule(expression, "0"), rule("1", "1")), rules_of(rule("0", "0", when=f"{expression} > 0"))):
        assert not rules.rejected
        assert rules(STATE) is None
        assert rules.which(STATE) is None
        actions, which = rules.batch(np.stack([STATE] * 2))
        assert which.tolist() == [-1, -1]
        assert np.isnan(actions).all()
        assert rules.undefined == {"go": 4}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_observations_that_are_not_finite(bad):
    rules = rules_of(rule("0.5", "0", when="opening > 0"), rule("puck[0]", "0"))
    state = STATE.copy()
    state[3] = bad
    assert rules(state) is None  # though nobody looks at it: a policy that learnt from such a state would be lost
    assert rules(STATE) is not None
    assert rules.batch(np.stack([state, STATE]))[1].tolist() == [-1, 0]
    assert rules.undefined == {"the observation": 2}


# ---- What the sheet has to be


@pytest.mark.parametrize(
    ("sheet", "space", "words"),
    [
        (None, OBSERVATIONS, ["task sheet", 'form="actions"']),
        (None, spaces.Box(0, 255, (3, 36, 36), np.uint8), ["is a picture", "AdvisorCallback(observe=...)"]),
        (TaskSheet("Go."), OBSERVATIONS, ["task sheet"]),
        (sheet_of(ObservationSlice("a b", 0, 1), ObservationSlice("A-b", 1, 2)), OBSERVATIONS, ["'a b' and 'A-b'"]),
        (
            sheet_of(ObservationSlice("a", 0, 3), ObservationSlice("b", 2, 4)),
            OBSERVATIONS,
            ["'a' (0 to 3) and 'b' (2 to 4)"],
        ),
        (sheet_of(ObservationSlice("?!", 0, 1)), OBSERVATIONS, ["'?!'", "Rename"]),
        (sheet_of(ObservationSlice("a", 2, 4, before=2)), OBSERVATIONS, ["'a' goes from 2 to 4", "begins at 2"]),
        (sheet_of(ObservationSlice("a", 2, 4, before=1)), OBSERVATIONS, ["begins at 1", "leave before out"]),
        (sheet_of(ObservationSlice("a", 0, 10)), OBSERVATIONS, ["0 to 10", "9 numbers"]),
        (sheet_of(ObservationSlice("a", 0, 2, before=8)), OBSERVATIONS, ["8 to 10"]),
        (sheet_of(ObservationSlice("a", 0, 2, key="x")), OBSERVATIONS, ["'x'"]),
        (sheet_of(ObservationSlice("a", 0, 2)), spaces.Dict({"x": OBSERVATIONS}), ["'x'"]),
        (sheet_of(ObservationSlice("a", 0, 2)), spaces.Box(0, 255, (3, 8, 8), np.uint8), ["image"]),
        (TaskSheet("Go.", SHEET.action[:1], SHEET.observation), OBSERVATIONS, ["1 action components"]),
    ],
)
def test_sheets_that_rules_cannot_be_about(sheet, space, words):
    with pytest.raises(ArgumentError) as error:
        parse(GOOD, sheet, space)
    for word in words:
        assert word in str(error.value)


def test_names_that_are_words_of_the_language():
    sheet = sheet_of(*(ObservationSlice(name, i, i + 1) for i, name in enumerate(["velocity", "lambda", "true", "3d"])))
    rules = parse('{"rules": [{"when": "true", "action": ["velocity + _lambda", "_true + _3d"]}]}', sheet)
    assert not rules.rejected
    np.testing.assert_allclose(rules(STATE), [0.3, 1])


def test_observations_of_another_environment():
    rules = parse(GOOD)
    for shapeless in ({}, np.float32(3), {"a": np.zeros(2), "b": np.zeros(3)}):
        with pytest.raises(ValueError, match="Expected an array whose first axis goes over observations"):
            rules.batch(shapeless)
    with pytest.raises(ValueError, match="of 9 numbers, got an array of shape \\(4,\\)"):
        rules(np.zeros(4))
    with pytest.raises(ValueError, match="an array, got"):
        rules({"x": np.zeros(9)})
    of_dict = parse(
        '{"rules": [{"when": "true", "action": ["a", "0"]}]}',
        sheet_of(ObservationSlice("a", 0, 1, key="x")),
        spaces.Dict({"x": spaces.Box(-1, 1, (2,))}),
    )
    with pytest.raises(ValueError, match="about an observation's 'x', got one that has 'y'"):
        of_dict({"y": np.zeros(2)})


# ---- Whatever a model writes

NUMBERS = st.floats(-1e6, 1e6).map(lambda x: f"{x:.6g}") | st.sampled_from(["0", "1", "1e308", "-1e-308"])


SCALARS = st.sampled_from(["gripper_position[0]", "puck[1]", "opening", "velocity(opening)", "previously[2]"]) | NUMBERS


VECTORS = st.sampled_from(["gripper_position", "previously", "[1, opening, puck[0]]", "velocity(gripper_position)"])


def _scalars(part):
    binary = st.sampled_from(["+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!=", "and", "or"])
    two = st.sampled_from(["min", "max", "atan2"])
    one = st.sampled_from(["abs", "sign", "sqrt", "sin", "cos", "not ", "-"])
    return (
        st.tuples(part, binary, part).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | st.tuples(two, part, part).map(lambda t: f"{t[0]}({t[1]}, {t[2]})")
        | st.tuples(one, part).map(lambda t: f"({t[0]}({t[1]}))")
        | st.tuples(part, part, part).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})")
        | st.tuples(part, part, part).map(lambda t: f"clip({t[0]}, {t[1]}, {t[2]})")
        | st.tuples(VECTORS, VECTORS, part).map(lambda t: f"distance({t[0]}, {t[1]} * {t[2]})")
        | st.tuples(VECTORS, VECTORS).map(lambda t: f"dot({t[0]}, {t[1]})")
    )


EXPRESSIONS = st.recursive(SCALARS, _scalars, max_leaves=12)


FINITE = st.floats(-1e3, 1e3, width=32)


ANY_NUMBER = FINITE | st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf, 3e38])


STATES = st.lists(st.lists(ANY_NUMBER, min_size=9, max_size=9), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(EXPRESSIONS, EXPRESSIONS, EXPRESSIONS), min_size=1, max_size=3), STATES)
def test_one_state_and_a_batch_agree(expressions, states):
    rules = rules_of(*(rule(first, second, when=when) for when, first, second in expressions))
    assert {lost.reason for lost in rules.rejected} <= {"undefined"}
    states = np.array(states, np.float32)
    previous = states[::-1].copy()
    for before in (None, previous):
        actions, which = rules.batch(states, before)
        for i, state in enumerate(states):
            was = None if before is None else before[i]
            single = rules(state, was)
            assert (rules.which(state, was) is None) == (which[i] == -1)
            if single is None:
                assert np.isnan(actions[i]).all()
            else:
                assert ACTIONS.contains(single)
                np.testing.assert_allclose(actions[i], single, rtol=1e-5, atol=1e-6)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("()[]{}\"':,.+-*/<>=!&|%@~ \n0123456789eprulsactionwhbgk_", max_size=200))
def test_any_text_is_read_without_an_exception(text):
    parse(text)
    parse(f'{{"rules": [{text}]}}')
    rules = rules_of({"name": text, "when": text, "action": [text, text], "let": {text: text}})
    rules(STATE)
    rules.batch(STATE[None])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["opening", "1"]),
    lambda part: (
        st.lists(part, max_size=4)
        | st.dictionaries(st.sampled_from(["rules", "name", "when", "action", "let", "dx", "dy"]), part, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_any_json_is_read_without_an_exception(content):
    for text in (json.dumps(content), json.dumps({"rules": content}), json.dumps({"rules": [content]})):
        rules = parse(text)
        action = rules(STATE)
        assert action is None or ACTIONS.contains(action)
        assert parse(rules.text).rules == rules.rules or not rules.rules
