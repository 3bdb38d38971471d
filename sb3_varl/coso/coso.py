"""CoSo: PPO for a policy that writes, whose exploration goes where words decide the action."""

import math
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_varl.coso.accumulate import accumulating
from sb3_varl.coso.policy import VLMPolicy
from sb3_varl.coso.weights import TokenWeights
from sb3_varl.coso.writing import Writing


class CoSo(Writing, PPO):
    """
    Counterfactual soft reinforcement learning (https://arxiv.org/abs/2505.03792): PPO over whole answers of a language
    model, with an entropy bonus that weighs each token by what it has to say of the action.

    The loop, the clipped objective, GAE, callbacks, logging and saving are those of :class:`stable_baselines3.PPO`.
    With ``ent_coef=0`` it is RL4VLM (https://arxiv.org/abs/2405.10292), with ``weights="uniform"`` soft PPO.

    Arguments that are not below are PPO's. Defaults are the paper's for Gym Cards, but for those that the page on CoSo
    names.

    :param policy: ``"VLMPolicy"``, or a class derived from :class:`~sb3_varl.coso.VLMPolicy`, whose arguments go into
        ``policy_kwargs``
    :param env: Environment, or the id of one
    :param learning_rate: Learning rate
    :param n_steps: Steps of each environment in a rollout
    :param batch_size: Answers that are evaluated together
    :param n_epochs: How often each rollout is learnt from
    :param gamma: Discount
    :param clip_range: PPO's clipping
    :param normalize_advantage: Whether advantages are normalized, over the whole rollout
    :param ent_coef: alpha of the paper
    :param max_grad_norm: Largest norm of a gradient
    :param weights: How tokens are weighed: ``"learned"`` as the paper says, ``"code"`` as its code does, ``"parser"``
        by what the parser hangs on, ``"uniform"`` all alike, ``None`` without an entropy, or a
        :class:`~sb3_varl.coso.TokenWeights`, of which the model takes a copy
    :param unparsed_penalty: What an answer that says no action costs, in units of reward; the environment, and so the
        episode's return in logs, knows nothing of it
    :param accumulate: How many batches make an update, where memory takes few answers at once; where ``target_kl``
        ends an update early, those that were gathered before still make one
    :param kwargs: Further arguments of PPO
    :raises ArgumentError: if an argument is of the wrong kind
    """

    def __init__(
        self,
        policy: str | type[VLMPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-5,
        n_steps: int = 512,
        batch_size: int = 128,
        n_epochs: int = 4,
        gamma: float = 0.9,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.1,
        *,
        normalize_advantage: bool = True,
        ent_coef: float = 1.0,
        max_grad_norm: float = 0.01,
        weights: str | TokenWeights | None = "learned",
        unparsed_penalty: float = 1.0,
        accumulate: int = 1,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            # PPO would not have batches of one answer with it.
            normalize_advantage=False,
            ent_coef=ent_coef,
            max_grad_norm=max_grad_norm,
            weights=weights,
            unparsed_penalty=unparsed_penalty,
            accumulate=accumulate,
            _init_setup_model=_init_setup_model,
            **kwargs,
        )
        self.normalize_advantage = normalize_advantage

    def train(self) -> None:
        """Weigh what was written in the rollout, and update the policy as PPO does."""
        utterances = self.rollout_buffer.utterances
        self.weigh(utterances)
        max_grad_norm, normalize_advantage = self.max_grad_norm, self.normalize_advantage
        if normalize_advantage:
            self.rollout_buffer.normalize_advantages()
        self.policy.utterances = utterances
        with accumulating(self.policy, self.accumulate, max_grad_norm):
            # What is clipped once for several batches must not be clipped after each of them, nor what is normalized
            # over the rollout within each.
            self.max_grad_norm = math.inf if self.accumulate > 1 else max_grad_norm
            self.normalize_advantage = False
            try:
                super().train()
            finally:
                self.max_grad_norm, self.normalize_advantage = max_grad_norm, normalize_advantage
                self.policy.utterances = ()
