"""
Which advice log a run writes to, and goes on with.

A log belongs to a run, which has given itself a name. The model keeps for each log what it has of it, with the name of
the run, a digest of the log's folder and, if that is below the working directory, its relative path: a zip holds no
other.
"""

import datetime
import hashlib
import itertools
import logging
import os
import pathlib
import tempfile
import uuid
import warnings
from collections.abc import Callable
from typing import Any, Literal

import platformdirs

from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import FILE_NAME, AdviceLog
from sb3_varl.advice.types import AdviceWarning
from sb3_varl.training.model import GuidedModel

logger = logging.getLogger(__name__)

Progress = dict[str, Any]

# Folders of the advice logs of this process, by the names of their runs.
_folders: dict[str, pathlib.Path] = {}


def open_log(
    model: GuidedModel,
    advisor: str,
    log_path: str | os.PathLike[str] | Literal[False] | None,
    resume: bool,
    run: str | None = None,
) -> tuple[AdviceLog | None, Progress]:
    """
    Find the advice log of a callback, and what the model knows of it.

    :param model: The model; what it knows becomes part of its ``advice_progress``
    :param advisor: The advisor's name
    :param log_path: Where the user wants the log; ``None`` for the usual place, ``False`` for none
    :param resume: Whether to take over a log that is of another run
    :param run: The run that the callback was part of before, if it was of any
    :return: The log, and a dictionary that is part of the model
    :raises OSError: if the log cannot be written
    :raises RuntimeError: if another process writes to it
    :raises ValueError: if another callback of the model has it
    """
    folder, progress = _Search(model, advisor, log_path, resume, run).result()
    if folder is None:
        log = None
    else:
        log = AdviceLog(folder, progress["run"])
        _folders[progress["run"]] = log.path
        progress["log"], progress["folder"] = _relative(log.path), _digest(log.path)
    if not any(entry is progress for entry in model.advice_progress):
        model.advice_progress.append(progress)
    model.advice_in_use.append(progress)
    return log, progress


class _Search:
    def __init__(
        self,
        model: GuidedModel,
        advisor: str,
        log_path: str | os.PathLike[str] | Literal[False] | None,
        resume: bool,
        run: str | None,
    ) -> None:
        self.model = model
        self.advisor = advisor
        self.has_log = log_path is not False
        self.wanted = pathlib.Path(log_path).expanduser().absolute() if log_path else None
        self.resume = resume
        self.run = run
        in_use = model.advice_in_use
        self.used = {_folders[entry["run"]].resolve() for entry in in_use if entry["run"] in _folders}
        self.free = [entry for entry in model.advice_progress if not any(entry is other for other in in_use)]
        if self.wanted is not None and self.wanted.resolve() in self.used:
            raise ValueError(
                f"Two AdvisorCallbacks have the log_path {str(log_path)!r}, but a log belongs to one. "
                "Give them different ones."
            )

    def result(self) -> tuple[pathlib.Path | None, Progress]:
        folder, progress = self._find()
        return folder, self._named(progress)

    def _find(self) -> tuple[pathlib.Path | None, Progress]:
        if self.model.num_timesteps == 0:
            # What the model knew was of another run, unless it is that run's log that is taken over.
            self.model.advice_progress[:] = self.model.advice_in_use
            return self._of_new_run()
        if not self.has_log:
            return None, self._first(lambda entry: folder_of(entry) is None) or self._new_beside("False")
        return self._of_given_log(self.wanted) if self.wanted is not None else self._of_usual_log()

    def _of_new_run(self) -> tuple[pathlib.Path | None, Progress]:
        if not self.has_log:
            return None, self._new()
        progress = self._new()
        folder = self.wanted or self._usual_folder(progress["run"])
        if not self.resume:
            return self._unused(folder), progress
        if not _holds_log(folder):
            logger.warning(
                "resume is True, but %s holds no advice log, so that everything is asked anew. If there is one "
                "elsewhere, give it as log_path.",
                folder,
            )
        run = _run_of(folder)
        if run is None:
            return folder, progress
        return folder, next((entry for entry in self.free if entry.get("run") == run), self._new(run))

    def _of_given_log(self, folder: pathlib.Path) -> tuple[pathlib.Path, Progress]:
        if not _holds_log(folder):
            return folder, self._lost(folder) or self._new_beside(str(folder))
        run = _run_of(folder)
        for entry in self.free:
            its = folder_of(entry)
            # One that belonged to no run, a preview's, when it was taken over, and in which nothing was written since.
            is_here = run is None and its is not None and its.resolve() == folder.resolve()
            if is_here or entry["run"] == run:
                return folder, entry
        if self.resume:
            return folder, self._new(run)
        for entry in self._fitting(lambda entry: "answered" in entry):
            its = folder_of(entry)
            if its is not None and _is_beside(its, folder):
                return its, entry
        return self._unused(folder), self._lost(folder) or self._new()

    def _of_usual_log(self) -> tuple[pathlib.Path, Progress]:
        known = self._first(lambda entry: folder_of(entry) is not None)
        if known is not None and (folder := folder_of(known)) is not None:
            return folder, known
        known = self._first(lambda entry: folder_of(entry) is None)
        progress = known or self._new()
        folder = self._usual_folder(self._named(progress)["run"])
        # A log outside of the working directory, whose place the model's zip does not hold.
        for path in sorted(folder.parent.glob(f"{folder.name}*")):
            run = None if path.resolve() in self.used else _run_of(path)
            own = None if run is None else self._first(lambda entry, run=run: entry["run"] == run)  # type: ignore[misc]
            if own is not None:
                return path, own
        if self.resume and _holds_log(folder) and folder.resolve() not in self.used:
            return folder, self._new(_run_of(folder))
        if known is not None and known.get("answered") and "folder" in known:
            warn_of_missing_log(known)
        return self._unused(folder), progress

    def _fitting(self, condition: Callable[[Progress], bool]) -> list[Progress]:
        """What the model knows of this advisor, and of this callback first."""
        fits = [entry for entry in self.free if entry.get("advisor") in (self.advisor, None) and condition(entry)]
        return sorted(fits, key=lambda entry: self.run is None or entry.get("run") != self.run)

    def _first(self, condition: Callable[[Progress], bool]) -> Progress | None:
        return next(iter(self._fitting(condition)), None)

    def _lost(self, folder: pathlib.Path) -> Progress | None:
        """What the model knows of a log that cannot be found: that of this folder, or the only one that it may be."""
        lost = self._fitting(lambda entry: folder_of(entry) is None)
        was_here = [entry for entry in lost if entry.get("folder") == _digest(folder)]
        known = next(iter(was_here), lost[0] if len(lost) == 1 else None)
        if known is not None and known.get("answered") and "folder" in known:
            warn_of_missing_log(known)
        return known

    def _new_beside(self, log_path: str) -> Progress:
        """Of an advisor that may have advised the model before, which is told."""
        other = self._first(lambda entry: "answered" in entry)
        if other is not None:
            its = folder_of(other)
            logger.warning(
                "%s has advised this model before, and %s. With log_path=%s it is asked all its queries anew, as "
                "another advisor would be.%s",
                self.advisor,
                "kept no log" if its is None else f"its log is in {its}",
                log_path,
                "" if its is None else " To go on with that log, give it as log_path.",
            )
        return self._new()

    def _new(self, run: str | None = None) -> Progress:
        return self._named({"run": run})

    def _named(self, entry: Progress) -> Progress:
        entry["run"] = entry.get("run") or uuid.uuid4().hex[:12]
        entry["advisor"] = self.advisor
        entry.setdefault("log", None)
        return entry

    def _usual_folder(self, run: str) -> pathlib.Path:
        of_logger = self.model.logger.get_dir()
        if of_logger is not None and not _is_sb3s_temporary(pathlib.Path(of_logger)):
            return pathlib.Path(of_logger).absolute() / "advice"
        folder = _data_folder() / f"{datetime.datetime.now():%Y-%m-%d-%H-%M-%S}-{run}"
        logger.warning(
            "The advice log of this run is in %s. Give it another place with AdvisorCallback(log_path=...), or the "
            "model a tensorboard_log.",
            folder,
        )
        return folder

    def _unused(self, folder: pathlib.Path) -> pathlib.Path:
        """The folder, or one beside it, as SB3's loggers have run_1 and run_2."""
        candidates = (folder if n == 1 else folder.with_name(f"{folder.name}_{n}") for n in itertools.count(1))
        unused = next(path for path in candidates if path.resolve() not in self.used and not _holds_log(path))
        if unused != folder and folder.resolve() not in self.used:
            logger.warning(
                "The advice log %s belongs to another run; that of this run is in %s. To go on with the answers in the "
                "first, pass AdvisorCallback(resume=True).",
                folder,
                unused,
            )
        return unused


def _is_sb3s_temporary(folder: pathlib.Path) -> bool:
    """Whether it is the one that SB3's logger takes where nobody names one: no place for what was paid for."""
    return folder.name.startswith("SB3-") and folder.parent == pathlib.Path(tempfile.gettempdir())


def _is_beside(folder: pathlib.Path, wanted: pathlib.Path) -> bool:
    """Whether a log went there because the folder that was wanted had one of another run."""
    number = folder.name.removeprefix(f"{wanted.name}_")
    return folder.parent.resolve() == wanted.parent.resolve() and folder.name != number and number.isdecimal()


def _data_folder() -> pathlib.Path:
    return platformdirs.user_data_path("sb3_varl", appauthor=False) / "advice"


def _digest(folder: pathlib.Path) -> str:
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def _relative(folder: pathlib.Path) -> str | None:
    here = pathlib.Path.cwd()
    for path, start in ((folder, here), (folder.resolve(), here.resolve())):
        if path.is_relative_to(start):
            return path.relative_to(start).as_posix()
    return None


def folder_of(progress: Progress) -> pathlib.Path | None:
    """
    Find an advice log that a model knows.

    :param progress: What it knows, an entry of its ``advice_progress``
    :return: The folder, or ``None`` if it cannot be found
    """
    run = progress["run"]
    if run in _folders:
        return _existing(_folders[run])
    folder = _existing(progress["log"])
    if folder is not None and _run_of(folder) in (run, None):
        return folder
    return next(_data_folder().glob(f"*-{run}"), None)


def _existing(path: str | os.PathLike[str] | None) -> pathlib.Path | None:
    return pathlib.Path(path).absolute() if path is not None and _holds_log(pathlib.Path(path)) else None


def _holds_log(folder: pathlib.Path) -> bool:
    file = folder / FILE_NAME
    return file.is_file() and file.stat().st_size > 0


def _run_of(folder: pathlib.Path) -> str | None:
    """Name of the run that wrote last."""
    queries = read_queries(folder) if _holds_log(folder) else []
    return queries[-1].run if queries else None


def _place_of(progress: Progress) -> str:
    folder = _folders.get(progress["run"]) or progress["log"]
    return str(folder or "a place that the model knows")


def warn_of_missing_log(progress: Progress) -> None:
    """
    Say that a log cannot be found that a model has.

    :param progress: What it knows of it, an entry of its ``advice_progress``
    """
    warnings.warn(
        f"The model's advice log is not in {_place_of(progress)} any more. What was "
        "answered after the model was saved is asked again; if the log is somewhere else, give its log_path.",
        AdviceWarning,
        stacklevel=2,
    )
