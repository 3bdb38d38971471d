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

    :param render_mode: ``"rgb_array"``, also where it is ``None``
    :param kwargs: Arguments of ``Blackjack-v1``
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, render_mode: str | None = "rgb_array", **kwargs: Any) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode is {render_mode!r}, expected "rgb_array", which is what is observed.')
        super().__init__(gym.make("Blackjack-v1", render_mode="rgb_array", **kwargs), render_only=True)

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
