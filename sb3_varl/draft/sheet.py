"""A draft as a task sheet, for code that wants one at once."""

import gymnasium as gym

from sb3_varl.advice.sheets import read_task_sheet
from sb3_varl.advice.types import TaskSheet
from sb3_varl.arguments import ArgumentError, check_integer, check_text
from sb3_varl.draft.measure import measure
from sb3_varl.draft.text import write_sheet
from sb3_varl.preview.environments import env_maker


def draft_sheet(env: gym.Env | str, task: str | None = None, *, observe: str | None = None, seed: int = 0) -> TaskSheet:
    """
    Draft a task sheet of an environment from what its actions do, so that a model can be asked for rules::

        sheet = draft_sheet("Ferry-v0", "Bring the ferry to the pier and stop there.")
        callback = AdvisorCallback("openai/gpt-6.1-sol", sheet=sheet)

    The environment is reset and stepped, as :func:`measure` says; nothing is sent. ``python -m sb3_varl.draft`` writes
    the same to a file, where names and what success is can be added.

    :param env: Its name, as for ``gym.make`` or, with its file, ``"boat.py:Boat-v0"``; or one that was made for this,
        with the observations and actions that the agent's has, without VecNormalize or stacked frames
    :param task: The task in words. ``None`` to say it elsewhere, as in ``AdvisorCallback(task=...)``
    :param observe: As in :class:`~sb3_varl.AdvisorCallback`: an attribute or a method of the environment with what the
        advisor reads
    :param seed: Of resets and of random actions
    :return: The task sheet
    :raises ArgumentError: if an argument is of the wrong type, actions are no Box with bounds, or there are no numbers
        to name, or more than 1000
    :raises ValueError: if nothing of this name is registered
    """
    if not isinstance(env, gym.Env | str):
        raise ArgumentError(
            f"env is {env!r}, expected one gymnasium environment that was made to be measured, or its name as for "
            "gym.make: a VecEnv that the agent uses is not to be stepped by others."
        )
    check_text("task", task, "Open the drawer.")
    check_text("observe", observe, "state")
    check_integer("seed", seed, low=0)
    measured = env_maker(env, {}, frames=False)() if isinstance(env, str) else env
    try:
        facts = measure(measured, observe, seed)
    finally:
        if isinstance(env, str):
            measured.close()
    return read_task_sheet(write_sheet(facts, str(env), task), "the draft")
