"""NumberLine: walk to a number that is written in the picture, one step at a time."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image, ImageDraw

N_NUMBERS = 6
MAX_STEPS = 10
# Of the picture, in pixels.
SIZE = 32
ACTIONS = {"-": 0, "+": 1}


class NumberLine(gym.Env):
    """
    The first task of CoSo's experiments (https://arxiv.org/abs/2505.03792), written from its description.

    A target and a current number are drawn, both from 0 to 5. The reward is 1 for reaching the target, which ends the
    episode, -1 for a step that does not come closer, and 0 otherwise. An episode is truncated after 10 steps, and
    succeeds (``info["is_success"]``) where its return is positive, so without a wrong step, as the paper counts.

    :param observation: ``"pixels"``, a picture with the target above and the current number below, or ``"numbers"``,
        an array of both
    :param render_mode: ``"rgb_array"`` or ``None``
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, observation: str = "pixels", render_mode: str | None = None) -> None:
        if observation not in ("pixels", "numbers"):
            raise ValueError(f'observation is {observation!r}, expected "pixels" or "numbers".')
        self.render_mode = render_mode
        self.is_drawn = observation == "pixels"
        self.observation_space: spaces.Space = (
            spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
            if self.is_drawn
            else spaces.Box(0, N_NUMBERS - 1, (2,), np.float32)
        )
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.target = self.current = 0
        self._return = 0.0
        self._n_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """
        Draw a target and another number to start from.

        :param seed: Seed of the draws
        :param options: ``{"target": 3, "current": 0}`` instead of a draw
        :return: The observation, and an empty dictionary
        """
        super().reset(seed=seed)
        self.target, self.current = map(int, self.np_random.choice(N_NUMBERS, 2, replace=False))
        if options:
            numbers = [options.get(name) for name in ("target", "current")]
            if set(options) != {"target", "current"} or not _are_two(numbers):
                raise ValueError(
                    f"options are {options!r}, expected two different whole numbers from 0 to {N_NUMBERS - 1}, such as "
                    '{"target": 3, "current": 0}.'
                )
            self.target, self.current = map(int, numbers)  # type: ignore[arg-type]
        self._return, self._n_steps = 0.0, 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Take a step.

        :param action: 1 adds one, 0 takes one away
        :return: As of any environment of Gymnasium
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action is {action!r}, expected 0 or 1.")
        distance = abs(self.target - self.current)
        self.current = int(np.clip(self.current + (1 if action == ACTIONS["+"] else -1), 0, N_NUMBERS - 1))
        self._n_steps += 1
        is_there = self.current == self.target
        reward = 1.0 if is_there else 0.0 if abs(self.target - self.current) < distance else -1.0
        self._return += reward
        is_over = self._n_steps >= MAX_STEPS
        info = {"is_success": self._return > 0} if is_there or is_over else {}
        return self._observe(), reward, is_there, is_over and not is_there, info

    def render(self) -> np.ndarray | None:
        """
        Draw the two numbers.

        :return: The picture, ``(32, 32, 3)`` uint8
        """
        return self._draw() if self.render_mode == "rgb_array" else None

    def _observe(self) -> np.ndarray:
        return self._draw() if self.is_drawn else np.array([self.target, self.current], np.float32)

    def _draw(self) -> np.ndarray:
        image = Image.new("RGB", (SIZE, SIZE), "white")
        draw = ImageDraw.Draw(image)
        for row, (number, colour) in enumerate(((self.target, "darkred"), (self.current, "darkblue"))):
            draw.text((SIZE // 2, SIZE // 4 + row * SIZE // 2), str(number), colour, anchor="mm", font_size=SIZE // 2)
        return np.array(image)


def _are_two(numbers: list[Any]) -> bool:
    """Whether they are two different numbers of the line."""
    return len(set(numbers)) == 2 and all(
        isinstance(number, int | np.integer) and 0 <= number < N_NUMBERS for number in numbers
    )
