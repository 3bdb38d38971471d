"""Actions that say where something is to be, as those of a robot whose joints are told positions do."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_varl.draft.probe import LOOKED_AT, NOTHING

# How far what has come to rest may still go, and the same place may be from itself, by how far those of the two bounds
# are apart.
STILL, _SAME = 0.05, 0.1
# How far these are apart at least, by the number's range, and which share of the way it goes in ``N_ACTED`` steps.
_FAR_APART, _UNDER_WAY = 0.1, 0.2


@dataclass(frozen=True)
class SetPlace:
    """
    A number that a component of the action sets, wherever it was before.

    :param number: The number
    :param low: What it comes to with the component at its lower bound
    :param rest: With 0, or what is next to it
    :param between: With the component half-way from there to the farther bound
    :param high: With the component at its upper bound
    :param first: Which share of the way it goes in the first step
    :param acted: In ``N_ACTED`` steps
    """

    number: int
    low: float
    rest: float
    between: float
    high: float
    first: float
    acted: float


def find_places(
    held: np.ndarray, to_upper: Sequence[bool], ranges: np.ndarray, skipped: Collection[int]
) -> tuple[tuple[SetPlace, ...], ...]:
    """
    Find out which numbers come to rest at a place of each command, the same from all starts, and leave it when the
    component rests. What is driven until a limit stops it stays there, or has no place between.

    :param held: What ``Probe.hold`` says
    :param to_upper: Whether the command between is on the way to the upper bound, of each component
    :param ranges: Of each number
    :param skipped: Numbers that are not looked at
    :return: Of each component those that it sets, what fewest others set first
    """
    found = [
        tuple(_places(of_component, is_up, ranges, skipped)) for of_component, is_up in zip(held, to_upper, strict=True)
    ]
    n_set = Counter(place.number for places in found for place in places)
    return tuple(
        tuple(
            sorted(places, key=lambda place: (n_set[place.number], -abs(place.high - place.low) / ranges[place.number]))
        )
        for places in found
    )


def _places(held: np.ndarray, is_up: bool, ranges: np.ndarray, skipped: Collection[int]) -> list[SetPlace]:
    begun, first, acted, nearly, long, rested = (held[:, :, LOOKED_AT.index(step)] for step in LOOKED_AT)
    high, low, between = np.median(long, axis=1)
    rest = np.median(rested, axis=(0, 1))
    span = np.abs(high - low)
    # NaN is in none of these.
    is_far = span >= np.maximum(_FAR_APART * ranges, NOTHING)
    is_still = np.abs(long - nearly).max(axis=(0, 1)) <= STILL * span
    is_same = np.ptp(long, axis=1).max(axis=0) <= _SAME * span
    comes_back = np.ptp(rested, axis=(0, 1)) <= _SAME * span
    ways = between - rest, (high if is_up else low) - between
    is_between = (ways[0] * ways[1] > 0) & (np.minimum(*np.abs(ways)) > _SAME * span)
    places = []
    for number in np.flatnonzero(is_far & is_still & is_same & comes_back & is_between).tolist():
        if number not in skipped:
            way = (long - begun)[..., number]
            farthest = np.unravel_index(np.abs(way).argmax(), way.shape)
            shares = [float(((after - begun)[..., number] / way)[farthest]) for after in (first, acted)]
            values = [float(values[number]) for values in (low, rest, between, high)]
            if shares[1] >= _UNDER_WAY:
                places.append(SetPlace(number, *values, *shares))
    return places


def stay(
    rest: np.ndarray, low: np.ndarray, high: np.ndarray, sets: Sequence[Sequence[SetPlace]], numbers: np.ndarray
) -> np.ndarray:
    """
    Say with which action everything stays where it is.

    :param rest: The action that does least where no place is set
    :param low: The least action
    :param high: The largest one
    :param sets: What :func:`find_places` found
    :param numbers: What the numbers are
    :return: The action
    """
    action = rest.copy()
    for component, places in enumerate(sets):
        if places:
            place = places[0]
            at = [
                (place.low, low.flat[component]),
                (place.rest, rest.flat[component]),
                (place.high, high.flat[component]),
            ]
            values, commands = zip(*sorted(at), strict=True)
            action.flat[component] = np.interp(numbers[place.number], values, commands)
    return action
