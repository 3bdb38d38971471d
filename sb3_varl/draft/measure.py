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
from sb3_varl.draft.probe import N_EPISODES, N_RESETS, N_STARTS, Place, Probe
from sb3_varl.draft.relations import Relations, relate
from sb3_varl.training.observing import Privileged

# Of an angle, in radians and in degrees.
_WHOLE_TURNS = (2 * np.pi, 360.0)


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
    probe = Probe(env, env.action_space, _reader(env, observe), seed)
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
