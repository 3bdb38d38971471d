"""The same guidance on other actors: TQC and CrossQ."""

import inspect

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.policies import BasePolicy

from conftest import CounterEnv, assert_same_parameters
from sb3_varl import VARL, VARLTQC, AdvisorCallback, FunctionAdvisor, VARLCrossQ
from sb3_varl.algorithms.guided import Guided

SMALL = {"learning_starts": 20, "batch_size": 16, "seed": 3, "policy_kwargs": {"net_arch": [16]}}
FAMILY = [(VARL, SAC), (VARLTQC, TQC), (VARLCrossQ, CrossQ)]
SISTERS = pytest.mark.parametrize(("guided", "parent"), FAMILY[1:], ids=["TQC", "CrossQ"])


def advised(guided, env="Pendulum-v1", n=5, **kwargs):
    model = guided("MlpPolicy", env, **{**SMALL, "gate": "always", **kwargs})
    model.observation_space.seed(0)
    for i in range(n):
        model.guidance_buffer.add(model.observation_space.sample(), np.full(model.action_space.shape, i / n))
    return model


@pytest.mark.slow
@SISTERS
def test_unadvised_each_is_its_parent_bit_for_bit(guided, parent):
    """Beyond the fourth episode, after which SB3 writes its logs; in each setting, over less, in test_drop_in.py."""
    first, second = (
        algorithm("MlpPolicy", gym.make("Pendulum-v1", max_episode_steps=40), **SMALL).learn(180)
        for algorithm in (parent, guided)
    )
    assert_same_parameters(first, second)


@SISTERS
def test_past_the_cutoff_guidance_changes_nothing(guided, parent):
    first = parent("MlpPolicy", "Pendulum-v1", **SMALL).learn(100)
    assert_same_parameters(first, advised(guided, shaping_steps=10).learn(100))


@pytest.mark.parametrize(("guided", "parent"), FAMILY)
def test_no_train_is_copied(guided, parent):
    assert (guided.train, guided._update) == (Guided.train, Guided._update)
    assert "self._update(" in inspect.getsource(Guided.train)
    assert "super().train(" in inspect.getsource(Guided._update)


@SISTERS
@pytest.mark.parametrize("use_sde", [False, True], ids=["gaussian", "gsde"])
@pytest.mark.parametrize("gate", ["always", "q_filter"])
def test_the_hook_adds_the_gradient_of_the_shaping_term(guided, parent, gate, use_sde):
    """What the optimizer sees, less what it sees without the term, is the gradient of the term."""

    def gradients(shaping_coef):
        # Without a learning rate nothing moves, so all see the same parameters.
        model = advised(guided, gate=gate, use_sde=use_sde, shaping_coef=shaping_coef, learning_rate=0.0)
        model.learn(30)
        th.manual_seed(0)
        np.random.seed(0)
        model.train(3, 16)
        return model, [parameter.grad.clone() for parameter in model.actor.parameters() if parameter.grad is not None]

    (model, plain), (_, shaped) = gradients(0.0), gradients(7.0)
    # The batches as they were drawn; CrossQ's actor was last updated in its 12th update, the second of the three.
    np.random.seed(0)
    for update in (11, 12, 13):
        model.replay_buffer.sample(16)
        if guided is VARLTQC or update == 12:
            guidance = model.guidance_buffer.sample(model.guidance_batch_size)
    model.policy.set_training_mode(False)
    mean, log_std, latent = model.actor.get_action_dist_params(guidance.observations)
    latent = {name: value.detach() for name, value in latent.items()}
    policy = model.actor.action_dist.proba_distribution(mean, log_std.detach(), **latent)
    advice = guidance.actions.clamp(-0.9, 0.9)
    is_open = th.ones(len(advice))
    if gate == "q_filter":
        values = [model.critic(guidance.observations, actions) for actions in (advice, policy.mode())]
        if guided is VARLTQC:
            values = [value.mean(dim=(1, 2)) for value in values]
        else:
            values = [th.cat(value, dim=1).amin(dim=1) for value in values]
        is_open = (values[0] > values[1]).float()
    assert is_open.any()
    std = policy.distribution.stddev
    assert std.min() < 0.3
    policy.distribution = th.distributions.Normal(policy.distribution.mean, std.clamp(min=0.3))
    log_prob = policy.log_prob(advice)
    model.actor.optimizer.zero_grad()
    (7.0 * (is_open * -log_prob).mean()).backward()
    expected = [parameter.grad for parameter in model.actor.parameters() if parameter.grad is not None]
    assert len(plain) == len(shaped)
    differences = [after - before for before, after in zip(plain, shaped, strict=True)]
    differences = [difference for difference in differences if difference.abs().max() > 0]
    expected = [gradient for gradient in expected if gradient.abs().max() > 0]
    for difference, gradient in zip(differences, expected, strict=True):
        th.testing.assert_close(difference, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@SISTERS
def test_guidance_pulls_the_policy(guided, parent):
    """Towards one action everywhere, which the policy then takes."""
    model = guided("MlpPolicy", CounterEnv(), **SMALL, learning_rate=3e-3, gate="distance")
    callback = AdvisorCallback(
        FunctionAdvisor(lambda observation: [0.7, -0.7]),
        n_queries=1,
        first_query=100,
        states_per_query=50,
        window=80,
        blocking=True,
        frames=False,
        log_path=False,
    )
    model.learn(900, callback=callback)
    actions, _ = model.predict(np.array([[5, t, 0] for t in range(7)], np.float32), deterministic=True)
    np.testing.assert_allclose(actions, np.tile([0.7, -0.7], (7, 1)), atol=0.4)


@SISTERS
def test_fast_is_close(guided, parent):
    first = advised(guided, learning_rate=1e-3).learn(120)
    second = advised(guided, learning_rate=1e-3, fast=True).learn(120)
    for (name, slow), fast in zip(first.actor.state_dict().items(), second.actor.state_dict().values(), strict=True):
        th.testing.assert_close(slow, fast, rtol=1e-2, atol=1e-3, msg=name)


@SISTERS
def test_zips_go_both_ways(guided, parent, tmp_path):
    model = advised(guided).learn(60)
    model.save(tmp_path / "guided")
    loaded = guided.load(tmp_path / "guided", env=model.env)
    assert loaded.guidance_buffer.size() == 5
    loaded.learn(30, reset_num_timesteps=False)
    back = parent.load(tmp_path / "guided", env=model.env)
    assert_same_parameters(model, back)
    back.save(tmp_path / "parent")
    assert guided.load(tmp_path / "parent", env=model.env).guidance_buffer.size() == 5, "the parent kept it"


@pytest.mark.parametrize(("guided", "parent"), FAMILY)
@pytest.mark.parametrize("other", [PPO, SAC, TQC, CrossQ])
def test_a_zip_of_another_algorithm_is_refused(guided, parent, other, tmp_path):
    other("MlpPolicy", "Pendulum-v1").save(tmp_path / "model")
    if other is parent:
        guided.load(tmp_path / "model")
        return
    with pytest.raises(ValueError, match=rf"{guided.__name__} needs a policy.*load it with the algorithm"):
        guided.load(tmp_path / "model")


def test_a_policy_of_another_algorithm_is_refused():
    with pytest.raises(ValueError, match="VARL needs a policy that is a SACPolicy, but TQCPolicy"):
        VARL(TQC.policy_aliases["MlpPolicy"], "Pendulum-v1")


@SISTERS
def test_misspelt_arguments(guided, parent):
    with pytest.raises(TypeError, match="shapping_coef"):
        guided("MlpPolicy", "Pendulum-v1", shapping_coef=3)


def test_a_subclass_with_another_train_keeps_it():
    class Other(SAC):
        def train(self, gradient_steps, batch_size=64):
            self.trained = True

    class Mine(VARL, Other):
        pass

    assert Mine("MlpPolicy", "Pendulum-v1", **SMALL, fast=True).learn(30).trained


def test_a_policy_made_from_scratch_is_none_of_another_algorithm():
    class FromScratch(BasePolicy):
        pass

    model = VARL("MlpPolicy", "Pendulum-v1", _init_setup_model=False)
    model.policy_class = FromScratch
    model._check_policy()
