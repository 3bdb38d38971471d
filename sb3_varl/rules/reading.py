"""From the text of a model's answer, whatever it is, to the list of rules that it means."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import json_repair

from sb3_varl.advice.items import MAX_ANSWER_LENGTH, with_other_quotes, without_thoughts
from sb3_varl.rules.quoting import STRING_OR_COMMENT, with_quotes

# What is repaired of an answer, in characters: far beyond any real one.
MAX_REPAIRED_LENGTH = 12_000
# How many times something may look like the start of rules without being one.
_MAX_TRIES = 20
# JSON within JSON, as far as it is repaired.
_MAX_NESTING = 40
# Of a repaired list, the objects in it: json_repair takes a time that grows with their square.
_MAX_OBJECTS = 300
# Not of a list in a string, as long as its quotes are those of a string.
_START = re.compile(r"""["']?rules["']?\s*[:=]\s*["']?[\[{](?![\s\[{]*\\)""", re.IGNORECASE)
_LET = re.compile(r"""["']?let["']?\s*:\s*\{""", re.IGNORECASE)
_ACTION = re.compile(r"""["']?action["']?\s*:""", re.IGNORECASE)
_EMPTY = ("no_rules", "the list of rules is empty. Write at least one rule")
_FENCE = re.compile(r"```[a-zA-Z0-9]*")
# What says where a list ends: brackets, but for those in strings and comments.
_TOKEN = re.compile(rf"{STRING_OR_COMMENT} | [\[\]{{}}]", re.DOTALL | re.VERBOSE)
_OPENED_BY = {"]": "[", "}": "{"}
# Numbers that Python cannot read, or that are none, stay what was written, which expressions know to refuse.
_DECODER = json.JSONDecoder(
    parse_int=lambda digits: int(digits) if len(digits) < 20 else digits,
    parse_float=lambda text: float(text) if math.isfinite(float(text)) else text,
    parse_constant=str,
)
# Python refuses to read integers of more than 4300 digits, and expressions much shorter ones.
_LONG_NUMBER = re.compile(r"(\d{43})\d+")


@dataclass
class RawRules:
    """
    What an answer says, before anything of it is checked.

    :param items: What stands in the list of rules
    :param let: Definitions that stand before it
    :param faults: What is wrong with the answer as a whole: a slug, and an explanation
    """

    items: list[Any] = field(default_factory=list)
    let: dict[str, Any] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)


def read_answer(text: str) -> RawRules:
    """
    Find the rules in an answer. Of several lists the last one counts, as models tend to draft before they answer.

    :param text: The model's words
    :return: What they say
    """
    said = without_thoughts(text[:MAX_ANSWER_LENGTH])
    raw = _read(said)
    if not raw.items and raw.faults[0][0] in ("no_rules", "not_json"):
        others = (_read(other) for other in with_other_quotes(said))
        raw = next((other for other in others if any(map(_has_action, other.items))), raw)
    if len(text) > MAX_ANSWER_LENGTH:
        limit = f"of its {len(text)} characters only the first {MAX_ANSWER_LENGTH} are read. Write a shorter one"
        raw.faults.append(("too_long", limit))
    return raw


def _read(text: str) -> RawRules:
    raw = _as_json(text)
    if raw is not None:
        return raw
    starts = [match.end() - 1 for match in _START.finditer(text)][-_MAX_TRIES:]
    if not starts:
        return _without_key(text)
    # The last that has rules in it, for a model may speak of its rules afterwards; but not a draft in place of a list
    # that breaks off.
    is_cut = _nesting_at_end(text[starts[-1] :]) > 0
    start = starts[-1] if is_cut else next((i for i in reversed(starts) if _ACTION.search(text, i)), starts[-1])
    try:
        value, _ = _DECODER.raw_decode(text, start)
        raw = RawRules(_listed(value))
    except (ValueError, RecursionError):
        raw = _repaired(text[start:], is_list=True)
    raw.let = _definitions(text, start)
    if not raw.items and not raw.faults:
        raw.faults.append(_EMPTY)
    return raw


def _as_json(text: str) -> RawRules | None:
    """Of an answer whose last rules are in an object that is JSON: what is within its words is no rule."""
    found, end = list[dict[str, Any]](), 0
    for value, position in _json_values(text):
        if isinstance(value, dict) and _rules_in(value) is not None:
            found.append(value)
            end = position
    if not found or _START.search(text, end):
        return None
    with_actions = [value for value in found if '"action"' in json.dumps(_rules_in(value)).lower()]
    value = (with_actions or found)[-1]
    raw = RawRules(_listed(_rules_in(value)))
    let = next((part for key, part in value.items() if key.strip().lower() == "let"), None)
    raw.let = let if isinstance(let, dict) else {}
    if not raw.items:
        raw.faults.append(_EMPTY)
    return raw


def _rules_in(value: dict[str, Any]) -> Any:
    part = next((part for key, part in value.items() if key.strip().lower() == "rules" and part is not None), None)
    if isinstance(part, str):
        try:
            return _DECODER.decode(part)
        except (ValueError, RecursionError):
            return None
    return part


def _has_action(item: Any) -> bool:
    return isinstance(item, dict) and any(key.strip().lower() == "action" for key in item)


def _without_key(text: str) -> RawRules:
    """Of an answer that has the rules in a list of their own, or one after the other."""
    items = [item for found, _ in _json_values(text) for item in (found if isinstance(found, list) else [found])]
    rules = [item for item in items if isinstance(item, dict) and "action" in item]
    if rules:
        return RawRules(rules)
    start = min((i for i in (text.find("["), text.find("{")) if i >= 0), default=-1)
    if start >= 0 and '"action"' in text:
        return _repaired(text[start:])
    fault = ("no_rules", 'there is no list of rules. Write one JSON object, {"rules": [...]}')
    return RawRules(faults=[fault])


def _json_values(text: str) -> Iterator[tuple[Any, int]]:
    """Values in a text, one after the other, and where each ends."""
    position, n_false_starts = 0, 0
    while n_false_starts < _MAX_TRIES:
        match = re.compile(r"[\[{]").search(text, position)
        if match is None:
            return
        try:
            value, position = _DECODER.raw_decode(text, match.start())
            yield value, position
        except (ValueError, RecursionError):
            n_false_starts += 1
            position = match.start() + 1


def _repaired(text: str, is_list: bool = False) -> RawRules:
    """Of a text that is no JSON; what stands after the list that it begins with, if it is one, is none of it."""
    text = _LONG_NUMBER.sub(r"\1", text)
    end = _end_of_list(text[:MAX_REPAIRED_LENGTH]) if is_list else None
    text = text[:end]
    is_cut = len(text) > MAX_REPAIRED_LENGTH
    text = _FENCE.sub("", text[:MAX_REPAIRED_LENGTH])
    if _nesting(text) > _MAX_NESTING or text.count("{") > _MAX_OBJECTS:
        return RawRules(faults=[("not_json", "what looks like a list of rules is no JSON, and too long to repair")])
    try:
        value = json_repair.loads(with_quotes(text), skip_json_loads=True)
    except (ValueError, RecursionError):
        value = None
    items = _listed(value)
    while len(items) == 1 and isinstance(items[0], list):
        items = items[0]
    if not items:
        return RawRules(faults=[("not_json", "what looks like a list of rules is no JSON, and cannot be repaired")])
    raw = RawRules(items)
    if end is None and (is_cut or not text.rstrip().endswith(("]", "}")) or _nesting_at_end(text) > 0):
        # Of an answer that was cut off, nobody knows how the last rule would have ended.
        raw.items = raw.items[:-1]
        raw.faults.append(
            ("truncated", "the answer breaks off, and its last rule is left out. Allow more tokens (max_tokens)")
        )
    return raw


def _end_of_list(text: str) -> int | None:
    """Where the bracket that a text begins with is closed; those that close none are left aside."""
    opened = list[str]()
    for token in _TOKEN.finditer(text):
        if token[0] in ("[", "{"):
            opened.append(token[0])
        elif opened[-1] == _OPENED_BY.get(token[0]):
            opened.pop()
            if not opened:
                return token.end()
    return None


def _listed(value: Any) -> list[Any]:
    """The rules of a list, of an object that has them by their names, or one by itself."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else []
    if value and all(isinstance(item, dict) for item in value.values()):
        return [{"name": name, **item} for name, item in value.items()]
    return [value]


def _nesting_at_end(text: str) -> int:
    """How many brackets are open at the end, those in words aside, which are mostly closed again."""
    opened = text.count("[") + text.count("{")
    return opened - text.count("]") - text.count("}")


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def _definitions(text: str, start: int) -> dict[str, Any]:
    """What the object that has the rules defines before them or after them."""
    begin = text.rfind("{", 0, start)
    while begin >= 0:
        try:
            value, end = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError):
            return _repaired_definitions(text, start)
        if end > start:
            let = value.get("let") if isinstance(value, dict) else None
            return let if isinstance(let, dict) else {}
        begin = text.rfind("{", 0, begin)
    return {}


def _repaired_definitions(text: str, start: int) -> dict[str, Any]:
    """Those before the rules, where something in the object is no JSON."""
    matches = list(_LET.finditer(text, 0, start))
    # Not those of a rule, of an earlier draft perhaps.
    if not matches or _ACTION.search(text, matches[-1].end(), start):
        return {}
    part = _LONG_NUMBER.sub(r"\1", text[matches[-1].end() - 1 : start])
    part = part[: _end_of_list(part[:MAX_REPAIRED_LENGTH])]
    if len(part) > MAX_REPAIRED_LENGTH or _nesting(part) > _MAX_NESTING:
        return {}
    try:
        let = json_repair.loads(with_quotes(part), skip_json_loads=True)
    except (ValueError, RecursionError):
        return {}
    return let if isinstance(let, dict) else {}
