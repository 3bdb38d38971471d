"""What the model wrote, beside the rows of SB3's rollout buffer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_varl.coso.parsers import Reading


@dataclass
class Utterance:
    """
    An answer of the model.

    :param tokens: Its tokens, with the one that ends it unless it was cut off
    :param text: Its words
    :param observation: What it is about, unbatched, as the policy saw it
    :param reading: What it says, or ``None`` if it says no action
    :param n_thoughts: How many tokens come before those that state the action; all of them where it states none
    :param entropies: Entropy of the distribution that each token was drawn from, in nats
    :param weights: How much each of them counts
    """

    tokens: list[int]
    text: str
    observation: Any
    reading: Reading | None
    n_thoughts: int
    entropies: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


class _KeepsUtterances:
    """
    A rollout buffer with the words of each step.

    The actions of its batches are row numbers, by which the policy looks up what was written: PPO makes integers of
    actions, and words and their weights are none.
    """

    n_envs: int
    unparsed_penalty: float = 0.0

    def reset(self) -> None:
        """Forget all."""
        super().reset()  # type: ignore[misc]
        self._written: list[list[Utterance]] = [[] for _ in range(self.n_envs)]
        self._latest: Sequence[Utterance] = ()

    def hear(self, utterances: Sequence[Utterance]) -> None:
        """
        Take what was written for the step that is about to be added.

        :param utterances: One for each environment
        :raises RuntimeError: if there are words that no step was added for
        """
        if self._latest:
            raise RuntimeError(
                "Somebody else, perhaps a callback, called the policy while a rollout was collected, and nobody can "
                "tell which words are the rollout's. Ask with model.predict(), or model.policy.write()."
            )
        self._latest = utterances

    def add(self, obs: Any, action: np.ndarray, reward: np.ndarray, *args: Any) -> None:
        """
        Add a step.

        :param obs: Observations
        :param action: Actions that were executed
        :param reward: Rewards, from which the penalty for what could not be read is taken
        :param args: Further arguments of :class:`stable_baselines3.common.buffers.RolloutBuffer`
        """
        unread = np.array([utterance.reading is None for utterance in self._latest])
        super().add(obs, action, reward - self.unparsed_penalty * unread, *args)  # type: ignore[misc]
        for row, utterance in zip(self._written, self._latest, strict=True):
            row.append(utterance)
        self._latest = ()

    @property
    def utterances(self) -> list[Utterance]:
        """What was written, in the order of the rows that batches are drawn from."""
        return [utterance for row in self._written for utterance in row]

    def normalize_advantages(self) -> None:
        """Give all advantages together a mean of 0 and a standard deviation of 1: a batch may be of one row."""
        self.advantages: np.ndarray = (self.advantages - self.advantages.mean()) / (self.advantages.std() + 1e-8)

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        samples = super()._get_samples(batch_inds, env)  # type: ignore[misc]
        return samples._replace(actions=th.as_tensor(batch_inds))


class UtteranceBuffer(_KeepsUtterances, RolloutBuffer):
    """A rollout buffer with the words of each step."""


class DictUtteranceBuffer(_KeepsUtterances, DictRolloutBuffer):
    """The same for Dict observations."""
