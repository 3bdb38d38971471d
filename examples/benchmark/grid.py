"""
VARL beside SAC and what else one would try, on sparse Meta-World tasks, with a SIMULATED advisor.

    python examples/benchmark/grid.py main                # the runs of the main table
    python examples/benchmark/grid.py gate cutoff         # those of two ablations
    python examples/benchmark/grid.py all --list          # what there is, and what of it is done
    python examples/benchmark/grid.py --check "VARL/drawer-open-v3/0"

A run on each core. What is in the results is not run again; a run that was stopped starts over. ``figures.py`` draws
what is there.
"""

import argparse
import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import time
from collections.abc import Generator
from typing import Any

from tqdm import tqdm

from cells import EXPERIMENTS, METHODS, SEEDS, TASKS, Cell, make_cell, make_grid
from results import FINISHED, Results
from training import run, steps_done

HERE = pathlib.Path(__file__).parent
# Columns that differ from one run to the next of the same cell.
NOT_REPEATED = {"id", "seconds"}
TOLERANCE = 1e-3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="experiment", help=f"{', '.join(EXPERIMENTS)}, or all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help="only these of them")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, metavar="TASK", help="only these of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--steps", type=int, help="actions per run, for a quick look; use another --results for it")
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "results", help="folder of the CSV files")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("grid"), help="folder of the runs' own files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side; default: one per core")
    parser.add_argument("--ray", metavar="ADDRESS", help='hand the runs to a Ray cluster; "local" starts one here')
    parser.add_argument("--list", action="store_true", help="list the runs and what came of them, and stop")
    parser.add_argument("--check", metavar="RUN", help="repeat a run and compare it with its rows in the results")
    args = parser.parse_args()
    if "all" in args.experiments:
        args.experiments = list(EXPERIMENTS)
    unknown = set(args.experiments) - set(EXPERIMENTS)
    if unknown:
        parser.error(f"there is no experiment {', '.join(sorted(unknown))}: choose among {', '.join(EXPERIMENTS)}, all")
    if not args.experiments and args.check is None:
        parser.error(f"which experiments? Choose among {', '.join(EXPERIMENTS)}, or say all")
    return args


def folder_of(cell: Cell, work: pathlib.Path) -> pathlib.Path:
    """Folder of a run's own files."""
    return work.resolve() / re.sub(r"[^\w.-]+", "_", cell.name)


def missing_cells(cells: list[Cell], results: Results) -> list[Cell]:
    """
    Leave out what was run before.

    :param cells: Runs
    :param results: What is there
    :return: Those that are not there
    """
    finished = results.finished()
    missing = []
    for cell in cells:
        row = finished.get((cell.method, cell.task, cell.seed))
        if row is None:
            missing.append(cell)
        elif row["configuration"] != cell.configuration:
            sys.exit(
                f"grid.py: {results.runs_path} has a run {cell.name} with other settings:\n  {row['configuration']}\n"
                f"than those of now:\n  {cell.configuration}\nName another folder with --results."
            )
    return missing


def on_this_machine(cells: list[Cell], args: argparse.Namespace) -> Generator[Any]:
    """Do the runs in processes of their own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.jobs, context, max_tasks_per_child=1) as pool:
        pending = {pool.submit(run, cell, folder_of(cell, args.work)) for cell in cells}
        try:
            while pending:
                done, pending = concurrent.futures.wait(pending, timeout=1.0)
                yield from (future.result() for future in done)
                yield None
        except BaseException as error:
            for process in multiprocessing.active_children():
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, concurrent.futures.process.BrokenProcessPool):
                sys.exit(
                    "grid.py: a run's process was killed, perhaps for want of memory. Start again, with less --jobs."
                )
            raise


def on_ray(cells: list[Cell], args: argparse.Namespace) -> Generator[Any]:
    """Do the runs on a Ray cluster, one on each of its cores."""
    import ray

    environment = {"working_dir": str(HERE), "excludes": ["*.csv", "*.png", "__pycache__"]}
    here = args.ray == "local"
    ray.init(
        None if here else args.ray, num_cpus=args.jobs if here else None, runtime_env=environment, log_to_driver=False
    )
    remote_run = ray.remote(num_cpus=1, max_retries=0)(run)
    pending = [remote_run.remote(cell, folder_of(cell, args.work)) for cell in cells]
    while pending:
        done, pending = ray.wait(pending, timeout=1.0)
        yield from ray.get(done)
        yield None
    ray.shutdown()


def run_all(cells: list[Cell], results: Results, args: argparse.Namespace) -> None:
    """
    Do the runs and append them to the results as they finish.

    :param cells: The runs
    :param results: Where to
    :param args: Of the command line
    """
    total = sum(cell.settings["steps"] for cell in cells)
    engine = on_ray if args.ray else on_this_machine
    finished: set[tuple[str, str, int]] = set()
    n_failed = 0
    with (
        tqdm(total=total, unit="step", unit_scale=True, smoothing=0.05) as bar,
        contextlib.closing(engine(cells, args)) as outcomes,
    ):
        for outcome in outcomes:
            if outcome is not None:
                row, evaluations = outcome
                results.add(row, evaluations)
                finished.add((row["method"], row["task"], row["seed"]))
                n_failed += row["status"] != FINISHED
                success = f"{row['success']:.0%}" if row["status"] == FINISHED else row["status"]
                tqdm.write(f"{row['method']}/{row['task']}/{row['seed']}: {success} after {row['seconds']} s")
            is_finished = [(cell.method, cell.task, cell.seed) in finished for cell in cells]
            steps = [
                cell.settings["steps"] if done else steps_done(folder_of(cell, args.work))
                for cell, done in zip(cells, is_finished, strict=True)
            ]
            bar.update(sum(steps) - bar.n)
            bar.set_postfix_str(f"{sum(is_finished)} of {len(cells)} runs, {n_failed} failed")


def check(name: str, results: Results, args: argparse.Namespace) -> None:
    """
    Repeat a run and compare what comes of it.

    :param name: The run
    :param results: What came of it before
    :param args: Of the command line
    """
    try:
        method, task, seed = name.rsplit("/", 2)
        before = results.finished()[method, task, int(seed)]
    except (ValueError, KeyError):
        sys.exit(f"grid.py: {results.runs_path} has no run {name!r}. Names are method/task/seed, as --list has them.")
    start = time.time()
    row, evaluations = run(
        make_cell(method, task, int(seed), args.steps), folder_of(make_cell(method, task, int(seed)), args.work)
    )
    if row["configuration"] != before["configuration"]:
        sys.exit(f"grid.py: {name} was run with other settings:\n  {before['configuration']}")
    worst = 0.0
    for old, new in zip(results.evaluations(before["id"]), evaluations, strict=True):
        for column, value in new.items():
            if column in NOT_REPEATED or str(value) == old[column]:
                continue
            difference = abs(float(value) - float(old[column])) / max(1.0, abs(float(value)))
            worst = max(worst, difference)
            print(f"step {old['step']}, {column}: {old[column]} before, {value} now")
    print(f"{name}, {len(evaluations)} evaluations, {time.time() - start:.0f} s: largest difference {worst:.2g}")
    if worst > TOLERANCE:
        sys.exit(f"grid.py: {name} is not what it was.")


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    args = parse_args()
    results = Results(args.results)
    if args.check is not None:
        check(args.check, results, args)
        return
    cells = [
        cell
        for cell in make_grid(args.experiments, tuple(args.seeds), args.steps)
        if cell.method in (args.methods or METHODS) and cell.task in (args.tasks or TASKS)
    ]
    missing = missing_cells(cells, results)
    if args.list:
        finished = results.finished()
        for cell in cells:
            row = finished.get((cell.method, cell.task, cell.seed))
            outcome = "to do" if row is None else format(float(row["success"]), ".0%")
            print(f"{cell.name:<50}{outcome:>6}")
    print(f"{len(cells)} runs, {len(missing)} of them to do. The advisor is SIMULATED.")
    if missing and not args.list:
        run_all(missing, results, args)


if __name__ == "__main__":
    main()
