"""Success that is told by the reward."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from sb3_varl import VARL, AdvisorCallback, ArgumentError, FunctionAdvisor, SuccessFromReward
from sb3_varl.success import success_of


class Rewards(gym.Env):
    """
    Gives the rewards that it is told to, or the action.

    :param rewards: One for each step
    """

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, rewards=None):
        self.rewards = rewards

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.n_steps += 1
        done = self.n_steps == (10 if self.rewards is None else len(self.rewards))
        reward = float(action[0]) if self.rewards is None else self.rewards[self.n_steps - 1]
        return np.zeros(1, np.float32), reward, done, False, {"is_success": "whatever", "kept": self.n_steps}


def _told(env):
    env.reset()
    told = []
    while not (told and told[-1][0]):
        _, _, done, _, info = env.step(np.zeros(1, np.float32))
        told.append((done, info["is_success"], info["kept"]))
    return [success for _, success, _ in told]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(-1, 1))
def test_an_episode_succeeds_once_the_reward_was_large_or_by_its_last_step(rewards, above):
    by_any, by_last = (SuccessFromReward(Rewards(rewards), above, last) for last in (False, True))
    for _ in range(2):  # what was is forgotten
        assert _told(by_any) == [any(reward > above for reward in rewards[: n + 1]) for n in range(len(rewards))]
        assert _told(by_last) == [reward > above for reward in rewards]


@pytest.mark.parametrize("above", ["1", None, True, float("nan"), float("inf")])
def test_what_no_reward_can_be_compared_with_is_refused(above):
    with pytest.raises(ArgumentError, match=r"above is .*, expected a number"):
        SuccessFromReward(Rewards(), above)


def test_last_is_true_or_false():
    with pytest.raises(ArgumentError, match="last is 'no'"):
        SuccessFromReward(Rewards(), last="no")


def test_an_environment_that_resets_itself_begins_again():
    env = SuccessFromReward(gym.wrappers.Autoreset(Rewards([1.0, 0.0])))
    env.reset()
    assert [env.step(np.zeros(1, np.float32))[-1].get("is_success") for _ in range(2)] == [True, True]
    env.unwrapped.rewards = [0.0, 0.0]
    assert [env.step(np.zeros(1, np.float32))[-1]["is_success"] for _ in range(3)] == [False] * 3


def test_numpys_numbers_can_be_written_down():
    env = SuccessFromReward(gym.make("Pendulum-v1"), above=np.float32(0.5))
    assert '"above": 0.5' in env.spec.to_json()


def test_it_is_an_environment_that_a_spec_can_make_again():
    gym.register("Rewards-v0", Rewards, max_episode_steps=5)
    try:
        env = SuccessFromReward(gym.make("Rewards-v0"), above=0.5, last=True)
        check_env(env, warn=False)
        again = gym.make(env.spec)
    finally:
        del gym.registry["Rewards-v0"]
    again.reset()
    assert [again.step(np.array([action], np.float32))[-1]["is_success"] for action in (0.4, 0.6, 0.4)] == [
        False,
        True,
        False,
    ]


def test_stable_baselines3_and_the_advice_count_by_it():
    """Advice of 0.9 in each step succeeds, and the policy's own evaluation is counted."""

    def make():
        return Monitor(SuccessFromReward(Rewards(), above=0.8, last=True))

    model = VARL("MlpPolicy", make_vec_env(make), learning_starts=50, shaping_steps=300, seed=0)
    advisor = FunctionAdvisor(lambda _: np.array([0.9], np.float32))
    callback = AdvisorCallback(advisor, frames=False, label_freq=2, roll_in=0.5, hold=True)
    evaluation = EvalCallback(make_vec_env(make), eval_freq=300, n_eval_episodes=2, verbose=0, log_path=".")
    model.learn(300, callback=[callback, evaluation])
    assert len(evaluation.evaluations_successes[-1]) == 2
    assert model.logger.name_to_value["advice/success_all_the_way"] > 0.5


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, None),
        ({"is_success": None}, None),
        ({"is_success": 1.0}, True),
        ({"success": 0}, False),
        ({"is_success": False, "success": True}, False),
        ({"is_success": np.array([True, False])}, False),
        ({"is_success": np.array([[True]])}, True),
        ({"is_success": np.nan}, None),
        ({"is_success": np.array([])}, None),
        ({"is_success": "False"}, None),
        ({"is_success": th.tensor(True)}, True),
    ],
)
def test_what_an_environment_says_of_its_success(info, expected):
    assert success_of(info) is expected
