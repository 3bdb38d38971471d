"""A tuned model as an advisor of VARL."""

from typing import Any

import numpy as np

from sb3_varl.advisors.function import FunctionAdvisor
from sb3_varl.coso.writing import Writing


def advisor(model: Writing) -> FunctionAdvisor:
    """
    Make an advisor of a tuned model, whose answers cost time and nothing else. It has no advice where its words say no
    action.

    Its advice is standing, so that :class:`~sb3_varl.AdvisorCallback` asks it in visited states all along. A larger
    model is better served behind ``VLMAdvisor(api_base=...)``, which asks a few times and in the background.

    :param model: The model
    :return: An advisor for environments with the same observations and actions
    """

    def advise(observation: Any) -> np.ndarray | None:
        batch, _ = model.policy.obs_to_tensor(observation)
        reading = model.policy.write(batch, deterministic=True)[0].reading
        return None if reading is None else reading.action

    return FunctionAdvisor(advise)
