"""Which numbers are named together, and what they are called."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sb3_varl.advice.types import ObservationSlice
from sb3_varl.arguments import ArgumentError
from sb3_varl.draft.measure import Facts
from sb3_varl.draft.probe import N_STARTS, NOTHING, Place
from sb3_varl.rules.names import check_names, spell

# Before what is measured anew where a draft is written again.
MEASURED = "measured: "


class Part:
    """
    Numbers that have a name.

    :param part: Where they stand
    :param numbers: Which they are among all
    """

    def __init__(self, part: ObservationSlice, numbers: Sequence[int]) -> None:
        self.slice = part
        self.numbers = list(numbers)
        self.name = part.name
        self.words = without_measured(part.meaning)

    def spelt(self, numbers: Sequence[int]) -> str:
        """What rules call some of them, which stand side by side."""
        if list(numbers) == self.numbers:
            return spell(self.name)
        start = self.numbers.index(numbers[0])
        return f"{spell(self.name)}[{start}{f':{start + len(numbers)}' if len(numbers) > 1 else ''}]"


def made_up_parts(facts: Facts) -> list[Part]:
    """
    Put numbers side by side that are of a kind, and make up names.

    :param facts: What was measured
    :return: All numbers but those that are the same as others, last values, or no numbers at times
    """
    relations = facts.relations
    left_out = {*relations.same_as, *relations.before.values()}
    told = [number for number in range(len(facts.places)) if facts.is_finite[number] and number not in left_out]
    never_changed = constant(facts)
    motion = _like_neighbours(
        "constant" if number in never_changed else "changes" if facts.most_moved[number] else "drawn" for number in told
    )
    kinds = {number: (how, *_kind(facts, number)) for number, how in zip(told, motion, strict=True)}
    parts, taken = list[Part](), set[str]()
    for run in in_runs(facts, told, kinds.__getitem__):
        key, start = facts.places[run[0]]
        before = relations.before.get(run[0])
        is_whole = len(run) == sum(other == key for other, _ in facts.places)
        where = "" if is_whole else f" {start}" if len(run) == 1 else f" {start} to {start + len(run) - 1}"
        name = ("observation" if key is None else " ".join(key.split("_"))) + where
        while spell(name) in taken or not spell(name):
            name = f"part {len(parts)} {name}"
        taken.add(spell(name))
        earlier = None if before is None else facts.places[before][1]
        parts.append(Part(ObservationSlice(name, start, start + len(run), key=key, before=earlier), run))
    return parts


def given_parts(facts: Facts, named: Sequence[ObservationSlice]) -> list[Part]:
    """
    Take those of a task sheet.

    :param facts: What was measured
    :param named: Its slices
    :return: The same
    :raises ArgumentError: if one is of numbers that are not there, or they cannot be told apart
    """
    check_names(named)
    numbers = {place: number for number, place in enumerate(facts.places)}
    parts = []
    for part in named:
        places: list[Place] = [(part.key, i) for i in range(part.start, part.stop)]
        if not places or not all(place in numbers for place in places):
            key = "" if part.key is None else f" of {part.key!r}"
            raise ArgumentError(
                f"The sheet's slice {part.name!r} is {part.start} to {part.stop}{key}, which is no part of the numbers "
                f"of an observation: there are {sum(place[0] == part.key for place in facts.places)} of these."
            )
        parts.append(Part(part, [numbers[place] for place in places]))
    return parts


def names_of(facts: Facts, parts: Iterable[Part]) -> dict[int, str]:
    """
    Say what rules call each number, and an angle.

    :param facts: What was measured
    :param parts: What has a name
    :return: For numbers and angles that have one
    """
    names = {number: part.spelt([number]) for part in parts for number in part.numbers}
    for angle, (cosine, sine) in facts.angles.items():
        if cosine in names and sine in names:
            names[angle] = f"atan2({names[sine]}, {names[cosine]})"
    return names


def constant(facts: Facts) -> list[int]:
    """Those that never changed, but for rounding."""
    largest = np.maximum(np.abs(facts.low), np.abs(facts.high))
    return np.flatnonzero(facts.is_finite & (facts.high - facts.low <= np.maximum(1e-5 * largest, NOTHING))).tolist()


def _like_neighbours(kinds: Iterable[str]) -> list[str]:
    """With what is alone among others of one kind taken for one of these, such as a height between two places."""
    kinds = [*kinds]
    for i in range(1, len(kinds) - 1):
        if kinds[i - 1] == kinds[i + 1]:
            kinds[i] = kinds[i - 1]
    return kinds


def _kind(facts: Facts, number: int) -> tuple[object, ...]:
    """What numbers that are named together have in common."""
    relations = facts.relations
    before, change = relations.before.get(number), relations.change_of.get(number)
    moves = [facts.is_motion(facts.effects[:, :, start, :, number], number) for start in range(N_STARTS)]
    return (
        bool(facts.is_flag[number]),
        # Not if it was touched by chance.
        sum(moves) > N_STARTS / 2,
        bool(np.isnan(facts.period[number])),
        None if before is None else before - number,
        number in relations.drawn_as,
        None if change is None else change[0] - number,
        tuple(other - number for other in relations.difference_of.get(number, ())),
        next((group for group in facts.of_length_one if number in group), ()),
    )


def in_runs(facts: Facts, numbers: Sequence[int], kind: Callable[[int], object]) -> list[list[int]]:
    """Those in a row that stand side by side and are of a kind."""
    grouped = itertools.groupby(
        enumerate(numbers), lambda pair: (pair[1] - pair[0], facts.places[pair[1]][0], kind(pair[1]))
    )
    return [[number for _, number in run] for _, run in grouped]


def without_measured(words: str) -> str:
    """What somebody wrote before that which was measured."""
    return words.partition(MEASURED)[0].rstrip("; ")
