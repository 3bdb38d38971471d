"""What numbers are, in words."""

from collections.abc import Iterable, Sequence

import numpy as np

from sb3_varl.draft.measure import Facts
from sb3_varl.draft.parts import Part, constant, names_of
from sb3_varl.draft.probe import NOTHING
from sb3_varl.draft.words import AGREE, NEGLIGIBLE, digits, each, span, without_traces
from sb3_varl.wording import count

# Up to how many numbers one counts without an index.
_MOST_UNCOUNTED = 4


def part_meaning(facts: Facts, part: Part, parts: Sequence[Part]) -> str:
    """
    Say what numbers are.

    :param facts: What was measured
    :param part: The numbers
    :param parts: All that has a name
    :return: One sentence
    """
    numbers, ranges = part.numbers, facts.high - facts.low
    said = [_wanted(facts, part, parts), *(_length(facts, part, parts, group) for group in facts.of_length_one)]
    said = [words for words in said if words]
    if set(numbers) <= {*constant(facts)}:
        values = [digits(facts.low[number]) for number in numbers]
        alike = ", ".join(values if len(set(values)) > 1 else values[:1])
        return "; ".join([*said, f"always {alike}{_tried(facts, numbers)}"])
    is_still = not facts.most_moved[numbers].any()
    if is_still:
        said.append(f"drawn at the start of an episode, and the same to its end{_tried(facts, numbers)}")
    relation = _relation(facts, part, parts)
    if relation:
        said.append(relation)
    follows = relation and not facts.relations.change_of.keys() >= {*numbers}
    if not follows:
        said += _by_itself(facts, numbers, ranges, comes_back=not relation)
    period = facts.period[numbers[0]]
    if len(numbers) == 1 and not np.isnan(period):
        said.append(f"an angle, which jumps by {digits(period)} at its ends")
    if not is_still:
        # Next to nothing is told as nothing only where the number may be that.
        smallest = [ranges[number] if facts.low[number] <= 0 <= facts.high[number] else 0.0 for number in numbers]
        starts = _listed(
            span(_without_traces_of(facts.at_start[:, number], size))
            for number, size in zip(numbers, smallest, strict=True)
        )
        said.append(f"at the start {starts}")
    if facts.is_flag[numbers].all():
        ends = [" or ".join(map(digits, (facts.low[number], facts.high[number]))) for number in numbers]
        of_each = "" if len(numbers) == 1 else "each "
        said.append(f"{of_each}either {ends[0]}" if len({*ends}) == 1 else f"either {', either '.join(ends)}")
    else:
        seen = _listed(span(np.array([facts.low[number], facts.high[number]])) for number in numbers)
        said.append(f"seen from {seen}")
    return "; ".join(said)


def _tried(facts: Facts, numbers: Sequence[int]) -> str:
    """Where numbers were as they are said to be."""
    size = np.maximum(np.abs(facts.low), np.abs(facts.high))
    moved = {i: facts.held_moved[number] for i, number in enumerate(numbers)}
    told = {i: amount for i, amount in moved.items() if amount > max(NEGLIGIBLE * size[numbers[i]], NOTHING)}
    if not told:
        return " in what was tried"
    amounts = [digits(amount) if len(numbers) == 1 else f"[{i}] {digits(amount)}" for i, amount in told.items()]
    return f" while actions were random, but moved by up to {', '.join(amounts)} where one was held"


def _by_itself(facts: Facts, numbers: Sequence[int], ranges: np.ndarray, comes_back: bool) -> list[str]:
    """What becomes of numbers when nothing acts, if anything does, and on request of those that are back in the end."""
    in_words = each if len(numbers) <= _MOST_UNCOUNTED else span
    changes, goes = facts.at_rest[:, -1].copy(), np.ptp(facts.at_rest, axis=1)
    changes[:, [not facts.is_motion(changes[:, number], number) for number in range(changes.shape[1])]] = 0.0
    goes[:, changes.any(axis=0) | (not comes_back)] = 0.0
    return [
        f"{resting(facts)}, {what} by "
        f"{_listed(in_words(without_traces(amounts[:, number], ranges[number])) for number in numbers)} "
        f"in {count(facts.at_rest.shape[1] - 1, 'step')}"
        for what, amounts in (("changes", changes), ("comes and goes", goes))
        if any(facts.is_motion(amounts[:, number], number) for number in numbers)
    ]


def _without_traces_of(values: np.ndarray, size: float) -> np.ndarray:
    """What is next to nothing beside a size: all of it, or what is so beside the rest as well."""
    largest = np.abs(values).max()
    return without_traces(values, size if largest < NEGLIGIBLE * size else largest)


def resting(facts: Facts) -> str:
    """
    Say when nothing acts.

    :param facts: What was measured
    :return: A few words
    """
    rest = ", ".join(map(digits, facts.rest))
    return f"at actions of {rest}" if facts.rest.any() and not facts.stays.any() else "when nothing acts"


def _listed(spans: Iterable[str]) -> str:
    """One after the other, with their indices if there are many, and once if all are the same."""
    spans = [*spans]
    if len(spans) <= _MOST_UNCOUNTED:
        return ", ".join(spans)
    return f"{spans[0]} each" if len({*spans}) == 1 else ", ".join(f"[{i}] {words}" for i, words in enumerate(spans))


def _wanted(facts: Facts, part: Part, parts: Sequence[Part]) -> str:
    """What gymnasium's keys of goals say."""
    if part.slice.key != "desired_goal":
        return ""
    place_of = {place: number for number, place in enumerate(facts.places)}
    achieved = [place_of.get(("achieved_goal", i)) for i in range(part.slice.start, part.slice.stop)]
    names = _spelt(
        facts, parts, [facts.relations.same_as.get(number, number) for number in achieved if number is not None]
    )
    return f"what {names} is to be, by its key" if names and None not in achieved else ""


def _length(facts: Facts, part: Part, parts: Sequence[Part], group: Sequence[int]) -> str:
    """Of what length numbers are, where that is 1."""
    names = names_of(facts, parts)
    if not {*group} & {*part.numbers} or not {*group} <= names.keys():
        return ""
    of = "" if [*group] == part.numbers else f"{', '.join(names[number] for number in group)} are "
    as_what = {2: "the cosine and sine of an angle are", 3: "a direction is", 4: "a quaternion is"}
    return f"{of}of length 1, as {as_what[len(group)]}"


def _relation(facts: Facts, part: Part, parts: Sequence[Part]) -> str:
    """What numbers are that are the difference of others, or their change, as far as these have names."""
    same = [facts.relations.drawn_as.get(number) for number in part.numbers]
    if all(number is not None for number in same):
        first = _spelt(facts, parts, [number for number in same if number is not None])
        return f"the same as {first}" if first else ""
    differences = [facts.relations.difference_of.get(number) for number in part.numbers]
    changes = [facts.relations.change_of.get(number) for number in part.numbers]
    if all(differences):
        one, other = (_spelt(facts, parts, [pair[which] for pair in differences if pair]) for which in (0, 1))
        return f"{one} - {other}" if one and other else ""
    if all(changes):
        of, factor = (
            _spelt(facts, parts, [change[0] for change in changes if change]),
            np.median([c[1] for c in changes if c]),
        )
        times = "" if abs(factor - 1) < AGREE else f", times {factor:.3g}"
        return f"by how much {of} changes in a step{times}" if of else ""
    return ""


def _spelt(facts: Facts, parts: Sequence[Part], numbers: Sequence[int]) -> str:
    """What rules call numbers of one part, or of several; nothing if some have no name."""
    part = next((part for part in parts if {*numbers} <= {*part.numbers}), None)
    if part is not None:
        return part.spelt(numbers)
    names = [names_of(facts, parts).get(number, "") for number in numbers]
    if not all(names):
        return ""
    return names[0] if len(names) == 1 else f"[{', '.join(names)}]"
