"""Expressions that models write into JSON without quotes: read as they stand, never in parts."""

import json
import pathlib
import re
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rules_language import STATE, parse

import sb3_varl
from sb3_varl.rules.quoting import with_quotes
from sb3_varl.rules.reading import read_answer
from sb3_varl.rules.rule import outline

RECORDED = sorted((pathlib.Path(sb3_varl.__file__).parent / "advisors" / "recorded_rules").rglob("*.txt"))
EXPRESSIONS = {"when", "action", "let"}


def _without_quotes(value):
    if isinstance(value, dict):
        parts = (f"{json.dumps(key)}: {_without_quotes(part)}" for key, part in value.items())
        return "{" + ", ".join(parts) + "}"
    return "[" + ",\n".join(map(_without_quotes, value)) + "]" if isinstance(value, list) else str(value)


def _rule_without_quotes(rule):
    parts = (
        f"{json.dumps(key)}: {_without_quotes(part) if key in EXPRESSIONS else json.dumps(part)}"
        for key, part in rule.items()
    )
    return "{" + ", ".join(parts) + "}"


def _outline_without_blanks(text):
    return re.sub(r"\s", "", repr(outline(text)))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_expressions_without_their_quotes_say_the_same(path):
    text = path.read_text()
    recorded = read_answer(text)
    rules = ", ".join(map(_rule_without_quotes, recorded.items))
    again = f'{{"let": {_without_quotes(recorded.let)}, "rules": [{rules}]}}'
    assert _outline_without_blanks(again) == _outline_without_blanks(text)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("-puck[0]", -1.0),
        ("- puck[0]", -1.0),
        ("- 0.5", -0.5),
        ("+.5", 0.5),
        ("clip(puck[1] - 1.5, -1, min(1, 2)) // half of it", 0.5),
        ("(puck[1]\n - 1.5) # half of it", 0.5),
        ("0.5 if puck[0] > 0 else -0.5 /* mostly, [1] */", 0.5),
        ("1 if near else 0", 1.0),
        ("norm([0, 0.6]) - 0.1", 0.5),
    ],
)
def test_expressions_without_quotes_are_read(written, read):
    text = f'{{let: {{near: opening < 1,}}, "rules": [{{"when": opening > 0, "action": [{written}\n, "0"]}},]}}'
    rules = parse(text)
    assert not rules.rejected
    assert rules(STATE)[0] == np.float32(read)


@pytest.mark.parametrize(
    "written", ["50%", "50 %", "½", "±1", "5°", "0.5 m", "0.5 0.5", "~0.5", "opening > 0 ? 1 : -1", "$opening", "--"]
)
def test_what_is_no_number_is_not_made_one(written):
    rules = parse(f'{{"rules": [{{"when": "true", "action": [{written}, 0]}},]}}')
    assert not len(rules)
    assert len(rules.rejected) == 1


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[dx /2, -dy /4]", '["dx /2", "-dy /4"]'),
        ("{a: dx /dz, b: 5 -1}", '{a: "dx /dz", b: "5 -1"}'),
        ("[dx # gain\n * 5, clip(dx, // right\n -1, 1)]", '["dx * 5", "clip(dx, -1, 1)"]'),
        ("[x > 0 and\\n y > 0]", '["x > 0 and y > 0"]'),
        ("{a: [dx, dy] * 2, b: -[1, 2]}", '{a: "[dx, dy] * 2", b: "-[1, 2]"}'),
        ("[[dx, dy].]", '[["dx", "dy"].]'),
        ("{action: [dx, dy] (fast)}", '{action: ["dx", "dy"] (fast)}'),
    ],
)
def test_whole_expressions_are_quoted(written, read):
    assert with_quotes(written) == read


@pytest.mark.parametrize(
    "written",
    [
        "[5 -1, 0.5 0.25]",
        "{when: \u201cx > 0\u201d, action: [\u201cdx\u201d]}",
        "{action: dx, dy}",
        "{action: clip(dx, -1, 1), dy}",
        "{when: x > 0: right, b: true}",
        "[True, null, NaN, -Infinity, 'a', \"b\"]",
    ],
)
def test_what_is_no_expression_or_has_no_clear_end_is_left_to_repair(written):
    assert with_quotes(written) == written


@pytest.mark.parametrize(
    "written",
    ["[" + "10 " * 4000 + "px]", "[" + "(," * 4000 + '"s"' + ")" * 4000, "[a " * 4000, "{a: " + "1" * 12_000 + "x}"],
)
def test_what_is_long_is_read_at_once(written):
    begin = time.process_time()
    with_quotes(written)
    assert time.process_time() - begin < 2


@given(st.text(alphabet="[]{}(),:'\"* \nax1-%", max_size=60))
@example('{"rules": [{"action": [a[1], -x, (1]}]}')
def test_quotes_are_put_around_something_and_change_nothing_else(text):
    quoted = with_quotes(text)
    assert with_quotes(quoted) == quoted
    assert re.sub(r'[\s"]', "", quoted) == re.sub(r'[\s"]', "", text)
