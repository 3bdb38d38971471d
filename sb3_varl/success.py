"""Success, told by the reward."""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_varl.arguments import check_bool, check_number


def success_of(info: Mapping[str, Any]) -> bool | None:
    """
    Tell whether an environment says that it succeeded.

    :param info: What it says of a step: ``"is_success"``, as SB3 reads it, or else ``"success"``; an array is a success
        where all of it is
    :return: Whether it did, or ``None`` if it does not say, as words and NaN do not
    """
    said = np.asarray(info.get("is_success", info.get("success")))
    if said.dtype.kind not in "biuf" or said.size == 0 or np.isnan(said).any():
        return None
    return bool(said.all())


class SuccessFromReward(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    Puts ``"is_success"`` into the ``info`` of each step, for environments that tell of success by their reward only. By
    it, Stable-Baselines3 counts successes, rules are corrected and held, and ``until_success`` decides. Whatever the
    environment says there itself is replaced. In rl-zoo's YAML it is
    ``env_wrapper: {sb3_varl.SuccessFromReward: {above: 0.5}}``.

    :param env: The environment
    :param above: A step succeeds if its reward is greater than this
    :param last: Whether an episode succeeds by its last step alone, in place of any of its steps
    :raises ArgumentError: if ``above`` is no finite number, or ``last`` neither true nor false
    """

    def __init__(self, env: gym.Env, above: float = 0.0, last: bool = False) -> None:
        check_number("above", above, low=-math.inf)
        check_bool("last", last)
        above = float(above)  # the environment's spec is written as JSON
        gym.utils.RecordConstructorArgs.__init__(self, above=above, last=last)
        gym.Wrapper.__init__(self, env)
        self._above = above
        self._last = last
        self._has_succeeded = False

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._has_succeeded = False
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        succeeded = self._has_succeeded or float(reward) > self._above
        # An environment that resets itself goes on with the next episode.
        self._has_succeeded = succeeded and not (self._last or terminated or truncated)
        return observation, reward, terminated, truncated, {**info, "is_success": bool(succeeded)}
