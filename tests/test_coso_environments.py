"""The environments of CoSo."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from tiny_models import make_model

from sb3_varl.coso import Choices, KeyAndDoor, NumberLine, TinyVLM, imitate


def test_number_line():
    env = Monitor(NumberLine(render_mode="rgb_array"))
    picture, _ = env.reset(options={"target": 4, "current": 2})
    assert picture.shape == (32, 32, 3)
    assert np.array_equal(env.render(), picture)
    assert env.step(1)[1:4] == (0.0, False, False)
    observation, reward, is_over, _, info = env.step(1)
    assert (reward, is_over, info["is_success"]) == (1.0, True, True)
    assert not np.array_equal(observation, picture)
    env.reset(options={"target": 5, "current": 0})
    steps = [env.step(0) for _ in range(10)]
    assert [step[1] for step in steps] == [-1.0] * 10
    assert steps[-1][2:4] == (False, True)
    assert steps[-1][4]["is_success"] is False
    check_env(gym.make("sb3_varl.coso:NumberLine-v0").unwrapped, skip_render_check=True)
    with pytest.raises(ValueError, match='expected "pixels" or "numbers"'):
        NumberLine("words")


def walk(env, towards):
    """Go straight to where ``towards`` says, and count the steps."""
    observation, rewards, is_over = env.unwrapped._observe(), [], False
    while not is_over:
        action = np.clip(towards(observation) - observation[:2], -1, 1)
        observation, reward, terminated, truncated, info = env.step(action.astype(np.float32))
        rewards.append(reward)
        is_over = terminated or truncated
    return rewards, terminated, info


def test_the_door_needs_the_key():
    env = Monitor(KeyAndDoor(render_mode="rgb_array"))
    for seed in range(20):
        env.reset(seed=seed)
        rewards, is_done, info = walk(env, lambda seen: seen[4:6] if seen[6] else seen[2:4])
        assert (sum(rewards), rewards[-1], is_done, info["is_success"]) == (1.0, 1.0, True, True)
    env.reset(seed=0)
    is_on_the_way = np.linalg.norm(env.unwrapped.key - env.unwrapped.door) < 0.75
    rewards, is_done, info = walk(env, lambda seen: seen[4:6])
    assert not is_on_the_way
    assert (sum(rewards), is_done, info["is_success"], len(rewards)) == (0.0, False, False, 40)


def test_the_key_is_gone_from_the_picture_once_it_is_taken():
    env = KeyAndDoor(render_mode="rgb_array")
    env.reset(seed=3)
    orange = (255, 165, 0)
    assert (env.render() == orange).all(axis=-1).any()
    env.place = env.key.copy()
    env.step(np.zeros(2, np.float32))
    assert not (env.render() == orange).all(axis=-1).any()
    assert KeyAndDoor().render() is None


@pytest.mark.parametrize("options", [{"target": 3}, {"target": 9, "current": 0}, {"target": 1, "current": 1}, {"a": 1}])
def test_a_start_that_is_none(options):
    with pytest.raises(ValueError, match="expected two different whole numbers from 0 to 5"):
        NumberLine().reset(options=options)


@pytest.mark.parametrize(
    ("env", "action"), [(NumberLine, 2), (NumberLine, "+"), (KeyAndDoor, [0, np.nan]), (KeyAndDoor, 1)]
)
def test_an_action_that_is_none(env, action):
    env = env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action is .*, expected"):
        env.step(action)


@pytest.mark.parametrize("name", ["KeyAndDoor", "BlackjackPixels"])
def test_environments_are_what_gymnasium_expects(name):
    if name == "BlackjackPixels":
        pytest.importorskip("pygame")
    check_env(gym.make(f"sb3_varl.coso:{name}-v0").unwrapped)


@pytest.mark.slow
def test_blackjack_is_played_from_its_picture():
    pytest.importorskip("pygame")
    env = make_vec_env("sb3_varl.coso:BlackjackPixels-v0", 2, seed=0)
    assert env.observation_space.shape[-1] == 3
    words = {"stick": 0, "hit": 1}
    answers = [f'{{"cards": "seen", "action": "{word}"}}' for word in words]
    prompt = "Blackjack: stick or hit?"
    policy = {
        "model": TinyVLM((prompt, *answers), width=16, n_layers=1),
        "prompt": prompt,
        "actions": Choices(words),
        "max_new_tokens": 20,
    }
    model = make_model(env, policy=policy, n_steps=4, batch_size=8)
    imitate(
        model, [(env.reset()[0], answer) for answer in answers] * 8, n_epochs=60, learning_rate=0.01, progress_bar=False
    )
    model.learn(8)
    assert model.num_timesteps == 8
    assert any(utterance.reading is not None for utterance in model.rollout_buffer.utterances)
    assert len(model.ep_success_buffer) == len(model.ep_info_buffer) > 0
    assert all(
        success == (info["r"] > 0) for success, info in zip(model.ep_success_buffer, model.ep_info_buffer, strict=True)
    )
