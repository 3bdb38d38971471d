"""KeyAndDoor: fetch a key, then go to the door, with a reward for the door only."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image, ImageDraw

from sb3_varl.advice.types import ActionComponent, ObservationSlice, TaskSheet

# Of the room, in both directions.
SIZE = 7
REACH = 0.75
MAX_STEPS = 40
_N_PIXELS, _MARGIN = 96, 1.0


class KeyAndDoor(gym.Env):
    """
    A small task for actions of a Box: somebody walks through a room, up to 1 in each direction at a step. Whoever comes
    within 0.75 of the key has it, and whoever comes within 0.75 of the door and has the key is done. The reward is 1
    for that and else 0. An episode is truncated after 40 steps. ``info["is_success"]`` says whether the door was
    reached. All three start at whole numbers from 0 to 7.

    :param render_mode: ``"rgb_array"`` or ``None``
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    task_sheet = TaskSheet(
        goal="Fetch the key, and then go to the door.",
        action=(
            ActionComponent("right", "by how much to go to the right; negative goes to the left"),
            ActionComponent("up", "by how much to go up; negative goes down"),
        ),
        observation=(
            ObservationSlice("place", 0, 2, "where you are"),
            ObservationSlice("key", 2, 4, "where the key is, or was"),
            ObservationSlice("door", 4, 6, "where the door is"),
            ObservationSlice("has_key", 6, 7, "1 once you have the key, else 0"),
        ),
        notes="The room is 7 wide and 7 high, x to the right and y up. Within 0.75 of the key you take it, and within "
        "0.75 of the door, with the key, you are done. The picture shows the room from above: you are blue, the key is "
        "orange, the door brown.",
    )

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0.0, float(SIZE), (7,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.place, self.key, self.door = np.zeros((3, 2))
        self.has_key = False
        self._n_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """
        Draw where everything is.

        :param seed: Seed of the draws
        :param options: Not used
        :return: The observation, and an empty dictionary
        """
        super().reset(seed=seed)
        places = self.np_random.choice((SIZE + 1) ** 2, 3, replace=False)
        self.place, self.key, self.door = (np.array(divmod(place, SIZE + 1), float) for place in places)
        self.has_key = False
        self._n_steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Walk.

        :param action: By how much, to the right and up
        :return: As of any environment of Gymnasium
        """
        if np.shape(action) != (2,) or not np.isfinite(action).all():
            raise ValueError(f"action is {action!r}, expected two finite numbers.")
        self.place = np.clip(self.place + np.clip(action, -1.0, 1.0), 0.0, SIZE)
        self._n_steps += 1
        self.has_key = self.has_key or self._is_at(self.key)
        is_done = self.has_key and self._is_at(self.door)
        is_over = self._n_steps >= MAX_STEPS and not is_done
        info = {"is_success": is_done} if is_done or is_over else {}
        return self._observe(), float(is_done), is_done, is_over, info

    def render(self) -> np.ndarray | None:
        """
        Draw the room.

        :return: The picture, ``(96, 96, 3)`` uint8
        """
        if self.render_mode != "rgb_array":
            return None
        image = Image.new("RGB", (_N_PIXELS, _N_PIXELS), "white")
        draw = ImageDraw.Draw(image)
        scale = _N_PIXELS / (SIZE + 2 * _MARGIN)
        things = [(self.door, "saddlebrown"), (self.place, "blue")]
        things += [] if self.has_key else [(self.key, "orange")]
        for (x, y), colour in things:
            left, top = (x + _MARGIN - REACH / 2) * scale, (SIZE - y + _MARGIN - REACH / 2) * scale
            draw.ellipse((left, top, left + REACH * scale, top + REACH * scale), colour)
        return np.array(image)

    def _is_at(self, where: np.ndarray) -> bool:
        return bool(np.linalg.norm(self.place - where) < REACH)

    def _observe(self) -> np.ndarray:
        return np.array([*self.place, *self.key, *self.door, self.has_key], np.float32)
