"""What became of rules, in words and tables, for the model that is to correct them."""

import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sb3_varl.advice.types import Episode
from sb3_varl.rules.names import Names, Variable
from sb3_varl.rules.rule import RejectedRule
from sb3_varl.rules.rules import Rules
from sb3_varl.wording import count

# Rows of a table, at most, among them the changes of rule; characters of it, about; numbers of a name that it has.
MAX_ROWS, _MIN_ROWS = 30, 3
# A step so near the line between two rows is left out, as a share of what a name's numbers come to differ by.
_NEAR = 0.01
MAX_TABLE = 20_000
_MAX_NUMBERS = 100
_CHARACTERS_OF_A_NUMBER = 8
# What is shown as 0: a number so small, if it is so small a share of its name's largest; and nothing in any unit.
_SMALL, _NEGLIGIBLE, _NOTHING = 5e-5, 1e-3, 1e-9
# Pictures of an episode.
MAX_PICTURES = 4
_NO_RULE = "none"
# Of what could not be used, and characters of each.
_MAX_REJECTED = 20
_MAX_REASON = 300


class Part(NamedTuple):
    """
    A piece of a description.

    :param text: The text
    :param frames: Pictures that go with it, by their step
    """

    text: str
    frames: dict[int, np.ndarray] = {}  # noqa: RUF012


def describe(rules: Rules, episodes: Sequence[Episode]) -> list[Part]:
    """
    Describe how rules fared.

    :param rules: The rules
    :param episodes: Episodes in which they were followed from the beginning to the end
    :return: The rules, how often they succeeded and each of them fired, where most episodes began and ended, and tables
        of two that failed and differ, and of one that succeeded, with pictures
    """
    known = [episode.succeeded for episode in episodes if episode.succeeded is not None]
    outcome = f"{sum(known)} of {len(known)} succeeded" if known else "whether they succeeded is not known"
    longest = max((len(episode.actions) for episode in episodes), default=0)
    fired = Counter(rule for episode in episodes for rule in episode.rules)
    counts = [f'"{rule.name}" {fired[i]}' for i, rule in enumerate(rules.rules)] + [f"none of them {fired[None]}"]
    parts = [
        f"Your rules so far:\n{rules.text}",
        f"They were followed for {len(episodes)} episodes of at most {longest} steps: {outcome}.\n"
        f"In how many steps each rule was the first to hold: {', '.join(counts)}.",
    ]
    if rules.rejected:
        parts.insert(1, unusable(rules.rejected))
    chosen = _chosen(episodes)
    others = [episode for episode in episodes if not any(episode is shown for shown in chosen)]
    if others:
        parts.append(_ends(rules, others))
    if chosen:
        parts.append("Steps that are near the line from one row to the next are left out below.")
    tables = [Part(_table(rules, episode), _pictures(episode)) for episode in chosen]
    return [Part("\n\n".join(parts)), *tables]


def unusable(rejected: Sequence[RejectedRule]) -> str:
    """
    Say what could not be used of an answer, and why.

    :param rejected: That, at least one thing
    :return: A line for each thing
    """
    shown = [f"- {lost}"[:_MAX_REASON] for lost in rejected[:_MAX_REJECTED]]
    if len(rejected) > len(shown):
        shown.append(f"- and {len(rejected) - len(shown)} more")
    return "\n".join(["Of your answer, this could not be used:", *shown])


def _pictures(episode: Episode) -> dict[int, np.ndarray]:
    """A few of its frames, among them the first and the last."""
    steps = sorted(episode.frames)
    kept = {steps[i] for i in np.linspace(0, len(steps) - 1, MAX_PICTURES, dtype=int)} if steps else set()
    return {step: episode.frames[step] for step in sorted(kept)}


def _chosen(episodes: Sequence[Episode]) -> list[Episode]:
    """A failure, the failure that differs most from it in what the rules did, and a success."""
    failures = [episode for episode in episodes if not episode.succeeded]
    chosen = failures[-1:]
    if len(failures) > 1:
        last = Counter(failures[-1].rules)
        chosen.append(max(failures[:-1], key=lambda episode: _distance(Counter(episode.rules), last)))
    return chosen + [episode for episode in episodes if episode.succeeded][-1:]


def _distance(first: Counter, second: Counter) -> int:
    return sum(abs(first[key] - second[key]) for key in first.keys() | second.keys())


def _table(rules: Rules, episode: Episode) -> str:
    names = rules.names
    shown = _worth_showing(names)
    numbers = _tidied(np.stack([names.numbers(observation) for observation in episode.observations]), shown)
    changing = [variable for variable in shown if _changes(numbers[:, variable.places])]
    columns = _fitting(changing)
    constant = _fitting([v for v in shown if v not in changing and numbers[0, v.places].any()])
    outcome = {True: " that succeeded,", False: " that failed,", None: ""}[episode.succeeded]
    lines = [f"An episode{outcome} of {len(episode.actions)} steps."]
    if constant:
        lines.append("; ".join(f"{v.name} {_numbers(numbers[0, v.places])}" for v in constant) + " throughout.")
    lines.append(_header(columns))
    actions = _actions(episode)
    for t in _rows(episode.rules, _scaled(numbers, columns), _n_rows(columns, episode)):
        lines.append(_row(rules, episode.rules[t], t, numbers[t], actions[t], columns))
    return "\n".join(lines)


def _ends(rules: Rules, episodes: Sequence[Episode]) -> str:
    """Where episodes began and ended of which nothing else is told."""
    shown = _worth_showing(rules.names)
    ends = _tidied(np.stack([rules.names.numbers(e.observations[t]) for e in episodes for t in (0, -1)]), shown)
    columns = _fitting([variable for variable in shown if ends[:, variable.places].any()])
    pairs = list(zip(episodes, ends.reshape(len(episodes), 2, -1), strict=True))
    latest = pairs[-max(1, _n_rows(columns, episodes[0]) // 2) :]
    lines = [
        f"The first and the last step of {count(len(latest), 'episode')} more:",
        f"succeeded; {_header(columns)}",
    ]
    for episode, numbers in latest:
        succeeded = {True: "yes", False: "no", None: "not known"}[episode.succeeded]
        actions = _actions(episode)
        for t, at in zip((0, len(actions) - 1), numbers, strict=True):
            lines.append(f"{succeeded}; {_row(rules, episode.rules[t], t, at, actions[t], columns)}")
    return "\n".join(lines)


def _worth_showing(names: Names) -> list[Variable]:
    return [
        variable
        for variable in names.variables.values()
        if len(variable.places) <= _MAX_NUMBERS and not _is_the_past(variable, names)
    ]


def _header(columns: Sequence[Variable]) -> str:
    return "; ".join(["step", "rule", *(variable.name for variable in columns), "action"])


def _row(
    rules: Rules, rule: int | None, t: int, numbers: np.ndarray, action: np.ndarray, columns: Sequence[Variable]
) -> str:
    name = _NO_RULE if rule is None else rules.rules[rule].name
    values = [_numbers(numbers[list(variable.places)]) for variable in columns]
    return "; ".join([str(t), name, *values, _numbers(action)])


def _actions(episode: Episode) -> np.ndarray:
    """What was executed, ``(steps, numbers)``."""
    return _tidy(np.stack([np.ravel(action) for action in episode.actions]))


def _n_rows(columns: Sequence[Variable], episode: Episode) -> int:
    n_numbers = sum(len(variable.places) for variable in columns) + np.size(episode.actions[0])
    return min(MAX_ROWS, max(_MIN_ROWS, MAX_TABLE // (_CHARACTERS_OF_A_NUMBER * n_numbers)))


def _fitting(variables: Sequence[Variable]) -> list[Variable]:
    """The first of them, as many as a short table has room for."""
    sizes = np.cumsum([len(variable.places) + len(variable.name) / _CHARACTERS_OF_A_NUMBER for variable in variables])
    room = MAX_TABLE / (_CHARACTERS_OF_A_NUMBER * (_MIN_ROWS + 1))
    return [variable for variable, size in zip(variables, sizes, strict=True) if size <= room]


def _is_the_past(variable: Variable, names: Names) -> bool:
    before = {place for other in names.variables.values() for place in other.before}
    return set(variable.places) <= before


def _changes(values: np.ndarray) -> bool:
    is_finite = np.isfinite(values).all()
    return not is_finite or bool(np.ptp(values, axis=0).max() > max(_NOTHING, 1e-6 * np.abs(values).max()))


def _scaled(numbers: np.ndarray, columns: Sequence[Variable]) -> np.ndarray:
    """What is in the columns, ``(steps, numbers)``, each name's numbers by how much they come to differ."""
    finite = np.nan_to_num(numbers, posinf=0.0, neginf=0.0)
    parts = [finite[:, variable.places] for variable in columns]
    scaled = [part / max(np.ptp(part, axis=0).max(), 1e-12) for part in parts]
    return np.concatenate([np.zeros((len(numbers), 1)), *scaled], axis=1)


def _rows(fired: Sequence[int | None], path: np.ndarray, n_rows: int) -> list[int]:
    """
    Choose the steps that are shown: the first, the last, and where another rule fires; then, one after the other, the
    step that is farthest from the line between its neighbours (Ramer 1972, Douglas and Peucker 1973).
    """
    n = len(fired)
    changes = [t for t in range(1, n) if fired[t] != fired[t - 1]]
    kept = sorted({0, n - 1, *changes[: n_rows - 2]})
    steps = np.arange(n)
    while len(kept) < min(n, n_rows):
        line = np.stack([np.interp(steps, kept, column) for column in path[kept].T], axis=1)
        distances = np.abs(path - line).max(axis=1)
        farthest = int(distances.argmax())
        if distances[farthest] <= _NEAR:
            break
        bisect.insort(kept, farthest)
    return kept


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _tidy(values: np.ndarray) -> np.ndarray:
    """With zeros for what is negligible beside the largest of them."""
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    return np.where(np.abs(values) < max(_NOTHING, min(_SMALL, _NEGLIGIBLE * largest)), 0.0, values)


def _tidied(numbers: np.ndarray, variables: Iterable[Variable]) -> np.ndarray:
    """The same for each name by itself, ``(steps, numbers)``."""
    tidied = numbers.copy()
    for variable in variables:
        tidied[:, variable.places] = _tidy(numbers[:, variable.places])
    return tidied
