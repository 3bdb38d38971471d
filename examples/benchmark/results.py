"""The results of the grid on disk: tables that only ever grow."""

import csv
import io
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

Row = dict[str, Any]

RUN_COLUMNS = (
    "id",
    "method",
    "task",
    "seed",
    "status",
    "steps",
    "success",
    "queries",
    "requests",
    "states",
    "seconds",
    "finished",
    "configuration",
    "versions",
)
EVALUATION_COLUMNS = (
    "id",
    "method",
    "task",
    "seed",
    "step",
    "success",
    "return",
    "training_success",
    "successes_in_replay",
    "queries",
    "requests",
    "states",
    "gate_open",
    "shaping_loss",
    "q_advised",
    "q_greedy",
    "entropy",
    "ent_coef",
    "critic_loss",
    "seconds",
    "success_at_end",
    "held",
    "disagreement",
)
# The last columns, which older runs lack.
ADDED_LATER = frozenset({"success_at_end", "held", "disagreement"})
FINISHED = "finished"
# A run's success is the mean of that many evaluations, its last ones.
N_LAST = 3


class Results:
    """
    Two CSV files: ``runs.csv`` with a row for each run, and ``evaluations.csv`` with one for each of its evaluations,
    joined by ``id``. A run that failed is a row, too.

    ``step`` counts actions. ``success`` is the share of episodes in which any step was a success, Meta-World's usual
    metric, and ``success_at_end`` that of those whose last step was one. ``states`` are those that were advised or
    scored. ``requests`` are those that were sent to a model: none, as long as advisor and scorer are simulated.
    ``q_advised``, ``q_greedy``, ``gate_open``, ``disagreement`` and ``shaping_loss`` are about the guidance,
    ``entropy`` is about the states that were visited last. ``held`` are the actions after the cutoff until then in
    which guidance counted, and empty where there were none.

    :param folder: Where they are, or will be
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.runs_path = folder / "runs.csv"
        self.evaluations_path = folder / "evaluations.csv"

    def add(self, run: Row, evaluations: Sequence[Row]) -> None:
        """
        Append a run.

        :param run: Its row
        :param evaluations: Those of its evaluations
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # In this order, so that a run that is there is there with all its evaluations.
        _append(self.evaluations_path, EVALUATION_COLUMNS, evaluations)
        _append(self.runs_path, RUN_COLUMNS, [run])

    def finished(self) -> dict[tuple[str, str, int], Row]:
        """
        List the runs that came to their end.

        :return: Their rows by method, task and seed
        """
        runs = _read(self.runs_path, RUN_COLUMNS)
        return {(run["method"], run["task"], int(run["seed"])): run for run in runs if run["status"] == FINISHED}

    def evaluations(self, run_id: str) -> list[Row]:
        """
        Look up the evaluations of a run.

        :param run_id: Its id
        :return: Their rows
        """
        return [row for row in _read(self.evaluations_path, EVALUATION_COLUMNS) if row["id"] == run_id]


def _append(path: pathlib.Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    header, text = io.StringIO(), io.StringIO()
    csv.DictWriter(header, columns, lineterminator="\n").writeheader()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    try:
        with path.open("x") as file:
            file.write(header.getvalue())
    except FileExistsError:
        with path.open(newline="") as file:
            _open_table(file, columns)
    # A single write, so that two grids that run side by side do not write into each other's lines.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, text.getvalue().encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: pathlib.Path, columns: Sequence[str]) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(_open_table(file, columns))


def _open_table(file: TextIO, columns: Sequence[str]) -> "csv.DictReader[str]":
    reader = csv.DictReader(file, restval="")
    if tuple(reader.fieldnames or ()) != tuple(columns):
        raise ValueError(
            f"{file.name} has the columns {reader.fieldnames}, expected {list(columns)}. It is from another version of "
            "the benchmark: name another folder with --results."
        )
    return reader
