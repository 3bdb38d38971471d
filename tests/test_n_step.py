"""N-step returns for Dict observations."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import TQC
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from conftest import DictEnv, assert_same_parameters
from sb3_varl import SPARSE, VARL, VARLTQC, ArgumentError, NStepDictReplayBuffer

BOX, ACTIONS = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
SMALL = {"learning_starts": 20, "batch_size": 8, "seed": 0, "policy_kwargs": {"net_arch": [8]}}


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["goes on", "goes on", "ends", "is cut off"]), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(4, 30),
)
def test_samples_are_those_of_the_buffer_for_other_observations(steps, n_steps, n_envs, size):
    arguments = {"device": "cpu", "n_envs": n_envs, "n_steps": n_steps, "gamma": 0.9}
    plain = NStepReplayBuffer(size * n_envs, BOX, ACTIONS, **arguments)
    of_dicts = NStepDictReplayBuffer(size * n_envs, spaces.Dict({"seen": BOX}), ACTIONS, **arguments)
    for i, step in enumerate(steps):
        observation = np.arange(2 * n_envs, dtype=np.float32).reshape(n_envs, 2) + 100 * i
        rest = np.full((n_envs, 1), i / 40), np.arange(n_envs) + i, np.full(n_envs, step != "goes on")
        infos = [{"TimeLimit.truncated": step == "is cut off"}] * n_envs
        plain.add(observation, observation + 0.5, *rest, infos)
        of_dicts.add({"seen": observation}, {"seen": observation + 0.5}, *rest, infos)
    index = np.arange(plain.size())
    samples = []
    for buffer in (plain, of_dicts):
        np.random.seed(0)
        samples.append(buffer._get_samples(index))
    for name in samples[0]._fields:
        expected, found = (getattr(sample, name) for sample in samples)
        th.testing.assert_close(found["seen"] if isinstance(found, dict) else found, expected, msg=name)


@pytest.mark.parametrize(("guided", "parent"), [(VARL, SAC), (VARLTQC, TQC)])
def test_unadvised_each_is_its_parent_with_this_buffer(guided, parent):
    of_buffer = {"replay_buffer_class": NStepDictReplayBuffer, "replay_buffer_kwargs": {"n_steps": 3, "gamma": 0.99}}
    first = parent("MultiInputPolicy", DictEnv(), **SMALL, **of_buffer).learn(60)
    assert_same_parameters(first, guided("MultiInputPolicy", DictEnv(), **SMALL, n_steps=3).learn(60))


def test_who_names_this_buffer_gets_the_model_s_returns():
    model = VARL("MultiInputPolicy", DictEnv(), **SMALL, gamma=0.9, replay_buffer_class=NStepDictReplayBuffer)
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (1, 0.9)
    with pytest.raises(TypeError, match="n_steps"):
        SAC("MultiInputPolicy", DictEnv(), replay_buffer_class=NStepDictReplayBuffer)


def test_who_names_this_buffer_may_load_the_model_with_other_returns(tmp_path):
    model = VARL("MultiInputPolicy", DictEnv(), **SMALL, n_steps=5, replay_buffer_class=NStepDictReplayBuffer)
    assert model.replay_buffer.n_steps == 5  # any warning is an error
    model.save(tmp_path / "model")
    changed = VARL.load(tmp_path / "model", env=DictEnv(), n_steps=2, gamma=0.5)
    assert (changed.replay_buffer.n_steps, changed.replay_buffer.gamma) == (2, 0.5)


@pytest.mark.parametrize(("guided", "parent"), [(VARL, SAC), (VARLTQC, TQC)])
@pytest.mark.parametrize("named", [{}, {"replay_buffer_class": NStepDictReplayBuffer}])
def test_the_parent_loads_the_model(guided, parent, named, tmp_path):
    guided("MultiInputPolicy", DictEnv(), **SMALL, n_steps=3, **named).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="`n_steps=3` is ignored"):  # but for its replay_buffer_kwargs
        loaded = parent.load(tmp_path / "model", env=DictEnv())
    assert (loaded.replay_buffer.n_steps, loaded.replay_buffer.gamma) == (3, 0.99)
    loaded.learn(20)


@pytest.mark.parametrize("arguments", [{"n_steps": 0}, {"n_steps": "5"}, {"gamma": 97}, {"gamma": None}])
def test_returns_that_there_are_not_are_refused(arguments):
    arguments = {"n_steps": 3, "gamma": 0.9, **arguments}
    with pytest.raises(ArgumentError, match=r"n_steps is|gamma is"):
        NStepDictReplayBuffer(10, spaces.Dict({"seen": BOX}), ACTIONS, **arguments)


@pytest.mark.parametrize("fast", [False, True])
def test_the_readme_s_settings_in_an_environment_of_dicts(fast, tmp_path):
    env = VecNormalize(DummyVecEnv([DictEnv, DictEnv]), norm_reward=False)
    model = VARL("LayerNormMlpPolicy", env, **SPARSE | SMALL, fast=fast).learn(64)
    for _ in range(2):
        assert model.n_steps == 5
        assert isinstance(model.replay_buffer, NStepDictReplayBuffer)
        assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (5, SPARSE["gamma"])
        model.save(tmp_path / "model")
        model = VARL.load(tmp_path / "model", env=env)  # any warning is an error
        model.learn(32, reset_num_timesteps=False)
    changed = VARL.load(tmp_path / "model", env=env, n_steps=2, gamma=0.5)
    assert (changed.replay_buffer.n_steps, changed.replay_buffer.gamma) == (2, 0.5)
    assert type(VARL.load(tmp_path / "model", env=env, n_steps=1).replay_buffer) is DictReplayBuffer
