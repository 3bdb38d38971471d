"""From the text of an answer, whatever it is, to actions that can be used."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from gymnasium import spaces
from pydantic import Field, TypeAdapter, ValidationError

from sb3_varl.advice.types import Answer, Rejection, StandingAdvice, check_action

# What is read of an answer, in characters: far beyond any real one, and parsed in well under a second.
MAX_ANSWER_LENGTH = 200_000
# How many times something in an answer may look like the start of a JSON object without being one.
MAX_FALSE_STARTS = 50

_STATE = TypeAdapter(Annotated[int, Field(strict=True)])
_ACTION = TypeAdapter(list[Annotated[float, Field(strict=True, allow_inf_nan=False)]])
# The braces of formulas and sets in a model's prose are none of these.
_OBJECT_START = re.compile(r'\{\s*["}]')
# Python refuses to read integers of more than 4300 digits; as floats they become infinite, and only their item is lost.
_DECODER = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))


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


def parse_answer(text: str, indices: Sequence[int], action_space: spaces.Box) -> ParsedAnswer:
    """
    Read the advice out of an answer, item by item, so that a bad item does not cost the others.

    A state that the answer leaves out, or for which its action is ``null``, is abstained from: it is in neither
    part of the result. An answer that cannot be read at all is rejected once for each of its states.

    :param text: The model's words, whatever they are; fences and prose around the JSON do not matter, and of
        several JSON objects with advice the last one counts, as models tend to draft before they answer
    :param indices: The states that were asked about
    :param action_space: The environment's action space
    :return: The usable actions and the rejections
    """
    items: Any = None
    reason = "not_json"
    for candidate in _json_objects(text[:MAX_ANSWER_LENGTH]):
        reason = "no_advice"
        if isinstance(candidate.get("advice"), list):
            items = candidate["advice"]
    if items is None:
        return ParsedAnswer({}, tuple(Rejection(reason, index) for index in indices))

    actions: dict[int, np.ndarray] = {}
    rejected: list[Rejection] = []
    asked, seen = frozenset(indices), set[int]()
    for item in items:
        try:
            state = _STATE.validate_python(item.get("state") if isinstance(item, dict) else None)
        except ValidationError:
            rejected.append(Rejection("malformed_item"))
            continue
        if state not in asked:
            rejected.append(Rejection("unknown_state"))
        elif state in seen:
            rejected.append(Rejection("duplicate_state", state))
        elif item.get("action") is not None:
            action = _checked(item["action"], action_space)
            if isinstance(action, str):
                rejected.append(Rejection(action, state))
            else:
                actions[state] = action
        seen.add(state)
    return ParsedAnswer(actions, tuple(rejected))


def parse_answers(answers: Iterable[Answer], action_space: spaces.Box) -> ParsedAnswer:
    """
    Read the advice out of several answers about different states, of those that give actions.

    :param answers: The answers
    :param action_space: The environment's action space
    :return: The usable actions and the rejections of all
    """
    parsed = [parse_answer(answer.text, answer.states, action_space) for answer in answers if answer.form == "actions"]
    actions = {state: action for one in parsed for state, action in one.actions.items()}
    return ParsedAnswer(actions, tuple(rejection for one in parsed for rejection in one.rejected))


def _checked(action: Any, space: spaces.Box) -> np.ndarray | str:
    # Looked at first, so that a list of any length costs no more than one of the right length.
    if isinstance(action, list) and len(action) != math.prod(space.shape):
        return "wrong_shape"
    try:
        numbers = _ACTION.validate_python(action)
    except ValidationError as error:
        not_finite = all(detail["type"] == "finite_number" for detail in error.errors(include_input=False))
        return "not_finite" if not_finite else "not_numbers"
    return check_action(np.reshape(numbers, space.shape), space)


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    start, false_starts = _OBJECT_START.search(text), 0
    while start is not None and false_starts < MAX_FALSE_STARTS:
        try:
            candidate, end = _DECODER.raw_decode(text, start.start())
            yield candidate
        except (ValueError, RecursionError):
            false_starts += 1
            end = start.start() + 1
        start = _OBJECT_START.search(text, end)
