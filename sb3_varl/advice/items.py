"""From the text of a model's answer, whatever it is, to what it says of each state, item by item."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sb3_varl.advice.numbers import VALUE, value_of

# What is read of an answer, in characters: far beyond any real one, and read in a second or two at worst.
MAX_ANSWER_LENGTH = 200_000
# How many times something may look like the start of a JSON object without being one; how many items are read that are
# no JSON; and how many characters are read in vain.
MAX_FALSE_STARTS = 50
_MAX_BROKEN_ITEMS = 300
_MAX_READ_IN_VAIN = 1_000_000
_OF_TOO_DEEP = 20_000
# Objects around an answer.
_MAX_NESTING = 3
_MAX_INDENT = 40

# What models put around their thoughts, and we around those that come in a field of their own.
BEGIN_OF_THOUGHT, END_OF_THOUGHT = "<think>", "</think>"
_THOUGHT_TAG = re.compile(r"<(/?)(?:think|thinking|thought|thoughts|reasoning)>", re.IGNORECASE)

# What models call the two entries of an item, and what else an item without advice may have.
_STATE_KEYS = frozenset({"state", "state_index", "state_id", "state_number", "index", "id"})
_ACTION_KEYS = frozenset({"action", "actions", "recommended_action", "suggested_action", "advised_action"})

# The braces of formulas and sets in a model's prose are none of these.
_OBJECT_START = re.compile(r"""\{\s*(?:["'}]|\w+["']?\s*[:=])""")
_KEY = r"""(?<![\w"'])["']?(?:{names})["']?\s*[:=]\s*"""
_ITEM_START = re.compile(
    r"""\{\s*["']?(?:state(?:_index|_id|_number)?|index|id|actions?|reason)["']?\s*[:=]""", re.IGNORECASE
)
_CONTAINER_START = re.compile(r"""\{\s*["']?\w+["']?\s*[:=]\s*\[\s*\{""")
_STATE = re.compile(_KEY.format(names="|".join(_STATE_KEYS)) + r"""["']?(-?\d{1,9})["']?(?=\s*[,}\n])""", re.IGNORECASE)
_STATE_OF_END = re.compile(_KEY.format(names="|".join(_STATE_KEYS)) + r"""["']?(\d{1,9})["']?\s*,""", re.IGNORECASE)
_STATE_AS_TEXT = re.compile(r"(?:state)?[\s_#]*(-?\d{1,9})", re.IGNORECASE)
_ACTION = re.compile(_KEY.format(names="|".join(_ACTION_KEYS)), re.IGNORECASE)
# What stands between items: commas, bullets, comments.
_BETWEEN = re.compile(r"(?:[\s,;*\-]|(?://|#)[^\n]*\n)*")
_END_OF_LIST = re.compile(r"[\s,]*\]")
# What is left of an answer that begins anew and is cut off, or that nobody can read. In the former, blanks are single
# ones: where several parts of a pattern may each be any number of them, it takes ages to find that it does not match.
_CUT_OFF = re.compile(r"""[{\[] ?\{? ?["'\u201c]?\w{0,20}["'\u201d]? ?[:=]? ?[\[{]?$""")
_MAX_CUT_OFF = 60
_ANOTHER_ANSWER = re.compile(
    r"""(?<!["'\u201c\\])["'\u201c\\]+advice["'\u201d\\]*\s*:|^[^\S\n]*advice\s*:\s*(?:[\[{\-"']|$)|[{\[]\s*["'\u201c\\]+state["'\u201d\\]+\s*:""",
    re.MULTILINE,
)
_QUOTES = str.maketrans({"\u201c": '"', "\u201d": '"', "\u201e": '"'})


# The first item of a list, without its brace.
_NO_BRACE = re.compile(r"""\[\s*(?="state"\s*:)""")
# What models say before they take back a part of what they said.
_AMENDS = re.compile(r"\b(?:correct|amend|revis|updat|instead|chang|fix|mistake|sorry|oops|wait)", re.IGNORECASE)


class _Ambiguous(dict):
    """An object that says something twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Ambiguous(found)


# Python refuses to read integers of more than 4300 digits; as floats they become infinite, and only their item is lost.
_DECODER = json.JSONDecoder(
    strict=False,
    object_pairs_hook=_object,
    parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits),
)


@dataclass
class RawAnswer:
    """
    What an answer says, before anything of it is checked.

    :param items: What it says of the states, in order: objects with ``state`` and perhaps ``action``, or ``None`` for
        what is no item
    :param fault: Why no more of it was understood: ``"truncated"``, ``"malformed_item"``, ``"not_json"`` or
        ``"no_advice"``; ``None`` if all of it was, so that it says nothing of a state that it leaves out
    :param cut_off: States about which the answer breaks off
    :param lost: States about which it says what nobody can read
    """

    items: list[Any] = field(default_factory=list)
    fault: str | None = None
    cut_off: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)


@dataclass
class _Group:
    """
    Items that belong together.

    :param is_list: Whether they are a list, and not one after the other
    :param start: Where it begins in the text
    :param end: Where it ends in the text, as far as it was read
    :param needs_end: Whether the list has yet to end there
    """

    items: list[Any] = field(default_factory=list)
    fault: str | None = None
    cut_off: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    is_list: bool = True
    start: int = 0
    end: int = 0
    needs_end: bool = False


def without_thoughts(text: str) -> str:
    """
    Leave out what a model thought before it answered, where it says so.

    :param text: Its words
    :return: What it did not think, if there is anything in it that looks like JSON, or all
    """
    said, position, depth = list[str](), 0, 0
    for tag in _THOUGHT_TAG.finditer(text):
        if depth == 0:
            said.append(text[position : tag.start()])
        if tag[1] and depth == 0:
            said = []  # some servers leave out where thoughts begin
        depth = 0 if tag[1] else 1
        position = tag.end()
    if depth == 0:
        said.append(text[position:])
    answer = "".join(said)
    return answer if re.search(r"[{\[]", answer) else text


def state_number(item: Any) -> int | None:
    """
    Say which state an item is about.

    :param item: An item
    :return: The state's number, or ``None`` if it is no item
    """
    state = item.get("state") if isinstance(item, dict) else None
    if isinstance(state, str):
        match = _STATE_AS_TEXT.fullmatch(state.strip())
        return int(match[1]) if match else None
    if isinstance(state, float) and state.is_integer() and abs(state) < 1e9:
        return int(state)
    return state if isinstance(state, int) and not isinstance(state, bool) else None


def read_items(text: str) -> RawAnswer:
    """
    Find what an answer says of each state.

    Fences and prose do not matter. Items may stand in an object with a list, under whatever key, in a list by itself,
    one after the other, or by their state's number; one that is no JSON is read if its state and its action are there
    to their ends. What comes later goes before drafts: a whole answer replaces one about some of the same states, and
    an answer that breaks off, or that nobody can read, the one before it.

    :param text: The model's words
    :return: What it says
    """
    text = _NO_BRACE.sub("[{", without_thoughts(text[:MAX_ANSWER_LENGTH]))
    answer = _read(text)
    if answer.fault in ("not_json", "no_advice"):
        for other in with_other_quotes(text):
            again = _read(other)
            if again.items:
                return again
    return answer


def with_other_quotes(text: str) -> Iterator[str]:
    """
    Say in what other ways a text in which nothing was found may be meant.

    :param text: A model's words
    :return: Them with straight quotes in place of typographic ones, and as they were before they were put in a string,
        as far as that changes anything
    """
    for other in (text.translate(_QUOTES), text.replace('\\"', '"').replace("\\n", "\n")):
        if other != text:
            yield other


def _read(text: str) -> RawAnswer:
    scan = _Scan(text)
    kept: dict[Any, list[Any]] = {}
    fault: str | None = None
    cut_off: list[int] = []
    lost: list[int] = []
    n_groups = end = 0
    for group in scan.groups():
        n_groups += 1
        between, end = text[end : group.start], group.end
        by_state: dict[Any, list[Any]] = {}
        for i, item in enumerate(group.items):
            state = state_number(item)
            by_state.setdefault((n_groups, i) if state is None else state, []).append(item)
        if not group.is_list:
            for state in group.cut_off:
                kept.pop(state, None)
            by_state = {state: items for state, items in by_state.items() if state not in kept or _says(items)}
        elif group.fault or fault or not by_state or any(state in kept for state in by_state):
            # A draft, or a list that broke off and was begun anew; unless a part of it is taken back.
            is_part = not group.fault and not fault and 0 < len(by_state) < len(kept) and by_state.keys() <= kept.keys()
            if not (is_part and _AMENDS.search(between)):
                kept, fault, cut_off = {}, None, []
        kept.update(by_state)
        fault = group.fault or fault
        cut_off += group.cut_off
        lost += group.lost
    rest = text[scan.end :]
    if n_groups and not scan.gave_up and (_ANOTHER_ANSWER.search(rest) or _is_cut_off(rest)):
        goes_on = scan.ends_with_items and _BETWEEN.fullmatch(rest[: rest.rfind("{")]) is not None
        if not goes_on:
            return RawAnswer([], "not_json")
        fault = "truncated"
    if not n_groups:
        return RawAnswer(fault="no_advice" if scan.found_json else "not_json")
    if scan.gave_up:
        fault = fault or "malformed_item"
    items = [item for of_state in kept.values() for item in of_state]
    if fault == "truncated" and not items and not cut_off:
        fault = "not_json"
    return RawAnswer(items, fault, cut_off, lost)


def _is_cut_off(text: str) -> bool:
    return _CUT_OFF.search(" ".join(text.split())[-_MAX_CUT_OFF:]) is not None


def _says(items: list[Any]) -> bool:
    return any(isinstance(item, dict) and "action" in item and "is_guess" not in item for item in items)


class _Scan:
    """
    Looks for advice in a text, from its beginning to its end.

    :param text: The text
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.found_json = False
        # Whether there was too much that is no JSON to look at the rest.
        self.gave_up = False
        # Where the last group ends, and whether it is one of items by themselves.
        self.end = 0
        self.ends_with_items = False
        self._n_false_starts = self._n_broken = self._n_in_vain = 0

    def groups(self) -> Iterator[_Group]:
        """
        Find what belongs together.

        :return: The groups, in order
        """
        group: _Group | None = None
        position = 0
        while self._n_false_starts < MAX_FALSE_STARTS and self._n_in_vain < _MAX_READ_IN_VAIN:
            match = _OBJECT_START.search(self.text, position)
            if match is None:
                break
            start = match.start()
            value, end = self._decoded(start)
            whole = _whole(value)
            item = _item(value)
            if whole is not None:
                yield from self._closed(group)
                group = None
                self.found_json = True
                self.end, self.ends_with_items = end, False
                yield _Group(whole, start=start, end=end)
                position = end
            elif item is not None:
                group, done = self._joined(group, start)
                yield from done
                group.items.append(item)
                group.end = position = end
            elif end > start and not isinstance(value, _Ambiguous):
                self.found_json = True
                if self._is_in(group, start):
                    group, done = self._joined(group, start)
                    yield from done
                    self._lose(group, end)
                position = end
            elif _ITEM_START.match(self.text, start) and self._n_broken < _MAX_BROKEN_ITEMS:
                self._n_broken += 1
                group, done = self._joined(group, start)
                yield from done
                position = self._read_broken(group, start)
            elif _CONTAINER_START.match(self.text, start):
                self._n_false_starts += 1
                yield from self._closed(group)
                position = self.text.index("[", start) + 1
                group = _Group(start=start, end=position, needs_end=True)
            else:
                self._n_false_starts += 1
                position = start + 1
                if self._is_in(group, start):
                    group, done = self._joined(group, start)
                    yield from done
                    stop = _end_of_piece(self.text, start)
                    closing = self.text.rfind("}", start, stop)
                    self._lose(group, closing + 1 if closing >= 0 else stop)
        else:
            self.gave_up = True
        yield from self._closed(group)

    def _decoded(self, start: int) -> tuple[Any, int]:
        try:
            return _DECODER.raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            self._n_in_vain += max(0, error.pos - start)
        except (ValueError, RecursionError):
            self._n_in_vain += _OF_TOO_DEEP
        return None, start

    def _is_in(self, group: _Group | None, start: int) -> bool:
        """Whether something stands where an item should be."""
        return self._begins_list(start) or (
            group is not None and _BETWEEN.fullmatch(self.text, group.end, start) is not None
        )

    def _begins_list(self, start: int) -> bool:
        return self.text[max(0, start - _MAX_INDENT) : start].rstrip().endswith("[")

    def _joined(self, group: _Group | None, start: int) -> tuple[_Group, list[_Group]]:
        """The group that something at a place is part of, and the one before if it is none of that."""
        if group is not None and _BETWEEN.fullmatch(self.text, group.end, start):
            return group, []
        in_list = self._begins_list(start)
        return _Group(is_list=in_list, start=start, end=start, needs_end=in_list), list(self._closed(group))

    def _closed(self, group: _Group | None) -> Iterator[_Group]:
        if group is not None:
            if group.needs_end and not group.fault and not _END_OF_LIST.match(self.text, group.end):
                group.fault = "truncated"
            self.end, self.ends_with_items = group.end, not group.is_list
            yield group

    @staticmethod
    def _lose(group: _Group, end: int) -> None:
        group.items.append(None)
        group.fault = group.fault or "malformed_item"
        group.end = end

    def _read_broken(self, group: _Group, start: int) -> int:
        """An item that is no JSON."""
        stop = _end_of_piece(self.text, start)
        piece = self.text[start:stop]
        states = {match[1] for match in _STATE.finditer(piece)}
        actions = [found for match in _ACTION.finditer(piece) if (found := VALUE.match(piece, match.end()))]
        closing = piece.rfind("}")
        is_last = stop == len(self.text)
        if len(states) == 1 and len(actions) == 1:
            group.items.append({"state": int(states.pop()), "action": value_of(actions[0])})
            closing = piece.find("}", max(actions[0].end(), *(match.end() for match in _STATE.finditer(piece))))
            if closing < 0 and is_last:
                group.fault = "truncated"
        elif is_last and closing < 0:
            group.fault = "truncated"
            group.cut_off += [int(state) for state in _STATE_OF_END.findall(piece)[:1]]
        else:
            self._lose(group, 0)
            group.lost += [int(state) for state in states]
        group.end = start + closing + 1 if closing >= 0 else stop
        return stop


def _end_of_piece(text: str, start: int) -> int:
    """Where the next object begins that is no value of this one."""
    position = start + 1
    while (position := text.find("{", position)) >= 0:
        before = text[max(start, position - _MAX_INDENT) : position].rstrip()
        if not before.endswith((":", "=")):
            return position
        position += 1
    return len(text)


def _item(value: Any) -> dict[str, Any] | None:
    """What an object says of a state, under the usual keys, or ``None`` if it says nothing of one."""
    if not isinstance(value, dict) or isinstance(value, _Ambiguous):
        return None
    spelt = {re.sub(r"\W+", "_", key.strip().casefold()): key for key in value}
    states, actions = spelt.keys() & _STATE_KEYS, spelt.keys() & _ACTION_KEYS
    if "state" in states:
        states = {"state"}
    if len(states) != 1 or (states != {"state"} and not actions):
        return None
    state = value[spelt[states.pop()]]
    if isinstance(state, list | dict) or len(spelt) < len(value):
        return None
    if "action" in actions:
        actions = {"action"}
    if len(actions) == 1:
        return {"state": state, "action": value[spelt[actions.pop()]]}
    others = {key: part for key, part in value.items() if isinstance(part, int | float | list | dict)}
    others = {key: part for key, part in others.items() if re.sub(r"\W+", "_", key.casefold()) not in _STATE_KEYS}
    # What may be the action's components by their names.
    return {"state": state, "action": others, "is_guess": True} if others or actions else {"state": state}


def _whole(value: Any, depth: int = 0) -> list[Any] | None:
    """The items of an object that is an answer, under whatever key, or ``None`` if it is none."""
    if not isinstance(value, dict) or isinstance(value, _Ambiguous) or depth > _MAX_NESTING:
        return None
    if "advice" in value and "state" not in value:
        advice = value["advice"]
        if isinstance(advice, str):
            try:
                advice = _DECODER.decode(advice)
            except (ValueError, RecursionError):
                return None
        if advice is None:
            return []
        if isinstance(advice, list):
            others = [part for key, part in value.items() if key != "advice" and _is_list_of_items(part)]
            return [_item(item) for part in (advice, *others) for item in part]
        item = _item(advice)
        return [item] if item is not None else _by_state(advice)
    if _item(value) is not None:
        return None
    lists = [part for part in value.values() if _is_list_of_items(part)]
    if lists:
        return [_item(item) for part in lists for item in part]
    by_state = _by_state(value)
    if by_state is not None:
        return by_state
    inner = [found for part in value.values() if (found := _whole(part, depth + 1)) is not None]
    return inner[0] if len(inner) == 1 else None


def _is_list_of_items(part: Any) -> bool:
    return isinstance(part, list) and len(part) > 0 and all(_item(item) is not None for item in part)


def _by_state(value: Any) -> list[Any] | None:
    """Of an object that has actions by their state's number."""
    if not isinstance(value, dict) or isinstance(value, _Ambiguous) or not value:
        return None
    if not all(re.fullmatch(r"(?:state)?[\s_#]*\d{1,9}", key, re.IGNORECASE) for key in value):
        return None
    items = []
    for key, part in value.items():
        found = _item({"state": key, **part}) if isinstance(part, dict) and "state" not in part else None
        items.append(found if found is not None else {"state": key, "action": part})
    return items
