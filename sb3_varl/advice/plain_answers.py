"""Answers that are no JSON, as a person reads them: a line for each state, a table, or YAML."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from sb3_varl.advice.items import (
    MAX_ANSWER_LENGTH,
    RawAnswer,
    looks_like_json,
    state_number,
    whole_answer,
    without_thoughts,
)
from sb3_varl.advice.numbers import NUMBER, VALUE, value_of

# What is read as YAML, in characters, and how many parts of an answer may look like it; and of a line, a cell and a
# number.
_MAX_YAML, _MAX_BLOCKS = 20_000, 3
_MAX_LINE, _MAX_CELL, _MAX_NUMBER = 2000, 300, 50
_MARKS = r"""[*_`"' \t]{0,20}"""
_LINE = re.compile(
    rf"""^[ \t>*+\-•#]{{0,20}}(?:\d{{1,3}}[.)] ?)?{_MARKS}state[ \t_#]{{0,3}}(?P<state>\d{{1,9}}){_MARKS}"""
    r"""(?:[:=]|->|=>|\u2192|\u2013|\u2014|-)(?P<rest>.*)$""",
    re.IGNORECASE | re.MULTILINE,
)
_BEFORE_VALUE = re.compile(
    rf"""{_MARKS}(?:(?:\{{{_MARKS})?(?:\w{{1,20}} )?action{_MARKS}(?:[:=]|is\b){_MARKS})?""", re.IGNORECASE
)
_LONE_NUMBER = re.compile(rf"{NUMBER}{_MARKS}$")
_ABSTAINS = re.compile(rf"(?:null|none|no advice|abstain){_MARKS}[.;,}}]?{_MARKS}$", re.IGNORECASE)
_ROW = re.compile(r"^[ \t]{0,40}\|(.*)\|[ \t]*$", re.MULTILINE)
_FIRST_CELL = re.compile(r"(?:state)?[ \t_#]{0,3}(\d{1,9})", re.IGNORECASE)
_YAML_KEY = r"""(?:-[ \t]+)?["']?{name}["']?[ \t]*:(?=[ \t]|$)"""
_YAML_LINE = re.compile(rf"[ \t]*(?:-[ \t].*|{_YAML_KEY.format(name='[A-Za-z][A-Za-z0-9_ ]{0,40}')}.*|[\]\d\-].*|)$")
_YAML_START = re.compile(
    rf"[ \t]*{_YAML_KEY.format(name='(?:advice|actions|state(?:[ _#]?[0-9]{1,9})?)')}", re.IGNORECASE
)
_YAML_STATE = re.compile(rf"^[ \t]*{_YAML_KEY.format(name='state')}", re.IGNORECASE | re.MULTILINE)
_ANCHOR = re.compile(r"(?:^|[\s:\-])[&*]\w")
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def read_plain(text: str, is_cut: bool = False) -> RawAnswer | None:
    """
    Find what an answer says of each state that has no JSON in it, or only a draft.

    :param text: The model's words
    :param is_cut: Whether it is known to break off, so that nobody knows how its last item would have ended
    :return: What it says; ``None`` if that cannot be told, because there is nothing of the kind, or JSON after it
    """
    text = without_thoughts(text[:MAX_ANSWER_LENGTH])
    for read in (_from_lines, _from_table, _from_yaml):
        found = read(text)
        if found is not None:
            answer, end = found
            if looks_like_json(text[end:]):
                return None
            if is_cut and answer.items:
                last = state_number(answer.items.pop())
                answer.fault, answer.cut_off = "truncated", [] if last is None else [last]
            return answer
    return None


def _from_lines(text: str) -> tuple[RawAnswer, int] | None:
    items: dict[int, dict[str, Any] | None] = {}
    end = 0
    for line in _LINE.finditer(text):
        state = int(line["state"])
        items[state] = _item_of_line(state, line["rest"])
        end = line.end()
    if not any(item is not None and "action" in item for item in items.values()):
        return None
    return _raw(items.values()), end


def _item_of_line(state: int, rest: str) -> dict[str, Any] | None:
    if len(rest) > _MAX_LINE:
        return None
    before = _BEFORE_VALUE.match(rest)
    start = before.end() if before is not None else 0
    if _ABSTAINS.match(rest, start):
        return {"state": state}
    found = VALUE.match(rest, start)
    if found is not None and (found["list"] or found["named"]):
        # Of two lists nobody knows which is meant.
        return None if re.search(r"[\[{(]\s*[+\-]?\s*[\d.]", rest[found.end() :]) else _item(state, value_of(found))
    lone = _LONE_NUMBER.match(rest, start)
    return None if lone is None else _item(state, lone[0].strip(" \t*_`\"'"))


def _from_table(text: str) -> tuple[RawAnswer, int] | None:
    rows = list(_ROW.finditer(text))
    cells = [[cell.strip().strip("*`").strip() for cell in row[1].split("|")] for row in rows]
    header = next((i for i, row in enumerate(cells) if row[0].lower().startswith("state")), None)
    if header is None:
        return None
    names = cells[header]
    items = dict[Any, dict[str, Any] | None]()
    for row in cells[header + 1 :]:
        first = _FIRST_CELL.fullmatch(row[0])
        if first is not None:
            items[int(first[1])] = _item_of_row(int(first[1]), names[1:], row[1:])
    return (_raw(items.values()), rows[-1].end()) if items else None


def _item_of_row(state: int, names: list[str], row: list[str]) -> dict[str, Any] | None:
    if len(names) != len(row) or any(len(cell) > _MAX_CELL for cell in row):
        return None
    lists = [found for cell in row if (found := VALUE.fullmatch(cell)) is not None and found["list"]]
    if lists:
        return _item(state, value_of(lists[0])) if len(lists) == 1 else None
    numbers = {name: cell for name, cell in zip(names, row, strict=True) if _PLAIN_NUMBER.fullmatch(cell)}
    return _item(state, numbers) if numbers else None


def _from_yaml(text: str) -> tuple[RawAnswer, int] | None:
    for block, end in _yaml_blocks(text):
        if len(block) > _MAX_YAML or _ANCHOR.search(block):
            continue
        fault, value = None, _loaded(block)
        starts = [match.start() for match in _YAML_STATE.finditer(block)]
        if value is None and starts:
            # What breaks off is known by its last item.
            fault, value = "truncated", _loaded(block[: starts.pop()])
        items = whole_answer({"advice": value} if isinstance(value, list) else value)
        actions = [item["action"] for item in items or () if item is not None and "action" in item]
        # Words are no actions; and a key that is there twice is in the place of the first.
        if items and len(starts) <= len(items) and not all(isinstance(action, str) for action in actions):
            raw = _raw(items)
            return RawAnswer(raw.items, fault or raw.fault), end
    return None


def _yaml_blocks(text: str) -> Iterator[tuple[str, int]]:
    """Runs of lines that look like YAML, the last first."""
    blocks = list[tuple[int, int]]()
    start, position = None, 0
    for line in text.splitlines(keepends=True):
        if start is None and _YAML_START.match(line):
            start = position
        if start is not None and not _YAML_LINE.match(line.rstrip()):
            blocks.append((start, position))
            start = None
        position += len(line)
    if start is not None:
        blocks.append((start, position))
    for begin, end in blocks[: -_MAX_BLOCKS - 1 : -1]:
        yield text[begin:end], end


def _loaded(block: str) -> Any:
    try:
        # Text of numbers stays text, lest 010 be 8 and 1:30 be 90.
        return _typed(yaml.load(block, yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError):
        return None


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _typed(part) for key, part in value.items() if isinstance(key, str)}
    if isinstance(value, list):
        return [_typed(part) for part in value]
    if value in ("", "~", "null", "None"):
        return None
    return float(value) if _PLAIN_NUMBER.fullmatch(value) and len(value) < _MAX_NUMBER else value


def _item(state: int, action: Any) -> dict[str, Any]:
    return {"state": state, "action": action}


def _raw(items: Any) -> RawAnswer:
    items = list(items)
    is_lost = any(item is None or state_number(item) is None for item in items)
    return RawAnswer([item for item in items if item is not None], "malformed_item" if is_lost else None)
