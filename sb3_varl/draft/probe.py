"""An environment to try things in."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from tqdm import tqdm

from sb3_varl.advice.pictures import is_picture
from sb3_varl.advice.types import Observation
from sb3_varl.arguments import ArgumentError
from sb3_varl.success import success_of

# Starts that are only looked at, as what is drawn for an episode is drawn seldom in few.
N_RESETS = 50
# Of random actions: episodes, steps of each at most, and for how many of them an action is held, to get somewhere.
N_EPISODES, N_STEPS, N_HELD = 10, 100, 5
# Of one component alone: starts, steps at a bound, and as many afterwards with none.
N_STARTS, N_ACTED = 3, 5
# The same, until things have come to rest; and after which steps is looked.
N_LONG = 25
LOOKED_AT = (0, 1, N_ACTED, N_LONG - N_ACTED, N_LONG, 2 * N_LONG)
# How far two episodes may be from each other that are the same, by the size of a number.
_ROUNDING = 1e-6
# Below this, a number is 0, in whatever unit.
NOTHING = 1e-6
# How many numbers are told of: more than any sheet will name.
_MOST = 1000

# Where a number stands: a key, ``None`` for an observation that is an array, and its index there.
Place = tuple[str | None, int]


class Probe:
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
        self.rest = np.array(np.clip(np.zeros_like(actions.low), actions.low, actions.high))
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
        self.angles: list[tuple[int, int]] = []
        self.period = np.full(len(self.places), np.nan)
        self.is_finite = np.ones(len(self.places), bool)
        # Numbers that one and the same seed began with other values of.
        self.differs_at_start = np.zeros(len(self.places), bool)

    def turn(self, angles: Sequence[tuple[int, int]], period: np.ndarray) -> None:
        """
        Measure angles from now on by how far they have turned.

        :param angles: Those that are told behind the numbers, each by the places of its cosine and its sine
        :param period: By how much each of all jumps at its ends, NaN for what is no angle
        """
        self.angles, self.period = [*angles], period
        are_finite = [self.is_finite[[*angle]].all() for angle in angles]
        self.is_finite = np.append(self.is_finite, are_finite).astype(bool)
        self.differs_at_start = np.append(self.differs_at_start, np.zeros(len(angles), bool))

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

    @property
    def between(self) -> np.ndarray:
        """A command for each component half-way from rest to its farther bound."""
        low, rest, high = (np.ravel(command) for command in (self._actions.low, self.rest, self._actions.high))
        return np.where(high - rest >= rest - low, (rest + high) / 2, (rest + low) / 2).astype(self._actions.dtype)

    def hold(self, bar: tqdm) -> np.ndarray:
        """
        What the numbers are while one component is at its upper bound, its lower one or ``between`` for long, and when
        it has rested for as long again, after the steps that ``LOOKED_AT`` says: ``(n_components, 3, n_starts, 6,
        n_numbers)``, NaN where an episode ended.
        """
        n_components = self.rest.size
        held = np.full((n_components, 3, N_STARTS, len(LOOKED_AT), self.is_finite.size), np.nan)
        for component, command, start in np.ndindex(n_components, 3, N_STARTS):
            acted = self._alone(self.rest, component, min(command, 1))
            if command == 2:
                acted.flat[component] = self.between[component]
            numbers = self._episode(start, [acted] * N_LONG + [self.rest] * N_LONG)
            for moment, step in enumerate(LOOKED_AT):
                if step < len(numbers):
                    held[component, command, start, moment] = numbers[step]
            bar.update()
        begun = held[..., 0, :]
        self.differs_at_start |= (begun != begun[:1, :1]).any(axis=(0, 1, 2))
        return held

    def noise(self, rests: Sequence[np.ndarray], bar: tqdm) -> np.ndarray:
        """
        How far episodes with the same seed and actions go from each other, of resting and of random ones, but for
        rounding, ``(n_numbers,)``.
        """
        noise = np.zeros(self.is_finite.size)
        for start, rest in enumerate(rests):
            at_random = [self._actions.sample() for _ in range(2 * N_ACTED)]
            for actions in ([rest] * (2 * N_ACTED), at_random):
                one, other = (self._episode(start, actions) for _ in range(2))
                apart = np.abs(self._beside(one, other)).max(axis=0)
                noise = np.maximum(noise, np.where(apart > _ROUNDING * np.abs(one).max(axis=0), apart, 0.0))
                bar.update(2)
        return noise

    def act_by_components(self, rests: Sequence[np.ndarray], bar: tqdm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What becomes of the numbers when one component acts at a time: what Facts has of that, and of resting."""
        n_components, n_numbers = self.rest.size, self.is_finite.size
        effects = np.full((n_components, 2, N_STARTS, 3, n_numbers), np.nan)
        undone = np.full((n_components, 2, N_STARTS, n_numbers), np.nan)
        at_rest = []
        for start, rest in enumerate(rests):
            resting = self._episode(start, [rest] * (2 * N_ACTED))
            at_rest.append(resting - resting[0])
            bar.update()
            for component, bound in np.ndindex(n_components, 2):
                acted, other = ([self._alone(rest, component, which)] * N_ACTED for which in (bound, 1 - bound))
                numbers = self._episode(start, acted + [rest] * N_ACTED)
                beside = self._beside(numbers, resting)
                for moment, step in enumerate((1, N_ACTED, 2 * N_ACTED)):
                    if step < len(beside):
                        effects[component, bound, start, moment] = beside[step]
                beside = self._beside(self._episode(start, other + acted), resting)
                if len(beside) > 2 * N_ACTED:
                    undone[component, bound, start] = beside[2 * N_ACTED]
                bar.update(2)
        # What the other bound had brought about, if it was left at that.
        undone -= effects[:, ::-1, :, -1]
        n_steps = min(map(len, at_rest))
        return effects, undone, np.array([changes[:n_steps] for changes in at_rest])

    def act_together(
        self, rests: Sequence[np.ndarray], component: int, company: int, company_bound: int, bar: tqdm
    ) -> np.ndarray:
        """
        What becomes of the numbers when a component acts while another one is at a bound, and has been for some steps,
        less what becomes of them without it, in one step and in ``N_ACTED``: ``(2, n_starts, 2, n_numbers)``.
        """
        effects = np.full((2, N_STARTS, 2, self.is_finite.size), np.nan)
        for start, rest in enumerate(rests):
            driven = self._alone(rest, company, company_bound)
            alone = self._episode(start, [driven] * (2 * N_ACTED))
            bar.update()
            for bound in range(2):
                both = [self._alone(driven, component, bound)] * N_ACTED
                beside = self._beside(self._episode(start, [driven] * N_ACTED + both), alone)
                for moment, step in enumerate((N_ACTED + 1, 2 * N_ACTED)):
                    if step < len(beside):
                        effects[bound, start, moment] = beside[step]
                bar.update()
        return effects

    def _beside(self, numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
        """
        How far one episode is from another with the same seed, as far as both go, each seen from its own start: not
        every environment draws all of it by the seed.
        """
        n = min(len(numbers), len(others))
        apart = numbers[:n] - others[:n]
        self.differs_at_start |= apart[0] != 0
        return apart - apart[0]

    def _alone(self, others: np.ndarray, component: int, bound: int) -> np.ndarray:
        """One component at its upper (0) or its lower bound (1), the others as they are."""
        action = others.copy()
        action.flat[component] = (self._actions.high, self._actions.low)[bound].flat[component]
        return action

    def _episode(self, start: int, actions: Sequence[np.ndarray]) -> np.ndarray:
        """The numbers from a start on, until the actions or the episode end: ``(n_steps + 1, n_numbers)``."""
        numbers = [self._numbers(self._env.reset(seed=self._seed + start)[0])]
        for action in actions:
            observation, _, terminated, truncated, info = self._env.step(action.copy())
            numbers.append(self._numbers(observation))
            if terminated or truncated:
                self.says_success = success_of(info) is not None and self.says_success is not False
                break
        self.is_finite &= np.isfinite(numbers).all(axis=0)
        told = np.array(numbers)
        for number in np.flatnonzero(~np.isnan(self.period) & self.is_finite):
            told[:, number] = np.unwrap(told[:, number], period=self.period[number])
        return told

    def _numbers(self, observation: Any) -> np.ndarray:
        parts = self._parts(observation)
        sizes = {key: part.size for key, part in parts.items()}
        if sizes != self._sizes:
            raise ArgumentError(
                f"An observation has other numbers than the first one: {_told(sizes)}, after {_told(self._sizes)}."
            )
        return with_angles(np.concatenate([parts[key] for key in self._sizes]), self.angles)

    def _parts(self, observation: Any) -> dict[str | None, np.ndarray]:
        """Those arrays that a task sheet can name the numbers of."""
        said = self._read(observation)
        parts = said.items() if isinstance(said, dict) else [(None, said)]
        arrays = {key: np.asarray(part) for key, part in parts if not isinstance(part, tuple | dict)}
        return {
            key: array.astype(np.float64).ravel()
            for key, array in arrays.items()
            if array.dtype.kind in "fiub" and not is_picture(array)
        }


def _told(sizes: dict[str | None, int]) -> str:
    return ", ".join(f"{size} of {key!r}" if key is not None else str(size) for key, size in sizes.items()) or "none"


def with_angles(numbers: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """
    Put angles behind numbers.

    :param numbers: The numbers, ``(..., n_numbers)``
    :param pairs: The places of the cosine and the sine of each angle
    :return: Both, ``(..., n_numbers + n_angles)``
    """
    angles = [np.arctan2(numbers[..., sine], numbers[..., cosine]) for cosine, sine in pairs]
    return np.concatenate([numbers, *(angle[..., None] for angle in angles)], axis=-1)
