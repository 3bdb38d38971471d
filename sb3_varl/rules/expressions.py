"""
The language of rules: arithmetic and comparisons over named numbers.

Text is parsed with Python's ``ast`` and translated, node by node of a short list, into a :class:`Graph`; nothing of it
is ever executed as Python. Vectors have a length that is known beforehand, and are taken apart into their components.
"""

import ast
import keyword
import math
import re
import unicodedata
from collections.abc import Callable, Sequence

from sb3_varl.rules.graph import MAX_NODES, Graph, Node, TooDeep, TooMany, Undefined
from sb3_varl.rules.names import Variable, spell

# Names that a message lists.
_MAX_SHOWN = 30
# Of one expression: its length in characters, and how deep it may be nested.
MAX_LENGTH = 4000
MAX_DEPTH = 100
MAX_LIST = 1000
# What a power may be, so that it costs no more than as many products.
_MAX_EXPONENT = 8
_MAX_DIGITS = 40
_LONG_NUMBER = re.compile(rf"\d{{{_MAX_DIGITS},}}")
# What models write for signs that a keyboard has.
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "≤": "<=", "≥": ">=", "≠": "!=", "^": "**"})  # noqa: RUF001
_ANDS, _ORS, _NOTS = re.compile(r"&&|\bAND\b"), re.compile(r"\|\||\bOR\b"), re.compile(r"\bNOT\b")

FUNCTIONS = (
    "abs",
    "sign",
    "min",
    "max",
    "clip",
    "sqrt",
    "sin",
    "cos",
    "atan2",
    "norm",
    "distance",
    "dot",
    "velocity",
)

_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_UNARY: dict[str, str] = {"abs": "abs", "sqrt": "sqrt", "sin": "sin", "cos": "cos"}

# A number is a node of the graph, a vector is a list of them.
Value = Node | list[Node]


class ExpressionError(ValueError):
    """
    What is wrong with an expression.

    :param reason: A short slug that serves as a counter's name
    :param text: What was given, what was expected, and what to do
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Translator:
    """
    Translates expressions into a graph.

    :param graph: The graph
    :param variables: What names stand for
    :param later: Names that will be defined
    """

    def __init__(self, graph: Graph, variables: dict[str, Variable], later: frozenset[str] = frozenset()) -> None:
        self._graph = graph
        self._variables = variables
        self._definitions: dict[str, Value] = {}
        self._lost = set[str]()
        self._later = later
        self._depth = 0

    def define(self, name: str, text: object) -> Value:
        """
        Give a name to an expression, for those that come later.

        :param name: The name
        :param text: The expression
        :return: Its node or nodes
        :raises ExpressionError: if either cannot be used; the name is then known as one that was lost
        """
        name = unicodedata.normalize("NFKC", name)  # as Python reads it elsewhere
        if name in self._variables:
            raise ExpressionError("name_taken", f"{name} is already a name of the observation. Take another one")
        if not name.isidentifier() or keyword.iskeyword(name) or name.lower() in ("true", "false"):
            raise ExpressionError("bad_name", f"{_short(repr(name))} is no name. Take letters, digits and underscores")
        try:
            value = self.vector(text)
        except (ExpressionError, TooDeep):
            self._definitions.pop(name, None)
            self._lost.add(name)
            raise
        self._definitions[name] = value
        self._lost.discard(name)
        return value

    def condition(self, text: object) -> Node:
        """
        Translate an expression that holds or does not.

        :param text: The expression
        :return: Its node
        :raises ExpressionError: if it cannot be used
        """
        return _one(self._translated(text), "a condition")

    def vector(self, text: object) -> Value:
        """
        Translate an expression for one number or for several.

        :param text: The expression
        :return: Its node or nodes
        :raises ExpressionError: if it cannot be used
        """
        return self._translated(text)

    def _translated(self, text: object) -> Value:
        try:
            return self._value(_parsed(text))
        except Undefined as error:
            raise ExpressionError("undefined", f"{error}, in every state") from None
        except TooMany:
            text = f"the rules come to more than {MAX_NODES} operations. Shorten them"
            raise ExpressionError("too_long", text) from None
        except RecursionError:
            raise _too_deep() from None

    def _value(self, node: ast.expr) -> Value:
        if self._depth >= MAX_DEPTH:
            raise _too_deep()
        self._depth += 1
        try:
            value = self._translate(node)
        finally:
            self._depth -= 1
        if value == []:
            raise ExpressionError("no_expression", f"{_shown(node)} is an empty list, expected at least one number")
        if isinstance(value, list) and len(value) > MAX_LIST:
            raise ExpressionError("too_long", f"a list has {len(value)} numbers, expected at most {MAX_LIST}")
        return value

    def _translate(self, node: ast.expr) -> Value:
        graph = self._graph
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                return graph.constant(_finite(value))
            case ast.Name(id=name):
                return self._named(name)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [part for element in elements for part in self._flat(element)]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _each(lambda a: graph.apply("neg", a), self._value(operand))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._value(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return graph.apply("not", self._condition(operand))
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return self._power(left, right)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
                name = _OPERATORS[type(operator)]
                return _pairwise(name, lambda a, b: graph.apply(name, a, b), self._value(left), self._value(right))
            case ast.Compare(left=left, ops=operators, comparators=comparators):
                return self._comparison([left, *comparators], operators)
            case ast.BoolOp(op=operator, values=values):
                name = "and" if isinstance(operator, ast.And) else "or"
                return graph.chain(name, [self._condition(value) for value in values])
            case ast.IfExp(test=test, body=body, orelse=other):
                condition = self._condition(test)
                return _pairwise(
                    "if", lambda a, b: graph.apply("if", condition, a, b), self._value(body), self._value(other)
                )
            case ast.Subscript(value=value, slice=index):
                return self._item(value, index)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments)
            case ast.Call():
                raise ExpressionError(
                    "unknown_function",
                    f"{_shown(node)} is no call that there is. Call one of {_functions()}, with expressions only",
                )
        raise ExpressionError(
            "not_allowed",
            f"{_shown(node)} is not part of the language ({type(node).__name__}). Write it with numbers, names, "
            f"+ - * /, comparisons, and, or, not, if, lists and {_functions()}",
        )

    def _named(self, name: str) -> Value:
        if name.lower() in ("true", "false"):
            return self._graph.constant(float(name.lower() == "true"))
        if name in self._definitions:
            value = self._definitions[name]
            return list(value) if isinstance(value, list) else value
        variable = self._variable(name)
        if variable is not None:
            nodes = [self._graph.number(place) for place in variable.places]
            return nodes[0] if len(nodes) == 1 else nodes
        if name in ("pi", "π"):
            return self._graph.constant(math.pi)
        if name.lower() in ("nan", "inf", "infinity"):
            text = f'{name} is no number to act on. Write one, or "action": null for no advice'
            raise ExpressionError("undefined", text)
        if name in self._lost:
            raise ExpressionError("unknown_name", f"{name} is defined by an expression that cannot be used")
        if name in self._later:
            raise ExpressionError(
                "unknown_name", f"{name} is defined by itself, or only further down. Define it before it is used"
            )
        known = [*self._variables, *self._definitions]
        names = ", ".join(known[:_MAX_SHOWN]) + (", ..." if len(known) > _MAX_SHOWN else "")
        raise ExpressionError("unknown_name", f"there is no {_short(name)}, only {names}. Take one of them")

    def _variable(self, name: str) -> Variable | None:
        """What stands for numbers of the observation, perhaps not spelt as it should be."""
        if name in self._variables or name in self._definitions:
            return self._variables.get(name)
        return self._variables.get(spell(name))

    def _flat(self, node: ast.expr) -> list[Node]:
        value = self._value(node)
        return value if isinstance(value, list) else [value]

    def _condition(self, node: ast.expr) -> Node:
        return _one(self._value(node), "a condition")

    def _power(self, base: ast.expr, exponent: ast.expr) -> Value:
        match exponent:
            case ast.Constant(value=int() | float() as n) if n in range(1, _MAX_EXPONENT + 1):
                value = self._value(base)
                return _each(lambda a: self._graph.chain("*", [a] * int(n)), value)
            case ast.Constant(value=float() as n) if n == 0.5:
                return _each(lambda a: self._graph.apply("sqrt", a), self._value(base))
        raise ExpressionError(
            "not_allowed",
            f"the power {_shown(exponent)} is none of 1 to {_MAX_EXPONENT}. Write a product, or sqrt(x)",
        )

    def _comparison(self, operands: list[ast.expr], operators: list[ast.cmpop]) -> Node:
        for operator in operators:
            if type(operator) not in _COMPARISONS:
                raise ExpressionError(
                    "not_allowed", f"{type(operator).__name__} is not part of the language. Compare by < <= > >= == !="
                )
        values = [_one(self._value(operand), _shown(operand)) for operand in operands]
        links = [
            self._graph.apply(_COMPARISONS[type(operator)], left, right)
            for operator, left, right in zip(operators, values, values[1:], strict=False)
        ]
        return self._graph.chain("and", links)

    def _item(self, node: ast.expr, index: ast.expr) -> Value:
        value = self._value(node)
        if not isinstance(value, list):
            raise ExpressionError("no_vector", f"{_shown(node)} is one number, and has no entries")
        match index:
            case ast.Slice(lower=lower, upper=upper, step=None):
                part = value[_index(lower) : _index(upper)]
                if part:
                    return part
            case _:
                i = _index(index)
                if i is not None and -len(value) <= i < len(value):
                    return value[i]
        raise ExpressionError(
            "bad_index", f"{_shown(node)} has the entries 0 to {len(value) - 1}, and not [{_shown(index)}]"
        )

    def _call(self, name: str, arguments: Sequence[ast.expr]) -> Value:
        if name not in FUNCTIONS:
            raise ExpressionError("unknown_function", f"there is no function {name}, only {_functions()}")
        graph = self._graph
        if name == "velocity":
            return self._velocity(arguments)
        values = [self._value(argument) for argument in arguments]
        match name, values:
            case (("abs" | "sqrt" | "sin" | "cos"), [x]):
                return _each(lambda a: graph.apply(_UNARY[name], a), x)
            case "sign", [x]:
                zero = graph.constant(0.0)
                return _each(lambda a: graph.apply("-", graph.apply(">", a, zero), graph.apply("<", a, zero)), x)
            case (("min" | "max"), [list() as x]):
                return graph.chain(name, x)
            case (("min" | "max"), [first, *rest]) if rest:
                result = first
                for value in rest:
                    result = _pairwise(name, lambda a, b: graph.apply(name, a, b), result, value)
                return result
            case "clip", [x, low, high]:
                above = _pairwise("clip", lambda a, b: graph.apply("max", a, b), x, low)
                return _pairwise("clip", lambda a, b: graph.apply("min", a, b), above, high)
            case "atan2", [y, x]:
                return _pairwise("atan2", lambda a, b: graph.apply("atan2", a, b), y, x)
            case "norm", [x]:
                return graph.apply("norm", *_as_list(x))
            case "distance", [a, b] if len(_as_list(a)) == len(_as_list(b)):
                differences = [graph.apply("-", *pair) for pair in zip(_as_list(a), _as_list(b), strict=True)]
                return graph.apply("norm", *differences)
            case "dot", [a, b] if len(_as_list(a)) == len(_as_list(b)):
                products = [graph.apply("*", *pair) for pair in zip(_as_list(a), _as_list(b), strict=True)]
                return graph.chain("+", products)
        lengths = ", ".join(f"a list of {len(value)}" if isinstance(value, list) else "a number" for value in values)
        raise ExpressionError("wrong_arguments", f"{name}({lengths or 'nothing'}) cannot be: expected {_USE[name]}")

    def _velocity(self, arguments: Sequence[ast.expr]) -> Value:
        match arguments:
            case [ast.Name(id=name)] if (variable := self._variable(name)) is not None:
                graph = self._graph
                now = [graph.number(place) for place in variable.places]
                before = (
                    [graph.number(place) for place in variable.before]
                    if variable.before
                    else [graph.number_before(place) for place in variable.places]
                )
                change = [graph.apply("-", *pair) for pair in zip(now, before, strict=True)]
                return change[0] if len(change) == 1 else change
        raise ExpressionError(
            "wrong_arguments", f"velocity takes one name of the observation, not {', '.join(map(_shown, arguments))}"
        )


_USE = {
    "abs": "abs(x)",
    "sign": "sign(x)",
    "sqrt": "sqrt(x)",
    "sin": "sin(x)",
    "cos": "cos(x)",
    "min": "min(a, b, ...) or min(list)",
    "max": "max(a, b, ...) or max(list)",
    "clip": "clip(x, low, high)",
    "atan2": "atan2(y, x)",
    "norm": "norm(list)",
    "distance": "distance(a, b) of two lists of equal length",
    "dot": "dot(a, b) of two lists of equal length",
}


def _parsed(text: object) -> ast.expr:
    if isinstance(text, bool | int | float):
        text = repr(float(text))
    if not isinstance(text, str) or not text.strip():
        raise ExpressionError("no_expression", f"{_short(repr(text))} is no expression. Write it as text")
    if len(text) > MAX_LENGTH and not _LONG_NUMBER.search(text):
        raise ExpressionError(
            "too_long",
            f"an expression has {len(text)} characters, expected at most {MAX_LENGTH}. Define parts with let",
        )
    if _LONG_NUMBER.search(text):
        raise ExpressionError(
            "too_long",
            f"a number has more than {_MAX_DIGITS - 1} digits in a row. Write it shorter, as 1e5 for instance",
        )
    text = " ".join(text.split()).translate(_SIGNS)
    text = _NOTS.sub(" not ", _ORS.sub(" or ", _ANDS.sub(" and ", text))).strip()
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        where = _short(text[max(0, (error.offset or 1) - 15) :])
        text = f"{error.msg}, at {where!r}. Write it with numbers, names, + - * /, comparisons and parentheses"
        raise ExpressionError("not_readable", text) from None
    except (MemoryError, RecursionError):
        raise _too_deep() from None
    except ValueError as error:  # of characters that are none
        raise ExpressionError("not_readable", f"{_short(repr(text))} cannot be read: {error}") from None


def _too_deep() -> ExpressionError:
    return ExpressionError("too_deep", f"an expression is nested more than {MAX_DEPTH} deep. Define parts with let")


def _one(value: Value, what: str) -> Node:
    nodes = _as_list(value)
    if len(nodes) != 1:
        raise ExpressionError(
            "not_a_number",
            f"{what} is a list of {len(nodes)} numbers, expected one. Take an entry, norm(...), min or max",
        )
    return nodes[0]


def _finite(value: bool | int | float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ExpressionError("undefined", "a number is too large. Write one below 1e308")
    return number


def _index(node: ast.expr | None) -> int | None:
    match node:
        case ast.Constant(value=int() as i) if not isinstance(i, bool):
            return i
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as i)):
            return -i
        case None:
            return None
    raise ExpressionError("bad_index", f"[{_shown(node)}] is no number, expected one such as [0]")


def _as_list(value: Value) -> list[Node]:
    return value if isinstance(value, list) else [value]


def _each(function: Callable[[Node], Node], value: Value) -> Value:
    return [function(part) for part in value] if isinstance(value, list) else function(value)


def _pairwise(name: str, function: Callable[[Node, Node], Node], left: Value, right: Value) -> Value:
    if not isinstance(left, list) and not isinstance(right, list):
        return function(left, right)
    lefts, rights = _as_list(left), _as_list(right)
    n = max(len(lefts), len(rights))
    if len(lefts) not in (1, n) or len(rights) not in (1, n):
        raise ExpressionError(
            "wrong_length", f"{name} is between lists of {len(lefts)} and {len(rights)} numbers, expected equal lengths"
        )
    lefts, rights = lefts * (n // len(lefts)), rights * (n // len(rights))
    return [function(a, b) for a, b in zip(lefts, rights, strict=True)]


def _functions() -> str:
    return ", ".join(FUNCTIONS)


def _shown(node: ast.AST) -> str:
    try:
        return _short(ast.unparse(node))
    except (RecursionError, ValueError):
        return type(node).__name__


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
