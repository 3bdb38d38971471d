"""What actions do, in words."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from sb3_varl.draft.measure import LEAST, Facts
from sb3_varl.draft.parts import Part
from sb3_varl.draft.places import SetPlace
from sb3_varl.draft.probe import N_ACTED, N_STARTS
from sb3_varl.draft.words import AGREE, NEGLIGIBLE, OR, amount, digits, digits_beside, without_traces
from sb3_varl.rules.names import spell

# What is told of for each component of the action: those numbers that go farthest by their range, and a fifth as far as
# the first at least; of others their names, of so many at most.
_MOST_TOLD, _FAR_ENOUGH, _MOST_NAMED = 3, 0.2, 6
# Besides a place that it sets: east and north, for a boat whose speed it sets.
_MOST_TOLD_BESIDES = 2


def action_meaning(facts: Facts, component: int, names: dict[int, str], actions: Sequence[str]) -> str:
    """
    Say what a component of the action does.

    :param facts: What was measured
    :param component: Which it is
    :param names: What rules call the numbers
    :param actions: What all components are called
    :return: One sentence
    """
    # What is said of an angle is not said of its cosine and sine.
    turned = {number for angle, pair in facts.angles.items() if angle in names for number in pair}
    names = {number: name for number, name in names.items() if number not in turned}
    places = [place for place in facts.sets[component] if place.number in names]
    said = [_sets(facts, component, place, names[place.number]) for place in places[:_MOST_TOLD]]
    names = {number: name for number, name in names.items() if number not in [place.number for place in places]}
    effects = facts.effects[component]
    share = next((share for share in (NEGLIGIBLE, LEAST) if facts.reach(effects, names, share)), None)
    if said:
        return "; ".join([*said, *([_moves_besides_places(facts, component, names)] if share == NEGLIGIBLE else [])])
    if share is not None:
        return _moves_alone(facts, component, names, share, _MOST_TOLD)
    if component in facts.together:
        return _moves_together(facts, component, names, actions)
    low, high = (digits(bound[component]) for bound in (facts.action_low, facts.action_high))
    others = [number for number in range(facts.low.size) if number not in names and number not in turned]
    nothing = "nothing that is named" if facts.reach(effects, others, LEAST) else f"nothing{_beyond_noise(facts)}"
    return f"from {low} to {high}; moves {nothing} by itself in the first {N_ACTED} steps of an episode"


def _beyond_noise(facts: Facts) -> str:
    return " that stands out from the noise" if facts.noise.any() else ""


def _sets(facts: Facts, component: int, place: SetPlace, name: str) -> str:
    """Where it takes a number to."""
    commands = (facts.action_low, facts.rest, facts.between, facts.action_high)
    values, size = np.array([place.low, place.rest, place.between, place.high]), abs(place.high - place.low)
    told = [digits_beside(value, size) for value in without_traces(values, size)]
    takes = dict(sorted(zip((command[component] for command in commands), told, strict=True)))
    pairs = ", ".join(f"{digits(command)} -> {value}" for command, value in takes.items())
    is_alone = not any(
        facts.is_motion(effects[..., place.number], place.number)
        for other, effects in enumerate(facts.effects)
        if other != component
    )
    always = "wherever it was" if is_alone else "wherever it was, if the others rest"
    share = f"{place.first:.0%} of the way in a step, {place.acted:.0%} in {N_ACTED}"
    if place.first < 0:
        share = f"{place.acted:.0%} of the way in {N_ACTED} steps"
    return f"sets where {name} goes, {always}: {pairs}; {share}"


def _moves_besides_places(facts: Facts, component: int, names: dict[int, str]) -> str:
    """What else it moves, by how much only of what no component sets."""
    set_by_some = {place.number for places in facts.sets for place in places}
    free = {number: name for number, name in names.items() if number not in set_by_some}
    reach = facts.reach(facts.effects[component], names, NEGLIGIBLE)
    if not reach.keys() & free.keys():
        return _named(facts, component, facts.effects[component], reach, (), names)
    free_reach = {number: reach[number] for number in reach.keys() & free.keys()}
    told = _farthest(facts, free_reach, free_reach)[:_MOST_TOLD_BESIDES]
    moved = _moves_alone(facts, component, {number: names[number] for number in told}, NEGLIGIBLE, len(told))
    return "; ".join(
        part for part in (moved, _named(facts, component, facts.effects[component], reach, told, names)) if part
    )


def _moves_alone(facts: Facts, component: int, names: dict[int, str], share: float, most: int) -> str:
    effects = facts.effects[component]
    high, low, rest = (digits(bound[component]) for bound in (facts.action_high, facts.action_low, facts.rest))
    compared, rest = ("staying", "going back") if facts.stays[component] else (rest, rest)
    reach = facts.reach(effects, names, share)
    # Of what is as before once nothing acts, only its name, if there is something else.
    left = facts.reach(effects[..., -1:, :], names, share) or reach
    far = _farthest(facts, left, reach)[:most]
    up, down = ({number: effect[..., number] for number in far} for effect in effects)
    shares = [share * part for part in _parts_of_range(facts, component)]
    said = "" if compared == "0" else f"compared with {compared}, "
    moves_up = _moves(facts, up, names, rest, shares[0])
    moves_down = _moves(facts, down, names, rest, shares[1])
    # Beside what one bound moves, a part of that counts, too, even if it is little beside the range.
    moves_down = moves_down or _moves(facts, _beside(down, up, AGREE), names, rest, 0.0)
    moves_up = moves_up or _moves(facts, _beside(up, down, AGREE), names, rest, 0.0)
    moves_down = moves_down or _undoes(facts, component, 1, effects, far, names, high)
    if not moves_up:
        said += f"{low} moves {moves_down}; {high} moves {_undoes(facts, component, 0, effects, far, names, low)}"
    elif all(_is_opposite(up[number], down[number]) for number in up):
        said += f"{high} moves {moves_up}; {low} does the opposite"
    else:
        said += f"{high} moves {moves_up}; {low} moves {moves_down}"
    return "; ".join(part for part in (said, _named(facts, component, effects, reach, far, names)) if part)


def _beside(
    effect: dict[int, np.ndarray], other: dict[int, np.ndarray], share: float = NEGLIGIBLE
) -> dict[int, np.ndarray]:
    """Of what a bound does that which is some share of what the other bound does."""
    far = {number: share * np.nanmax(np.abs(after), initial=0.0) for number, after in other.items()}
    return {number: after for number, after in effect.items() if np.nanmax(np.abs(after), initial=0.0) > far[number]}


def _parts_of_range(facts: Facts, component: int) -> tuple[float, float]:
    """How far the upper and the lower bound are from rest, by the farther one."""
    up = facts.action_high[component] - facts.rest[component]
    down = facts.rest[component] - facts.action_low[component]
    farther = max(up, down) or 1.0
    return up / farther, down / farther


def _moves_together(facts: Facts, component: int, names: dict[int, str], actions: Sequence[str]) -> str:
    company, company_bound, effects = facts.together[component]
    high, low = (digits(bound[component]) for bound in (facts.action_high, facts.action_low))
    reach = facts.reach(effects, names, LEAST)
    far = _farthest(facts, reach, reach)[:_MOST_TOLD]
    up, down = ({number: effect[..., number] for number in far} for effect in effects)
    driven = (facts.action_high, facts.action_low)[company_bound][company]
    beside = f"when {actions[company]} is {digits(driven)}, and has been for {N_ACTED} steps"
    moves_up, moves_down = (
        _moves_besides(facts, effect, names) or f"none of it{_beyond_noise(facts)}" for effect in (up, down)
    )
    is_opposite = all(_is_opposite(up[number], down[number]) for number in up)
    then = "does the opposite" if is_opposite else f"moves {moves_down}"
    said = f"moves nothing by itself; but {beside}, {high} moves {moves_up}; {low} {then}"
    return "; ".join(part for part in (said, _named(facts, component, effects, reach, far, names)) if part)


def _farthest(facts: Facts, left: dict[int, float], reach: dict[int, float]) -> list[int]:
    """Of what to tell, by how far numbers are in the end and have been, first what others do not follow from."""
    derived = {*facts.relations.change_of, *facts.relations.difference_of}
    far = [number for number in left if left[number] >= _FAR_ENOUGH * max(left.values())]
    return sorted(far, key=lambda number: (number in derived, -reach[number]))


def _named(
    facts: Facts,
    component: int,
    effects: np.ndarray,
    reach: dict[int, float],
    told: Collection[int],
    names: dict[int, str],
) -> str:
    """What else it moves, by how much at its upper bound only, or at the lower one if that is what moves it."""
    others = sorted(reach.keys() - {*told}, key=lambda number: -reach[number])
    more = " and more" if len(others) > _MOST_NAMED else ""
    sizes = np.nanmax(np.abs(effects), axis=(0, 1, 2), initial=0.0)
    amounts = without_traces(effects, sizes)
    said: dict[str, list[str]] = {}
    for number in others[:_MOST_NAMED]:
        # After some steps, or after the first, where it is as before by then, or the episode has ended.
        when = ((bound, moment) for moment in (1, 0) for bound in range(2))
        found = next((at for at in when if np.nan_to_num(amounts[at[0], :, at[1], number]).any()), None)
        if found is None:
            said.setdefault("later it also moves", []).append(names[number])
            continue
        bound, moment = found
        command = digits((facts.action_high, facts.action_low)[bound][component])
        moved = f"{names[number]} by {amount(amounts[bound, :, moment, number])}"
        steps = (f"a step of {command}", f"{N_ACTED} steps of {command}")[moment]
        said.setdefault(f"in {steps}, it also moves", []).append(moved)
    return "; ".join(f"{what} {', '.join(moved)}" for what, moved in said.items()) + more


def _is_opposite(up: np.ndarray, down: np.ndarray) -> bool:
    if (np.isnan(up) != np.isnan(down)).any():
        return False
    return bool(np.nanmax(np.abs(up + down), initial=0.0) <= AGREE * np.nanmax(np.abs(up), initial=0.0))


def _moves(facts: Facts, effect: dict[int, np.ndarray], names: dict[int, str], rest: str, share: float) -> str:
    moved = []
    for number, after in effect.items():
        if facts.is_motion(after, number, share):
            first, acted, rested = map(amount, without_traces(after, np.nanmax(np.abs(after))).T)
            moved.append(
                f"{names[number]} by {first} after a step, {acted} after {N_ACTED}, and {rested} after {N_ACTED} more "
                f"of {rest}"
            )
    return ", and ".join(moved)


def _moves_besides(facts: Facts, effect: dict[int, np.ndarray], names: dict[int, str]) -> str:
    moved = []
    for number, after in effect.items():
        if facts.is_motion(after, number, LEAST):
            first, acted = map(amount, without_traces(after, np.nanmax(np.abs(after))).T)
            moved.append(f"{names[number]} by {first} after a step and {acted} after {N_ACTED}")
    return ", and ".join(moved)


def _undoes(
    facts: Facts,
    component: int,
    bound: int,
    effects: np.ndarray,
    numbers: Iterable[int],
    names: dict[int, str],
    other: str,
) -> str:
    """What a bound moves that moves next to nothing at the start, such as that which opens an open gripper."""
    this, that = ({number: effects[which, ..., number] for number in numbers} for which in (bound, 1 - bound))
    little = "hardly any of it" if _beside(this, that) else "none of it"
    changes = {number: facts.undone[component, bound, :, number] for number in numbers}
    moved = [
        f"{names[number]} by {amount(change)}" for number, change in changes.items() if facts.is_motion(change, number)
    ]
    little += _beyond_noise(facts)
    if not moved:
        return little
    return f"{little} at the start, but after {N_ACTED} steps of {other} it moves {', and '.join(moved)} in {N_ACTED}"


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
    changes = f"where something moves or changes by {OR.join('abc'[:N_STARTS])}, these are from"
    if facts.differs_at_start.any():
        return f"{changes} {N_STARTS} starts that no seed repeats"
    told = [
        f"{spell(part.name)} {OR.join(values(part, start) for start in facts.at_start[:N_STARTS])}"
        for part in parts
        if np.ptp(facts.at_start[:N_STARTS, part.numbers], axis=0).any()
        and not {*relations.change_of, *relations.difference_of}.issuperset(part.numbers)
    ]
    return f"{changes} the starts with {', '.join(told)}, in this order" if told else f"{changes} different starts"
