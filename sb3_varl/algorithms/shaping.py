"""
The shaping term of VARL (https://arxiv.org/abs/2509.21126): a gated likelihood of the advice in the actor's loss.

Everything here is a function of tensors. Actions are in the policy's normalised space ``[-1, 1]^d``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import TensorDict

# The log-density of a tanh-Gaussian is ill-conditioned at the box's faces, where advice often lies, and before the
# squashing 0.98 is as far from 0.9 as 0.9 is from 0.67: chasing the last hundredth would drown all other advice.
MAX_ADVICE = 0.9

LOG_SQRT_2PI = math.log(2 * math.pi) / 2

# In the loss, not in the gates, the likelihood is one under a Gaussian that is no narrower than this. The pull towards
# advice goes with the inverse of the variance: a policy that is sure of one component in a few states would be pulled
# there far harder than everywhere else, and an optimizer that scales its steps would hardly move it elsewhere.
MIN_STD = 0.3

# Gauss-Hermite nodes and weights for the expectation over a standard normal.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
_WEIGHTS = _WEIGHTS / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Comparison:
    """
    Advice beside what the policy would do, for a batch of n states.

    :param advice: Advised actions, clipped strictly inside the box, ``(n, d)``
    :param mean: Mean of the policy's Gaussian before the squashing, ``(n, d)``; its tanh is the greedy action
    :param std: Standard deviation of that Gaussian, ``(n, d)``
    :param q_value: Computes ``min_i Q_i(s, a)``, ``(n,)``, for actions ``(n, d)`` in the same states
    """

    advice: th.Tensor
    mean: th.Tensor
    std: th.Tensor
    q_value: Callable[[th.Tensor], th.Tensor]


def distance_gate(comparison: Comparison, threshold: float) -> th.Tensor:
    """
    Open where some component of the advice is further than the threshold from the greedy action.

    :param comparison: Advice beside the policy's actions
    :param threshold: Distance in the normalised action space, whose width is 2
    :return: Booleans, ``(n,)``
    """
    greedy = comparison.mean.tanh()
    differs = (comparison.advice - greedy).abs().masked_fill(_is_beyond(comparison), 0.0)
    return differs.amax(dim=1) > threshold


def likelihood_gate(comparison: Comparison, threshold: float) -> th.Tensor:
    """
    Open where the policy finds the advice much less likely than its greedy action.

    :param comparison: Advice beside the policy's actions
    :param threshold: Difference of the log-densities, in nats
    :return: Booleans, ``(n,)``
    """
    mean, std = comparison.mean, comparison.std
    advice = th.where(_is_beyond(comparison), mean, comparison.advice.atanh())
    return log_density(advice, mean, std) < log_density(mean, mean, std) - threshold


def q_filter_gate(comparison: Comparison, threshold: float) -> th.Tensor:
    """
    Open where the critic values the advice above the greedy action (https://arxiv.org/abs/1709.10089).

    :param comparison: Advice beside the policy's actions
    :param threshold: By how much, in units of the return
    :return: Booleans, ``(n,)``
    """
    return comparison.q_value(comparison.advice) > comparison.q_value(comparison.mean.tanh()) + threshold


def always_open(comparison: Comparison, threshold: float) -> th.Tensor:
    """
    Open everywhere: plain behaviour cloning, the ablation.

    :param comparison: Advice beside the policy's actions
    :param threshold: Not used
    :return: Booleans, ``(n,)``
    """
    return th.ones_like(comparison.advice[:, 0], dtype=th.bool)


def _is_beyond(comparison: Comparison) -> th.Tensor:
    """Components of advice that was clipped to what the greedy action exceeds on the same side: the two agree there."""
    is_clipped = comparison.advice.abs() >= MAX_ADVICE
    return is_clipped & (comparison.mean.tanh() * comparison.advice.sign() >= MAX_ADVICE)


Gate = Callable[[Comparison, float], th.Tensor]

GATES: dict[str, Gate] = {
    "distance": distance_gate,
    "likelihood": likelihood_gate,
    "q_filter": q_filter_gate,
    "always": always_open,
}

DEFAULT_THRESHOLDS = {"distance": 0.4, "likelihood": 3.0, "q_filter": 0.0, "always": 0.0}


def log_density(u: th.Tensor, mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    r"""
    Log-density of the action ``tanh(u)`` under a Gaussian that is squashed by tanh:
    :math:`\sum_d \log N(u_d; \mu_d, \sigma_d^2) - \log(1 - \tanh^2 u_d)`.

    :param u: Actions before the squashing, ``(n, d)``
    :param mean: Mean of the Gaussian, ``(n, d)``
    :param std: Standard deviation of the Gaussian, ``(n, d)``
    :return: Log-density in nats, ``(n,)``
    """
    return -(((u - mean) / std).square() / 2 + std.log() + LOG_SQRT_2PI + _log_tanh_slope(u)).sum(dim=1)


def _log_tanh_slope(u: th.Tensor) -> th.Tensor:
    """``log(1 - tanh(u)^2)``, stable for large ``|u|``."""
    return 2 * (math.log(2) - u - th.nn.functional.softplus(-2 * u))


def entropy(mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    r"""
    Entropy of a Gaussian that is squashed by tanh, without drawing a sample:
    ``H[u] + E[log(1 - tanh(u)^2)]`` with ``u`` the Gaussian before squashing, and Gauss-Hermite quadrature for ``E``.

    :param mean: Mean of the Gaussian, ``(n, d)``
    :param std: Standard deviation of the Gaussian, ``(n, d)``
    :return: Entropy in nats, ``(n,)``
    """
    nodes, weights = (th.as_tensor(x, dtype=mean.dtype, device=mean.device) for x in (_NODES, _WEIGHTS))
    expected_slope = _log_tanh_slope(mean.unsqueeze(-1) + std.unsqueeze(-1) * nodes) @ weights
    return (std.log() + LOG_SQRT_2PI + 0.5 + expected_slope).sum(dim=1)


def clip_advice(advice: th.Tensor) -> th.Tensor:
    """
    Move advice strictly inside the box.

    :param advice: Advised actions in ``[-1, 1]``, ``(n, d)``
    :return: The same between ``-MAX_ADVICE`` and ``MAX_ADVICE``
    """
    return advice.clamp(-MAX_ADVICE, MAX_ADVICE)


def shaping_loss(comparison: Comparison, is_open: th.Tensor) -> th.Tensor:
    r"""
    Negative log-likelihood of the advice where the gate is open:
    ``mean_n[ g(s, a) * (-log pi(a | s)) ]``, the second term of VARL's actor loss without its coefficient. A
    standard deviation of ``pi`` below ``MIN_STD`` counts as ``MIN_STD``.

    :param comparison: Advice beside the policy's actions
    :param is_open: The gate, ``(n,)``
    :return: A scalar
    """
    std = comparison.std.clamp(min=MIN_STD)
    return -(is_open * log_density(comparison.advice.atanh(), comparison.mean, std)).mean()


def shaping_gradient(comparison: Comparison, is_open: th.Tensor) -> th.Tensor:
    r"""
    Gradient of :func:`shaping_loss` with respect to the policy's mean:
    :math:`\frac{1}{n} g(s, a) (\mu - \mathrm{artanh}\, a) / \max(\sigma, \sigma_{min})^2`.

    There is none with respect to the standard deviation. Advice says where to act, not how sure to be: the standard
    deviation would be squeezed wherever advice is plentiful and widened wherever it is noisy.

    :param comparison: Advice beside the policy's actions
    :param is_open: The gate, ``(n,)``
    :return: The gradient, ``(n, d)``
    """
    pull = (comparison.mean - comparison.advice.atanh()) / comparison.std.clamp(min=MIN_STD).square()
    return pull * (is_open / len(is_open)).unsqueeze(1)


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
