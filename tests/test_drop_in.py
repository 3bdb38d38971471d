"""Every setting of SAC, TQC and CrossQ: the table "Can I use?" in docs/algorithm.md says what works; this checks it."""

import pathlib
import re

import numpy as np
import pytest
import torch as th
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from torch import nn

from conftest import CounterEnv, DictEnv, assert_same_parameters
from sb3_varl import VARL, VARLTQC, AdvisorCallback, FunctionAdvisor, NStepDictReplayBuffer, VARLCrossQ

FAMILY = {"VARL": (VARL, SAC), "VARLTQC": (VARLTQC, TQC), "VARLCrossQ": (VARLCrossQ, CrossQ)}


class Normalised(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 6)
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 6), nn.Dropout(0.5))

    def forward(self, observations):
        return self.layers(observations)


def images(channel_first):
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=3, discrete=False, channel_first=channel_first)
    env.observation_space.seed(0)
    policy_kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    return {"policy": "CnnPolicy", "env": env, "batch_size": 4, "policy_kwargs": policy_kwargs}


def custom(parent):
    policy = type("Custom", (parent.policy_aliases["MlpPolicy"],), {})
    kwargs = {"net_arch": [8], "activation_fn": nn.Tanh, "optimizer_class": th.optim.RMSprop}
    return {"policy": policy, "policy_kwargs": kwargs}


SETTINGS = {
    "Box observations, `MlpPolicy`": lambda parent: {},
    "Images, channels last, `CnnPolicy`": lambda parent: images(channel_first=False),
    "Images, channels first, `CnnPolicy`": lambda parent: images(channel_first=True),
    "Dict observations, `MultiInputPolicy`": lambda parent: {"policy": "MultiInputPolicy", "env": DictEnv()},
    "Goals, `HerReplayBuffer`": lambda parent: {
        "policy": "MultiInputPolicy",
        "env": BitFlippingEnv(n_bits=4, continuous=True, max_steps=4),
        "replay_buffer_class": HerReplayBuffer,
    },
    "gSDE": lambda parent: {"use_sde": True, "use_sde_at_warmup": True},
    "n-step returns": lambda parent: {"n_steps": 3},
    "n-step returns of Dict observations": lambda parent: {
        "policy": "MultiInputPolicy",
        "env": DictEnv(),
        "replay_buffer_class": NStepDictReplayBuffer,
        "replay_buffer_kwargs": {"n_steps": 3, "gamma": 0.99},
    },
    "`optimize_memory_usage`": lambda parent: {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    },
    "Action noise": lambda parent: {"action_noise": NormalActionNoise(np.zeros(2), np.full(2, 0.3))},
    "Fixed entropy coefficient": lambda parent: {"ent_coef": 0.1},
    "Automatic entropy coefficient": lambda parent: {"ent_coef": "auto_0.1", "target_entropy": -1.0},
    "Batch normalisation, dropout": lambda parent: {
        "policy_kwargs": {"net_arch": [8], "features_extractor_class": Normalised}
    },
    "Shared features extractor": lambda parent: {"policy_kwargs": {"net_arch": [8], "share_features_extractor": True}},
    "Schedules": lambda parent: {"learning_rate": lambda progress: 1e-3 * progress},
    "`train_freq` in episodes, `gradient_steps=-1`": lambda parent: {
        "train_freq": (1, "episode"),
        "gradient_steps": -1,
    },
    "`DummyVecEnv`": lambda parent: {"env": DummyVecEnv([CounterEnv] * 3), "gradient_steps": -1},
    "`SubprocVecEnv`": lambda parent: {"env": SubprocVecEnv([CounterEnv] * 2, start_method="fork")},
    "`VecNormalize`": lambda parent: {"env": VecNormalize(DummyVecEnv([CounterEnv] * 2))},
    "`VecFrameStack`": lambda parent: {"env": VecFrameStack(DummyVecEnv([CounterEnv]), 3)},
    "Custom policies and optimizers": custom,
}


def make(algorithm, parent, setting, **kwargs):
    defaults = {"policy": "MlpPolicy", "buffer_size": 200, "learning_starts": 40, "batch_size": 16, "seed": 3}
    settings = {**defaults, "policy_kwargs": {"net_arch": [8]}, **SETTINGS[setting](parent), **kwargs}
    return algorithm(settings.pop("policy"), settings.pop("env", None) or CounterEnv(), **settings)


def page_table():
    text = (pathlib.Path(__file__).parent.parent / "docs" / "algorithm.md").read_text()
    section = text.split("## Can I use?")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", section, re.M)]
    (_, *columns), _, *rows = rows
    assert columns == list(FAMILY)
    return {name: dict(zip(columns, cells, strict=True)) for name, *cells in rows}


def test_the_page_lists_what_is_tested_here():
    assert list(page_table()) == list(SETTINGS)


@pytest.mark.parametrize("name", ["VARL", *(pytest.param(name, marks=pytest.mark.slow) for name in [*FAMILY][1:])])
@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting(setting, name, tmp_path):
    guided, parent = FAMILY[name]
    if page_table()[setting][name] == "❌":
        for algorithm in (parent, guided):
            with pytest.raises((ValueError, AssertionError, TypeError, RuntimeError)):
                make(algorithm, parent, setting).learn(60)
        return
    plain, unadvised = make(parent, parent, setting).learn(60), make(guided, parent, setting).learn(60)
    assert_same_parameters(plain, unadvised)

    for fast in (False, True):
        model = make(guided, parent, setting, fast=fast, gate="always", shaping_steps=100)
        zero = np.zeros(model.action_space.shape)
        callback = AdvisorCallback(
            FunctionAdvisor(lambda observation, zero=zero: zero),
            n_queries=1,
            first_query=30,
            states_per_query=5,
            window=24,
            frames=False,
            blocking=True,
            log_path=False,
        )
        model.learn(60, callback=callback)
        assert model.guidance_buffer.size() == 5
        assert model.logger.name_to_value["varl/shaping_active"] == 1
        assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())
        assert any(not th.equal(*pair) for pair in zip(model.actor.parameters(), plain.actor.parameters(), strict=True))
        model.save(tmp_path / "model")
        loaded = guided.load(tmp_path / "model", env=model.env)
        assert_same_parameters(model, loaded)
        assert loaded.guidance_buffer.size() == 5
        loaded.replay_buffer = model.replay_buffer
        loaded.learn(12, reset_num_timesteps=False)
    model.env.close()


def test_guidance_leaves_the_statistics_of_batch_normalisation_alone():
    def statistics(n_rows):
        model = make(VARL, SAC, "Batch normalisation, dropout", learning_rate=0.0, gate="always")
        for _ in range(n_rows):
            model.guidance_buffer.add(np.full(3, 100, np.float32), np.ones(2))
        model.learn(45)
        return dict(model.actor.named_buffers())

    unadvised, shaped = statistics(0), statistics(5)
    for buffers in (unadvised, shaped):
        assert buffers["features_extractor.layers.1.running_mean"].abs().max() < 10


@pytest.mark.parametrize("name", FAMILY)
def test_the_logged_figures_leave_the_mode_of_the_networks_alone(name):
    guided, parent = FAMILY[name]
    model = make(guided, parent, "Batch normalisation, dropout")
    model.guidance_buffer.add(np.zeros(3), np.zeros(2))
    model.learn(30)
    model.policy.set_training_mode(True)
    before = [module.training for module in model.policy.modules()]
    model.dump_logs()
    assert before == [module.training for module in model.policy.modules()]
