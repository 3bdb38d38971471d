"""
Ways to weigh tokens side by side on NumberLine from pixels, each with several coefficients and seeds.

    pip install -e ".[coso,examples]"
    python examples/coso_grid.py                    # what is not in coso_results.csv yet, a run on each core
    python examples/coso_grid.py --figure           # draws coso_results.png and prints the table

All runs of a seed start from one model, which ``coso_number_line.py`` describes: it has imitated answers of which some
are guesses.
"""

import argparse
import concurrent.futures
import csv
import itertools
import multiprocessing
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.utils import set_random_seed
from tqdm import tqdm

from coso_number_line import WEIGHTS, History, make_model, success, teach

HERE = pathlib.Path(__file__).parent
ALPHAS = (0.01, 0.1, 1.0)
SEEDS = (0, 1, 2, 3, 4)
STEPS = 4096
METHODS = ("none", "uniform", "parser", "learned")
COLUMNS = ("weights", "alpha", "seed", "step", "success", "unparsed")
COLORS = {"none": "#000000", "uniform": "#D55E00", "parser": "#009E73", "learned": "#0072B2", "code": "#CC79A7"}
# The last row of a run is of the likeliest words, in episodes that it was not trained in.
GREEDY = "greedy"


class Run(NamedTuple):
    """
    One run.

    :param weights: How tokens are weighed
    :param alpha: Coefficient of the weighted entropy
    :param seed: Seed of everything
    """

    weights: str
    alpha: float
    seed: int


def make_start(seed: int, folder: pathlib.Path) -> pathlib.Path:
    """Teach the model that all runs of a seed start from."""
    path = folder / f"start_{seed}.pt"
    if not path.exists():
        th.set_num_threads(1)
        model = make_model("none", 0.0, seed)
        teach(model, seed, progress_bar=False)
        th.save(model.policy.state_dict(), path)
    return path


def train(run: Run, start: pathlib.Path, steps: int) -> list[dict[str, Any]]:
    """Train a model, and say how it went."""
    th.set_num_threads(1)
    model = make_model(*run)
    model.policy.load_state_dict(th.load(start))
    set_random_seed(run.seed)
    history = History()
    model.learn(steps, callback=history)
    rows = [*history.rows, (GREEDY, success(model, run.seed), "")]
    return [dict(zip(COLUMNS, (*run, *row), strict=True)) for row in rows]


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Read the results."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Append a run to the results."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def run_all(runs: list[Run], args: argparse.Namespace) -> None:
    """Do the runs and append them to the results as they finish."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ProcessPoolExecutor(args.jobs, context) as pool:
        seeds = sorted({run.seed for run in runs})
        starts = {seed: pool.submit(make_start, seed, pathlib.Path(folder)) for seed in seeds}
        # Each seed as soon as it has its start, so that a grid that was stopped is complete in its first seeds.
        pending: dict[concurrent.futures.Future[list[dict[str, Any]]], Run] = {}
        with tqdm(total=len(runs), unit="run") as bar:
            for seed in seeds:
                start = starts[seed].result()
                pending |= {pool.submit(train, run, start, args.steps): run for run in runs if run.seed == seed}
            for future in concurrent.futures.as_completed(pending):
                rows = future.result()
                append(args.results, rows)
                run, last = pending[future], rows[-2]
                tqdm.write(
                    f"{run.weights} {run.alpha:g}, seed {run.seed}: {last['success']:.0%}, "
                    f"{last['unparsed']:.0%} unparsed, {rows[-1]['success']:.0%} with the likeliest words"
                )
                bar.update()


def draw(path: pathlib.Path) -> None:
    """Print the table, and draw the curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read(path)
    cells = sorted({(row["weights"], float(row["alpha"])) for row in rows}, key=lambda c: (WEIGHTS.index(c[0]), c[1]))
    print("| Weights | alpha | seeds | success, all rollouts | in the last one | unparsed there | likeliest words |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    figure, axes = plt.subplots(2, len(ALPHAS), figsize=(11, 5.5), sharex=True, sharey="row", layout="constrained")
    for weights, alpha in cells:
        of_cell = [row for row in rows if (row["weights"], float(row["alpha"])) == (weights, alpha)]
        drawn = [row for row in of_cell if row["step"] != GREEDY]
        steps = sorted({int(row["step"]) for row in drawn})
        seeds = sorted({row["seed"] for row in drawn})
        success, unparsed = (
            np.array(
                [
                    [float(row[name]) for row in drawn if (row["seed"], int(row["step"])) == (s, t)]
                    for s in seeds
                    for t in steps
                ]
            ).reshape(len(seeds), len(steps))
            for name in ("success", "unparsed")
        )
        greedy = np.mean([float(row["success"]) for row in of_cell if row["step"] == GREEDY])
        spread = f"{success[:, -1].min():.0%} to {success[:, -1].max():.0%}"
        print(
            f"| {weights} | {alpha:g} | {len(seeds)} | {success.mean():.0%} | {success[:, -1].mean():.0%} ({spread}) "
            f"| {unparsed[:, -1].mean():.0%} | {greedy:.0%} |"
        )
        for column, of_column in enumerate(ALPHAS):
            if weights == "none" or alpha == of_column:
                for row_of_axes, values in zip(axes, (success, unparsed), strict=True):
                    axis = row_of_axes[column]
                    axis.plot(steps, values.mean(axis=0), color=COLORS[weights], label=weights)
                    axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=COLORS[weights], alpha=0.15)
    for column, alpha in enumerate(ALPHAS):
        axes[0, column].set_title(f"alpha {alpha:g}")
        axes[1, column].set_xlabel("steps")
    axes[0, 0].set_ylabel("success")
    axes[1, 0].set_ylabel("unparsed")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path.with_suffix(".png"), dpi=110)


def main() -> None:
    """Run what is missing, or draw what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(METHODS))
    parser.add_argument("--alphas", type=float, nargs="+", default=list(ALPHAS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "coso_results.csv")
    parser.add_argument("--figure", action="store_true", help="draw what is there, and run nothing")
    args = parser.parse_args()
    if args.figure:
        draw(args.results)
        return
    done = {Run(row["weights"], float(row["alpha"]), int(row["seed"])) for row in read(args.results)}
    runs = [
        Run(weights, 0.0 if weights == "none" else alpha, seed)
        for seed, weights, alpha in itertools.product(args.seeds, args.weights, args.alphas)
    ]
    run_all([run for run in dict.fromkeys(runs) if run not in done], args)


if __name__ == "__main__":
    main()
