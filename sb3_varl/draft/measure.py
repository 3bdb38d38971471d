"""
What an environment shows of itself: episodes of random actions, and some in which one component acts alone, beside the
same ones in which none does.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from tqdm import tqdm

from sb3_varl.advice.types import Observation
from sb3_varl.arguments import ArgumentError
from sb3_varl.draft.places import STILL, SetPlace, find_places, stay
from sb3_varl.draft.probe import N_EPISODES, N_RESETS, N_STARTS, Place, Probe, with_angles
from sb3_varl.draft.relations import Relations, find_of_length_one, relate
from sb3_varl.training.observing import Privileged

# Of an angle, in radians and in degrees.
_WHOLE_TURNS = (2 * np.pi, 360.0)
# Below this share of its range, a number does not move, even if nothing else does.
LEAST = 1e-4
# How far noise may go, by how far it went in a few episodes.
_NOISE = 3
# Beside how many others a component is tried that moves nothing by itself.
_MOST_COMPANY = 3


@dataclasses.dataclass(frozen=True)
class Facts:
    """
    What was measured.

    :param places: Where each number stands, but for those at the end that are ``angles``
    :param low: The least that each was, ``(n_numbers,)``
    :param high: The largest that each was
    :param at_start: What each was at the start of an episode, ``(n_episodes, n_numbers)``; from the first ``N_STARTS``
        of them effects were measured
    :param most_moved: How far each went in an episode of random actions at most
    :param held_moved: The same of episodes in which one component was held for long
    :param is_flag: Whether it had two values, and went from one to the other
    :param is_finite: Whether it was a number at all times; of others all else is 0
    :param period: By how much each jumps at its ends, as an angle does, in its units, NaN for one that is none
    :param relations: What they have to do with each other
    :param of_length_one: Numbers whose squares always sum to 1: two of them, or three or four side by side
    :param angles: For an angle that no number is, but two are cosine and sine of, which these are
    :param rest: The action in which all components rest
    :param sets: For each component the numbers that it says the place of
    :param between: A command between rest and a bound, of each component
    :param stays: Whether it rests, in ``effects`` and so on, where such a number was at the start, in place of ``rest``
    :param action_low: The lower bound of each component
    :param action_high: The upper bound of each component
    :param effects: For each component of the action, what becomes of each number when that is at its upper or its lower
        bound and the others rest, less what becomes of it when all rest: after one step, after ``N_ACTED``, and after
        as many more in which all rest. ``(n_components, 2, n_starts, 3, n_numbers)``, NaN where an episode ended before
    :param undone: What becomes of each in ``N_ACTED`` steps at this bound after as many at the other, less what becomes
        of it if the component rests in place of these: ``(n_components, 2, n_starts, n_numbers)``
    :param together: For a component that moves nothing by itself another one, 0 or 1 for its upper or its lower bound,
        and what becomes of each number, in one step and in ``N_ACTED``, when the first is at its upper or its lower
        bound and the other has been at that one for ``N_ACTED`` steps and stays there, less what becomes of it without
        the first: ``(2, n_starts, 2, n_numbers)``
    :param at_rest: By how much each has changed after each of ``2 * N_ACTED`` steps in which all components rest, or of
        as many as the shortest episode has, ``(n_starts, n_steps + 1, n_numbers)``
    :param noise: How far two episodes with the same seed and actions went from each other, ``(n_numbers,)``
    :param differs_at_start: Whether episodes with the same seed began with other values of it
    :param max_episode_steps: How many actions an episode has at most, ``None`` if nobody knows
    :param says_success: Whether the last step of each episode said whether it succeeded, ``None`` if none ended
    """

    places: tuple[Place, ...]
    low: np.ndarray
    high: np.ndarray
    at_start: np.ndarray
    most_moved: np.ndarray
    held_moved: np.ndarray
    is_flag: np.ndarray
    is_finite: np.ndarray
    period: np.ndarray
    relations: Relations
    of_length_one: tuple[tuple[int, ...], ...]
    angles: dict[int, tuple[int, int]]
    rest: np.ndarray
    sets: tuple[tuple[SetPlace, ...], ...]
    between: np.ndarray
    stays: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    effects: np.ndarray
    undone: np.ndarray
    together: dict[int, tuple[int, int, np.ndarray]]
    at_rest: np.ndarray
    noise: np.ndarray
    differs_at_start: np.ndarray
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
        least = max(_NOISE * self.noise[number], share * (self.high[number] - self.low[number]), 1e-9)
        return bool(np.nanmax(np.abs(changes), initial=0.0) > least)

    def reach(self, changes: np.ndarray, numbers: Iterable[int], share: float) -> dict[int, float]:
        """
        Tell how far numbers go.

        :param changes: Changes of all, ``(..., n_numbers)``
        :param numbers: Those that are wanted
        :param share: The share of its range that a number has to go farther than
        :return: For those that do, how far they go, by their range
        """
        return {
            number: np.nanmax(np.abs(changes[..., number])) / max(self.high[number] - self.low[number], 1e-9)
            for number in numbers
            if self.is_motion(changes[..., number], number, share)
        }


def measure(env: gym.Env, observe: str | None = None, seed: int = 0) -> Facts:
    """
    Measure an environment, in 10 episodes of at most 100 random actions, at 50 starts that are only looked at and, from
    each of 3 starts, in four episodes of 10 steps and, for each component of the action, three of 50 and four of 10.

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
    n_episodes = N_EPISODES + N_RESETS + N_STARTS * (5 + 7 * probe.rest.size)
    # Of numbers that are none, which are left out afterwards.
    with tqdm(total=n_episodes, unit="episode", desc="measuring") as bar, np.errstate(invalid="ignore", over="ignore"):
        episodes = probe.act_at_random(bar)
        starts = probe.look(bar)
        episodes, starts = [np.where(probe.is_finite, x, 0.0) for x in episodes], np.where(probe.is_finite, starts, 0.0)
        arrays: list[object] = [key for key, _ in probe.places]
        of_length_one = find_of_length_one(np.concatenate([*episodes, starts]), arrays)
        pairs, relations = _relate(
            episodes, arrays, [(group[0], group[1]) for group in of_length_one if len(group) == 2]
        )
        angles = {len(probe.places) + i: pair for i, pair in enumerate(pairs)}
        of_length_one = [*pairs, *(group for group in of_length_one if len(group) > 2)]
        episodes = [with_angles(episode, pairs) for episode in episodes]
        starts = np.array([*(episode[0] for episode in episodes), *with_angles(starts, pairs)])
        numbers = np.concatenate([*episodes, starts])
        low, high, period = numbers.min(axis=0), numbers.max(axis=0), _period(episodes, len(pairs))
        probe.turn(pairs, period)
        held = probe.hold(bar)
        held = np.where(probe.is_finite, held, 0.0)
        relations = dataclasses.replace(relations, same_as=_still_same(relations.same_as, held, high - low))
        derived = {*relations.same_as, *relations.before.values(), *relations.change_of, *relations.difference_of}
        others = {*derived, *itertools.chain(*pairs), *np.flatnonzero(~probe.is_finite | ~np.isnan(period)).tolist()}
        to_upper = probe.between >= probe.rest.ravel()
        sets = find_places(held, to_upper.tolist(), high - low, others)
        rests, stays = _rests(env.action_space, probe, sets, held, starts)
        noise = probe.noise(rests, bar)
        effects, undone, at_rest = probe.act_by_components(rests, bar)
        if not probe.is_finite.any():
            raise ArgumentError(
                "Each number of an observation was infinite, or no number, at some time, so that none can have a name."
            )
        all_seen = np.concatenate([numbers, held.reshape(-1, low.size)])
        most_moved = np.max([np.ptp(episode, axis=0) for episode in episodes], axis=0)
        held_moved = np.nanmax(np.nanmax(held, axis=3) - np.nanmin(held, axis=3), axis=(0, 1, 2), initial=0.0)
        facts = Facts(
            places=tuple(probe.places),
            low=low,
            high=high,
            at_start=starts,
            most_moved=most_moved,
            held_moved=held_moved,
            is_flag=((all_seen == low) | (all_seen == high) | np.isnan(all_seen)).all(axis=0) & (most_moved > 0),
            is_finite=probe.is_finite,
            period=period,
            relations=relations,
            of_length_one=tuple(of_length_one),
            angles=angles,
            rest=probe.rest.ravel(),
            sets=sets,
            between=probe.between,
            stays=stays,
            action_low=env.action_space.low.ravel(),
            action_high=env.action_space.high.ravel(),
            effects=np.where(probe.is_finite, effects, 0.0),
            undone=np.where(probe.is_finite, undone, 0.0),
            together={},
            at_rest=np.where(probe.is_finite, at_rest, 0.0),
            noise=np.where(probe.is_finite, noise, 0.0),
            differs_at_start=probe.differs_at_start & probe.is_finite,
            max_episode_steps=(
                env.get_wrapper_attr("_max_episode_steps") if env.has_wrapper_attr("_max_episode_steps") else None
            ),
            says_success=probe.says_success,
        )
        return dataclasses.replace(facts, together=dict(_together(facts, probe, rests, bar)))


def _relate(
    episodes: Sequence[np.ndarray], arrays: Sequence[object], pairs: list[tuple[int, int]]
) -> tuple[list[tuple[int, int]], Relations]:
    """With the sine as the first of two numbers where the rate of the angle says so."""

    def related() -> Relations:
        told = [with_angles(episode, pairs) for episode in episodes]
        return relate(told, arrays, _period(told, len(pairs)), {len(arrays) + i: pair for i, pair in enumerate(pairs)})

    relations = related()
    falling = {of - len(arrays) for of, factor in relations.change_of.values() if factor < 0}
    if not falling & {*range(len(pairs))}:
        return pairs, relations
    pairs = [(pair[1], pair[0]) if i in falling else pair for i, pair in enumerate(pairs)]
    return pairs, related()


def _still_same(same_as: dict[int, int], held: np.ndarray, ranges: np.ndarray) -> dict[int, int]:
    """Those that are the same as others when a component is held for long, too."""
    apart = {number: np.nanmax(np.abs(held[..., number] - held[..., other])) for number, other in same_as.items()}
    return {number: other for number, other in same_as.items() if apart[number] <= LEAST * ranges[number]}


def _rests(
    actions: spaces.Box, probe: Probe, sets: Sequence[Sequence[SetPlace]], held: np.ndarray, starts: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """
    For each start the action that leaves things where they are, and which components that is another one for; for those
    none whose place no seed repeats.
    """
    stays, kept = np.zeros(len(sets), bool), set[int]()
    for component, places in enumerate(sets):
        for place in places[:1]:
            begun = held[component, 0, :, 0, place.number]
            is_elsewhere = np.abs(begun - place.rest).max() > STILL * abs(place.high - place.low)
            is_known = not probe.differs_at_start[place.number]
            stays[component] = is_elsewhere and is_known and place.number not in kept
            kept.add(place.number)
    staying = [places if stays[component] else () for component, places in enumerate(sets)]
    return [stay(probe.rest, actions.low, actions.high, staying, numbers) for numbers in starts[:N_STARTS]], stays


def _together(
    facts: Facts, probe: Probe, rests: Sequence[np.ndarray], bar: tqdm
) -> Iterator[tuple[int, tuple[int, int, np.ndarray]]]:
    """For components that move nothing by themselves, what they do beside those that move most."""
    numbers = range(facts.low.size)
    reach = np.array([max(facts.reach(effects, numbers, LEAST).values(), default=0.0) for effects in facts.effects])
    movers = [component for component in np.argsort(-reach).tolist() if reach[component] > 0][:_MOST_COMPANY]
    for component in np.flatnonzero(reach == 0).tolist():
        for company in movers:
            bar.total += 3 * N_STARTS
            bound = int(
                facts.rest[company] - facts.action_low[company] > facts.action_high[company] - facts.rest[company]
            )
            effects = probe.act_together(rests, component, company, bound, bar)
            effects = np.where(probe.is_finite, effects, 0.0)
            if facts.reach(effects, numbers, LEAST):
                yield component, (company, bound, effects)
                break


def _reader(env: gym.Env, observe: str | None) -> Callable[[Any], Observation]:
    """From an observation to what an advisor reads."""
    if observe is None:
        return lambda observation: observation
    env.reset()
    privileged = Privileged(DummyVecEnv([lambda: env]), observe)
    return lambda _: privileged.read()[0]


def _period(episodes: Sequence[np.ndarray], n_angles: int) -> np.ndarray:
    """2 pi or 360 for the angles at the end, and what is within this, and goes in small steps but for jumps of it."""
    numbers = np.concatenate(episodes)
    steps = np.abs(np.concatenate([np.diff(episode, axis=0) for episode in episodes]))
    period = np.full(numbers.shape[1], np.nan)
    for whole in _WHOLE_TURNS:
        jumps = steps > 0.75 * whole
        is_one = np.ptp(numbers, axis=0) <= 1.001 * whole
        period[is_one & jumps.any(axis=0) & (jumps | (steps < 0.25 * whole)).all(axis=0)] = whole
    # A counter is none.
    period[(period < 7) & (numbers == np.round(numbers)).all(axis=0)] = np.nan
    period[period.size - n_angles :] = _WHOLE_TURNS[0]
    return period
