"""
Answers that are no JSON, if they are plain: a line for each state, a table, or YAML, and nothing beside it that may be
meant as well. What is not beyond doubt is not read, lest a draft or an observation become advice.
"""

import re
from collections.abc import Hashable, Sequence
from typing import Any

import yaml

from sb3_varl.advice.items import MAX_ANSWER_LENGTH, RawAnswer, state_number, without_thoughts
from sb3_varl.advice.numbers import NUMBER, VALUE, value_of

# Longer answers of this kind are none, in characters; and longer lines.
_MAX_LENGTH, _MAX_LINE = 20_000, 500
_MARKS = r"[*_`]{0,3}"
_SPACE = "[ \t]{0,20}"
_WORDS = r"""[^\[\]{}|<>\d]{0,300}"""
_LIST = rf"\[\s{{0,20}}{NUMBER}(?:\s{{0,20}},\s{{0,20}}{NUMBER}){{0,200}}\s{{0,20}}\]"
_ACTION = r"""["'*`]{0,3}(?:(?:recommended|suggested|advised) )?action["'*`]{0,3}\s{0,5}[:=]\s{0,5}"""
_LINE = re.compile(
    rf"{_SPACE}(?:[-*+\u2022]|\d{{1,3}}[.)])?{_SPACE}{_MARKS}state[ _#]?(?P<state>\d{{1,6}}){_MARKS}{_SPACE}"
    rf"(?:[:=]|->|=>|\u2192){_SPACE}{_MARKS}{_SPACE}{_MARKS}"
    rf"(?:(?:{_ACTION})?(?P<list>{_LIST})|\{{{_SPACE}{_ACTION}(?P<inner>{_LIST})(?:,[^\[\]{{}}]{{0,300}})?\}}"
    rf"|(?P<null>null|none|no advice)){_MARKS}"
    # A remark has no number in it and is set apart.
    rf"{_SPACE}(?:[.,;]|[(;,#\u2013\u2014-]{_WORDS})?",
    re.IGNORECASE,
)
# What a line may begin with that is about a state, and what stands before or after the answer and may be meant as well.
_OF_STATE = re.compile(r"\bstates?\b.{0,20}?\d|^\W{0,10}\d+\s*[:|]", re.IGNORECASE)
_MAY_BE_MEANT = re.compile(r"[\[\]{}|<>]|\d\.\d")
_OF_SOMETHING_ELSE = re.compile(
    r"\b(?:observ|execut|previous|current|next|expect|position|result|original|wrong|bad|draft|not|instead)",
    re.IGNORECASE,
)
_RULE = re.compile(r"[|:\s-]+")
_NULLS = frozenset({"", "-", "\u2013", "\u2014", "null", "none", "no advice"})
_ADVICE = frozenset({"action", "advice", "recommended action", "suggested action", "advised action"})
_FENCED = re.compile(r"```\w{0,10}\n(.*?)\n[ \t]*```", re.DOTALL)
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def read_plain(text: str, is_cut: bool = False) -> RawAnswer | None:
    """
    Find what an answer says of each state that has no JSON in it.

    :param text: The model's words
    :param is_cut: Whether it is known to break off, so that nobody knows how its last item would have ended
    :return: What it says; ``None`` if that is not beyond doubt
    """
    said = without_thoughts(text[:MAX_ANSWER_LENGTH]).replace("\r\n", "\n")
    if len(said) > _MAX_LENGTH or re.search(r"</?think", said):
        return None
    items = _from_yaml(said) or _from_table(said) or _from_lines(said)
    if not items or len({item["state"] for item in items}) < len(items):
        return None
    if not any(item["action"] is not None for item in items):
        return None
    if not is_cut:
        return RawAnswer(items)
    last = state_number(items.pop())
    return RawAnswer(items, "truncated", [] if last is None else [last])


def _from_lines(text: str) -> list[dict[str, Any]] | None:
    """All lines about states, one after the other, and words before and after."""
    items: list[dict[str, Any]] = []
    others: list[str] = []
    is_over = False
    for line in filter(None, map(str.strip, text.split("\n"))):
        if line.startswith("```"):
            continue
        found = _LINE.fullmatch(line) if len(line) <= _MAX_LINE else None
        if found is None:
            others.append(line)
            is_over = bool(items)
        elif is_over:
            return None
        else:
            action = found["list"] or found["inner"]
            items.append({"state": int(found["state"]), "action": None if found["null"] else _numbers(action)})
    return None if _may_be_meant(others) else items


def _from_table(text: str) -> list[dict[str, Any]] | None:
    """One table, whose first column has states, and words before and after."""
    lines = [line.strip() for line in text.split("\n") if line.strip() and not line.strip().startswith("```")]
    places = [i for i, line in enumerate(lines) if line.startswith("|")]
    if len(places) < 2 or places[-1] - places[0] + 1 != len(places):
        return None
    if _may_be_meant([*lines[: places[0]], *lines[places[-1] + 1 :]]):
        return None
    table = [lines[i] for i in places if not _RULE.fullmatch(lines[i])]
    if not table or not all(line.endswith("|") and len(line) <= _MAX_LINE for line in table):
        return None
    header, *rows = ([cell.strip(" \t*`") for cell in line[1:-1].split("|")] for line in table)
    names = [name.lower() for name in header]
    if names[0] not in ("state", "states") or len(set(names)) < len(names):
        return None
    items = []
    for row in rows:
        state = re.fullmatch(r"(?:state[ _#]?)?(\d{1,6})", row[0], re.IGNORECASE)
        if state is None or len(row) != len(header):
            return None
        action = _cell(names[1:], row[1:]) if _ADVICE & set(names) else dict(zip(header[1:], row[1:], strict=True))
        if action == "unclear" or (isinstance(action, dict) and not all(map(_PLAIN_NUMBER.fullmatch, action.values()))):
            return None
        items.append({"state": int(state[1]), "action": action})
    return items


def _cell(names: Sequence[str], cells: Sequence[str]) -> Any:
    """The list in the column of actions, if there is one, and words in the others."""
    advice = [cell for name, cell in zip(names, cells, strict=True) if name in _ADVICE]
    others = [cell for name, cell in zip(names, cells, strict=True) if name not in _ADVICE]
    if len(advice) != 1 or any(re.search(r"[\[\]{}\d]", cell) for cell in others):
        return "unclear"
    if advice[0].lower() in _NULLS:
        return None
    return _numbers(advice[0]) if re.fullmatch(_LIST, advice[0]) else "unclear"


def _from_yaml(text: str) -> list[dict[str, Any]] | None:
    """One block, fenced or all of the answer."""
    fenced = list(_FENCED.finditer(text))
    if len(fenced) > 1:
        return None
    block = fenced[0][1] if fenced else text
    if fenced and _may_be_meant((text[: fenced[0].start()] + "\n" + text[fenced[0].end() :]).split("\n")):
        return None
    if not re.search(r"^\s{0,20}(?:- )?state\s{0,5}:", block, re.MULTILINE | re.IGNORECASE):
        return None
    try:
        value = yaml.load(block, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError, TypeError):
        return None
    found = value["advice"] if isinstance(value, dict) and list(value) == ["advice"] else value
    if not isinstance(found, list):
        return None
    items = []
    for item in found:
        if not isinstance(item, dict) or not {"state", "action"} <= item.keys() <= {"state", "action", "reason"}:
            return None
        action = item["action"]
        is_null = isinstance(action, str) and action.lower() in ("null", "~", "none")
        is_list = isinstance(action, list) and all(isinstance(part, str) for part in action)
        if not isinstance(item["state"], str) or not item["state"].isdecimal() or not (is_null or is_list):
            return None
        items.append({"state": int(item["state"][:9]), "action": None if is_null else action})
    return items


class _Loader(yaml.BaseLoader):
    """Numbers stay text, lest 010 be 8 and 1:30 be 90; nothing is there twice, or under two names."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent) or getattr(self.peek_event(), "anchor", None):
            raise yaml.YAMLError
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.YAMLError
        return mapping


def _may_be_meant(lines: Sequence[str]) -> bool:
    """Whether something else may be the answer, or say of what is there that it is none."""
    return any(
        _OF_STATE.search(line[:_MAX_LINE]) or _MAY_BE_MEANT.search(line) or _OF_SOMETHING_ELSE.search(line)
        for line in lines
    )


def _numbers(text: str) -> Any:
    found = VALUE.fullmatch(text)
    return None if found is None else value_of(found)
