"""
VARL beside SAC and what else one would try, on sparse Meta-World tasks. The advisor is SIMULATED, or RECORDED answers
of a large multimodal model in the experiments with rules.

    python examples/benchmark/grid.py main                # the runs of the main table
    python examples/benchmark/grid.py gate cutoff         # those of two ablations
    python examples/benchmark/grid.py all --list          # what there is, and what of it is done
    python examples/benchmark/grid.py --check "rules/drawer-open-v3/101"

A run on each core. What is in the results is not run again, unless it was run with settings that its method has no
longer, and with ``--again``; a run that was stopped starts over. ``figures.py`` draws what is there.
"""

import argparse
import concurrent.futures
import contextlib
import json
import math
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from multiprocessing.connection import Connection
from typing import NamedTuple

from tqdm import tqdm

from cells import EXPERIMENTS, METHODS, SEEDS, Cell, is_recorded, make_cell, make_grid
from results import ADDED_LATER, FINISHED, Results, Row
from training import run, steps_done, summarize, versions

ALL_TASKS = tuple(dict.fromkeys(task for _, tasks in EXPERIMENTS.values() for task in tasks))
HERE = pathlib.Path(__file__).parent
# Columns that differ from one run to the next of the same cell.
NOT_REPEATED = {"id", "seconds"}
TOLERANCE = 1e-3

Outcome = tuple[Row, list[Row]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="experiment", help=f"{', '.join(EXPERIMENTS)}, or all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help="only these of them")
    parser.add_argument("--tasks", nargs="+", choices=ALL_TASKS, metavar="TASK", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--steps", type=int, help="actions per run, for a quick look; use another --results for it")
    parser.add_argument("--eval-episodes", type=int, help="episodes per evaluation, likewise")
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "results", help="folder of the CSV files")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("grid"), help="folder of the runs' own files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side; default: one per core")
    parser.add_argument("--ray", metavar="ADDRESS", help='hand the runs to a Ray cluster; "local" starts one here')
    parser.add_argument("--again", action="store_true", help="run again what was run with other settings than today's")
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
    if args.again and (args.steps is not None or args.eval_episodes is not None):
        parser.error("a quick look does not stand for a run: leave out --again, and use another --results for it")
    return args


def missing_cells(cells: list[Cell], results: Results) -> list[Cell]:
    """
    Leave out what was run before, for as long at least.

    :param cells: Runs
    :param results: What is there
    :return: Those that are not there
    """
    finished = results.finished()
    return [
        cell for cell in cells if (row := finished.get(cell.key)) is None or int(row["steps"]) < cell.settings["steps"]
    ]


def outdated_cells(cells: list[Cell], results: Results) -> list[Cell]:
    """
    Find what was run before, with other settings.

    :param cells: Runs
    :param results: What is there
    :return: Those that are there with settings that are not theirs
    """
    finished = results.finished()
    return [cell for cell in cells if cell.key in finished and not cell.is_same_as(finished[cell.key]["configuration"])]


class Job(NamedTuple):
    """
    A run that is to be done.

    :param cell: The run
    :param folder: For its own files
    :param made_with: What it will be made with
    """

    cell: Cell
    folder: pathlib.Path
    made_with: dict[str, str]

    @property
    def died(self) -> Outcome:
        """What is left to say if nothing came back."""
        return summarize(self.cell, "failed: its process died", [], 0.0, self.made_with), []


def on_this_machine(jobs: list[Job], args: argparse.Namespace) -> Generator[Outcome | None]:
    """Do the runs in processes of their own."""
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        pending = {pool.submit(in_own_process, job) for job in jobs}
        try:
            while pending:
                done, pending = concurrent.futures.wait(pending, timeout=1.0)
                yield from (future.result() for future in done)
                yield None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()


def in_own_process(job: Job) -> Outcome:
    """Do a run in a process of its own, and outlive it."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_outcome, args=(sender, job), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return job.died
    finally:
        process.join()


def send_outcome(sender: Connection, job: Job) -> None:
    """Do a run and send what came of it."""
    sender.send(run(*job))


def on_ray(jobs: list[Job], args: argparse.Namespace) -> Generator[Outcome | None]:
    """Do the runs on a Ray cluster, one on each of its cores."""
    import ray

    environment = {"working_dir": str(HERE), "excludes": ["*.csv", "*.png", "__pycache__"]}
    here = args.ray == "local"
    ray.init(
        None if here else args.ray, num_cpus=args.jobs if here else None, runtime_env=environment, log_to_driver=False
    )
    remote_run = ray.remote(num_cpus=1, max_retries=0)(run)
    pending = {remote_run.remote(*job): job for job in jobs}
    while pending:
        done, _ = ray.wait(list(pending), timeout=1.0)
        for reference in done:
            job = pending.pop(reference)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayError as error:
                tqdm.write(str(error))
                outcome = job.died
            yield outcome
        yield None
    ray.shutdown()


def run_all(cells: list[Cell], results: Results, args: argparse.Namespace) -> None:
    """
    Do the runs and append them to the results as they finish.

    :param cells: The runs
    :param results: Where to
    :param args: Of the command line
    """
    made_with, beginning = versions(), f"{time.time():.0f}"
    folders = [args.work.resolve() / re.sub(r"[^\w.-]+", "_", f"{cell.name}_{beginning}") for cell in cells]
    jobs = [Job(cell, folder, made_with) for cell, folder in zip(cells, folders, strict=True)]
    engine = on_ray if args.ray else on_this_machine
    outcomes: dict[tuple[str, str, int], str] = {}
    with (
        tqdm(total=sum(cell.settings["steps"] for cell in cells), unit="step", unit_scale=True, smoothing=0.05) as bar,
        contextlib.closing(engine(jobs, args)) as generator,
    ):
        for outcome in generator:
            if outcome is not None:
                row, evaluations = outcome
                results.add(row, evaluations)
                outcomes[row["method"], row["task"], row["seed"]] = row["status"]
                success = f"{row['success']:.0%}" if row["status"] == FINISHED else row["status"]
                tqdm.write(f"{row['method']}/{row['task']}/{row['seed']}: {success} after {row['seconds']} s")
            steps = [
                cell.settings["steps"] if cell.key in outcomes else steps_done(folder)
                for cell, folder in zip(cells, folders, strict=True)
            ]
            bar.update(sum(steps) - bar.n)
            n_failed = sum(status != FINISHED for status in outcomes.values())
            bar.set_postfix_str(f"{len(outcomes)} of {len(cells)} runs, {n_failed} failed")


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
    cell = make_cell(method, task, int(seed), args.steps, args.eval_episodes)
    if not cell.is_same_as(before["configuration"]):
        sys.exit(f"grid.py: {name} was run with other settings:\n  {before['configuration']}\nthan those of now.")
    cell.settings["steps"] = int(before["steps"])
    made_with = versions()
    with tempfile.TemporaryDirectory() as folder:
        row, evaluations = run(cell, pathlib.Path(folder) / "run", made_with)
    if row["status"] != FINISHED:
        sys.exit(f"grid.py: {name} was finished before, and now: {row['status']}")
    worst = 0.0
    for old, new in zip(results.evaluations(before["id"]), evaluations, strict=True):
        for column in new.keys() - NOT_REPEATED:
            if str(new[column]) == old[column] or (column in ADDED_LATER and not old[column]):
                continue
            print(f"step {old['step']}, {column}: {old[column]!r} before, {new[column]!r} now")
            if "" in (new[column], old[column]):
                worst = math.inf
            else:
                value = float(new[column])
                difference = abs(value - float(old[column])) / max(1.0, abs(value))
                worst = max(worst, difference) if math.isfinite(difference) else math.inf
    print(f"{name}, {len(evaluations)} evaluations, {row['seconds']} s: largest difference {worst:.2g}")
    if worst > TOLERANCE:
        of_then = json.loads(before["versions"])
        changed = [
            f"{what} ({of_then.get(what, 'unknown')} then, {now} now)"
            for what, now in made_with.items()
            if of_then.get(what) != now
        ]
        sys.exit(
            f"grid.py: {name} is not what it was. Rounding differs between processors, and with it a whole run; what "
            f"else differs: {'; '.join(changed) or 'nothing'}. To tell one from the other, run it here at both commits."
        )


def kind_of_advice(cell: Cell) -> str:
    """Where the advice of a run comes from, as it is said before the run."""
    if "demonstrations" in cell.settings:
        return "RECORDED"
    if cell.settings["advice"] is None and "scores" not in cell.settings:
        return "none"
    if not is_recorded(cell.settings):
        return "SIMULATED"
    return "RECORDED with a SIMULATED mistake" if "mistake" in cell.settings else "RECORDED"


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    args = parse_args()
    results = Results(args.results)
    if args.check is not None:
        check(args.check, results, args)
        return
    cells = [
        cell
        for cell in make_grid(args.experiments, tuple(args.seeds), args.steps, args.eval_episodes)
        if cell.method in (args.methods or METHODS) and cell.task in (args.tasks or ALL_TASKS)
    ]
    missing, outdated = missing_cells(cells, results), outdated_cells(cells, results)
    if args.list:
        finished = results.finished()
        width = max((len(cell.name) for cell in cells), default=0) + 2
        for cell in cells:
            outcome = "to do" if cell in missing else format(float(finished[cell.key]["success"]), ".0%")
            print(f"{cell.name:<{width}}{outcome:>6}{' *' * (cell in outdated)}")
        if outdated:
            print(f"* {len(outdated)} of them were run with settings that their methods have no longer.")
    elif outdated and not args.again:
        first = outdated[0]
        sys.exit(
            f"grid.py: {results.runs_path} has {len(outdated)} of these runs with other settings, among them "
            f"{first.name}:\n  {results.finished()[first.key]['configuration']}\nthan those of now:\n  "
            f"{first.configuration}\nRun them again with --again, or name another folder with --results."
        )
    if args.again:
        missing = [cell for cell in cells if cell in missing or cell in outdated]
    kinds = {kind_of_advice(cell) for cell in cells}
    print(f"{len(cells)} runs, {len(missing)} of them to do. Advisor: {' or '.join(sorted(kinds))}.")
    if missing and not args.list:
        run_all(missing, results, args)


if __name__ == "__main__":
    main()
