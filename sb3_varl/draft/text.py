"""The draft as a person is to go on with it: YAML with what was measured, and room for what only people know."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sb3_varl.draft.measure import N_ACTED, N_EPISODES, N_STARTS, Effect, Facts
from sb3_varl.rules.names import spell

# What is told of for each component of the action: those numbers that go farthest by their range, and a fifth as far as
# the first at least.
_MOST_TOLD, _FAR_ENOUGH = 3, 0.2
# Beyond this, by its size, several starts are told of as a range.
_AGREE = 0.1
# And below this, by the most that becomes of a number, it is nothing.
_NEGLIGIBLE = 0.01

_HEAD = """\
# A draft of a task sheet for {name},
# from {episodes} episodes of random actions, and {starts} starts with one component of the action at a time at its
# bounds. Give everything its name, also where it is named in a meaning, and its unit; part what does not belong
# together; leave out what does not matter; and say what only you know. Then see what a model would be sent:
#   {preview}
"""
_TAIL = """\
# success:  # when exactly it counts, and whether once is enough
# sizes:    # of the things and of the fingers, and where on them the reported points lie
# lag:      # how motion follows the commands, as far as it is not said above
# notes:    # where the camera is, and what else the numbers do not tell
"""


def write_sheet(facts: Facts, name: str, goal: str | None = None, preview: str = "python -m sb3_varl.preview") -> str:
    """
    Write a draft.

    :param facts: What was measured
    :param name: What the environment is called
    :param goal: The task in words. ``None`` leaves it open, and the draft is no task sheet until it is filled in
    :param preview: The command that shows what a model would be sent
    :return: YAML
    """
    parts = list(_parts(facts))
    names = {number: part.spelt(i) for part in parts for i, number in enumerate(part.numbers)}
    lines = [_HEAD.format(name=name, episodes=N_EPISODES, starts=N_STARTS, preview=preview).rstrip()]
    lines.append("goal:  # one sentence that says what success is" if goal is None else f"goal: {_quoted(goal)}")
    lines.append("action:")
    for i in range(len(facts.effects)):
        lines.append(f"  - {{name: action {i}, meaning: {_quoted(_action_meaning(facts, i, names))}}}")
    lines.append("observation:")
    for part in parts:
        key = "" if part.key is None else f", key: {_quoted(part.key)}"
        before = "" if part.before is None else f", before: {part.before}"
        place = f"start: {part.start}, stop: {part.start + len(part.numbers)}{key}{before}"
        meaning = _part_meaning(facts, part, names)
        lines.append(f"  - {{name: {part.name}, {place}, meaning: {_quoted(meaning)}}}")
    lines += [f"  # {remark}" for remark in _left_out(facts)]
    lines += [f"# {remark}" for remark in _remarks(facts)]
    return "\n".join(lines) + "\n" + _TAIL


class _Part:
    """
    Numbers that stand side by side and are of a kind.

    :param facts: What was measured
    :param numbers: The numbers
    """

    def __init__(self, facts: Facts, numbers: Sequence[int]) -> None:
        self.numbers = list(numbers)
        self.key, self.start = facts.places[self.numbers[0]]
        last = facts.before.get(self.numbers[0])
        self.before = None if last is None else facts.places[last][1]
        what = "observation" if self.key is None else self.key
        is_whole = len(self.numbers) == sum(key == self.key for key, _ in facts.places)
        stop = self.start + len(self.numbers) - 1
        where = f" {self.start}" if stop == self.start else f" {self.start} to {stop}"
        self.name = " ".join(what.split("_")) + ("" if is_whole else where)

    def spelt(self, i: int) -> str:
        """What rules call one of its numbers."""
        return spell(self.name) + (f"[{i}]" if len(self.numbers) > 1 else "")


def _parts(facts: Facts) -> Iterator[_Part]:
    told = [number for number in range(len(facts.places)) if not _is_left_out(facts, number)]
    for run in _runs(facts, told, lambda number: _kind(facts, number)):
        yield _Part(facts, run)


def _is_left_out(facts: Facts, number: int) -> bool:
    return (
        number in facts.same_as
        or number in facts.before.values()
        or bool(facts.is_still[number] and facts.low[number] == facts.high[number])
    )


def _kind(facts: Facts, number: int) -> tuple[object, ...]:
    """What numbers that are named together have in common."""
    last = facts.before.get(number)
    change = facts.change_of.get(number)
    return (
        bool(facts.is_still[number]),
        any(facts.is_moved(number, effect) for effects in facts.effects for effect in effects),
        None if last is None or facts.places[last][0] != facts.places[number][0] else last - number,
        None if change is None else change[0] - number,
    )


def _action_meaning(facts: Facts, component: int, names: dict[int, str]) -> str:
    up, down = facts.effects[component]
    high, low, rest = (_number(bound[component]) for bound in (facts.action_high, facts.action_low, facts.rest))
    numbers = [number for number in names if facts.is_moved(number, up) or facts.is_moved(number, down)]
    if not numbers:
        return f"from {low} to {high}; moves nothing by itself, at least not at the start of an episode"
    reach = {number: max(_reach(facts, effect, number) for effect in (up, down)) for number in numbers}
    numbers = [number for number in numbers if reach[number] >= _FAR_ENOUGH * max(reach.values())]
    # What something changes by is told of after that.
    numbers = sorted(numbers, key=lambda number: (number in facts.change_of, -reach[number]))[:_MOST_TOLD]
    of_up = f"{high} moves {_moves(facts, up, numbers, names, rest)}"
    if all(_is_mirrored(up, down, number) for number in numbers):
        return f"{of_up}; {low} does the opposite"
    return f"{of_up}; {low} moves {_moves(facts, down, numbers, names, rest)}"


def _reach(facts: Facts, effect: Effect, number: int) -> float:
    span = max(facts.high[number] - facts.low[number], 1e-9)
    return float(np.nanmax(np.abs(effect.after[..., number]), initial=0.0) / span)


def _is_mirrored(up: Effect, down: Effect, number: int) -> bool:
    sums = np.abs(up.after[..., number] + down.after[..., number])
    return bool(np.nanmax(sums, initial=0.0) <= _AGREE * np.nanmax(np.abs(up.after[..., number]), initial=0.0))


def _moves(facts: Facts, effect: Effect, numbers: Sequence[int], names: dict[int, str], rest: str) -> str:
    moved = []
    for number in (number for number in numbers if facts.is_moved(number, effect)):
        after = effect.after[..., number]
        after = np.where(np.abs(after) < _NEGLIGIBLE * np.nanmax(np.abs(after)), 0, after)
        first, acted, rested = map(_span, after.T)
        moved.append(
            f"{names[number]} by {first} in a step, by {acted} in {N_ACTED}, and by {rested} if {N_ACTED} steps of "
            f"{rest} follow"
        )
    return ", and ".join(moved) or "none of it"


def _part_meaning(facts: Facts, part: _Part, names: dict[int, str]) -> str:
    said = []
    number = part.numbers[0]
    if facts.is_still[number]:
        said.append("drawn at the start of an episode")
    if number in facts.change_of:
        of, factor = facts.change_of[number]
        times = "" if abs(factor - 1) < _AGREE else f", times {factor:.3g}"
        said.append(f"by how much {names[of].partition('[')[0]} changes in a step{times}")
    spans = [f"{_number(facts.low[i])} to {_number(facts.high[i])}" for i in part.numbers]
    said.append(f"seen from {', '.join(spans)}")
    return "; ".join(said)


def _left_out(facts: Facts) -> Iterator[str]:
    """What is not named, and why."""
    constant = [i for i in range(len(facts.places)) if facts.is_still[i] and facts.low[i] == facts.high[i]]
    runs = _runs(facts, constant, lambda i: facts.low[i])
    if constant:
        yield f"always the same: {', '.join(f'{_place(facts, run)} {_number(facts.low[run[0]])}' for run in runs)}"
    runs = _runs(facts, list(facts.same_as), lambda i: facts.same_as[i] - i)
    if runs:
        pairs = [(_place(facts, run), _place(facts, [facts.same_as[i] for i in run])) for run in runs]
        yield f"the same as others: {', '.join(f'{one} as {other}' for one, other in pairs)}"


def _runs(facts: Facts, numbers: Sequence[int], kind: Callable[[int], object]) -> list[list[int]]:
    """Those in a row that stand side by side and are of a kind."""
    runs = itertools.groupby(
        enumerate(numbers), lambda pair: (pair[1] - pair[0], facts.places[pair[1]][0], kind(pair[1]))
    )
    return [[number for _, number in run] for _, run in runs]


def _place(facts: Facts, run: Sequence[int]) -> str:
    key, start = facts.places[run[0]]
    return f"{key or 'observation'}[{start}{f':{start + len(run)}' if len(run) > 1 else ''}]"


def _remarks(facts: Facts) -> Iterator[str]:
    if facts.noise.any():
        yield "Two episodes with one seed and the same actions were not the same: what is said of actions is uncertain."
    if facts.max_episode_steps is None:
        yield "Nobody says how long an episode may be (max_episode_steps of gym.register)."
    if facts.says_success is False:
        yield 'The last step of an episode has no "is_success" in its info, by which rules are corrected and held.'


def _span(values: np.ndarray) -> str:
    values = values[~np.isnan(values)]
    if not values.size:
        return "an unknown amount"
    low, high = values.min(), values.max()
    if high - low <= _AGREE * np.abs(values).max():
        return _number(float(np.median(values)))
    return f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    rounded = f"{value:.3g}"
    return "0" if abs(value) < 1e-6 else rounded


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
