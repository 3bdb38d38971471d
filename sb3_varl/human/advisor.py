"""A person as advisor: whoever trains an agent says what should have been done, or writes the rules."""

import datetime
import json
import logging
import threading
import time
import webbrowser
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sb3_varl.advice.sheets import action_names
from sb3_varl.advice.types import (
    Advice,
    AdviceQuery,
    Answer,
    Briefing,
    Failure,
    Form,
    QueryInterrupted,
    Rejection,
    Request,
    Usage,
)
from sb3_varl.advisors.budget import Budget
from sb3_varl.advisors.form import UsualForm, check_form
from sb3_varl.advisors.prompt import MAX_IMAGE_SIZE, MAX_STATES_PER_REQUEST, chats, system_prompt, whole_prompt
from sb3_varl.arguments import check_bool, check_integer, check_number, check_text
from sb3_varl.human.desk import Desk, Interrupted
from sb3_varl.pages import picture_url, render
from sb3_varl.rules import Rules
from sb3_varl.rules.answers import read_answers

_NAME = "human"
logger = logging.getLogger(__name__)

# What is seen where nothing is written yet.
_EXAMPLE = '{"rules": [\n{"name": "...", "when": "...", "action": [%s]},\n...\n]}'
_TAKEN_BACK = "the question was taken back before it was answered"


class HumanAdvisor:
    """
    Ask a person, on a page that a browser of this machine shows. It has what a model would be sent: the task, the
    states with their pictures, and fields for an action in each of them, or one for rules. What cannot be used is said
    before it is sent. Answers are logged as a model's are, and the run goes on meanwhile unless the callback is told to
    wait (``AdvisorCallback(blocking=True)``).

    :param task: The task in words; goes before the task that the callback or the environment gives
    :param form: What is asked for: ``"rules"`` or ``"actions"``. ``None`` for rules where the task sheet names the
        numbers of an observation, and for actions elsewhere
    :param port: Port of the page, 0 for any that is free
    :param minutes_per_query: How long to wait for the answer to a query, ``None`` until there is one. A ``learn()``
        that ends before the cutoff waits for it
    :param max_minutes: Budget of the time that passes between questions and their answers, ``None`` for any
    :param image_size: Length to which a frame's longer side is scaled down, in pixels
    :param open_browser: Whether to open the page when the first question is there. Its address is printed in any case
    :raises ArgumentError: if an argument has the wrong type or is out of range
    """

    def __init__(
        self,
        task: str | None = None,
        *,
        form: Form | None = None,
        port: int = 0,
        minutes_per_query: float | None = 30.0,
        max_minutes: float | None = None,
        image_size: int = 448,
        open_browser: bool = True,
    ) -> None:
        task = task or None
        check_text("task", task, "Open the drawer.")
        check_form(form)
        check_integer("port", port, low=0, high=65_535)
        check_number("minutes_per_query", minutes_per_query, above_low=True, optional=True)
        check_number("max_minutes", max_minutes, above_low=True, optional=True)
        check_integer("image_size", image_size, high=MAX_IMAGE_SIZE)
        check_bool("open_browser", open_browser)
        self.task = task
        self.form = form
        self.model = _NAME
        self.port = int(port)
        self.minutes_per_query = minutes_per_query
        self.image_size = int(image_size)
        self.open_browser = open_browser
        self.budget = Budget(_NAME, max_seconds=None if max_minutes is None else 60 * max_minutes)
        self._usage = Usage()
        self._usual_form = UsualForm("You are")
        self._is_announced = False
        self._be_closed()

    def _be_closed(self) -> None:
        self._desk: Desk | None = None
        # For who opens the page, and for who asks: an advisor may serve several callbacks.
        self._opening, self._turn = threading.Lock(), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Of a copy, which has no page.
        return {name: value for name, value in self.__dict__.items() if name not in ("_desk", "_opening", "_turn")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._be_closed()

    @property
    def url(self) -> str:
        """Address of the page."""
        return self._open().url

    def prepare(self, briefing: Briefing) -> None:
        """
        Find out before the training starts whether a question can be put into words, and whether the port is free.

        :param briefing: What stays the same over all queries
        :raises OSError: if the port is taken
        :raises ValueError: if rules are to be asked for and nothing has a name, the task sheet does not fit or is too
            long, or nothing of a state would be shown
        """
        system_prompt(briefing, self._task(briefing), self.form_for(briefing))
        self._open()

    def _open(self) -> Desk:
        with self._opening:
            if self._desk is None:
                self._desk, self._is_announced = Desk(self.port), False
            return self._desk

    def _announce(self, desk: Desk) -> None:
        if self._is_announced:
            return
        self._is_announced = True
        print(f"Your advice is asked for at {desk.url}", flush=True)
        if self.open_browser:  # some browsers return when they are closed
            threading.Thread(target=webbrowser.open, args=(desk.url,), daemon=True).start()

    def prompt(self, query: AdviceQuery) -> str:
        """
        Say what a model would be sent about a query, without the pictures, which is what the page says.

        :param query: The query
        :return: The text
        """
        return whole_prompt(query, self._task(query.briefing), self.form_for(query.briefing))

    def form_for(self, briefing: Briefing) -> Form:
        """
        Say what is asked for in an environment.

        :param briefing: What stays the same over all queries
        :return: The form
        """
        return self.form or self._usual_form(briefing)

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Ask, and wait for the answer.

        :param query: The states in question
        :return: The advice; none if nobody answered in time
        :raises QueryInterrupted: if :meth:`interrupt` was called meanwhile
        """
        n_interruptions = self._open().n_interruptions
        with self._turn:
            return self._advise(query, n_interruptions)

    def _advise(self, query: AdviceQuery, n_interruptions: int) -> Advice:
        wanted, nothing = query.wanted, [None] * len(query.states)
        if not wanted:
            return Advice(nothing)
        spent = query.spent.at_least(self._usage)
        if not self.budget.is_left(spent):
            return Advice(nothing, [Rejection("budget_exhausted", state) for state in wanted])
        seconds = min(60 * (self.minutes_per_query or np.inf), self.budget.seconds_left(spent))
        number = max((answer.request + 1 for answer in query.answers), default=0)
        form, desk = self.form_for(query.briefing), self._open()
        question = _Question(query, wanted, self._task(query.briefing), form, self.image_size, seconds)
        if desk.n_interruptions > n_interruptions:
            raise QueryInterrupted(_TAKEN_BACK)
        query.record(Request(number, wanted))
        self._announce(desk)
        started = time.monotonic()
        try:
            text = desk.ask(question, None if np.isinf(seconds) else float(seconds), n_interruptions)
        except Interrupted:
            query.record(Failure(number, _TAKEN_BACK, self._spend(started), False))
            raise QueryInterrupted(_TAKEN_BACK) from None
        usage = self._spend(started)
        if text is None:
            time_given = f"{seconds:.3g} seconds" if seconds < 120 else f"{seconds / 60:.3g} minutes"
            failure = Failure(number, f"nobody answered within {time_given}", usage, False)
            query.record(failure)
            return Advice(nothing, [Rejection("request_failed", state, failure.text) for state in wanted])
        answer = Answer(number, wanted, text, usage, form)
        query.record(answer)
        parsed = question.parsed(answer)
        actions = [parsed.actions.get(i) for i in range(len(query.states))]
        return Advice(actions, parsed.rejected, usage, parsed.standing)

    def _spend(self, started: float) -> Usage:
        usage = Usage(requests=1, seconds=time.monotonic() - started)
        self._usage += usage
        return usage

    def interrupt(self) -> None:
        """Take the question back, from any thread. Its query stays open."""
        desk = self._desk
        if desk is not None:
            desk.interrupt()

    def withdraw(self) -> None:
        """Take the question back because its answer would be of no use any more."""
        self.interrupt()

    def close(self) -> None:
        """Take the page down."""
        with self._opening:
            desk, self._desk = self._desk, None
        if desk is not None:
            desk.close()

    def _task(self, briefing: Briefing) -> str:
        return self.task or briefing.task or (briefing.sheet.goal if briefing.sheet is not None else "") or "(no task)"


# Seconds.
_DAY = 86_400


class _Question:
    """A query on a page."""

    def __init__(
        self, query: AdviceQuery, states: Sequence[int], task: str, form: Form, image_size: int, seconds: float
    ) -> None:
        self.query, self.states, self.task, self.form = query, tuple(states), task, form
        self.until: str | None = None
        if seconds < _DAY:
            self.until = f"{datetime.datetime.now() + datetime.timedelta(seconds=float(seconds)):%H:%M:%S}"
        self.chats = [chat.messages for chat in chats(query, task, states, MAX_STATES_PER_REQUEST, image_size, form)]
        briefing = query.briefing
        self.names = action_names(briefing)
        meanings = [component.meaning for component in briefing.sheet.action] if briefing.sheet is not None else []
        bounds = zip(briefing.action_space.low.flat, briefing.action_space.high.flat, strict=True)
        self.components = [
            {"name": name, "meaning": meaning, "low": _bound(low), "high": _bound(high)}
            for name, meaning, (low, high) in zip(self.names, meanings or [""] * len(self.names), bounds, strict=True)
        ]
        self.pictures = {
            i: picture_url(frame, image_size) for i in self.states if (frame := query.states[i].frame) is not None
        }

    def page(self, given: Mapping[str, str], remarks: list[str], number: int) -> str:
        """Put it on a page."""
        followed = self.query.followed
        first = followed.advice.text if followed is not None and isinstance(followed.advice, Rules) else ""
        return render(
            "human.html",
            title=f"Query {self.query.index + 1} at step {self.query.step:,}",
            question=self,
            given=given,
            first_rules=first,
            example=_EXAMPLE % ", ".join(['"..."'] * len(self.names)),
            remarks=remarks,
            number=number,
        )

    def read(self, given: Mapping[str, str]) -> tuple[str, list[str]]:
        """Read what was filled in."""
        text, remarks = (given.get("rules", ""), []) if self.form == "rules" else self._actions(given)
        parsed = self.parsed(Answer(0, self.states, text, Usage(), self.form))
        said = dict.fromkeys(remarks)
        if self.form == "rules" and parsed.standing is None and not parsed.rejected and self.query.followed is None:
            said["there are no rules yet that could be kept. Write some"] = None
        for rejection in parsed.rejected:
            place = "" if rejection.state is None or self.form == "rules" else f"state {rejection.state}: "
            said[f"{place}{rejection.example or rejection.reason.replace('_', ' ')}"] = None
        return text, list(said)

    def _actions(self, given: Mapping[str, str]) -> tuple[str, list[str]]:
        items, remarks = [], []
        for state in self.states:
            values = [given.get(f"{state}_{i}", "").strip() for i in range(len(self.names))]
            n_given = sum(value != "" for value in values)
            if 0 < n_given < len(values):
                remarks.append(f"state {state}: {n_given} of {len(values)} numbers are there. Fill in all, or none")
            items.append({"state": state, "action": values if n_given == len(values) else None})
        return json.dumps({"advice": items}), remarks

    def parsed(self, answer: Answer) -> Any:
        """Read an answer as a model's is read."""
        return read_answers([answer], [state.observation for state in self.query.states], self.query.briefing)


def _bound(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
