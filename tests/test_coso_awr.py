"""CoSoAWR: the form without PPO."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from tiny_models import gradients

from sb3_varl.coso import CoSoAWR, NumberLine


class Bandit(gym.Env):
    """Whoever adds is rewarded, and whoever does not is punished."""

    observation_space = NumberLine().observation_space
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return NumberLine().reset(options={"target": 1, "current": 0})[0], {}

    def step(self, action):
        return self.reset()[0], 2.0 * action - 1, True, False, {}


def make_awr(taught, learning_rate=1e-3, **kwargs):
    settings = {"n_steps": 8, "batch_size": 8, "n_updates": 2, "max_grad_norm": 0.5, "weights": None, "ent_coef": 0.0}
    arguments = {**taught.policy_kwargs, "thought_coef": 1.0}
    env = make_vec_env(Bandit, 4, seed=0)
    model = CoSoAWR("VLMPolicy", env, learning_rate, policy_kwargs=arguments, seed=0, **{**settings, **kwargs})
    model.policy.load_state_dict(taught.policy.state_dict())
    return model


def probability_of_adding(model, n=64):
    observed = model.policy.obs_to_tensor(np.stack([Bandit().reset()[0]] * n))[0]
    readings = [utterance.reading for utterance in model.policy.write(observed)]
    return np.mean([reading is not None and int(reading.action) == 1 for reading in readings])


@pytest.mark.slow
def test_awr_learns(taught, tmp_path):
    model = make_awr(taught, 2e-3, n_updates=20, batch_size=32, n_rollouts=2)
    before = probability_of_adding(model)
    model.learn(128)
    assert probability_of_adding(model) > before + 0.3
    assert 0 < model.logger.name_to_value["train/imitated"] < 1
    assert model.logger.name_to_value["train/n_updates"] == model._n_updates == 20 * 128 // 32
    model.save(tmp_path / "model")
    loaded = CoSoAWR.load(tmp_path / "model", env=make_vec_env(Bandit, 2, seed=0))
    assert probability_of_adding(loaded) > before + 0.3
    assert loaded.rollouts == []
    loaded.learn(16)


@pytest.mark.slow
def test_awr_writes_offline_before_it_learns(taught):
    model = make_awr(taught, offline_steps=64, offline_updates=5, ent_coef=0.5, weights="uniform")
    first = [parameter.detach().clone() for parameter in model.policy.language.parameters()]
    entropies = []
    learn = model._learn
    model._learn = lambda n, ent_coef: entropies.append((n, ent_coef, len(model.rollouts))) or learn(n, ent_coef)
    model.learn(32)
    assert all(th.equal(*pair) for pair in zip(first, model.policy.language.parameters(), strict=True))
    model.learn(96, reset_num_timesteps=False)
    assert entropies == [(5, 0.0, 2), (2, 0.5, 3), (2, 0.5, 4)]


def test_awr_is_the_likelihood_of_what_was_better(taught, monkeypatch):
    model = make_awr(taught, n_updates=1, batch_size=32, ent_coef=0.2, weights="uniform", max_grad_norm=1e9)
    kept = []
    monkeypatch.setattr(model.policy.optimizer, "step", lambda: kept.append(gradients(model.policy)))
    monkeypatch.setattr(np.random, "randint", lambda n, size: np.arange(n))
    model.learn(32)
    (rollout,) = model.rollouts
    assert 0 < (rollout.advantages > 0).sum() < 32
    scores = model.policy.language.score(
        model.policy.prompts([utterance.observation for utterance in rollout.utterances]),
        [utterance.tokens for utterance in rollout.utterances],
    )
    better = th.as_tensor(rollout.advantages > 0)
    value_loss = ((model.policy._value(scores.hidden).flatten() - th.as_tensor(rollout.returns)) ** 2).mean()
    policy_loss = -(scores.log_probs.sum(dim=1) * better).mean()
    model.policy.optimizer.zero_grad()
    (policy_loss - 0.2 * scores.entropies.sum(dim=1).mean() + 0.5 * value_loss).backward()
    for name, gradient in gradients(model.policy).items():
        assert kept[0][name].numpy() == pytest.approx(gradient.numpy(), rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_what_was_written_offline_counts_over_several_calls(taught, caplog, tmp_path):
    model = make_awr(taught, offline_steps=96, offline_updates=2)
    model.learn(32)
    assert "Nothing was learnt yet: of the 96 offline_steps 32 are there" in caplog.text
    model.learn(32)
    model.save(tmp_path / "model")
    model.learn(32)
    assert model.is_online
    assert "train/imitated" in model.logger.name_to_value
    # A zip has none of it, so that who goes on from there writes all of it anew.
    loaded = CoSoAWR.load(tmp_path / "model", env=make_vec_env(Bandit, 4, seed=0))
    loaded.learn(64, reset_num_timesteps=False)
    assert not loaded.is_online
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.is_online


def test_awr_has_no_noise_beside_its_words(taught):
    with pytest.raises(ValueError, match="gSDE"):
        make_awr(taught, use_sde=True)
