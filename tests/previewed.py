"""Environments to preview, and answers about them."""

import json

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_varl import ObservationSlice, TaskSheet
from sb3_varl.preview import preview


class PointEnv(gym.Env):
    """A point in the plane that should come to the origin. Its picture has its place in the colour."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    task_sheet = TaskSheet("Move the point to the origin.")

    def __init__(self, render_mode=None, repeatable=True):
        self.observation_space = spaces.Box(-2, 2, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.render_mode, self.repeatable = render_mode, repeatable

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        rng = self.np_random if self.repeatable else np.random.default_rng()
        self.place = rng.uniform(0.5, 1.0, 2) * rng.choice([-1, 1], 2)
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.place = np.clip(self.place + 0.1 * action, -2, 2)
        success = bool(np.abs(self.place).max() < 0.1)
        return self.place.astype(np.float32), float(success), success, False, {"is_success": success}

    def close(self):
        self.is_closed = True

    def render(self):
        return np.full((16, 16, 3), [*(64 * (self.place + 2) - 0.5), 0], np.uint8)


class SilentEnv(PointEnv):
    """It does not say whether it succeeded."""

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {}


class CameraEnv(PointEnv):
    """It shows its picture only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    def picture(self):
        return np.full((36, 36, 3), [*(64 * (self.place + 2) - 0.5), 0], np.uint8)

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return self.picture(), {}

    def step(self, action):
        _, *rest = super().step(action)
        return self.picture(), *rest


class HiddenEnv(CameraEnv):
    """And its place as an attribute."""

    task_sheet = TaskSheet("Come to the middle.", (), (ObservationSlice("place", 0, 2),))


gym.register("Preview/Point-v0", PointEnv, max_episode_steps=40)
gym.register("Preview/Hidden-v0", HiddenEnv, max_episode_steps=40)


def make_env(**kwargs):
    return gym.make("Preview/Point-v0", **{"render_mode": "rgb_array", **kwargs})


def answer_with(action_of):
    """Make an answer function for ``VLMServer`` from one of an observation and a picture."""

    def answer(states, images):
        items = [
            {"state": state["state"], "action": [float(x) for x in action_of(np.array(state["observation"]), image)]}
            for state, image in zip(states, images, strict=True)
        ]
        return json.dumps({"advice": items})

    return answer


by_numbers = answer_with(lambda place, image: np.clip(-5 * place, -1, 1))
by_picture = answer_with(lambda place, image: np.clip(-5 * (np.array(image.getpixel((3, 3))[:2]) / 64 - 2), -1, 1))
always_the_same = answer_with(lambda place, image: (1.0, 0.0))
rng = np.random.default_rng(0)
at_random = answer_with(lambda place, image: rng.uniform(-1, 1, 2))


def ask(server, env=make_env, **kwargs):
    arguments = {"api_base": server.api_base, "max_retries": 0}
    return preview(env, "openai/gpt-4o", advisor_kwargs=arguments, ask=True, n_steps=60, **kwargs)


def results(shown):
    """What the checks found, by the first words of each."""
    return {check.name.split(" ")[2].strip("?"): check.passed for check in shown.findings.checks}


NAMED = TaskSheet("Come to the middle.", (), (ObservationSlice("place", 0, 2),))
GO = '{"rules": [{"name": "go", "action": ["clip(-5 * place, -1, 1)"]}]}'
