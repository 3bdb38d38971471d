"""
What happened to the queries of a run, as they are asked or as the advice log has them.

A state is done when it was *answered*: with an action, an abstention, or something that could not be used. A state
whose request failed, was given up, or had no budget, is not; the next ``learn()`` on the log asks about it
again.
"""

import dataclasses
import json
import logging
import os
import pathlib
from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image

from sb3_varl.advice.answer import ParsedAnswer, parse_answers
from sb3_varl.advice.log import decode_observation, log_file, read_records
from sb3_varl.advice.types import (
    UNANSWERED,
    Advice,
    AdviceQuery,
    Answer,
    Briefing,
    Event,
    Failure,
    Observation,
    Rejection,
    Request,
    Usage,
    VisitedState,
)
from sb3_varl.advice.validation import check_action, counted
from sb3_varl.redaction import scrub

logger = logging.getLogger(__name__)


class QueryHistory:
    """
    What has happened to a query so far.

    :param index: Number of the query within the run
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.n_sent = 0
        self.answers: list[Answer] = []
        self.failures: list[Failure] = []
        self.advice: Advice | None = None
        self.latency = 0.0
        self.error: str | None = None

    def add(self, event: Event) -> None:
        """
        Take note of something.

        :param event: A request, or what became of it
        """
        if isinstance(event, Request):
            self.n_sent += 1
        elif isinstance(event, Answer):
            self.answers.append(event)
        else:
            self.failures.append(event)

    @property
    def answered(self) -> frozenset[int]:
        """The states that a request was answered about."""
        return frozenset(state for answer in self.answers for state in answer.states)

    def unanswered(self, n_states: int) -> frozenset[int]:
        """
        Tell which states are not done.

        :param n_states: Number of states that it is about
        :return: Those that were not answered
        """
        if self.advice is None:
            return frozenset(range(n_states)) - self.answered
        rejections = {r.state: r.reason for r in counted(self.advice.rejected, self.advice.actions)}
        return frozenset(
            state
            for state, action in enumerate(self.advice.actions)
            if action is None
            and state not in self.answered
            and (rejections[state] in UNANSWERED if state in rejections else self.error is not None)
        )

    @property
    def failed_requests(self) -> list[Failure]:
        """The last failure of each request that was not answered in the end."""
        answered = {answer.request for answer in self.answers}
        last = {failure.request: failure for failure in self.failures}
        return [failure for request, failure in sorted(last.items()) if request not in answered]

    @property
    def usage(self) -> Usage:
        """What it cost. Of an advisor that does not record its requests, what its advice says."""
        outcomes: list[Answer | Failure] = [*self.answers, *self.failures]
        if not self.n_sent and not outcomes:
            usage = Usage() if self.advice is None else self.advice.usage
            return dataclasses.replace(usage, seconds=usage.seconds or self.latency)
        total = sum((outcome.usage for outcome in outcomes), Usage())
        # A crash leaves requests behind of which nobody knows what became.
        return dataclasses.replace(total, requests=max(self.n_sent, total.requests))


class LoggedQuery(QueryHistory):
    """
    A query as the log has it.

    :param record: The log's record of the query
    :param folder: Where the frames are
    """

    def __init__(self, record: dict[str, Any], folder: pathlib.Path) -> None:
        if not isinstance(record["query"], int):
            raise TypeError(f"query is {record['query']!r}, expected a number")
        super().__init__(record["query"])
        self.folder = folder
        self.step: int = record["step"]
        self.advisor: str | None = record["advisor"]
        self.task: str | None = record["task"]
        self.altered: str = record["altered"]
        # Of the run that the log belongs to, if it belongs to one.
        self.run: str | None = record["run"]
        self.action_low = np.array(record["action_low"], np.float64)
        self.action_high = np.array(record["action_high"], np.float64)
        self.action_names: list[str] = record["action_names"]
        self.dtype: str | dict[str, str] = record["dtype"]
        self._seen_dtype: str | dict[str, str] | None = record["seen_dtype"]
        self._states: list[dict[str, Any]] = record["states"]
        # Older rules that stood again after it.
        self.put_back: str | None = None

    def add_record(self, record: dict[str, Any]) -> None:
        """
        Take note of a record that came after that of the query.

        :param record: A record of the log
        """
        kind = record["type"]
        if kind == "request":
            self.add(Request(record["request"], tuple(record["states"])))
        elif kind == "failure":
            usage = Usage(**record["usage"])
            self.add(Failure(record["request"], record["text"], usage, record["permanent"]))
        elif kind == "answer":
            states, usage = tuple(record["states"]), Usage(**record["usage"])
            self.add(Answer(record["request"], states, record["text"], usage, record["form"], record["is_cut"]))
        elif kind == "put_back":
            self.put_back = str(record["rules"])
        elif kind == "advice":
            rejected = [Rejection(r["reason"], r["state"], r["example"]) for r in record["rejected"]]
            self.advice = Advice(record["actions"], rejected, Usage(**record["usage"]))
            self.latency, self.error = record["latency"], record["error"]

    def read(self, space: spaces.Box | None = None, parsed: ParsedAnswer | None = None) -> Advice:
        """
        Read the advice anew, from the text that was paid for where there is text. So those answers count, too, that a
        crash kept from being used.

        :param space: The action space, ``None`` for a Box of float64 with the bounds that the log has
        :param parsed: What the text says, ``None`` to read it here, which takes no more than the log for actions; rules
            count then as they were used
        :return: An array of the action space or ``None`` for each state, what could not be used, and what it cost
        :raises ValueError: if actions, rejections and states do not fit together
        """
        space = spaces.Box(self.action_low, self.action_high, dtype=np.float64) if space is None else space
        read_anew = self.answered
        if parsed is None:
            parsed = parse_answers(self.answers, space, self.action_names)
            read_anew -= {state for answer in self.answers if answer.form != "actions" for state in answer.states}
        recorded = Advice([None] * self.n_states) if self.advice is None else self.advice
        if len(recorded.actions) != self.n_states:
            raise ValueError(f"there are {len(recorded.actions)} actions for {self.n_states} states")
        actions: list[np.ndarray | None] = []
        for state, action in enumerate(recorded.actions):
            usable = None if action is None else check_action(action, space)
            if isinstance(usable, str):
                raise ValueError(f"the action of state {state} is {action}: {usable}")
            actions.append(parsed.actions.get(state) if state in read_anew else usable)
        # A request that failed may have been answered since.
        rejected = [r for r in recorded.rejected if r.reason not in UNANSWERED or r.state not in self.answered]
        explained = {rejection.state for rejection in rejected}
        rejected += [
            rejection
            for rejection in parsed.rejected
            if self.advice is None or (rejection.state is not None and rejection.state not in explained)
        ]
        return Advice(actions, list(counted(rejected, actions)), self.usage, parsed.standing)

    @property
    def n_abstained(self) -> int:
        """Number of states that were answered with nothing."""
        advice = self.read()
        explained = {rejection.state for rejection in advice.rejected} | self.unanswered(self.n_states)
        return sum(action is None and state not in explained for state, action in enumerate(advice.actions))

    @property
    def n_states(self) -> int:
        """Number of states that it is about."""
        return len(self._states)

    @property
    def executed_actions(self) -> list[np.ndarray]:
        """What was executed in each state, in the environment's units."""
        return [np.array(state["executed_action"], np.float32) for state in self._states]

    @property
    def encoded_observations(self) -> list[Any]:
        """The observations as the log has them."""
        return [state["observation"] for state in self._states]

    @property
    def observations(self) -> list[Observation]:
        """The original observation of each state."""
        return [decode_observation(observation, self.dtype) for observation in self.encoded_observations]

    @property
    def seen(self) -> list[Observation | None]:
        """The policy's original observation of each state, where the advisor reads another."""
        if self._seen_dtype is None:
            return [None] * self.n_states
        return [decode_observation(state["seen"], self._seen_dtype) for state in self._states]

    @property
    def guided(self) -> list[Observation]:
        """The observation of each state that its advice is guidance for: the policy's."""
        return [
            observation if seen is None else seen
            for observation, seen in zip(self.observations, self.seen, strict=True)
        ]

    @property
    def steps(self) -> list[int]:
        """The run's environment steps when each state was reached."""
        return [state["step"] for state in self._states]

    @property
    def frames(self) -> list[np.ndarray | None]:
        """The frame of each state, ``(height, width, 3)`` uint8, or ``None``."""
        return [self._frame(state["frame"]) for state in self._states]

    def to_query(self, briefing: Briefing, frames: bool = True) -> AdviceQuery:
        """
        Put the query as it was put.

        :param briefing: What stays the same over all queries
        :param frames: Whether with its frames
        :return: The query, with the answers that it already has
        """
        pictures = self.frames if frames else [None] * self.n_states
        visited = tuple(
            VisitedState(*state)
            for state in zip(self.observations, self.executed_actions, pictures, self.steps, self.seen, strict=True)
        )
        return AdviceQuery(self.index, self.step, visited, briefing, answers=tuple(self.answers), altered=self.altered)

    def _frame(self, name: str | None) -> np.ndarray | None:
        if name is None:
            return None
        try:
            with Image.open(self.folder / name) as image:
                return np.array(image.convert("RGB"))
        except Exception as error:  # pillow has many for damaged files
            logger.warning("The frame %s cannot be read, and its state is asked about without: %s", name, error)
            return None


def read_queries(path: str | os.PathLike[str]) -> list[LoggedQuery]:
    """
    Read a run's advice log, query by query.

    :param path: The run's log folder, or its ``advice.jsonl``
    :return: The queries in the order in which they were asked
    :raises FileNotFoundError: if there is no log
    :raises ValueError: if the log was written by a newer version, or holds something else
    """
    queries: list[LoggedQuery] = []
    latest: dict[int, LoggedQuery] = {}
    for record in read_records(path):
        try:
            if record["type"] == "query":
                latest[record["query"]] = LoggedQuery(record, log_file(path).parent)
                queries.append(latest[record["query"]])
            elif record["query"] in latest:
                latest[record["query"]].add_record(record)
            else:
                logger.warning("%s does not say what query %d was about: passed over.", path, record["query"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{log_file(path)} holds something that is no record of an advice log "
                f"({type(error).__name__}: {error}): {scrub(json.dumps(record))}"
            ) from None
    return queries
