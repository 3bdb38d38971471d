"""Labels: what standing advice says of the states that the agent visits."""

import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np
from gymnasium import spaces

from sb3_varl.advice.types import Observation, StandingAdvice, check_action, example_of
from sb3_varl.rules import Rules
from sb3_varl.training.model import GuidedModel

logger = logging.getLogger(__name__)


class Labels:
    """
    Puts what standing advice says of visited states into a model's guidance buffer.

    :param model: The model
    :param action_space: The environment's action space
    :param freq: Steps of the environments between labels
    """

    def __init__(self, model: GuidedModel, action_space: spaces.Box, freq: int) -> None:
        self.freq = freq
        self._space = action_space
        self.standing: StandingAdvice | None = None
        # Of all states that were looked at: labels, and why there was none, or of which rule.
        self.n_labels = 0
        self.missing: Counter[str] = Counter()
        self.by_rule: Counter[str] = Counter()
        self._model = model
        self._previous: Observation | None = None
        self._n_steps = 0

    def stand(self, advice: StandingAdvice | None) -> None:
        """
        Label with other advice from now on. Labels of what stood before leave the guidance.

        :param advice: The advice, or ``None`` for none
        """
        if self.standing is not None:
            self._model.guidance_buffer.remove_labels()
        self.standing = advice
        self.by_rule.clear()

    def visit(self, observations: Observation, dones: np.ndarray, step: int, is_over: bool) -> None:
        """
        Label the present states, if it is time.

        :param observations: Original observations, one for each environment
        :param dones: Whether an episode begins with them, for each environment
        :param step: The run's environment steps
        :param is_over: Whether guidance counts no longer
        """
        previous, self._previous = self._previous, _copied(observations)
        self._n_steps += 1
        if self.standing is None or is_over or self._n_steps % self.freq:
            return
        kept, actions = [], []
        for i, now in enumerate(_each(observations, len(dones))):
            before = now if dones[i] else None if previous is None else _at(previous, i)
            action = self.action(now, before)
            if action is not None:
                kept.append(now)
                actions.append(np.clip(self._model.policy.scale_action(action), -1, 1))
        self._model.guidance_buffer.add_all(kept, actions, step, labels=True)
        self.n_labels += len(kept)

    def action(self, observation: Observation, previous: Observation | None) -> np.ndarray | None:
        """
        Ask the standing advice about a state.

        :param observation: The original observation
        :param previous: The one before, or ``None`` if it is not known
        :return: An action in the environment's units, or ``None`` if there is none that can be used
        """
        standing = self.standing
        if standing is None:
            return None
        if isinstance(standing, Rules):
            rule, action = standing.decide(observation, previous)
            self.by_rule[standing.rules[rule].name if rule is not None else ""] += 1
            return action
        try:
            advised = standing(observation, previous)
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

    def _miss(self, reason: str, example: object) -> None:
        if not self.missing[reason]:
            logger.warning("The standing advice cannot be used in a state, %s: %s", reason, example_of(example))
        self.missing[reason] += 1


def _each(observations: Observation, n: int) -> Iterator[Observation]:
    return (_at(observations, i) for i in range(n))


def _at(observations: Observation, i: int) -> Observation:
    if isinstance(observations, dict):
        return {key: value[i] for key, value in observations.items()}
    return observations[i]


def _copied(observations: Observation) -> Observation:
    """VecEnvs may write the next observations into the same arrays."""
    if isinstance(observations, dict):
        return {key: value.copy() for key, value in observations.items()}
    return observations.copy()
