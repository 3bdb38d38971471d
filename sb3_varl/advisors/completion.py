"""What came back from a model, in whichever of its fields it is."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sb3_varl.advice.items import BEGIN_OF_THOUGHT, END_OF_THOUGHT, MAX_ANSWER_LENGTH

# What is kept of thoughts, so that the answer behind them is.
_MAX_THOUGHTS = MAX_ANSWER_LENGTH // 2
_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking_blocks", "thinking")
_MAX_TOKENS = 10**12
# Parts of parts.
_MAX_DEPTH = 10


@dataclass(frozen=True)
class Completion:
    """
    What a model said, and what that took.

    :param text: Its words, all of them: thoughts first, between ``<think>`` and ``</think>``, then what it answered,
        the arguments of tool calls included. Of several choices the first comes last, where it goes before the others
    :param said_anything: Whether it answered, apart from thoughts
    :param finish_reason: Why it ended, as far as the server tells
    :param refused: Whether it says that it refuses
    :param prompt_tokens: Tokens sent, 0 if nobody counted them
    :param completion_tokens: Tokens received
    :param has_choices: Whether it has any answer, be it an empty one
    :param response: litellm's response, for its price; ``None`` if litellm could not read what came
    """

    text: str
    said_anything: bool
    finish_reason: str | None
    refused: bool
    prompt_tokens: int
    completion_tokens: int
    has_choices: bool = True
    response: Any = None


def read_completion(data: dict[str, Any], response: Any = None) -> Completion:
    """
    Read a response of OpenAI's protocol, or what some servers make of it.

    :param data: The response, as JSON
    :param response: litellm's response, if it could read it
    :return: What the model said
    """
    found = data.get("choices")
    choices = [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []
    thoughts, words = list[str](), list[str]()
    refusals = list[str]()
    for choice in reversed(choices):
        message = choice.get("message")
        message = message if isinstance(message, dict) else {}
        extra = message.get("provider_specific_fields")
        extra = extra if isinstance(extra, dict) else {}
        fields = {**extra, **{name: value for name, value in message.items() if value is not None}}
        thoughts += dict.fromkeys(text for name in _THOUGHT_FIELDS for text in _texts(fields.get(name)))
        said = list(_said(fields, thoughts)) or list(_texts(choice.get("text")))
        refusals += _texts(fields.get("refusal"))
        words += said
    said_anything = any(text.strip() for text in words)
    answer = "\n".join(words if said_anything else refusals)
    thought = "\n".join(thoughts)[-_MAX_THOUGHTS:]
    if thought.strip():
        answer = f"{BEGIN_OF_THOUGHT}\n{thought}\n{END_OF_THOUGHT}\n\n{answer}"
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        answer,
        said_anything,
        choices[0].get("finish_reason") if choices else None,
        bool(refusals) and not said_anything,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        bool(choices),
        response,
    )


def _said(message: dict[str, Any], thoughts: list[str]) -> Iterator[str]:
    """What is meant as the answer; thoughts among its parts go to the others."""
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and any(word in str(part.get("type")) for word in ("think", "reason")):
                thoughts += _texts(part)
            else:
                yield from _texts(part)
    else:
        yield from _texts(content)
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) else []
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    for function in (*functions, message.get("function_call")):
        if isinstance(function, dict):
            yield from _texts(function.get("arguments"))
    if not content and not calls:
        yield from _texts(message.get("parsed"))


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts in a field: a string, a list of parts, a part, or an object that is the answer itself."""
    if isinstance(value, str):
        if value:
            yield value[: MAX_ANSWER_LENGTH + 1000]
    elif depth > _MAX_DEPTH:
        return
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, depth + 1)
    elif isinstance(value, dict) and "advice" not in value and "rules" not in value:
        parts = [value[name] for name in ("text", "thinking", "content") if isinstance(value.get(name), str)]
        # A part of another kind, such as a picture, says nothing.
        yield from _texts(parts[:1] if "type" in value or parts else _as_json(value), depth + 1)
    elif isinstance(value, dict):
        yield from _texts(_as_json(value), depth + 1)


def _as_json(value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, default=str)
    except (ValueError, RecursionError):
        return ""


def _count(value: Any) -> int:
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    # A number that is no number of tokens.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_TOKENS else 0
