"""What an advisor returned, held to the protocol: what cannot be used is dropped and counted, and costs no more."""

import dataclasses
import logging
import math
import numbers
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_varl.advice.types import Advice, AdviceQuery, Rejection, Usage
from sb3_varl.redaction import example_of
from sb3_varl.wording import count

logger = logging.getLogger(__name__)

# An answer this far outside the box, as a share of the box's width, is a rounding error and is clipped.
BOUNDS_TOLERANCE = 0.01
# Characters of a reason: with "rejected_" before it, SB3's logger has room for no more, and refuses two keys that are
# the same as far as there is room.
_MAX_REASON = 24
# Characters of what an advisor says of it: of a rule, with the names that there are.
_MAX_REMARK = 500
_NO_SLUG = re.compile(r"[^a-z0-9]+")


def checked(advice: Advice, query: AdviceQuery) -> Advice:
    """
    Check an advisor's answer to a query.

    :param advice: What an advisor returned
    :param query: What it was asked
    :return: The same with an array of the action space, or ``None``, for each state
    :raises TypeError: if it is something other than an Advice
    :raises ValueError: if it has the wrong number of actions
    """
    if not isinstance(advice, Advice):
        raise TypeError(f"The advisor returned {type(advice).__name__}, expected a sb3_varl.Advice.")
    if not isinstance(advice.actions, Sequence | np.ndarray):
        raise TypeError(
            f"The advisor returned {example_of(advice.actions)} as actions, expected a list with an action or None for "
            "each state."
        )
    if len(advice.actions) != len(query.states):
        raise ValueError(
            f"The advisor returned {count(len(advice.actions), 'action')} for {count(len(query.states), 'state')}, "
            "expected one for each state, or None where it has no advice."
        )
    rejected = _checked_rejections(advice.rejected)
    actions: list[np.ndarray | None] = []
    for i, action in enumerate(advice.actions):
        usable = None if action is None else check_action(action, query.briefing.action_space)
        if isinstance(usable, str):
            rejected.append(Rejection(usable, i, example_of(action)))
            usable = None
        actions.append(usable)
    standing = advice.standing
    if not (standing is None or callable(standing)):
        _complain_of("standing", standing, "a function from an observation to an action, or None")
        standing = None
    return Advice(actions, tuple(rejected), _checked_usage(advice.usage), standing)


def counted(rejected: Iterable[Rejection], actions: Sequence[Any]) -> tuple[Rejection, ...]:
    """
    Leave out what is for the log only: rejections of a state that has an action, and all but the first of another.

    :param rejected: Rejections
    :param actions: For each state its action, or ``None``
    :return: One for each state at most, and those that are about none
    """
    seen, kept = set[int](), list[Rejection]()
    for rejection in rejected:
        state = rejection.state
        if state is not None:
            if state in seen or not 0 <= state < len(actions) or actions[state] is not None:
                continue
            seen.add(state)
        kept.append(rejection)
    return tuple(kept)


def as_numbers(action: Any, space: spaces.Box) -> np.ndarray | str:
    """
    Read a suggested action, whatever it comes in: an array, a list, a tensor; a number for an action of one component;
    a batch of one action.

    :param action: Anything that an advisor returned for a state
    :param space: The environment's action space
    :return: A float64 array of the space's shape, not shared with anybody, or the reason of its rejection as a slug
    """
    try:
        if hasattr(action, "detach"):  # a tensor's, which may be on a GPU, or of a precision that NumPy lacks
            action = action.detach().cpu()
            action = (action.double() if action.is_floating_point() else action).numpy()
        array = np.asarray(action)
    except Exception:  # whatever somebody's tensor type raises
        return "not_numbers"
    if array.dtype.kind not in "fiu":
        return "not_numbers"
    if array.shape == (1, *space.shape) or array.size == math.prod(space.shape) == 1:
        array = array.reshape(space.shape)
    return array.astype(np.float64) if array.shape == space.shape else "wrong_shape"


def check_action(action: Any, space: spaces.Box) -> np.ndarray | str:
    """
    Decide whether a suggested action can be used.

    :param action: Anything that an advisor returned for a state
    :param space: The environment's action space
    :return: The action as an array of the space's shape and dtype, inside the box,
        or the reason of its rejection as a slug
    """
    array = as_numbers(action, space)
    if isinstance(array, str):
        return array
    if not np.isfinite(array).all():
        return "not_finite"
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    tolerance = BOUNDS_TOLERANCE * (high - low)
    if (array < low - tolerance).any() or (array > high + tolerance).any():
        return "out_of_bounds"
    return as_dtype(np.clip(array, low, high), space)


def as_dtype(numbers: np.ndarray, space: spaces.Box) -> np.ndarray:
    """
    Bring numbers into the form of a space's, which may be integers.

    :param numbers: Float64 numbers inside its bounds
    :param space: The space
    :return: The nearest numbers of its dtype
    """
    return (np.rint(numbers) if np.issubdtype(space.dtype, np.integer) else numbers).astype(space.dtype)


def _checked_rejections(rejected: Any) -> list[Rejection]:
    usable = []
    for item in _items(rejected):
        if (
            isinstance(item, Rejection)
            and isinstance(item.reason, str)
            and isinstance(item.state, int | np.integer | None)
            and isinstance(item.example, str)
        ):
            slug = _NO_SLUG.sub("_", item.reason.lower()).strip("_")[:_MAX_REASON].strip("_") or "unknown"
            text = item.example or (item.reason if slug != item.reason else "")
            usable.append(
                Rejection(slug, None if item.state is None else int(item.state), example_of(text, _MAX_REMARK))
            )
        else:
            _complain_of("rejected", item, "a Rejection with a reason and a state")
    return usable


def _checked_usage(usage: Any) -> Usage:
    amounts = dataclasses.astuple(usage) if isinstance(usage, Usage) else ()
    if not amounts or not all(isinstance(n, numbers.Real) and 0 <= float(n) < math.inf for n in amounts):
        _complain_of("usage", usage, "a Usage of numbers that are at least 0")
        return Usage()
    return Usage(*(int(n) for n in amounts[:3]), *(float(n) for n in amounts[3:]))  # of NumPy, perhaps


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _complain_of(name: str, value: Any, expected: str) -> None:
    logger.warning(
        "The advisor returned %s as %s, expected %s. That is left out, its actions are taken.",
        example_of(value),
        name,
        expected,
    )
