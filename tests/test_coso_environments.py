"""The environments of CoSo."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.monitor import Monitor

from sb3_varl.coso import NumberLine


def test_number_line():
    env = Monitor(NumberLine(render_mode="rgb_array"))
    picture, _ = env.reset(options={"target": 4, "current": 2})
    assert picture.shape == (32, 32, 3)
    assert np.array_equal(env.render(), picture)
    assert env.step(1)[1:4] == (0.0, False, False)
    observation, reward, is_over, _, info = env.step(1)
    assert (reward, is_over, info["is_success"]) == (1.0, True, True)
    assert not np.array_equal(observation, picture)
    env.reset(options={"target": 5, "current": 0})
    steps = [env.step(0) for _ in range(10)]
    assert [step[1] for step in steps] == [-1.0] * 10
    assert steps[-1][2:4] == (False, True)
    assert steps[-1][4]["is_success"] is False
    check_env(gym.make("sb3_varl.coso:NumberLine-v0").unwrapped, skip_render_check=True)
    with pytest.raises(ValueError, match='expected "pixels" or "numbers"'):
        NumberLine("words")
