"""Numbers in words."""

import math

import numpy as np

from sb3_varl.draft.probe import NOTHING

# Beyond this, by its size, what several starts differ by is told of.
AGREE = 0.1
# Below this, by the most that becomes of a number, it is nothing.
NEGLIGIBLE = 0.01
# Amounts that differ by a larger factor, or in their sign, are told start by start.
_FAR = 2
# Between values of several starts.
OR = " | "


def each(values: np.ndarray) -> str:
    """What came of several starts, or of all."""
    known = values[~np.isnan(values)]
    if not known.size:
        return "an unknown amount (the episode had ended)"
    return digits(float(np.median(known))) if agree(known) else OR.join(map(digits, values))


def amount(values: np.ndarray) -> str:
    """By how much something moves, from several starts: from where to where, if that is not far apart."""
    known = values[~np.isnan(values)]
    size = np.abs(known)
    if not known.size or agree(known) or np.ptp(np.sign(known)) or size.max() > _FAR * size.min():
        return each(values)
    return f"{digits(known.min())} to {digits(known.max())}"


def span(values: np.ndarray) -> str:
    """From where to where values go, or where they all are."""
    if agree(values, NEGLIGIBLE):
        return digits(float(np.median(values)))
    return f"{digits(values.min())} to {digits(values.max())}"


def agree(values: np.ndarray, share: float = AGREE) -> bool:
    """Whether values differ by no more than a share of their size."""
    return bool(np.ptp(values) <= share * np.abs(values).max())


def without_traces(values: np.ndarray, size: float) -> np.ndarray:
    """With 0 for what is next to nothing beside a size."""
    return np.where(np.abs(values) < NEGLIGIBLE * size, 0, values)


def digits(value: float) -> str:
    """A number, in three digits."""
    if np.isnan(value):
        return "unknown"
    return "0" if abs(value) < NOTHING else f"{value:.3g}"


def digits_beside(value: float, size: float) -> str:
    """A number, as exactly as its difference from others is to be seen, which is of some size."""
    if abs(value) < NOTHING:
        return "0"
    rounded = round(value, 2 - math.floor(math.log10(size)))
    return f"{rounded:.12g}"
