"""N-step returns for Dict observations, which Stable-Baselines3 has for others only."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_varl.arguments import check_integer, check_number


class NStepDictReplayBuffer(DictReplayBuffer):
    """
    A replay buffer whose samples have the rewards of several steps, as those of SB3's ``NStepReplayBuffer`` do. VARL
    and VARLTQC take it for Dict observations if ``n_steps`` is above 1; SAC takes it as its ``replay_buffer_class``,
    with ``replay_buffer_kwargs={"n_steps": 5, "gamma": 0.97}``.

    :param args: Those of ``DictReplayBuffer``
    :param n_steps: Steps whose rewards are summed up, fewer where an episode ends or the latest transition is reached
    :param gamma: Discount
    :param kwargs: Those of ``DictReplayBuffer``
    :raises ArgumentError: if ``n_steps`` is no integer above 0, or ``gamma`` no number from 0 to 1
    """

    def __init__(self, *args: Any, n_steps: int, gamma: float, **kwargs: Any) -> None:
        check_integer("n_steps", n_steps)
        check_number("gamma", gamma, high=1.0)
        super().__init__(*args, **kwargs)
        self.n_steps = n_steps
        self.gamma = gamma

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        of_env = np.random.randint(0, self.n_envs, size=len(batch_inds))
        latest = (self.pos - 1) % self.buffer_size
        last = batch_inds
        returns = self._normalize_reward(self.rewards[last, of_env], env).copy()
        discounts = np.full(len(last), self.gamma, np.float32)
        for _ in range(1, self.n_steps):
            goes_on = (self.dones[last, of_env] == 0) & (last != latest)
            last = np.where(goes_on, (last + 1) % self.buffer_size, last)
            returns += goes_on * discounts * self._normalize_reward(self.rewards[last, of_env], env)
            discounts = np.where(goes_on, discounts * np.float32(self.gamma), discounts)
        is_end = self.dones[last, of_env] * (1 - self.timeouts[last, of_env])
        return DictReplayBufferSamples(
            self._tensors(self.observations, batch_inds, of_env, env),
            self.to_torch(self.actions[batch_inds, of_env]),
            self._tensors(self.next_observations, last, of_env, env),
            *(self.to_torch(numbers.astype(np.float32)[:, None]) for numbers in (is_end, returns, discounts)),
        )

    def _tensors(
        self, stored: dict[str, np.ndarray], index: np.ndarray, of_env: np.ndarray, env: VecNormalize | None
    ) -> dict[str, th.Tensor]:
        observations = self._normalize_obs({key: array[index, of_env] for key, array in stored.items()}, env)
        assert isinstance(observations, dict)
        return {key: self.to_torch(array) for key, array in observations.items()}
