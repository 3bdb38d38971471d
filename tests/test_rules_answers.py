"""What is read of an answer with rules, and what is rejected and why."""

import dataclasses
import json
import pickle
import re
import sys
import time

import numpy as np
import pytest
from gymnasium import spaces
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

from sb3_varl import ActionComponent, ArgumentError, ObservationSlice, Rules
from sb3_varl.advice.types import Briefing, Episode
from sb3_varl.rules.answers import read_rules
from sb3_varl.rules.description import describe
from sb3_varl.rules.expressions import FUNCTIONS, MAX_DEPTH
from sb3_varl.rules.rule import outline

# ---- What is rejected, and why


@pytest.mark.parametrize(
    ("bad", "reason", "words"),
    [
        (rule("wrist", "0"), "unknown_name", ["wrist", "gripper_position, puck, opening"]),
        (rule("0", "0", when="wrist > 0"), "unknown_name", ["wrist"]),
        (rule("0"), "wrong_shape", ["1 component,", "expected 2: dx, dy"]),
        (rule("0", "0", "0"), "wrong_shape", ["3 components"]),
        (rule("gripper_position", "0"), "wrong_shape", ["4 components"]),
        (rule(), "wrong_shape", ["0 components"]),
        ({"when": "true"}, "wrong_shape", ["no action"]),
        ({"when": "true", "action": {"dx": 0}}, "wrong_shape", ["expected dx, dy"]),
        (rule("exp(1)", "0"), "unknown_function", ["exp", *FUNCTIONS]),
        (rule("__import__('os').system('true')", "0"), "unknown_function", []),
        (rule("__import__('os')", "0"), "unknown_function", ["__import__"]),
        (rule("puck.size", "0"), "not_allowed", ["puck.size"]),
        (rule("(lambda: 1)()", "0"), "unknown_function", []),
        (rule("[x for x in puck][0]", "0"), "not_allowed", []),
        (rule("(y := 1)", "0"), "not_allowed", []),
        (rule("'text'", "0"), "not_allowed", []),
        (rule("f'{1}'", "0"), "not_allowed", []),
        (rule("1j", "0"), "not_allowed", []),
        (rule("...", "0"), "not_allowed", []),
        (rule("None", "0"), "not_allowed", []),
        (rule("1 // 2", "0"), "not_allowed", []),
        (rule("1 << 62", "0"), "not_allowed", []),
        (rule("9 ** 9 ** 9", "0"), "not_allowed", ["9 ** 9", "product"]),
        (rule("2 ** puck[0]", "0"), "not_allowed", ["1 to 8"]),
        (rule("0", "0", when="opening is true"), "not_allowed", []),
        (rule("0", "0", when="opening in puck"), "not_allowed", []),
        (rule("clip(x=1)", "0"), "unknown_function", []),
        (rule("clip(1)", "0"), "wrong_arguments", ["clip(x, low, high)"]),
        (rule("min(1)", "0"), "wrong_arguments", ["min(a, b, ...)"]),
        (rule("norm()", "0"), "wrong_arguments", ["norm(list)"]),
        (rule("distance(puck, gripper_position)", "0"), "wrong_arguments", ["list of 2, a list of 3"]),
        (rule("dot(puck, 1)", "0"), "wrong_arguments", ["equal length"]),
        (rule("velocity(puck + 1)[0]", "0"), "wrong_arguments", ["one name"]),
        (rule("velocity(wrist)", "0"), "wrong_arguments", ["wrist"]),
        (rule("puck + gripper_position", "0"), "wrong_length", ["2 and 3"]),
        (rule("0", "0", when="puck > 0"), "not_a_number", ["list of 2"]),
        (rule("0", "0", when="puck"), "not_a_number", []),
        (rule("puck[2]", "0"), "bad_index", ["0 to 1"]),
        (rule("puck[opening]", "0"), "bad_index", []),
        (rule("puck[1:1]", "0"), "bad_index", []),
        (rule("puck[::2]", "0"), "bad_index", []),
        (rule("opening[0]", "0"), "no_vector", ["opening"]),
        (rule("1 +", "0"), "not_readable", ["at"]),
        (rule("1; 2", "0"), "not_readable", []),
        (rule("import os", "0"), "not_readable", []),
        (rule("a = 1", "0"), "not_readable", []),
        (rule("\x00", "0"), "not_readable", []),
        (rule("", "0"), "no_expression", []),
        (rule(None, "0"), "not_allowed", []),
        (rule({"a": 1}, "0"), "not_allowed", []),
        (rule("0", "0", when=[1]), "not_readable", ["[1]"]),
        (rule("1 / 0", "0"), "undefined", ["divided by zero", "every state"]),
        (rule("sqrt(-1)", "0"), "undefined", ["negative"]),
        (rule("1e999", "0"), "undefined", ["too large"]),
        (rule("9" * 10_000, "0"), "too_long", ["digits", "shorter"]),
        (rule(float("nan"), "0"), "undefined", ["NaN is no number", "null"]),
        (rule("inf", "0"), "undefined", ["inf is no number", "null"]),
        (rule("9" * 50, "0"), "too_long", ["digits"]),
        (rule("1 + " * 3000 + "1", "0"), "too_long", ["12001 characters", "let"]),
        (rule("(" * 150 + "1" + ")" * 150, "0"), None, []),
        (rule("-" * 3000 + "1", "0"), "too_deep", [str(MAX_DEPTH)]),
        (rule("(" * 1500 + "1" + ")" * 1500, "0"), None, []),
        (rule("abs(" * 150 + "1" + ")" * 150, "0"), "too_deep", ["let"]),
        (rule("puck[0]" + "[0]" * 1000, "0"), "too_deep", []),
        ("no object", "malformed_item", ["'no object'", "name, when and action"]),
        (rule("0", "0", let={"puck": "1"}), "name_taken", ["puck"]),
        (rule("0", "0", let={"a b": "1"}), "bad_name", ["'a b'"]),
        (rule("0", "0", let={"if": "1"}), "bad_name", []),
    ],
)
def test_rejections(bad, reason, words):
    good = {"name": "good", "when": "true", "action": ["0.5", "0"]}
    if reason is None:  # parentheses cost nothing, as far as Python reads them
        assert {lost.reason for lost in rules_of(bad).rejected} <= {"not_readable", "too_deep"}
        return
    rules = rules_of(bad, good)
    (lost,) = rules.rejected
    assert lost.reason == reason
    for word in words:
        assert word in lost.text.replace("no object", "'no object'"), lost.text
    assert len(lost.text) < 500
    if isinstance(bad, dict) and "name" in bad:
        assert lost.name.startswith("go")
    else:
        assert lost.name == "rule 1"
    # It costs no other.
    assert rules(STATE).tolist() in ([0.5, 0], [0, 0])


def test_a_name_that_is_lost_costs_those_that_use_it():
    rules = rules_of({"let": {"a": "1 +"}}, rule("a", "0"), rule("0.5", "0"))
    assert [(lost.reason, lost.name) for lost in rules.rejected] == [
        ("not_readable", "go, let a"),
        ("unknown_name", "go"),
    ]
    assert "cannot be used" in rules.rejected[1].text


def test_definitions_do_not_grow_without_bounds():
    lets = {"a0": "puck[0]"} | {f"a{i + 1}": f"a{i} * a{i} + {i}" for i in range(300)}
    rules = rules_of({"let": lets}, rule("a300", "0"))
    assert {lost.reason for lost in rules.rejected[:-1]} == {"too_deep", "unknown_name"}
    lets = {"v0": "puck"} | {f"v{i + 1}": f"[v{i}, v{i}, v{i}]" for i in range(40)}
    start = time.process_time()
    rules = rules_of({"let": lets}, rule("norm(v40)", "0"))
    assert "too_long" in {lost.reason for lost in rules.rejected}
    assert time.process_time() - start < 5


def test_what_is_the_same_again_and_again_costs_no_time():
    v = "[" + ", ".join(["0.5"] * 900) + "]"
    rules = [rule(f"min(min({', '.join([v] * n)}))", "0") for v, n in (("v + v", 500), ("v", 950)) for _ in range(5)]
    start = time.process_time()
    parsed = rules_of({"let": {"v": v}}, *rules)
    assert "too_long" in {lost.reason for lost in parsed.rejected}
    assert time.process_time() - start < 5


@pytest.mark.parametrize("function", ["norm([{0}, {0}])", "{0} if {0} > 1 else 0.1 - {0}", "0.5 - {0} / 2"])
def test_what_depends_on_much_is_no_error_of_a_caller_that_is_deep_itself(function):
    lets = {"a0": "puck[0] * 0.001"} | {f"a{i + 1}": function.format(f"a{i}") for i in range(60)}
    rules = rules_of({"let": lets}, *[rule(f"a{i}", "0", when=f"opening > {i}") for i in range(60)], rule("a60", "0"))

    def called_from(depth):
        if depth:
            return called_from(depth - 1)
        return rules(STATE), rules.batch(STATE[None]), rules.action_of(0, STATE)

    expected = called_from(0)
    limit = sys.getrecursionlimit()
    for depth in range(limit - 400, limit - 60, 20):
        for found, wanted in zip(called_from(depth)[:1], expected[:1], strict=True):
            assert found is None or found.tolist() == wanted.tolist()


@pytest.mark.parametrize("fault", ["", ","])
@pytest.mark.parametrize("number", ["9" * 10_000, "1e999", "-Infinity"])
def test_a_number_that_is_none_costs_its_rule(number, fault):
    rules = parse(f'{{"rules": [{{"name": "big", "when": "true", "action": [{number}, 0]}}, {GOOD}{fault}]}}')
    assert [rule.name for rule in rules.rules] == ["a"]
    assert [lost.name for lost in rules.rejected] == ["big"]


def test_what_is_defined_further_down_is_told_of():
    rules = rules_of(rule("far", "0"), rule("far", "0", let={"far": "0.5"}))
    (lost,) = rules.rejected
    assert "far is defined by itself, or only further down. Define it before it is used" in str(lost)
    lost, *_ = rules_of(rule("a", "0", let={"a": "a + 1"})).rejected
    assert "a is defined by itself" in str(lost)


def test_a_name_is_what_python_reads_it_as():
    assert value_with({"\u03d5": "0.25"}, "\u03d5") == 0.25


def value_with(let, expression):
    rules = rules_of(rule(expression, "0", let=let))
    assert not rules.rejected, rules.rejected
    return float(rules(STATE)[0])


def test_a_correction_is_no_longer_than_what_is_read_of_it():
    sheet = sheet_of(*(ObservationSlice(f"ray {i}", 100 * i, 100 * i + 100) for i in range(8)))
    sheet = dataclasses.replace(sheet, observation=(*sheet.observation, ObservationSlice("lidar", 800, 1440)))
    space = spaces.Box(-np.inf, np.inf, (1440,), np.float32)
    rules = Rules.parse('{"rules": [{"when": "true", "action": ["ray_0[0]", "0"]}]}', sheet, space, ACTIONS)
    rng = np.random.default_rng(0)
    states = tuple(rng.standard_normal((50, 1440)).astype(np.float32))
    episodes = [Episode(states, (np.zeros(2),) * 50, (0,) * 50, i > 2) for i in range(5)]
    parts = describe(rules, episodes)
    assert len(parts) == 4
    assert sum(len(part.text) for part in parts) < 100_000
    assert all("ray_5;" in part.text and "ray_6;" not in part.text for part in parts[1:])
    assert all("lidar" not in part.text for part in parts[1:])


def test_too_many_rules():
    rules = rules_of(*[rule("0", str(i / 1000)) for i in range(300)])
    assert len(rules) == 100
    assert rules.rejected[-1].reason == "too_long"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_rules"),
        ("I cannot help with that.", "no_rules"),
        ('{"rules": []}', "no_rules"),
        ('{"advice": [{"state": 0, "action": [0, 0]}]}', None),
        ('{"rules": 3}', "no_rules"),
        ('{"rules": [}', "not_json"),
        ("[" * 100_000, "no_rules"),
        ('{"rules": ' + "[" * 100_000, "not_json"),
        ('{"rules": [' + '{"a":' * 50_000, "not_json"),
        ("x" * 1_000_000, "no_rules"),
        ('{"rules": [' + '"' * 1_000_000, None),
        ('{"rules": [{"name": "' + "x" * 1_000_000, None),
        ('"action" {' * 30_000, None),
        ('"rules": [' * 30_000, None),
    ],
)
def test_answers_without_rules(text, reason):
    start = time.process_time()
    rules = parse(text)
    assert time.process_time() - start < 10
    assert len(rules) == 0
    assert rules(STATE) is None
    assert rules.batch(STATE[None])[1].tolist() == [-1]
    assert rules.rejected
    assert reason is None or rules.rejected[0].reason == reason
    assert all(len(str(lost)) < 500 for lost in rules.rejected)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"rules": [{GOOD}]}}',
        f'Here you are:\n```json\n{{"rules": [{GOOD}]}}\n```\nGood luck! [1]',
        f'{{"diagnosis": "none {{}}", "rules": [{GOOD}]}}',
        f'{{"answer": {{"rules": [{GOOD}]}}}}',
        f"[{GOOD}]",
        GOOD,
        f'{{"rules": [{GOOD},]}}',
        f"{{'rules': [{GOOD}]}}".replace('"', "'"),
        f"{{rules: [{GOOD}]}}",
        f'{{"Rules": [{GOOD}]}}',
        '{"rules": [{name: "a", when: "true", action: ["0.5", "0"],},],}',
        '{"rules": [{"name": "a", "when": "true", "action": [+0.5, 0]}]}',
        '{"rules": [\n// comment\n{"name": "a", "when": "true", "action": ["0.5", "0"]}]}',
        '{"rules": [{"name": "a\nb", "when": "true", "action": ["0.5", "0"]}]}',
        f'{{"rules": [{GOOD}, {{"name": "b", "when": "puck[0] > ',
        f'{{"rules": [{{"when": "true", "action": ["1", "1"]}}]}}\nNo, better:\n{{"rules": [{GOOD}]}}',
        f'{{"rules": [{{"when": "true", "action": ["1", "1"]}}]}}\nNo, better:\n{{"rules": [{GOOD},]',
        f'<think>{{"rules": [...]}}</think>\n{{"rules": [{GOOD}]}}',
    ],
)
def test_answers_that_a_person_could_read(text):
    rules = parse(text)
    assert len(rules) == 1
    assert rules(STATE).tolist() == [0.5, 0]


_RULES = f'[{GOOD}, {{"name": "b", "when": "true", "action": ["1", "0"]}}]'


@pytest.mark.parametrize(
    "rules", [_RULES, json.dumps(json.loads(_RULES), indent=2), _RULES[:-1] + ",]", f" {_RULES}\n"]
)
@pytest.mark.parametrize(
    "written",
    [
        lambda rules: json.dumps({"plan": "p", "rules": rules}),
        lambda rules: json.dumps({"plan": "p", "rules": f"```json\n{rules}\n```"}),
        lambda rules: json.dumps(f'{{"rules": {rules}}}'),
        lambda rules: json.dumps({"text": f'{{"rules": {rules}}}'}),
        lambda rules: re.sub('"([^"]*)"', "\u201c\\1\u201d", f'{{"rules": {rules}}}'),
        lambda rules: re.sub('"([^"]*)"', "\u201e\\1\u201c", f'So: {{"rules": {rules}}}. That is all.'),
    ],
)
def test_rules_in_strings_and_in_other_quotes(written, rules):
    parsed = parse(written(rules))
    assert [rule.name for rule in parsed.rules] == ["a", "b"]
    assert not parsed.rejected


def test_rules_in_a_string_that_breaks_off_lose_the_last():
    text = json.dumps({"plan": "p", "rules": _RULES})
    parsed = parse(text[: text.rindex("action")])
    assert [rule.name for rule in parsed.rules] == ["a"]
    assert [lost.reason for lost in parsed.rejected] == ["truncated"]


def test_a_string_that_speaks_of_rules_has_none():
    (lost,) = parse('{"plan": "Not \\"rules\\": [1]", "rules": "as before"}').rejected
    assert lost.reason == "no_rules"


def test_an_answer_that_is_too_long_to_be_read_to_its_end_says_so():
    rules = parse(f'{{"rules": [{GOOD}]}}{" " * 200_000}')
    assert len(rules) == 1
    assert [lost.reason for lost in rules.rejected] == ["too_long"]
    assert "of its 200066 characters only the first 200000 are read. Write a shorter one" in str(rules.rejected[0])


@pytest.mark.parametrize(
    "after", ["", "}\n```\nThese rules first [1] approach the puck, don't they?", '} So "b" is last.']
)
@pytest.mark.parametrize(
    "rules",
    [
        f'[{GOOD}, {{"name": "b", "when": "true", "action": ["1", "0"]}},]',
        f'[{GOOD}, // not the puck\'s "edge" [\n{{"name": "b", "when": "true", "action": ["1", "0"]}}]',
        f"[{GOOD}, {{'name': 'b', 'when': 'true', 'why': 'one ] or \\'[', 'plan': 'don't', 'action': ['1', '0']}}]",
        f'[{GOOD}, {{"name": "b", "why": "one ]\n \\\\", "when": "true", "action": ["1", "0"]}}]',
        f'[{GOOD}, {{"name": "b", "why": "\\(\\"] ", "when": "true", "action": ["1", "0"]}}]',
        f'[{GOOD}, {{"name": "b", "action": ["1", "0"]], "when": "true"}}}}, ]',
        f'{{"a": {GOOD}, "b": {{"when": "true", "action": ["1", "0"]}},}}',
    ],
)
def test_what_is_said_after_rules_that_have_to_be_repaired_costs_none(rules, after):
    parsed = parse(f'```json\n{{"rules": {rules}{after or "}"}')
    assert [rule.name for rule in parsed.rules] == ["a", "b"]
    assert not parsed.rejected


@pytest.mark.parametrize("after", ["\n```\nThese rules [1] approach the puck.", "\n```\nSorry, {that} was cut [1]"])
def test_an_answer_that_breaks_off_and_goes_on_loses_its_last_rule(after):
    parsed = parse(f'{{"rules": [{GOOD}, {{"name": "b", "when": "true", "action": ["1", "puck{after}')
    assert [rule.name for rule in parsed.rules] == ["a"]
    assert [lost.reason for lost in parsed.rejected] == ["truncated"]


def test_an_answer_that_breaks_off_loses_its_last_rule():
    rules = parse(f'{{"rules": [{GOOD}, {{"name": "b", "when": "true", "action": ["1", "0.1')
    assert [lost.reason for lost in rules.rejected] == ["truncated"]
    assert len(rules) == 1


# ---- What has broken it


@pytest.mark.parametrize(
    "expression", ["norm([])", "distance([],[])", "[] + []", "[] if true else []", "max([],[])", "min([])"]
)
def test_empty_lists_cost_their_rule(expression):
    assert rejection(rule(expression, "0")).reason in ("no_expression", "bad_index")


def test_definitions_before_rules_that_have_to_be_repaired():
    rules = '[{"when": ["gap > 0", "NOT gap > 9 AND true"], "action": ["gap", 0],},]'
    text = f'{{"plan": "x", "let": {{"gap": "puck[0] / 4"}}, "rules": {rules}}}'
    assert parse(text)(STATE).tolist() == [0.25, 0]


@pytest.mark.parametrize("comma", ["", ","])
def test_rules_by_their_names(comma):
    text = (
        '{"rules": {"far": {"when": "puck[0] > 5", "action": ["1", "1"]}, "near": {"action": ["0.5", "0"]}'
        + comma
        + "}}"
    )
    rules = parse(text)
    assert [rule.name for rule in rules.rules] == ["far", "near"]
    assert rules(STATE).tolist() == [0.5, 0]


@pytest.mark.parametrize("part", ['"action":' + "[" * 900 + "]" * 900, '"let":{"a":' + "[" * 900 + "]" * 900 + "}"])
def test_nested_json_costs_its_rule(part):
    rules = parse(f'{{"rules":[{{"name":"g",{part}}},{GOOD}]}}')
    assert rules.rejected
    assert rules(STATE) is None or rules(STATE)[0] == 0.5


def test_a_condition_under_another_name():
    for key in ("condition", "if", "When"):
        rules = rules_of({"name": "far", key: "puck[0] > 5", "action": ["-1", "0"]}, rule("0.5", "0"))
        assert rules(STATE)[0] == 0.5, key
    lost = rejection({"name": "far", "cond": "puck[0] > 5", "action": ["-1", "0"]})
    assert lost.reason == "no_condition"
    assert "it has no when, but cond" in lost.text


@pytest.mark.parametrize(
    "text", ["{a}," * 12_000, '("' * 24_000, "{a}," * 290, '("' * 9000, '\\"' * 9000, " '" * 9000, "/*" * 9000]
)
def test_what_cannot_be_repaired_quickly_is_not_repaired(text):
    start = time.process_time()
    parse('{"rules":[' + text)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("after", ["\nI changed rules: [1] and left the others.", '\n"rules": [] were the old ones.'])
def test_what_is_said_of_rules_afterwards_are_no_rules(after):
    assert parse(f'{{"rules":[{GOOD}]}}{after}')(STATE)[0] == 0.5


def test_names_that_are_defined_again_survive_the_text():
    text = json.dumps(
        {
            "rules": [
                {"name": "x", "let": {"a": "0.25", "b": "a + 0.5"}, "when": "nonsense", "action": ["0", "0"]},
                {"name": "y", "let": {"a": "-1"}, "when": "true", "action": ["a", "b"]},
            ]
        }
    )
    rules = parse(text)
    for other in (rules, parse(rules.text), pickle.loads(pickle.dumps(rules))):
        assert other(STATE).tolist() == [-1, 0.75]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("opening ^ 2", 0.25),
        ("1 - opening^2", 0.75),
        ("-opening^2 * 4", -1.0),
        ("0 − opening × 2 · 0.25", -0.25),  # noqa: RUF001
        ("PUCK[0] / 4", 0.25),
        ("0.5 if opening ≤ 1 else 0", 0.5),
    ],
)
def test_signs_and_names_as_models_write_them(expression, expected):
    assert value(expression) == pytest.approx(expected)


def test_rules_among_thoughts_count_only_where_nothing_else_is_said():
    draft, answer = (json.dumps({"rules": [rule(number, "0")]}) for number in ("0.1", "0.2"))
    assert parse(f"<think>Perhaps {draft}?</think>\n{answer}")(STATE)[0] == pytest.approx(0.2)
    assert parse(f"{answer}<think>Or {draft}?</think>")(STATE)[0] == pytest.approx(0.2)
    assert parse(f"<think>I say {draft}.</think>")(STATE)[0] == pytest.approx(0.1)


def test_keep_among_thoughts_keeps_nothing():
    observations = [STATE]
    briefing = Briefing(ACTIONS, OBSERVATIONS, sheet=SHEET)
    assert read_rules('{"keep": true}', (0,), observations, briefing).rejected == ()
    text = '<think>Shall I say {"keep": true}?</think>{"rules": []}'
    assert read_rules(text, (0,), observations, briefing).rejected[0].reason == "no_rules"


def test_keep_before_rules_that_cannot_be_used_does_not_hide_why():
    text = 'They fail, so {"keep": true} is not an option. Revised:\n' + json.dumps({"rules": [rule("goal", "0")]})
    parsed = read_rules(text, (0,), [STATE], Briefing(ACTIONS, OBSERVATIONS, sheet=SHEET))
    (lost,) = parsed.rejected
    assert (lost.reason, lost.state) == ("unknown_name", 0)
    assert "there is no goal" in lost.example


@pytest.mark.parametrize("after", ["", "x" * 200_000])
@pytest.mark.parametrize("keep", ['{"keep": true, "rules": []}', '{"keep": true, "rules": null}', '{"keep": true}'])
def test_keep_without_rules_keeps_those_before(keep, after):
    read = read_rules(f"They are fine: {keep}{after}", (0,), [STATE], Briefing(ACTIONS, OBSERVATIONS, sheet=SHEET))
    assert (read.actions, read.rejected, read.standing) == ({}, (), None)


@pytest.mark.parametrize(
    "end", ['{"rules": [', '{"rules": [{"name": "a", "wh', '{"rules": [{"name": "a", "action": ["0.2", "0"]']
)
def test_a_draft_of_rules_does_not_stand_in_for_a_list_that_breaks_off(end):
    draft = json.dumps({"rules": [rule("0.1", "0")]})
    rules = parse(f"{draft}\nNo, better:\n{end}")
    assert len(rules) == 0
    assert rules.rejected


def test_a_rule_that_is_cut_off_before_its_condition_is_left_out():
    rules = parse('{"rules": [' + GOOD + ', {"name": "b", "action": ["0.2", "0"]')
    assert [rule.name for rule in rules.rules] == [json.loads(GOOD)["name"]]
    assert rules.rejected[0].reason == "truncated"


@pytest.mark.parametrize("name", ["as the rules: [1]", "rules = {", 'the "rules": [', "unlike rules: [x]"])
def test_what_stands_in_words_is_no_rule(name):
    rules = rules_of(rule("0.5", "0", name=name, comment=name), rule("1", "0", name="last"))
    assert [rule.name for rule in rules.rules] == [name, "last"]
    assert not rules.rejected
    assert parse(rules.text) == rules
    assert len(parse(f"First a draft:\n{rules.text}\nAnd so:\n{rules_of(rule('0', '0')).text}").rules) == 1


@pytest.mark.parametrize("key", ["let", "rules"])
def test_definitions_that_are_nested_too_deep_cost_themselves(key):
    deep = "[" * 25 + "1" + "]" * 25
    text = json.dumps({"let": {"a": json.loads(deep)}, "rules": [rule("1", "0")]})
    if key == "rules":
        text = json.dumps({"rules": [{**rule("1", "0"), "let": {"a": json.loads(deep)}}]})
    rules = parse(text)
    assert len(rules) == 1
    assert [lost.reason for lost in rules.rejected] == ["too_deep"]
    assert outline(text)[0].name


def test_half_a_character_in_a_name_can_be_sent():
    (only,) = rules_of(rule("1", "0", name="a\ud800b")).rules
    only.name.encode()
    for bad in ("x\ud800", {"name": "b", "when": "true", "action\ud800": 1}, rule("1", "0", let={"l\ud800": "1"})):
        for part in describe(rules_of(bad, rule("1", "0")), []):
            part.text.encode()


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint64])
def test_whole_numbers_stay_inside_the_bounds(dtype):
    space = spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, (2,), dtype)
    rules = parse(json.dumps({"rules": [rule("1e300", "-1e300")]}), action_space=space)
    with np.errstate(all="raise"):
        action = rules(STATE)
        (batch,), _ = rules.batch(STATE[None])
    assert space.contains(action)
    assert action[0] > 0.99 * float(np.iinfo(dtype).max)
    np.testing.assert_array_equal(batch.astype(np.float64), action.astype(np.float64))


def test_no_advice_on_whole_numbers():
    text = json.dumps({"rules": [{"name": "null", "when": "true", "action": None}]})
    rules = parse(text, action_space=spaces.Box(-3, 3, (2,), np.int64))
    actions, which = rules.batch(STATE[None])
    assert rules(STATE) is None
    assert np.isnan(actions).all()
    assert which == [0]


def test_components_that_are_spelt_alike_are_given_in_a_list():
    sheet = dataclasses.replace(SHEET, action=(ActionComponent("grip left"), ActionComponent("Grip-left")))
    text = json.dumps({"rules": [{"when": "true", "action": {"grip left": "1", "Grip-left": "0.5"}}]})
    (lost,) = parse(text, sheet=sheet).rejected
    assert lost.reason == "wrong_shape"
    assert "Write a list" in lost.text
    assert parse(json.dumps({"rules": [rule("1", "0.5")]}), sheet=sheet)(STATE).tolist() == [1, 0.5]


def test_what_is_rejected_makes_no_long_prompt():
    lets = {f"name_{i}": "1" for i in range(900)}
    rules = parse(json.dumps({"let": lets, "rules": [rule("1", "0"), *[rule("nowhere", "0") for _ in range(90)]]}))
    episode = Episode((STATE,), (np.zeros(2),), (0,), True)
    assert len(describe(rules, [episode])[0].text) < 40_000
    assert max(len(str(lost)) for lost in rules.rejected) < 1000
    assert len(parse(json.dumps({"let": {f"{i}": "1" for i in range(999)}, "rules": []})).rejected) < 110


@pytest.mark.parametrize(
    ("sheet", "space", "words"),
    [
        (SHEET, spaces.Dict({"a": ACTIONS}), "a Box, but the action space is Dict"),
        (SHEET, None, "a Box, but the action space is None"),
        ("sheet.yml", ACTIONS, "The sheet is sheet.yml, expected a sb3_varl.TaskSheet or None"),
    ],
)
def test_arguments_of_another_kind_are_refused(sheet, space, words):
    with pytest.raises(ArgumentError, match=words):
        parse(json.dumps({"rules": [rule("1", "0")]}), sheet=sheet, action_space=space)
