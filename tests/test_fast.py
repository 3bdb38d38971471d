"""The faster updates are SB3's: exactly where nobody asked for speed, and up to rounding where somebody did."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from conftest import CounterEnv, DictEnv, assert_same_parameters, parameters
from sb3_varl import VARL
from sb3_varl.algorithms.fast import mlp
from sb3_varl.algorithms.fast.acceleration import constant_critic, flushed_denormals, fused_adam, optimizers_of
from sb3_varl.algorithms.fast.fast_sac import FastSAC
from sb3_varl.algorithms.fast.mlp import Mlp, product
from sb3_varl.algorithms.shaping import GATES

SMALL = {"learning_starts": 40, "batch_size": 32, "seed": 3, "policy_kwargs": {"net_arch": [32, 24]}}


def make(env="Pendulum-v1", policy="MlpPolicy", advice=0, **kwargs):
    policy_kwargs = {**SMALL["policy_kwargs"], **kwargs.pop("policy_kwargs", {})}
    env = env() if isinstance(env, type) else env
    model = VARL(policy, env, **{**SMALL, **kwargs, "policy_kwargs": policy_kwargs})
    model.observation_space.seed(0)
    for i in range(advice):
        model.guidance_buffer.add(model.observation_space.sample(), np.full(model.action_space.shape, i / advice))
    return model


def gradients(model):
    names = ((name, parameter.grad) for name, parameter in model.policy.named_parameters())
    grads = {name: grad.clone() for name, grad in names if grad is not None and "target" not in name}
    if model.log_ent_coef is not None:
        grads["log_ent_coef"] = model.log_ent_coef.grad.clone()
    return grads


class HalfABatch(ReplayBuffer):
    """Returns another number of transitions than it was asked for."""

    def sample(self, batch_size, env=None):
        return super().sample(batch_size // 2, env)


CASES = {
    "default": {},
    "shaped": {"advice": 9},
    "gsde": {"use_sde": True},
    "gsde_shaped": {"use_sde": True, "advice": 9},
    "fixed_temperature": {"ent_coef": 0.2},
    "n_step": {"n_steps": 3, "advice": 9},
    "layer_norm": {"policy": "LayerNormMlpPolicy", "advice": 9},
    "one_layer": {"policy_kwargs": {"net_arch": [16]}, "advice": 9},
    "no_hidden_layer": {"policy_kwargs": {"net_arch": {"pi": [16], "qf": []}}},
    "three_critics": {"policy_kwargs": {"n_critics": 3}},
    "target_interval": {"target_update_interval": 2, "gradient_steps": 5},
    "dict": {"env": DictEnv, "policy": "MultiInputPolicy", "advice": 9},
    "weight_decay": {"policy_kwargs": {"optimizer_class": th.optim.AdamW}},
    "one_critic": {"policy_kwargs": {"n_critics": 1}},
    "shared_extractor": {"policy_kwargs": {"share_features_extractor": True}, "advice": 9},
    "no_hidden_layer_in_the_actor": {"policy_kwargs": {"net_arch": {"pi": [], "qf": [16]}}, "advice": 9},
    "expln": {"use_sde": True, "policy_kwargs": {"use_expln": True}},
    "odd_batch": {"batch_size": 33, "advice": 9},
    "small_batch": {"batch_size": 5},
    "smaller_batch_than_asked_for": {"replay_buffer_class": HalfABatch, "advice": 9},
    "schedule": {"learning_rate": lambda progress: 1e-3 * (1 + progress)},
    **{gate: {"gate": gate, "advice": 9} for gate in GATES},
}


@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
def test_one_update_has_the_gradients_of_sb3s(kwargs):
    slow = make(**kwargs).learn(60)
    fast = make(**kwargs, fast=True)
    fast.policy.load_state_dict(slow.policy.state_dict())
    fast.replay_buffer = slow.replay_buffer
    if slow.log_ent_coef is not None:
        fast.log_ent_coef.data = slow.log_ent_coef.data.clone()
    fast._logger = slow.logger
    assert FastSAC.of(fast) is not None
    for model in (slow, fast):
        # Nothing moves, so that the actor's gradient is taken at the same critics.
        for optimizer in optimizers_of(model):
            optimizer.step = lambda: None
        if kwargs.get("advice"):  # a hook on a step that is no step
            model.actor.optimizer.step = hooked_step(model.actor.optimizer)
        th.manual_seed(0)
        np.random.seed(0)
        model.train(1, model.batch_size)
    expected, found = gradients(slow), gradients(fast)
    for name in found:
        th.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023
    assert found.keys() == expected.keys()


def hooked_step(optimizer):
    def step():
        for hook in list(optimizer._optimizer_step_pre_hooks.values()):
            hook(optimizer, (), {})

    return step


def trained(updates, **kwargs):
    """On transitions of random actions, so that rounding errors do not go round through the environment."""
    model = make(learning_starts=200, **kwargs).learn(200)
    before = parameters(model)
    for _ in range(updates // 4):
        model.train(4, model.batch_size)
    return model, before


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
def test_hundreds_of_updates_end_where_sb3s_do(kwargs):
    """With plain gradient descent, because Adam makes a whole step of the sign of a rounding error."""
    kwargs = {"learning_rate": 1e-3, "shaping_coef": 0.2, **kwargs}
    kwargs["policy_kwargs"] = {**kwargs.get("policy_kwargs", {}), "optimizer_class": th.optim.SGD}
    (slow, start), (fast, _) = trained(300, **kwargs), trained(300, **kwargs, fast=True)
    moved = max((value - start[name]).abs().max() for name, value in parameters(slow).items())
    assert moved > 0.02
    for name, value in parameters(slow).items():
        th.testing.assert_close(parameters(fast)[name], value, rtol=0, atol=1e-3 * moved)


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"policy": "LayerNormMlpPolicy", "use_sde": True}], ids=["default", "norm"])
def test_adam_stays_close_for_hundreds_of_updates(kwargs):
    (slow, _), (fast, _) = trained(300, advice=9, **kwargs), trained(300, advice=9, fast=True, **kwargs)
    difference = th.cat([(parameters(slow)[name] - value).flatten() for name, value in parameters(fast).items()])
    assert difference.abs().quantile(0.99) < 1e-3
    for name in ("train/actor_loss", "train/critic_loss", "train/ent_coef", "train/ent_coef_loss"):
        assert fast.logger.name_to_value[name] == pytest.approx(slow.logger.name_to_value[name], rel=0.01, abs=0.01)
    assert fast.logger.name_to_value["train/n_updates"] == slow.logger.name_to_value["train/n_updates"]


def test_normalised_and_several_environments():
    def env():
        return VecNormalize(DummyVecEnv([DictEnv, DictEnv]))

    kwargs = {"policy": "MultiInputPolicy", "policy_kwargs": {"optimizer_class": th.optim.SGD}, "advice": 5}
    (slow, _), (fast, _) = trained(100, env=env(), **kwargs), trained(100, env=env(), fast=True, **kwargs)
    for name, value in parameters(slow).items():
        th.testing.assert_close(parameters(fast)[name], value, rtol=0, atol=1e-4)


def test_hindsight_goals():
    """HER draws its goals while it samples."""
    kwargs = {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer}
    kwargs["policy_kwargs"] = {"optimizer_class": th.optim.SGD}
    models = [trained(100, env=BitFlippingEnv(6, continuous=True), fast=fast, **kwargs)[0] for fast in (False, True)]
    assert FastSAC.of(models[1]) is not None
    slow, fast = (parameters(model) for model in models)
    for name, value in slow.items():
        th.testing.assert_close(fast[name], value, rtol=0, atol=1e-4)


def watched(model):
    model.critic.q_networks[0][0].register_forward_hook(lambda *_: None)


def frozen(model):
    next(model.actor.latent_pi.parameters()).requires_grad_(False)


def clipped(model):
    next(model.critic.parameters()).register_hook(lambda grad: grad.clamp(-1, 1))


def replaced(model):
    model.critic.q_networks[0][1] = nn.Tanh()


@pytest.mark.parametrize("change", [watched, frozen, clipped, replaced])
def test_what_is_not_covered_is_left_to_sb3(change):
    model = make(fast=True)
    assert FastSAC.of(model) is not None
    change(model)
    assert FastSAC.of(model) is None
    model.learn(60)


def test_a_subclass_that_calls_our_train_is_fast_as_well(monkeypatch):
    class Mine(VARL):
        def train(self, gradient_steps, batch_size=64):
            super().train(gradient_steps, batch_size)

    updates = []
    monkeypatch.setattr(FastSAC, "train", lambda self, *arguments: updates.append(arguments))
    model = Mine("MlpPolicy", "Pendulum-v1", fast=True, **SMALL).learn(42)
    assert updates == [(1, model.batch_size, None)] * 2


@pytest.mark.parametrize("advice", [0, 5])
def test_other_networks_keep_sb3s_updates(advice):
    kwargs = {"policy_kwargs": {"activation_fn": nn.Tanh}, "advice": advice}
    (slow, _), (fast, _) = trained(100, **kwargs), trained(100, fast=True, **kwargs)
    assert FastSAC.of(fast) is None
    for name, value in parameters(slow).items():
        th.testing.assert_close(parameters(fast)[name], value, rtol=0, atol=1e-3)


def test_images_keep_sb3s_updates():
    image_env = FakeImageEnv(screen_height=40, screen_width=40, discrete=False)
    model = VARL("CnnPolicy", image_env, fast=True, learning_starts=20, batch_size=16, buffer_size=100)
    assert FastSAC.of(model) is None
    model.learn(40)


def test_the_fast_updates_take_part_with_normalised_environments():
    model = make(VecNormalize(DummyVecEnv([DictEnv])), policy="MultiInputPolicy", fast=True)
    assert FastSAC.of(model) is not None


@pytest.mark.parametrize("fast", [True, False])
def test_everything_is_undone_when_training_fails(fast, monkeypatch):
    model = make(fast=fast, advice=5).learn(60)
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.train(1)
    assert not model.actor.optimizer._optimizer_step_pre_hooks
    assert not model.critic._forward_hooks
    assert not model.critic._forward_pre_hooks
    assert model.actor.optimizer.param_groups[0]["fused"] is None
    assert th.full((), 1e-39) * 1 != 0


@pytest.mark.parametrize("fast", [True, False])
def test_a_hook_that_clips_sees_the_shaping_term_as_well(fast):
    model = make(advice=9, fast=fast, shaping_coef=1e4, gate="always").learn(60)
    norms = []

    def clip(*_):
        norms.append(nn.utils.clip_grad_norm_(model.actor.parameters(), 1.0))

    model.actor.optimizer.register_step_pre_hook(clip)
    model.train(2, 32)
    assert min(norms) > 100
    assert all(parameter.grad.norm() <= 1.01 for parameter in model.actor.parameters())


def test_parameters_that_both_losses_reach_are_no_constants():
    model = make()
    shared = next(model.critic.parameters())
    optimizer = th.optim.Adam([*model.actor.parameters(), shared])
    actions = th.zeros(4, 1, requires_grad=True)
    with constant_critic(model.critic, optimizer):
        sum(q.sum() for q in model.critic(th.randn(4, 3), actions)).backward()
    assert shared.grad is not None
    assert list(model.critic.parameters())[1].grad is None


def test_weights_in_another_order_of_memory_are_left_to_sb3():
    model = make(fast=True)
    layer = model.critic.q_networks[0][0]
    layer.weight.data = layer.weight.data.t().contiguous().t()
    assert FastSAC.of(model) is None
    model.learn(60)


def test_a_temperature_of_any_shape():
    model = make(fast=True, ent_coef=0.1)
    model.ent_coef_tensor = th.tensor([0.1])
    model.learn(60)


def test_a_watched_layer_is_still_called():
    model = make(fast=True)
    calls = []
    model.actor.latent_pi[0].register_forward_hook(lambda *_: calls.append(1))
    model.learn(60)
    assert len(calls) > 20


def test_hooks_on_the_optimizer_are_called():
    model = make(fast=True)
    calls = []
    model.critic.optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    model.learn(60)
    assert len(calls) == 20


def test_fast_models_are_saved_and_go_on_as_if_never_stopped(tmp_path):
    whole = make(fast=True, advice=9).learn(60)
    whole.save(tmp_path / "model")
    whole.save_replay_buffer(tmp_path / "replay")
    loaded = VARL.load(tmp_path / "model")
    loaded._logger = whole.logger
    assert loaded.fast
    loaded.load_replay_buffer(tmp_path / "replay")
    for model in (whole, loaded):
        th.manual_seed(0)
        np.random.seed(0)
        model.train(20, 32)
    assert_same_parameters(whole, loaded)
    SAC.load(tmp_path / "model", env=whole.get_env()).learn(20)


def test_adam_is_as_it_was_after_training():
    model = make(fast=True).learn(60)
    plain = make().learn(60)
    for mine, sb3s in zip(optimizers_of(model), optimizers_of(plain), strict=True):
        assert mine.param_groups[0]["fused"] is None
        assert mine.param_groups[0].keys() == sb3s.param_groups[0].keys()


@pytest.mark.parametrize("kwargs", [{"fused": False}, {"foreach": True}, {"capturable": False, "fused": True}])
def test_adams_settings_are_the_users(kwargs):
    optimizer = th.optim.Adam([nn.Parameter(th.zeros(2))], **kwargs)
    before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    with fused_adam([optimizer]):
        within = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    assert within == before


@pytest.mark.parametrize("before", [True, False])
def test_denormals_are_flushed_within_only(before):
    tiny = th.full((), 1e-39)
    if not th.set_flush_denormal(before):
        pytest.skip("this processor cannot")
    try:
        with flushed_denormals():
            assert tiny * 1 == 0
        assert (tiny * 1 == 0) == before
    finally:
        th.set_flush_denormal(False)


def test_the_critics_parameters_are_constants_in_the_actors_loss_only():
    model = make()
    observations, actions = th.randn(4, 3), th.zeros(4, 1, requires_grad=True)
    first = next(model.critic.parameters())
    frozen_by_user = list(model.critic.parameters())[-1].requires_grad_(False)
    with constant_critic(model.critic, model.actor.optimizer):
        sum(q.sum() for q in model.critic(observations, actions)).backward()
        assert actions.grad.abs().sum() > 0
        assert first.grad is None
        sum(q.sum() for q in model.critic(observations, actions.detach())).backward()
        assert first.grad.abs().sum() > 0
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model.critic(th.randn(4, 7), actions)
        assert first.requires_grad
    assert not frozen_by_user.requires_grad
    assert not model.critic._forward_hooks
    assert not model.critic._forward_pre_hooks


def networks():
    layer = st.tuples(st.integers(1, 40), st.booleans(), st.booleans())
    return st.tuples(st.integers(1, 40), st.lists(layer, min_size=1, max_size=3), st.integers(2, 20), st.booleans())


@settings(deadline=None, max_examples=60)
@given(networks())
def test_an_mlp_computes_what_its_layers_do(spec):
    width, layers, n, bias = spec
    th.manual_seed(0)
    x = th.randn(n, width, requires_grad=True)
    modules = []
    for features, norm, relu in layers:
        modules.append(nn.Linear(width, features, bias=bias))
        if norm:
            modules.append(nn.LayerNorm(features))
        if relu:
            modules.append(nn.ReLU())
        width = features
    network = nn.Sequential(*modules)
    other = copy.deepcopy(network)
    y = network(x)
    grad = th.randn_like(y)
    y.backward(grad)

    written_out = Mlp.of(other, product=product)
    z, records = written_out.forward(x.detach())
    th.testing.assert_close(z, y.detach(), rtol=1e-3, atol=1e-4)
    th.testing.assert_close(written_out.input_gradient(records, grad), x.grad, rtol=1e-2, atol=1e-3)
    assert all(parameter.grad is None for parameter in other.parameters())
    for repetition in (1, 2):  # gradients add up
        written_out.add_gradients(records, grad)
        for found, expected in zip(other.parameters(), network.parameters(), strict=True):
            th.testing.assert_close(found.grad, repetition * expected.grad, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize(("n", "k", "m"), [(32, 39, 256), (5, 256, 1), (128, 20, 16), (16, 16, 16)])
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_product(onednn, n, k, m, dtype, monkeypatch):
    monkeypatch.setattr(th.backends.cpu, "get_cpu_capability", lambda: "AVX512" if onednn else "AVX2")
    operator = mlp._onednn_linear.__wrapped__()
    assert (operator is not None) == onednn
    monkeypatch.setattr(mlp, "_onednn_linear", lambda: operator)
    x, weight, bias = th.randn(n, k, dtype=dtype), th.randn(m, k, dtype=dtype), th.randn(m, dtype=dtype)
    th.testing.assert_close(product(x, weight), x @ weight.t(), rtol=1e-3, atol=1e-4)
    th.testing.assert_close(product(x, weight, bias), x @ weight.t() + bias, rtol=1e-3, atol=1e-4)
    th.testing.assert_close(product(x.t(), weight.new_ones(m, n)), x.t() @ x.new_ones(n, m), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("operator", [lambda x, w, b, *_: x @ w.t(), lambda x, w: x @ w.t()], ids=["other", "arity"])
def test_an_operator_that_computes_something_else_is_not_used(operator, monkeypatch):
    monkeypatch.setattr(th.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(th.ops.mkldnn, "_linear_pointwise", SimpleNamespace(default=operator), raising=False)
    assert mlp._onednn_linear.__wrapped__() is None


def test_counter_env_learns_fast_as_well():
    model = VARL("MlpPolicy", CounterEnv(low=-1, high=3), **SMALL, shaping_coef=50.0, fast=True)
    observation, advice = np.array([0, 3, 0], np.float32), np.array([2.5, -0.5], np.float32)
    model.guidance_buffer.add(observation, model.policy.scale_action(advice))
    model.learn(600)
    action, _ = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(action, advice, atol=0.8 + 0.1)
