"""From the text of an answer, whatever it is, to actions that can be used."""

import json
import math
import pathlib
import re
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_varl.advice.items import RawAnswer, read_items, state_number
from sb3_varl.advice.plain_answers import read_plain
from sb3_varl.advice.types import UNREAD, AdviceWarning, Answer, Rejection, StandingAdvice
from sb3_varl.advice.validation import check_action
from sb3_varl.redaction import example_of

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# Of a list that is text.
_MAX_TEXT = 10_000
# Lists around the numbers of an action.
_MAX_NESTING = 3
# Of fewer states, nobody can tell whether they were counted from 1.
_MIN_COUNTED = 3


@dataclass(frozen=True)
class ParsedAnswer:
    """
    What an answer was worth.

    :param actions: For the index of each advised state an action of the action space
    :param rejected: What could not be used, and why
    :param standing: What it advises in any state, if it says so
    """

    actions: dict[int, np.ndarray]
    rejected: tuple[Rejection, ...]
    standing: StandingAdvice | None = None


def parse_answer(
    text: str,
    indices: Sequence[int],
    action_space: spaces.Box,
    names: Sequence[str] = (),
    is_cut: bool = False,
) -> ParsedAnswer:
    """
    Read the advice out of an answer, item by item, so that a bad item does not cost the others.

    A state that the answer leaves out, or for which its action is ``null``, is abstained from: it is in neither
    part of the result. If something of the answer was not understood, a state that is not in the rest is rejected for
    that. States that were counted from 1 are counted from 0 again if the answer is about all of them, which is among
    the rejections, as ``counted_from_1`` and about no state; otherwise all are rejected.

    :param text: The model's words, whatever they are (see :func:`~sb3_varl.advice.items.read_items`, and
        :func:`~sb3_varl.advice.plain_answers.read_plain` for those without JSON)
    :param indices: The states that were asked about
    :param action_space: The environment's action space
    :param names: Names of the action's components, by which an action may give them
    :param is_cut: Whether it is known to break off, so that it abstains from nothing that it does not say
    :return: The usable actions and the rejections; where the reading itself fails, that (see :func:`unread`)
    """
    try:
        return _parse_answer(text, indices, action_space, names, is_cut)
    except Exception as error:
        return unread(error, indices)


def _parse_answer(
    text: str, indices: Sequence[int], action_space: spaces.Box, names: Sequence[str], is_cut: bool
) -> ParsedAnswer:
    raw = read_items(text)
    if not raw.items and raw.fault in ("not_json", "no_advice"):
        raw = read_plain(text, is_cut) or raw
    if is_cut and raw.fault is None:
        raw.fault = "truncated"
    if not raw.items and not raw.cut_off and raw.fault is not None:
        return ParsedAnswer({}, tuple(Rejection(raw.fault, index) for index in indices))

    actions: dict[int, np.ndarray] = {}
    rejected: list[Rejection] = []
    asked, seen = frozenset(indices), set[int]()
    offset = _offset(raw, asked)
    if offset is None:
        return ParsedAnswer({}, tuple(Rejection("counted_from_1", index) for index in indices))
    if offset:
        rejected.append(Rejection("counted_from_1"))
    fault = raw.fault
    for item in raw.items:
        state = state_number(item)
        if state is None:
            rejected.append(Rejection("malformed_item"))
            fault = fault or "malformed_item"
            continue
        state -= offset
        if state not in asked:
            rejected.append(Rejection("unknown_state"))
        elif state in seen:
            rejected.append(Rejection("duplicate_state", state))
        elif item.get("action") is not None:
            action = _checked(item["action"], action_space, names)
            if isinstance(action, str):
                rejected.append(Rejection(action, state))
            else:
                actions[state] = action
        seen.add(state)
    if fault is not None:
        rejected += [Rejection(fault, index) for index in indices if index not in seen]
    return ParsedAnswer(actions, tuple(rejected))


def unread(error: Exception, indices: Sequence[int]) -> ParsedAnswer:
    """
    Give an answer up that this package failed to read, so that its fault costs that one answer.

    :param error: What was raised
    :param indices: The states that were asked about
    :return: Nothing but their rejection
    """
    *_, place = traceback.extract_tb(error.__traceback__)
    said = example_of(error)
    warnings.warn(
        f"An answer could not be read: {said} ({pathlib.Path(place.filename).name}, line {place.lineno}). That is a "
        "fault of sb3_varl's, not the model's. The answer is in the advice log, to be read when it is mended; please "
        "report it.",
        AdviceWarning,
        stacklevel=3,
    )
    return ParsedAnswer({}, tuple(Rejection(UNREAD, index, said) for index in indices))


def parse_answers(answers: Iterable[Answer], action_space: spaces.Box, names: Sequence[str] = ()) -> ParsedAnswer:
    """
    Read the advice out of several answers about different states, of those that give actions.

    :param answers: The answers
    :param action_space: The environment's action space
    :param names: Names of the action's components
    :return: The usable actions and the rejections of all
    """
    parsed = [
        parse_answer(answer.text, answer.states, action_space, names, answer.is_cut)
        for answer in answers
        if answer.form == "actions"
    ]
    actions = {state: action for one in parsed for state, action in one.actions.items()}
    return ParsedAnswer(actions, tuple(rejection for one in parsed for rejection in one.rejected))


def _offset(raw: RawAnswer, asked: frozenset[int]) -> int | None:
    """By how much the answer's numbers are above those that were asked about, or ``None`` if that cannot be told."""
    named = {state for item in raw.items if (state := state_number(item)) is not None}
    answered = named | set(raw.cut_off) | set(raw.lost)
    if not asked or not answered or min(answered) == min(asked):
        return 0
    offset = min(answered) - min(asked)
    is_usual = min(answered) in (0, 1) or (offset == 1 and len(asked) > 1)
    if is_usual and answered == {index + offset for index in asked}:
        return offset
    is_suspicious = min(asked) not in answered and max(asked) + 1 in answered and len(answered) >= _MIN_COUNTED
    return None if is_suspicious else 0


def _checked(action: Any, space: spaces.Box, names: Sequence[str]) -> np.ndarray | str:
    n = math.prod(space.shape)
    if isinstance(action, str) and action.strip().startswith("[") and len(action) < _MAX_TEXT:
        try:
            action = json.loads(action)
        except (ValueError, RecursionError):
            return "not_numbers"
    if isinstance(action, dict):
        by_name = {_spelt(name): value for name, value in action.items()}
        spelt = [_spelt(name) for name in names]
        if not names or len(by_name) != len(action) or set(by_name) != set(spelt):
            return "wrong_shape" if names else "not_numbers"
        action = [by_name[name] for name in spelt]
    parts = _flat(action, n)
    if isinstance(parts, str):
        return parts
    numbers = [_number(part) for part in parts]
    if None in numbers:
        return "not_numbers"
    values = np.array(numbers, np.float64)
    if not np.isfinite(values).all():
        return "not_finite"
    return check_action(values.reshape(space.shape), space)


def _flat(action: Any, n: int) -> list[Any] | str:
    """The numbers of an action, which may be in lists of their own, or one by itself."""
    parts = action if isinstance(action, list) else [action]
    for _ in range(_MAX_NESTING):
        # So that a list of any length costs no more than one of the right length.
        parts = [inner for part in parts[: n + 1] for inner in (part[: n + 1] if isinstance(part, list) else [part])]
    if any(isinstance(part, list | dict) for part in parts[: n + 1]):
        return "not_numbers"
    if len(parts) != n:
        return "wrong_shape" if isinstance(action, list) or _number(action) is not None else "not_numbers"
    return parts


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        text = value.strip().replace("\N{MINUS SIGN}", "-")
        return float(text) if len(text) < 50 and _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # of an integer of hundreds of digits
        return math.inf


def _spelt(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip().casefold())
