"""Why a query brought nothing, and what to do about it."""

import math
from collections import Counter

from sb3_varl.training.query_queue import Outcome
from sb3_varl.wording import count

# What to do about answers that cannot be used, by the reason.
_HINTS = {
    "out_of_bounds": " Let it keep to the bounds, {low} to {high}; FunctionAdvisor(f, clip=True) clips what f returns.",
    "wrong_shape": " Let it return {n} for a state.",
    "not_numbers": " Let it return {n} for a state; of an SB3 policy, policy.predict(observation)[0].",
}


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
    example = next((r for r in outcome.rejected if r.reason == reason and r.example), None)
    text = f"{count(n_rejections, 'time')} {reason.replace('_', ' ')}"
    if example is not None:
        place = f" in state {example.state}" if example.state is not None else ""
        text += f", for instance {example.example}{place}"
    space = outcome.query.briefing.action_space
    hint = _HINTS.get(reason, "").format(
        low=space.low.tolist(), high=space.high.tolist(), n=count(math.prod(space.shape), "number")
    )
    return f"{text}.{hint}"
