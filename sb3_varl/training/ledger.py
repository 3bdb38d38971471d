"""What a run has asked, got and spent: for the logger, and for the run that goes on."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from sb3_varl.advice.types import UNANSWERED, UNREAD, AdviceQuery, Rejection, Usage
from sb3_varl.training.query_queue import Outcome

# Reasons of rejections that are counted each by itself; more of them would be so many keys of the logger.
MAX_REASONS = 20


class Ledger:
    """
    Totals of one run of one callback.

    :param progress: What the model's zip keeps of them: ``answered`` (queries that were), ``open`` (what of these
        was not answered, or could not be read: the query's number, the state, and the reason that was counted, which is
        ``None`` if the advisor had failed altogether, and empty if none was), ``failed`` (how many failed requests were
        counted of the queries that are open), ``totals`` and ``usage``. Kept up to date here
    """

    def __init__(self, progress: dict[str, Any]) -> None:
        self.progress = progress
        self.totals: Counter[str] = Counter(progress.get("totals", {}))
        self.latency = math.nan
        self._spent = Usage(**progress.get("usage", {}))

    @property
    def n_answered(self) -> int:
        """Number of queries of which the model has the answers."""
        return self.progress.get("answered", 0)

    @property
    def was_answered(self) -> bool:
        """Whether the advisor has ever said anything of a state, be it nothing."""
        of_no_answer = {f"rejected_{reason}" for reason in UNANSWERED}
        return any(
            n > 0
            for name, n in self.totals.items()
            if name in ("accepted", "abstained") or (name.startswith("rejected_") and name not in of_no_answer)
        )

    def ask(self, queries: Iterable[AdviceQuery], sign: int = 1) -> None:
        """
        Count queries that are asked.

        :param queries: The queries
        :param sign: -1 for queries that are not asked after all
        """
        for query in queries:
            self.totals.update(queries=sign, states=sign * len(query.states))

    def note(self, outcome: Outcome) -> None:
        """
        Note, for the model's zip, that it has what came back.

        :param outcome: What became of a query
        """
        index, reasons = outcome.query.index, {r.state: r.reason for r in outcome.rejected}
        self.progress["answered"] = max(index + 1, self.n_answered)
        others, was_failure = [], False
        for query, state, reason in self.progress.get("open", ()):
            if query != index or state not in outcome.states:
                others.append([query, state, reason])
            elif reason is None:
                was_failure = True
            elif reason:
                # What was counted of it when it was not answered counts no more.
                name = f"rejected_{reason}"
                self.totals[name if name in self.totals else "rejected_other"] -= 1
        if was_failure and not any(query == index and reason is None for query, _, reason in others):
            self.totals["failed_queries"] -= 1
        # What this package failed to read may be read another time, without being asked for.
        unread = {state for state in outcome.states if reasons.get(state) == UNREAD}
        still_open = others + [[index, state, reasons.get(state)] for state in sorted(outcome.unanswered | unread)]
        self.progress["open"] = still_open
        failed = dict(self.progress.get("failed", ()))
        if index in failed:
            self.totals["failed_requests"] -= failed.pop(index)
        if outcome.n_failed and outcome.error is None and any(query == index for query, *_ in still_open):
            failed[index] = outcome.n_failed
        self.progress["failed"] = [list(pair) for pair in failed.items()]

    def accept(self, outcome: Outcome, is_late: bool, still_open: Iterable[AdviceQuery]) -> None:
        """
        Count what came back.

        :param outcome: What became of a query
        :param is_late: Whether it came after the cutoff
        :param still_open: Queries that were counted and are not answered
        """
        self.latency = outcome.latency
        n_accepted = len(outcome.accepted)
        failed = {"failed_requests": outcome.n_failed} if outcome.error is None else {"failed_queries": 1}
        self.totals.update(
            accepted=n_accepted, abstained=outcome.n_abstained, late=n_accepted if is_late else 0, **failed
        )
        self.totals.update(self._reasons(outcome.rejected))
        asked = Ledger({})
        asked.ask(still_open)
        self.progress["totals"] = dict(self.totals - asked.totals)

    def _reasons(self, rejected: Iterable[Rejection]) -> Counter[str]:
        """Somebody's advisor may have a reason of its own for each state, and a logger is not for so many."""
        counts: Counter[str] = Counter()
        names = {name for name in self.totals if name.startswith("rejected_")}
        for rejection in rejected:
            name = f"rejected_{rejection.reason}"
            if len(names) < MAX_REASONS:
                names.add(name)
            counts[name if name in names else "rejected_other"] += 1
        return counts

    def spend(self, spent: Usage) -> None:
        """
        Note, for the logger and for the model's zip, what was spent.

        :param spent: What the run has spent
        """
        if spent is not self._spent:
            self._spent = spent
            self.progress["usage"] = dataclasses.asdict(spent)

    def figures(self) -> dict[str, float]:
        """
        Put together what is logged.

        :return: Numbers by their keys, empty before the first query
        """
        if not self.totals:
            return {}
        figures: dict[str, float] = {**self.totals, **dataclasses.asdict(self._spent)}
        if not math.isnan(self.latency):
            figures["latency"] = self.latency
        return {f"advice/{name}": value for name, value in figures.items()}
