"""Queries on their way to an advisor: in the background, one at a time, and in the advice log."""

import concurrent.futures
import contextlib
import copy
import dataclasses
import logging
import pathlib
import sysconfig
import time
import traceback
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sb3_varl.advice import optional
from sb3_varl.advice.answer import ParsedAnswer
from sb3_varl.advice.history import LoggedQuery, QueryHistory
from sb3_varl.advice.log import TOO_LATE, AdviceLog
from sb3_varl.advice.optional import name_of
from sb3_varl.advice.types import (
    Advice,
    AdviceQuery,
    Advisor,
    Answer,
    Event,
    Failure,
    QueryInterrupted,
    Rejection,
    Request,
    Usage,
)
from sb3_varl.advice.validation import checked, counted
from sb3_varl.advisors.background import in_background
from sb3_varl.redaction import scrub
from sb3_varl.rules.answers import read_answers

logger = logging.getLogger(__name__)

# Seconds that an advisor gets to break off what it is doing.
PATIENCE = 3.0
# Times that an advisor may say that it was interrupted before it is not believed any more.
MAX_INTERRUPTIONS = 3

# Where nobody's advisor is.
_ELSEWHERE = (
    pathlib.Path(__file__).parents[1],
    *(pathlib.Path(sysconfig.get_path(n)) for n in ("stdlib", "purelib", "platlib")),
)


@dataclass(frozen=True)
class Outcome:
    """
    What became of a query, or of the states of it that were asked about again.

    :param query: The query
    :param advice: Checked advice about all its states: an array or ``None`` for each
    :param states: The states that this is news of
    :param rejected: What could not be used of this news, once for each state at most
    :param unanswered: Which of these states were not answered
    :param failures: The requests that failed, as far as that is news
    :param n_failed: Number of all requests of the query that failed for good
    :param latency: Seconds that it took
    :param error: Why the advisor failed altogether, in one line, or ``None``
    """

    query: AdviceQuery
    advice: Advice
    states: tuple[int, ...]
    rejected: tuple[Rejection, ...] = ()
    unanswered: frozenset[int] = frozenset()
    failures: tuple[Failure, ...] = ()
    n_failed: int = 0
    latency: float = 0.0
    error: str | None = None

    @property
    def accepted(self) -> list[int]:
        """The states that there is news of, and advice."""
        return [state for state in self.states if self.advice.actions[state] is not None]

    @property
    def n_abstained(self) -> int:
        """Number of states that were answered with nothing."""
        explained = {rejection.state for rejection in self.rejected} | self.unanswered
        return sum(self.advice.actions[state] is None and state not in explained for state in self.states)


@dataclass
class _OpenQuery:
    query: AdviceQuery
    history: QueryHistory
    states: tuple[int, ...]
    known: Advice | None
    is_logged: bool
    # Of the history, what was there before it was put.
    n_answers: int = field(init=False)
    n_failures: int = field(init=False)
    charged: Usage = field(init=False)
    n_interruptions: int = 0
    was_put_off: bool = False
    is_forgotten: bool = False
    future: Future[Outcome] | None = None

    def __post_init__(self) -> None:
        self.n_answers, self.n_failures = len(self.history.answers), len(self.history.failures)
        self.charged = self.history.usage if self.is_logged else Usage()

    @property
    def cost(self) -> Usage:
        """What it cost since it was put."""
        return self.history.usage - self.charged

    def parsed(self) -> tuple[frozenset[int], ParsedAnswer]:
        """What was answered since it was put, before an interruption perhaps: the states, and what is to be read."""
        answers = self.history.answers[self.n_answers :]
        states = frozenset(state for answer in answers for state in answer.states)
        observations = [state.observation for state in self.query.states]
        return states, read_answers(answers, observations, self.query.briefing)


class QueryQueue:
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
    def in_flight(self) -> Usage:
        """What was spent on the queries that are open, which ``spent`` does not have."""
        return sum((asked.cost for asked in self._open), Usage())

    @property
    def spent_so_far(self) -> Usage:
        """What the run has spent, requests on their way included."""
        return sum((asked.cost for asked in self._open), self.spent)

    @property
    def indices(self) -> frozenset[int]:
        """The numbers of the queries that are open."""
        return frozenset(asked.query.index for asked in self._open)

    @property
    def open_queries(self) -> list[AdviceQuery]:
        """What the advisor has not answered yet, and was not asked before."""
        return [asked.query for asked in self._open if asked.known is None]

    def ask(self, query: AdviceQuery) -> None:
        """
        Put a query, behind those that are open.

        :param query: The query
        """
        states = tuple(range(len(query.states)))
        self._open.append(_OpenQuery(query, QueryHistory(query.index), states, known=None, is_logged=False))
        self._start_next()

    def ask_again(self, query: AdviceQuery, logged: LoggedQuery, known: Advice, states: tuple[int, ...]) -> None:
        """
        Put what was not answered of a query, behind those that are open.

        :param query: The query
        :param logged: What the log has of it
        :param known: The same, as advice
        :param states: The states that are asked about again
        """
        self._open.append(_OpenQuery(query, logged, states, known, is_logged=True))
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

    def close(self) -> None:
        """Be done with the query whose outcome was handed over."""
        self.spent += self._open.pop(0).cost

    def drop_unasked(self) -> list[AdviceQuery]:
        """
        Forget the queries that the advisor has not been told of.

        :return: The queries
        """
        return [asked.query for asked in self._drop(lambda asked: asked.future is None and not asked.is_logged)]

    def forget(self, indices: Container[int]) -> list[AdviceQuery]:
        """
        Forget queries that another run has gone on with. What the advisor still says of them counts no longer.

        :param indices: Their numbers
        :return: Those of them that were not asked before
        """
        forgotten = self._drop(lambda asked: asked.query.index in indices)
        for asked in forgotten:
            asked.is_forgotten = True
        self.spent = sum((asked.cost for asked in forgotten), self.spent)
        return [asked.query for asked in forgotten if asked.known is None]

    def end(self, everything: bool = False) -> tuple[list[AdviceQuery], list[Outcome]]:
        """
        Send nothing more, and forget what the advisor is not busy with.

        :param everything: Whether to forget also what is on its way; it may still arrive in the log
        :return: The queries that the advisor has not been told of, and what is there of those that it has
        """
        self._is_broken_off = lambda: True
        # Whoever thinks for free, as a person does, need not think on.
        if self._open:
            with contextlib.suppress(Exception):
                optional.withdraw(self.advisor)
        unasked = self.drop_unasked()
        begun = self._drop(lambda asked: everything or asked.future is None)
        self.spent = sum((asked.cost for asked in begun), self.spent)
        return unasked, [_given_up(asked) for asked in begun]

    def _drop(self, condition: Callable[[_OpenQuery], bool]) -> list[_OpenQuery]:
        dropped = [asked for asked in self._open if condition(asked)]
        self._open = [asked for asked in self._open if not condition(asked)]
        return dropped

    def break_off(self) -> None:
        """Have the advisor stop, if it can. Its query stays open."""
        if not self._open or self._open[0].future is None or self._open[0].future.cancel():
            return
        # The last words of an advisor that is somebody else's code are not worth an exception.
        with contextlib.suppress(Exception):
            optional.interrupt(self.advisor)
        concurrent.futures.wait([self._open[0].future], timeout=PATIENCE)
        if not self._open[0].future.done():
            logger.warning(
                "The advisor does not break off query %d; it is left to itself.", self._open[0].query.index + 1
            )

    def rest(self) -> None:
        """Send nothing more, and leave the log to others, until :meth:`go_on` is called."""
        self._is_broken_off = lambda: True
        if self.log is not None:
            self.log.release()

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
        before = asked.parsed()
        try:
            fresh = self._advice(asked)
        except QueryInterrupted:
            history.latency += time.monotonic() - start
            raise
        except BaseException as exception:
            # An advisor is somebody else's code; it must not end the training, nor lose what was paid for.
            error = scrub(f"{type(exception).__name__}: {exception}{_place_of(exception)}")
            before, fresh = asked.parsed(), Advice([None] * len(query.states))
        history.latency += time.monotonic() - start
        history.error = error
        outcome = _outcome(asked, before, fresh)
        if self.log is not None and not asked.is_forgotten:
            self.log.write_advice(query, outcome.advice, history.latency, error)
        return outcome

    def _advice(self, asked: _OpenQuery) -> Advice:
        history, log = asked.history, self.log
        if log is not None and not asked.is_logged:
            log.write_query(asked.query, name_of(self.advisor))
        asked.is_logged = True

        def record(event: Event) -> None:
            if isinstance(event, Request) and (asked.is_forgotten or self._is_broken_off()):
                raise QueryInterrupted("The query was broken off.")
            if isinstance(event, Answer) and asked.is_forgotten:
                event = Failure(event.request, TOO_LATE, event.usage)
            if log is not None:
                log.write_event(asked.query, event)
            history.add(event)

        # An advisor may work in place on what it is shown, and that is what its advice will be about.
        query = dataclasses.replace(
            asked.query,
            states=copy.deepcopy(asked.query.states),
            record=record,
            answers=tuple(history.answers),
            spent=self.spent + asked.cost,
            open=asked.states,
        )
        try:
            return checked(self.advisor.advise(query), query)
        except QueryInterrupted as interruption:
            # Another callback with the same advisor may have meant its own query.
            asked.n_interruptions += 1
            if self._is_broken_off() or asked.n_interruptions < MAX_INTERRUPTIONS:
                raise
            raise RuntimeError("The advisor says that it was interrupted, but it was not.") from interruption


def _place_of(exception: BaseException) -> str:
    """Where in somebody's advisor it was raised, in a few words, if it was in one."""
    places = [(pathlib.Path(f.filename), f.lineno) for f in traceback.extract_tb(exception.__traceback__)]
    # What Python and compiled modules have built in has no absolute path.
    own = [
        (file.name, line)
        for file, line in places
        if file.is_absolute() and not any(map(file.is_relative_to, _ELSEWHERE))
    ]
    return f" ({own[-1][0]}, line {own[-1][1]})" if own else ""


def _outcome(asked: _OpenQuery, before: tuple[frozenset[int], ParsedAnswer], fresh: Advice) -> Outcome:
    """Put together what was known, what was answered before an interruption, and what the advisor says now."""
    history, states = asked.history, frozenset(asked.states)
    answered, parsed = before
    known = asked.known or Advice([None] * len(asked.query.states))
    actions: list[Any] = [
        known.actions[i] if i not in states else parsed.actions.get(i) if i in answered else action
        for i, action in enumerate(fresh.actions)
    ]
    rejected = (
        *parsed.rejected,
        *(rejection for rejection in fresh.rejected if rejection.state is None or rejection.state in states - answered),
    )
    earlier = [rejection for rejection in known.rejected if rejection.state not in states]
    standing = fresh.standing or parsed.standing
    history.advice = Advice(actions, (*earlier, *rejected), fresh.usage, standing)
    return Outcome(
        asked.query,
        dataclasses.replace(history.advice, usage=history.usage),
        asked.states,
        counted(rejected, actions),
        history.unanswered(len(actions)) & states,
        tuple(failure for failure in history.failed_requests if failure in history.failures[asked.n_failures :]),
        len(history.failed_requests),
        history.latency,
        history.error,
    )


def _given_up(asked: _OpenQuery) -> Outcome:
    """Of a query that is not waited for."""
    before = asked.parsed()
    rejected = [Rejection("given_up", state) for state in asked.states if state not in before[0]]
    return _outcome(asked, before, Advice([None] * len(asked.query.states), rejected))


def _failed(asked: _OpenQuery, error: BaseException) -> Outcome:
    """Of a query in whose thread something broke that should not."""
    asked.history.error = scrub(f"{type(error).__name__}: {error}")
    try:
        parsed = asked.parsed()
    except Exception:  # where the reading of an answer is what broke, which history.error tells
        parsed = frozenset(), ParsedAnswer({}, ())
    return _outcome(asked, parsed, Advice([None] * len(asked.query.states)))
