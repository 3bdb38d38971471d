"""
Draws and tabulates what ``grid.py`` has run so far.

    python examples/benchmark/figures.py

Writes, next to the results, ``fifteen.png``, ``main.png``, ``rivals.png``, ``ablations.png``, ``health.png`` and
``tables.md``.
Ranges are of the seeds where it is about one task, and else intervals of 95% from a bootstrap over seeds that is
stratified by task, by rliable (https://arxiv.org/abs/2108.13264).
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cells import ABLATION_TASKS, BASE, EXPERIMENTS, FRAME_SKIP, FULL_STEPS, SHORT_STEPS, TASKS
from evaluations import Evaluations, describe, intervals, mean_of_each, ranges
from result_tables import write_tables
from results import Results

# Colours that a colour-blind reader can tell apart (Okabe and Ito, and Tol's wine).
BLUE, ORANGE = "#0072B2", "#D55E00"
COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", ORANGE, BLUE)
# Of more methods, ranges in a panel hide each other.
MAX_RANGES = 3
GREY = "#595959"


def colors_of(methods: Sequence[str]) -> list[str]:
    """A colour for each method: VARL's and SAC's are the same everywhere."""
    others = iter(COLORS)
    own = next((method for method in methods if method == "VARL" or method.startswith("rules")), "VARL")
    return [{own: BLUE, "SAC": ORANGE}.get(method) or next(others) for method in methods]


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
    evaluations: Evaluations, experiment: str, steps: int, path: pathlib.Path, advisor: str = "simulated"
) -> None:
    """A panel for each task of an experiment, and one for all of them, as soon as there are seeds that all have."""
    methods, tasks = evaluations.compared(experiment), EXPERIMENTS[experiment][1]
    seeds = evaluations.seeds(methods, tasks, steps)
    if not seeds:
        return
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
            label = f"VARL, {method}" if method.startswith("rules") else method
            draw_curve(axis, evaluations, method, panel, seeds, steps, color, label, with_range=readable)
        finish(axis, steps, panel[0] if len(panel) == 1 else f"mean of the {len(tasks)} tasks")
    figure.supxlabel("steps of the simulator (thousands)")
    figure.supylabel("success (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(plt.Line2D([], [], color=GREY, linestyle="--", linewidth=1))
    labels.append(f"cutoff of the advice ({advisor})")
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
            seeds = evaluations.seeds(["SAC", "VARL"], [task], FULL_STEPS)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results")
    args = parser.parse_args()
    evaluations = Evaluations(Results(args.results))
    write_tables(evaluations, args.results / "tables.md")
    draw_tasks(evaluations, "main", FULL_STEPS, args.results / "main.png")
    draw_tasks(evaluations, "rivals", SHORT_STEPS, args.results / "rivals.png")
    draw_tasks(evaluations, "fifteen tasks", SHORT_STEPS, args.results / "fifteen.png", "recorded")
    draw_ablations(evaluations, args.results / "ablations.png")
    draw_health(evaluations, args.results / "health.png")
    print((args.results / "tables.md").read_text())


if __name__ == "__main__":
    main()
