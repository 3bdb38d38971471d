"""
The shaping term of VARL (https://arxiv.org/abs/2509.21126): a gated likelihood of the advice in the actor's loss.

Everything here is a function of tensors. Actions are in the policy's normalised space ``[-1, 1]^d``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution, StateDependentNoiseDistribution
from stable_baselines3.common.type_aliases import TensorDict

TanhGaussian = SquashedDiagGaussianDistribution | StateDependentNoiseDistribution

# The log-density of a tanh-Gaussian is ill-conditioned at the box's faces, where advice often lies, and before the
# squashing 0.98 is as far from 0.9 as 0.9 is from 0.67: chasing the last hundredth would drown all other advice.
MAX_ADVICE = 0.9

# Gauss-Hermite nodes and weights for the expectation over a standard normal.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
_WEIGHTS = _WEIGHTS / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Comparison:
    """
    Advice beside what the policy would do, for a batch of n states; none of it carries a gradient.

    :param advice: Advised actions, ``(n, d)``
    :param greedy: The policy's greedy actions, ``(n, d)``
    :param log_prob_advice: Log-density of the advice, ``(n,)``
    :param log_prob_greedy: Log-density of the greedy actions, ``(n,)``
    :param q_value: Computes ``min_i Q_i(s, a)``, ``(n,)``, for actions ``(n, d)`` in the same states
    """

    advice: th.Tensor
    greedy: th.Tensor
    log_prob_advice: th.Tensor
    log_prob_greedy: th.Tensor
    q_value: Callable[[th.Tensor], th.Tensor]


@dataclass(frozen=True)
class ShapingLoss:
    """
    The shaping term on one batch and what is worth watching about it.

    :param loss: Mean of gate times negative log-likelihood; a scalar that carries the actor's gradient
    :param gate_open: Share of the batch whose gate is open
    :param entropy: The policy's mean entropy in the batch's states, in nats
    """

    loss: th.Tensor
    gate_open: th.Tensor
    entropy: th.Tensor


def distance_gate(comparison: Comparison, threshold: float) -> th.Tensor:
    """
    Open where some component of the advice is further than the threshold from the greedy action.

    :param comparison: Advice beside the policy's actions
    :param threshold: Distance in the normalised action space, whose width is 2
    :return: Booleans, ``(n,)``
    """
    return (comparison.advice - comparison.greedy).abs().amax(dim=1) > threshold


def likelihood_gate(comparison: Comparison, threshold: float) -> th.Tensor:
    """
    Open where the policy finds the advice much less likely than its greedy action.

    :param comparison: Advice beside the policy's actions
    :param threshold: Difference of the log-densities, in nats
    :return: Booleans, ``(n,)``
    """
    return comparison.log_prob_advice < comparison.log_prob_greedy - threshold


def q_filter_gate(comparison: Comparison, threshold: float) -> th.Tensor:
    """
    Open where the critic values the advice above the greedy action (https://arxiv.org/abs/1709.10089).

    :param comparison: Advice beside the policy's actions
    :param threshold: By how much, in units of the return
    :return: Booleans, ``(n,)``
    """
    return comparison.q_value(comparison.advice) > comparison.q_value(comparison.greedy) + threshold


def always_open(comparison: Comparison, threshold: float) -> th.Tensor:
    """
    Open everywhere: plain behaviour cloning, the ablation.

    :param comparison: Advice beside the policy's actions
    :param threshold: Not used
    :return: Booleans, ``(n,)``
    """
    return th.ones_like(comparison.log_prob_advice, dtype=th.bool)


Gate = Callable[[Comparison, float], th.Tensor]

GATES: dict[str, Gate] = {
    "distance": distance_gate,
    "likelihood": likelihood_gate,
    "q_filter": q_filter_gate,
    "always": always_open,
}

DEFAULT_THRESHOLDS = {"distance": 0.4, "likelihood": 3.0, "q_filter": 0.0, "always": 0.0}


def entropy(distribution: TanhGaussian) -> th.Tensor:
    r"""
    Entropy of a squashed Gaussian, without drawing a sample:
    ``H[u] + E[log(1 - tanh(u)^2)]`` with ``u`` the Gaussian before squashing, and Gauss-Hermite quadrature for ``E``.

    :param distribution: The policy in n states
    :return: Entropy in nats, ``(n,)``
    """
    gaussian = distribution.distribution
    nodes = th.as_tensor(_NODES, dtype=gaussian.mean.dtype, device=gaussian.mean.device)
    weights = th.as_tensor(_WEIGHTS, dtype=gaussian.mean.dtype, device=gaussian.mean.device)
    u = gaussian.mean.unsqueeze(-1) + gaussian.stddev.unsqueeze(-1) * nodes
    # log(1 - tanh(u)^2), stable for large |u|
    log_derivative = 2 * (math.log(2) - u - th.nn.functional.softplus(-2 * u))
    return (gaussian.entropy() + log_derivative @ weights).sum(dim=1)


def shaping_loss(
    distribution: TanhGaussian,
    advice: th.Tensor,
    q_value: Callable[[th.Tensor], th.Tensor],
    gate: Gate,
    threshold: float,
) -> ShapingLoss:
    r"""
    Negative log-likelihood of the advice where the gate is open:
    ``mean_n[ g(s, a) * (-log pi(a | s)) ]``, the second term of VARL's actor loss without its coefficient.

    :param distribution: The policy in the n states that the advice is for
    :param advice: Advised actions in ``[-1, 1]``, ``(n, d)``; clipped strictly inside the box
    :param q_value: Computes ``min_i Q_i(s, a)``, ``(n,)``, for actions ``(n, d)`` in the same states;
        only called if the gate asks for it
    :param gate: Decides for each state whether its advice counts
    :param threshold: The gate's threshold
    :return: The loss and its diagnostics
    """
    advice = advice.clamp(-MAX_ADVICE, MAX_ADVICE)
    log_prob = distribution.log_prob(advice)
    with th.no_grad():
        greedy = distribution.mode()
        comparison = Comparison(advice, greedy, log_prob, distribution.log_prob(greedy), q_value)
        is_open = gate(comparison, threshold)
        diagnostics = is_open.float().mean(), entropy(distribution).mean()
    return ShapingLoss(-(is_open * log_prob).mean(), *diagnostics)


def min_q_value(
    critic: Callable[[th.Tensor | TensorDict, th.Tensor], tuple[th.Tensor, ...]],
    observations: th.Tensor | TensorDict,
    actions: th.Tensor,
) -> th.Tensor:
    """
    The pessimistic value of a clipped double-Q critic.

    :param critic: SAC's critic
    :param observations: Preprocessed as the critic expects, n of them
    :param actions: In ``[-1, 1]``, ``(n, d)``
    :return: ``min_i Q_i(s, a)``, ``(n,)``
    """
    return th.cat(critic(observations, actions), dim=1).min(dim=1).values
