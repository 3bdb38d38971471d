"""What is said of queries that are not asked, of what came back of the others, and what to do about it."""

import logging
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from gymnasium import spaces

from sb3_varl.advice.pictures import is_picture
from sb3_varl.advice.types import AdviceWarning, Briefing
from sb3_varl.rules.rules import LOOKS_BACK, Rules
from sb3_varl.training.query_queue import Outcome
from sb3_varl.training.track_record import ENOUGH
from sb3_varl.training.until_success import UntilSuccess
from sb3_varl.wording import count

logger = logging.getLogger(__name__)

# Rules that are told of, of those that cannot be used.
_MAX_SHOWN = 3
# Disagreement at the cutoff above which it is told: among the benchmark's runs, those above it ended lower.
_MUCH_DISAGREEMENT = 0.25
# By how much the agent's success at the cutoff falls short of the advice's for it to be told that it follows it too
# loosely, and how few gates are open then.
_FAR_SHORT, _FEW_OPEN = 0.5, 0.15
# What to do about answers that cannot be used, by the reason.
_HINTS = {
    "out_of_bounds": " Let it keep to the bounds, {low} to {high}; FunctionAdvisor(f, clip=True) clips what f returns.",
    "wrong_shape": " Let it return {n} for a state.",
    "not_numbers": " Let it return {n} for a state; of an SB3 policy, policy.predict(observation)[0].",
}


def report(outcome: Outcome, step: int, cutoff: int | None) -> None:
    """
    Log what went wrong with a query, and if its answers are too late.

    :param outcome: What became of it
    :param step: The run's environment steps
    :param cutoff: The cutoff that the answers came after, ``None`` if they are in time
    """
    name, n_accepted = _name(outcome), len(outcome.accepted)
    if outcome.error is not None:
        logger.warning(
            "%s failed and training goes on with %d of %d answers. %s",
            name,
            n_accepted,
            len(outcome.states),
            outcome.error,
        )
    else:
        for failure in outcome.failures:
            logger.warning("%s: request %d: %s", name, failure.request, failure.text)
    lost = [rejection for rejection in outcome.rejected if rejection.state is None and rejection.example]
    if outcome.advice.standing is not None and lost:
        shown = "; ".join(rejection.example for rejection in lost[:_MAX_SHOWN])
        more = f"; and {len(lost) - _MAX_SHOWN} more" if len(lost) > _MAX_SHOWN else ""
        logger.warning("%s: of the rules, this cannot be used: %s%s", name, shown, more)
    if cutoff is not None and n_accepted:
        logger.warning(
            "%s: %s came at step %d, after the cutoff at %d, too late to be used. Ask earlier, raise the model's "
            "shaping_steps, or make training wait with blocking=True.",
            name,
            count(n_accepted, "answer"),
            step,
            cutoff,
        )
    if _keeps_rules(outcome):
        logger.info("%s: the model keeps its rules.", name)


def nothing(outcome: Outcome) -> bool:
    """
    Log why a query brought nothing, if it did and nothing was said of it.

    :param outcome: What became of it
    :return: Whether it was said
    """
    said_why = outcome.error is not None or len(outcome.failures) > 0 or _keeps_rules(outcome)
    said_why = said_why or outcome.advice.standing is not None  # of other states than these
    if not outcome.states or outcome.accepted or said_why:
        return False
    logger.warning("%s brought no advice: %s", _name(outcome), why_nothing(outcome))
    return True


def summary(outcome: Outcome) -> str:
    """
    Put together a line on a query.

    :param outcome: What became of it
    :return: How many answers there are
    """
    standing = outcome.advice.standing
    needs_more = outcome.n_abstained and isinstance(standing, Rules) and standing.looks_back
    if isinstance(standing, Rules) and not outcome.rejected and not outcome.n_abstained:
        return f"Query {outcome.query.index + 1}: {count(len(standing), 'rule')}, after {outcome.latency:.1f} s."
    return (
        f"Query {outcome.query.index + 1}: {count(len(outcome.accepted), 'answer')} accepted, "
        f"{count(outcome.n_abstained, 'abstention')}, {len(outcome.rejected)} rejected, after {outcome.latency:.1f} s."
        + (f" {LOOKS_BACK}" if needs_more else "")
    )


def _name(outcome: Outcome) -> str:
    return f"Query {outcome.query.index + 1} at step {outcome.query.step}"


def _keeps_rules(outcome: Outcome) -> bool:
    keeps = outcome.query.followed is not None and outcome.advice.standing is None
    return keeps and outcome.n_abstained == len(outcome.states)


def why_nothing(outcome: Outcome) -> str:
    """
    Put into words why there is no advice.

    :param outcome: What became of a query
    :return: The commonest reason, with an example of it and a hint
    """
    reasons = Counter(rejection.reason for rejection in outcome.rejected)
    if not reasons or outcome.n_abstained > max(reasons.values()):
        return f"the advisor abstained in {count(outcome.n_abstained, 'state')}."
    ((reason, n_rejections),) = reasons.most_common(1)
    examples = [r for r in outcome.rejected if r.reason == reason and r.example]
    text = f"{count(n_rejections, 'time')} {reason.replace('_', ' ')}"
    if examples:
        first = examples[0]
        # Rules that cannot be used are the same in all states.
        is_of_state = first.state is not None and (
            len(examples) == 1 or {r.example for r in examples} != {first.example}
        )
        text += f", for instance {first.example}" + (f" in state {first.state}" if is_of_state else "")
    space = outcome.query.briefing.action_space
    hint = _HINTS.get(reason, "").format(
        low=space.low.tolist(), high=space.high.tolist(), n=count(math.prod(space.shape), "number")
    )
    return f"{text}.{hint}"


# ---- Queries that are not asked, or not answered


def could_be_rules(briefing: Briefing) -> None:
    """
    Log before training that an advisor would be asked for rules if numbers had names, where there are any to name.

    :param briefing: What the advisor is told
    """
    space = briefing.observation_space
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    has_numbers = any(isinstance(part, spaces.Box) and not is_picture(part) for part in parts)
    if has_numbers and not (briefing.sheet and briefing.sheet.observation):
        logger.warning(
            "The advisor is asked for actions in some states. Rules, which advise in all of them, take a task sheet "
            "that names the numbers of an observation; AdvisorCallback(sheet=sb3_varl.draft_sheet(env)) measures one. "
            'form="actions", among advisor_kwargs, says that single actions are meant.'
        )


def past_cutoff(step: int, cutoff: int, ended_by: Literal["success", "somebody"] | None) -> None:
    """
    Warn before training that the cutoff has come.

    :param step: The model's environment steps
    :param cutoff: Step from which on guidance does not count
    :param ended_by: What ended the advice before ``shaping_steps``: that the agent succeeded by itself, or somebody's
        call of ``end_shaping()``; ``None`` if nothing did
    """
    remedy = {
        "success": "The agent succeeded by itself by then; set model.shaping_ended = None if it should be.",
        "somebody": "model.end_shaping() was called there; set model.shaping_ended = None if it should be.",
        None: "Load it with a higher shaping_steps if it should be.",
    }[ended_by]
    _warn(
        f"The model has {step} steps behind it, and its cutoff was at step {cutoff}: the advisor will not be asked. "
        f"{remedy}"
    )


def after_cutoff(triggers: Sequence[int], n_queries: int, cutoff: int, step: int) -> None:
    """
    Warn before training of queries that would come after the cutoff.

    :param triggers: Their steps
    :param n_queries: Number of queries of the run
    :param cutoff: Step from which on guidance does not count
    :param step: The run's environment steps
    """
    _warn(
        f"{len(triggers)} of {count(n_queries, 'query')} will not be asked: the model ignores guidance from step "
        f"{cutoff} on, training is at step {step}, and they would come at {list(triggers)}."
    )


def beyond_end(triggers: Sequence[int], n_queries: int, last_step: int) -> None:
    """
    Warn before training of queries that it does not come to.

    :param triggers: Their steps
    :param n_queries: Number of queries of the run
    :param last_step: The run's last environment step
    """
    _warn(
        f"{len(triggers)} of {count(n_queries, 'query')} will not be asked: they are due at {list(triggers)}, and "
        f"training ends at step {last_step}. Train longer, or ask earlier with first_query and query_freq."
    )


def not_reached(triggers: Sequence[int], n_queries: int, step: int) -> None:
    """
    Warn after training of queries that it did not come to.

    :param triggers: Their steps
    :param n_queries: Number of queries of the run
    :param step: The run's environment steps
    """
    _warn(
        f"{len(triggers)} of {count(n_queries, 'query')} were not asked: they are due at {list(triggers)}, and "
        f"training ended at step {step}. Train longer, or ask earlier with first_query and query_freq."
    )


def without_episodes(n_queries: int, n_followed: int, cutoff: int | None = None) -> None:
    """
    Log that corrections were not asked for, for want of episodes to correct the rules by.

    :param n_queries: How many corrections
    :param n_followed: Number of episodes in which the rules were followed to the end
    :param cutoff: The cutoff, if they could be asked for no longer because it came, and not because training ended
    """
    if cutoff is None:
        when, remedy = "when training ended", "Train longer, or raise roll_in."
    else:
        when, remedy = f"when the cutoff at {cutoff} came", "Raise roll_in, or the model's shaping_steps."
    logger.warning(
        "%s not asked %s: a correction waits for %d episodes in which the rules are followed to the end, and there "
        "were %d. %s",
        count(n_queries, "query was", "queries were"),
        when,
        ENOUGH,
        n_followed,
        remedy,
    )


def not_answered(n_queries: int, cutoff: int) -> None:
    """
    Log that answers were waited for in vain.

    :param n_queries: To how many queries
    :param cutoff: Step from which on guidance does not count
    """
    logger.warning(
        "%s not answered when the cutoff at %d came, and nothing more is asked. Ask earlier, or make training wait "
        "with blocking=True.",
        count(n_queries, "query was", "queries were"),
        cutoff,
    )


def not_learnt(disagreement: float, cutoff: int) -> None:
    """
    Log that the policy does something else than the advice in many states when this ends, if it does.

    :param disagreement: Share of the latest guidance that is far from what the policy does
    :param cutoff: Step from which on guidance does not count
    """
    if disagreement > _MUCH_DISAGREEMENT:
        logger.warning(
            "The cutoff is at step %d, and in %.0f%% of the states that the advice was about lately, the policy does "
            "something else (varl/disagreement). Raise shaping_steps, or have advice that is learnt sooner: actions "
            "that change gradually, few phases with wide margins, small gains.",
            cutoff,
            100 * disagreement,
        )


def agrees_and_fails(gate_open: float, own: float, advised: float, cutoff: int) -> None:
    """
    Log that the policy does nearly what the advice says and seldom succeeds when this ends, if it is so.

    :param gate_open: Share of the latest guidance whose gate is open
    :param own: Share of the agent's own episodes that succeed
    :param advised: Share of those that do in which the advice is followed to the end
    :param cutoff: Step from which on guidance does not count
    """
    if gate_open < _FEW_OPEN and advised - own > _FAR_SHORT:
        logger.warning(
            "The cutoff is at step %d. The advice succeeds in %.0f%% of the episodes in which it is followed, and the "
            "agent by itself in %.0f%% of the last ones, although the gates take it to agree with the advice in "
            "%.0f%% of the states: what decides is smaller than gate_threshold. Lower that, to 0.1 for "
            'instance, or have all advice count with gate="always".',
            cutoff,
            100 * advised,
            100 * own,
            100 * (1 - gate_open),
        )


def holds_little(n_followed: int, success: float, cutoff: int) -> None:
    """
    Log that guidance will count less after the cutoff than the advice may deserve.

    :param n_followed: Number of episodes in which the advice was followed to the end, and that told of success
    :param success: Share of successes that it holds at most
    :param cutoff: Step from which on guidance counts by that
    """
    logger.warning(
        "The advice ends at step %d, and %d of the %d episodes in which it would have to be followed to the end told "
        "how well it does. The others count as failures, so that guidance counts again only while the agent succeeds "
        "in less than %.0f%% of its episodes. Raise shaping_steps or roll_in, or max_executed_steps if it is set.",
        cutoff,
        n_followed,
        ENOUGH,
        100 * success,
    )


def followed_too_seldom(n_episodes: float, horizon: int, cutoff: int) -> None:
    """
    Log early that nobody will know how well the advice does when it ends.

    :param n_episodes: Number of episodes that will follow it to the end
    :param horizon: Steps of an episode
    :param cutoff: Step from which on guidance counts by how well the advice does
    """
    logger.warning(
        "Until the advice ends at step %d, it is followed to the end in about %d episodes, if they have %d steps. It "
        "takes %d to tell how well it does, by which guidance counts afterwards (hold). Raise shaping_steps or "
        "roll_in, or max_executed_steps if it is set.",
        cutoff,
        n_episodes,
        horizon,
        ENOUGH,
    )


def put_off(n_queries: int) -> None:
    """
    Log that queries wait for a run that goes on.

    :param n_queries: How many
    """
    logger.warning(
        "%s waiting for the one before when training ended, and not asked, unless it goes on with "
        "reset_num_timesteps=False. Ask earlier, or make training wait with blocking=True.",
        count(n_queries, "query was", "queries were"),
    )


def no_advice(totals: Mapping[str, int]) -> None:
    """
    Log after training that none of the run's queries brought anything.

    :param totals: What is logged under ``advice/``
    """
    reasons = [
        f"{name.removeprefix('rejected_').replace('_', ' ')}: {n}"
        for name, n in totals.items()
        if n > 0 and (name == "abstained" or name.startswith("rejected_"))
    ]
    logger.warning(
        "There was no advice: %s about %s brought nothing (%s). What was trained is what it would be without an "
        "advisor.",
        count(totals["queries"], "query"),
        count(totals["states"], "state"),
        ", ".join(reasons) or "failed",
    )


def success_untold(name: str, value: UntilSuccess | bool) -> None:
    """
    Warn after training that nobody knows when the advice should have ended, or counted again.

    :param name: The argument of :class:`~sb3_varl.AdvisorCallback` that needs to know
    :param value: What it is
    """
    _warn(
        f"{name} is {value!r}, but no episode said whether it succeeded. The environment has to put "
        '"is_success" into the info of an episode\'s last step; sb3_varl.SuccessFromReward does, where the reward '
        "tells."
    )


def advice_unmeasured(n_followed: int) -> None:
    """
    Warn after training that nobody knows how often the advice succeeds.

    :param n_followed: Number of episodes in which it was followed to the end
    """
    _warn(
        f'until_success is "advice", which takes {ENOUGH} episodes in which the advice is followed to the end, and '
        f"there were {n_followed}, so that it did not end by success. Train longer, or raise roll_in or "
        "max_executed_steps."
    )


def _warn(text: str) -> None:
    warnings.warn(text, AdviceWarning, stacklevel=4)
