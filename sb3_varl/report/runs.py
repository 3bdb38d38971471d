"""What a run leaves on the disk: its advice logs, what SB3's logger wrote, its evaluations and its episodes."""

import importlib.util
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from stable_baselines3.common.monitor import load_results

from sb3_varl.advice.history import LoggedQuery, read_queries
from sb3_varl.advice.log import FILE_NAME, read_records
from sb3_varl.redaction import scrub
from sb3_varl.wording import count

PROGRESS, EVENTS, EVALUATIONS, MONITOR = "progress.csv", "events.out.tfevents", "evaluations.npz", "monitor.csv"
# Episodes that a point of the training's curves is the mean of, as in SB3's logger.
EPISODES_WINDOW = 100
_STEPS, ACTIVE, HELD = "time/total_timesteps", "varl/shaping_active", "varl/held_share"
# Points that make a curve.
_FEW = 3
# What pandas, NumPy, SB3 and zipfile raise for files that are damaged.
_READ_ERRORS = (OSError, ValueError, LookupError, AssertionError, EOFError, zipfile.BadZipFile)

# What a run leaves behind, by the names of the files. Its folder is where the first of these kinds is.
_KINDS = {
    "logger": (PROGRESS, f"{EVENTS}*"),
    "evaluations": (EVALUATIONS,),
    "monitors": (f"*{MONITOR}",),
    "advice": (FILE_NAME,),
    "models": ("*.zip",),
}
# What AdvisorCallback calls its folders in that of a run.
_ADVICE = re.compile(r"advice(_\d+)?")

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

    :param folder: Where SB3's logger wrote; without that, where its evaluations, monitors or advice logs are
    :param files: All that was found of it
    :param queries: What was asked, for each advice log by its folder as seen from the run's
    :param scalars: What SB3's logger has recorded, by its key, with the run's environment steps as index
    :param success: Share of successful episodes: of evaluations if there are any, else of training
    :param returns: Return of an episode, of the same
    :param n_steps: The last environment step that anything is known of
    :param cutoff: Step from which on the advice did not count any more, or ``None``
    :param missing: What could not be found or read, a sentence each
    """

    folder: pathlib.Path
    files: list[pathlib.Path] = field(default_factory=list)
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


class _File(NamedTuple):
    """
    Something that a run has left behind.

    :param kind: One of ``_KINDS``
    :param place: The folder that it stands for
    :param path: Its path
    """

    kind: str
    place: pathlib.Path
    path: pathlib.Path


def read_runs(path: str | os.PathLike[str]) -> list[RunLogs]:
    """
    Read a run, or all runs that a folder holds.

    A folder is one run unless it has output of SB3's logger, evaluations, monitors or advice logs in two places. Then
    its folders are looked at one by one, and what lies beside them is a run by itself, or passed over if it is only
    models. All that lies below a folder of SB3's logger is in that one place, and an :class:`~sb3_varl.AdvisorCallback`
    folder (``advice``, ``advice_2``) stands for the one around it. Logs of previews, which belong to no run, are passed
    over where there is anything else.

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
    found = _find(root)
    of_runs = [file for file in found if not _is_of_a_preview(file)]
    if any(file.kind != "models" for file in of_runs):
        found = of_runs
    runs = [files for files in _split(root, found) if any(file.kind != "models" for file in files)]
    if not runs:
        raise FileNotFoundError(
            f"{root} holds no run: there is none of {FILE_NAME}, {PROGRESS}, {EVENTS}*, {EVALUATIONS} and *{MONITOR} "
            "in it or below."
        )
    return sorted(map(_read, runs), key=lambda run: (not run.queries, _sortable(run.folder)))


def _sortable(folder: pathlib.Path) -> list[Any]:
    """Run 10 after run 2."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", str(folder))]


def _find(root: pathlib.Path) -> list[_File]:
    """What runs have left behind in a folder, one kind after the other, and the least deep first."""
    paths: list[pathlib.Path] = []
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [pathlib.Path(parent, name) for name in names]
    paths.sort(key=lambda path: (len(path.parts), path))
    found = [
        (kind, path)
        for kind, patterns in _KINDS.items()
        for path in paths
        if any(fnmatchcase(path.name, pattern) for pattern in patterns)
    ]
    logged = {path.parent for kind, path in found if kind == "logger"}
    return [_File(kind, _place(path, root, logged), path) for kind, path in found]


def _is_of_a_preview(file: _File) -> bool:
    if file.kind != "advice":
        return False
    first = next(read_records(file.path), None)
    return first is not None and first.get("type") == "query" and first.get("run", "") is None


def _place(path: pathlib.Path, root: pathlib.Path, logged: set[pathlib.Path]) -> pathlib.Path:
    for folder in path.parents:
        if folder in logged:
            return folder
    folder = path.parent
    is_part = path.name == FILE_NAME and folder != root and _ADVICE.fullmatch(folder.name)
    return folder.parent if is_part else folder


def _split(folder: pathlib.Path, files: list[_File]) -> list[list[_File]]:
    """Tell apart the runs in a folder."""
    places = {(file.kind, file.place) for file in files if file.kind != "models"}
    if len(places) == len({kind for kind, _ in places}):
        return [files]
    parts: dict[pathlib.Path, list[_File]] = {}
    for file in files:
        below = file.place.relative_to(folder).parts[:1]
        parts.setdefault(folder.joinpath(*below), []).append(file)
    return [run for part, of_part in parts.items() for run in _split(part, of_part)]


def _read(files: list[_File]) -> RunLogs:
    of_kind = {kind: [file.path for file in files if file.kind == kind] for kind in _KINDS}
    run = RunLogs(files[0].place, [file.path for file in files])
    for log in of_kind["advice"]:
        run.queries[os.path.relpath(log.parent, run.folder)] = read_queries(log)
    run.scalars = _read_logger(run, of_kind["logger"])
    curves = _read_curves(run, of_kind["evaluations"], of_kind["monitors"])
    run.success, run.returns = curves.get("success"), curves.get("returns")
    run.n_steps, run.cutoff = _find_end(run, of_kind["models"])
    if not curves:
        run.missing.append(
            f"There are neither evaluations ({EVALUATIONS} of EvalCallback) nor training episodes "
            f"(*{MONITOR} of Monitor): success and return are not known."
        )
    elif run.success is None:
        run.missing.append(
            'Success is not known: the environment has to put "is_success" into the info of an episode\'s last step '
            "(sb3_varl.SuccessFromReward does, where the reward tells). Monitor writes it down with "
            'monitor_kwargs={"info_keywords": ("is_success",)} of make_vec_env, and EvalCallback by itself.'
        )
    n_written = max(map(len, run.scalars.values()), default=_FEW)
    if n_written < _FEW:
        run.missing.append(
            f"SB3's logger wrote no more than {count(n_written, 'time')}, so that curves of what it knows have as many "
            "points: learn(log_interval=1) writes after each episode."
        )
    if not run.queries and _is_guided(run):
        run.missing.append(f"There is no advice log ({FILE_NAME}): the queries are not known one by one.")
    if _is_guided(run) and not of_kind["models"] and run.scalar(ACTIVE).empty:
        run.missing.append(
            f"The cutoff is not known: there is neither a saved model (*.zip) nor {ACTIVE} of SB3's logger."
        )
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
        return _attempt(run, lambda file: _read_progress(run, file), progress[0])
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


def _read_curves(
    run: RunLogs, evaluations: Sequence[pathlib.Path], monitors: Sequence[pathlib.Path]
) -> dict[str, Curve]:
    """Success and return, each from the best source that there is."""
    for name, files in (("evaluations", evaluations), ("monitors", monitors)):
        folders = list(dict.fromkeys(file.parent for file in files))
        if len(folders) > 1:
            run.missing.append(f"Of the {name} in {len(folders)} folders, only those in {folders[0]} are read.")
    curves = _curves_of_logger(run, "rollout/ep_rew_mean", "rollout/success_rate", "the latest training episodes")
    if monitors:
        curves = {**_attempt(run, _read_monitors, monitors[0]), **curves}
    if len(run.scalar("advice/executed")):
        curves = {name: Curve(c.values, f"{c.source}, also those that began with advice") for name, c in curves.items()}
    curves |= _curves_of_logger(run, "eval/mean_reward", "eval/success_rate", "evaluation episodes")
    if evaluations:
        curves |= _attempt(run, _read_evaluations, evaluations[0])
    return curves


def _read_progress(run: RunLogs, file: pathlib.Path) -> dict[str, pd.Series]:
    table = pd.read_csv(file, on_bad_lines="skip").apply(pd.to_numeric, errors="coerce")
    table = table.dropna(subset=[_STEPS])
    # A run that goes on from a checkpoint goes back as well, but not to the beginning.
    begins_again = (table[_STEPS].diff() < 0) & (table[_STEPS] <= table[_STEPS].head(1).max())
    if begins_again.any():
        table = table[begins_again.cumsum() == begins_again.sum()]
        run.missing.append(
            f"{file} is of {count(1 + int(begins_again.sum()), 'model')} that were trained one after the other, for "
            "its steps begin again: only the last one's are read. Give each model a folder of its own."
        )
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
        source = count(results.shape[1], "evaluation episode")
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
    return bool(run.all_queries) or bool((run.scalar(ACTIVE) > 0).any())


def _find_end(run: RunLogs, models: Sequence[pathlib.Path]) -> tuple[int, int | None]:
    """How long the run was, and until when it was advised."""
    series = [*run.scalars.values(), *(curve.values for curve in (run.success, run.returns) if curve is not None)]
    steps = [int(one.index.max()) for one in series] + [query.step for query in run.all_queries]
    cutoffs = []
    for file in sorted(models, key=lambda file: file.stat().st_mtime)[-1:]:
        saved = _attempt(run, _read_model, file)
        steps.append(saved.get("num_timesteps", 0))
        cutoffs += [saved[name] for name in ("shaping_steps", "shaping_ended") if name in saved]
    active = run.scalar(ACTIVE).copy()
    active[active.index.isin(run.scalar(HELD).index)] = 0  # after the cutoff, on demand
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
