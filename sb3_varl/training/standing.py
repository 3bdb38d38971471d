"""Standing advice as training goes on: what it says of the present states, and by which rule."""

import logging
from collections import Counter

import numpy as np
from gymnasium import spaces

from sb3_varl.advice.types import (
    Observation,
    StandingAdvice,
)
from sb3_varl.advice.validation import check_action
from sb3_varl.redaction import example_of
from sb3_varl.rules import Decision, Rules
from sb3_varl.wording import count

logger = logging.getLogger(__name__)

# More would be so many keys of the logger.
MAX_LOGGED_RULES = 20
# Fewer equal actions may be right.
_MIN_EQUAL_ACTIONS = 100
# In fewer states none of the rules may rightly hold; and in fewer than those, some of them.
_MIN_UNDECIDED, _MIN_SILENT = 5, 2000
# From as many states on, rules are faster when they decide in all of them at once.
_MIN_BATCH = 24
# Characters of what is said of these.
_MAX_SILENT = 500


class Standing:
    """
    What is advised in any state, if anything is, and the present states.

    :param action_space: The environment's action space
    """

    def __init__(self, action_space: spaces.Box) -> None:
        self.advice: StandingAdvice | None = None
        # Of all states that it was asked about: by which rule it advised, and why it did not.
        self.by_rule: Counter[int] = Counter()
        self.missing: Counter[str] = Counter()
        # The action that was advised in all states so far, or False.
        self._same: np.ndarray | bool | None = None
        self._has_ended = self._told_of_silent = False
        self._space = action_space
        self._now: list[Observation] = []
        self._before: list[Observation | None] = []
        # By environment, of the present states.
        self._decided: dict[int, Decision] = {}

    def replace(self, advice: StandingAdvice | None) -> None:
        """
        Have something else stand from now on.

        :param advice: What is advised in any state, or ``None``
        """
        self.advice = advice
        self._decided = {}
        self.by_rule.clear()
        self.missing.clear()
        self._same, self._has_ended, self._told_of_silent = None, False, False

    def visit(self, present: list[Observation], begins: np.ndarray) -> None:
        """
        Look at the present states.

        :param present: What the advisor reads of each environment's, not to be changed afterwards
        :param begins: Whether an episode begins there, for each environment
        """
        before: list[Observation | None] = [*self._now] if self._now else [None] * len(present)
        self._before = [now if begins[i] else before[i] for i, now in enumerate(present)]
        self._now = present
        self._decided = {}

    def is_at(self, present: list[Observation]) -> bool:
        """
        Tell whether these are the states that were looked at last.

        :param present: What the advisor reads of the present states
        :return: Whether they are the same
        """
        pairs = zip(self._now, present, strict=False)
        return len(self._now) == len(present) and all(_is_same(now, other) for now, other in pairs)

    def decide_anew(self) -> None:
        """Forget what was decided in the present states, because what is advised there may be another thing now."""
        self._decided = {}

    def look_away(self) -> None:
        """Nobody looks at the states while nothing stands, so those that were looked at are not the ones before."""
        self._now, self._before, self._decided = [], [], {}

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of an action."""
        return self._space.shape

    @property
    def present(self) -> list[Observation]:
        """What the advisor reads of the present states, one for each environment."""
        return self._now

    def decide(self, env: int) -> Decision:
        """
        Say what is advised in a present state, be it asked for as a label or to be executed.

        :param env: Index of the environment
        :return: The rule, and an action of the action space, or ``None`` if there is none that can be used
        """
        decision = self._decided.get(env)
        if decision is None:
            decision = self._decided[env] = self._decide(env)
        return decision

    def decide_all(self) -> list[Decision]:
        """
        Say what is advised in the present states.

        :return: What :meth:`decide` says, for each environment
        """
        befores = {env: before for env, before in enumerate(self._before) if before is not None}
        together = [env for env in befores if env not in self._decided]
        if len(together) >= _MIN_BATCH and isinstance(self.advice, Rules):
            self._decide_together(self.advice, together, [befores[env] for env in together])
        return [self.decide(env) for env in range(len(self._now))]

    def _decide_together(self, rules: Rules, envs: list[int], before: list[Observation]) -> None:
        n_undefined = rules.undefined.total()
        actions, which = rules.batch(_together([self._now[env] for env in envs]), _together(before))
        n_undefined = rules.undefined.total() - n_undefined
        self.missing["no_value"] += n_undefined
        self.missing["no_rule"] += int((which < 0).sum()) - n_undefined
        for env, rule, action in zip(envs, which.tolist(), actions, strict=True):
            advised = None if np.isnan(action).any() else action.astype(self._space.dtype)
            self._decided[env] = Decision(None if rule < 0 else rule, advised)
            if rule >= 0:
                self.by_rule[rule] += 1
            self._compare(rules, advised)

    def _decide(self, env: int) -> Decision:
        observation, previous = self._now[env], self._before[env]
        if isinstance(self.advice, Rules):
            n_undefined = self.advice.undefined.total()
            decision = self.advice.decide(observation, previous)
            if self.advice.undefined.total() > n_undefined:
                self.missing["no_value"] += 1
            elif decision.rule is None:
                self.missing["no_rule"] += 1
            else:
                self.by_rule[decision.rule] += 1
            self._compare(self.advice, decision.action)
            return decision
        return Decision(None, None if self.advice is None else self._of_function(self.advice, observation, previous))

    def _of_function(
        self, advice: StandingAdvice, observation: Observation, previous: Observation | None
    ) -> np.ndarray | None:
        try:
            advised = advice(_copied(observation), None if previous is None else _copied(previous))
        except Exception as error:  # of somebody else's code
            self._miss("raised", error)
            return None
        if advised is None:
            self.missing["abstained"] += 1
            return None
        checked = check_action(advised, self._space)
        if isinstance(checked, str):
            self._miss(checked, advised)
            return None
        return checked

    def _compare(self, rules: Rules, action: np.ndarray | None) -> None:
        """Say it once if rules look at nothing."""
        if action is None or self._same is False:
            return
        if self._same is None:
            self._same = action
        elif not np.array_equal(self._same, action):
            self._same = False
        elif sum(self.by_rule.values()) >= _MIN_EQUAL_ACTIONS:
            logger.warning(
                "The rules advised the same action, %s, in all of the first %d states. Have the expressions of those "
                "that held look at the observation: %s.",
                action.tolist(),
                _MIN_EQUAL_ACTIONS,
                example_of("; ".join(rules.rules[rule].name for rule in sorted(self.by_rule))),
            )
            self._same = False

    def end_episode(self) -> None:
        """Say it once if rules do not decide: none of them in a whole episode, or some in many episodes."""
        n = sum(self.by_rule.values()) + sum(self.missing.values())
        if n < _MIN_UNDECIDED or not isinstance(self.advice, Rules):
            return
        if not self._has_ended:
            self._has_ended = True
            self._tell_of_first(self.advice, n)
        if n >= _MIN_SILENT and not self._told_of_silent:
            self._told_of_silent = True
            self._tell_of_silent(self.advice, n)

    def _tell_of_first(self, rules: Rules, n: int) -> None:
        if not self.by_rule:
            undefined = dict(rules.undefined)
            why = f"of {undefined} an expression had no value" if undefined else "no condition was true"
            logger.warning(
                "Since they stand, none of the rules (%d) held in any of the first %d states: %s. So nothing is "
                "advised. Compare their conditions with the observations: %s.",
                len(rules),
                n,
                why,
                example_of("; ".join(f"{rule.name}: {rule.when}" for rule in rules.rules)),
            )
        elif self._same is None:
            logger.warning(
                'Since they stand, the rules that held in the first %d states advise nothing, "action": null. Have '
                "them give an action: %s.",
                n,
                example_of("; ".join(rules.rules[rule].name for rule in sorted(self.by_rule)), _MAX_SILENT),
            )
        elif rules.idle:
            idle = example_of("; ".join(rules.idle), _MAX_SILENT)
            logger.warning("Of the rules that stand, these can decide in no state: %s.", idle)

    def _tell_of_silent(self, rules: Rules, n: int) -> None:
        silent = [f"{rule.name}: {rule.when}" for i, rule in enumerate(rules.rules) if not self.by_rule[i]]
        if self.by_rule and silent:
            logger.info(
                "%d of %s decided in none of the first %d states, because their condition did not hold or "
                "another rule came first: %s. That may be as it should, of rules for what seldom happens.",
                len(silent),
                count(len(rules), "rule"),
                n,
                example_of("; ".join(silent), _MAX_SILENT),
            )

    def figures(self) -> dict[str, float]:
        """
        Put together what is logged.

        :return: Of the first rules, the share of the states that each decided, of those that none did, and of those
            where an expression had no value
        """
        n = sum(self.by_rule.values()) + sum(self.missing.values())
        if not n or not isinstance(self.advice, Rules):
            return {}
        n_logged = min(len(self.advice), MAX_LOGGED_RULES)
        shares = {f"advice/rule_{rule + 1}": self.by_rule[rule] / n for rule in range(n_logged)}
        return {
            **shares,
            "advice/no_rule": self.missing["no_rule"] / n,
            "advice/no_value": self.missing["no_value"] / n,
        }

    def _miss(self, reason: str, example: object) -> None:
        if not self.missing[reason]:
            is_clipped = reason == "out_of_bounds" and not isinstance(self.advice, Rules)
            hint = ". FunctionAdvisor(f, clip=True) clips what f returns." if is_clipped else ""
            logger.warning("The standing advice cannot be used in a state, %s: %s%s", reason, example_of(example), hint)
        self.missing[reason] += 1


def _is_same(first: Observation, second: Observation) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_is_same(first[key], second[key]) for key in first)
    return np.array_equal(np.asarray(first), np.asarray(second), equal_nan=np.asarray(first).dtype.kind == "f")


def separate(observations: Observation, n: int) -> list[Observation]:
    """
    Take a batch apart.

    :param observations: Observations of several environments
    :param n: Their number
    :return: A copy of each, because VecEnvs may write the next observations into the same arrays
    """
    if isinstance(observations, dict):
        return [{key: value[i].copy() for key, value in observations.items()} for i in range(n)]
    return [observations[i].copy() for i in range(n)]


def _together(observations: list[Observation]) -> Observation:
    first = observations[0]
    if isinstance(first, dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in first}
    return np.stack([np.asarray(observation) for observation in observations])


def _copied(observation: Observation) -> Observation:
    """For a function that works in place."""
    if isinstance(observation, dict):
        return {key: value.copy() for key, value in observation.items()}
    return observation.copy()
