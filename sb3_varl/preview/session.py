"""Asking an advisor outside of training, and looking at what it says."""

import contextlib
import dataclasses
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_varl.advice import optional
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import FILE_NAME, AdviceLog
from sb3_varl.advice.types import Advice, AdviceQuery, Advisor, Observation, Usage, VisitedState
from sb3_varl.preview.checks import (
    FOLLOWING,
    PICTURES,
    WHOLE,
    Check,
    agrees_with_itself,
    answered,
    changes_with_the_picture,
    differs_between_states,
    leads_to_success,
    succeeds_in_whole_episodes,
)
from sb3_varl.preview.episodes import follow_whole
from sb3_varl.preview.rollouts import FollowedState, NotRepeatable, Visit, follow, without_advice
from sb3_varl.rules import Rules
from sb3_varl.rules.description import describe
from sb3_varl.training.query_queue import QueryQueue

# Of the environment, in which the advice is followed.
N_COPIES = 4


@dataclass
class Findings:
    """
    What came back.

    :param advice: The advice
    :param answers: The model's words
    :param checks: Whether the advice means something
    :param followed: What came of following it
    :param failures: Requests that brought no answer, a line each
    :param usage: What was spent
    :param fired: If it answered with rules, in how many states each of them was followed
    :param correction: What became of them in whole episodes, as a model would be told that is to correct them
    """

    advice: Advice
    answers: list[str]
    checks: list[Check]
    followed: list[FollowedState] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    fired: Counter[int | None] = field(default_factory=Counter)
    correction: list[str] = field(default_factory=list)

    @property
    def rules(self) -> Rules | None:
        """The rules that it answered with, if it did."""
        return self.advice.standing if isinstance(self.advice.standing, Rules) else None


class Interview:
    """
    Asks an advisor about some states. As in training, what it answers is in an advice log before it is used.

    :param advisor: The advisor
    :param query: The states, and what there is to know of the environment
    :param log_path: Folder of the advice log
    :raises ValueError: if there is one in it
    """

    findings: Findings

    def __init__(self, advisor: Advisor, query: AdviceQuery, log_path: str | os.PathLike[str]) -> None:
        if (pathlib.Path(log_path) / FILE_NAME).exists():
            raise ValueError(f"{log_path} holds the advice log of something else. Give a folder of its own.")
        self.advisor = advisor
        self.query = query
        self._log = AdviceLog(log_path)
        self._queue = QueryQueue(advisor, self._log, Usage())
        self._n_asked = 0
        self._failures: list[str] = []

    def ask(self) -> None:
        """Ask once."""
        advice = self._ask(self.query.states)
        answers = [answer.text for query in read_queries(self._log.path) for answer in query.answers]
        checks = [answered(advice), differs_between_states(advice, self.query.briefing.action_space)]
        self.findings = Findings(advice, answers, checks, failures=self._failures, usage=self._queue.spent)

    @property
    def was_answered(self) -> bool:
        """Whether there is anything to look at."""
        return any(action is not None for action in self.findings.advice.actions)

    def check(self) -> None:
        """Ask the same again, and once more with the pictures exchanged."""
        first, space, states = self.findings.advice, self.query.briefing.action_space, self.query.states
        again = self._ask(states)
        self.findings.checks.append(agrees_with_itself(first, again, space))
        if len(states) < 2 or any(state.frame is None for state in states):
            return
        if not optional.takes_pictures(self.advisor):
            self.findings.checks.append(Check(PICTURES, None, "None were shown: the server refuses pictures."))
        else:
            exchanged = self._ask(_with_pictures_exchanged(states), altered="pictures exchanged")
            self.findings.checks.append(changes_with_the_picture(first, again, exchanged, space))

    def follow(
        self, make: Callable[[], gym.Env], visited: Visit, rounds: int, hold: int, observe: str | None = None
    ) -> None:
        """
        Do what the advisor says, from four of the states on.

        :param make: Makes a copy of the environment
        :param visited: How the states were come to
        :param rounds: How many times to ask
        :param hold: Steps that each piece of advice holds for
        :param observe: Name of what the advisor reads, ``None`` for the observations
        """
        findings = self.findings
        if not self.was_answered and findings.rules is None:
            findings.checks.append(Check(FOLLOWING, None, "Not tried: there was no advice."))
            return
        if findings.rules is not None:  # which say something anew at each step, as in training
            rounds, hold = rounds * hold, 1
        starts = _earliest(self.query.states, visited, rounds * hold)
        frames = self.query.briefing.frames
        with self._trying(FOLLOWING):
            findings.followed = follow(make, visited, starts, self._actions, rounds, hold, frames, observe)
            before = [without_advice(visited, start, rounds * hold) for start in starts]
            findings.checks.append(leads_to_success(findings.followed, before))

    def follow_whole(self, make: Callable[[], gym.Env], n_episodes: int, seed: int, observe: str | None = None) -> None:
        """
        Follow what the advisor says of any state, if it does, in whole episodes.

        :param make: Makes the environment
        :param n_episodes: Number of episodes
        :param seed: Of the environment
        :param observe: Name of what the advisor reads, ``None`` for the observations
        """
        findings, briefing = self.findings, self.query.briefing
        standing = findings.advice.standing
        if standing is None:
            standing = optional.standing(self.advisor, briefing)
        if standing is None:
            return
        with self._trying(WHOLE):
            followed = follow_whole(make, standing, n_episodes, seed, observe)
            findings.checks.append(succeeds_in_whole_episodes(followed))
            if isinstance(standing, Rules):
                findings.correction = [part.text for part in describe(standing, [whole.episode for whole in followed])]

    @contextlib.contextmanager
    def _trying(self, name: str) -> Iterator[None]:
        """Whatever becomes of the environment, the answers so far are worth showing."""
        try:
            yield
        except NotRepeatable as error:
            self.findings.checks.append(Check(name, None, f"Not tried: {error}."))
        except Exception as error:
            self.findings.checks.append(Check(name, None, f"It broke off: {type(error).__name__}: {error}"))

    def _actions(self, states: tuple[VisitedState, ...], previous: tuple[Observation, ...]) -> Sequence[Any]:
        """What it says of some states; where it has written rules, these say it, and nothing is sent."""
        rules = self.findings.rules
        if rules is None:
            return self._ask(states).actions
        decisions = [rules.decide(state.observation, before) for state, before in zip(states, previous, strict=True)]
        self.findings.fired.update(decision.rule for decision in decisions)
        return [decision.action for decision in decisions]

    def _ask(self, states: tuple[VisitedState, ...], altered: str = "") -> Advice:
        query = dataclasses.replace(self.query, index=self._n_asked, states=states, altered=altered)
        self._queue.ask(query)
        self._n_asked += 1
        try:
            outcome = next(self._queue.outcomes(wait=True))
        except KeyboardInterrupt:
            self._queue.break_off()
            raise
        self._queue.close()
        self._failures += [f"request {failure.request}: {failure.text}" for failure in outcome.failures]
        self._failures += [outcome.error] if outcome.error is not None else []
        if self._n_asked > 1:
            self.findings.usage = self._queue.spent
        return outcome.advice


def _earliest(states: tuple[VisitedState, ...], visited: Visit, n_steps: int) -> list[VisitedState]:
    """Those with the most of their episodes before them, and so many steps that were visited, if there are enough."""
    beginnings = [0, *(i + 1 for i, step in enumerate(visited.steps) if step.done)]

    def haste(state: VisitedState) -> tuple[bool, int]:
        since = min(state.step - start for start in beginnings if start <= state.step)
        return state.step + n_steps > len(visited.steps), since

    order = sorted(states, key=haste)
    return sorted(order[:N_COPIES], key=lambda state: state.step)


def _with_pictures_exchanged(states: tuple[VisitedState, ...]) -> tuple[VisitedState, ...]:
    # By half of their number, because neighbours look alike.
    others = np.roll(np.arange(len(states)), max(1, len(states) // 2))
    return tuple(
        dataclasses.replace(state, frame=states[other].frame) for state, other in zip(states, others, strict=True)
    )
