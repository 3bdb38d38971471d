"""Short rollouts that follow an advisor, in copies of an environment, from states that were visited in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from tqdm import tqdm

from sb3_varl.advice.types import Observation, VisitedState
from sb3_varl.preview.rollouts import Visit, step_of, wrapped
from sb3_varl.training.state_collector import StateCollector

# From states to an action, or None, for each.
Ask = Callable[[tuple[VisitedState, ...]], Sequence[Any]]


@dataclass
class Followed:
    """
    What came of following advice from one state on.

    :param start: The state
    :param reward: Sum of the rewards
    :param n_steps: Number of steps until success, the end of the episode or of the advice
    :param success: Whether it succeeded, or ``None`` if the environment does not say
    :param n_advised: How many times there was advice
    :param frames: A frame before each piece of advice and one at the end, as far as there are any
    """

    start: VisitedState
    reward: float = 0.0
    n_steps: int = 0
    success: bool | None = None
    n_advised: int = 0
    frames: list[np.ndarray] = field(default_factory=list)


class NotRepeatable(Exception):
    """Raised for an environment that does not come to the same state by the same actions."""


class _Copy:
    """An environment of the same kind, taken to a state that was visited."""

    def __init__(self, make: Callable[[], gym.Env], visit: Visit, state: VisitedState) -> None:
        self.env: VecEnv = wrapped(DummyVecEnv([make]))
        self.env.seed(visit.seed)
        self.observations: Any = self.env.reset()
        for action in visit.actions[: state.step]:
            self.observations, _, _, _ = self.env.step(action[None])
        if not _is_close(self._observation(), state.observation):
            self.env.close()
            raise NotRepeatable(
                "a copy of the environment did not come to the same state by the same seed and the same actions"
            )
        self.action = state.executed_action
        self.result = Followed(state)
        self.is_done = False

    def _observation(self) -> Observation:
        if isinstance(self.observations, dict):
            return {key: value[0] for key, value in self.observations.items()}
        return self.observations[0]

    def state(self, frames: bool) -> VisitedState:
        collector = StateCollector(1, frames, np.random.default_rng())
        collector.draw(range(0, 1, 1))
        collector.visit(self.env, 0, self.observations)
        collector.complete(self.action[None])
        (state,) = collector.take()
        if state.frame is not None:
            self.result.frames.append(state.frame)
        return state

    def step(self, action: np.ndarray) -> None:
        self.action = action
        self.observations, rewards, dones, infos = self.env.step(action[None])
        step = step_of(float(rewards[0]), bool(dones[0]), infos[0])
        self.result.reward += step.reward
        self.result.n_steps += 1
        self.result.success, self.is_done = step.success, step.done

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to do."""
        return bool(self.result.success) or self.is_done


def follow(
    make: Callable[[], gym.Env],
    visit: Visit,
    starts: Sequence[VisitedState],
    ask: Ask,
    rounds: int,
    hold: int,
    frames: bool,
) -> list[Followed]:
    """
    Do what an advisor says, from some states on, in copies of an environment.

    :param make: Makes a copy
    :param visit: How the states were come to
    :param starts: The states
    :param ask: The advisor; where it has no advice, the last action goes on
    :param rounds: How many times it is asked, about all copies at once
    :param hold: Steps that each piece of advice holds for
    :param frames: Whether states come with pictures
    :return: What came of it, for each of the states
    :raises NotRepeatable: if the copies do not come to these states
    """
    copies: list[_Copy] = []
    try:
        for start in starts:
            copies.append(_Copy(make, visit, start))
            if len({id(copy.env.get_attr("unwrapped")[0]) for copy in copies}) < len(copies):
                raise NotRepeatable("the function that makes the environment returns the same one each time")
        for _ in tqdm(range(rounds), desc="following the advice", leave=False):
            going = [copy for copy in copies if not copy.is_over]
            if not going:
                break
            actions = ask(tuple(copy.state(frames) for copy in going))
            for copy, action in zip(going, actions, strict=True):
                copy.result.n_advised += action is not None
                for _ in range(hold):
                    if not copy.is_over:
                        copy.step(copy.action if action is None else np.asarray(action))
        for copy in copies:
            if frames and not copy.is_done:  # after the end it is the next episode's first
                copy.state(frames)
        return [copy.result for copy in copies]
    finally:
        for copy in copies:
            copy.env.close()


def without_advice(visit: Visit, start: VisitedState, n_steps: int) -> Followed:
    """
    Look up what came of a state when it was visited.

    :param visit: The visit
    :param start: One of its states
    :param n_steps: How many steps to look ahead
    :return: The same as of following advice
    """
    result = Followed(start)
    for step in visit.steps[start.step : start.step + n_steps]:
        result.reward += step.reward
        result.n_steps += 1
        result.success = step.success
        if step.success or step.done:
            break
    return result


def _is_close(mine: Observation, other: Observation) -> bool:
    if isinstance(mine, dict):
        assert isinstance(other, dict)
        return all(np.allclose(mine[key], other[key], atol=1e-4) for key in mine)
    assert not isinstance(other, dict)
    return np.allclose(mine, other, atol=1e-4)
