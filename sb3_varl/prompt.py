"""From a query to the messages of a chat, and from the text of an answer to actions that can be used."""

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from gymnasium import spaces
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError

from sb3_varl.advice import AdviceQuery, Briefing, Rejection, VisitedState, check_action

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
    """

    actions: dict[int, np.ndarray]
    rejected: tuple[Rejection, ...]


def system_prompt(briefing: Briefing, task: str) -> str:
    """
    Put into words what stays the same over all queries of a run.

    :param briefing: The spaces and the environment's task sheet
    :param task: The task in words
    :return: The text of the system message
    :raises ValueError: if the task sheet does not fit the spaces
    """
    sheet = briefing.sheet
    sections = [
        "You advise a reinforcement learning agent. You are shown states that it visited, and the action that it "
        "executed in each. Say for each state which action would bring it closest to solving the task. "
        "The executed action may have been good or bad.",
        f"Task: {task}",
        f"Goal: {sheet.goal}" if sheet is not None and sheet.goal not in ("", task) else "",
        _action_section(briefing),
        _observation_section(briefing),
        f"Notes: {sheet.notes}" if sheet is not None and sheet.notes else "",
        "Each state comes as one line of JSON with its number, its observation and the executed action. "
        "A picture that follows a line shows that very state.",
        'Answer with one JSON object and nothing else:\n{"advice": [{"state": 0, "action": ['
        + ", ".join(f"<{name}>" for name in _action_names(briefing))
        + "]}, ...]}\nActions are plain JSON numbers within the bounds. "
        'An entry may have a "reason" of a few words. Leave out a state for which you have no advice.',
    ]
    return "\n\n".join(section for section in sections if section)


def build_messages(query: AdviceQuery, indices: Sequence[int], task: str, image_size: int = 224) -> list[dict]:
    """
    Put some states of a query before a model.

    :param query: The query
    :param indices: Which of the query's states to ask about, as indices into ``query.states``
    :param task: The task in words
    :param image_size: Length to which a frame's longer side is scaled down, in pixels; frames are never scaled up
    :return: Messages as OpenAI's chat protocol has them
    :raises ValueError: if the task sheet does not fit the spaces
    """
    parts: list[dict[str, Any]] = []
    for index in indices:
        state = query.states[index]
        parts.append({"type": "text", "text": _state_line(index, state)})
        if state.frame is not None:
            parts.append({"type": "image_url", "image_url": {"url": _data_url(state.frame, image_size)}})
    # Servers of text models often take nothing but a string.
    text_only = all(part["type"] == "text" for part in parts)
    return [
        {"role": "system", "content": system_prompt(query.briefing, task)},
        {"role": "user", "content": "\n".join(part["text"] for part in parts) if text_only else parts},
    ]


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


def _action_names(briefing: Briefing) -> list[str]:
    n_components = math.prod(briefing.action_space.shape)
    named = briefing.sheet.action if briefing.sheet is not None else ()
    if not named:
        return [f"action[{i}]" for i in range(n_components)]
    if len(named) != n_components:
        raise ValueError(
            f"The task sheet names {len(named)} action components, but the action space has {n_components}. "
            "Name all of them in order, or none."
        )
    return [component.name for component in named]


def _action_section(briefing: Briefing) -> str:
    space = briefing.action_space
    names = _action_names(briefing)
    named = briefing.sheet.action if briefing.sheet is not None else ()
    meanings = [component.meaning for component in named] or [""] * len(names)
    lines = [f"An action is a list of {len(names)} numbers, in this order:"]
    for name, meaning, low, high in zip(names, meanings, space.low.flat, space.high.flat, strict=True):
        lines.append(f"- {name}{f' ({meaning})' if meaning else ''}: {_bounds(float(low), float(high))}")
    return "\n".join(lines)


def _bounds(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "any number"
    if math.isinf(low):
        return f"at most {high:.6g}"
    if math.isinf(high):
        return f"at least {low:.6g}"
    return f"from {low:.6g} to {high:.6g}"


def _observation_section(briefing: Briefing) -> str:
    space = briefing.observation_space
    if isinstance(space, spaces.Dict):
        entries = [f"- {key}: {_layout(subspace)}" for key, subspace in space.spaces.items()]
        return "\n".join(["An observation is an object with these entries:", *entries])
    lines = [f"An observation is {_layout(space)}."]
    for part in briefing.sheet.observation if briefing.sheet is not None else ():
        if not 0 <= part.start < part.stop <= math.prod(space.shape or ()):
            raise ValueError(
                f"The task sheet's slice {part.name!r} goes from {part.start} to {part.stop}, "
                f"which is no part of an observation of shape {space.shape}."
            )
        meaning = f" ({part.meaning})" if part.meaning else ""
        lines.append(f"- entries {part.start} to {part.stop - 1}: {part.name}{meaning}")
    return "\n".join(lines)


def _layout(space: spaces.Space) -> str:
    shape = space.shape or ()
    if _is_image(space):
        return "an image, not written out in numbers: see the picture"
    if len(shape) == 1:
        return f"a list of {shape[0]} numbers"
    return f"an array of shape {shape}" if shape else f"a number ({space})"


def _is_image(thing: Any) -> bool:
    """Whether a space, or an array of it, has the makings of a picture."""
    return thing.dtype == np.uint8 and len(thing.shape or ()) >= 2


def _state_line(index: int, state: VisitedState) -> str:
    observation = state.observation
    shown = (
        {key: _rounded(np.asarray(value)) for key, value in observation.items()}
        if isinstance(observation, dict)
        else _rounded(np.asarray(observation))
    )
    line = {"state": index, "observation": shown, "executed_action": _rounded(np.ravel(state.executed_action))}
    # A space after each comma would cost a token for each number.
    return json.dumps(line, separators=(",", ": "), allow_nan=False)


def _rounded(array: np.ndarray) -> Any:
    if _is_image(array):
        return "see the picture"
    return _round_nested(array.tolist())


def _round_nested(value: Any) -> Any:
    if isinstance(value, list):
        return [_round_nested(entry) for entry in value]
    if not isinstance(value, float):
        return int(value)
    if not math.isfinite(value):
        # JSON has no such numbers.
        return str(value)
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded


def _data_url(frame: np.ndarray, image_size: int) -> str:
    image = Image.fromarray(frame)
    image.thumbnail((image_size, image_size))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
