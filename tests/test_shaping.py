"""The gates and the shaping loss as functions of tensors."""

import math

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_varl.algorithms.shaping import (
    DEFAULT_THRESHOLDS,
    GATES,
    MAX_ADVICE,
    Comparison,
    clip_advice,
    entropy,
    log_density,
    shaping_gradient,
    shaping_loss,
)


def no_q(actions):
    raise AssertionError("this gate does not ask the critic")


def compare(mean, advice, log_std=-1.0, q_value=no_q):
    """Of a policy with one standard deviation, in as many states as there are rows."""
    mean = th.as_tensor(mean)
    return Comparison(clip_advice(th.as_tensor(advice)), mean, th.full_like(mean, math.exp(log_std)), q_value)


def is_open(gate, mean, advice, threshold=None, **kwargs):
    threshold = DEFAULT_THRESHOLDS[gate] if threshold is None else threshold
    return GATES[gate](compare([[mean]], [[advice]], **kwargs), threshold).item()


@given(greedy=st.floats(-0.9, 0.9), advice=st.floats(-0.9, 0.9), threshold=st.floats(0.01, 1))
def test_distance_gate_opens_beyond_its_threshold(greedy, advice, threshold):
    distance = abs(greedy - advice)
    if abs(distance - threshold) > 1e-4:
        assert is_open("distance", math.atanh(greedy), advice, threshold) == (distance > threshold)


def test_distance_gate_looks_at_the_worst_component():
    assert GATES["distance"](compare([[0.0, 0.0]], [[0.0, 0.5]]), 0.4)


def test_likelihood_gate_opens_on_unlikely_advice_only():
    assert not is_open("likelihood", 0.0, 0.1)
    assert is_open("likelihood", 0.0, 0.9)
    # The same advice agrees with a policy that is less sure of itself.
    assert not is_open("likelihood", 0.0, 0.9, log_std=0.5)


def test_q_filter_opens_where_the_critic_prefers_the_advice():
    assert is_open("q_filter", 0.0, 0.5, q_value=lambda action: action[:, 0])
    assert not is_open("q_filter", 0.0, 0.5, q_value=lambda action: -action[:, 0])
    assert not is_open("q_filter", 0.0, 0.5, 0.6, q_value=lambda action: action[:, 0])


def test_always_is_always():
    assert is_open("always", 0.3, math.tanh(0.3))


@pytest.mark.parametrize("gate", ["distance", "likelihood"])
def test_agreement_shuts_the_gate(gate):
    assert not is_open(gate, 0.3, math.tanh(0.3))


@pytest.mark.parametrize(("gate", "threshold"), [("distance", 0.01), ("likelihood", 3.0)])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_policy_that_goes_beyond_clipped_advice_agrees_with_it(gate, threshold, side):
    assert not is_open(gate, side * 3.0, side, threshold, log_std=-3.0)
    assert is_open(gate, side * 3.0, -side, threshold, log_std=-3.0)
    assert is_open(gate, side * 3.0, side * 0.8, threshold, log_std=-3.0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), log_std=st.floats(-8, 1))
def test_the_gradient_is_that_of_the_loss(seed, log_std):
    generator = th.Generator().manual_seed(seed)
    mean = th.randn(6, 3, generator=generator, dtype=th.float64, requires_grad=True)
    comparison = compare(mean, th.rand(6, 3, generator=generator, dtype=th.float64) * 2 - 1, log_std)
    gate = th.rand(6, generator=generator) < 0.5
    shaping_loss(comparison, gate).backward()
    th.testing.assert_close(shaping_gradient(comparison, gate), mean.grad)


def test_certainty_does_not_pull_without_bound():
    """What a policy is sure of must not drown all else that the guidance has to say."""
    unsure, sure = (
        shaping_gradient(compare([[0.0]], [[0.5]], log_std), th.tensor([True])) for log_std in (math.log(0.3), -9.0)
    )
    th.testing.assert_close(sure, unsure)


def test_a_shut_gate_leaves_no_gradient():
    assert (shaping_gradient(compare([[0.0, 1.0]], [[0.5, 0.5]]), th.tensor([False])) == 0).all()


def test_the_loss_is_the_mean_over_the_whole_batch():
    both, first = compare([[0.0], [0.0]], [[0.9], [0.0]]), compare([[0.0]], [[0.9]])
    loss = shaping_loss(both, th.tensor([True, False]))
    assert loss.item() == pytest.approx(shaping_loss(first, th.tensor([True])).item() / 2)


def test_descending_pulls_the_mean_towards_the_advice():
    gradient = shaping_gradient(compare([[0.0, 0.0]], [[0.9, -0.9]]), th.tensor([True]))
    assert gradient[0, 0] < 0 < gradient[0, 1]


@pytest.mark.parametrize("advice", [1.0, -1.0, MAX_ADVICE])
def test_advice_on_the_faces_of_the_box_stays_finite(advice):
    comparison, gate = compare([[0.0]], [[advice]]), th.tensor([True])
    assert th.isfinite(shaping_loss(comparison, gate))
    assert th.isfinite(shaping_gradient(comparison, gate)).all()


@settings(deadline=None, max_examples=25)
@given(mean=st.floats(-3, 3), log_std=st.floats(-3, 1), u=st.floats(-3, 3))
def test_log_density_is_that_of_a_transformed_gaussian(mean, log_std, u):
    mean, std, u = (th.tensor([[x]], dtype=th.float64) for x in (mean, math.exp(log_std), u))
    squashed = th.distributions.TransformedDistribution(
        th.distributions.Normal(mean, std), th.distributions.TanhTransform(cache_size=1)
    )
    expected = squashed.log_prob(u.tanh()).sum(dim=1)
    th.testing.assert_close(log_density(u, mean, std), expected, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(mean=st.floats(-3, 3), log_std=st.floats(-3, 1))
def test_entropy_equals_its_monte_carlo_estimate(mean, log_std):
    generator = th.Generator().manual_seed(0)
    u = mean + math.exp(log_std) * th.randn(200_000, 1, generator=generator, dtype=th.float64)
    gaussian = th.distributions.Normal(mean, math.exp(log_std))
    log_prob = gaussian.log_prob(u) - 2 * (math.log(2) - u - th.nn.functional.softplus(-2 * u))
    policy = th.tensor([[mean]]), th.tensor([[math.exp(log_std)]])
    assert entropy(*policy).item() == pytest.approx(-log_prob.mean().item(), abs=0.03)
