"""The gates and the shaping loss as functions of tensors."""

import math

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

from sb3_varl.shaping import DEFAULT_THRESHOLDS, GATES, MAX_ADVICE, entropy, shaping_loss


def policy(mean, log_std=-1.0):
    mean = th.as_tensor(mean, dtype=th.float32).reshape(-1, 1 if th.as_tensor(mean).dim() < 2 else len(mean[0]))
    return SquashedDiagGaussianDistribution(mean.shape[1]).proba_distribution(mean, th.full_like(mean, log_std))


def no_q(actions):
    raise AssertionError("this gate does not ask the critic")


def share_open(gate, mean, advice, threshold=None, q_value=no_q, log_std=-1.0):
    threshold = DEFAULT_THRESHOLDS[gate] if threshold is None else threshold
    distribution = policy([[mean]], log_std)
    return shaping_loss(distribution, th.tensor([[advice]]), q_value, GATES[gate], threshold).gate_open.item()


@given(greedy=st.floats(-0.9, 0.9), advice=st.floats(-0.9, 0.9), threshold=st.floats(0.01, 1))
def test_distance_gate_opens_beyond_its_threshold(greedy, advice, threshold):
    distance = abs(greedy - advice)
    if abs(distance - threshold) > 1e-4:
        assert share_open("distance", math.atanh(greedy), advice, threshold) == float(distance > threshold)


def test_distance_gate_looks_at_the_worst_component():
    distribution = policy([[0.0, 0.0]])
    loss = shaping_loss(distribution, th.tensor([[0.0, 0.5]]), no_q, GATES["distance"], 0.4)
    assert loss.gate_open == 1


def test_likelihood_gate_opens_on_unlikely_advice_only():
    assert share_open("likelihood", 0.0, 0.1) == 0
    assert share_open("likelihood", 0.0, 0.9) == 1
    # The same advice agrees with a policy that is less sure of itself.
    assert share_open("likelihood", 0.0, 0.9, log_std=0.5) == 0


def test_q_filter_opens_where_the_critic_prefers_the_advice():
    assert share_open("q_filter", 0.0, 0.5, q_value=lambda action: action[:, 0]) == 1
    assert share_open("q_filter", 0.0, 0.5, q_value=lambda action: -action[:, 0]) == 0
    assert share_open("q_filter", 0.0, 0.5, 0.6, q_value=lambda action: action[:, 0]) == 0


def test_always_is_always():
    assert share_open("always", 0.3, math.tanh(0.3)) == 1


@pytest.mark.parametrize("gate", ["distance", "likelihood"])
def test_agreement_shuts_the_gate(gate):
    assert share_open(gate, 0.3, math.tanh(0.3)) == 0


def test_a_shut_gate_leaves_no_gradient():
    mean = th.zeros(1, 1, requires_grad=True)
    distribution = SquashedDiagGaussianDistribution(1).proba_distribution(mean, mean - 1)
    loss = shaping_loss(distribution, th.tensor([[0.1]]), no_q, GATES["distance"], 0.4)
    loss.loss.backward()
    assert mean.grad.item() == 0


def test_the_loss_is_the_mean_over_the_whole_batch():
    distribution = policy([[0.0], [0.0]])
    advice = th.tensor([[0.9], [0.0]])
    loss = shaping_loss(distribution, advice, no_q, GATES["distance"], 0.4)
    expected = -policy([[0.0]]).log_prob(advice[:1]).item() / 2
    assert loss.loss.item() == pytest.approx(expected)
    assert loss.gate_open.item() == 0.5


def test_the_gradient_pulls_the_mean_towards_the_advice():
    mean = th.zeros(1, 1, requires_grad=True)
    distribution = SquashedDiagGaussianDistribution(1).proba_distribution(mean, th.zeros(1, 1))
    shaping_loss(distribution, th.tensor([[0.9]]), no_q, GATES["distance"], 0.4).loss.backward()
    assert mean.grad.item() < 0


@pytest.mark.parametrize("advice", [1.0, -1.0, MAX_ADVICE])
def test_advice_on_the_faces_of_the_box_stays_finite(advice):
    loss = shaping_loss(policy([[0.0]]), th.tensor([[advice]]), no_q, GATES["always"], 0.0)
    assert th.isfinite(loss.loss)


@settings(deadline=None, max_examples=25)
@given(mean=st.floats(-3, 3), log_std=st.floats(-3, 1))
def test_entropy_equals_its_monte_carlo_estimate(mean, log_std):
    generator = th.Generator().manual_seed(0)
    u = mean + math.exp(log_std) * th.randn(200_000, 1, generator=generator, dtype=th.float64)
    gaussian = th.distributions.Normal(mean, math.exp(log_std))
    log_prob = gaussian.log_prob(u) - 2 * (math.log(2) - u - th.nn.functional.softplus(-2 * u))
    assert entropy(policy([[mean]], log_std)).item() == pytest.approx(-log_prob.mean().item(), abs=0.03)
