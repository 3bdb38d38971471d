"""The faster updates are SB3's: exactly where nobody asked for speed, and up to rounding where somebody did."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from conftest import CounterEnv, DictEnv, parameters, record_uncompiled
from sb3_varl import VARL
from sb3_varl.algorithms.fast.acceleration import (
    SparseShapingTerm,
    constant_critic,
    flushed_denormals,
    fused_adam,
    optimizers_of,
)
from sb3_varl.algorithms.fast.recorded import RECORDERS
from sb3_varl.algorithms.shaping import GATES
from sb3_varl.algorithms.shaping_term import ShapingTerm


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Recorded from the second update on, but not compiled, which takes long."""
    recorder = replace(RECORDERS["cpu"], record=record_uncompiled, after=0)
    monkeypatch.setitem(RECORDERS, "cpu", recorder)


SMALL = {"learning_starts": 40, "batch_size": 32, "seed": 3, "policy_kwargs": {"net_arch": [32, 24]}}


def make(env="Pendulum-v1", policy="MlpPolicy", advice=0, **kwargs):
    policy_kwargs = {**SMALL["policy_kwargs"], **kwargs.pop("policy_kwargs", {})}
    env = env() if isinstance(env, type) else env
    model = VARL(policy, env, **{**SMALL, **kwargs, "policy_kwargs": policy_kwargs})
    model.observation_space.seed(0)
    for i in range(advice):
        model.guidance_buffer.add(model.observation_space.sample(), np.full(model.action_space.shape, i / advice))
    return model


def trained(updates, **kwargs):
    """On transitions of random actions, so that rounding errors do not go round through the environment."""
    model = make(learning_starts=200, **kwargs).learn(200)
    before = parameters(model)
    for _ in range(updates // 4):
        model.train(4, model.batch_size)
    return model, before


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


@pytest.mark.slow
@pytest.mark.parametrize("advice", [0, 5])
def test_other_activations(advice):
    kwargs = {"policy_kwargs": {"activation_fn": nn.Tanh}, "advice": advice}
    (slow, _), (fast, _) = trained(100, **kwargs), trained(100, fast=True, **kwargs)
    for name, value in parameters(slow).items():
        th.testing.assert_close(parameters(fast)[name], value, rtol=0, atol=1e-3)


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


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("use_sde", [False, True])
def test_the_term_s_gradient_comes_of_rows_with_an_open_gate(gate, policy, use_sde):
    model = make(DictEnv if policy == "MultiInputPolicy" else CounterEnv, policy, advice=9, gate=gate, use_sde=use_sde)
    gradients = []
    for term in (ShapingTerm(model, 3.0), SparseShapingTerm(model, 3.0)):
        np.random.seed(0)
        model.actor.optimizer.zero_grad()
        term.add_gradient()
        gradients.append([parameter.grad for parameter in model.actor.parameters()])
    for dense, sparse in zip(*gradients, strict=True):
        if sparse is not None:
            th.testing.assert_close(sparse, dense)
        else:
            assert dense is None or not dense.any()


def test_parameters_that_both_losses_reach_are_no_constants():
    model = make()
    shared = next(model.critic.parameters())
    optimizer = th.optim.Adam([*model.actor.parameters(), shared])
    actions = th.zeros(4, 1, requires_grad=True)
    with constant_critic(model.critic, optimizer):
        sum(q.sum() for q in model.critic(th.randn(4, 3), actions)).backward()
    assert shared.grad is not None
    assert list(model.critic.parameters())[1].grad is None


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
    for name, value in parameters(whole).items():
        th.testing.assert_close(parameters(loaded)[name], value, rtol=1e-3, atol=1e-4)
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


@pytest.mark.slow
def test_counter_env_learns_fast_as_well():
    model = VARL("MlpPolicy", CounterEnv(low=-1, high=3), **SMALL, learning_rate=3e-3, shaping_coef=50.0, fast=True)
    observation, advice = np.array([0, 3, 0], np.float32), np.array([2.5, -0.5], np.float32)
    model.guidance_buffer.add(observation, model.policy.scale_action(advice))
    model.learn(300)
    action, _ = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(action, advice, atol=0.8 + 0.1)
