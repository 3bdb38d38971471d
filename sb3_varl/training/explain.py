"""What is said of what came back of a query, and why it is nothing, and what to do about it."""

import logging
import math
from collections import Counter

from sb3_varl.training.query_queue import Outcome
from sb3_varl.wording import count

logger = logging.getLogger(__name__)

# Rules that are told of, of those that cannot be used.
_MAX_SHOWN = 3
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


def explain_nothing(outcome: Outcome) -> bool:
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
    return (
        f"Query {outcome.query.index + 1}: {count(len(outcome.accepted), 'answer')} accepted, "
        f"{count(outcome.n_abstained, 'abstention')}, {len(outcome.rejected)} rejected, after {outcome.latency:.1f} s."
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
