"""Queries on their way to an advisor: in the background, one at a time, and in the advice log."""

import concurrent.futures
import contextlib
import dataclasses
import logging
import math
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
    Request,
    Usage,
    check_action,
)
from sb3_varl.advice_log import AdviceLog
from sb3_varl.advisors import name_of
from sb3_varl.answer import parse_answers
from sb3_varl.background import in_background
from sb3_varl.history import QueryHistory
from sb3_varl.redaction import scrub

logger = logging.getLogger(__name__)

# Seconds that an advisor gets to break off what it is doing.
PATIENCE = 3.0
# Times that an advisor may say that it was interrupted before it is not believed any more.
MAX_INTERRUPTIONS = 3


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
    n_interruptions: int = 0
    was_put_off: bool = False
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

    def go_on(self, interrupted: threading.Event) -> None:
        """
        Ask, from now on, also what was broken off.

        :param interrupted: Is set when nothing more is to be asked, before :meth:`break_off` is called
        """
        self._interrupted = interrupted

    @property
    def open_queries(self) -> list[AdviceQuery]:
        """What the advisor has not answered yet."""
        return [asked.query for asked in self._open]

    def ask(self, query: AdviceQuery, history: QueryHistory | None = None) -> None:
        """
        Put a query, behind those that are open.

        :param query: The query
        :param history: What the log has of it, if it has; perhaps even the advice
        :raises TypeError: if the log's advice is none
        :raises ValueError: if it has the wrong number of actions
        """
        asked = _OpenQuery(query, history or QueryHistory(query.index), is_logged=history is not None)
        if asked.history.advice is not None:
            advice = dataclasses.replace(checked(asked.history.advice, query), usage=asked.history.usage)
            asked.future = Future()
            asked.future.set_result(Outcome(query, advice, asked.history.latency, asked.history.error))
        self._open.append(asked)
        self._start_next()

    def outcomes(self, wait: bool) -> Iterator[Outcome]:
        """
        Hand over what the advisor is done with. What is handed over stays open until :meth:`close` is called.

        :param wait: Whether to wait for all that is open
        :return: The outcomes, in the order of the queries
        """
        if self.log is not None:
            self.log.catch_up()
        while self._open:
            self._start_next()
            first = self._open[0]
            broken_off = self._interrupted.is_set()
            if first.future is None or not (first.future.done() or (wait and not broken_off)):
                return
            if first.future.cancelled():
                first.future = None
                continue
            error = first.future.exception()
            if error is None:
                yield first.future.result()
            elif isinstance(error, QueryInterrupted):
                first.future = None
                if broken_off:
                    return
            else:
                yield _failed(first, error)

    def close(self, outcome: Outcome) -> None:
        """
        Be done with a query.

        :param outcome: What became of it
        """
        self._open.pop(0)
        self.spent += outcome.advice.usage

    def drop_unasked(self) -> int:
        """
        Forget the queries that the advisor has not been told of.

        :return: Their number
        """
        asked = [query for query in self._open if query.future is not None or query.is_logged]
        n_dropped = len(self._open) - len(asked)
        self._open = asked
        return n_dropped

    def break_off(self) -> None:
        """Have the advisor stop, if it can. Its query stays open."""
        if not self._open or self._open[0].future is None or self._open[0].future.cancel():
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

    def _start_next(self) -> None:
        first = self._open[0]
        if first.future is not None or self._interrupted.is_set():
            return
        # There before the thread is, so that Ctrl-C in between leaves nothing behind that nobody knows of.
        first.future = Future()
        try:
            in_background(self._consult, first, future=first.future)
        except RuntimeError as error:
            first.future = None
            if not first.was_put_off:
                logger.warning("Query %d cannot be asked at present: %s", first.query.index + 1, error)
            first.was_put_off = True

    def _consult(self, asked: _OpenQuery) -> Outcome:
        query, history = asked.query, asked.history
        start = time.monotonic()
        error = None
        try:
            advice = self._advice(asked)
        except QueryInterrupted:
            history.latency += time.monotonic() - start
            raise
        except BaseException as exception:
            # An advisor is somebody else's code; it must not end the training, nor lose what was paid for.
            error = scrub(f"{type(exception).__name__}: {exception}")
            advice = dataclasses.replace(_salvaged(asked), failures=[error])
        history.advice = advice
        history.latency += time.monotonic() - start
        advice = dataclasses.replace(advice, usage=history.usage)
        if self.log is not None:
            self.log.write_advice(query, advice, history.latency, error)
        return Outcome(query, advice, history.latency, error)

    def _advice(self, asked: _OpenQuery) -> Advice:
        history, log = asked.history, self.log
        if log is not None and not asked.is_logged:
            log.write_query(asked.query, name_of(self.advisor))
        asked.is_logged = True

        def record(event: Event) -> None:
            if isinstance(event, Request) and self._interrupted.is_set():
                raise QueryInterrupted("The query was broken off.")
            if log is not None:
                log.write_event(asked.query, event)
            history.add(event)

        query = dataclasses.replace(
            asked.query, record=record, answers=tuple(history.answers), spent=self.spent + history.usage
        )
        try:
            return checked(self.advisor.advise(query), query)
        except QueryInterrupted as interruption:
            # Another callback with the same advisor may have meant its own query.
            asked.n_interruptions += 1
            if self._interrupted.is_set() or asked.n_interruptions < MAX_INTERRUPTIONS:
                raise
            raise RuntimeError("The advisor says that it was interrupted, but it was not.") from interruption


def _salvaged(asked: _OpenQuery) -> Advice:
    """What can be made of the answers that came before an advisor failed."""
    parsed = parse_answers(asked.history.answers, asked.query.briefing.action_space)
    return Advice([parsed.actions.get(state) for state in range(len(asked.query.states))], parsed.rejected)


def _failed(asked: _OpenQuery, error: BaseException) -> Outcome:
    """Of a query in whose thread something broke that should not."""
    text = scrub(f"{type(error).__name__}: {error}")
    advice = Advice([None] * len(asked.query.states), usage=asked.history.usage, failures=[text])
    return Outcome(asked.query, advice, asked.history.latency, text)


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
    rejected = list(advice.rejected)
    amounts = dataclasses.astuple(advice.usage) if isinstance(advice.usage, Usage) else ()
    if not amounts or not all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in amounts):
        raise TypeError(f"The advisor returned the usage {advice.usage!r}, expected a Usage of numbers.")
    if not all(
        isinstance(item, Rejection) and isinstance(item.reason, str) and isinstance(item.state, int | None)
        for item in rejected
    ):
        raise TypeError(
            f"The advisor returned {rejected!r} as rejected, expected Rejections with a reason and a state."
        )
    if isinstance(advice.failures, str) or not all(isinstance(failure, str) for failure in advice.failures):
        raise TypeError(f"The advisor returned {advice.failures!r} as failures, expected a line of text for each.")
    if len(advice.actions) != len(query.states):
        raise ValueError(
            f"The advisor returned {len(advice.actions)} actions for {len(query.states)} states, "
            "expected one for each state, or None where it has no advice."
        )
    actions: list[np.ndarray | None] = []
    for i, action in enumerate(advice.actions):
        usable = None if action is None else check_action(action, query.briefing.action_space)
        if isinstance(usable, str):
            rejected.append(Rejection(usable, i))
            usable = None
        actions.append(usable)
    return dataclasses.replace(
        advice, actions=actions, rejected=tuple(rejected), failures=tuple(scrub(text) for text in advice.failures)
    )
