"""Ideas for VARL that are not part of it, to see whether they should be."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from sb3_varl import Advice, AdviceQuery, Advisor
from sb3_varl.algorithms import shaping


@contextlib.contextmanager
def least_std(value: float) -> Iterator[None]:
    """
    Have another lower bound of the standard deviation in the shaping term, as long as this lasts.

    :param value: The bound, 0 for none
    """
    usual = shaping.MIN_STD
    shaping.MIN_STD = value
    try:
        yield
    finally:
        shaping.MIN_STD = usual


class FallingCoefficient:
    """
    A coefficient that falls linearly, to 0 at the cutoff.

    :param start: Its first value
    :param share: The cutoff, as a share of the run
    """

    def __init__(self, start: float, share: float) -> None:
        self.start = start
        self.share = share

    def __call__(self, progress_remaining: float) -> float:
        return self.start * max(0.0, 1 - (1 - progress_remaining) / self.share)


class FadingCoefficient(FallingCoefficient):
    """A coefficient that is kept for a quarter of the steps to the cutoff, and divided by e in each twelfth after."""

    def __call__(self, progress_remaining: float) -> float:
        done = (1 - progress_remaining) / self.share
        return self.start * math.exp(-12 * max(0.0, done - 0.25))


class Choosy:
    """
    An advisor that looks at the states of a query, asks another about those that seem worth most, and abstains from
    the others.

    :param advisor: Who is asked
    :param n_states: Number of states that it is asked about in each query
    :param choice: ``"late"`` for those that come late in their episode, ``"novel"`` for those that are far, in the
        space of observations, from each other and from all that were asked about before
    :param episode_length: Steps in each episode
    """

    def __init__(self, advisor: Advisor, n_states: int, choice: str, episode_length: int) -> None:
        self.advisor = advisor
        self.n_states = n_states
        self.choice = choice
        self.episode_length = episode_length
        self._asked: list[np.ndarray] = []

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Answer a query.

        :param query: The states in question
        :return: The other advisor's answers
        """
        chosen = self._latest(query) if self.choice == "late" else self._most_novel(query)
        states = tuple(query.states[i] for i in chosen)
        advice = self.advisor.advise(dataclasses.replace(query, states=states))
        actions = dict(zip(chosen, advice.actions, strict=True))
        rejected = [
            rejection if rejection.state is None else dataclasses.replace(rejection, state=chosen[rejection.state])
            for rejection in advice.rejected
        ]
        return dataclasses.replace(
            advice, actions=[actions.get(i) for i in range(len(query.states))], rejected=rejected
        )

    def _latest(self, query: AdviceQuery) -> list[int]:
        lateness = [state.step % self.episode_length for state in query.states]
        return sorted(np.argsort(lateness)[-self.n_states :].tolist())

    def _most_novel(self, query: AdviceQuery) -> list[int]:
        states = np.array([state.observation for state in query.states], dtype=float)
        scale = np.concatenate([states, *self._asked]).std(axis=0) + 1e-6
        distance = np.full(len(states), np.inf)
        for asked in self._asked:
            to_asked = np.linalg.norm((states[:, None] - asked) / scale, axis=2)
            distance = np.minimum(distance, to_asked.min(axis=1))
        chosen: list[int] = []
        for _ in range(self.n_states):
            chosen.append(int(distance.argmax()))
            to_chosen = np.linalg.norm((states - states[chosen[-1]]) / scale, axis=1)
            distance = np.minimum(distance, to_chosen)
        self._asked.append(states[chosen])
        return sorted(chosen)
