"""Rules: advice for every state, from one answer of a model."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces

from sb3_varl.advice.types import (
    ActionComponent,
    Observation,
    TaskSheet,
)
from sb3_varl.advice.validation import as_dtype
from sb3_varl.arguments import ArgumentError
from sb3_varl.redaction import example_of
from sb3_varl.rules.expressions import ExpressionError, Translator, Value
from sb3_varl.rules.graph import Column, Graph, Node, TooDeep, Undefined
from sb3_varl.rules.names import Names, spell
from sb3_varl.rules.reading import read_answer
from sb3_varl.rules.rule import MAX_RULES, RejectedRule, Rule, readable, rules_of
from sb3_varl.wording import count

_MAX_REJECTED = 100
# Components of an action that are named where their number is wrong.
_MAX_NAMED = 10
# What is said where rules that look back were asked about states without the step before.
LOOKS_BACK = "Rules with velocity() say nothing of single states, whose step before is not known; whole episodes tell."

# What has no value in a state whose numbers are not all finite.
_NOT_FINITE = "the observation"

Result = TypeVar("Result")


class Decision(NamedTuple):
    """
    What rules say of a state.

    :param rule: Index of the first rule that holds, or ``None``
    :param action: An action of the action space, inside its bounds, or ``None`` for no advice
    """

    rule: int | None
    action: np.ndarray | None


@dataclass(frozen=True)
class _Compiled:
    when: Node
    action: tuple[Node, ...] | None


class Rules:
    """
    Ordered rules over the named numbers of an observation. In each state the first whose condition holds gives the
    action. Where none holds there is no advice, and neither is there where an expression has no value, by a division by
    zero for instance.

    They are data: their text is never executed. Make them with :meth:`parse`.

    :param rules: The rules, in order
    :param sheet: The environment's task sheet, which has the names
    :param observation_space: The environment's observation space
    :param action_space: The environment's action space
    :param rejected: What was rejected before
    :raises ArgumentError: if the task sheet has no names, or such as cannot be told apart, or is of another environment
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        sheet: TaskSheet | None,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        rejected: Sequence[RejectedRule] = (),
    ) -> None:
        _check_arguments(sheet, action_space)
        self.sheet = sheet
        self.observation_space = observation_space
        self.action_space = action_space
        self.names = Names(sheet, observation_space)
        self._low, self._high = (
            [_inside(bound, action_space) for bound in bounds.ravel().tolist()]
            for bounds in (action_space.low, action_space.high)
        )
        self._components = [spell(component.name) for component in _components(sheet, action_space)]
        # Of each rule, in how many states an expression had no value.
        self.undefined: Counter[str] = Counter()
        self._graph = Graph(self.names.n_numbers)
        later = frozenset(name for rule in rules for name, _ in rule.let)
        translator = Translator(self._graph, self.names.variables, later)
        kept: list[Rule] = []
        self._compiled: list[_Compiled] = []
        lost, let = list(rejected), list[tuple[str, str]]()
        for i, rule in enumerate(rules):
            if i >= MAX_RULES:
                lost.append(
                    RejectedRule(rule.name, "too_long", f"expected at most {MAX_RULES} rules, this is one more")
                )
                break
            for name, text in rule.let:
                if _attempt(lost, f"{rule.name}, let {name}", translator.define, name, text) is not None:
                    let.append((name, text))
            faults = list[RejectedRule]()
            compiled = self._compile(translator, rule, faults)
            lost += dict.fromkeys(faults)  # a name that there is not may be in several components
            if compiled is not None:
                # What was defined in a rule that is lost, others may use.
                kept.append(dataclasses.replace(rule, let=tuple(let)))
                self._compiled.append(compiled)
                let = []
        self.rules: tuple[Rule, ...] = tuple(kept)
        if len(lost) > _MAX_REJECTED:
            text = f"{len(lost) - _MAX_REJECTED} more cannot be used. Write fewer rules and definitions"
            lost[_MAX_REJECTED:] = [RejectedRule("the answer", "too_long", text)]
        self.rejected: tuple[RejectedRule, ...] = tuple(
            dataclasses.replace(each, name=readable(each.name), text=readable(each.text)) for each in lost
        )

    @classmethod
    def parse(
        cls, text: str, sheet: TaskSheet | None, observation_space: spaces.Space, action_space: spaces.Box
    ) -> "Rules":
        """
        Read a model's answer, rule by rule, so that a bad one does not cost the others.

        :param text: The model's words: JSON with a list of ``rules``, each with ``name``, ``when`` and ``action``, and
            perhaps ``let``; prose and fences around it do not matter, and slightly broken JSON is repaired
        :param sheet: The environment's task sheet, which has the names
        :param observation_space: The environment's observation space
        :param action_space: The environment's action space
        :return: The rules that can be used, perhaps none, and in ``rejected`` the others
        :raises ArgumentError: if the task sheet has no names, or such as cannot be told apart, or is of another
            environment
        """
        if not isinstance(text, str):
            raise ArgumentError(f"The answer is {example_of(text)}, expected a text with rules in it.")
        _check_arguments(sheet, action_space)
        raw = read_answer(text)
        rejected = [RejectedRule("the answer", reason, explanation) for reason, explanation in raw.faults]
        components = [component.name for component in _components(sheet, action_space)]
        rules = list(rules_of(raw, components, rejected))
        return cls(rules, sheet, observation_space, action_space, rejected)

    def __len__(self) -> int:
        return len(self.rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self._source[:-1] == other._source[:-1]

    def __hash__(self) -> int:
        return hash(self.rules)

    @property
    def _source(self) -> tuple[Any, ...]:
        return self.rules, self.sheet, self.observation_space, self.action_space, self.rejected

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._source

    @property
    def idle(self) -> list[str]:
        """Of each rule that can decide in no state, its name, and why and what to do."""
        idle, always = list[str](), ""
        for rule, compiled in zip(self.rules, self._compiled, strict=True):
            holds = self._graph.constant_value(compiled.when)
            if holds == 0:
                idle.append(f"{rule.name}: {rule.when} holds in no state. Have it compare numbers of the observation")
            elif always:
                idle.append(f"{rule.name}: it comes after {always}, which always holds. Put it before that one")
            elif holds is not None:
                always = rule.name
        return idle

    @property
    def looks_back(self) -> bool:
        """Whether any of it is about the step before, so that single states tell too little."""
        return re.search(r"\bvelocity\s*\(", self.text) is not None

    @property
    def text(self) -> str:
        """The rules as JSON, as a model would write them."""
        items = []
        for rule in self.rules:
            item: dict[str, Any] = {"name": rule.name, "when": rule.when}
            if len(dict(rule.let)) < len(rule.let):  # names that are defined again
                item["let"] = [f"{name} = {text}" for name, text in rule.let]
            elif rule.let:
                item["let"] = dict(rule.let)
            items.append({**item, "action": None if rule.action is None else list(rule.action)})
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        return f'{{"rules": [\n{lines}\n]}}'

    def __call__(self, observation: Observation, previous: Observation | None = None) -> np.ndarray | None:
        """
        Advise in a state.

        :param observation: The original observation
        :param previous: The one before, for ``velocity``, or ``None`` if it is not known
        :return: An action of the action space, inside its bounds, or ``None`` for no advice
        :raises ValueError: if the observation is of another space
        """
        return self.decide(observation, previous).action

    def which(self, observation: Observation, previous: Observation | None = None) -> int | None:
        """
        Say which rule it is.

        :param observation: The original observation
        :param previous: The one before, or ``None`` if it is not known
        :return: The index, in ``rules``, of the first rule that holds, or ``None``
        """
        return self.decide(observation, previous).rule

    def decide(self, observation: Observation, previous: Observation | None = None) -> Decision:
        """
        Advise in a state, and say by which rule.

        :param observation: The original observation
        :param previous: The one before, or ``None`` if it is not known
        :return: The rule and the action
        :raises ValueError: if the observation is of another space
        """
        graph, names = self._graph, self.names
        before = None if previous is None else names.numbers(previous).tolist()
        numbers = names.numbers(observation)
        if not np.isfinite(numbers).all():
            self.undefined[_NOT_FINITE] += 1
            return Decision(None, None)
        values = graph.values(numbers.tolist(), before)
        i = 0
        try:
            for i, rule in enumerate(self._compiled):
                if graph.evaluate(rule.when, values):
                    if rule.action is None:
                        return Decision(i, None)
                    return Decision(i, self._action([graph.evaluate(node, values) for node in rule.action]))
        except Undefined:
            self.undefined[self.rules[i].name] += 1
        return Decision(None, None)

    def action_of(self, rule: int, observation: Observation, previous: Observation | None = None) -> np.ndarray | None:
        """
        Say what a rule would advise, whether or not it holds.

        :param rule: Its index in ``rules``
        :param observation: The original observation
        :param previous: The one before, or ``None`` if it is not known
        :return: An action of the action space, inside its bounds, or ``None`` for no advice
        :raises ValueError: if the observation is of another space
        """
        graph, names, action = self._graph, self.names, self._compiled[rule].action
        before = None if previous is None else names.numbers(previous).tolist()
        values = graph.values(names.numbers(observation).tolist(), before)
        try:
            return None if action is None else self._action([graph.evaluate(node, values) for node in action])
        except Undefined:
            return None

    def batch(self, observations: Observation, previous: Observation | None = None) -> tuple[np.ndarray, np.ndarray]:
        """
        Advise in many states at once.

        :param observations: Original observations, ``(n, d)``, or a dictionary of such
        :param previous: Those before, or ``None`` if they are not known
        :return: Actions, ``(n, *action_space.shape)`` in float64, NaN where there is none; and the index of the rule in
            each state, -1 for none
        :raises ValueError: if the observations are of another space
        """
        graph = self._graph
        known_numbers = [self.names.batch(part) for part in (observations, previous) if part is not None]
        numbers = np.ascontiguousarray(np.concatenate(known_numbers, axis=1).T)
        n = numbers.shape[1]
        size = int(np.prod(self.action_space.shape))
        actions, which = np.full((n, size), np.nan), np.full(n, -1)
        undecided, known = np.isfinite(known_numbers[0]).all(axis=1), dict[Node, Column]()
        self.undefined[_NOT_FINITE] += n - int(undecided.sum())
        with np.errstate(all="ignore"):
            for i, (rule, compiled) in enumerate(zip(self.rules, self._compiled, strict=True)):
                condition = graph.evaluate_batch(compiled.when, numbers, known)
                holds = undecided & np.not_equal(condition.values, 0)
                if condition.is_defined:
                    undefined = np.zeros(n, bool)
                else:
                    undefined = undecided & np.isnan(condition.values)
                    holds &= ~undefined
                if compiled.action is not None and holds.any():
                    advised = np.empty((n, size))
                    for component, node in enumerate(compiled.action):
                        advised[:, component] = graph.evaluate_batch(node, numbers, known).values
                    advised = advised[holds]
                    lost = np.isnan(advised).any(axis=1)
                    undefined[holds] |= lost
                    holds[holds] = ~lost
                    actions[holds] = advised[~lost]
                which[holds] = i
                undecided &= ~(holds | undefined)
                self.undefined[rule.name] += int(undefined.sum())
                if not undecided.any():
                    break
        self.undefined = +self.undefined
        is_advised = ~np.isnan(actions).any(axis=1)
        actions[is_advised] = self._actions(actions[is_advised])
        return actions.reshape(n, *self.action_space.shape), which

    def _action(self, numbers: list[float]) -> np.ndarray:
        space = self.action_space
        bounded = [min(max(x, low), high) for x, low, high in zip(numbers, self._low, self._high, strict=True)]
        return as_dtype(np.array(bounded), space).reshape(space.shape)

    def _actions(self, numbers: np.ndarray) -> np.ndarray:
        return as_dtype(np.clip(numbers, self._low, self._high), self.action_space)

    def _compile(self, translator: Translator, rule: Rule, faults: list[RejectedRule]) -> _Compiled | None:
        """All that is wrong with it is told at once, so that one answer can mend it."""
        when = _attempt(faults, rule.name, translator.condition, rule.when)
        parts = [_attempt(faults, rule.name, translator.vector, text) for text in rule.action or ()]
        if when is None or None in parts:
            return None
        if rule.action is None:
            return _Compiled(when, None)
        action = _attempt(faults, rule.name, self._one_for_each, parts)
        return None if action is None else _Compiled(when, action)

    def _one_for_each(self, parts: Sequence[Value]) -> tuple[Node, ...]:
        nodes = tuple(node for part in parts for node in _nodes(part))
        n = int(np.prod(self.action_space.shape))
        if len(nodes) != n:
            names = f": {', '.join(self._components)}" if n <= _MAX_NAMED else ""
            given = f"its action has {count(len(nodes), 'component')}"
            raise ExpressionError("wrong_shape", f"{given}, expected {n}{names}")
        return nodes


def _check_arguments(sheet: Any, action_space: Any) -> None:
    if not isinstance(action_space, spaces.Box):
        raise ArgumentError(f"Rules give actions of numbers, a Box, but the action space is {action_space}.")
    if sheet is not None and not isinstance(sheet, TaskSheet):
        raise ArgumentError(f"The sheet is {example_of(sheet)}, expected a sb3_varl.TaskSheet or None.")


def _inside(bound: float, space: spaces.Box) -> float:
    """A bound as Python computes with it: of a space without bounds what its numbers can be, and never beyond."""
    dtype: Any = space.dtype
    nearest = float(bound)
    if np.issubdtype(dtype, np.floating):
        largest = float(np.finfo(dtype).max)
        return min(max(nearest, -largest), largest)
    return float(np.nextafter(nearest, 0.0)) if abs(int(nearest)) > abs(int(bound)) else nearest


def _components(sheet: TaskSheet | None, space: spaces.Box) -> list[ActionComponent]:
    n = int(np.prod(space.shape))
    named = list(sheet.action) if sheet is not None else []
    if named and len(named) != n:
        raise ArgumentError(
            f"The task sheet names {len(named)} action components, but the action space has {n}. "
            "Name all of them in order, or none."
        )
    return named or [ActionComponent(f"action[{i}]") for i in range(n)]


def _nodes(value: Value) -> list[Node]:
    return value if isinstance(value, list) else [value]


def _attempt(lost: list[RejectedRule], name: str, function: Callable[..., Result], *args: Any) -> Result | None:
    try:
        return function(*args)
    except ExpressionError as error:
        lost.append(RejectedRule(name, error.reason, str(error)))
    except (TooDeep, RecursionError):
        lost.append(RejectedRule(name, "too_deep", "too much depends on one another. Define less with let"))
    return None
