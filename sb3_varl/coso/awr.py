"""CoSo in its other form: what did better than expected is imitated, first offline and then online."""

import logging
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch.nn import functional

from sb3_varl.arguments import check_integer
from sb3_varl.coso.accumulate import accumulating
from sb3_varl.coso.policy import VLMPolicy
from sb3_varl.coso.utterances import Utterance
from sb3_varl.coso.weights import TokenWeights
from sb3_varl.coso.writing import Writing

logger = logging.getLogger(__name__)


class Rollout(NamedTuple):
    """
    What is learnt from, rows in the same order.

    :param utterances: What was written
    :param advantages: By how much the return was above the value, by GAE
    :param returns: What the value is fitted to
    """

    utterances: list[Utterance]
    advantages: np.ndarray
    returns: np.ndarray


class _AWR(OnPolicyAlgorithm):
    """The loop of SB3's on-policy algorithms, which starts itself as PPO does."""

    def __init__(
        self,
        policy: str | type[VLMPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule,
        *,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs = {"use_sde": False, "sde_sample_freq": -1, **kwargs}
        super().__init__(policy, env, learning_rate, _init_setup_model=False, **kwargs)  # type: ignore[arg-type]
        if _init_setup_model:
            self._setup_model()


class CoSoAWR(Writing, _AWR):
    """
    CoSo as in the paper's Android experiments (https://arxiv.org/abs/2505.03792), where it is built on DigiRL's
    advantage-filtered likelihood in place of PPO: answers whose advantage is positive are made likelier, all alike, and
    the weighted entropy is added online. The loss is

        -mean(1[A > 0] log pi(y)) - ent_coef H_B + vf_coef (V - R)^2

    over the latest ``n_rollouts`` rollouts. Advantages are GAE's, where DigiRL has two classifiers of success; ours.

    :param policy: ``"VLMPolicy"``, or a class derived from :class:`~sb3_varl.coso.VLMPolicy`
    :param env: Environment, or the id of one
    :param learning_rate: Learning rate
    :param n_steps: Steps of each environment in a rollout
    :param batch_size: Answers that are evaluated together
    :param n_updates: Batches for each rollout, drawn from all rollouts that are kept
    :param n_rollouts: How many rollouts are kept
    :param offline_steps: So many steps of all environments, which count as any others, are written by the policy as it
        is before any update. A saved model has none of them: one that is loaded before they are complete starts anew
    :param offline_updates: Batches that are then learnt from them, without an entropy
    :param gamma: Discount; the code has 0.5
    :param gae_lambda: GAE's
    :param ent_coef: alpha of the paper, online
    :param vf_coef: Coefficient of the value's loss
    :param max_grad_norm: Largest norm of a gradient
    :param weights: How tokens are weighed, as in :class:`~sb3_varl.coso.CoSo`
    :param unparsed_penalty: What an answer that says no action costs, in units of reward
    :param accumulate: How many batches make an update
    :param kwargs: Further arguments of SB3's on-policy algorithms
    :raises ArgumentError: if an argument is of the wrong kind
    """

    def __init__(
        self,
        policy: str | type[VLMPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-4,
        n_steps: int = 128,
        batch_size: int = 32,
        n_updates: int = 20,
        n_rollouts: int = 4,
        *,
        offline_steps: int = 0,
        offline_updates: int = 200,
        gamma: float = 0.5,
        gae_lambda: float = 0.95,
        ent_coef: float = 1.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.01,
        weights: str | TokenWeights | None = "learned",
        unparsed_penalty: float = 1.0,
        accumulate: int = 1,
        **kwargs: Any,
    ) -> None:
        check_integer("batch_size", batch_size)
        check_integer("n_updates", n_updates)
        check_integer("n_rollouts", n_rollouts)
        check_integer("offline_steps", offline_steps, 0)
        check_integer("offline_updates", offline_updates)
        self.batch_size, self.n_updates, self.n_rollouts = batch_size, n_updates, n_rollouts
        self.offline_steps, self.offline_updates = offline_steps, offline_updates
        self.is_online = offline_steps == 0
        self.rollouts: list[Rollout] = []
        super().__init__(
            policy,
            env,
            learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            weights=weights,
            unparsed_penalty=unparsed_penalty,
            accumulate=accumulate,
            **kwargs,
        )

    def _after_learning(self) -> None:
        if not self.is_online:
            logger.warning(
                "Nothing was learnt yet: of the %d offline_steps %d are there. Call learn() again, or take fewer.",
                self.offline_steps,
                sum(len(rollout.utterances) for rollout in self.rollouts),
            )

    def train(self) -> None:
        """Weigh what was written in the rollout, and learn from it and those that are kept."""
        buffer = self.rollout_buffer
        self.weigh(buffer.utterances)
        rows = (buffer.swap_and_flatten(array).ravel() for array in (buffer.advantages, buffer.returns))
        self.rollouts.append(Rollout(buffer.utterances, *rows))
        self._update_learning_rate(self.policy.optimizer)
        if not self.is_online:
            n_gathered = sum(len(rollout.utterances) for rollout in self.rollouts)
            self.logger.record("coso/gathered", n_gathered)
            if n_gathered < self.offline_steps:
                return
            self.is_online = True
            self._learn(self.offline_updates, ent_coef=0.0)
        else:
            self.rollouts = self.rollouts[-self.n_rollouts :]
            self._learn(self.n_updates, self.ent_coef)

    def _learn(self, n_batches: int, ent_coef: float) -> None:
        self.policy.set_training_mode(True)
        utterances = [u for rollout in self.rollouts for u in rollout.utterances]
        advantages = np.concatenate([rollout.advantages for rollout in self.rollouts])
        returns = np.concatenate([rollout.returns for rollout in self.rollouts])
        losses = []
        with accumulating(self.policy, self.accumulate, self.max_grad_norm):
            for _ in range(n_batches):
                rows = np.random.randint(len(utterances), size=min(self.batch_size, len(utterances)))
                values, log_prob, entropy = self.policy.evaluate([utterances[row] for row in rows])
                is_better = th.as_tensor(advantages[rows] > 0, device=self.device)
                policy_loss = -(is_better * log_prob).mean()
                value_loss = functional.mse_loss(values.flatten(), th.as_tensor(returns[rows], device=self.device))
                loss = policy_loss - ent_coef * entropy.mean() + self.vf_coef * value_loss
                self.policy.optimizer.zero_grad()
                loss.backward()
                if self.accumulate == 1:
                    th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
                losses.append((policy_loss.item(), value_loss.item(), entropy.mean().item()))
        for name, value in zip(("policy_loss", "value_loss", "weighted_entropy"), np.mean(losses, axis=0), strict=True):
            self.logger.record(f"train/{name}", float(value))
        self._n_updates += n_batches
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/imitated", float((advantages > 0).mean()))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rollouts"]
