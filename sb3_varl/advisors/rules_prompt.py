"""How a model is asked for rules: the language on half a page, with an example, and a few states that differ."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sb3_varl.advice.sheets import action_names, as_data
from sb3_varl.advice.types import Briefing, Followed, VisitedState
from sb3_varl.rules import Rules
from sb3_varl.rules.description import Part, describe, unusable
from sb3_varl.rules.names import Names, Variable

# States that are shown, at most.
N_STATES = 5
# Longer lists are not written out.
_MAX_NUMBERS = 100
# Of the largest number of a list.
_NEGLIGIBLE = 1e-6

INTRODUCTION = (
    "You advise a reinforcement learning agent. You are shown a few states that it visited, and the action that it "
    "executed in each, which may have been good or bad. Instead of answering for each state, write down rules from "
    "which the right action for ANY state follows, so that the task is solved if they are followed from the beginning "
    "of an episode to its end."
)

_LANGUAGE = """\
Answer with one JSON object and nothing else:
{{"plan": "a few sentences", "rules": [{{"name": "a few words", "when": "<condition>", "action": [{entries}]}}, ...]}}
- In each state the first rule whose condition holds gives the action; where none holds there is no advice. \
Rules have no memory: they see the present state only. So order them from the last phase of the task to the first, and \
tell the phases apart by the numbers.
- "action" has one expression for each component of the action{components}. An expression that is a list stands for as \
many components. Results are clipped to the action's bounds.
- Expressions have numbers; the names above (of a list, name[0] is the first entry and name[0:2] are the first two); \
+ - * /; < <= > >= == !=; and, or, not; "a if condition else b"; lists such as [0, 0.1, name[2]]; parentheses. \
Arithmetic with lists goes entry by entry, and a number goes with every entry.
- The functions are abs(x), min(a, b, ...), max(a, b, ...), clip(x, low, high), sqrt(x), sin(x), cos(x), atan2(y, x), \
which take lists entry by entry, and of lists norm(a), distance(a, b), dot(a, b), min(a), max(a). velocity(name) is \
{velocity}. "true" is a condition that always holds.
- A rule may have "let": {{"<name>": "<expression>", ...}}, which defines names for numbers, lists or conditions, for \
itself and for all rules after it, and for what follows in the same "let".
- Where an expression has no value, by a division by zero for instance, there is no advice."""

_EXAMPLE = """\
For example, for a crane (trolley: its place on the rail in metres; hook: x, z; load: x, z; ship: x, z; hook_force: 1 \
when it carries something; action: speed along the rail, speed of the rope, magnet on or off), rules may be
{"plan": "Go above the load with the magnet off, lower the hook, switch the magnet on, lift, and carry. The load hangs \
if the hook is at it and pulls.", "rules": [
{"name": "load hangs high enough: carry it to the ship, slower when it swings", "let": {"gap": "load - hook", "hangs": \
"norm(gap) < 0.3 and hook_force > 0.5"}, "when": "hangs and load[1] > ship[1] + 1", "action": ["clip(2 * (ship[0] - \
load[0]) - 5 * velocity(load)[0], -1, 1)", "0", "1"]},
{"name": "load hangs: lift", "when": "hangs", "action": ["0", "1", "1"]},
{"name": "hook at the load: magnet on", "when": "norm(gap) < 0.2", "action": ["0", "0", "1"]},
{"name": "above the load: lower", "when": "abs(gap[0]) < 0.1", "action": ["clip(2 * gap[0], -1, 1)", "-0.5", "-1"]},
{"name": "go above the load", "when": "true", "action": ["clip(2 * gap[0], -1, 1)", "clip(load[1] + 2 - hook[1], -1, \
1)", "-1"]}]}
Mind that what moves does not stop at once, that a proportional expression such as clip(2 * gap, -1, 1) slows down \
near its target, that a rule must not undo what the one after it brought about, and that every state that the agent \
may blunder into needs a rule that leads back. The agent's policy, a small neural network, has to learn what the rules \
say from some thousand states. It learns actions that change gradually over the space it moves in, and few phases with \
wide margins between them, much sooner than gains so large that the action jumps from bound to bound: prefer the \
smallest gains that solve the task in time."""


_CORRECTION = """\
Find out what went wrong, and answer with a revised list of rules, complete, in the same form; "plan" may say what you \
found. If you would leave them as they are, answer {"keep": true}."""

_MEND = "Answer once more, with the complete list of rules in the same form, so that all of it can be used."


def language(briefing: Briefing) -> str:
    """
    Describe the language of rules.

    :param briefing: The action space and the environment's task sheet
    :return: The text, with an example of another environment
    """
    names = action_names(briefing)
    variables = Names(briefing.sheet, briefing.observation_space).variables.values()
    text = _LANGUAGE.format(
        entries='"<expression>", ...' if len(names) > 1 else '"<expression>"',
        components=f": {', '.join(names)}" if briefing.sheet is not None and briefing.sheet.action else "",
        velocity=_velocity(list(variables)),
    )
    return f"{text}\n\n{_EXAMPLE}"


def _velocity(variables: Sequence[Variable]) -> str:
    past = _past(variables)
    if not past:
        return "by how much a name's numbers have changed since the observation one step earlier, 0 in the first state"
    holders = " and ".join(variable.name for variable in variables if set(variable.places) <= past)
    return f"a name's numbers less what they were a moment before, as {holders or 'the observation'} has it"


def _past(variables: Iterable[Variable]) -> frozenset[int]:
    """Places of numbers that are what others were a moment before."""
    return frozenset(place for variable in variables for place in variable.before)


def correction(followed: Followed) -> list[Part]:
    """
    Show what became of rules, and ask for better ones.

    :param followed: The rules, and the episodes in which they were followed
    :return: What is said, piece by piece, with pictures
    :raises TypeError: if it were no rules that were followed
    """
    if not isinstance(followed.advice, Rules):
        raise TypeError(f"Only rules can be corrected, and {followed.advice!r} are none.")
    remarks = [Part(text) for text in (followed.remark, _CORRECTION) if text]
    return [*describe(followed.advice, followed.episodes), *remarks]


def objection(rules: Rules) -> str:
    """
    Say to a model why none of its rules can be used.

    :param rules: What was made of its answer
    :return: The reasons, and that they are to be mended
    """
    return f"{unusable(rules.rejected)}\n\n{_MEND}"


def names_section(briefing: Briefing) -> str:
    """
    Say what the numbers of an observation are called.

    :param briefing: The observation space and the environment's task sheet
    :return: A line for each name
    :raises ArgumentError: as :class:`~sb3_varl.rules.names.Names`
    """
    names = Names(briefing.sheet, briefing.observation_space)
    lines = ["An observation has these numbers:"]
    past = _past(names.variables.values())
    for variable in names.variables.values():
        n = len(variable.places)
        remarks = [as_data(variable.meaning), "left out of the states below" if set(variable.places) <= past else ""]
        meaning = f" ({'; '.join(filter(None, remarks))})" if any(remarks) else ""
        lines.append(f"- {variable.name}: {'a number' if n == 1 else f'a list of {n} numbers'}{meaning}")
    return "\n".join(lines)


def named_state(index: int, state: VisitedState, names: Names, left_out: frozenset[str]) -> str:
    """
    Put a state into words.

    :param index: Its number
    :param state: The state
    :param names: The names of its numbers
    :param left_out: Names that are not worth their tokens
    :return: A line of JSON
    """
    numbers = names.numbers(state.observation)
    line: dict[str, Any] = {"state": index}
    for variable in names.variables.values():
        if variable.name not in left_out:
            line[variable.name] = _shown(variable, numbers)
    line["executed_action"] = [round_number(x) for x in np.ravel(state.executed_action).tolist()]
    return json.dumps(line, separators=(",", ": "), allow_nan=False)


def not_worth_showing(states: Iterable[VisitedState], names: Names) -> frozenset[str]:
    """
    Find names that say nothing about states: zero in all of them, or what another name was a moment earlier.

    :param states: The states
    :param names: The names of their numbers
    :return: Such names
    """
    numbers = np.stack([names.numbers(state.observation) for state in states])
    past = _past(names.variables.values())
    return frozenset(
        variable.name
        for variable in names.variables.values()
        if set(variable.places) <= past or not numbers[:, variable.places].any()
    )


def pick_different(states: Sequence[VisitedState], names: Names, n: int = N_STATES) -> list[int]:
    """
    Pick states that differ from one another, each time the one that is farthest from all that were picked.

    :param states: The states, at least one
    :param names: The names of their numbers
    :param n: How many to pick
    :return: Their indices, in order
    """
    numbers = np.nan_to_num(np.stack([names.numbers(state.observation) for state in states]), posinf=0, neginf=0)
    spread = numbers.std(axis=0)
    scaled = numbers[:, spread > 0] / spread[spread > 0]
    has_frame = np.array([state.frame is not None for state in states])
    picked = [int(np.argmax(has_frame))]
    distances = np.full(len(states), np.inf)
    while len(picked) < min(n, len(states)):
        distances = np.minimum(distances, np.linalg.norm(scaled - scaled[picked[-1]], axis=1))
        distances[picked] = -1
        picked.append(int(np.argmax(distances)))
    return sorted(picked)


def _shown(variable: Variable, numbers: np.ndarray) -> Any:
    if len(variable.places) > _MAX_NUMBERS:
        return "not written out"
    values = numbers[list(variable.places)]
    # What a simulator's rounding left of a zero is not worth its digits.
    largest = np.abs(values[np.isfinite(values)]).max(initial=0)
    shown = [0 if abs(value) < _NEGLIGIBLE * largest else round_number(value) for value in values.tolist()]
    return shown[0] if len(shown) == 1 else shown


def round_number(value: float) -> Any:
    """
    Write a number as short as it can be understood.

    :param value: The number
    :return: The same with four significant digits, and two decimals where it is larger; text where it is not finite
    """
    value = float(value)
    if not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    rounded = round(value, max(2, 3 - math.floor(math.log10(abs(value))))) if value else 0.0
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded
