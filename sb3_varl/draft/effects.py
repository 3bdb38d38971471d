"""What actions do, in words."""

from collections.abc import Iterable, Sequence

import numpy as np

from sb3_varl.draft.measure import Facts
from sb3_varl.draft.parts import Part
from sb3_varl.draft.probe import N_ACTED, N_STARTS
from sb3_varl.draft.words import AGREE, NEGLIGIBLE, OR, digits, each, without_traces
from sb3_varl.rules.names import spell

# What is told of for each component of the action: those numbers that go farthest by their range, and a fifth as far as
# the first at least; of others their names, of so many at most.
_MOST_TOLD, _FAR_ENOUGH, _MOST_NAMED = 3, 0.2, 6
# Below this share of its range, nothing is told of a number's motion, even if there is nothing else to be told of.
_LEAST_TOLD = 1e-4


def action_meaning(facts: Facts, component: int, names: dict[int, str]) -> str:
    """
    Say what a component of the action does.

    :param facts: What was measured
    :param component: Which it is
    :param names: What rules call the numbers
    :return: One sentence
    """
    effects = facts.effects[component]
    high, low, rest = (digits(bound[component]) for bound in (facts.action_high, facts.action_low, facts.rest))
    share = next((share for share in (NEGLIGIBLE, _LEAST_TOLD) if _reach(facts, effects, names, share)), None)
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
    return bool(np.nanmax(np.abs(up + down), initial=0.0) <= AGREE * np.nanmax(np.abs(up), initial=0.0))


def _moves(facts: Facts, effect: dict[int, np.ndarray], names: dict[int, str], rest: str, share: float) -> str:
    moved = []
    for number, after in effect.items():
        if facts.is_motion(after, number, share):
            first, acted, rested = map(each, without_traces(after, np.nanmax(np.abs(after))).T)
            moved.append(
                f"{names[number]} by {first} in a step, by {acted} in {N_ACTED}, and by {rested} in all if {N_ACTED} "
                f"steps of {rest} follow"
            )
    return ", and ".join(moved)


def _undoes(facts: Facts, component: int, bound: int, numbers: Iterable[int], names: dict[int, str], other: str) -> str:
    """What a bound moves that moves nothing at the start, such as that which opens an open gripper."""
    changes = {number: facts.undone[component, bound, :, number] for number in numbers}
    moved = [
        f"{names[number]} by {each(change)}" for number, change in changes.items() if facts.is_motion(change, number)
    ]
    if not moved:
        return "none of it"
    return f"none of it at the start, but after {N_ACTED} steps of {other} it moves {', and '.join(moved)} in {N_ACTED}"


def starts_told(facts: Facts, parts: Sequence[Part]) -> str:
    """
    Say from where effects were measured that depend on it.

    :param facts: What was measured
    :param parts: What has a name
    :return: One sentence
    """

    def values(part: Part, start: np.ndarray) -> str:
        numbers = ", ".join(digits(start[number]) for number in part.numbers)
        return f"[{numbers}]" if len(part.numbers) > 1 else numbers

    relations = facts.relations
    told = [
        f"{spell(part.name)} {OR.join(values(part, start) for start in facts.at_start[:N_STARTS])}"
        for part in parts
        if np.ptp(facts.at_start[:N_STARTS, part.numbers], axis=0).any()
        and not {*relations.change_of, *relations.difference_of}.issuperset(part.numbers)
    ]
    effects = f"where an effect is {OR.join('abc'[:N_STARTS])}, it is from"
    return f"{effects} the starts with {', '.join(told)}, in this order" if told else f"{effects} different starts"
