"""What numbers are, in words."""

from collections.abc import Sequence

import numpy as np

from sb3_varl.draft.measure import Facts
from sb3_varl.draft.parts import Part, constant
from sb3_varl.draft.probe import N_ACTED
from sb3_varl.draft.words import AGREE, digits, span, without_traces


def part_meaning(facts: Facts, part: Part, parts: Sequence[Part]) -> str:
    """
    Say what numbers are.

    :param facts: What was measured
    :param part: The numbers
    :param parts: All that has a name
    :return: One sentence
    """
    numbers, ranges = part.numbers, facts.high - facts.low
    if set(numbers) <= {*constant(facts)}:
        values = [digits(facts.low[number]) for number in numbers]
        return f"always {', '.join(values if len(set(values)) > 1 else values[:1])} in what was tried"
    said = []
    is_still = not facts.most_moved[numbers].any()
    if is_still:
        said.append("drawn at the start of an episode, and the same to its end in what was tried")
    relation = _relation(facts, part, parts)
    if relation:
        said.append(relation)
    elif any(facts.is_motion(facts.at_rest[:, number], number) for number in numbers):
        spans = ", ".join(span(without_traces(facts.at_rest[:, number], ranges[number])) for number in numbers)
        rest = ", ".join(map(digits, facts.rest))
        when = f"at actions of {rest}" if facts.rest.any() else "when nothing acts"
        said.append(f"{when}, changes by {spans} in {2 * N_ACTED} steps")
    period = facts.period[numbers[0]]
    if len(numbers) == 1 and not np.isnan(period):
        said.append(f"an angle, which jumps by {digits(period)} at its ends")
    if not is_still:
        # Next to nothing is told as nothing only where the number may be that.
        smallest = [ranges[number] if facts.low[number] <= 0 <= facts.high[number] else 0.0 for number in numbers]
        starts = (
            span(without_traces(facts.at_start[:, number], size))
            for number, size in zip(numbers, smallest, strict=True)
        )
        said.append(f"at the start {', '.join(starts)}")
    if facts.is_flag[numbers].all():
        said.append(f"either {' or '.join(', '.join(map(digits, ends[numbers])) for ends in (facts.low, facts.high))}")
    else:
        seen = (span(np.array([facts.low[number], facts.high[number]])) for number in numbers)
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
        times = "" if abs(factor - 1) < AGREE else f", times {factor:.3g}"
        return f"by how much {of} changes in a step{times}" if of else ""
    return ""


def _spelt(parts: Sequence[Part], numbers: Sequence[int]) -> str:
    """What rules call numbers of one part, or of several; nothing if some have no name."""
    part = next((part for part in parts if set(numbers) <= set(part.numbers)), None)
    if part is not None:
        return part.spelt(numbers)
    spelt = {number: part.spelt([number]) for part in parts for number in part.numbers}
    return f"[{', '.join(spelt[number] for number in numbers)}]" if spelt.keys() >= set(numbers) else ""
