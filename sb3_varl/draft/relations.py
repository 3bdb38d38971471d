"""What numbers of an observation have to do with each other."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# By how much two numbers that are the same may differ, by their range, and what is computed from others.
_COPIED, _ROUNDING = 1e-6, 1e-4
# Of how many numbers differences are looked for, which takes their third power of steps.
_MOST_COMPARED = 200
# Of two numbers that a third is the difference of, by its range.
_TO_SPEAK_OF = 0.01
# Which share of a velocity's variance, as it is taken at the end of a step, the difference of two positions has to
# explain, and in which share of the steps with both, as walls stop what moves; of how many such steps at least; and how
# many steps are looked at.
_EXPLAINED, _MOSTLY, _LEAST_SEEN, _LOOKED_AT = 0.95, 0.85, 50, 400
# In which share of the episodes that have so many of these steps it has to be the same multiple, by how much: a thing
# that is hit now and then comes nearer something, or goes away from it.
_IN_MANY, _LEAST_IN_ONE, _ALIKE = 0.75, 5, 0.25
# How far a length may be from 1, and how far two of the numbers at least go that it is of.
_ONE, _TURNED = 1e-4, 0.1
# Of how many numbers the last values have to stand as far behind them, for those that never moved to be taken for such.
_IN_A_ROW = 2


@dataclass(frozen=True)
class Relations:
    """
    For numbers by their place among all, the others that they go back to.

    :param same_as: For a number that was always the same as an earlier one, which
    :param drawn_as: The same of numbers that never moved in an episode; they may come apart
    :param before: For a number whose last value another one of the same array has, which
    :param change_of: For a number that is by how much another changes in a step, or a multiple, which, and the multiple
    :param difference_of: For a number that is one earlier number less another, which
    """

    same_as: dict[int, int]
    drawn_as: dict[int, int]
    before: dict[int, int]
    change_of: dict[int, tuple[int, float]]
    difference_of: dict[int, tuple[int, int]]


def relate(
    episodes: Sequence[np.ndarray],
    arrays: Sequence[object],
    period: np.ndarray,
    angles: dict[int, tuple[int, int]],
) -> Relations:
    """
    Find out what numbers have to do with each other.

    :param episodes: What they and the angles behind them were, ``(n_steps + 1, n_numbers + n_angles)`` each
    :param arrays: To which array of an observation each number belongs
    :param period: By how much each jumps at its ends, as an angle does, NaN for one that is none
    :param angles: Of which numbers an angle is, by its place behind them
    :return: What was found
    """
    numbers = np.concatenate(episodes)[:, : len(arrays)]
    moves = np.any([np.ptp(episode, axis=0) > 0 for episode in episodes], axis=0)
    moving = np.flatnonzero(moves[: len(arrays)]).tolist()
    now = np.concatenate([episode[1:] for episode in episodes])
    last = np.concatenate([episode[:-1] for episode in episodes])
    same_as = _same(numbers, moving)
    moving = [number for number in moving if number not in same_as]
    before = _before(now, last, moving, arrays)
    before |= _before_that_never_moved(now, last, before, arrays)
    drawn = [i for i in np.flatnonzero(np.ptp(numbers, axis=0)).tolist() if i not in moving and i not in same_as]
    drawn_as = _same(numbers, [number for number in drawn if number not in before.values()])
    moving = [number for number in moving if number not in before.values()]
    turning = [angle for angle, pair in angles.items() if moves[angle] and {*pair} <= {*moving}]
    of_angles = {number for pair in angles.values() for number in pair}
    # A sine that is in proportion to how a velocity changes is a force's, and no velocity of a velocity.
    rates = [number for number in moving if number not in of_angles]
    episode_of = np.repeat(np.arange(len(episodes)), [len(episode) - 1 for episode in episodes])
    changes = _changes(_unwrapped(now - last, period), now, rates, [*moving, *turning], episode_of)
    return Relations(same_as, drawn_as, before, changes, _differences(numbers))


def _same(numbers: np.ndarray, moving: Sequence[int]) -> dict[int, int]:
    found = dict[int, int]()
    for j in moving:
        earlier = [i for i in moving if i < j and i not in found]
        distance = np.abs(numbers[:, earlier] - numbers[:, [j]]).max(axis=0)
        same = np.flatnonzero(distance <= _COPIED * np.ptp(numbers[:, j]))
        if same.size:
            found[j] = earlier[same[0]]
    return found


def _before(now: np.ndarray, last: np.ndarray, moving: Sequence[int], arrays: Sequence[object]) -> dict[int, int]:
    found = dict[int, int]()
    for j in moving:
        others = [i for i in moving if i not in (j, *found) and i not in found.values() and arrays[i] == arrays[j]]
        distance = np.abs(last[:, others] - now[:, [j]]).max(axis=0)
        same = np.flatnonzero(distance <= _ROUNDING * np.ptp(now[:, j]))
        if same.size and j not in found:
            found[others[same[0]]] = j
    return found


def _before_that_never_moved(
    now: np.ndarray, last: np.ndarray, before: dict[int, int], arrays: Sequence[object]
) -> dict[int, int]:
    """Those that are where the last values of others are, of a thing that nothing touched."""
    found = dict[int, int]()
    for offset, n_found in Counter(j - i for i, j in before.items()).items():
        if n_found < _IN_A_ROW:
            continue
        # One observation beside the other, each as long as they are apart.
        first = min(i for i, j in before.items() if j - i == offset)
        for i in range(first, min(first + abs(offset), now.shape[1] - max(offset, 0))):
            taken = {*before, *before.values(), *found, *found.values()}
            is_same = np.abs(last[:, i] - now[:, i + offset]).max() <= _ROUNDING * np.ptp(now[:, i])
            if is_same and arrays[i] == arrays[i + offset] and not taken & {i, i + offset}:
                found[i] = i + offset
    return found


def _unwrapped(changes: np.ndarray, period: np.ndarray) -> np.ndarray:
    """The shorter way round, for angles."""
    return np.where(np.isnan(period), changes, (changes + period / 2) % period - period / 2)


def _changes(
    changes: np.ndarray,
    now: np.ndarray,
    moving: Sequence[int],
    those: Sequence[int],
    episode_of: np.ndarray,
) -> dict[int, tuple[int, float]]:
    """For numbers that move, which of those they are the change of."""
    found = dict[int, tuple[int, float]]()
    some = slice(None, None, max(1, len(now) // _LOOKED_AT))
    for j in moving:
        multiples = ((*_multiple(changes[some, i], now[some, j], episode_of[some]), i) for i in those if i != j)
        near = [(explained, factor, i) for factor, explained, i in multiples if explained > _EXPLAINED]
        if near:
            _, factor, i = max(near)
            found[j] = i, factor
    return found


def _multiple(change: np.ndarray, number: np.ndarray, episode_of: np.ndarray) -> tuple[float, float]:
    """What to multiply one with to come near the other where both are something, and how much that mostly explains."""
    changes = np.abs(change) > _ROUNDING * np.ptp(change)
    both = changes & (np.abs(number) > _ROUNDING * np.ptp(number))
    if both.sum() < max(_LEAST_SEEN, changes.sum() / 2):
        return 0.0, 0.0
    change, number, episode_of = change[both], number[both], episode_of[both]
    factor = float(np.median(number / change))
    of_each = [number[episode_of == i] / change[episode_of == i] for i in np.unique(episode_of)]
    medians = np.array([np.median(factors) for factors in of_each if len(factors) >= _LEAST_IN_ONE])
    if (np.abs(medians - factor) <= _ALIKE * abs(factor)).sum() < max(_IN_MANY * len(medians), 1):
        return 0.0, 0.0
    missed = np.abs(number - factor * change)
    most = np.argsort(missed)[: int(_MOSTLY * len(missed))]
    # About the mean, as what hardly changes goes with anything.
    spread = np.var(number[most])
    return factor, float(1 - np.var((number - factor * change)[most]) / spread) if spread > 0 else 0.0


def _differences(numbers: np.ndarray) -> dict[int, tuple[int, int]]:
    """Which numbers are one earlier number less another."""
    found = dict[int, tuple[int, int]]()
    ranges = np.ptp(numbers, axis=0)
    rounding = _ROUNDING * ranges
    varies = rounding > 0
    if varies.sum() > _MOST_COMPARED:
        return found
    some = numbers[:: max(1, len(numbers) // 10)]
    for j in np.flatnonzero(varies).tolist():
        # Not of something that next to nothing is taken from.
        earlier = np.flatnonzero(varies[:j] & (ranges[:j] > _TO_SPEAK_OF * ranges[j]))
        left = some[:, earlier, None] - some[:, None, earlier]
        fits = np.argwhere((np.abs(left - some[:, j, None, None]) <= rounding[j]).all(axis=0))
        for a, b in earlier[fits].tolist():
            if np.abs(numbers[:, a] - numbers[:, b] - numbers[:, j]).max() <= rounding[j]:
                found[j] = a, b
                break
    return found


def find_of_length_one(numbers: np.ndarray, arrays: Sequence[object]) -> list[tuple[int, ...]]:
    """
    Find numbers whose squares always sum to 1: two of them, or three or four side by side.

    :param numbers: What they were, ``(n, n_numbers)``
    :param arrays: To which array of an observation each belongs
    :return: Their places, each in one at most
    """
    squares, turns = np.square(numbers), np.ptp(numbers, axis=0) > _TURNED
    # Flags are none, of which one is on.
    turns &= ~np.isin(numbers, (-1, 0, 1)).all(axis=0)
    candidates = np.flatnonzero(turns & (squares.max(axis=0) <= 1 + _ONE))[:_MOST_COMPARED].tolist()
    side_by_side = [range(start, start + n) for n in (4, 3) for start in range(len(turns) - n + 1)]
    found = list[tuple[int, ...]]()
    for group in (*side_by_side, *itertools.combinations(candidates, 2)):
        # Of a quaternion two may always be 0.
        n_turning = turns[[*group]].sum()
        is_new = len({arrays[number] for number in group}) == 1 and not {*itertools.chain(*found)} & {*group}
        is_turning = n_turning >= (3 if len(group) == 3 else 2)
        if is_new and is_turning and np.abs(squares[:, [*group]].sum(axis=1) - 1).max() <= _ONE:
            found.append(tuple(group))
    return sorted(found)
