"""A tuned model as an advisor of VARL."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_varl.advice.types import Advice, AdviceQuery
from sb3_varl.advisors.function import FunctionAdvisor
from sb3_varl.coso.writing import Writing, refuse_normalized

# States that are answered together.
_BATCH = 64


class ModelAdvisor(FunctionAdvisor):
    """
    A tuned model as an advisor, which answers the states of a query together.

    :param model: The model, a :class:`~sb3_varl.coso.CoSo` or :class:`~sb3_varl.coso.CoSoAWR`
    :raises ArgumentError: if it is something else, or its environment normalizes observations
    """

    def __init__(self, model: Writing) -> None:
        refuse_normalized(model)
        self.model = model
        super().__init__(lambda observation: self._write([observation])[0])

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Have the model write about each state that advice is wanted of.

        :param query: The states in question
        :return: What it says, and nothing where its words say no action
        """
        actions: list[np.ndarray | None] = [None] * len(query.states)
        for start in range(0, len(query.wanted), _BATCH):
            states = query.wanted[start : start + _BATCH]
            written = self._write([query.states[i].observation for i in states])
            for i, action in zip(states, written, strict=True):
                actions[i] = action
        return Advice(actions)

    def _write(self, observations: Sequence[Any]) -> list[np.ndarray | None]:
        first = observations[0]
        together = (
            {name: np.stack([observation[name] for observation in observations]) for name in first}
            if isinstance(first, dict)
            else np.stack(observations)
        )
        batch, _ = self.model.policy.obs_to_tensor(together)
        readings = [utterance.reading for utterance in self.model.policy.write(batch, deterministic=True)]
        return [None if reading is None else reading.action for reading in readings]


def advisor(model: Writing) -> ModelAdvisor:
    """
    Make an advisor of a tuned model, whose answers cost time and nothing else. It has no advice where its words say no
    action.

    It answers queries, and where :class:`~sb3_varl.AdvisorCallback` is told to execute it (``roll_in``) or to ask it in
    all visited states (``label_freq``), it is asked at each of these steps, which takes as long as it writes. A larger
    model is better served behind ``VLMAdvisor(api_base=...)``.

    :param model: The model, a :class:`~sb3_varl.coso.CoSo` or :class:`~sb3_varl.coso.CoSoAWR`
    :return: An advisor for environments with the same observations and actions
    """
    return ModelAdvisor(model)
