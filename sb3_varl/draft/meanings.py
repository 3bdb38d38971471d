"""What numbers are, in words."""

from collections.abc import Iterable, Sequence

import numpy as np

from sb3_varl.draft.measure import Facts
from sb3_varl.draft.parts import Part, constant, names_of
from sb3_varl.draft.probe import N_ACTED
from sb3_varl.draft.words import AGREE, digits, each, span, without_traces

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
        return "; ".join([*said, f"always {alike} in what was tried"])
    is_still = not facts.most_moved[numbers].any()
    if is_still:
        said.append("drawn at the start of an episode, and the same to its end in what was tried")
    relation = _relation(facts, part, parts)
    if relation:
        said.append(relation)
    follows = relation and not facts.relations.change_of.keys() >= {*numbers}
    if not follows and any(facts.is_motion(facts.at_rest[:, number], number) for number in numbers):
        in_words = each if len(numbers) <= _MOST_UNCOUNTED else span
        changes = _listed(in_words(without_traces(facts.at_rest[:, number], ranges[number])) for number in numbers)
        said.append(f"{resting(facts)}, changes by {changes} in {2 * N_ACTED} steps")
    period = facts.period[numbers[0]]
    if len(numbers) == 1 and not np.isnan(period):
        said.append(f"an angle, which jumps by {digits(period)} at its ends")
    if not is_still:
        # Next to nothing is told as nothing only where the number may be that.
        smallest = [ranges[number] if facts.low[number] <= 0 <= facts.high[number] else 0.0 for number in numbers]
        starts = _listed(
            span(without_traces(facts.at_start[:, number], size))
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
