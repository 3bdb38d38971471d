"""The evaluations of the grid put together: by method, task and seed, with what the seeds leave open."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from rliable import library, metrics

from cells import BASE, EXPERIMENTS, FRAME_SKIP, LONGER, make_cell
from results import FINISHED, Results
from sb3_varl.algorithms.shaping import DEFAULT_THRESHOLDS

N_RESAMPLES = 2000

Interval = tuple[float, float, float]
Statistic = Callable[[np.ndarray], np.ndarray]


class Evaluations:
    """
    The evaluations of all cells. Of a cell that was tried several times, the last one counts. A run that failed has no
    success from there on.

    :param results: Where they are
    """

    def __init__(self, results: Results) -> None:
        runs = pd.read_csv(results.runs_path, dtype={"id": str})
        self.runs = runs.drop_duplicates(["method", "task", "seed"], keep="last")
        rows = pd.read_csv(results.evaluations_path, dtype={"id": str})
        self._by_run = dict(list(rows.sort_values("step").groupby("id")))
        self._ids = {(run.method, run.task, run.seed): run.id for run in self.runs.itertuples()}
        self._steps: dict[tuple[str, str], dict[int, int]] = {}
        for run in self.runs.itertuples():
            self._steps.setdefault((run.method, run.task), {})[run.seed] = run.steps

    def seeds(self, methods: Sequence[str], tasks: Sequence[str], steps: int = 0) -> list[int]:
        """
        List the seeds that each of some methods was run with on each of some tasks.

        :param methods: The methods
        :param tasks: The tasks
        :param steps: For at least that many steps
        :return: The seeds; none if there is no method
        """
        of_each = [
            {seed for seed, n_steps in self._steps.get(cell, {}).items() if n_steps >= steps}
            for cell in itertools.product(methods, tasks)
        ]
        return sorted(set.intersection(*of_each)) if of_each else []

    def compared(self, experiment: str) -> list[str]:
        """
        List the methods of an experiment that were run, if there are at least two to compare, with the same seeds.

        :param experiment: Its name
        :return: The methods
        """
        methods, tasks = EXPERIMENTS[experiment]
        steps = LONGER.get(experiment, 0)
        found = [method for method in methods if self.seeds([method], tasks, steps)]
        return found if len(found) > 1 and self.seeds(found, tasks, steps) else []

    def n_failed(self, method: str, tasks: Sequence[str], seeds: Sequence[int]) -> int:
        """
        Count the runs of a method that failed.

        :param method: The method
        :param tasks: The tasks
        :param seeds: The seeds
        :return: Their number
        """
        return int((self._runs_of(method, tasks, seeds)["status"] != FINISHED).sum())

    def n_older(self, method: str, tasks: Sequence[str], seeds: Sequence[int]) -> int:
        """
        Count the runs of a method with settings that it has no longer.

        :param method: The method
        :param tasks: The tasks
        :param seeds: The seeds
        :return: Their number
        """
        now = make_cell(method, tasks[0], 0)
        return sum(not now.is_same_as(run) for run in self._runs_of(method, tasks, seeds)["configuration"])

    def _runs_of(self, method: str, tasks: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
        runs = self.runs
        return runs[(runs["method"] == method) & runs["task"].isin(tasks) & runs["seed"].isin(seeds)]

    def table(
        self, method: str, tasks: Sequence[str], seeds: Sequence[int], column: str, steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Collect a column of the evaluations up to some step, of a method that is evaluated as often as most.

        :param method: The method
        :param tasks: The tasks
        :param seeds: The seeds
        :param column: Name of the column
        :param steps: Last step
        :return: Steps of the evaluations, in the simulator's, and the values, ``(seeds, tasks, evaluations)``
        """
        at = np.arange(BASE["eval_freq"], steps + 1, BASE["eval_freq"])
        return FRAME_SKIP * at, self.column(method, tasks, seeds, column, len(at))

    def column(self, method: str, tasks: Sequence[str], seeds: Sequence[int], column: str, n: int) -> np.ndarray:
        """
        Collect a column of the evaluations.

        :param method: The method
        :param tasks: The tasks
        :param seeds: The seeds
        :param column: Name of the column
        :param n: Number of evaluations
        :return: The values, ``(seeds, tasks, evaluations)``
        """
        values = np.full((len(seeds), len(tasks), n), 0.0 if column == "success" else np.nan)
        for i, seed in enumerate(seeds):
            for j, task in enumerate(tasks):
                rows = self._by_run.get(self._ids[method, task, seed])
                if rows is not None:
                    found = rows[column].to_numpy(dtype=float)[:n]
                    values[i, j, : len(found)] = found
                    if column == "success_at_end" and not np.isnan(found).all():
                        values[i, j, len(found) :] = 0.0  # of a run that failed
        return values


def intervals(values: np.ndarray, statistic: Statistic) -> list[Interval]:
    """
    Estimate some statistics with their uncertainty.

    :param values: ``(seeds, tasks, points)``
    :param statistic: From a sample of these to the statistics
    :return: For each of them the estimate, and the ends of its interval
    """
    if len(values) == 1:  # whatever is drawn, it is the same seed
        return [(value, value, value) for value in statistic(values)]
    # rliable draws from NumPy's global generator.
    state = np.random.get_state()
    np.random.seed(0)
    estimate, interval = library.get_interval_estimates({"": values}, statistic, reps=N_RESAMPLES)
    np.random.set_state(state)
    return list(zip(estimate[""], *interval[""], strict=True))


def overall(at_end: np.ndarray, of_run: np.ndarray) -> list[Interval]:
    """
    Summarize all runs of a method.

    :param at_end: Success at the end, ``(seeds, tasks)``
    :param of_run: The mean of the whole run, likewise
    :return: Of the end the mean and the interquartile mean, and of the run the mean
    """

    def of_sample(runs: np.ndarray) -> np.ndarray:
        end, run = at_end.flat[runs[..., 0]], of_run.flat[runs[..., 0]]
        return np.array([end.mean(), interquartile_mean(end), run.mean()])

    # Runs are drawn by their numbers, and once for all three.
    return intervals(np.arange(at_end.size).reshape(*at_end.shape, 1), of_sample)


def mean_of_each(values: np.ndarray) -> np.ndarray:
    """
    Average over tasks and seeds.

    :param values: ``(seeds, tasks, points)``
    :return: For each point the mean
    """
    return np.array([metrics.aggregate_mean(values[..., point]) for point in range(values.shape[-1])])


def interquartile_mean(values: np.ndarray) -> float:
    """
    Do what rliable's ``aggregate_iqm`` does, which spends most of its time on checks of SciPy's.

    :param values: Numbers
    :return: The mean of the middle half of them
    """
    n_cut = values.size // 4
    return float(np.sort(values, axis=None)[n_cut : values.size - n_cut].mean())


def ranges(values: np.ndarray) -> list[Interval]:
    """
    Average over seeds.

    :param values: Of one task, ``(seeds, 1, points)``
    :return: For each point the mean, the lowest and the highest value
    """
    return list(zip(values.mean(axis=(0, 1)), values.min(axis=(0, 1)), values.max(axis=(0, 1)), strict=True))


def describe(method: str, experiment: str) -> str:
    """The name of a method among the others of an ablation."""
    if method != "VARL":
        return method
    shaping, advice = BASE["shaping"], BASE["advice"]
    return "VARL: " + {
        "quality": "realistic advice",
        "rules": "192 actions, simulated",
        "gate": f"gate {shaping['gate']}",
        "coefficient": f"coef {shaping['shaping_coef']:g}",
        "cutoff": f"cutoff {FRAME_SKIP * shaping['shaping_steps'] / 1000:g}k",
        "queries": f"{advice['n_queries']} queries of {advice['states_per_query']}",
        "states": f"{advice['states_per_query']} states",
        "threshold": f"threshold {DEFAULT_THRESHOLDS[shaping['gate']]}",
        "batch": f"batch {shaping['guidance_batch_size']}",
        "choice": "drawn states",
        "critic": "as it is",
        "actor": "as it is",
    }.get(experiment, "")
