"""Any function as an advisor: a controller, a planner, another policy."""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sb3_varl.advice.types import (
    Advice,
    AdviceQuery,
    Briefing,
    Observation,
    Rejection,
    StandingAdvice,
)
from sb3_varl.advice.validation import as_numbers
from sb3_varl.arguments import check_bool
from sb3_varl.redaction import example_of

logger = logging.getLogger(__name__)


class FunctionAdvisor:
    """
    An advisor made of any function: a controller, a planner, another policy.

    The function may return an array, a list, a tensor, or a number where an action has one component; a batch of one
    action will do. A state in which it raises costs that state only, and is rejected as ``raised``.

    :param function: From an observation (unbatched, original units, its own to change) to an action in the
        environment's units, or to ``None`` where it has no advice
    :param clip: Whether an action beyond the bounds is clipped to them, as environments do themselves. Otherwise it is
        rejected as ``out_of_bounds``
    :raises TypeError: if ``function`` cannot be called
    """

    def __init__(self, function: Callable[[Any], Any], *, clip: bool = False) -> None:
        if not callable(function):
            raise TypeError(
                f"FunctionAdvisor takes a function from an observation to an action, got {function!r}. "
                "For an SB3 policy pass lambda observation: policy.predict(observation)[0]."
            )
        check_bool("clip", clip)
        self.function = function
        self.clip = clip

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Call the function once for each state that advice is wanted of.

        :param query: The states in question
        :return: The function's actions
        """
        space = query.briefing.action_space
        actions: list[np.ndarray | None] = [None] * len(query.states)
        rejected: list[Rejection] = []
        for i in query.wanted:
            try:
                # A controller may work in place: on what it is given, and on what it returns the next time.
                action = self.function(copy.deepcopy(query.states[i].observation))
            except Exception as error:  # of somebody else's code
                rejected.append(Rejection("raised", i, example_of(error)))
                continue
            if action is None:
                continue
            numbers = as_numbers(action, space)
            if isinstance(numbers, str):
                rejected.append(Rejection(numbers, i, example_of(action)))
            else:
                actions[i] = np.clip(numbers, space.low, space.high) if self.clip else numbers
        self._warn_of_exceptions(query, [rejection for rejection in rejected if rejection.reason == "raised"])
        return Advice(actions, rejected)

    def standing(self, briefing: Briefing) -> StandingAdvice:
        """
        Say what it advises in any state.

        :param briefing: What stays the same over all queries
        :return: The function, with its actions clipped if they are to be
        """
        space = briefing.action_space

        def advise(observation: Observation, previous: Observation | None = None, /) -> Any:
            action = self.function(observation)
            numbers = None if action is None else as_numbers(action, space)
            return np.clip(numbers, space.low, space.high) if self.clip and isinstance(numbers, np.ndarray) else action

        return advise

    @staticmethod
    def _warn_of_exceptions(query: AdviceQuery, raised: Sequence[Rejection]) -> None:
        if raised:
            logger.warning(
                "The function raised in %d of the %d states of query %d, first in state %s: %s",
                len(raised),
                len(query.wanted),
                query.index + 1,
                raised[0].state,
                raised[0].example,
            )
