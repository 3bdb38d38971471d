"""
What there is to know about an environment: from its attribute ``task_sheet``, or from a file.

A file is YAML, with the names that :class:`~sb3_varl.TaskSheet` has::

    goal: Push the block onto the red dot.
    action:
      - {name: dx, meaning: "metres a step, to the right"}
      - {name: dy, meaning: "metres a step, away from the camera"}
    observation:
      - {name: gripper, start: 0, stop: 3, meaning: "position in metres", key: observation}
    notes: The camera looks along the y-axis.

All but ``goal`` may be left out. An action's components are all named, in order, or none. ``key`` is for Dict
observations.
"""

import os
import pathlib

import pydantic
import yaml
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_varl.advice.types import Briefing, TaskSheet
from sb3_varl.advisors.prompt import action_names

# Of a list, because a dataclass by itself takes no configuration from outside.
_ADAPTER = pydantic.TypeAdapter(list[TaskSheet], config=pydantic.ConfigDict(extra="forbid"))


def load_task_sheet(path: str | os.PathLike[str]) -> TaskSheet:
    """
    Read a task sheet from a YAML file.

    :param path: The file
    :return: The task sheet
    :raises OSError: if the file cannot be read
    :raises ValueError: if it holds something other than a task sheet
    """
    try:
        content = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
        return _ADAPTER.validate_python([content])[0]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    except pydantic.ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'][1:])) or 'the file'} is {fault['input']!r} ({fault['msg']})"
            for fault in error.errors()
        ]
        raise ValueError(
            f"{path} is no task sheet: {'; '.join(faults)}. Expected goal, and perhaps action, observation and notes; "
            "see the documentation of sb3_varl.advice.sheets."
        ) from None


def make_briefing(
    env: VecEnv,
    task: str | None = None,
    sheet: TaskSheet | None = None,
    frames: bool = True,
) -> Briefing:
    """
    Put together what an advisor is told of an environment.

    :param env: The environment
    :param task: The task in words. ``None`` for the goal of the task sheet
    :param sheet: A task sheet. ``None`` for the environment's attribute ``task_sheet``, if it has one
    :param frames: Whether states come with pictures
    :return: The briefing
    :raises TypeError: if the environment's ``task_sheet`` is none, or its actions are not continuous
    :raises ValueError: if the task sheet names another number of action components than there are
    """
    if sheet is None and _has_attr(env, "task_sheet"):
        sheet = env.get_attr("task_sheet", indices=[0])[0]
        if not isinstance(sheet, TaskSheet):
            raise TypeError(f"The environment's task_sheet is {sheet!r}, expected a sb3_varl.TaskSheet.")
    if not isinstance(env.action_space, spaces.Box):
        raise TypeError(f"Advice is for continuous actions, a Box, but the action space is {env.action_space}.")
    briefing = Briefing(
        action_space=env.action_space,
        observation_space=env.observation_space,
        task=task or (sheet.goal if sheet else None),
        sheet=sheet,
        frames=frames,
    )
    action_names(briefing)
    return briefing


def _has_attr(env: VecEnv, name: str) -> bool:
    try:
        return env.has_attr(name)
    except NotImplementedError:  # somebody's own VecEnv need not give its environments' attributes
        return False
