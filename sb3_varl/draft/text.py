"""The draft as a person is to go on with it: YAML with what was measured, and room for what only people know."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from sb3_varl.draft.measure import N_ACTED, N_EPISODES, N_STARTS, Facts
from sb3_varl.rules.names import spell

# What is told of for each component of the action: those numbers that go farthest by their range, and a fifth as far as
# the first at least.
_MOST_TOLD, _FAR_ENOUGH = 3, 0.2
# Beyond this, by its size, what several starts differ by is told of.
_AGREE = 0.1
# Below this, by the most that becomes of a number, it is nothing.
_NEGLIGIBLE = 0.01
# Between values of several starts.
_OR = " | "

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
"""
_NOTES = "notes: {}  # where the camera is, and what else the numbers do not tell"


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
    meanings = [_action_meaning(facts, i, names) for i in range(len(facts.effects))]
    lines += [f"  - {{name: action {i}, meaning: {_quoted(meaning)}}}" for i, meaning in enumerate(meanings)]
    lines.append("observation:")
    for part in parts:
        key = "" if part.key is None else f", key: {_quoted(part.key)}"
        before = "" if part.before is None else f", before: {part.before}"
        place = f"start: {part.start}, stop: {part.start + len(part.numbers)}{key}{before}"
        meaning = _part_meaning(facts, part, parts)
        lines.append(f"  - {{name: {part.name}, {place}, meaning: {_quoted(meaning)}}}")
    lines += [f"  # {remark}" for remark in _left_out(facts)]
    lines += [f"# {remark}" for remark in _remarks(facts)]
    lines.append(_TAIL.rstrip())
    if any(_OR in meaning for meaning in meanings):
        lines.append(_NOTES.format(_quoted(_starts(facts, parts))))
    else:
        lines.append(f"# {_NOTES.format('  ')}")
    return "\n".join(lines) + "\n"


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
        facts.is_motion(facts.effects[..., number], number),
        None if last is None or facts.places[last][0] != facts.places[number][0] else last - number,
        None if change is None else change[0] - number,
        tuple(other - number for other in facts.difference_of.get(number, ())),
    )


def _action_meaning(facts: Facts, component: int, names: dict[int, str]) -> str:
    effects = facts.effects[component]
    high, low, rest = (_number(bound[component]) for bound in (facts.action_high, facts.action_low, facts.rest))
    reach = {
        number: np.nanmax(np.abs(effects[..., number])) / max(facts.high[number] - facts.low[number], 1e-9)
        for number in names
        if facts.is_motion(effects[..., number], number)
    }
    if not reach:
        return f"from {low} to {high}; moves nothing by itself, at least not at the start of an episode"
    far = [number for number in reach if reach[number] >= _FAR_ENOUGH * max(reach.values())]
    # What something changes by, or differs by, is told of after that.
    far.sort(key=lambda number: (number in facts.change_of or number in facts.difference_of, -reach[number]))
    up, down = ({number: effect[..., number] for number in far[:_MOST_TOLD]} for effect in effects)
    of_up = f"{high} moves {_moves(facts, up, names, rest) or _undoes(facts, component, 0, up, names, low)}"
    if all(_is_opposite(up[number], down[number]) for number in up):
        return f"{of_up}; {low} does the opposite"
    return f"{of_up}; {low} moves {_moves(facts, down, names, rest) or _undoes(facts, component, 1, up, names, high)}"


def _is_opposite(up: np.ndarray, down: np.ndarray) -> bool:
    return bool(np.nanmax(np.abs(up + down), initial=0.0) <= _AGREE * np.nanmax(np.abs(up), initial=0.0))


def _moves(facts: Facts, effect: dict[int, np.ndarray], names: dict[int, str], rest: str) -> str:
    moved = []
    for number, after in effect.items():
        if facts.is_motion(after, number):
            first, acted, rested = map(_each, _without_traces(after, np.nanmax(np.abs(after))).T)
            moved.append(
                f"{names[number]} by {first} in a step, by {acted} in {N_ACTED}, and by {rested} in all if {N_ACTED} "
                f"steps of {rest} follow"
            )
    return ", and ".join(moved)


def _undoes(facts: Facts, component: int, bound: int, numbers: Iterable[int], names: dict[int, str], other: str) -> str:
    """What a bound moves that moves nothing at the start, such as that which opens an open gripper."""
    changes = {number: facts.undone[component, bound, :, number] for number in numbers}
    moved = [
        f"{names[number]} by {_each(change)}" for number, change in changes.items() if facts.is_motion(change, number)
    ]
    after = f"after {N_ACTED} steps of {other}"
    return f"none of it at the start, but {after} {', and '.join(moved)} in {N_ACTED}" if moved else "none of it"


def _without_traces(values: np.ndarray, size: float) -> np.ndarray:
    return np.where(np.abs(values) < _NEGLIGIBLE * size, 0, values)


def _part_meaning(facts: Facts, part: _Part, parts: Sequence[_Part]) -> str:
    said = []
    numbers = part.numbers
    if facts.is_still[numbers[0]]:
        said.append("drawn at the start of an episode")
    if numbers[0] in facts.difference_of:
        one, other = (_spelt(parts, [facts.difference_of[number][which] for number in numbers]) for which in (0, 1))
        said.append(f"{one} - {other}")
    elif numbers[0] in facts.change_of:
        factor = facts.change_of[numbers[0]][1]
        times = "" if abs(factor - 1) < _AGREE else f", times {factor:.3g}"
        of = _spelt(parts, [facts.change_of[number][0] for number in numbers])
        said.append(f"by how much {of} changes in a step{times}")
    elif any(facts.is_motion(facts.at_rest[:, number], number) for number in numbers):
        spans = ", ".join(_span(_without_traces(facts.at_rest[:, i], facts.high[i] - facts.low[i])) for i in numbers)
        said.append(f"when nothing acts, changes by {spans} in {2 * N_ACTED} steps")
    if not facts.is_still[numbers[0]]:
        starts = (_span(_without_traces(facts.at_start[:, i], facts.high[i] - facts.low[i])) for i in numbers)
        said.append(f"at the start {', '.join(starts)}")
    seen = (_span(np.array([facts.low[number], facts.high[number]])) for number in numbers)
    said.append(f"seen from {', '.join(seen)}")
    return "; ".join(said)


def _spelt(parts: Sequence[_Part], numbers: Sequence[int]) -> str:
    """What rules call numbers that stand side by side, or numbers of several parts."""
    part = next((part for part in parts if set(numbers) <= set(part.numbers)), None)
    if part is None:
        spelt = {number: part.spelt(i) for part in parts for i, number in enumerate(part.numbers)}
        return f"[{', '.join(spelt.get(number, '?') for number in numbers)}]"
    if numbers == part.numbers:
        return spell(part.name)
    start = part.numbers.index(numbers[0])
    return f"{spell(part.name)}[{start}{f':{start + len(numbers)}' if len(numbers) > 1 else ''}]"


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


def _starts(facts: Facts, parts: Sequence[_Part]) -> str:
    """From where effects were measured that depend on it."""

    def values(part: _Part, start: np.ndarray) -> str:
        numbers = ", ".join(_number(start[number]) for number in part.numbers)
        return f"[{numbers}]" if len(part.numbers) > 1 else numbers

    told = [
        f"{spell(part.name)} {_OR.join(values(part, start) for start in facts.at_start[:N_STARTS])}"
        for part in parts
        if np.ptp(facts.at_start[:N_STARTS, part.numbers], axis=0).any()
        and part.numbers[0] not in facts.change_of
        and part.numbers[0] not in facts.difference_of
    ]
    return (
        f"Where an effect is {_OR.join('abc'[:N_STARTS])}, it is from the starts with {', '.join(told)}, in this order."
    )


def _each(values: np.ndarray) -> str:
    """What came of several starts, or of all."""
    known = values[~np.isnan(values)]
    if not known.size:
        return "an unknown amount"
    return _number(float(np.median(known))) if _agree(known) else _OR.join(map(_number, values))


def _span(values: np.ndarray) -> str:
    return (
        _number(float(np.median(values))) if _agree(values) else f"{_number(values.min())} to {_number(values.max())}"
    )


def _agree(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= _AGREE * np.abs(values).max())


def _number(value: float) -> str:
    rounded = f"{value:.3g}"
    return "0" if abs(value) < 1e-6 else rounded


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
