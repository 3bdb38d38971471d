"""Whose states a preview is about: those of chance, of a saved policy, of a function."""

import pathlib
import re

import gymnasium as gym
import numpy as np
import pytest
from previewed import CameraEnv, make_env, results
from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_varl import FunctionAdvisor
from sb3_varl.preview import preview
from sb3_varl.preview.policy import make_act, statistics_of
from sb3_varl.preview.rollouts import visit


def test_images_are_as_the_policy_sees_them(tmp_path):
    def make():
        return gym.wrappers.TimeLimit(CameraEnv(render_mode="rgb_array"), 40)

    model = PPO("CnnPolicy", make(), n_steps=8, batch_size=8, seed=0)
    model.save(tmp_path / "model.zip")
    advisor = FunctionAdvisor(lambda image: np.clip(-5 * (image[:2, 3, 3] / 64 - 2), -1, 1))
    shown = preview(make, advisor, policy=str(tmp_path / "model.zip"), ask=True, follow_rounds=6)
    assert shown.query.states[0].observation.shape == (3, 36, 36)
    assert results(shown)["it"] is True


def test_states_are_those_of_a_saved_policy(tmp_path):
    env = VecNormalize(DummyVecEnv([make_env]))
    model = SAC("MlpPolicy", env, learning_starts=5, use_sde=True, policy_kwargs={"net_arch": [8]}, seed=0).learn(50)
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    shown = preview(make_env, FunctionAdvisor(np.sign), policy=str(tmp_path / "model.zip"), n_states=8, n_steps=20)
    for state in shown.query.states:
        action = model.predict(env.normalize_obs(state.observation[None]), deterministic=True)[0][0]
        assert np.allclose(state.executed_action, action, atol=1e-5)


def test_rewards_are_not_normalised(tmp_path):
    env = VecNormalize(DummyVecEnv([make_env]))
    model = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0)
    env.ret_rms.var = np.full_like(env.ret_rms.var, 1e4)
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    advisor = FunctionAdvisor(lambda place: model.predict(env.normalize_obs(place[None]), deterministic=True)[0][0])
    shown = preview(make_env, advisor, policy=str(tmp_path / "model.zip"), ask=True, follow_rounds=9, hold=1)
    before, after = re.findall(r"is ([\d.]+), and was ([\d.]+) when", shown.findings.checks[-2].text)[0]
    assert before == after


@pytest.mark.parametrize(
    ("algorithm", "arguments"), [(PPO, {"n_steps": 8, "batch_size": 8}), (TD3, {}), (A2C, {"use_sde": True})]
)
def test_any_algorithm_s_policy_will_do(tmp_path, algorithm, arguments):
    model = algorithm("MlpPolicy", make_env(), seed=0, **arguments)
    model.save(tmp_path / "model.zip")
    env = DummyVecEnv([make_env])
    visited = visit(env, make_act(str(tmp_path / "model.zip"), env, 0), 4, 10)
    for state in visited.states:
        assert np.array_equal(visited.actions[state.step], state.executed_action)
    other = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    with pytest.raises(ValueError, match="is for the observation space"):
        make_act(str(tmp_path / "model.zip"), other, 0)


def test_states_are_those_of_a_function(tmp_path):
    (tmp_path / "mine.py").write_text("def act(place):\n    return -place / 2\n")
    env = DummyVecEnv([make_env])
    for state in visit(env, make_act(f"{tmp_path / 'mine.py'}:act", env, 0), 4, 10).states:
        assert np.allclose(state.executed_action, -state.observation / 2)
    with pytest.raises(ValueError, match="has no 'run', expected a function from an observation"):
        make_act(f"{tmp_path / 'mine.py'}:run", env, 0)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        make_act("nowhere.py:act", env, 0)
    with pytest.raises(ValueError, match=r"The policy is 'best', expected random, a model's .zip"):
        make_act("best", env, 0)


def test_the_same_seed_visits_the_same_states():
    def states(seed):
        env = DummyVecEnv([make_env])
        visited = visit(env, make_act("random", env, seed), 5, 50, seed=seed)
        return np.array([state.observation for state in visited.states])

    assert np.array_equal(states(1), states(1))
    assert not np.array_equal(states(1), states(2))


@pytest.mark.parametrize("policy", ["models/mine.zip", "models/rl_model_40_steps.zip"])
def test_statistics_of_another_model_are_not_taken(policy, tmp_path):
    for folder in ("models/other", "models/mine_2", "models"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in ("other/vecnormalize", "mine_2/vecnormalize", "rl_model_vecnormalize_80_steps"):
        (tmp_path / "models" / f"{name}.pkl").touch()
    assert statistics_of(tmp_path / policy) is None
    assert statistics_of(pathlib.Path(policy)) is None


@pytest.mark.parametrize(
    ("model", "statistics"),
    [
        ("quickstart/varl.zip", "quickstart/vecnormalize.pkl"),
        ("Some-Env-v1_3/Some-Env-v1.zip", "Some-Env-v1_3/Some-Env-v1/vecnormalize.pkl"),
        ("Some-Env-v1_3/best_model.zip", "Some-Env-v1_3/Some-Env-v1/vecnormalize.pkl"),
        ("Some-Env-v1_3_a1b2/best_model.zip", "Some-Env-v1_3_a1b2/Some-Env-v1/vecnormalize.pkl"),
        ("run/rl_model_40_steps.zip", "run/rl_model_vecnormalize_40_steps.pkl"),
    ],
)
def test_where_the_statistics_of_a_model_are_looked_for(model, statistics, tmp_path):
    (tmp_path / statistics).parent.mkdir(parents=True)
    (tmp_path / statistics).touch()
    assert statistics_of(tmp_path / model) == tmp_path / statistics
    assert statistics_of(pathlib.Path(model)).samefile(tmp_path / statistics)
