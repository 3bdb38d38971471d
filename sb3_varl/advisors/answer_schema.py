"""The form of an answer as a JSON schema, for providers that hold a model to one (``response_format``)."""

import math
from typing import Any

from gymnasium import spaces

from sb3_varl.advice.types import Form


def response_format(form: Form, action_space: spaces.Box, is_correction: bool = False) -> dict[str, Any]:
    """
    Put the form of an answer into what ``litellm.completion`` takes as ``response_format``.

    Every property is required and no other allowed, which is what providers ask of a strict schema.

    :param form: What is asked for
    :param action_space: The environment's action space
    :param is_correction: Whether rules may be kept as they are
    :return: The schema, with what stands around it
    """
    schema = _of_rules(is_correction) if form == "rules" else _of_actions(math.prod(action_space.shape))
    return {"type": "json_schema", "json_schema": {"name": form, "strict": True, "schema": schema}}


def _of_actions(n: int) -> dict[str, Any]:
    action = {"type": "array", "items": {"type": "number"}, "description": f"{n} numbers"}
    # Words come first, so that they can say what the numbers follow from.
    entry = _object(reason={"type": "string"}, state={"type": "integer"}, action=action)
    return _object(advice={"type": "array", "items": entry})


def _of_rules(is_correction: bool) -> dict[str, Any]:
    text = {"type": "string"}
    let = {"type": "array", "items": {"type": "string", "description": "<name> = <expression>"}}
    rule = _object(name=text, let=let, when=text, action={"type": "array", "items": text})
    rules = {"type": "array", "items": rule}
    keep = {"keep": {"type": "boolean", "description": "true, and no rules, to leave them as they are"}}
    return _object(plan=text, **(keep if is_correction else {}), rules=rules)


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
