"""What the callback needs of a model: the algorithms have it, and the callback knows nothing else of them."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_varl.advice.types import Observation


class Guidance(Protocol):
    """Where advice goes: the model's guidance buffer."""

    labels_of: str | None

    def add_all(
        self,
        observations: Sequence[Observation],
        actions: Sequence[np.ndarray],
        step: int = 0,
        *,
        labels: bool = False,
    ) -> None:
        """
        Take in advice.

        :param observations: Original observations
        :param actions: What was advised there, in ``[-1, 1]^d``
        :param step: The run's environment steps
        :param labels: Whether it is standing advice
        """

    def remove_labels(self) -> None:
        """Remove what is of standing advice."""

    def size(self) -> int:
        """Number of entries."""


class GuidedModel(Protocol):
    """
    A model that takes guidance: :class:`~sb3_varl.VARL` and its sisters.

    Besides what any off-policy algorithm has, it has a guidance buffer and a cutoff, keeps what the callbacks need to
    go on with a run in ``advice_progress``, which is part of its zip, and tells them of the end of ``learn()``.
    """

    num_timesteps: int
    learning_starts: int
    seed: int | None
    tensorboard_log: str | None
    ep_info_buffer: deque[Any] | None
    ep_success_buffer: deque[Any] | None
    _custom_logger: bool
    _total_timesteps: int

    gate: str
    shaping_steps: int
    shaping_ended: int | None
    advice_progress: list[dict[str, Any]]
    # Of the present learn().
    advice_in_use: list[dict[str, Any]]
    after_learning: list[Callable[[bool], None]]
    broken_off: bool
    # Each says for each environment what is to be executed in place of the policy's action, in [-1, 1]^d, or None.
    roll_ins: list[Callable[[], Sequence[np.ndarray | None]]]
    # What share of the shaping coefficient counts after the cutoff.
    held_share: float
    # Whether it began in the middle of episodes.
    begins_midway: bool
    _last_obs: Any

    @property
    def policy(self) -> BasePolicy:
        """The policy, which knows the action space."""

    @property
    def train_freq(self) -> Any:
        """How often the model is updated, a ``TrainFreq`` by the time that training starts."""

    @property
    def guidance_buffer(self) -> Guidance:
        """Where advice goes."""

    @property
    def cutoff(self) -> int:
        """Environment step from which on guidance does not count, but for ``held_share``."""

    @property
    def logger(self) -> Logger:
        """SB3's logger."""

    def end_shaping(self) -> None:
        """Have the cutoff come now."""

    def guidance_summary(self) -> dict[str, float]:
        """Compare the latest guidance with the policy as it is."""

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """The wrapper that normalises, if there is one."""
