"""What an advisor is told of an environment before it is asked anything."""

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecFrameStack,
    VecNormalize,
    unwrap_vec_normalize,
    unwrap_vec_wrapper,
)

from sb3_varl.advice.sheets import action_names
from sb3_varl.advice.types import Briefing, TaskSheet
from sb3_varl.arguments import ArgumentError


def make_briefing(
    env: VecEnv,
    task: str | None = None,
    sheet: TaskSheet | None = None,
    frames: bool = True,
    read: spaces.Space | None = None,
) -> Briefing:
    """
    Put together what an advisor is told of an environment.

    :param env: The environment
    :param task: The task in words. ``None`` for the goal of the task sheet
    :param sheet: A task sheet. ``None`` for the environment's attribute ``task_sheet``, if it has one
    :param frames: Whether states come with pictures
    :param read: The space of what the advisor reads. ``None`` for that of the observations
    :return: The briefing
    :raises TypeError: if the environment's ``task_sheet`` is none, or its actions are not continuous
    :raises ValueError: if the task sheet names another number of action components than there are
    :raises ArgumentError: if the numbers that the environment's ``task_sheet`` names are not where it says, or nobody
        has them as they were before they were normalised
    """
    if sheet is None and _has_attr(env, "task_sheet"):
        sheet = env.get_attr("task_sheet", indices=[0])[0]
        if not isinstance(sheet, TaskSheet):
            raise TypeError(f"The environment's task_sheet is {sheet!r}, expected a sb3_varl.TaskSheet.")
        if sheet.observation and read is None:
            _check_places(env)
    if read is None:
        _check_originals(env)
    if not isinstance(env.action_space, spaces.Box):
        raise TypeError(f"Advice is for continuous actions, a Box, but the action space is {env.action_space}.")
    briefing = Briefing(
        action_space=env.action_space,
        observation_space=env.observation_space if read is None else read,
        task=task or (sheet.goal if sheet else None),
        sheet=sheet,
        frames=frames,
        max_episode_steps=_max_episode_steps(env),
    )
    action_names(briefing)
    return briefing


def _check_places(env: VecEnv) -> None:
    if _is_wrapped(env, gym.wrappers.NormalizeObservation):
        raise ArgumentError(
            "The environment's task_sheet names numbers in their own units, but NormalizeObservation around it gives "
            "others, which would be read in their place. Take SB3's VecNormalize, which shows an advisor the original "
            "ones, or the name of an attribute of the environment with the numbers (observe=...)."
        )
    if _is_wrapped(env, gym.wrappers.FrameStackObservation) or unwrap_vec_wrapper(env, VecFrameStack) is not None:
        raise ArgumentError(
            "The environment's task_sheet names the numbers of one observation, but several are stacked, so that the "
            "oldest would be read. Give a sheet of the stacked ones (AdvisorCallback(sheet=...)), or the name of an "
            "attribute of the environment with the present numbers (observe=...)."
        )


def _is_wrapped(env: VecEnv, wrapper: type[gym.Wrapper]) -> bool:
    try:
        return any(env.env_is_wrapped(wrapper))
    except NotImplementedError:  # as in _has_attr
        return False


def _check_originals(env: VecEnv) -> None:
    outer = unwrap_vec_normalize(env)
    inner = None if outer is None else unwrap_vec_wrapper(outer.venv, VecNormalize)
    if inner is not None and inner.norm_obs:
        raise ArgumentError(
            "Two VecNormalize are around the environment, and an advisor would be shown numbers that the inner one has "
            "normalised. Give one of them norm_obs and norm_reward both."
        )


def _max_episode_steps(env: VecEnv) -> int | None:
    """By the ``TimeLimit``, also that of ``gym.make``. A ``spec`` from another process need not survive the way."""
    name = "_max_episode_steps"
    limit = env.get_attr(name, indices=[0])[0] if _has_attr(env, name) else None
    return limit if isinstance(limit, int) else None


def _has_attr(env: VecEnv, name: str) -> bool:
    try:
        return env.has_attr(name)
    except NotImplementedError:  # somebody's own VecEnv need not give its environments' attributes
        return False
