"""Cheap signs of whether an advisor understands what it is shown."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from sb3_varl.advice.types import Advice
from sb3_varl.advice.validation import counted
from sb3_varl.algorithms.shaping import DEFAULT_THRESHOLDS
from sb3_varl.preview.episodes import WholeEpisode
from sb3_varl.preview.rollouts import FollowedState
from sb3_varl.rules.rules import LOOKS_BACK, Rules
from sb3_varl.wording import count

# Further apart than this, in a component whose bounds are 2 apart, two actions are different ones.
THRESHOLD = DEFAULT_THRESHOLDS["distance"]
# Of the states: fewer answers are worth a look.
_ENOUGH = 0.75
# Of the distance between answers about different states.
_CLEARLY = 0.75
_N_RESAMPLES, _SIGNIFICANT = 5000, 0.05

_SILENT = (
    'The environment does not say whether it succeeded: it has to put "is_success" into the info of an episode\'s last '
    "step (sb3_varl.SuccessFromReward does, where the reward tells)."
)
PICTURES = "Do answers change with the picture?"
FOLLOWING = "Does following it lead to success?"
WHOLE = "Does it succeed in whole episodes?"


@dataclass(frozen=True)
class Check:
    """
    What was looked at, and what was found.

    :param name: What was looked at
    :param passed: Whether that is as it should be, or ``None`` if it cannot be told
    :param text: What was found, in a sentence or two
    """

    name: str
    passed: bool | None
    text: str


def distances(first: Advice, second: Advice, space: spaces.Box) -> np.ndarray:
    """
    Tell how far apart two answers are, in the component where they differ most, the bounds being 2 apart.

    :param first: Advice
    :param second: Other advice about the same states
    :param space: The action space
    :return: A distance for each state that both have an action for
    """
    pairs = [(a, b) for a, b in zip(first.actions, second.actions, strict=True) if a is not None and b is not None]
    half = _half_width(space)
    return np.array([np.max(np.abs((np.asarray(a, np.float64) - b) / half)) for a, b in pairs])


def _half_width(space: spaces.Box) -> np.ndarray:
    """Of the bounds; a component that has none, or only one value, is taken as it is."""
    half = (space.high.astype(np.float64) - space.low) / 2
    return np.where(np.isfinite(half) & (half > 0), half, 1.0)


def answered(advice: Advice) -> Check:
    """
    Count answers, abstentions and rejections.

    :param advice: The advice
    :return: Whether most states have an answer
    """
    n_states = len(advice.actions)
    n_answered = sum(action is not None for action in advice.actions)
    rejected = counted(advice.rejected, advice.actions)
    reasons = Counter(rejection.reason.replace("_", " ") for rejection in rejected)
    n_rejected = sum(rejection.state is not None for rejection in rejected)
    have = "has" if 1 in (n_answered, n_states) else "have"
    text = f"{n_answered} of {count(n_states, 'state')} {have} an answer that can be used."
    if n_states - n_answered - n_rejected > 0:
        text += f" {count(n_states - n_answered - n_rejected, 'abstention')}."
    if reasons:
        text += " Rejected: " + ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()) + "."
        example = next((rejection.example for rejection in rejected if rejection.example), "")
        text += f" For instance, {example}." if example else ""
    is_enough: bool | None = n_answered >= _ENOUGH * n_states
    if not is_enough and not n_rejected and isinstance(advice.standing, Rules) and advice.standing.looks_back:
        is_enough, text = None, f"{text} {LOOKS_BACK}"
    return Check("Does it answer?", is_enough, text)


def differs_between_states(advice: Advice, space: spaces.Box) -> Check:
    """
    See whether the advice depends on the state.

    :param advice: The advice
    :param space: The action space
    :return: Whether not all of it is the same
    """
    name = "Do answers differ between states?"
    actions = [np.asarray(action, np.float64).ravel() for action in advice.actions if action is not None]
    if len(actions) < 2:
        return Check(name, None, "Fewer than two answers, so there is nothing to compare.")
    shares = np.asarray(actions) / (2 * _half_width(space).ravel())
    n_different = len(np.unique(np.round(shares, 3), axis=0))
    spread = float(np.mean(np.ptp(shares, axis=0)))
    text = (
        f"{count(n_different, 'different action')} for {len(actions)} states, "
        f"covering {spread:.0%} of the bounds on average."
    )
    if n_different == 1:
        text += " A model that says the same everywhere does not look."
    return Check(name, n_different > 1, text)


def agrees_with_itself(advice: Advice, again: Advice, space: spaces.Box) -> Check:
    """
    Compare two answers to the same question, with answers about different states as the measure.

    :param advice: The advice
    :param again: The advice when asked a second time
    :param space: The action space
    :return: Whether answers about the same state are clearly closer together
    """
    name = "Does it say the same when asked twice?"
    same = distances(advice, again, space)
    other = distances(advice, dataclasses.replace(again, actions=[*again.actions[1:], *again.actions[:1]]), space)
    if len(same) < 2 or not len(other):
        return Check(name, None, "Fewer than two states were answered twice, so there is nothing to compare.")
    share, apart, usually = float(np.mean(same <= THRESHOLD)), float(np.median(same)), float(np.median(other))
    text = (
        f"The second answer about a state is {apart:.2f} away from the first (median, bounds are 2 apart), and "
        f"{usually:.2f} from one about another state. {share:.0%} are within {THRESHOLD:g}, the gate's threshold."
    )
    return Check(name, apart == 0 or apart <= _CLEARLY * usually, text)


def changes_with_the_picture(advice: Advice, again: Advice, exchanged: Advice, space: spaces.Box) -> Check:
    """
    Compare answers about the same numbers, with the right pictures and with those of other states.

    To a model that does not look, all three are the same question. So it is tested whether the third answer to each
    state stands out from the other two by more than it would if any of the three were picked at random.

    :param advice: The advice
    :param again: The advice when asked a second time
    :param exchanged: The advice with another state's picture
    :param space: The action space
    :return: Whether the pictures make a difference
    """
    triples = zip(advice.actions, again.actions, exchanged.actions, strict=True)
    answered_thrice = [triple for triple in triples if all(action is not None for action in triple)]
    if not answered_thrice:
        return Check(PICTURES, None, "No state was answered each time.")
    first, second, third = (Advice(actions) for actions in zip(*answered_thrice, strict=True))
    same = distances(first, second, space)
    # How far the third, the second and the first stand apart from the other two.
    apart = np.stack([distances(first, third, space), distances(first, second, space), distances(second, third, space)])
    standing_out = np.stack([apart[0] + apart[2], apart[1] + apart[2], apart[0] + apart[1]])
    picked = np.random.default_rng(0).integers(3, size=(_N_RESAMPLES, len(same)))
    by_chance = standing_out[picked, np.arange(len(same))].sum(axis=1)
    p_value = float(np.mean(by_chance >= standing_out[0].sum() - 1e-9))
    text = (
        f"With the pictures of other states, and the same numbers, answers are {np.mean(standing_out[0]) / 2:.2f} away "
        f"from those with the right ones, and these {np.mean(same):.2f} from each other (means; p = {p_value:.2g})."
    )
    if p_value < _SIGNIFICANT:
        return Check(PICTURES, True, f"{text} It looks at them.")
    return Check(PICTURES, None, f"{text} It may go by the numbers; frames=False would then be cheaper.")


def leads_to_success(followed: Sequence[FollowedState], visited: Sequence[FollowedState]) -> Check:
    """
    Compare following the advice with what happened without.

    :param followed: What came of following it, for each state
    :param visited: What came of the same states when they were visited
    :return: Whether more succeeded, and at least half of them; no answer where it is more and less than half
    """
    if not any(result.n_advised for result in followed):
        return Check(FOLLOWING, None, "There was no advice to follow.")
    reward, reward_before = (float(np.mean([result.reward for result in results])) for results in (followed, visited))
    returns = (
        f"The mean return is {reward:.3g}, and was {reward_before:.3g} when the states were visited, without advice."
    )
    if all(result.success is None for result in followed):
        return Check(FOLLOWING, None, f"{returns} {_SILENT}")
    wins, wins_before = (sum(bool(result.success) for result in results) for results in (followed, visited))
    within = _after([result.n_steps for result in followed if result.success], ", within {} on average")
    text = (
        f"{wins} of {count(len(followed), 'copy', 'copies')} of the environment succeeded{within}, and {wins_before} "
        f"when the states were visited, without advice. {returns}"
    )
    broken_off = [result.n_steps for result in followed if not (result.success or result.has_ended)]
    if wins == wins_before and broken_off:
        text += f" Success may be further away than {count(max(broken_off), 'step')}: follow longer."
    if wins == wins_before:
        text += " See whether the frames go towards it."
    elif wins_before < wins < len(followed) / 2:
        text += " That is more than before, and still less than half."
        return Check(FOLLOWING, None, text)
    return Check(FOLLOWING, None if wins == wins_before else wins > wins_before, text)


def succeeds_in_whole_episodes(followed: Sequence[WholeEpisode]) -> Check:
    """
    Tell how often advice succeeds that is followed from the start of an episode to its end.

    :param followed: What came of each episode
    :return: Whether at least half of them succeeded; no answer where it is fewer
    """
    if not any(whole.n_advised for whole in followed):
        return Check(WHOLE, None, "There was no advice to follow.")
    wins = [whole.n_steps for whole in followed if whole.episode.succeeded]
    losses = [whole.n_steps for whole in followed if not whole.episode.succeeded]
    reward = float(np.mean([whole.reward for whole in followed]))
    is_told = any(whole.episode.succeeded is not None for whole in followed)
    if is_told:
        text = f"{len(wins)} of {count(len(followed), 'episode')} succeeded in which it was followed from start to end"
        if not (wins and losses and len({*wins, *losses}) == 1):  # where success ends no episode, all are as long
            text += _after(wins, ", which took {} on average") + _after(losses, "; the others had {}")
    else:
        text = f"It was followed in {count(len(followed), 'episode')} from start to end" + _after(
            losses, ", of {} on average"
        )
    text += f". The mean return is {reward:.3g}."
    n_before = sum(whole.succeeded_before and not whole.episode.succeeded for whole in followed)
    n_endless = sum(not whole.has_ended for whole in followed)
    if n_endless:
        text += (
            f" {n_endless} had not ended after {max(whole.n_steps for whole in followed)} steps. An episode needs an "
            "end, such as max_episode_steps of gym.register."
        )
    if n_endless == len(followed):
        return Check(WHOLE, None, text)
    if not is_told:
        return Check(WHOLE, None, f"{text} {_SILENT}")
    if n_before:
        text += (
            f' In {n_before}, an earlier step succeeded and the last did not. Training goes by info["is_success"] of '
            "the last step: have it say whether any did, if once is enough."
        )
    passed = None if 0 < len(wins) < len(followed) / 2 else len(wins) > 0
    return Check(WHOLE, passed, text)


def _after(n_steps: Sequence[int], words: str) -> str:
    return words.format(count(round(float(np.mean(n_steps))), "step")) if n_steps else ""
