"""Environments and helpers that several test files use."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

th.set_num_threads(1)


class CounterEnv(gym.Env):
    """
    Its observation is (episode, step within the episode, last action's first component) and its frame shows the same,
    so that a frame or an action beside the wrong observation is found out.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, horizon=7, render_mode="rgb_array", low=-1.0, high=1.0, offset=0):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(np.float32(low), np.float32(high), (2,), np.float32)
        self.horizon, self.render_mode, self.offset = horizon, render_mode, offset
        self.episode, self.t, self.n_renders = offset - 1, 0, 0
        self.history = []

    def _obs(self):
        return np.array([self.episode, self.t, 0.0], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        self.history.append((self.episode, self.t, action.copy()))
        self.t += 1
        return self._obs(), 0.0, False, self.t >= self.horizon, {}

    def render(self):
        self.n_renders += 1
        return np.full((8, 8, 3), (self.episode, self.t, 0), np.uint8)


class DictEnv(CounterEnv):
    """The same with a Dict observation."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observation_space = spaces.Dict(
            {"count": spaces.Box(-np.inf, np.inf, (3,), np.float32), "extra": spaces.Box(-1, 1, (2,), np.float32)}
        )

    def _obs(self):
        return {"count": super()._obs(), "extra": np.full(2, 0.5, np.float32)}


@pytest.fixture(autouse=True)
def _in_temporary_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parameters(model):
    """Every number that a model has learnt."""
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same_parameters(first, second):
    """Bit for bit."""
    first, second = parameters(first), parameters(second)
    assert first.keys() == second.keys()
    for name in first:
        assert th.equal(first[name], second[name]), name
