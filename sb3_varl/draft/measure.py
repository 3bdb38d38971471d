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
from tqdm import tqdm

from sb3_varl.advice.types import Observation
from sb3_varl.arguments import ArgumentError

# Of random actions: episodes, steps of each at most, and for how many of them an action is held, to get somewhere.
N_EPISODES, N_STEPS, N_HELD = 10, 100, 5
# Of one component alone: starts, steps at a bound, and as many afterwards with none.
N_STARTS, N_ACTED = 3, 5
# By how much two numbers that are the same may differ, by their range.
_ROUNDING = 1e-4
# By how much a velocity, as it is taken at the end of a step, may miss the difference of two positions, by its size and
# mostly; and in how many of the steps with both it has to be seen.
_MISSED, _LEAST_SEEN = 0.25, 50

# Where a number stands: a key, ``None`` for an observation that is an array, and its index there.
Place = tuple[str | None, int]


@dataclass(frozen=True)
class Facts:
    """
    What was measured.

    :param places: Where each number stands
    :param low: The least that each was, ``(n_numbers,)``
    :param high: The largest that each was
    :param at_start: What each was at the start of an episode, ``(n_episodes, n_numbers)``
    :param is_still: Whether it was the same in an episode from its start to its end
    :param same_as: For a number that was always the same as an earlier one, which
    :param before: For a number whose last value another one has, which
    :param change_of: For a number that is by how much another changes in a step, or a multiple, which, and the multiple
    :param difference_of: For a number that is one less another, which
    :param rest: The action in which all components rest
    :param action_low: The lower bound of each component
    :param action_high: The upper bound of each component
    :param effects: For each component of the action, what becomes of each number when that is at its upper or its lower
        bound and the others rest, less what becomes of it when all rest: after one step, after ``N_ACTED``, and after
        as many more in which all rest. ``(n_components, 2, n_starts, 3, n_numbers)``, NaN where an episode ended before
    :param undone: The same of ``N_ACTED`` steps at this bound after as many at the other, less what was there after
        these: ``(n_components, 2, n_starts, n_numbers)``
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
    is_still: np.ndarray
    same_as: dict[int, int]
    before: dict[int, int]
    change_of: dict[int, tuple[int, float]]
    difference_of: dict[int, tuple[int, int]]
    rest: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    effects: np.ndarray
    undone: np.ndarray
    at_rest: np.ndarray
    noise: np.ndarray
    max_episode_steps: int | None
    says_success: bool | None

    def is_motion(self, changes: np.ndarray, number: int) -> bool:
        """
        Tell whether a number moves, beyond noise and a hundredth of its range.

        :param changes: Changes of it, of any shape
        :param number: The number
        :return: Whether it does
        """
        least = max(self.noise[number], 0.01 * (self.high[number] - self.low[number]), 1e-9)
        return bool(np.nanmax(np.abs(changes), initial=0.0) > least)


def measure(env: gym.Env, read: Callable[[Any], Observation] = lambda observation: observation, seed: int = 0) -> Facts:
    """
    Measure an environment, in 10 episodes of at most 100 random actions and, from each of 3 starts, two of 10 steps for
    each bound of each component of the action.

    :param env: The environment, with a Box of actions
    :param read: From an observation to what an advisor reads: an array, or a dictionary of arrays. Pictures count for
        nothing
    :param seed: Of resets and of random actions
    :return: What was measured
    :raises ArgumentError: if actions are no Box, or there are no numbers
    """
    if not isinstance(env.action_space, spaces.Box):
        raise ArgumentError(f"Advice is for continuous actions, a Box, but the action space is {env.action_space}.")
    probe = _Probe(env, read, seed)
    size = env.action_space.low.size
    with tqdm(total=N_EPISODES + N_STARTS * (4 * size + 2), unit="episode", desc="measuring") as bar:
        episodes = []
        for i in range(N_EPISODES):
            episodes.append(probe.episode(i, probe.random_actions()))
            bar.update()
        effects = np.full((size, 2, N_STARTS, 3, len(probe.places)), np.nan)
        undone = np.full((size, 2, N_STARTS, len(probe.places)), np.nan)
        noise = np.zeros(len(probe.places))
        at_rest = []
        for start in range(N_STARTS):
            resting = probe.episode(start, [probe.rest] * (2 * N_ACTED))
            again = probe.episode(start, [probe.rest] * (2 * N_ACTED))
            n = min(len(resting), len(again))
            noise = np.maximum(noise, np.abs(resting[:n] - again[:n]).max(axis=0))
            at_rest.append(resting[-1] - resting[0])
            bar.update(2)
            for component in range(size):
                for bound in range(2):
                    acted = [probe.alone(component, bound)] * N_ACTED
                    numbers = probe.episode(start, acted + [probe.rest] * N_ACTED)
                    for moment, step in enumerate((1, N_ACTED, 2 * N_ACTED)):
                        if step < min(len(numbers), len(resting)):
                            effects[component, bound, start, moment] = numbers[step] - resting[step]
                    numbers = probe.episode(start, [probe.alone(component, 1 - bound)] * N_ACTED + acted)
                    if len(numbers) > 2 * N_ACTED:
                        undone[component, bound, start] = numbers[2 * N_ACTED] - numbers[N_ACTED]
                    bar.update(2)
    numbers = np.concatenate(episodes)
    is_still = np.all([np.ptp(episode, axis=0) == 0 for episode in episodes], axis=0)
    return Facts(
        tuple(probe.places),
        numbers.min(axis=0),
        numbers.max(axis=0),
        np.array([episode[0] for episode in episodes]),
        is_still,
        *_relations(episodes, np.flatnonzero(~is_still).tolist()),
        _differences(numbers),
        probe.rest.ravel(),
        env.action_space.low.ravel(),
        env.action_space.high.ravel(),
        effects,
        undone,
        np.array(at_rest),
        noise,
        env.get_wrapper_attr("_max_episode_steps") if env.has_wrapper_attr("_max_episode_steps") else None,
        probe.says_success,
    )


class _Probe:
    """
    An environment to try things in.

    :param env: The environment
    :param read: From an observation to what an advisor reads
    :param seed: Of resets and of random actions
    """

    def __init__(self, env: gym.Env, read: Callable[[Any], Observation], seed: int) -> None:
        assert isinstance(env.action_space, spaces.Box)
        self._env = env
        self._read = read
        self._seed = seed
        self._low, self._high = env.action_space.low, env.action_space.high
        self.rest = np.clip(np.zeros_like(self._low), self._low, self._high)
        self.says_success: bool | None = None
        env.action_space.seed(seed)
        first = self._parts(env.reset(seed=seed)[0])
        self.places: list[Place] = [(key, i) for key, part in first.items() for i in range(part.size)]
        if not self.places:
            raise ArgumentError(
                f"{env.observation_space} has no numbers to tell of, only pictures. Name an attribute or a method of "
                "the environment that has some (--observe)."
            )

    def random_actions(self) -> list[np.ndarray]:
        """Draw actions, each for some steps."""
        return [action for _ in range(N_STEPS // N_HELD) for action in [self._env.action_space.sample()] * N_HELD]

    def alone(self, component: int, bound: int) -> np.ndarray:
        """Put one component to its upper (0) or its lower bound (1), while the others rest."""
        action = self.rest.copy()
        action.flat[component] = (self._high, self._low)[bound].flat[component]
        return action

    def episode(self, start: int, actions: Sequence[np.ndarray]) -> np.ndarray:
        """The numbers from a start on, until the actions or the episode end: ``(n_steps + 1, n_numbers)``."""
        numbers = [self._numbers(self._env.reset(seed=self._seed + start)[0])]
        for action in actions:
            observation, _, terminated, truncated, info = self._env.step(action.copy())
            numbers.append(self._numbers(observation))
            if terminated or truncated:
                self.says_success = "is_success" in info or bool(self.says_success)
                break
        return np.array(numbers)

    def _numbers(self, observation: Any) -> np.ndarray:
        return np.concatenate(list(self._parts(observation).values()))

    def _parts(self, observation: Any) -> dict[str | None, np.ndarray]:
        said = self._read(observation)
        parts = said.items() if isinstance(said, dict) else [(None, said)]
        arrays = {key: np.asarray(part) for key, part in parts}
        return {
            key: array.astype(np.float64).ravel()
            for key, array in arrays.items()
            if not (array.dtype == np.uint8 and array.ndim >= 2)
        }


def _relations(
    episodes: Sequence[np.ndarray], moving: Sequence[int]
) -> tuple[dict[int, int], dict[int, int], dict[int, tuple[int, float]]]:
    """Which numbers are the same as others, their last values, or by how much they change."""
    now = np.concatenate([episode[1:] for episode in episodes])
    last = np.concatenate([episode[:-1] for episode in episodes])
    same_as, before, change_of = dict[int, int](), dict[int, int](), dict[int, tuple[int, float]]()
    for j in moving:
        others = [i for i in moving if i != j and i not in same_as]
        rounding = _ROUNDING * np.ptp(now[:, j])
        same = [i for i in others if i < j and np.abs(now[:, i] - now[:, j]).max() <= rounding]
        earlier = [i for i in others if np.abs(last[:, i] - now[:, j]).max() <= rounding]
        if same:
            same_as[j] = same[0]
        elif earlier:
            before[earlier[0]] = j
    for j in moving:
        if j in same_as or j in before.values():
            continue
        found = [
            (miss, i, factor)
            for i in moving
            if i != j and i not in same_as and i not in before.values()
            for factor, miss in [_multiple(now[:, i] - last[:, i], now[:, j])]
            if miss < _MISSED
        ]
        if found:
            _, i, factor = min(found)
            change_of[j] = i, factor
    return same_as, before, change_of


def _differences(numbers: np.ndarray) -> dict[int, tuple[int, int]]:
    """Which numbers are one earlier number less another."""
    found = dict[int, tuple[int, int]]()
    rounding = _ROUNDING * np.ptp(numbers, axis=0)
    varies = rounding > 0
    some = numbers[:: max(1, len(numbers) // 10)]
    for j in np.flatnonzero(varies).tolist():
        earlier = np.flatnonzero(varies[:j])
        left = some[:, earlier, None] - some[:, None, earlier]
        fits = np.argwhere((np.abs(left - some[:, j, None, None]) <= rounding[j]).all(axis=0))
        for a, b in earlier[fits].tolist():
            if np.abs(numbers[:, a] - numbers[:, b] - numbers[:, j]).max() <= rounding[j]:
                found[j] = a, b
                break
    return found


def _multiple(change: np.ndarray, number: np.ndarray) -> tuple[float, float]:
    """What to multiply one with to come near the other where both are something, and by how much that misses."""
    changes = np.abs(change) > _ROUNDING * np.ptp(change)
    both = changes & (np.abs(number) > _ROUNDING * np.ptp(number))
    if both.sum() < max(_LEAST_SEEN, changes.sum() / 2):
        return 0.0, 1.0
    change, number = change[both], number[both]
    factor = float(np.median(number / change))
    return factor, float(np.median(np.abs(number - factor * change)) / np.median(np.abs(number)))
