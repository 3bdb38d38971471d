"""From the text of a model's answer, whatever it is, to what it says of each state, item by item."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import json_repair

# What is read of an answer, in characters: far beyond any real one, and read in well under a second.
MAX_ANSWER_LENGTH = 200_000
# How many times something may look like the start of a JSON object without being one, and what is repaired of an item.
MAX_FALSE_STARTS = 50
_MAX_REPAIRS = 300
_MAX_REPAIRED_LENGTH = 2_000
_MAX_INDENT = 40
# Objects around an answer.
_MAX_NESTING = 3

# The braces of formulas and sets in a model's prose are none of these.
_OBJECT_START = re.compile(r"""\{\s*(?:["'}]|\w+\s*[:=])""")
_ITEM_START = re.compile(r"""\{\s*["']?(?:state|action|reason|index)["']?\s*[:=]""", re.IGNORECASE)
_STATE = re.compile(r"""["']?state["']?\s*[:=]\s*["']?(-?\d+)""", re.IGNORECASE)
_ACTION = re.compile(r"""["']?action["']?\s*[:=]\s*""", re.IGNORECASE)
_CONTAINER_START = re.compile(r"""\{\s*["']?\w+["']?\s*[:=]\s*\[\s*\{""")
_NEXT_START = re.compile(f"{_ITEM_START.pattern}|{_CONTAINER_START.pattern}", re.IGNORECASE)
# "+0.5" is no JSON.
_PLUS = re.compile(r"(?<=[\[,:\s])\+(?=[\d.])")
# What stands between items: commas, bullets, comments.
_BETWEEN = re.compile(r"(?:[\s,;*\-]|(?://|#)[^\n]*\n)*")
_END_OF_LIST = re.compile(r"[\s,]*\]")
# What models put around their thoughts, and we around those that come in a field of their own.
BEGIN_OF_THOUGHT, END_OF_THOUGHT = "<think>", "</think>"
# Python refuses to read integers of more than 4300 digits; as floats they become infinite, and only their item is lost.
_DECODER = json.JSONDecoder(strict=False, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))


@dataclass
class RawAnswer:
    """
    What an answer says, before anything of it is checked.

    :param items: What it says of the states, in order: objects with ``state`` and ``action``, if they are such
    :param fault: Why no more of it was understood: ``"truncated"``, ``"malformed_item"``, ``"not_json"`` or
        ``"no_advice"``; ``None`` if all of it was, so that it says nothing of a state that it leaves out
    :param cut_off: States about which the answer breaks off
    """

    items: list[Any] = field(default_factory=list)
    fault: str | None = None
    cut_off: list[int] = field(default_factory=list)


@dataclass
class _Group:
    """
    Items that belong together.

    :param is_list: Whether they are a list, and not one after the other
    :param end: Where it ends in the text, as far as it was read
    :param needs_end: Whether the list has yet to end there
    """

    items: list[Any] = field(default_factory=list)
    fault: str | None = None
    cut_off: list[int] = field(default_factory=list)
    is_list: bool = True
    end: int = 0
    needs_end: bool = False

    @property
    def states(self) -> set[str]:
        return {str(item.get("state")) for item in self.items if isinstance(item, dict)}

    def leave_out(self, states: set[str]) -> None:
        self.items = [item for item in self.items if not isinstance(item, dict) or str(item.get("state")) not in states]


def without_thoughts(text: str) -> str:
    """
    Leave out what a model thought before it answered, where it says so.

    :param text: Its words
    :return: What it did not think, if there is anything in it that looks like JSON, or all
    """
    *before, last = text.split(END_OF_THOUGHT)
    # Some servers leave out where thoughts begin.
    answer = "".join(part.partition(BEGIN_OF_THOUGHT)[0] for part in before if BEGIN_OF_THOUGHT in part) + last
    return answer if re.search(r"[{\[]", answer) else text


def read_items(text: str) -> RawAnswer:
    """
    Find what an answer says of each state.

    Fences and prose do not matter. Items may stand in an object with a list, under whatever key, in a list by itself,
    one after the other, or by their state's number; each is repaired by itself if it is no JSON. What comes later goes
    before drafts: a whole answer replaces one about some of the same states, and an answer that breaks off the one
    before it.

    :param text: The model's words
    :return: What it says
    """
    text = without_thoughts(text)[:MAX_ANSWER_LENGTH]
    scan = _Scan(text)
    groups = list(scan.groups())
    if not groups:
        return RawAnswer(fault="no_advice" if scan.found_json else "not_json")
    kept = _latest(groups)
    fault = next((group.fault for group in reversed(kept) if group.fault), None)
    items = [item for group in kept for item in group.items]
    if fault == "truncated" and not items and not any(group.cut_off for group in kept):
        fault = "not_json"
    return RawAnswer(items, fault, [state for group in kept for state in group.cut_off])


def _latest(groups: list[_Group]) -> list[_Group]:
    """Leave out drafts: what a later list says again, or breaks off in saying, and lists that broke off before it."""
    kept: list[_Group] = []
    for group in groups:
        if not group.is_list:
            for other in kept:
                other.leave_out(group.states)
        elif group.fault or any(group.states & other.states for other in kept):
            kept = []
        else:
            kept = [other for other in kept if not other.fault]
        kept.append(group)
    return kept


class _Scan:
    """
    Looks for advice in a text, from its beginning to its end.

    :param text: The text
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.found_json = False
        self._n_false_starts = self._n_repairs = 0

    def groups(self) -> Iterator[_Group]:
        """
        Find what belongs together.

        :return: The groups, in order
        """
        open_group: _Group | None = None
        position = 0
        while self._n_false_starts < MAX_FALSE_STARTS:
            match = _OBJECT_START.search(self.text, position)
            if match is None:
                break
            start = match.start()
            try:
                value, end = _DECODER.raw_decode(self.text, start)
            except (ValueError, RecursionError):
                value, end = None, start
            whole = _whole(value)
            if whole is not None:
                yield from self._closed(open_group)
                open_group = None
                self.found_json = True
                yield _Group(whole)
                position = end
            elif _is_item(value):
                open_group, done = self._joined(open_group, start)
                yield from done
                open_group.items.append(value)
                open_group.end = position = end
            elif end > start:
                self.found_json = True
                position = end
            elif _ITEM_START.match(self.text, start):
                open_group, done = self._joined(open_group, start)
                yield from done
                position = self._read_broken(open_group, start)
            elif _CONTAINER_START.match(self.text, start):
                yield from self._closed(open_group)
                self._n_false_starts += 1
                first = self.text.index("[", start)
                open_group = _Group(end=first + 1, needs_end=True)
                position = first + 1
            else:
                self._n_false_starts += 1
                position = start + 1
        yield from self._closed(open_group)

    def _joined(self, group: _Group | None, start: int) -> tuple[_Group, list[_Group]]:
        """The group that something at a place is part of, and the one before if it is none of that."""
        if group is not None and _BETWEEN.fullmatch(self.text, group.end, start):
            return group, []
        in_list = self.text[max(0, start - _MAX_INDENT) : start].rstrip().endswith("[")
        return _Group(is_list=in_list, end=start, needs_end=in_list), list(self._closed(group))

    def _closed(self, group: _Group | None) -> Iterator[_Group]:
        if group is not None:
            if group.needs_end and not group.fault and not _END_OF_LIST.match(self.text, group.end):
                group.fault = "truncated"
            yield group

    def _read_broken(self, group: _Group, start: int) -> int:
        """An item that is no JSON: repaired if its action is there from the beginning to the end."""
        following = _NEXT_START.search(self.text, start + 1)
        end = following.start() if following else len(self.text)
        piece = self.text[start:end]
        state = _STATE.search(piece)
        action = _ACTION.search(piece)
        value = None
        if action is not None and _is_closed(piece[action.end() :]) and self._n_repairs < _MAX_REPAIRS:
            self._n_repairs += 1
            value = _repaired(piece)
        if _is_item(value):
            group.items.append(value)
            length = _length_of_object(piece)
            group.end = start + length if length else end
            if not length:
                group.fault = "truncated"
        elif following is None:
            group.fault = "truncated"
            if state is not None:
                group.cut_off.append(int(state[1]))
            group.end = end
        else:
            group.items.append(None)
            group.fault = "malformed_item"
            group.end = start + len(piece.rstrip().rstrip(","))
        return end


def _is_item(value: Any) -> bool:
    return isinstance(value, dict) and "state" in value and not isinstance(value["state"], list | dict)


def _whole(value: Any, depth: int = 0) -> list[Any] | None:
    """The items of an object that is an answer, under whatever key, or ``None`` if it is none."""
    if not isinstance(value, dict) or depth > _MAX_NESTING:
        return None
    advice = value.get("advice")
    if isinstance(advice, str):
        try:
            advice = _DECODER.decode(advice)
        except (ValueError, RecursionError):
            return None
    if isinstance(advice, list):
        return advice
    if isinstance(advice, dict) and _by_state(advice):
        return _by_state(advice)
    if _is_item(value):
        return None
    lists = [part for part in value.values() if isinstance(part, list) and part and all(map(_is_item, part))]
    if len(lists) == 1:
        return lists[0]
    if _by_state(value):
        return _by_state(value)
    inner = [found for part in value.values() if (found := _whole(part, depth + 1)) is not None]
    return inner[0] if len(inner) == 1 else None


def _by_state(value: dict[str, Any]) -> list[Any]:
    """Of an object that has actions by their state's number."""
    if not value or not all(key.isdigit() and len(key) < 10 for key in value):
        return []
    return [
        {"state": key, **item} if isinstance(item, dict) and "action" in item else {"state": key, "action": item}
        for key, item in value.items()
    ]


def _is_closed(text: str) -> bool:
    """Whether a value is there to its end, so that its last number is no piece of one."""
    opening = text[:1]
    if opening not in ("[", "{"):
        return re.search(r"[,}\s]", text) is not None
    depth = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if depth == 0:
            return True
    return False


def _length_of_object(piece: str) -> int:
    """Up to the brace that closes it, or, if that cannot be told for braces in its words, the last one; or 0."""
    depth = 0
    for i, character in enumerate(piece):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return i + 1
    return piece.rfind("}") + 1


def _repaired(piece: str) -> Any:
    piece = _PLUS.sub("", piece)
    try:
        return _DECODER.raw_decode(piece)[0]
    except (ValueError, RecursionError):
        pass
    if len(piece) > _MAX_REPAIRED_LENGTH:
        return None
    try:
        value = json_repair.loads(piece, skip_json_loads=True)
    except (ValueError, RecursionError):
        return None
    return value[0] if isinstance(value, list) and value else value
