"""What a run leaves on the disk: its advice logs, what SB3's logger wrote, its evaluations and its episodes."""

import importlib.util
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from stable_baselines3.common.monitor import load_results

from sb3_varl.advice.history import LoggedQuery, read_queries
from sb3_varl.advice.log import FILE_NAME
from sb3_varl.redaction import scrub

PROGRESS, EVENTS, EVALUATIONS, MONITOR = "progress.csv", "events.out.tfevents", "evaluations.npz", "monitor.csv"
# Episodes that a point of the training's curves is the mean of, as in SB3's logger.
EPISODES_WINDOW = 100
_STEPS = "time/total_timesteps"
# What pandas, NumPy, SB3 and zipfile raise for files that are damaged.
_READ_ERRORS = (OSError, ValueError, LookupError, AssertionError, EOFError, zipfile.BadZipFile)

# Folders of advice that are part of a run's folder, one for each AdvisorCallback.
_ADVICE = re.compile(r"advice(_\d+)?")
# What SB3 and rl-zoo put behind the names of runs.
_NUMBER = re.compile(r"_\d+$")
# Names of folders that say nothing of the run that they belong to.
_ANY_RUN = re.compile(r"(eval|log|monitor|result).*")

T = TypeVar("T")


@dataclass(frozen=True)
class Curve:
    """
    Success or return over a run.

    :param values: The values, with the run's environment steps as their index
    :param source: What a value is the mean of, in a few words
    """

    values: pd.Series
    source: str


@dataclass
class RunLogs:
    """
    One run, as far as it is on the disk.

    :param folder: Its folder
    :param queries: What was asked, for each advice log by the name of its folder
    :param scalars: What SB3's logger has recorded, by its key, with the run's environment steps as index
    :param success: Share of successful episodes: of evaluations if there are any, else of training
    :param returns: Return of an episode, of the same
    :param n_steps: The last environment step that anything is known of
    :param cutoff: Step from which on the advice did not count any more, or ``None``
    :param missing: What could not be found or read, a sentence each
    """

    folder: pathlib.Path
    queries: dict[str, list[LoggedQuery]] = field(default_factory=dict)
    scalars: dict[str, pd.Series] = field(default_factory=dict)
    success: Curve | None = None
    returns: Curve | None = None
    n_steps: int = 0
    cutoff: int | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def all_queries(self) -> list[LoggedQuery]:
        """The queries of all its advice logs."""
        return [query for queries in self.queries.values() for query in queries]

    def scalar(self, key: str) -> pd.Series:
        """
        Get a series of SB3's logger.

        :param key: Its key, such as ``"varl/gate_open"``
        :return: The series, empty if there is none
        """
        return self.scalars.get(key, pd.Series(dtype=float))


@dataclass
class _Files:
    """Where the logs of a run are."""

    folder: pathlib.Path
    logger: list[pathlib.Path] = field(default_factory=list)
    data: list[pathlib.Path] = field(default_factory=list)
    advice: list[pathlib.Path] = field(default_factory=list)
    models: list[pathlib.Path] = field(default_factory=list)


def read_runs(path: str | os.PathLike[str]) -> list[RunLogs]:
    """
    Read a run, or all runs that a folder holds.

    A folder with the output of SB3's logger is a run, together with all that is below it. Evaluations, monitors and
    models beside it belong to it if it is the only run, or the only one with their name (``VARL/evaluations.npz`` and
    ``VARL.zip`` to ``VARL_1``); an advice log if it is the only run, or the only one that is called after VARL. What
    belongs to none is a run by itself.

    :param path: The folder
    :return: The runs, those with advice first, in the order of their folders' names
    :raises FileNotFoundError: if there is none
    :raises NotADirectoryError: if it is a file
    :raises ValueError: if an advice log was written by a newer version, or holds something else
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise FileNotFoundError(f"There is no {root}, expected the folder of a run.")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file, expected the folder of a run.")
    runs = _find_runs(root)
    if not runs:
        raise FileNotFoundError(
            f"{root} holds no run: there is none of {FILE_NAME}, {PROGRESS}, {EVENTS}*, {EVALUATIONS} and *{MONITOR} "
            "in it or below."
        )
    return [_read(files) for files in sorted(runs, key=lambda files: (not files.advice, _sortable(files.folder)))]


def _sortable(folder: pathlib.Path) -> list[Any]:
    """Run 10 after run 2."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", str(folder))]


def _find_runs(root: pathlib.Path) -> list[_Files]:
    found = _Files(root)
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if kind := _kind(name):
                getattr(found, kind).append(pathlib.Path(parent, name))

    runs: list[_Files] = []
    for kind in ("logger", "data", "advice", "models"):
        of_earlier_kinds = list(runs)
        for file in sorted(getattr(found, kind), key=lambda file: (len(file.parts), file)):
            has_folder = kind == "advice" and _is_in_folder_of_run(file.parent, root, of_earlier_kinds)
            owner = (
                _around(file, of_earlier_kinds)
                or (None if has_folder else _near(file, kind, root, of_earlier_kinds))
                or _around(file, runs)
            )
            if owner is None and kind != "models":
                owner = _Files(file.parent.parent if has_folder else file.parent)
                runs.append(owner)
            if owner is not None:
                getattr(owner, kind).append(file)
    return runs


def _is_in_folder_of_run(folder: pathlib.Path, root: pathlib.Path, runs: Sequence[_Files]) -> bool:
    """Whether a folder of advice is where AdvisorCallback puts it, in the folder of a run that left nothing else."""
    is_usual = folder != root and _ADVICE.fullmatch(folder.name) is not None
    return is_usual and not any(_is_inside(run.folder, folder.parent) for run in runs)


def _kind(name: str) -> str | None:
    if name == PROGRESS or name.startswith(EVENTS):
        return "logger"
    if name == EVALUATIONS or name.endswith(MONITOR):
        return "data"
    if name == FILE_NAME:
        return "advice"
    return "models" if name.endswith(".zip") else None


def _is_inside(path: pathlib.Path, folder: pathlib.Path) -> bool:
    return folder in path.parents


def _around(file: pathlib.Path, runs: Sequence[_Files]) -> _Files | None:
    """The run in whose folder a file is, the innermost if there are several."""
    around = [run for run in runs if _is_inside(file, run.folder)]
    return max(around, key=lambda run: len(run.folder.parts), default=None)


def _near(file: pathlib.Path, kind: str, root: pathlib.Path, runs: Sequence[_Files]) -> _Files | None:
    """Of the runs that are nearest to a file, the one that it belongs to, if that is clear."""
    if kind == "logger":
        return None
    folder = file.parent
    above = [folder, *folder.parents]
    for ancestor in above[: above.index(root) + 1]:
        near = [run for run in runs if _is_inside(run.folder, ancestor)]
        if near:
            name = file.stem if kind == "models" else folder.name
            pattern = "varl.*" if kind == "advice" else re.escape(_base(name))
            fits_any = kind != "data" or ancestor == folder or _ANY_RUN.fullmatch(folder.name) is not None
            for candidates in (
                near if fits_any else [],
                [run for run in near if run.folder.name == name],
                [run for run in near if re.fullmatch(pattern, _base(run.folder.name))],
            ):
                if len(candidates) == 1:
                    return candidates[0]
            return None
    return None


def _base(name: str) -> str:
    return _NUMBER.sub("", name).casefold()


def _read(files: _Files) -> RunLogs:
    run = RunLogs(files.folder)
    for log in files.advice:
        name = str(log.parent.relative_to(run.folder)) if _is_inside(log, run.folder) else log.parent.name
        run.queries[name] = read_queries(log)
    run.scalars = _read_logger(run, files.logger)
    curves = _read_curves(run, files.data)
    run.success, run.returns = curves.get("success"), curves.get("returns")
    run.n_steps, run.cutoff = _find_end(run, files.models)
    if not curves:
        run.missing.append(
            f"There are neither evaluations ({EVALUATIONS} of EvalCallback) nor training episodes "
            f"(*{MONITOR} of Monitor): success and return are not known."
        )
    elif run.success is None:
        run.missing.append(
            'Success is not known: the environment has to put "is_success" into the info of an episode\'s last step.'
        )
    if not files.advice and _is_guided(run):
        run.missing.append(f"There is no advice log ({FILE_NAME}): the queries are not known one by one.")
    return run


def _attempt(run: RunLogs, read: Callable[[pathlib.Path], dict[str, T]], file: pathlib.Path) -> dict[str, T]:
    """A file that is damaged, or still being written, is no reason to show nothing."""
    try:
        return read(file)
    except _READ_ERRORS as error:
        reason = f"{type(error).__name__}: {scrub(str(error))}".removesuffix(": ")
        run.missing.append(f"{file} cannot be read ({reason}).")
        return {}


def _read_logger(run: RunLogs, files: Sequence[pathlib.Path]) -> dict[str, pd.Series]:
    progress = [file for file in files if file.name == PROGRESS]
    if progress:
        return _attempt(run, _read_progress, progress[0])
    if not files:
        run.missing.append(
            f"There is neither {PROGRESS} nor a TensorBoard file ({EVENTS}*) with what SB3's logger knows of gates, "
            "entropy and critics."
        )
        return {}
    if importlib.util.find_spec("tensorboard") is None:
        run.missing.append(f"The TensorBoard files in {files[0].parent} need tensorboard: pip install tensorboard")
        return {}
    return _attempt(run, _read_events, files[0])


def _read_curves(run: RunLogs, files: Sequence[pathlib.Path]) -> dict[str, Curve]:
    """Success and return, each from the best source that there is."""
    evaluations = [file for file in files if file.name == EVALUATIONS]
    monitors = [file for file in files if file.name != EVALUATIONS]
    if len(evaluations) > 1:
        run.missing.append(f"Of {len(evaluations)} files of evaluations, only {evaluations[0]} is shown.")
    curves = _curves_of_logger(run, "rollout/ep_rew_mean", "rollout/success_rate", "the latest training episodes")
    if monitors:
        curves = {**_attempt(run, _read_monitors, monitors[0]), **curves}
    curves |= _curves_of_logger(run, "eval/mean_reward", "eval/success_rate", "evaluation episodes")
    if evaluations:
        curves |= _attempt(run, _read_evaluations, evaluations[0])
    return curves


def _read_progress(file: pathlib.Path) -> dict[str, pd.Series]:
    table = pd.read_csv(file, on_bad_lines="skip").apply(pd.to_numeric, errors="coerce")
    table = table.dropna(subset=[_STEPS])
    table.index = pd.Index(table.pop(_STEPS).astype(int), name="step")
    return _clean({str(key): table[key] for key in table.columns})


def _read_events(file: pathlib.Path) -> dict[str, pd.Series]:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(file.parent), size_guidance={SCALARS: 0})
    events.Reload()
    recorded = {key: events.Scalars(key) for key in events.Tags()[SCALARS]}
    return _clean(
        {
            key: pd.Series([event.value for event in series], [event.step for event in series], dtype=float)
            for key, series in recorded.items()
        }
    )


def _clean(scalars: dict[str, pd.Series]) -> dict[str, pd.Series]:
    """Numbers only, and of a step that was logged several times the last one."""
    finite = {key: series[np.isfinite(series)] for key, series in scalars.items()}
    return {
        key: series[~series.index.duplicated(keep="last")].sort_index() for key, series in finite.items() if len(series)
    }


def _read_evaluations(file: pathlib.Path) -> dict[str, Curve]:
    # NumPy leaves files open that it cannot read.
    with open(file, "rb") as opened, np.load(opened) as arrays:
        steps, results = arrays["timesteps"], arrays["results"]
        values = {"returns": results}
        if "successes" in arrays:
            values["success"] = arrays["successes"]
        source = f"{results.shape[1]} evaluation episodes"
        return {name: Curve(pd.Series(array.mean(axis=1), steps), source) for name, array in values.items()}


def _read_monitors(file: pathlib.Path) -> dict[str, Curve]:
    episodes = load_results(str(file.parent))
    steps = episodes["l"].cumsum()
    source = f"the last {EPISODES_WINDOW} training episodes"
    return {
        name: Curve(episodes[key].astype(float).set_axis(steps).rolling(EPISODES_WINDOW, min_periods=1).mean(), source)
        for name, key in (("returns", "r"), ("success", "is_success"))
        if key in episodes and len(episodes)
    }


def _curves_of_logger(run: RunLogs, returns: str, success: str, source: str) -> dict[str, Curve]:
    found = {"returns": run.scalar(returns), "success": run.scalar(success)}
    return {name: Curve(series, source) for name, series in found.items() if len(series)}


def _is_guided(run: RunLogs) -> bool:
    return bool(run.all_queries) or bool((run.scalar("varl/shaping_active") > 0).any())


def _find_end(run: RunLogs, models: Sequence[pathlib.Path]) -> tuple[int, int | None]:
    """How long the run was, and until when it was advised."""
    series = [*run.scalars.values(), *(curve.values for curve in (run.success, run.returns) if curve is not None)]
    steps = [int(one.index.max()) for one in series] + [query.step for query in run.all_queries]
    cutoffs = []
    for file in sorted(models, key=lambda file: file.stat().st_mtime)[-1:]:
        saved = _attempt(run, _read_model, file)
        steps.append(saved.get("num_timesteps", 0))
        cutoffs += [saved[name] for name in ("shaping_steps", "shaping_ended") if name in saved]
    active = run.scalar("varl/shaping_active")
    # The model may have been saved before until_success ended the advice.
    after = active[active.index > active.index[active > 0].max()] if (active > 0).any() else active[:0]
    cutoffs += [int(step) for step in after.index[:1]]
    return max(steps, default=0), min(cutoffs, default=None) if _is_guided(run) else None


def _read_model(file: pathlib.Path) -> dict[str, Any]:
    """The numbers of an SB3 model; nothing is unpickled."""
    with zipfile.ZipFile(file) as archive:
        if "data" not in archive.namelist():
            return {}
        saved = json.loads(archive.read("data"))
    return {name: value for name, value in saved.items() if isinstance(value, int)}
