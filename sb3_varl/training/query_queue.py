"""Queries on their way to an advisor: in the background, one at a time, and in the advice log."""

import concurrent.futures
import contextlib
import copy
import dataclasses
import logging
import math
import numbers
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_varl.advice.answer import parse_answers
from sb3_varl.advice.history import QueryHistory
from sb3_varl.advice.log import AdviceLog
from sb3_varl.advice.types import (
    Advice,
    AdviceQuery,
    Advisor,
    Event,
    QueryInterrupted,
    Rejection,
    Request,
    Usage,
    check_action,
    example_of,
)
from sb3_varl.advisors.background import in_background
from sb3_varl.advisors.by_name import name_of
from sb3_varl.redaction import scrub

logger = logging.getLogger(__name__)

# Seconds that an advisor gets to break off what it is doing.
PATIENCE = 3.0
# Times that an advisor may say that it was interrupted before it is not believed any more.
MAX_INTERRUPTIONS = 3
# Characters of a reason: with "rejected_" before it, SB3's logger has room for no more, and refuses two keys that are
# the same as far as there is room.
_MAX_REASON = 24
_NO_SLUG = re.compile(r"[^a-z0-9]+")


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
        self._is_broken_off: Callable[[], bool] = lambda: False

    def go_on(self, is_broken_off: Callable[[], bool]) -> None:
        """
        Ask, from now on, also what was broken off.

        :param is_broken_off: Tells whether nothing more is to be asked, before :meth:`break_off` is called
        """
        self._is_broken_off = is_broken_off

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
            broken_off = self._is_broken_off()
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

    def drop_unasked(self) -> list[AdviceQuery]:
        """
        Forget the queries that the advisor has not been told of.

        :return: The queries
        """
        return [asked.query for asked in self._drop(lambda asked: asked.future is None and not asked.is_logged)]

    def end(self) -> tuple[list[AdviceQuery], list[AdviceQuery]]:
        """
        Send nothing more, and forget what the advisor is not busy with. What is on its way may still arrive.

        :return: The queries that the advisor has not been told of, and those of which some requests were not sent
        """
        self._is_broken_off = lambda: True
        unasked = self.drop_unasked()
        begun = self._drop(lambda asked: asked.future is None)
        self.spent = sum((asked.history.usage for asked in begun), self.spent)
        return unasked, [asked.query for asked in begun]

    def _drop(self, condition: Callable[[_OpenQuery], bool]) -> list[_OpenQuery]:
        dropped = [asked for asked in self._open if condition(asked)]
        self._open = [asked for asked in self._open if not condition(asked)]
        return dropped

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
        if first.future is not None or self._is_broken_off():
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
            if isinstance(event, Request) and self._is_broken_off():
                raise QueryInterrupted("The query was broken off.")
            if log is not None:
                log.write_event(asked.query, event)
            history.add(event)

        # An advisor may work in place on what it is shown, and that is what its advice will be about.
        query = dataclasses.replace(
            asked.query,
            states=copy.deepcopy(asked.query.states),
            record=record,
            answers=tuple(history.answers),
            spent=self.spent + history.usage,
        )
        try:
            return checked(self.advisor.advise(query), query)
        except QueryInterrupted as interruption:
            # Another callback with the same advisor may have meant its own query.
            asked.n_interruptions += 1
            if self._is_broken_off() or asked.n_interruptions < MAX_INTERRUPTIONS:
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
    Hold an advisor to the protocol: what cannot be used is dropped and counted, and costs nothing else.

    :param advice: What an advisor returned
    :param query: What it was asked
    :return: The same with an array of the action space, or ``None``, for each state
    :raises TypeError: if it is something other than an Advice
    :raises ValueError: if it has the wrong number of actions
    """
    if not isinstance(advice, Advice):
        raise TypeError(f"The advisor returned {type(advice).__name__}, expected a sb3_varl.Advice.")
    if len(advice.actions) != len(query.states):
        raise ValueError(
            f"The advisor returned {len(advice.actions)} actions for {len(query.states)} states, "
            "expected one for each state, or None where it has no advice."
        )
    rejected = _checked_rejections(advice.rejected)
    actions: list[np.ndarray | None] = []
    for i, action in enumerate(advice.actions):
        usable = None if action is None else check_action(action, query.briefing.action_space)
        if isinstance(usable, str):
            rejected.append(Rejection(usable, i, example_of(action)))
            usable = None
        actions.append(usable)
    usage, failures = _checked_usage(advice.usage), _checked_failures(advice.failures)
    return Advice(actions, tuple(rejected), usage, failures)


def _checked_rejections(rejected: Any) -> list[Rejection]:
    usable = []
    for item in _items(rejected):
        if (
            isinstance(item, Rejection)
            and isinstance(item.reason, str)
            and isinstance(item.state, int | np.integer | None)
            and isinstance(item.example, str)
        ):
            slug = _NO_SLUG.sub("_", item.reason.lower()).strip("_")[:_MAX_REASON].strip("_") or "unknown"
            text = item.example or (item.reason if slug != item.reason else "")
            usable.append(Rejection(slug, None if item.state is None else int(item.state), example_of(text)))
        else:
            _complain_of("rejected", item, "a Rejection with a reason and a state")
    return usable


def _checked_usage(usage: Any) -> Usage:
    amounts = dataclasses.astuple(usage) if isinstance(usage, Usage) else ()
    if not amounts or not all(isinstance(n, numbers.Real) and 0 <= float(n) < math.inf for n in amounts):
        _complain_of("usage", usage, "a Usage of numbers that are at least 0")
        return Usage()
    return Usage(*(int(n) for n in amounts[:3]), *(float(n) for n in amounts[3:]))  # of NumPy, perhaps


def _checked_failures(failures: Any) -> tuple[str, ...]:
    lines = []
    for line in _items(failures):
        if isinstance(line, str):
            lines.append(scrub(line))
        else:
            _complain_of("failures", line, "a line of text for each")
    return tuple(lines)


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _complain_of(name: str, value: Any, expected: str) -> None:
    logger.warning(
        "The advisor returned %s as %s, expected %s. That is left out, its actions are taken.",
        example_of(value),
        name,
        expected,
    )
