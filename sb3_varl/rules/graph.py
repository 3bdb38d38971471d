"""
Arithmetic that is evaluated in one state, or in many at once.

Equal operations are one node, so that what rules have in common is computed once. What has no value in a state (a
division by zero, the root of a negative number, an overflow, a NaN in the observation) is undefined there, and so is
all that depends on it; ``and``, ``or`` and ``if`` look at no more than they have to.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Of all expressions together, as they are evaluated and as they are written; of one, how many operations may depend on
# one another.
MAX_NODES = 20_000
MAX_APPLIED = 100_000
MAX_CHAIN = 200

Node = int
_Values = list[Any]
_Evaluate = Callable[[_Values], float]


class Undefined(ArithmeticError):
    """An operation has no value."""


class TooMany(ArithmeticError):
    """There are too many operations."""


class TooDeep(ArithmeticError):
    """Too many operations depend on one another."""


class Graph:
    """
    Operations on the numbers of an observation.

    :param n_numbers: How many numbers an observation has
    """

    def __init__(self, n_numbers: int) -> None:
        self.n_numbers = n_numbers
        self._nodes: list[tuple[str, tuple[Any, ...]]] = []
        self._known: dict[tuple[str, tuple[Any, ...]], Node] = {}
        self._depths: list[int] = []
        self._n_uses: list[int] = []
        self._compiled: dict[Node, _Evaluate] = {}
        # Operations so far, those included that are one node, or constants.
        self._n_applied = 0

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self._nodes)

    def constant(self, value: float) -> Node:
        """
        Make a node of a number.

        :param value: The number, which is finite
        :return: The node
        """
        return self._add("constant", (float(value),), 0)

    def number(self, place: int) -> Node:
        """
        Make a node of a number of the observation.

        :param place: Which of them
        :return: The node
        """
        return self._add("number", (place,), 0)

    def number_before(self, place: int) -> Node:
        """
        Make a node of a number of the observation before.

        :param place: Which of them
        :return: The node
        """
        return self._add("number", (place + self.n_numbers,), 0)

    def apply(self, name: str, *operands: Node) -> Node:
        """
        Make a node of an operation.

        :param name: Its name, a key of ``_SCALAR``
        :param operands: Its operands
        :return: The node
        :raises Undefined: if it is undefined in every state
        :raises TooMany: if there are too many operations
        :raises TooDeep: if too many of them depend on one another
        """
        self._n_applied += 1
        if self._n_applied > MAX_APPLIED or self.size > MAX_NODES:
            raise TooMany
        depth = 1 + max(self._depths[operand] for operand in operands)
        if depth > MAX_CHAIN:
            raise TooDeep
        if all(self._nodes[operand][0] == "constant" for operand in operands):
            return self.constant(_evaluated(_SCALAR[name](*map(self._compile, operands)), []))
        return self._add(name, operands, depth)

    def constant_value(self, node: Node) -> float | None:
        """
        Say what a node is in every state.

        :param node: The node
        :return: Its value, or ``None`` if it depends on the observation
        """
        name, arguments = self._nodes[node]
        return arguments[0] if name == "constant" else None

    def chain(self, name: str, operands: list[Node]) -> Node:
        """
        Make a node of an operation between two that is applied to any number, balanced so that it does not get deep.

        :param name: Its name
        :param operands: At least one
        :return: The node
        """
        if len(operands) == 1:
            return operands[0]
        middle = (len(operands) + 1) // 2
        return self.apply(name, self.chain(name, operands[:middle]), self.chain(name, operands[middle:]))

    def _add(self, name: str, arguments: tuple[Any, ...], depth: int) -> Node:
        key = (name, arguments)
        node = self._known.get(key)
        if node is None:
            node = self._known[key] = len(self._nodes)
            self._nodes.append(key)
            self._depths.append(depth)
            self._n_uses.append(0)
            if depth:
                for operand in arguments:
                    self._n_uses[operand] += 1
        return node

    # ---- In one state

    def values(self, numbers: list[float], before: list[float] | None) -> _Values:
        """
        Prepare to evaluate nodes in one state.

        :param numbers: The observation's numbers
        :param before: Those of the observation before, or ``None`` if they are not known
        :return: What :meth:`evaluate` needs
        """
        return [*numbers, *(before or [math.nan] * self.n_numbers), *([None] * len(self._nodes))]

    def evaluate(self, node: Node, values: _Values) -> float:
        """
        Evaluate a node in one state.

        :param node: The node
        :param values: What :meth:`values` returned
        :return: Its value, which is finite
        :raises Undefined: if it has none
        """
        return _evaluated(self._compile(node), values)

    def _compile(self, node: Node) -> _Evaluate:
        evaluate = self._compiled.get(node)
        if evaluate is not None:
            return evaluate
        name, arguments = self._nodes[node]
        if name == "constant":
            evaluate = _constant(*arguments)
        elif name == "number":
            evaluate = _number(*arguments)
        else:
            evaluate = _SCALAR[name](*map(self._compile, arguments))
            if self._n_uses[node] > 1:
                evaluate = _remembered(evaluate, 2 * self.n_numbers + node)
        self._compiled[node] = evaluate
        return evaluate

    # ---- In many states

    def evaluate_batch(self, node: Node, numbers: np.ndarray, known: dict[Node, "Column"]) -> "Column":
        """
        Evaluate a node in many states.

        :param node: The node
        :param numbers: The numbers of the observations, and of those before if they are known,
            ``(2 * n_numbers, n)``
        :param known: What was evaluated already, which is added to
        :return: Its values
        """
        try:
            return self._column(node, numbers, known)
        except RecursionError:
            return Column(math.nan, False)

    def _column(self, node: Node, numbers: np.ndarray, known: dict[Node, "Column"]) -> "Column":
        column = known.get(node)
        if column is None:
            name, arguments = self._nodes[node]
            if name == "constant":
                column = Column(arguments[0], True)
            elif name == "number":
                (place,) = arguments
                column = _finite(numbers[place]) if place < len(numbers) else Column(math.nan, False)
            else:
                column = _combined(name, [self._column(operand, numbers, known) for operand in arguments])
            known[node] = column
        return column


class Column(NamedTuple):
    """
    Values in many states.

    :param values: One for each state, ``(n,)`` in float64 with NaN where there is none, or in bool where each has one;
        or one number for all
    :param is_defined: Whether there is a value everywhere
    """

    values: Any
    is_defined: bool


def _constant(value: float) -> _Evaluate:
    return lambda values: value


def _number(place: int) -> _Evaluate:
    def read(values: _Values) -> float:
        number = values[place]
        if -math.inf < number < math.inf:
            return number
        raise Undefined("a number of the observation is not finite")

    return read


def _remembered(compute: _Evaluate, slot: int) -> _Evaluate:
    def remember(values: _Values) -> float:
        value = values[slot]
        if value is None:
            value = values[slot] = compute(values)
        return value

    return remember


def _evaluated(evaluate: _Evaluate, values: _Values) -> float:
    try:
        return evaluate(values)
    except ZeroDivisionError:
        raise Undefined("something is divided by zero") from None
    except ValueError:
        raise Undefined("something is the root of a negative number") from None
    except RecursionError:  # of a caller that is itself deep in calls
        raise Undefined("too much depends on one another") from None


def _bounded(value: float) -> float:
    if -math.inf < value < math.inf:
        return value
    raise Undefined("a result is too large")


def _norm(operands: list[float]) -> float:
    return math.sqrt(sum([operand * operand for operand in operands]))


# A function of its own for each operation, and not one for all, because calls are what takes the time.
_SCALAR: dict[str, Callable[..., _Evaluate]] = {
    "+": lambda a, b: lambda values: _bounded(a(values) + b(values)),
    "-": lambda a, b: lambda values: _bounded(a(values) - b(values)),
    "*": lambda a, b: lambda values: _bounded(a(values) * b(values)),
    "/": lambda a, b: lambda values: _bounded(a(values) / b(values)),
    "neg": lambda a: lambda values: -a(values),
    "<": lambda a, b: lambda values: 1.0 if a(values) < b(values) else 0.0,
    "<=": lambda a, b: lambda values: 1.0 if a(values) <= b(values) else 0.0,
    ">": lambda a, b: lambda values: 1.0 if a(values) > b(values) else 0.0,
    ">=": lambda a, b: lambda values: 1.0 if a(values) >= b(values) else 0.0,
    "==": lambda a, b: lambda values: 1.0 if a(values) == b(values) else 0.0,
    "!=": lambda a, b: lambda values: 1.0 if a(values) != b(values) else 0.0,
    "not": lambda a: lambda values: 0.0 if a(values) else 1.0,
    "and": lambda a, b: lambda values: 1.0 if a(values) and b(values) else 0.0,
    "or": lambda a, b: lambda values: 1.0 if a(values) or b(values) else 0.0,
    "if": lambda test, a, b: lambda values: a(values) if test(values) else b(values),
    "abs": lambda a: lambda values: abs(a(values)),
    "min": lambda a, b: lambda values: min(a(values), b(values)),
    "max": lambda a, b: lambda values: max(a(values), b(values)),
    "sqrt": lambda a: lambda values: math.sqrt(a(values)),
    "sin": lambda a: lambda values: math.sin(a(values)),
    "cos": lambda a: lambda values: math.cos(a(values)),
    "atan2": lambda a, b: lambda values: math.atan2(a(values), b(values)),
    "norm": lambda *operands: lambda values: _bounded(_norm([operand(values) for operand in operands])),
}


def _norm_batch(*operands: np.ndarray) -> np.ndarray:
    total = operands[0] * operands[0]
    for operand in operands[1:]:
        total = total + operand * operand
    return np.sqrt(total)


_BATCH: dict[str, Callable[..., np.ndarray]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "neg": np.negative,
    "abs": np.abs,
    "min": np.minimum,  # which are NaN where one operand is
    "max": np.maximum,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "atan2": np.arctan2,
    "norm": _norm_batch,
}

# Finite where their operands are.
_TOTAL = frozenset({"neg", "abs", "min", "max", "sin", "cos", "atan2"})

_CONDITIONS: dict[str, Callable[..., np.ndarray]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
    "not": np.logical_not,
    "and": np.logical_and,
    "or": np.logical_or,
}


def _combined(name: str, operands: list[Column]) -> Column:
    values = [operand.values for operand in operands]
    are_defined = all(operand.is_defined for operand in operands)
    if name in _BATCH:
        result = _BATCH[name](*[value * 1.0 for value in values] if _has_bool(values) else values)
        return Column(result, are_defined) if name in _TOTAL else _finite(result)
    if are_defined:
        if name == "if":
            return Column(np.where(np.not_equal(values[0], 0), values[1], values[2]), True)
        return Column(_CONDITIONS[name](*values), True)
    return Column(_where_defined(name, *(np.asarray(value, np.float64) for value in values)), False)


def _has_bool(values: list[Any]) -> bool:
    return any(getattr(value, "dtype", None) == np.bool_ for value in values)


def _where_defined(name: str, first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Operations on conditions, and comparisons, where not all operands are defined."""
    undefined = np.isnan(first)
    if name == "if":
        return np.where(undefined, np.nan, np.where(first != 0, *others))
    if name == "not":
        return np.where(undefined, np.nan, first == 0)
    (second,) = others
    if name in ("and", "or"):
        # The second is not looked at where the first decides.
        other = np.where(np.isnan(second), np.nan, second != 0)
        decided = first == 0 if name == "and" else first != 0
        return np.where(undefined, np.nan, np.where(decided, name == "or", other))
    return np.where(undefined | np.isnan(second), np.nan, _CONDITIONS[name](first, second))


def _finite(values: np.ndarray) -> Column:
    """What is not finite is undefined, as it is in one state."""
    if math.isfinite(values @ values):  # the quickest test; it errs where numbers are huge
        return Column(values, True)
    finite = np.isfinite(values)
    return Column(np.where(finite, values, np.nan), bool(finite.all()))
