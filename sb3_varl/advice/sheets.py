"""
What there is to know about an environment: from its attribute ``task_sheet``, or from a file.

A file is YAML, with the names that :class:`~sb3_varl.TaskSheet` has::

    goal: Push the block onto the red dot.
    action:
      - {name: dx, meaning: "metres a step, to the right"}
      - {name: dy, meaning: "metres a step, away from the camera"}
    observation:
      - {name: gripper, start: 0, stop: 3, meaning: "position in metres", key: observation}
    success: The block's middle is within 2 cm of the dot's; touching it once is enough.
    sizes: The block is a cube of 5 cm, and its middle is reported.
    lag: The gripper trails the commanded motion by about 1 cm.
    notes: The camera looks along the y-axis.

All but ``goal`` may be left out. An action's components are all named, in order, or none; ``action: [dx, dy]`` says no
more than their names. ``key`` is for Dict observations. ``print(sheet)`` writes a sheet in this form.
"""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Hashable
from typing import Any

import pydantic
import pydantic_core
import yaml

from sb3_varl.advice.types import ActionComponent, Briefing, ObservationSlice, TaskSheet

# What might be taken for the markers of the environment's part.
_MARKER = re.compile(r"<(?=\s*/?\s*environment)", re.IGNORECASE)
# Of a list, because a dataclass by itself takes no configuration from outside.
_ADAPTER = pydantic.TypeAdapter(list[TaskSheet], config=pydantic.ConfigDict(extra="forbid"))


class _SaidTwice(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """One that tells of a key that is there twice, where YAML's would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        said = set()
        keys = (key for key, _ in node.value) if isinstance(node, yaml.MappingNode) else ()
        for key in (key for key in keys if isinstance(key, yaml.ScalarNode)):
            if key.value in said:
                raise _SaidTwice(f"{key.value!r} twice, again in line {key.start_mark.line + 1}")
            said.add(key.value)
        return super().construct_mapping(node, deep)


def load_task_sheet(path: str | os.PathLike[str]) -> TaskSheet:
    """
    Read a task sheet from a YAML file.

    :param path: The file
    :return: The task sheet
    :raises OSError: if the file cannot be read
    :raises ValueError: if it holds something other than a task sheet
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    return read_task_sheet(text, str(path))


def read_task_sheet(text: str, name: str) -> TaskSheet:
    """
    Read a task sheet from YAML.

    :param text: The YAML
    :param name: What it is called in errors
    :return: The task sheet
    :raises ValueError: if it is something other than a task sheet
    """
    try:
        content = yaml.load(text, _Loader)
    except _SaidTwice as error:
        raise ValueError(f"{name} has {error}. Keep one of them.") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:  # no such date, for one
        raise ValueError(f"{name} is no YAML: {' '.join(str(error).split())}") from None
    try:
        if isinstance(content, dict) and isinstance(content.get("action"), list):
            named = [{"name": part} if isinstance(part, str) else part for part in content["action"]]
            content = {**content, "action": named}
        return _ADAPTER.validate_python([content])[0]
    except pydantic.ValidationError as error:
        faults = "; ".join(map(_in_words, error.errors()))
        raise ValueError(
            f"{name} is no task sheet: {faults}. Expected goal, and perhaps action, observation, success, "
            "sizes, lag and notes; see the documentation of sb3_varl.advice.sheets."
        ) from None


def _in_words(fault: pydantic_core.ErrorDetails) -> str:
    *outer, last = list(map(str, fault["loc"][1:])) or ["the file"]
    place = ".".join(outer) or "it"
    if fault["type"] == "missing":
        return f"{place} has no {last}"
    if fault["type"] == "unexpected_keyword_argument":
        fields = {"action": ActionComponent, "observation": ObservationSlice}.get(outer[0] if outer else "", TaskSheet)
        expected = ", ".join(field.name for field in dataclasses.fields(fields))
        return f"{place} has {last}, which is none of {expected}"
    if fault["type"] == "dataclass_type" and outer == ["action"]:
        return f"action.{last} is {fault['input']!r}, expected a name, in quotes if need be, or one with a meaning"
    return f"{'.'.join([*outer, last])} is {fault['input']!r} ({fault['msg']})"


def action_names(briefing: Briefing) -> list[str]:
    """
    Name the components of an action.

    :param briefing: The action space and the environment's task sheet
    :return: The sheet's names, or ``action[0]`` and so on
    :raises ValueError: if the task sheet has another number of them, or two of one name
    """
    n_components = math.prod(briefing.action_space.shape)
    named = briefing.sheet.action if briefing.sheet is not None else ()
    if not named:
        return [f"action[{i}]" for i in range(n_components)]
    if len(named) != n_components:
        raise ValueError(
            f"The task sheet names {len(named)} action components, but the action space has {n_components}. "
            "Name all of them in order, or none."
        )
    names = [as_data(component.name) for component in named]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"The task sheet calls two action components {twice!r}. Rename one of them.")
    return names


def as_data(text: str) -> str:
    """
    Make something that the environment says fit to stand in a prompt.

    :param text: The text
    :return: One line that cannot end the part of the prompt that it stands in
    """
    return " ".join(_MARKER.sub("(", text).split())
