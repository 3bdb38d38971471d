"""A task that is in no benchmark: a launch fetches a parcel from a buoy and moors, with current and coasting."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image, ImageDraw

STEP, SCALE, MAX_EPISODE_STEPS = 0.25, 16, 200


class Harbour(gym.Env):
    """
    The launch's place, heading (of a compass), speed and turning speed; the current; the places of the buoy and of the
    berth; and whether the parcel is aboard. An action is the thrust and the rudder, and an episode ends with success.

    :param render_mode: ``"rgb_array"`` to see it from above
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (12,), np.float32)

    def _observation(self) -> np.ndarray:
        numbers: list[Any] = [
            self.place,
            [self.heading, self.surge, self.turn],
            self.current,
            self.buoy,
            self.berth,
            [self.loaded],
        ]
        return np.concatenate(numbers).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        rng = self.np_random
        self.place = rng.uniform([-3, -8], [3, -5])
        self.heading = rng.uniform(-np.pi, np.pi)  # of a compass: 0 is north, clockwise
        self.surge = self.turn = 0.0
        self.current = rng.uniform(-0.25, 0.25, 2)
        self.buoy = np.array([rng.choice([-1, 1]) * rng.uniform(4, 8), rng.uniform(-2, 3)])
        self.berth = np.array([rng.uniform(-3, 3), 8.0])
        self.loaded, self.n_steps = False, 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        thrust, rudder = np.clip(action, -1, 1)
        self.surge += STEP * (1.2 * thrust - 0.6 * self.surge)
        self.turn += STEP * (2.0 * rudder - 2.0 * self.turn)
        self.heading = (self.heading + STEP * self.turn + np.pi) % (2 * np.pi) - np.pi
        bow = np.array([np.sin(self.heading), np.cos(self.heading)])
        self.place = np.clip(self.place + STEP * (self.surge * bow + self.current), -10, 10)
        self.n_steps += 1
        if np.linalg.norm(self.place - self.buoy) < 0.8 and abs(self.surge) < 1.0:
            self.loaded = True
        moored = np.linalg.norm(self.place - self.berth) < 0.8 and abs(self.surge) < 0.6
        success = bool(self.loaded and moored)
        is_over = self.n_steps >= MAX_EPISODE_STEPS
        return self._observation(), float(success), success, is_over, {"is_success": success}

    def render(self) -> np.ndarray:
        image = Image.new("RGB", (20 * SCALE, 20 * SCALE), (120, 170, 220))
        draw = ImageDraw.Draw(image)

        def pixel(place: np.ndarray) -> tuple[float, float]:
            return (place[0] + 10) * SCALE, (10 - place[1]) * SCALE

        def disc(place: np.ndarray, colour: tuple[int, int, int]) -> None:
            x, y = pixel(place)
            draw.ellipse((x - 0.8 * SCALE, y - 0.8 * SCALE, x + 0.8 * SCALE, y + 0.8 * SCALE), fill=colour)

        disc(self.berth, (90, 60, 30))
        if not self.loaded:
            disc(self.buoy, (230, 60, 40))
        bow = np.array([np.sin(self.heading), np.cos(self.heading)])
        side = np.array([bow[1], -bow[0]])
        stern = self.place - 0.6 * bow
        corners = [pixel(self.place + 0.9 * bow), pixel(stern + 0.4 * side), pixel(stern - 0.4 * side)]
        draw.polygon(corners, fill=(250, 220, 40) if self.loaded else (250, 250, 250))
        return np.asarray(image)
