"""A simulation of the mistakes that models make: not noise, but the same mistake in all states."""

from typing import Any

import numpy as np

from sb3_varl.advice import optional
from sb3_varl.advice.types import Advice, AdviceQuery, Advisor, Briefing, Form, StandingAdvice
from sb3_varl.arguments import ArgumentError, check_integer
from sb3_varl.rules import Rules

# Where what is advised goes wrong, and by how much.
MISTAKES = {
    "mirrored": "left and right are taken for one another: dx has the wrong sign",
    "off_target": "everything is done 3 cm beside its place, along x and y",
    "open_gripper": "the gripper is never closed",
    "too_fast": "every motion is at full speed",
    "phase_left_out": "the task's last phase is missing: the first rule, of rules",
    "phase_before": "the action is that of the phase before: the next rule's, of rules",
}
_OF_RULES = frozenset({"phase_left_out", "phase_before"})
_OFFSET = 0.03  # metres
_GAIN = 10.0


class MistakenAdvisor:
    """
    Another advisor's standing advice with a mistake of a model's kind. The mistake is SIMULATED.

    :param advisor: An advisor with standing advice on Meta-World, such as
        :meth:`RulesAdvisor.recorded <sb3_varl.RulesAdvisor.recorded>` or :class:`ScriptedAdvisor`
    :param mistake: One of ``MISTAKES``
    :param corrected_at: Number, from 0, of the query that brings the advice without the mistake, as if a model had
        found it. ``None`` for never
    :raises ArgumentError: if there is no such mistake, or the advisor has no standing advice
    """

    def __init__(self, advisor: Advisor, mistake: str, *, corrected_at: int | None = None) -> None:
        if mistake not in MISTAKES:
            raise ArgumentError(f"mistake is {mistake!r}, expected one of {', '.join(map(repr, MISTAKES))}.")
        if not optional.advises_unasked(advisor):
            raise ArgumentError(f"advisor is {advisor!r}, expected one with standing advice, such as recorded rules.")
        check_integer("corrected_at", corrected_at, low=0, optional=True)
        self.advisor = advisor
        self.mistake = mistake
        self.corrected_at = corrected_at
        self.model = f"simulated/{mistake}"
        self._advice: tuple[StandingAdvice, StandingAdvice] | None = None

    def prepare(self, briefing: Briefing) -> None:
        """
        Have the other advisor prepare, and make the mistake.

        :param briefing: What stays the same over all queries
        :raises ArgumentError: if it has no standing advice, or the mistake is one of rules and the advice is no rules
        """
        optional.prepare(self.advisor, briefing)
        right = optional.standing(self.advisor, briefing)
        if right is None:
            raise ArgumentError(f"advisor is {self.advisor!r}, which has no standing advice here.")
        self._advice = right, mistaken(right, self.mistake)

    def form_for(self, briefing: Briefing) -> Form:
        """
        Say what its answers are.

        :param briefing: What stays the same over all queries
        :return: As of the other advisor
        """
        return optional.form_for(self.advisor, briefing)

    def standing(self, briefing: Briefing) -> StandingAdvice:
        """
        Say what it advises in any state before it is asked.

        :param briefing: What stays the same over all queries
        :return: The advice with the mistake
        """
        return self._made()[1]

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Answer a query.

        :param query: The states in question
        :return: What is advised there, with the mistake or without
        """
        is_right = self.corrected_at is not None and query.index >= self.corrected_at
        advice = self._made()[0 if is_right else 1]
        return Advice([advice(state.observation) for state in query.states], standing=advice)

    def _made(self) -> tuple[StandingAdvice, StandingAdvice]:
        if self._advice is None:
            raise RuntimeError("The mistake is made by prepare(briefing), which was not called.")
        return self._advice


def mistaken(advice: StandingAdvice, mistake: str) -> StandingAdvice:
    """
    Make a mistake.

    :param advice: Advice for Meta-World's observations
    :param mistake: One of ``MISTAKES``
    :return: The advice with it
    :raises ArgumentError: if the mistake is one of rules, and the advice is no rules
    """
    if mistake in _OF_RULES and not isinstance(advice, Rules):
        raise ArgumentError(f"The mistake {mistake!r} is one of rules, and the advice is {advice!r}.")
    if mistake == "phase_left_out":
        assert isinstance(advice, Rules)
        return _without_first(advice)
    return _Mistaken(advice, mistake)


class _Mistaken:
    """Somebody's advice with a mistake; no function inside another, which could not be pickled."""

    def __init__(self, advice: StandingAdvice, mistake: str) -> None:
        self._advice = advice
        self._mistake = mistake

    def __call__(self, observation: Any, previous: Any = None, /) -> np.ndarray | None:
        advice, mistake = self._advice, self._mistake
        if mistake == "phase_before":
            assert isinstance(advice, Rules)
            rule = advice.which(observation, previous)
            return None if rule is None else advice.action_of(min(rule + 1, len(advice) - 1), observation, previous)
        if mistake == "off_target":
            observation, previous = _beside(observation), None if previous is None else _beside(previous)
        advised = advice(observation, previous)
        if advised is None:
            return None
        action = np.array(advised)
        if mistake == "mirrored":
            action[0] = -action[0]
        elif mistake == "open_gripper":
            action[3] = -1.0
        elif mistake == "too_fast":
            action[:3] = np.clip(_GAIN * action[:3], -1.0, 1.0)
        return action


def _beside(observation: Any) -> np.ndarray:
    """As if the gripper were beside its place, now and 12.5 ms earlier."""
    shifted = np.array(observation)
    for start in (0, len(shifted) // 2 - 1):
        shifted[start : start + 2] -= _OFFSET
    return shifted


def _without_first(rules: Rules) -> Rules:
    """Others may use what the first rule defines, so it stays, and never holds."""
    first, *others = rules.rules
    never = type(first)(first.name, "false", first.action, first.let)
    return Rules([never, *others], rules.sheet, rules.observation_space, rules.action_space)
