"""Gymnasium's Blackjack, seen as a picture of the table."""

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import AddRenderObservation


class BlackjackPixels(AddRenderObservation):
    """
    ``Blackjack-v1`` with the picture of the table as its observation, as in CoSo's experiments
    (https://arxiv.org/abs/2505.03792): action 0 sticks, 1 hits. Nobody wins more than some 43 of 100 games, which is
    what ``info["is_success"]`` counts.

    Needs pygame: ``pip install "gymnasium[toy-text]"``.

    :param kwargs: Arguments of ``Blackjack-v1``
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("render_mode", "rgb_array")
        super().__init__(gym.make("Blackjack-v1", **kwargs), render_only=True)

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """
        Stick or hit.

        :param action: 0 or 1
        :return: As of any environment of Gymnasium
        """
        observation, reward, terminated, truncated, info = super().step(action)
        return (
            observation,
            reward,
            terminated,
            truncated,
            {**info, "is_success": float(reward) > 0} if terminated else info,
        )
