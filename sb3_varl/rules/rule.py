"""A rule as a model writes it: from the items of an answer to conditions and expressions that are text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sb3_varl.redaction import example_of
from sb3_varl.rules.expressions import ExpressionError
from sb3_varl.rules.names import spell
from sb3_varl.rules.reading import RawRules, read_answer

# More than anybody reads.
MAX_RULES = 100
_MAX_DEFINITIONS = 1000
_MAX_NAME = 60
_MAX_LIST_DEPTH = 20
# What a rule may have besides a condition.
_KEYS = frozenset(
    {"name", "when", "action", "let", "comment", "reason", "plan", "id", "index", "phase", "description", "note", "why"}
)
# What models call the condition of the last rule.
_ALWAYS = frozenset({"", "always", "else", "otherwise", "default"})


@dataclass(frozen=True)
class Rule:
    """
    Where it holds, and is the first that does, its action is the advice.

    :param name: What it is called
    :param when: Its condition
    :param action: Expressions for the action's components, or ``None`` for no advice
    :param let: Names that it and those after it use, with their expressions
    """

    name: str
    when: str
    action: tuple[str, ...] | None
    let: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RejectedRule:
    """
    A rule that cannot be used, or a definition.

    :param name: What it is called
    :param reason: A short slug that serves as a counter's name, for instance ``"unknown_name"``
    :param text: What was given, what was expected, and what to do, in one line
    """

    name: str
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def outline(text: str) -> list[Rule]:
    """
    Read the rules of an answer to be looked at, whether or not they could be used.

    :param text: A model's words
    :return: The rules
    """
    return list(rules_of(read_answer(text), None, []))


def rules_of(raw: RawRules, components: Sequence[str] | None, rejected: list[RejectedRule]) -> Iterator[Rule]:
    """
    Make rules of an answer's items.

    :param raw: The items
    :param components: Names of the action's components in order, ``None`` where these are only looked at
    :param rejected: Gets what cannot be used
    :return: The rules in order
    """
    let = list[tuple[str, str]]()
    try:
        let = _definitions(raw.let)
    except ExpressionError as error:
        rejected.append(RejectedRule("let", error.reason, str(error)))
    for i, item in enumerate(raw.items[: MAX_RULES + 1]):
        name = f"rule {i + 1}"
        if not isinstance(item, dict):
            text = f"{example_of(item)} is no rule. Write an object with name, when and action"
            rejected.append(RejectedRule(name, "malformed_item", text))
            continue
        if item.get("name"):
            name = example_of(readable(" ".join(str(item["name"]).split())))
        item = _usual_keys(item)
        try:
            let += _definitions(item.get("let"))
        except ExpressionError as error:
            rejected.append(RejectedRule(f"{name}, let", error.reason, str(error)))
        if "when" not in item and "action" not in item and "let" in item:
            continue
        try:
            if "action" not in item:
                raise ExpressionError(
                    "wrong_shape", "it has no action. Write a list with an expression for each component"
                )
            if "when" not in item and (others := sorted(item.keys() - _KEYS)):
                raise ExpressionError(
                    "no_condition", f"it has no when, but {', '.join(others)}. Write its condition as when"
                )
            rule = Rule(name, _condition(item.get("when")), _action(item["action"], components), tuple(let))
        except ExpressionError as error:
            rejected.append(RejectedRule(name, error.reason, str(error)))
            continue
        let = []
        yield rule


def _usual_keys(item: dict[Any, Any]) -> dict[str, Any]:
    """A rule whose keys are in lower case, and whose condition is called when."""
    usual = {str(key).strip().lower(): value for key, value in item.items()}
    for other in ("condition", "if"):
        if "when" not in usual and other in usual:
            usual["when"] = usual.pop(other)
    return usual


def _condition(when: Any) -> str:
    if isinstance(when, bool | None):
        return "false" if when is False else "true"
    if isinstance(when, int | float):
        return repr(when)
    if isinstance(when, list) and when and all(isinstance(part, str) for part in when):
        return " and ".join(f"({' '.join(part.split())})" for part in when)
    if not isinstance(when, str):
        raise ExpressionError("not_readable", f"its condition is {example_of(when)}, expected text")
    return "true" if when.strip().lower() in _ALWAYS else " ".join(when.split())


def _action(action: Any, components: Sequence[str] | None) -> tuple[str, ...] | None:
    if action is None:
        return None
    if isinstance(action, dict) and components is None:
        return tuple(f"{name}: {_text(value)}" for name, value in action.items())
    if isinstance(action, dict) and components is not None:
        given = {spell(str(name)): value for name, value in action.items()}
        if len(given) < len(action):
            raise ExpressionError(
                "wrong_shape",
                f"the names of its action's components are alike, as they are spelt: {', '.join(given)}. Write a list",
            )
        if set(given) != {spell(name) for name in components}:
            raise ExpressionError(
                "wrong_shape", f"its action has the components {', '.join(given)}, expected {', '.join(components)}"
            )
        action = [given[spell(name)] for name in components]
    return tuple(_text(part) for part in (action if isinstance(action, list) else [action]))


def _definitions(let: Any) -> list[tuple[str, str]]:
    if let is None:
        return []
    if isinstance(let, dict):
        given = [(str(name), text) for name, text in let.items()]
    else:
        lines = [str(line).partition("=") for line in (let if isinstance(let, list) else [let])]
        given = [(name, text) for name, _, text in lines]
    if len(given) > _MAX_DEFINITIONS:
        raise ExpressionError("too_long", f"it defines {len(given)} names, expected at most {_MAX_DEFINITIONS}")
    if any(len(name) > _MAX_NAME for name, _ in given):
        raise ExpressionError("too_long", f"it defines a name of more than {_MAX_NAME} characters")
    return [(name.strip(), _text(text)) for name, text in given]


def readable(text: str) -> str:
    """
    Mend a text that cannot be sent or written.

    :param text: The text
    :return: The same with a question mark for each half of a character
    """
    return text.encode(errors="replace").decode()


def _text(expression: Any, depth: int = 0) -> str:
    if depth > _MAX_LIST_DEPTH:
        raise ExpressionError("too_deep", f"lists are nested more than {_MAX_LIST_DEPTH} deep")
    if isinstance(expression, list):
        return f"[{', '.join(_text(part, depth + 1) for part in expression)}]"
    if isinstance(expression, str):
        return " ".join(expression.split())
    return repr(expression)
