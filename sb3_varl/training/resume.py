"""Where a run's advice log is, and what a model and its log know of the advice so far."""

import datetime
import os
import pathlib
import warnings
from typing import Any

from gymnasium import spaces

from sb3_varl.advice.history import LoggedQuery
from sb3_varl.advice.log import FILE_NAME, AdviceLog, decode_observation
from sb3_varl.advice.types import AdviceWarning, Briefing


def log_folder(model: Any, place: int, log_path: str | os.PathLike[str] | None) -> pathlib.Path:
    """
    Find the place of the advice log.

    :param model: A VARL or one of its sisters
    :param place: Number of the callback among those of its kind
    :param log_path: Where the user wants it
    :return: The folder
    :raises ValueError: if another callback has the same
    """
    earlier = [progress.get("log_path") for progress in model.advice_progress[:place]]
    if log_path is not None:
        folder = pathlib.Path(log_path).absolute()
        if str(folder) in earlier:
            raise ValueError(
                f"Two AdvisorCallbacks have the log_path {str(log_path)!r}, but a log belongs to one. "
                "Give them different ones."
            )
        return folder
    remembered = dict(*model.advice_progress[place : place + 1]).get("log_path")
    if remembered is not None and model.num_timesteps > 0:
        if (pathlib.Path(remembered) / FILE_NAME).exists():
            return pathlib.Path(remembered)
        warnings.warn(
            f"The model's advice log is not in {remembered} any more. What was answered after the model was saved "
            "is asked again; if the log is somewhere else, give its log_path.",
            AdviceWarning,
            stacklevel=2,
        )
    if model.tensorboard_log is not None or model._custom_logger:
        return pathlib.Path(model.logger.get_dir() or ".") / (f"advice_{place + 1}" if place else "advice")
    # SB3's logger then writes to a temporary folder, where nothing that was paid for should be.
    return pathlib.Path("advice") / f"{datetime.datetime.now():%Y-%m-%d-%H-%M-%S-%f}"


def progress_of(model: Any, place: int, log: AdviceLog | None) -> dict[str, Any]:
    """
    Find what a model knows of its advice. One that is trained anew knows something if its log is that of before.

    :param model: A VARL or one of its sisters
    :param place: Number of the callback among those of its kind
    :param log: The run's advice log
    :return: A dictionary that is part of the model, with ``log_path`` and, once there are any answers, ``answered``
        (queries), ``totals`` and ``usage``
    """
    everyone: list[dict[str, Any]] = model.advice_progress
    everyone += [{} for _ in range(place + 1 - len(everyone))]
    path = None if log is None else str(log.path)
    if model.num_timesteps == 0 and (path is None or everyone[place].get("log_path") != path):
        everyone[place] = {}
    everyone[place]["log_path"] = path
    return everyone[place]


def check_environment(query: LoggedQuery, briefing: Briefing) -> None:
    """
    Make sure that a logged query is about this environment and this task.

    :param query: The query
    :param briefing: What stays the same over all queries
    :raises ValueError: if it is not
    """
    space = briefing.action_space
    expected: dict[str, Any] = {
        "task": briefing.task,
        "action bounds": (space.low.tolist(), space.high.tolist()),
        "observation": _shapes(briefing.observation_space),
    }
    given = {
        "task": query.task,
        "action bounds": (query.action_low.tolist(), query.action_high.tolist()),
        "observation": _shapes(decode_observation(query.encoded_observations[0], query.dtype)),
    }
    # Earlier versions did not log the task of a VLMAdvisor, which is called as its model, that had one of its own.
    if query.task is None and "/" in (query.advisor or ""):
        del expected["task"]
    for name, value in expected.items():
        if given[name] != value:
            raise ValueError(
                f"The advice log {query.folder} belongs to another run: the {name} of its query {query.index + 1} is "
                f"{given[name]!r}, expected {value!r}. Give another log_path."
            )


def _shapes(thing: Any) -> Any:
    """Of an observation or a space of them."""
    if isinstance(thing, dict | spaces.Dict):
        return {key: _shapes(value) for key, value in sorted(thing.items())}
    return thing.shape
