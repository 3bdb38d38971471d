"""The draft as a person is to go on with it: YAML with what was measured, and room for what only people know."""

import math
import textwrap
from collections.abc import Iterator, Sequence

import yaml

from sb3_varl.advice.types import ActionComponent, TaskSheet
from sb3_varl.arguments import ArgumentError
from sb3_varl.draft.effects import action_meaning, starts_told
from sb3_varl.draft.meanings import part_meaning, resting
from sb3_varl.draft.measure import Facts
from sb3_varl.draft.parts import MEASURED, Part, given_parts, in_runs, made_up_parts, names_of, without_measured
from sb3_varl.draft.probe import N_EPISODES, N_STARTS
from sb3_varl.draft.words import OR
from sb3_varl.rules.rule import readable

_HEAD = """\
# A draft of a task sheet for {name},
# from {episodes} episodes of random actions, and from trying a component of the action at a time, from {starts} starts.
# Check what it says. Give things names, part what does not belong together, and leave out what does not matter. Write
# your own words before "measured:": what follows that is measured anew, in your names, when the same command is given
# this file (--sheet) and another one to write (--out). Say what success is, and what else only you know.
# Then see what a model would be sent:
#   {preview}
"""
_COUNTED = (
    "what actions move is counted from where it would be {resting}; where nothing is said of that, it hardly moves then"
)
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
    names = names_of(facts, parts)
    actions = drafted.action or [ActionComponent(f"action {i}") for i in range(len(facts.effects))]
    if len(actions) != len(facts.effects):
        raise ArgumentError(f"The sheet names {len(actions)} action components, expected {len(facts.effects)}.")
    of = _HEAD.format(name=_line(name), episodes=N_EPISODES, starts=N_STARTS, preview=_line(preview))
    lines = [of.rstrip(), *_field("goal", drafted.goal if goal is None else goal)]
    lines.append("action:" if actions else "action: []")
    meanings = [action_meaning(facts, i, names, [action.name for action in actions]) for i in range(len(facts.effects))]
    for action, meaning in zip(actions, meanings, strict=True):
        words = _joined(without_measured(action.meaning), f"{MEASURED}{meaning}")
        lines += [f"  - name: {_quoted(action.name)}", f"    meaning: {_folded(words)}"]
    lines.append("observation:" if parts else "observation: []")
    meanings += [part_meaning(facts, part, parts) for part in parts]
    for part, meaning in zip(parts, meanings[len(actions) :], strict=True):
        words = _joined(part.words, f"{MEASURED}{meaning}")
        lines += [f"  - name: {_quoted(part.name)}", *_place_of(part), f"    meaning: {_folded(words)}"]
    lines += [f"  # {remark}" for remark in _left_out(facts)]
    lines += [f"# {remark}" for remark in _remarks(facts)]
    for word in ("success", "sizes", "lag"):
        lines += _field(word, getattr(drafted, word))
    notes = [_COUNTED.format(resting=resting(facts))] if actions else []
    notes += [starts_told(facts, parts)] if any(OR in meaning for meaning in meanings) else []
    staying = [action.name for action, stays in zip(actions, facts.stays, strict=True) if stays]
    if facts.noise.any():
        notes.append(
            "what actions move is uncertain, because two episodes of one seed and the same actions were not the same"
        )
    if staying:
        notes.append(f"where something moves, or nothing acts, {', '.join(staying)} held in place what they set")
    measured = f"{MEASURED}{'; '.join(notes)}" if notes else ""
    lines += _field("notes", _joined(without_measured(drafted.notes), measured))
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
    runs = in_runs(
        facts, [number for number in range(len(facts.places)) if not facts.is_finite[number]], lambda i: None
    )
    if runs:
        yield f"infinite, or no numbers, at times: {', '.join(_place(facts, run) for run in runs)}"


def _remarks(facts: Facts) -> Iterator[str]:
    unseeded = [number for number in range(len(facts.places)) if facts.differs_at_start[number]]
    if unseeded:
        places = ", ".join(_place(facts, run) for run in in_runs(facts, unseeded, lambda i: None))
        yield (
            f"Episodes with one seed began with other {places}: draw them by reset's seed (self.np_random), or no run "
            "can be repeated. What is said of starts holds for one of them each."
        )
    if facts.noise.any():
        yield "Two episodes with one seed and the same actions were not the same: what is said of actions is uncertain."
    if facts.max_episode_steps is None:
        yield "Nobody says how long an episode may be (max_episode_steps of gym.register)."
    if facts.says_success is None:
        yield 'No episode ended in what was tried: check that its last step has "is_success" in its info.'
    if facts.says_success is False:
        yield (
            'The last step of an episode has no "is_success" in its info, or not always, by which rules are corrected '
            "and held; sb3_varl.SuccessFromReward puts it there, where the reward tells."
        )


def _place(facts: Facts, run: Sequence[int]) -> str:
    key, start = facts.places[run[0]]
    return f"{'observation' if key is None else _line(key)}[{start}{f':{start + len(run)}' if len(run) > 1 else ''}]"


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
