"""
What an environment shows of itself: episodes of random actions, and some in which one component acts alone, beside the
same ones in which none does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from tqdm import tqdm

from sb3_varl.advice.types import Observation
from sb3_varl.arguments import ArgumentError
from sb3_varl.draft.relations import Relations, relate
from sb3_varl.training.observing import Privileged

# Starts that are only looked at, as what is drawn for an episode is drawn seldom in few.
N_RESETS = 50
# Of random actions: episodes, steps of each at most, and for how many of them an action is held, to get somewhere.
N_EPISODES, N_STEPS, N_HELD = 10, 100, 5
# Of one component alone: starts, steps at a bound, and as many afterwards with none.
N_STARTS, N_ACTED = 3, 5
# Of an angle, in radians and in degrees.
_WHOLE_TURNS = (2 * np.pi, 360.0)
# How many numbers are told of: more than any sheet will name.
_MOST = 1000

# Where a number stands: a key, ``None`` for an observation that is an array, and its index there.
Place = tuple[str | None, int]


@dataclass(frozen=True)
class Facts:
    """
    What was measured.

    :param places: Where each number stands
    :param low: The least that each was, ``(n_numbers,)``
    :param high: The largest that each was
    :param at_start: What each was at the start of an episode, ``(n_episodes, n_numbers)``; from the first ``N_STARTS``
        of them effects were measured
    :param most_moved: How far each went in an episode at most
    :param is_flag: Whether it had two values, and went from one to the other
    :param is_finite: Whether it was a number at all times; of others all else is 0
    :param period: By how much each jumps at its ends, as an angle does, in its units, NaN for one that is none
    :param relations: What they have to do with each other
    :param rest: The action in which all components rest
    :param action_low: The lower bound of each component
    :param action_high: The upper bound of each component
    :param effects: For each component of the action, what becomes of each number when that is at its upper or its lower
        bound and the others rest, less what becomes of it when all rest: after one step, after ``N_ACTED``, and after
        as many more in which all rest. ``(n_components, 2, n_starts, 3, n_numbers)``, NaN where an episode ended before
    :param undone: What becomes of each in ``N_ACTED`` steps at this bound after as many at the other, less what becomes
        of it if the component rests in place of these: ``(n_components, 2, n_starts, n_numbers)``
    :param at_rest: By how much each changes in ``2 * N_ACTED`` steps in which all components rest, or as many as there
        are, ``(n_starts, n_numbers)``
    :param noise: How far two episodes with the same seed and actions were from each other, ``(n_numbers,)``
    :param max_episode_steps: How many actions an episode has at most, ``None`` if nobody knows
    :param says_success: Whether the last step of an episode said whether it succeeded, ``None`` if none ended
    """

    places: tuple[Place, ...]
    low: np.ndarray
    high: np.ndarray
    at_start: np.ndarray
    most_moved: np.ndarray
    is_flag: np.ndarray
    is_finite: np.ndarray
    period: np.ndarray
    relations: Relations
    rest: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    effects: np.ndarray
    undone: np.ndarray
    at_rest: np.ndarray
    noise: np.ndarray
    max_episode_steps: int | None
    says_success: bool | None

    def is_motion(self, changes: np.ndarray, number: int, share: float = 0.01) -> bool:
        """
        Tell whether a number moves, beyond noise and some share of its range.

        :param changes: Changes of it, of any shape
        :param number: The number
        :param share: The share
        :return: Whether it does
        """
        least = max(self.noise[number], share * (self.high[number] - self.low[number]), 1e-9)
        return bool(np.nanmax(np.abs(changes), initial=0.0) > least)


def measure(env: gym.Env, observe: str | None = None, seed: int = 0) -> Facts:
    """
    Measure an environment, in 10 episodes of at most 100 random actions, at 50 starts that are only looked at and, from
    each of 3 starts, in two episodes of 10 steps for each bound of each component of the action.

    :param env: The environment, with a Box of actions
    :param observe: Name of an attribute or a method of the environment that says what an advisor reads, an array or a
        dictionary of arrays. ``None`` for its observation. Pictures count for nothing
    :param seed: Of resets and of random actions
    :return: What was measured
    :raises ArgumentError: if actions are no Box with bounds, or there are no numbers, or too many, or nothing that
        ``observe`` could mean
    """
    if not isinstance(env.action_space, spaces.Box):
        raise ArgumentError(f"Advice is for continuous actions, a Box, but the action space is {env.action_space}.")
    if not env.action_space.is_bounded():
        raise ArgumentError(
            f"Nobody can say what an action does at its bounds, as {env.action_space} has none. Wrap the environment "
            "so that its actions have bounds."
        )
    probe = _Probe(env, env.action_space, _reader(env, observe), seed)
    n_episodes = N_EPISODES + N_RESETS + N_STARTS * (2 + 4 * probe.rest.size)
    # Of numbers that are none, which are left out afterwards.
    with tqdm(total=n_episodes, unit="episode", desc="measuring") as bar, np.errstate(invalid="ignore", over="ignore"):
        episodes = probe.act_at_random(bar)
        starts = probe.look(bar)
        effects, undone, at_rest, noise = probe.act_by_components(bar)
    if not probe.is_finite.any():
        raise ArgumentError(
            "Each number of an observation was infinite, or no number, at some time, so that none can have a name."
        )
    episodes = [np.where(probe.is_finite, episode, 0.0) for episode in episodes]
    starts = np.array([*(episode[0] for episode in episodes), *np.where(probe.is_finite, starts, 0.0)])
    numbers = np.concatenate([*episodes, starts])
    period = _period(episodes)
    most_moved = np.max([np.ptp(episode, axis=0) for episode in episodes], axis=0)
    low, high = numbers.min(axis=0), numbers.max(axis=0)
    return Facts(
        places=tuple(probe.places),
        low=low,
        high=high,
        at_start=starts,
        most_moved=most_moved,
        is_flag=((numbers == low) | (numbers == high)).all(axis=0) & (most_moved > 0),
        is_finite=probe.is_finite,
        period=period,
        relations=relate(episodes, [key for key, _ in probe.places]),
        rest=probe.rest.ravel(),
        action_low=env.action_space.low.ravel(),
        action_high=env.action_space.high.ravel(),
        effects=_unwrapped(np.where(probe.is_finite, effects, 0.0), period),
        undone=_unwrapped(np.where(probe.is_finite, undone, 0.0), period),
        at_rest=_unwrapped(np.where(probe.is_finite, at_rest, 0.0), period),
        noise=np.where(probe.is_finite, noise, 0.0),
        max_episode_steps=(
            env.get_wrapper_attr("_max_episode_steps") if env.has_wrapper_attr("_max_episode_steps") else None
        ),
        says_success=probe.says_success,
    )


def _reader(env: gym.Env, observe: str | None) -> Callable[[Any], Observation]:
    """From an observation to what an advisor reads."""
    if observe is None:
        return lambda observation: observation
    env.reset()
    privileged = Privileged(DummyVecEnv([lambda: env]), observe)
    return lambda _: privileged.read()[0]


def _period(episodes: Sequence[np.ndarray]) -> np.ndarray:
    """2 pi or 360 for what is within this, and goes in small steps but for jumps of nearly all of it."""
    numbers = np.concatenate(episodes)
    steps = np.abs(np.concatenate([np.diff(episode, axis=0) for episode in episodes]))
    period = np.full(numbers.shape[1], np.nan)
    for whole in _WHOLE_TURNS:
        jumps = steps > 0.75 * whole
        is_one = np.ptp(numbers, axis=0) <= 1.001 * whole
        period[is_one & jumps.any(axis=0) & (jumps | (steps < 0.25 * whole)).all(axis=0)] = whole
    # A counter is none.
    period[(period < 7) & (numbers == np.round(numbers)).all(axis=0)] = np.nan
    return period


def _unwrapped(changes: np.ndarray, period: np.ndarray) -> np.ndarray:
    """The shorter way round, for angles."""
    return np.where(np.isnan(period), changes, (changes + period / 2) % period - period / 2)


def _told(sizes: dict[str | None, int]) -> str:
    return ", ".join(f"{size} of {key!r}" if key is not None else str(size) for key, size in sizes.items()) or "none"


class _Probe:
    """
    An environment to try things in.

    :param env: The environment
    :param actions: Its actions
    :param read: From an observation to what an advisor reads
    :param seed: Of resets and of random actions
    """

    def __init__(self, env: gym.Env, actions: spaces.Box, read: Callable[[Any], Observation], seed: int) -> None:
        self._env = env
        self._actions = actions
        self._read = read
        self._seed = seed
        self.rest = np.clip(np.zeros_like(actions.low), actions.low, actions.high)
        self.says_success: bool | None = None
        actions.seed(seed)
        first = self._parts(env.reset(seed=seed)[0])
        self._sizes = {key: part.size for key, part in first.items()}
        self.places: list[Place] = [(key, i) for key, size in self._sizes.items() for i in range(size)]
        if not 0 < len(self.places) <= _MOST:
            raise ArgumentError(
                f"An observation has {len(self.places)} numbers that could have names, expected 1 to {_MOST}: "
                f"{env.observation_space}. Name an attribute or a method of the environment that has those that matter "
                "(observe, --observe)."
            )
        self.is_finite = np.ones(len(self.places), bool)

    def act_at_random(self, bar: tqdm) -> list[np.ndarray]:
        """What the numbers were in episodes of random actions, each for some steps."""
        episodes = []
        for start in range(N_EPISODES):
            actions = [self._actions.sample() for _ in range(N_STEPS // N_HELD)]
            episodes.append(self._episode(start, [action for action in actions for _ in range(N_HELD)]))
            bar.update()
        return episodes

    def look(self, bar: tqdm) -> np.ndarray:
        """What the numbers are at starts of which nothing else is done: ``(N_RESETS, n_numbers)``."""
        starts = []
        for start in range(N_EPISODES, N_EPISODES + N_RESETS):
            starts.append(self._episode(start, ())[0])
            bar.update()
        return np.array(starts)

    def act_by_components(self, bar: tqdm) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What becomes of the numbers when one component acts at a time: what Facts has of that."""
        n_components, n_numbers = self.rest.size, len(self.places)
        effects = np.full((n_components, 2, N_STARTS, 3, n_numbers), np.nan)
        undone = np.full((n_components, 2, N_STARTS, n_numbers), np.nan)
        at_rest, noise = np.zeros((2, N_STARTS, n_numbers))
        for start in range(N_STARTS):
            resting, again = (self._episode(start, [self.rest] * (2 * N_ACTED)) for _ in range(2))
            n = min(len(resting), len(again))
            noise[start] = np.abs(resting[:n] - again[:n]).max(axis=0)
            at_rest[start] = resting[-1] - resting[0]
            bar.update(2)
            for component, bound in np.ndindex(n_components, 2):
                acted, other = ([self._alone(component, which)] * N_ACTED for which in (bound, 1 - bound))
                numbers = self._episode(start, acted + [self.rest] * N_ACTED)
                for moment, step in enumerate((1, N_ACTED, 2 * N_ACTED)):
                    if step < min(len(numbers), len(resting)):
                        effects[component, bound, start, moment] = numbers[step] - resting[step]
                numbers = self._episode(start, other + acted)
                if min(len(numbers), len(resting)) > 2 * N_ACTED:
                    undone[component, bound, start] = numbers[2 * N_ACTED] - resting[2 * N_ACTED]
                bar.update(2)
        # What the other bound had brought about, if it was left at that.
        undone -= effects[:, ::-1, :, -1]
        return effects, undone, at_rest, noise.max(axis=0)

    def _alone(self, component: int, bound: int) -> np.ndarray:
        """One component at its upper (0) or its lower bound (1), while the others rest."""
        action = self.rest.copy()
        action.flat[component] = (self._actions.high, self._actions.low)[bound].flat[component]
        return action

    def _episode(self, start: int, actions: Sequence[np.ndarray]) -> np.ndarray:
        """The numbers from a start on, until the actions or the episode end: ``(n_steps + 1, n_numbers)``."""
        numbers = [self._numbers(self._env.reset(seed=self._seed + start)[0])]
        for action in actions:
            observation, _, terminated, truncated, info = self._env.step(action.copy())
            numbers.append(self._numbers(observation))
            if terminated or truncated:
                self.says_success = "is_success" in info or bool(self.says_success)
                break
        self.is_finite &= np.isfinite(numbers).all(axis=0)
        return np.array(numbers)

    def _numbers(self, observation: Any) -> np.ndarray:
        parts = self._parts(observation)
        sizes = {key: part.size for key, part in parts.items()}
        if sizes != self._sizes:
            raise ArgumentError(
                f"An observation has other numbers than the first one: {_told(sizes)}, after {_told(self._sizes)}."
            )
        return np.concatenate([parts[key] for key in self._sizes])

    def _parts(self, observation: Any) -> dict[str | None, np.ndarray]:
        """Those arrays that a task sheet can name the numbers of."""
        said = self._read(observation)
        parts = said.items() if isinstance(said, dict) else [(None, said)]
        arrays = {key: np.asarray(part) for key, part in parts if not isinstance(part, tuple | dict)}
        return {
            key: array.astype(np.float64).ravel()
            for key, array in arrays.items()
            if array.dtype.kind in "fiub" and not (array.dtype == np.uint8 and array.ndim >= 2)
        }
