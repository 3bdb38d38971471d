"""The draft as a person is to go on with it: YAML with what was measured, and room for what only people know."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import yaml

from sb3_varl.advice.types import ActionComponent, TaskSheet
from sb3_varl.arguments import ArgumentError
from sb3_varl.draft.measure import Facts
from sb3_varl.draft.parts import (
    MEASURED,
    NOTHING,
    Part,
    constant,
    given_parts,
    in_runs,
    made_up_parts,
    without_measured,
)
from sb3_varl.draft.probe import N_ACTED, N_EPISODES, N_STARTS
from sb3_varl.rules.names import spell
from sb3_varl.rules.rule import readable

# What is told of for each component of the action: those numbers that go farthest by their range, and a fifth as far as
# the first at least; of others their names, of so many at most.
_MOST_TOLD, _FAR_ENOUGH, _MOST_NAMED = 3, 0.2, 6
# Beyond this, by its size, what several starts differ by is told of.
_AGREE = 0.1
# Below this, by the most that becomes of a number, it is nothing.
_NEGLIGIBLE = 0.01
# Below this share of its range, nothing is told of a number's motion, even if there is nothing else to be told of.
_LEAST_TOLD = 1e-4
# Between values of several starts.
_OR = " | "

_HEAD = """\
# A draft of a task sheet for {name},
# from {episodes} episodes of random actions, and {starts} starts with one component of the action at a time at its
# bounds. Check what it says. Give things names, part what does not belong together, and leave out what does not matter:
# with --sheet, the command measures anew what has these names, in their words. Say what success is, and what else
# only you know. Then see what a model would be sent:
#   {preview}
"""
_WORDS = {
    "goal": "one sentence that says what is wanted",
    "success": "when exactly it counts, and whether once is enough",
    "sizes": "of the things and of the fingers, and where on them the reported points lie",
    "lag": "how motion follows the commands, as far as it is not said above",
    "notes": "where the camera is, and what else the numbers do not tell",
}


def write_sheet(
    facts: Facts,
    name: str,
    goal: str | None = None,
    preview: str = "python -m sb3_varl.preview",
    sheet: TaskSheet | None = None,
) -> str:
    """
    Write a draft.

    :param facts: What was measured
    :param name: What the environment is called
    :param goal: The task in words. ``None`` for that of ``sheet``, or to leave it open
    :param preview: The command that shows what a model would be sent
    :param sheet: A draft whose names, places and words are to be kept. ``None`` to make up names
    :return: YAML
    :raises ArgumentError: if ``sheet`` is not of this environment
    """
    drafted = TaskSheet("") if sheet is None else sheet
    parts = given_parts(facts, drafted.observation) if drafted.observation else made_up_parts(facts)
    names = {number: part.spelt([number]) for part in parts for number in part.numbers}
    actions = drafted.action or [ActionComponent(f"action {i}") for i in range(len(facts.effects))]
    if len(actions) != len(facts.effects):
        raise ArgumentError(f"The sheet names {len(actions)} action components, expected {len(facts.effects)}.")
    of = _HEAD.format(name=_line(name), episodes=N_EPISODES, starts=N_STARTS, preview=_line(preview))
    lines = [of.rstrip(), *_field("goal", drafted.goal if goal is None else goal)]
    lines.append("action:" if actions else "action: []")
    meanings = [_action_meaning(facts, i, names) for i in range(len(facts.effects))]
    for action, meaning in zip(actions, meanings, strict=True):
        words = _joined(without_measured(action.meaning), f"{MEASURED}{meaning}")
        lines += [f"  - name: {_quoted(action.name)}", f"    meaning: {_folded(words)}"]
    lines.append("observation:" if parts else "observation: []")
    for part in parts:
        words = _joined(part.words, f"{MEASURED}{_part_meaning(facts, part, parts)}")
        lines += [f"  - name: {_quoted(part.name)}", *_place_of(part), f"    meaning: {_folded(words)}"]
    lines += [f"  # {remark}" for remark in _left_out(facts)]
    lines += [f"# {remark}" for remark in _remarks(facts)]
    for word in ("success", "sizes", "lag"):
        lines += _field(word, getattr(drafted, word))
    starts = f"{MEASURED}{_starts(facts, parts)}" if any(_OR in meaning for meaning in meanings) else ""
    lines += _field("notes", _joined(without_measured(drafted.notes), starts))
    return "\n".join(lines) + "\n"


def _field(word: str, said: str) -> list[str]:
    return [f"{word}: {_folded(said, 2)}"] if said else [f'{word}: ""  # {_WORDS[word]}']


def _place_of(part: Part) -> list[str]:
    lines = [f"    start: {part.slice.start}", f"    stop: {part.slice.stop}"]
    if part.slice.key is not None:
        lines.append(f"    key: {_quoted(part.slice.key)}")
    if part.slice.before is not None:
        lines.append(f"    before: {part.slice.before}")
    return lines


def _joined(words: str, measured: str) -> str:
    return "; ".join(part for part in (words, measured) if part)


# ---- What actions do


def _action_meaning(facts: Facts, component: int, names: dict[int, str]) -> str:
    effects = facts.effects[component]
    high, low, rest = (_number(bound[component]) for bound in (facts.action_high, facts.action_low, facts.rest))
    share = next((share for share in (_NEGLIGIBLE, _LEAST_TOLD) if _reach(facts, effects, names, share)), None)
    if share is None:
        return f"from {low} to {high}; moves nothing by itself, at least not at the start of an episode"
    reach = _reach(facts, effects, names, share)
    # What something changes by, or differs by, is told of after that.
    derived = {*facts.relations.change_of, *facts.relations.difference_of}
    # Of what is as before once nothing acts, only its name, if there is something else.
    told = _reach(facts, effects[..., -1:, :], names, share) or reach
    far = [number for number in told if told[number] >= _FAR_ENOUGH * max(told.values())]
    far = sorted(far, key=lambda number: (number in derived, -reach[number]))[:_MOST_TOLD]
    others = sorted(reach.keys() - set(far), key=lambda number: -reach[number])
    up, down = ({number: effect[..., number] for number in far} for effect in effects)
    said = "" if rest == "0" else f"compared with {rest}, "
    said += f"{high} moves {_moves(facts, up, names, rest, share) or _undoes(facts, component, 0, up, names, low)}"
    if all(_is_opposite(up[number], down[number]) for number in up):
        said += f"; {low} does the opposite"
    else:
        said += (
            f"; {low} moves {_moves(facts, down, names, rest, share) or _undoes(facts, component, 1, up, names, high)}"
        )
    if others:
        more = " and more" if len(others) > _MOST_NAMED else ""
        said += f"; it also moves {', '.join(names[number] for number in others[:_MOST_NAMED])}{more}"
    return said


def _reach(facts: Facts, effects: np.ndarray, numbers: Iterable[int], share: float) -> dict[int, float]:
    """How far each number goes, by its range, that goes farther than some share of that."""
    return {
        number: np.nanmax(np.abs(effects[..., number])) / max(facts.high[number] - facts.low[number], 1e-9)
        for number in numbers
        if facts.is_motion(effects[..., number], number, share)
    }


def _is_opposite(up: np.ndarray, down: np.ndarray) -> bool:
    return bool(np.nanmax(np.abs(up + down), initial=0.0) <= _AGREE * np.nanmax(np.abs(up), initial=0.0))


def _moves(facts: Facts, effect: dict[int, np.ndarray], names: dict[int, str], rest: str, share: float) -> str:
    moved = []
    for number, after in effect.items():
        if facts.is_motion(after, number, share):
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
    if not moved:
        return "none of it"
    return f"none of it at the start, but after {N_ACTED} steps of {other} it moves {', and '.join(moved)} in {N_ACTED}"


def _starts(facts: Facts, parts: Sequence[Part]) -> str:
    """From where effects were measured that depend on it."""

    def values(part: Part, start: np.ndarray) -> str:
        numbers = ", ".join(_number(start[number]) for number in part.numbers)
        return f"[{numbers}]" if len(part.numbers) > 1 else numbers

    relations = facts.relations
    told = [
        f"{spell(part.name)} {_OR.join(values(part, start) for start in facts.at_start[:N_STARTS])}"
        for part in parts
        if np.ptp(facts.at_start[:N_STARTS, part.numbers], axis=0).any()
        and not {*relations.change_of, *relations.difference_of}.issuperset(part.numbers)
    ]
    effects = f"where an effect is {_OR.join('abc'[:N_STARTS])}, it is from"
    return f"{effects} the starts with {', '.join(told)}, in this order" if told else f"{effects} different starts"


# ---- What numbers are


def _part_meaning(facts: Facts, part: Part, parts: Sequence[Part]) -> str:
    numbers, ranges = part.numbers, facts.high - facts.low
    if set(numbers) <= {*constant(facts)}:
        values = [_number(facts.low[number]) for number in numbers]
        return f"always {', '.join(values if len(set(values)) > 1 else values[:1])} in what was tried"
    said = []
    is_still = not facts.most_moved[numbers].any()
    if is_still:
        said.append("drawn at the start of an episode, and the same to its end in what was tried")
    relation = _relation(facts, part, parts)
    if relation:
        said.append(relation)
    elif any(facts.is_motion(facts.at_rest[:, number], number) for number in numbers):
        spans = ", ".join(_span(_without_traces(facts.at_rest[:, number], ranges[number])) for number in numbers)
        rest = ", ".join(map(_number, facts.rest))
        when = f"at actions of {rest}" if facts.rest.any() else "when nothing acts"
        said.append(f"{when}, changes by {spans} in {2 * N_ACTED} steps")
    period = facts.period[numbers[0]]
    if len(numbers) == 1 and not np.isnan(period):
        said.append(f"an angle, which jumps by {_number(period)} at its ends")
    if not is_still:
        # Next to nothing is told as nothing only where the number may be that.
        smallest = [ranges[number] if facts.low[number] <= 0 <= facts.high[number] else 0.0 for number in numbers]
        starts = (
            _span(_without_traces(facts.at_start[:, number], size))
            for number, size in zip(numbers, smallest, strict=True)
        )
        said.append(f"at the start {', '.join(starts)}")
    if facts.is_flag[numbers].all():
        said.append(f"either {' or '.join(', '.join(map(_number, ends[numbers])) for ends in (facts.low, facts.high))}")
    else:
        seen = (_span(np.array([facts.low[number], facts.high[number]])) for number in numbers)
        said.append(f"seen from {', '.join(seen)}")
    return "; ".join(said)


def _relation(facts: Facts, part: Part, parts: Sequence[Part]) -> str:
    """What numbers are that are the difference of others, or their change, as far as these have names."""
    same = [facts.relations.drawn_as.get(number) for number in part.numbers]
    if all(number is not None for number in same):
        first = _spelt(parts, [number for number in same if number is not None])
        return f"the same as {first}" if first else ""
    differences = [facts.relations.difference_of.get(number) for number in part.numbers]
    changes = [facts.relations.change_of.get(number) for number in part.numbers]
    if all(differences):
        one, other = (_spelt(parts, [pair[which] for pair in differences if pair]) for which in (0, 1))
        return f"{one} - {other}" if one and other else ""
    if all(changes):
        of, factor = _spelt(parts, [change[0] for change in changes if change]), np.median([c[1] for c in changes if c])
        times = "" if abs(factor - 1) < _AGREE else f", times {factor:.3g}"
        return f"by how much {of} changes in a step{times}" if of else ""
    return ""


def _spelt(parts: Sequence[Part], numbers: Sequence[int]) -> str:
    """What rules call numbers of one part, or of several; nothing if some have no name."""
    part = next((part for part in parts if set(numbers) <= set(part.numbers)), None)
    if part is not None:
        return part.spelt(numbers)
    spelt = {number: part.spelt([number]) for part in parts for number in part.numbers}
    return f"[{', '.join(spelt[number] for number in numbers)}]" if spelt.keys() >= set(numbers) else ""


def _left_out(facts: Facts) -> Iterator[str]:
    """What is not named by itself, and why."""
    same_as = facts.relations.same_as
    runs = in_runs(facts, list(same_as), lambda i: same_as[i] - i)
    if runs:
        pairs = [(_place(facts, run), _place(facts, [same_as[i] for i in run])) for run in runs]
        yield f"the same as others: {', '.join(f'{one} as {other}' for one, other in pairs)}"
    before = {last: number for number, last in facts.relations.before.items()}
    runs = in_runs(facts, sorted(before), lambda i: before[i] - i)
    if runs:
        pairs = [(_place(facts, run), _place(facts, [before[i] for i in run])) for run in runs]
        yield f"taken for last values of others: {', '.join(f'{one} of {other}' for one, other in pairs)}"
    runs = in_runs(facts, np.flatnonzero(~facts.is_finite).tolist(), lambda i: None)
    if runs:
        yield f"infinite, or no numbers, at times: {', '.join(_place(facts, run) for run in runs)}"


def _remarks(facts: Facts) -> Iterator[str]:
    if facts.noise.any():
        yield "Two episodes with one seed and the same actions were not the same: what is said of actions is uncertain."
    if facts.max_episode_steps is None:
        yield "Nobody says how long an episode may be (max_episode_steps of gym.register)."
    if facts.says_success is False:
        yield 'The last step of an episode has no "is_success" in its info, by which rules are corrected and held.'


# ---- Numbers and words


def _place(facts: Facts, run: Sequence[int]) -> str:
    key, start = facts.places[run[0]]
    return f"{'observation' if key is None else _line(key)}[{start}{f':{start + len(run)}' if len(run) > 1 else ''}]"


def _each(values: np.ndarray) -> str:
    """What came of several starts, or of all."""
    known = values[~np.isnan(values)]
    if not known.size:
        return "an unknown amount"
    return _number(float(np.median(known))) if _agree(known) else _OR.join(map(_number, values))


def _span(values: np.ndarray) -> str:
    if _agree(values, _NEGLIGIBLE):
        return _number(float(np.median(values)))
    return f"{_number(values.min())} to {_number(values.max())}"


def _agree(values: np.ndarray, share: float = _AGREE) -> bool:
    return bool(np.ptp(values) <= share * np.abs(values).max())


def _without_traces(values: np.ndarray, size: float) -> np.ndarray:
    return np.where(np.abs(values) < _NEGLIGIBLE * size, 0, values)


def _number(value: float) -> str:
    if np.isnan(value):
        return "unknown"
    return "0" if abs(value) < NOTHING else f"{value:.3g}"


def _folded(text: str, indent: int = 6) -> str:
    """In lines, where it is long, and can be."""
    lines = textwrap.wrap(text, 110 - indent, break_long_words=False, break_on_hyphens=False)
    if len(lines) < 2 or not text.isprintable() or "  " in text:
        return _quoted(text)
    return "\n".join([">-", *(f"{' ' * indent}{line}" for line in lines)])


def _quoted(text: str) -> str:
    return yaml.safe_dump(readable(text), default_style='"', allow_unicode=True, width=math.inf).strip()


def _line(text: str) -> str:
    """As it may stand in a comment."""
    return readable(text) if text.isprintable() else _quoted(text)
