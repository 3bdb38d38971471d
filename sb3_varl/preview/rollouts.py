"""Short rollouts: to states that can be asked about without training, and from them on as an advisor says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize
from tqdm import tqdm

from sb3_varl.advice.types import Observation, VisitedState
from sb3_varl.preview.policy import Act
from sb3_varl.success import success_of
from sb3_varl.training.observing import Privileged
from sb3_varl.training.state_collector import StateCollector
from sb3_varl.wording import count

# From states, and the observation before each, to an action, or None, for each.
Ask = Callable[[tuple[VisitedState, ...], tuple[Observation, ...]], Sequence[Any]]


@dataclass(frozen=True)
class Step:
    """
    What came of an action.

    :param reward: The reward
    :param done: Whether the episode is over
    :param success: Whether the task is solved, by ``info["is_success"]`` or ``info["success"]``; ``None`` if the
        environment has neither
    """

    reward: float
    done: bool
    success: bool | None


@dataclass(frozen=True)
class Visit:
    """
    A rollout, and the states that were drawn from it.

    :param states: The drawn states, each with the number of actions before it as its ``step``
    :param actions: All actions, in the environment's units, in order
    :param steps: What came of each of them
    :param seed: What the environment was seeded with
    """

    states: tuple[VisitedState, ...]
    actions: tuple[np.ndarray, ...]
    steps: tuple["Step", ...]
    seed: int


def wrapped(env: VecEnv) -> VecEnv:
    """
    Wrap an environment as Stable-Baselines3's algorithms do, so that images have their channels first.

    :param env: The environment
    :return: The same
    """
    return BaseAlgorithm._wrap_env(env, monitor_wrapper=False)


def original(env: VecEnv, observations: Observation) -> Observation:
    """
    Undo what ``VecNormalize`` did to the latest observations.

    :param env: The environment
    :param observations: What it returned
    :return: The original observations
    """
    normalize = unwrap_vec_normalize(env)
    return observations if normalize is None else normalize.get_original_obs()


def step_of(reward: float, done: bool, info: dict[str, Any]) -> Step:
    """
    Tell what came of an action.

    :param reward: The reward
    :param done: Whether the episode is over
    :param info: What the environment says besides
    :return: The same in short
    """
    return Step(reward, done, success_of(info))


def visit(
    env: VecEnv,
    act: Act,
    n_states: int,
    n_steps: int,
    frames: bool = True,
    seed: int = 0,
    privileged: Privileged | None = None,
) -> Visit:
    """
    Act for some steps, and draw states on the way.

    :param env: One environment, of any wrappers
    :param act: From its observations to its actions
    :param n_states: Number of states
    :param n_steps: Number of steps that they are drawn from
    :param frames: Whether to take pictures of them
    :param seed: Of the environment, and of the draw
    :param privileged: What the advisor reads, ``None`` for the observations
    :return: The states, and how to get there again
    :raises ValueError: if there are fewer steps than states, or the environment is not one
    """
    if env.num_envs != 1:
        raise ValueError(f"There are {env.num_envs} environments side by side, expected one.")
    if n_steps < n_states:
        raise ValueError(
            f"{count(n_states, 'state')} cannot be drawn from {count(n_steps, 'step')}. "
            "Visit more steps, or fewer states."
        )
    collector = StateCollector(n_states, frames, np.random.default_rng(seed))
    collector.draw(range(0, n_steps, 1))
    env.seed(seed)
    observations: Any = env.reset()
    actions, steps = [], []
    for step in tqdm(range(n_steps), desc="visiting states", unit="step", leave=False):
        if collector.is_drawn(step):
            read = None if privileged is None else privileged.read()
            collector.visit(env, step, original(env, observations), read)
        actions.append(act(observations))
        collector.complete(actions[-1])
        observations, rewards, dones, infos = env.step(actions[-1])
        steps.append(step_of(float(rewards[0]), bool(dones[0]), infos[0]))
    return Visit(collector.take(), tuple(np.array(action[0]) for action in actions), tuple(steps), seed)


@dataclass
class FollowedState:
    """
    What came of following advice from one state on.

    :param start: The state
    :param reward: Sum of the rewards
    :param n_steps: Number of steps until success, the end of the episode or of the advice
    :param success: Whether it succeeded, or ``None`` if the environment does not say
    :param n_advised: How many times there was advice
    :param has_ended: Whether the episode came to its end
    :param frames: A frame before each piece of advice and one at the end, as far as there are any
    """

    start: VisitedState
    reward: float = 0.0
    n_steps: int = 0
    success: bool | None = None
    n_advised: int = 0
    has_ended: bool = False
    frames: list[np.ndarray] = field(default_factory=list)


class NotRepeatable(Exception):
    """Raised for an environment that does not come to the same state by the same actions."""


class _Copy:
    """An environment of the same kind, taken to a state that was visited."""

    def __init__(
        self, make: Callable[[], gym.Env], visit: Visit, state: VisitedState, observe: str | None = None
    ) -> None:
        self.env: VecEnv = wrapped(DummyVecEnv([make]))
        self.env.seed(visit.seed)
        self.observations: Any = self.env.reset()
        self._privileged = None if observe is None else Privileged(self.env, observe)
        self.previous = self._observation()
        for action in visit.actions[: state.step]:
            self.previous = self._observation()
            self.observations, _, dones, _ = self.env.step(action[None])
            if dones[0]:
                self.previous = self._observation()
        if not _is_close(self._observation(), state.observation):
            self.env.close()
            raise NotRepeatable(
                "a copy of the environment did not come to the same state by the same seed and the same actions"
            )
        self.action = state.executed_action
        self.result = FollowedState(state)

    def _observation(self) -> Observation:
        """What the advisor reads of the present state."""
        if self._privileged is not None:
            return self._privileged.read()[0]
        if isinstance(self.observations, dict):
            return {key: value[0] for key, value in self.observations.items()}
        return self.observations[0]

    def state(self, frames: bool) -> VisitedState:
        collector = StateCollector(1, frames, np.random.default_rng())
        collector.draw(range(0, 1, 1))
        read = None if self._privileged is None else self._privileged.read()
        collector.visit(self.env, 0, self.observations, read)
        collector.complete(self.action[None])
        (state,) = collector.take()
        if state.frame is not None:
            self.result.frames.append(state.frame)
        return state

    def step(self, action: np.ndarray) -> None:
        self.action, self.previous = action, self._observation()
        self.observations, rewards, dones, infos = self.env.step(action[None])
        step = step_of(float(rewards[0]), bool(dones[0]), infos[0])
        self.result.reward += step.reward
        self.result.n_steps += 1
        self.result.success, self.result.has_ended = step.success, step.done

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to do."""
        return bool(self.result.success) or self.result.has_ended


def follow(
    make: Callable[[], gym.Env],
    visit: Visit,
    starts: Sequence[VisitedState],
    ask: Ask,
    rounds: int,
    hold: int,
    frames: bool,
    observe: str | None = None,
) -> list[FollowedState]:
    """
    Do what an advisor says, from some states on, in copies of an environment.

    :param make: Makes a copy
    :param visit: How the states were come to
    :param starts: The states
    :param ask: The advisor; where it has no advice, the last action goes on
    :param rounds: How many times it is asked, about all copies at once
    :param hold: Steps that each piece of advice holds for
    :param frames: Whether states come with pictures
    :param observe: Name of what the advisor reads, ``None`` for the observations
    :return: What came of it, for each of the states
    :raises NotRepeatable: if the copies do not come to these states
    """
    copies: list[_Copy] = []
    try:
        for start in starts:
            copies.append(_Copy(make, visit, start, observe))
            if len({id(copy.env.get_attr("unwrapped")[0]) for copy in copies}) < len(copies):
                raise NotRepeatable("the function that makes the environment returns the same one each time")
        for _ in tqdm(range(rounds), desc="following the advice", leave=False):
            going = [copy for copy in copies if not copy.is_over]
            if not going:
                break
            actions = ask(tuple(copy.state(frames) for copy in going), tuple(copy.previous for copy in going))
            for copy, action in zip(going, actions, strict=True):
                copy.result.n_advised += action is not None
                for _ in range(hold):
                    if not copy.is_over:
                        copy.step(copy.action if action is None else np.asarray(action))
        for copy in copies:
            if frames and not copy.result.has_ended:  # after the end it is the next episode's first
                copy.state(frames)
        return [copy.result for copy in copies]
    finally:
        for copy in copies:
            copy.env.close()


def without_advice(visit: Visit, start: VisitedState, n_steps: int) -> FollowedState:
    """
    Look up what came of a state when it was visited.

    :param visit: The visit
    :param start: One of its states
    :param n_steps: How many steps to look ahead
    :return: The same as of following advice
    """
    result = FollowedState(start)
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
        return all(np.allclose(mine[key], other[key], atol=1e-4, equal_nan=True) for key in mine)
    assert not isinstance(other, dict)
    return np.allclose(mine, other, atol=1e-4, equal_nan=True)
