"""Queries on their way to an advisor: in the background, one at a time, and in the advice log."""

import concurrent.futures
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from sb3_varl.advice import (
    Advice,
    AdviceQuery,
    Advisor,
    Event,
    QueryInterrupted,
    Rejection,
    Usage,
    check_action,
)
from sb3_varl.advice_log import AdviceLog, QueryHistory
from sb3_varl.background import in_background
from sb3_varl.redaction import scrub

logger = logging.getLogger(__name__)

# Seconds that an advisor gets to break off what it is doing.
PATIENCE = 3.0


@dataclass(frozen=True)
class Outcome:
    """
    What became of a query.

    :param query: The query
    :param advice: Checked advice: an array or ``None`` for each state, and what the query cost
    :param latency: Seconds that it took
    :param error: Why the advisor failed altogether, in one line, or ``None``
    """

    query: AdviceQuery
    advice: Advice
    latency: float
    error: str | None = None


@dataclass
class _OpenQuery:
    query: AdviceQuery
    history: QueryHistory
    is_logged: bool
    future: Future[Outcome] | None = None


class Consultation:
    """
    Puts queries to an advisor, in a thread beside the training, one after the other.

    :param advisor: The advisor
    :param log: Where everything is written before it is used, or ``None``
    :param spent: What the run has spent on advice before
    """

    def __init__(self, advisor: Advisor, log: AdviceLog | None, spent: Usage) -> None:
        self.advisor = advisor
        self.log = log
        self.spent = spent
        self._open: list[_OpenQuery] = []
        self._interrupted = threading.Event()

    @property
    def open_queries(self) -> list[AdviceQuery]:
        """What the advisor has not answered yet."""
        return [asked.query for asked in self._open]

    def ask(self, query: AdviceQuery, history: QueryHistory | None = None) -> None:
        """
        Put a query, behind those that are open.

        :param query: The query
        :param history: What the log has of it, if it was interrupted
        """
        self._open.append(_OpenQuery(query, history or QueryHistory(query.index), is_logged=history is not None))
        self._start_next()

    def outcomes(self, wait: bool) -> Iterator[Outcome]:
        """
        Hand over what the advisor is done with.

        :param wait: Whether to wait for all that is open
        :return: The outcomes, in the order of the queries
        """
        while self._open:
            self._start_next()
            first = self._open[0]
            broken_off = self._interrupted.is_set()
            if first.future is None or not (first.future.done() or (wait and not broken_off)):
                return
            try:
                outcome = first.future.result()
            except QueryInterrupted:
                first.future = None
                if self._interrupted.is_set():
                    return
                continue
            self._open.pop(0)
            self.spent += outcome.advice.usage
            yield outcome

    def break_off(self) -> None:
        """Have the advisor stop, if it can. Its query stays open."""
        self._interrupted.set()
        if not self._open or self._open[0].future is None:
            return
        if hasattr(self.advisor, "interrupt"):
            # The last words of an advisor that is somebody else's code are not worth an exception.
            with contextlib.suppress(Exception):
                self.advisor.interrupt()
        concurrent.futures.wait([self._open[0].future], timeout=PATIENCE)
        if not self._open[0].future.done():
            logger.warning(
                "The advisor does not break off query %d; it is left to itself.", self._open[0].query.index + 1
            )

    def go_on(self) -> None:
        """Ask again what was broken off."""
        self._interrupted.clear()

    def _start_next(self) -> None:
        first = self._open[0]
        if first.future is None and not self._interrupted.is_set():
            first.future = in_background(self._consult, first)

    def _consult(self, asked: _OpenQuery) -> Outcome:
        query, history = asked.query, asked.history
        start = time.monotonic()
        error = None
        try:
            advice = self._advice(asked)
        except QueryInterrupted:
            history.latency += time.monotonic() - start
            raise
        except (Exception, SystemExit) as exception:
            # An advisor is somebody else's code; it must not end the training.
            error = scrub(f"{type(exception).__name__}: {exception}")
            advice = Advice([None] * len(query.states), failures=[error])
        history.advice = advice
        history.latency += time.monotonic() - start
        advice = dataclasses.replace(advice, usage=history.usage)
        if self.log is not None:
            self.log.write_advice(query, advice, history.latency, error)
        return Outcome(query, advice, history.latency, error)

    def _advice(self, asked: _OpenQuery) -> Advice:
        history, log = asked.history, self.log
        if log is not None and not asked.is_logged:
            log.write_query(asked.query)
            asked.is_logged = True
        if self._interrupted.is_set():
            raise QueryInterrupted("The query was broken off before it was asked.")

        def record(event: Event) -> None:
            if log is not None:
                log.write_event(asked.query, event)
            history.add(event)

        query = dataclasses.replace(
            asked.query, record=record, answers=tuple(history.answers), spent=self.spent + history.usage
        )
        try:
            return checked(self.advisor.advise(query), query)
        except QueryInterrupted as interruption:
            if self._interrupted.is_set():
                raise
            raise RuntimeError("The advisor says that it was interrupted, but it was not.") from interruption


def checked(advice: Advice, query: AdviceQuery) -> Advice:
    """
    Hold an advisor to the protocol: what cannot be used is dropped and counted.

    :param advice: What an advisor returned
    :param query: What it was asked
    :return: The same with an array of the action space, or ``None``, for each state
    :raises TypeError: if it is something other than an Advice
    :raises ValueError: if it has the wrong number of actions
    """
    if not isinstance(advice, Advice):
        raise TypeError(f"The advisor returned {type(advice).__name__}, expected a sb3_varl.Advice.")
    if not isinstance(advice.usage, Usage) or not all(isinstance(item, Rejection) for item in advice.rejected):
        raise TypeError(f"The advisor returned {advice!r}, expected a Usage as usage and Rejections as rejected.")
    if len(advice.actions) != len(query.states):
        raise ValueError(
            f"The advisor returned {len(advice.actions)} actions for {len(query.states)} states, "
            "expected one for each state, or None where it has no advice."
        )
    actions: list[np.ndarray | None] = []
    rejected = list(advice.rejected)
    for i, action in enumerate(advice.actions):
        usable = None if action is None else check_action(action, query.briefing.action_space)
        if isinstance(usable, str):
            rejected.append(Rejection(usable, i))
            usable = None
        actions.append(usable)
    return dataclasses.replace(advice, actions=actions, rejected=tuple(rejected))
