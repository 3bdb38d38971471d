"""
Draws and tabulates what ``grid.py`` has run so far.

    python examples/benchmark/figures.py

Writes, next to the results, ``main.png``, ``rivals.png``, ``ablations.png``, ``health.png`` and ``tables.md``.
Ranges are of the seeds where it is about one task, and else intervals of 95% from a bootstrap over seeds that is
stratified by task, by rliable (https://arxiv.org/abs/2108.13264).
"""

import argparse
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from rliable import library, metrics

from cells import ABLATION_TASKS, BASE, EXPERIMENTS, FRAME_SKIP, FULL_STEPS, METHODS, SHORT_STEPS, TASKS
from results import FINISHED, N_LAST, Results
from sb3_varl.algorithms.shaping import DEFAULT_THRESHOLDS

N_RESAMPLES = 2000
# Success at which a task is called learnt.
GOOD = 0.8
# Colours that a colour-blind reader can tell apart (Okabe and Ito, and Tol's wine).
BLUE, ORANGE = "#0072B2", "#D55E00"
COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", ORANGE, BLUE)
# Of more methods, ranges in a panel hide each other.
MAX_RANGES = 3
GREY = "#595959"
DASH = "\N{EN DASH}"

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
        self._seeds = self.runs.groupby(["method", "task"])["seed"].agg(set).to_dict()

    def seeds(self, methods: Sequence[str], tasks: Sequence[str]) -> list[int]:
        """
        List the seeds that each of some methods was run with on each of some tasks.

        :param methods: The methods
        :param tasks: The tasks
        :return: The seeds
        """
        cells = itertools.product(methods, tasks)
        return sorted(set.intersection(*(self._seeds.get(cell, set()) for cell in cells)))

    def compared(self, experiment: str) -> list[str]:
        """
        List the methods of an experiment that were run, if there are at least two to compare, with the same seeds.

        :param experiment: Its name
        :return: The methods
        """
        methods, tasks = EXPERIMENTS[experiment]
        found = [method for method in methods if self.seeds([method], tasks)]
        return found if len(found) > 1 and self.seeds(found, tasks) else []

    def n_failed(self, method: str, tasks: Sequence[str], seeds: Sequence[int]) -> int:
        """
        Count the runs of a method that failed.

        :param method: The method
        :param tasks: The tasks
        :param seeds: The seeds
        :return: Their number
        """
        runs = self.runs[
            (self.runs["method"] == method) & self.runs["task"].isin(tasks) & self.runs["seed"].isin(seeds)
        ]
        return int((runs["status"] != FINISHED).sum())

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
        return values


def intervals(values: np.ndarray, statistic: Statistic) -> list[Interval]:
    """
    Estimate some statistics with their uncertainty.

    :param values: ``(seeds, tasks, points)``
    :param statistic: From a sample of these to the statistics
    :return: For each of them the estimate, and the ends of its interval
    """
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
        return np.array([metrics.aggregate_mean(end), interquartile_mean(end), metrics.aggregate_mean(run)])

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


def colors_of(methods: Sequence[str]) -> list[str]:
    """A colour for each method: VARL's and SAC's are the same everywhere."""
    others = iter(COLORS)
    return [{"VARL": BLUE, "SAC": ORANGE}.get(method) or next(others) for method in methods]


def draw_curve(
    axes: Any,
    evaluations: Evaluations,
    method: str,
    tasks: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    color: str,
    label: str | None = None,
    with_range: bool = True,
) -> None:
    """Draw a learning curve, with the range of its seeds if it is about one task, or else with an interval."""
    at, values = evaluations.table(method, tasks, seeds, "success", steps)
    bands = ranges(100 * values) if len(tasks) == 1 else intervals(100 * values, mean_of_each)
    middle, low, high = np.array(bands).T
    axes.plot(at / 1000, middle, color=color, label=label or method)
    if with_range:
        axes.fill_between(at / 1000, low, high, color=color, alpha=0.2, linewidth=0)


def finish(axes: Any, steps: int, title: str, cutoff: int | None = BASE["shaping"]["shaping_steps"]) -> None:
    """Say what an axis shows."""
    if cutoff is not None:
        axes.axvline(FRAME_SKIP * cutoff / 1000, color=GREY, linestyle="--", linewidth=1)
    axes.set(title=title, xlim=(0, FRAME_SKIP * steps / 1000), ylim=(-3, 103))


def draw_tasks(
    evaluations: Evaluations, methods: Sequence[str], tasks: Sequence[str], steps: int, path: pathlib.Path
) -> None:
    """A panel for each task, and one for all of them."""
    seeds = evaluations.seeds(methods, tasks)
    n_columns = min(4, len(tasks) + 1)
    n_rows = -(-(len(tasks) + 1) // n_columns)
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(3 * n_columns, 2.5 * n_rows + 0.7),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(tasks) + 1 :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, [*[(task,) for task in tasks], tasks], strict=False):
        for method, color in zip(methods, colors_of(methods), strict=True):
            readable = len(panel) > 1 or len(methods) <= MAX_RANGES
            draw_curve(axis, evaluations, method, panel, seeds, steps, color, with_range=readable)
        finish(axis, steps, panel[0] if len(panel) == 1 else f"mean of the {len(tasks)} tasks")
    figure.supxlabel("steps of the simulator (thousands)")
    figure.supylabel("success (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(plt.Line2D([], [], color=GREY, linestyle="--", linewidth=1))
    labels.append("cutoff of the advice (simulated)")
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_ablations(evaluations: Evaluations, path: pathlib.Path) -> None:
    """A panel for each ablation: the mean over its tasks."""
    experiments = [
        name
        for name, (_, tasks) in EXPERIMENTS.items()
        if name != "rivals" and tasks == ABLATION_TASKS and evaluations.compared(name)
    ]
    if not experiments:
        return
    n_columns = 3
    n_rows = -(-len(experiments) // n_columns)
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(3.8 * n_columns, 2.9 * n_rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(experiments) :]:
        axis.axis("off")
    for axis, experiment in zip(axes.flat, experiments, strict=False):
        methods, tasks = evaluations.compared(experiment), EXPERIMENTS[experiment][1]
        seeds = evaluations.seeds(methods, tasks)
        for method, color in zip(methods, colors_of(methods), strict=True):
            draw_curve(axis, evaluations, method, tasks, seeds, SHORT_STEPS, color, describe(method, experiment))
        cutoff = None if experiment == "cutoff" else BASE["shaping"]["shaping_steps"]
        finish(axis, SHORT_STEPS, f"{experiment} ({len(seeds)} seed{'s' * (len(seeds) > 1)})", cutoff)
        axis.legend(fontsize=8)
    figure.supxlabel("steps of the simulator (thousands)")
    figure.supylabel("success (%)")
    figure.suptitle(f"Mean of {', '.join(ABLATION_TASKS)}, simulated advisor")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_health(evaluations: Evaluations, path: pathlib.Path) -> None:
    """What to watch in a run: gates, entropy, the critic's opinion of the advice, and its loss."""
    panels = (
        ("gate_open", "share of open gates"),
        ("entropy", "entropy (nats)"),
        ("q_advised", "Q of advised minus greedy actions"),
        ("critic_loss", "critic loss"),
    )
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.5), sharex=True, layout="constrained")
    for axis, (column, title) in zip(axes.flat, panels, strict=True):
        for task, color in zip(TASKS, COLORS, strict=False):
            seeds = evaluations.seeds(["SAC", "VARL"], [task])
            if not seeds:
                continue
            at, values = evaluations.table("VARL", [task], seeds, column, FULL_STEPS)
            if column == "q_advised":
                values = values - evaluations.table("VARL", [task], seeds, "q_greedy", FULL_STEPS)[1]
            axis.plot(at / 1000, values.mean(axis=(0, 1)), color=color, label=task)
            if column == "entropy":
                at, values = evaluations.table("SAC", [task], seeds, column, FULL_STEPS)
                axis.plot(at / 1000, values.mean(axis=(0, 1)), color=color, linestyle=":", linewidth=1)
        axis.axvline(FRAME_SKIP * BASE["shaping"]["shaping_steps"] / 1000, color=GREY, linestyle="--", linewidth=1)
        axis.set_title(title)
    axes[1, 1].set_yscale("log")
    figure.supxlabel("steps of the simulator (thousands)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(plt.Line2D([], [], color=GREY, linestyle=":"))
    labels.append("SAC")
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=120)
    plt.close(figure)


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


def percent(interval: Interval) -> str:
    """A value, and its range where there is one."""
    middle, low, high = (f"{100 * value:.0f}" for value in interval)
    return f"{middle}%" if low == high else f"{middle}% ({low}{DASH}{high})"


def tabulate(
    evaluations: Evaluations,
    methods: Sequence[str],
    tasks: Sequence[str],
    steps: int,
    names: Sequence[str] | None = None,
) -> list[str]:
    """
    A table with a row for each method and a column for each task.

    :param evaluations: All there are
    :param methods: The methods
    :param tasks: The tasks
    :param steps: Where the runs are judged
    :param names: What the methods are called here
    :return: Lines of Markdown
    """
    of_all = ["mean", "interquartile mean", "mean of the whole run", "seeds"]
    lines = [
        "| | " + " | ".join([*(task.removesuffix("-v3") for task in tasks), *of_all]) + " |",
        "| --- " * (len(tasks) + len(of_all) + 1) + "|",
    ]
    seeds = evaluations.seeds(methods, tasks)
    for method, name in zip(methods, names or methods, strict=True):
        success = evaluations.table(method, tasks, seeds, "success", steps)[1]
        at_end, of_run = success[..., -N_LAST:].mean(axis=-1), success.mean(axis=-1)
        cells = [percent(of_task) for of_task in ranges(at_end[:, None, :])]
        cells += map(percent, overall(at_end, of_run))
        failed = evaluations.n_failed(method, tasks, seeds)
        n_seeds = str(len(seeds)) if not failed else f"{len(seeds)}, of {at_end.size} runs {failed} failed"
        lines.append(f"| {name} | " + " | ".join([*cells, n_seeds]) + " |")
    return lines


def tabulate_tasks(evaluations: Evaluations, methods: Sequence[str], tasks: Sequence[str], steps: int) -> list[str]:
    """
    A table with a row for each task, and columns for each method: success at the end, in any step of an episode and in
    its last one; the simulator's steps to 80% in the middle one of the runs; and the number of these.

    :param evaluations: All there are
    :param methods: The methods
    :param tasks: The tasks
    :param steps: Where the runs are judged
    :return: Lines of Markdown
    """
    columns = ("success", "in the last step", f"steps to {GOOD:.0%}", "seeds")
    lines = [
        "| task | " + " | ".join(f"{method}: {column}" for method in methods for column in columns) + " |",
        "| --- " * (1 + len(methods) * len(columns)) + "|",
    ]
    for task in tasks:
        cells = [task.removesuffix("-v3")]
        for method in methods:
            seeds = evaluations.seeds([method], [task])
            at, success = evaluations.table(method, [task], seeds, "success", steps)
            last_step = evaluations.table(method, [task], seeds, "success_at_end", steps)[1]
            cells += [at_end(success), at_end(last_step), steps_to(GOOD, at, success[:, 0]), str(len(seeds))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def tabulate_steps(evaluations: Evaluations, methods: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """
    A table with a row for each method and task that was run, of methods that are evaluated at the same steps: success
    by the step, the mean of what came after the cutoff, and the number of seeds.

    :param evaluations: All there are
    :param methods: The methods
    :param tasks: The tasks
    :return: Lines of Markdown
    """
    settings = METHODS[methods[0]]
    at = range(settings["eval_freq"], settings["steps"] + 1, settings["eval_freq"])
    n_after = sum(step > settings["shaping"]["shaping_steps"] for step in at)
    columns = ["task", "method", *(f"{step:,}".replace(",", " ") for step in at), "after the cutoff", "seeds"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for task in tasks:
        for method in methods:
            seeds = evaluations.seeds([method], [task])
            if seeds:
                success = evaluations.column(method, [task], seeds, "success", len(at))[:, 0].mean(axis=0)
                numbers = [f"{value:.0%}" for value in (*success, success[-n_after:].mean())]
                lines.append("| " + " | ".join([task.removesuffix("-v3"), method, *numbers, str(len(seeds))]) + " |")
    return lines


def at_end(values: np.ndarray) -> str:
    """
    Say what the last evaluations of a task's runs come to, if that was measured in any.

    :param values: ``(runs, 1, evaluations)``, NaN where it was not
    :return: The mean, and its range over the runs
    """
    of_runs = values[..., -N_LAST:].mean(axis=-1)
    measured = of_runs[~np.isnan(of_runs)].reshape(-1, 1, 1)
    return percent(ranges(measured)[0]) if measured.size else ""


def steps_to(level: float, at: np.ndarray, success: np.ndarray) -> str:
    """
    Say how soon the middle one of some runs is at a level for the first time.

    :param level: The level
    :param at: Steps of the evaluations
    :param success: Success in them, ``(runs, evaluations)``
    :return: The steps, or that it never is
    """
    if not len(success):
        return ""
    reaches = success >= level
    first = np.sort(np.where(reaches.any(axis=1), at[reaches.argmax(axis=1)], np.inf))
    middle = first[len(first) // 2]
    return f"{middle:,.0f}".replace(",", " ") if np.isfinite(middle) else "never"


def write_tables(evaluations: Evaluations, path: pathlib.Path) -> None:
    """All tables, as Markdown."""
    lines = [f"## fifteen tasks, {FRAME_SKIP * SHORT_STEPS} steps", ""]
    lines += [*tabulate_tasks(evaluations, *EXPERIMENTS["fifteen tasks"], SHORT_STEPS), ""]
    lines += ["## settings, the README's code", "", *tabulate_steps(evaluations, *EXPERIMENTS["settings"]), ""]
    for steps in (FULL_STEPS, SHORT_STEPS):
        lines += [f"## main, {FRAME_SKIP * steps} steps", ""]
        lines += [*tabulate(evaluations, evaluations.compared("main"), TASKS, steps), ""]
    for experiment, (_, tasks) in EXPERIMENTS.items():
        methods = evaluations.compared(experiment)
        has_own_steps = any("eval_freq" in METHODS[method] for method in methods)
        if experiment not in ("main", "fifteen tasks") and methods and not has_own_steps:
            names = [describe(method, experiment) if experiment != "rivals" else method for method in methods]
            lines += [f"## {experiment}, {FRAME_SKIP * SHORT_STEPS} steps", ""]
            lines += [*tabulate(evaluations, methods, tasks, SHORT_STEPS, names), ""]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results")
    args = parser.parse_args()
    evaluations = Evaluations(Results(args.results))
    write_tables(evaluations, args.results / "tables.md")
    for name, steps in (("main", FULL_STEPS), ("rivals", SHORT_STEPS)):
        draw_tasks(evaluations, evaluations.compared(name), EXPERIMENTS[name][1], steps, args.results / f"{name}.png")
    draw_ablations(evaluations, args.results / "ablations.png")
    draw_health(evaluations, args.results / "health.png")
    print((args.results / "tables.md").read_text())


if __name__ == "__main__":
    main()
