"""CoSo: PPO for a policy that writes, whose exploration goes where words decide the action."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_varl.arguments import ArgumentError, check_integer, check_number
from sb3_varl.coso.accumulate import accumulating
from sb3_varl.coso.causal import LearnedWeights
from sb3_varl.coso.policy import VLMPolicy
from sb3_varl.coso.utterances import DictUtteranceBuffer, Utterance, UtteranceBuffer
from sb3_varl.coso.weights import ParserWeights, TokenWeights, UniformWeights

WEIGHTS = {
    "learned": LearnedWeights,
    "code": LearnedWeights.as_in_code,
    "parser": ParserWeights,
    "uniform": UniformWeights,
}


class CoSo(PPO):
    """
    Counterfactual soft reinforcement learning (https://arxiv.org/abs/2505.03792): PPO over whole answers of a language
    model, with an entropy bonus that weighs each token by what it has to say of the action.

    The loop, the clipped objective, GAE, callbacks, logging and saving are those of :class:`stable_baselines3.PPO`.
    With ``ent_coef=0`` it is RL4VLM (https://arxiv.org/abs/2405.10292), with ``weights="uniform"`` soft PPO.

    Arguments that are not below are PPO's. Defaults are the paper's for Gym Cards where it has them.

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
        :class:`~sb3_varl.coso.TokenWeights`
    :param unparsed_penalty: What an answer that says no action costs, in units of reward; the environment, and so the
        episode's return in logs, knows nothing of it
    :param accumulate: How many batches make an update, where memory takes few answers at once
    :param kwargs: Further arguments of PPO
    :raises ArgumentError: if an argument is of the wrong kind
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"VLMPolicy": VLMPolicy}
    policy: VLMPolicy  # type: ignore[assignment]
    rollout_buffer: UtteranceBuffer | DictUtteranceBuffer

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
        check_number("unparsed_penalty", unparsed_penalty)
        check_integer("accumulate", accumulate)
        self.weights = _weights(weights)
        self.unparsed_penalty, self.accumulate = unparsed_penalty, accumulate
        self.normalizes_rollout = normalize_advantage
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,
            learning_rate,
            n_steps,
            batch_size,
            n_epochs,
            gamma,
            gae_lambda,
            clip_range,
            normalize_advantage=False,
            ent_coef=ent_coef,
            max_grad_norm=max_grad_norm,
            _init_setup_model=_init_setup_model,
            **kwargs,
        )

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = DictUtteranceBuffer if is_dict else UtteranceBuffer
        super()._setup_model()
        if not isinstance(self.policy, VLMPolicy):
            raise ArgumentError(f"policy is {self.policy_class!r}, expected VLMPolicy or a class derived from it.")
        self.rollout_buffer.unparsed_penalty = self.unparsed_penalty
        self.policy.listener = self.rollout_buffer.hear
        if self.weights is not None:
            self.weights.prepare(self.policy)

    def train(self) -> None:
        """Weigh what was written in the rollout, and update the policy as PPO does."""
        utterances = self.rollout_buffer.utterances
        if self.weights is not None:
            learnt = self.weights.fit(utterances)
            for utterance, weights in zip(utterances, self.weights.weigh(utterances), strict=True):
                utterance.weights = weights
            self._log(learnt)
        self._log(describe(utterances))
        if self.normalizes_rollout:
            self.rollout_buffer.normalize_advantages()
        self.policy.utterances = utterances
        with accumulating(self.policy, self.accumulate, self.max_grad_norm):
            max_grad_norm = self.max_grad_norm
            # What is clipped once for several batches must not be clipped after each of them.
            self.max_grad_norm = math.inf if self.accumulate > 1 else max_grad_norm
            try:
                super().train()
            finally:
                self.max_grad_norm = max_grad_norm
                self.policy.utterances = ()

    def _log(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.logger.record(f"coso/{name}", value)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        learns = [f"weights.{name}" for name in ("network", "optimizer") if hasattr(self.weights, name)]
        return [*state_dicts, *learns], variables


def describe(utterances: list[Utterance]) -> dict[str, float]:
    """
    Describe what was written in a rollout.

    :param utterances: What was written
    :return: ``unparsed``, the share that says no action; ``length`` in tokens; and of the others the mean entropy and
        weight of a token, for those that state the action and for the thoughts before them
    """
    readable = [utterance for utterance in utterances if utterance.reading is not None]
    described = {
        "unparsed": 1 - len(readable) / len(utterances),
        "length": float(np.mean([len(utterance.tokens) for utterance in utterances])),
    }
    for kind in ("thoughts", "action"):
        for name in ("entropies", "weights"):
            parts = [_part(utterance, kind, getattr(utterance, name)) for utterance in readable]
            values = np.concatenate(parts) if parts else np.zeros(0)
            if values.size:
                described[f"{kind}_{name}"] = float(values.mean())
    return described


def _part(utterance: Utterance, kind: str, values: np.ndarray) -> np.ndarray:
    return values[: utterance.n_thoughts] if kind == "thoughts" else values[utterance.n_thoughts :]


def _weights(given: Any) -> TokenWeights | None:
    if given is None or isinstance(given, TokenWeights):
        return given
    if isinstance(given, str) and given in WEIGHTS:
        return WEIGHTS[given]()  # type: ignore[operator]
    names = ", ".join(f'"{name}"' for name in WEIGHTS)
    raise ArgumentError(f"weights is {given!r}, expected {names}, None or a TokenWeights.")
