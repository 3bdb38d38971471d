"""Checks of arguments, with one class of error for all that is wrong with them."""

import math
import numbers
from typing import Any

import numpy as np


class ArgumentError(TypeError, ValueError):
    """An argument of the wrong type, or out of its range. Says what was given and what was expected."""


def check_number(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    *,
    above_low: bool = False,
    optional: bool = False,
    alternative: str = "",
) -> None:
    """
    Refuse what is not a finite number of a range.

    :param name: The argument's name
    :param value: Its value
    :param low: Lowest value allowed
    :param high: Highest value allowed
    :param above_low: Whether the lowest value itself is not allowed
    :param optional: Whether ``None`` is allowed
    :param alternative: What else it may be, that is not checked here
    :raises ArgumentError: if it is something else
    """
    _check(name, value, numbers.Real, "a number", low, high, above_low, optional, alternative)


def check_integer(name: str, value: Any, low: float = 1, high: float = math.inf, *, optional: bool = False) -> None:
    """
    Refuse what is not an integer of a range.

    :param name: The argument's name
    :param value: Its value
    :param low: Lowest value allowed
    :param high: Highest value allowed
    :param optional: Whether ``None`` is allowed
    :raises ArgumentError: if it is something else
    """
    _check(name, value, numbers.Integral, "an integer", low, high, False, optional, "")


def _check(
    name: str,
    value: Any,
    kind: type,
    noun: str,
    low: float,
    high: float,
    above_low: bool,
    optional: bool,
    alternative: str,
) -> None:
    if value is None and optional:
        return
    is_kind = isinstance(value, kind) and not isinstance(value, bool | np.bool_)
    if is_kind and math.isfinite(value) and low <= value <= high and not (above_low and value == low):
        return
    lowest = "" if low == -math.inf else f" greater than {low:g}" if above_low else f" that is at least {low:g}"
    highest = f" and at most {high:g}" if math.isfinite(high) else ""
    others = [alternative] * bool(alternative) + ["None"] * optional
    raise ArgumentError(f"{name} is {value!r}, expected {' or '.join([f'{noun}{lowest}{highest}', *others])}.")


def check_bool(name: str, value: Any) -> None:
    """
    Refuse what is neither true nor false.

    :param name: The argument's name
    :param value: Its value
    :raises ArgumentError: if it is something else
    """
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} is {value!r}, expected True or False.")


def check_text(name: str, value: Any, example: str) -> None:
    """
    Refuse what is neither text nor ``None``.

    :param name: The argument's name
    :param value: Its value
    :param example: What it may be
    :raises ArgumentError: if it is something else, or empty
    """
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise ArgumentError(f"{name} is {value!r}, expected text such as {example!r}, or None.")
