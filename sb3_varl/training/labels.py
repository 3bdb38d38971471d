"""Labels: what standing advice says of the states that the agent visits, as guidance."""

from collections.abc import Sequence

import numpy as np

from sb3_varl.advice.types import Observation
from sb3_varl.training.model import GuidedModel
from sb3_varl.training.standing import Standing


class Labels:
    """
    Puts what standing advice says of visited states into a model's guidance buffer.

    :param model: The model
    :param standing: The standing advice
    :param freq: Steps of the environments between labels, 0 for none
    """

    def __init__(self, model: GuidedModel, standing: Standing, freq: int) -> None:
        self.freq = freq
        self.n_labels = 0
        self._model = model
        self._standing = standing
        self._n_steps = 0

    def add(self, seen: Sequence[Observation], step: int) -> None:
        """
        Label the present states, if it is time.

        :param seen: The policy's original observations, one for each environment
        :param step: The run's environment steps
        """
        self._n_steps += 1
        if not self.freq or self._n_steps % self.freq:
            return
        pairs = zip(seen, self._standing.decide_all(), strict=True)
        advised = [(observation, action) for observation, (_, action) in pairs if action is not None]
        if not advised:
            return
        observations, actions = zip(*advised, strict=True)
        scaled = np.clip(self._model.policy.scale_action(np.stack(actions)), -1, 1)
        self._model.guidance_buffer.add_all(observations, list(scaled), step, labels=True)
        self.n_labels += len(actions)
