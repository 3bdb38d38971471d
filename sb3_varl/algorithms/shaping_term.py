"""The shaping term of a model: guidance beside what its policy does, and the gradient that comes of it."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_varl.algorithms.guidance_buffer import GuidanceBuffer, GuidanceBufferSamples
from sb3_varl.algorithms.shaping import (
    DEFAULT_THRESHOLDS,
    GATES,
    Comparison,
    clip_advice,
    distance_gate,
    entropy,
    shaping_gradient,
    shaping_loss,
)

# Rows of guidance that the summary is about.
_SUMMARY_ROWS = 256


class ShapedModel(Protocol):
    """What the term needs of a model, which :class:`sb3_varl.algorithms.guided.Guided` has."""

    actor: Any
    guidance_buffer: GuidanceBuffer
    guidance_batch_size: int
    gate: str
    gate_threshold: float | None
    _vec_normalize_env: VecNormalize | None

    @property
    def policy(self) -> BasePolicy:
        """The policy, with all its networks."""

    def _q_value(self, observations: th.Tensor | TensorDict, actions: th.Tensor) -> th.Tensor: ...


class ShapingTerm:
    """
    The term that guidance adds to the actor's loss.

    :param model: The model, with its guidance
    :param coef: Weight of the term
    """

    def __init__(self, model: ShapedModel, coef: float | th.Tensor) -> None:
        self.model = model
        self.coef = coef
        self.gate = GATES[model.gate]
        self.threshold = DEFAULT_THRESHOLDS[model.gate] if model.gate_threshold is None else model.gate_threshold

    def sample(self) -> GuidanceBufferSamples:
        """
        Draw a batch of guidance.

        :return: The batch
        """
        return self.model.guidance_buffer.sample(self.model.guidance_batch_size, env=self.model._vec_normalize_env)

    def add_gradient(self, *_: Any) -> None:
        """
        Add the term's gradient to those of the actor's parameters.

        Gradients add up: as a hook of the actor's optimizer, this comes after the parent's backward pass and before
        the step.

        :param _: What the optimizer tells its hooks
        """
        batch = self.sample()
        with evaluation_mode(self.model.policy):
            mean, std = gaussian(self.model.actor, batch.observations)
            mean.backward(self.gradient(batch, mean, std))

    @th.no_grad()
    def gradient(self, batch: GuidanceBufferSamples, mean: th.Tensor, std: th.Tensor) -> th.Tensor:
        """
        Compute the term's gradient with respect to the policy's mean.

        :param batch: Guidance, n rows
        :param mean: Mean of the policy's Gaussian in its states, before the squashing, ``(n, d)``
        :param std: Standard deviation of that Gaussian, ``(n, d)``
        :return: The gradient, ``(n, d)``
        """
        comparison = self._compare(batch, mean, std)
        return self.coef * shaping_gradient(comparison, self.gate(comparison, self.threshold))

    @th.no_grad()
    def summary(self) -> dict[str, float]:
        """
        Compare the latest guidance with the policy as it is.

        :return: See :meth:`~sb3_varl.algorithms.guided.Guided.guidance_summary`
        """
        batch = self.model.guidance_buffer.latest(_SUMMARY_ROWS, env=self.model._vec_normalize_env)
        with evaluation_mode(self.model.policy):
            mean, std = gaussian(self.model.actor, batch.observations)
            comparison = self._compare(batch, mean, std)
            is_open = self.gate(comparison, self.threshold)
            q_advised, q_greedy = comparison.q_value(comparison.advice), comparison.q_value(mean.tanh())
        return {
            "gate_open": is_open.float().mean().item(),
            "disagreement": distance_gate(comparison, DEFAULT_THRESHOLDS["distance"]).float().mean().item(),
            "shaping_loss": shaping_loss(comparison, is_open).item(),
            "q_advised": q_advised.mean().item(),
            "q_greedy": q_greedy.mean().item(),
            "entropy": entropy(mean, std).mean().item(),
        }

    def _compare(self, batch: GuidanceBufferSamples, mean: th.Tensor, std: th.Tensor) -> Comparison:
        return Comparison(
            clip_advice(batch.actions),
            mean,
            std,
            lambda actions: self.model._q_value(batch.observations, actions),
        )


def gaussian(actor: Any, observations: th.Tensor | TensorDict) -> tuple[th.Tensor, th.Tensor]:
    """The policy's mean and standard deviation before the squashing, ``(n, d)`` each."""
    mean, log_std, latent = actor.get_action_dist_params(observations)
    if not actor.use_sde:
        return mean, log_std.exp()
    return mean, actor.action_dist.proba_distribution(mean, log_std, **latent).distribution.stddev


@contextlib.contextmanager
def evaluation_mode(policy: BasePolicy) -> Iterator[None]:
    """
    Compare the advice with what the policy does when it acts: without dropout, and normalised as it then is.

    It also keeps the statistics of batch normalisation about the states that are visited.
    """
    modules = [module for module in policy.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True
