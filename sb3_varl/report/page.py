"""
One page about one or several runs: what was asked, what came back, what it cost, and what training made of it.

    python -m sb3_varl.report logs/VARL_1 logs/SAC_1 --output report.html

The page holds all that it needs and opens from the disk. It is made of what runs leave behind (see
:mod:`sb3_varl.report.runs`), without a model, an environment or a key. In a script or a notebook:

    from sb3_varl.report.page import write_report
    write_report("logs", "report.html")
"""

import argparse
import dataclasses
import datetime
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from tqdm import tqdm

import sb3_varl
from sb3_varl.advice.history import LoggedQuery
from sb3_varl.advice.log import FILE_NAME
from sb3_varl.advice.types import Answer, Usage
from sb3_varl.pages import StateView, render, view_states, write_page
from sb3_varl.report.corrections import RulesView, view_rules
from sb3_varl.report.curves import MAX_NAMES, draw_key, draw_panels, last_step
from sb3_varl.report.runs import Curve, RunLogs, read_runs
from sb3_varl.rules.rule import outline
from sb3_varl.training.standing import MAX_LOGGED_RULES
from sb3_varl.wording import count

FRAME_SIZE = 224
# What nobody should take for a model's performance.
SIMULATED = "ScriptedAdvisor"
# Points of a curve whose mean is the end's.
_LAST = 3
# Drawing fewer states takes no longer than a look at the progress bar.
MIN_STATES_WITH_PROGRESS = 100


@dataclass(frozen=True)
class QueryView:
    """
    What became of a query.

    :param number: Its number within the run, from 1
    :param log: Name of its advice log
    :param step: Environment steps when it was asked
    :param n_states: States that it asked about
    :param n_advised: States with advice
    :param n_abstained: States that the advisor had nothing to say on
    :param rejected: Number of answers that could not be used, by the reason
    :param usage: What it cost
    :param latency: Seconds until it was done, or ``None`` if it never was
    :param failures: What was said of requests that failed, retries included, a line each
    :param n_failed: Number of requests that failed for good
    :param error: Why the advisor failed altogether, or ``None``
    :param answers: What the model said
    :param states: The states
    :param altered: What was changed about the states to check the advisor, or nothing
    :param was_put_back: Whether its rules did worse than older ones, which stood again
    :param remarks: What could not be used of its answers beside single states
    """

    number: int
    log: str
    step: int
    n_states: int
    n_advised: int
    n_abstained: int
    rejected: dict[str, int]
    usage: Usage
    latency: float | None
    failures: list[str]
    n_failed: int
    error: str | None
    answers: list[Answer]
    states: list[StateView]
    altered: str
    was_put_back: bool
    remarks: list[str]


@dataclass(frozen=True)
class Totals:
    """
    What some queries come to.

    :param counts: ``queries``, ``states`` and ``accepted``, empty if there was no advice
    :param usage: What they cost
    :param faults: What went wrong, and how many times, in a few words each
    """

    counts: dict[str, int]
    usage: Usage
    faults: list[str]


@dataclass(frozen=True)
class RunView:
    """
    What there is to say of a run.

    :param name: Short name that no other run has
    :param key: How it is drawn, as the URL of a picture
    :param n_steps: Environment steps
    :param success: Success at the end, and what it is the mean of, or nothing
    :param totals: Of all its advice
    :param totals_of_logs: Of each advice log by its name, if it has more than one
    :param queries: The queries
    :param missing: What could not be found or read, a sentence each
    :param rules: The rules that it was advised by
    """

    name: str
    key: str
    n_steps: int
    success: str
    totals: Totals
    totals_of_logs: dict[str, Totals] = field(default_factory=dict)
    queries: list[QueryView] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    rules: RulesView = field(default_factory=RulesView)


def write_report(
    run_dirs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = "report.html",
    progress_bar: bool = False,
) -> pathlib.Path:
    """
    Write a page about runs.

    :param run_dirs: The folder of a run, or of several, or a list of such folders
    :param output: The page to write; one that is there is replaced
    :param progress_bar: Whether to show one where there is much to draw
    :return: The page's path
    :raises FileNotFoundError: if a folder holds no run, or there is no folder for the page
    :raises IsADirectoryError: if ``output`` is a folder
    :raises ValueError: if no folder is given, or an advice log was written by a newer version or holds something else
    """
    path = pathlib.Path(output)
    if path.is_dir():
        raise IsADirectoryError(f"output is {path}, which is a folder, expected the file of the page.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"output is {path}, but there is no folder {path.parent}. Make it first.")
    folders = [run_dirs] if isinstance(run_dirs, str | os.PathLike) else list(run_dirs)
    if not folders:
        raise ValueError("run_dirs is empty, expected the folder of at least one run.")
    by_place = {run.folder.resolve(): run for folder in folders for run in read_runs(folder)}
    runs = list(by_place.values())
    names = _names(list(by_place))
    n_states = sum(query.n_states for run in runs for query in run.all_queries)
    hidden = None if progress_bar and n_states >= MIN_STATES_WITH_PROGRESS else True
    with tqdm(total=n_states, desc="Drawing", unit=" states", disable=hidden) as progress:
        views = [_view_run(i, name, run, progress) for i, (name, run) in enumerate(zip(names, runs, strict=True))]
    page = render(
        "report.html",
        title=f"Report on {', '.join(names) if len(names) <= MAX_NAMES else f'{len(names)} runs'}",
        runs=views,
        tasks=sorted({query.task for run in runs for query in run.all_queries if query.task is not None}),
        advisors={
            name: sorted({query.advisor for query in run.all_queries if query.advisor is not None})
            for name, run in zip(names, runs, strict=True)
            if run.all_queries
        },
        simulated=SIMULATED,
        panels=draw_panels(runs, names),
        max_names=MAX_NAMES,
        has_cutoff=any(run.cutoff is not None and run.cutoff <= last_step(runs) for run in runs),
        version=sb3_varl.__version__,
        date=datetime.date.today(),
    )
    write_page(path, page)
    return path


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
    """The last parts of the folders' paths, as many as it takes to tell them apart."""
    for n_parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-n_parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _view_run(index: int, name: str, run: RunLogs, progress: Any) -> RunView:
    by_log: dict[str, list[QueryView]] = {}
    for log, logged in run.queries.items():
        by_log[log] = []
        for query in logged:
            by_log[log].append(_view_query(log, query))
            progress.update(query.n_states)
    queries = [query for of_log in by_log.values() for query in of_log]
    answers = [
        (_label(query, by_log, answer), answer, [] if _was_sent_back(query, answer) else query.remarks)
        for query in queries
        if not query.altered
        for answer in query.answers
    ]
    return RunView(
        name,
        draw_key(index),
        run.n_steps,
        _at_end(run.success),
        _totals(queries) if run.queries else _logged_totals(run),
        {log: _totals(of_log) for log, of_log in by_log.items()} if len(by_log) > 1 else {},
        queries,
        run.missing,
        view_rules(answers, () if _was_put_back(queries) else _shares(run)),
    )


def _at_end(success: Curve | None) -> str:
    return "" if success is None else f"{success.values.iloc[-_LAST:].mean():.0%}, {success.source}"


def _was_put_back(queries: Sequence[QueryView]) -> bool:
    """Whether the rules that stand are not the latest."""
    written = [(q, a) for q in queries for a in q.answers if a.form == "rules" and outline(a.text)]
    return bool(written) and (written[-1][0].was_put_back or _was_sent_back(*written[-1]))


def _was_sent_back(query: QueryView, answer: Answer) -> bool:
    return answer is not query.answers[-1]


def _shares(run: RunLogs) -> list[float | None]:
    curves = [run.scalar(f"advice/rule_{i}") for i in range(1, 1 + MAX_LOGGED_RULES)]
    return [float(curve.iloc[-1]) if len(curve) else None for curve in curves]


def _label(query: QueryView, by_log: dict[str, list[QueryView]], answer: Answer) -> str:
    of_log = f" of {query.log}" if len(by_log) > 1 else ""
    became = ", sent back" if _was_sent_back(query, answer) else ", put back" if query.was_put_back else ""
    return f"query {query.number}{of_log}, step {query.step:,}{became}"


def _totals(queries: Sequence[QueryView]) -> Totals:
    counts = {
        "queries": len(queries),
        "states": sum(query.n_states for query in queries),
        "accepted": sum(query.n_advised for query in queries),
    }
    rejected = sum((Counter(query.rejected) for query in queries), Counter())
    failed = {
        "failed request": sum(query.n_failed for query in queries),
        "failed query": sum(query.error is not None for query in queries),
        "unfinished query": sum(query.latency is None for query in queries),
    }
    return Totals(counts, sum((query.usage for query in queries), Usage()), _faults(rejected, failed))


def _faults(rejected: Counter[str], failed: dict[str, int]) -> list[str]:
    """In words, the most frequent first."""
    numbers = {**rejected, **failed}
    return [
        f"{number} {what}" if what in rejected else count(number, what)
        for what, number in Counter(numbers).most_common()
        if number
    ]


def _logged_totals(run: RunLogs) -> Totals:
    """What SB3's logger knows of a run that kept no advice log."""
    totals = {
        key.removeprefix("advice/"): run.scalars[key].iloc[-1] for key in run.scalars if key.startswith("advice/")
    }
    counts = {key: int(totals.get(key, 0)) for key in ("queries", "states", "accepted")} if totals else {}
    numbers = {name: totals.get(name, 0) for name in ("requests", "prompt_tokens", "completion_tokens")}
    usage = Usage(
        **{name: int(n) for name, n in numbers.items()}, cost=totals.get("cost", 0), seconds=totals.get("seconds", 0)
    )
    rejected = Counter(
        {
            key.removeprefix("rejected_").replace("_", " "): int(value)
            for key, value in totals.items()
            if key.startswith("rejected_")
        }
    )
    failed = {
        "failed request": int(totals.get("failed_requests", 0)),
        "failed query": int(totals.get("failed_queries", 0)),
    }
    return Totals(counts, usage, _faults(rejected, failed))


def _view_query(log: str, query: LoggedQuery) -> QueryView:
    space = spaces.Box(query.action_low, query.action_high, dtype=np.float64)
    try:
        advice = query.read(space)
        states = view_states(
            query.executed_actions, query.frames, query.steps, advice, space, query.action_names, frame_size=FRAME_SIZE
        )
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"Query {query.index + 1} in {query.folder / FILE_NAME} does not fit together "
            f"({type(error).__name__}: {error}). Has somebody changed the file?"
        ) from None
    unanswered = query.unanswered(query.n_states)
    verdict = ("open", "no answer") if query.advice is None else ("failed", "query failed")
    states = [
        dataclasses.replace(state, kind=verdict[0], verdict=verdict[1])
        if state.index in unanswered and state.kind == "abstained"
        else state
        for state in states
    ]
    return QueryView(
        query.index + 1,
        log,
        query.step,
        query.n_states,
        sum(state.kind == "advised" for state in states),
        sum(state.kind == "abstained" for state in states),
        dict(Counter(rejection.reason.replace("_", " ") for rejection in advice.rejected)),
        query.usage,
        None if query.advice is None else query.latency,
        [f"request {failure.request}: {failure.text}" for failure in query.failures],
        len(query.failed_requests),
        query.error,
        query.answers,
        states,
        query.altered,
        query.put_back is not None,
        [rejection.example for rejection in advice.rejected if rejection.state is None and rejection.example],
    )


def main(arguments: Sequence[str] | None = None, prog: str = "python -m sb3_varl.report") -> None:
    """
    Run the command.

    :param arguments: Its arguments, ``None`` for those of the command line
    :param prog: How it was called, for its messages
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a page about runs: their advice, what it cost, and the curves of their training.",
        epilog="It is made of advice.jsonl, progress.csv or TensorBoard files, evaluations.npz, *monitor.csv and the "
        "latest model's zip.",
    )
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run, or of several")
    parser.add_argument("--output", default="report.html", metavar="FILE", help="page to write (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        path = write_report(args.run_dirs, args.output, progress_bar=True)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
