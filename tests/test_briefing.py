"""What is found out of environments before anything is asked, whichever process they are in."""

import contextlib

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from standing import NamedEnv, make_callback, make_model

from sb3_varl import ArgumentError, FunctionAdvisor
from sb3_varl.training.briefing import make_briefing


def limited():
    """Its spec holds a function, which does not go from one process to another."""
    return gym.wrappers.TransformReward(gym.make("Pendulum-v1", max_episode_steps=7), lambda reward: reward / 10)


def test_a_spec_that_cannot_be_sent_is_not_asked_for():
    env = make_vec_env(limited, 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"})
    try:
        model = make_model(env)
        advisor = FunctionAdvisor(lambda observation: np.zeros(1, np.float32))
        callback = make_callback(advisor, n_queries=1, first_query=60, query_freq=60, frames=False)
        model.learn(100, callback=callback)
        assert callback._briefing.max_episode_steps == 7
        assert model.guidance_buffer.size() > 0
    finally:
        env.close()


class Unsendable(NamedEnv):
    def __init__(self):
        super().__init__()
        self.function = lambda: 0

    def state(self):
        return np.zeros(9)

    @property
    def numbers(self):
        return np.zeros(9)


def test_a_method_of_an_environment_that_cannot_be_sent_is_told_of():
    env = SubprocVecEnv([Unsendable], start_method="fork")
    with pytest.raises(ArgumentError, match=r"'state', which an environment in another process could not send"):
        make_model(env).learn(30, callback=make_callback(observe="state"))
    env = SubprocVecEnv([Unsendable], start_method="fork")
    make_model(env).learn(30, callback=make_callback(observe="numbers"))
    env.close()


@pytest.mark.parametrize(
    ("inner", "outer", "is_refused"), [(True, True, True), (True, False, True), (False, True, False)]
)
def test_normalised_numbers_are_not_taken_for_original_ones(inner, outer, is_refused):
    env = VecNormalize(VecNormalize(DummyVecEnv([NamedEnv]), norm_obs=inner), norm_obs=outer)
    with pytest.raises(ArgumentError, match="Two VecNormalize") if is_refused else contextlib.nullcontext():
        make_briefing(env)


def test_a_sheet_of_original_numbers_is_not_read_off_normalised_ones():
    env = DummyVecEnv([lambda: gym.wrappers.NormalizeObservation(NamedEnv())])
    with pytest.raises(ArgumentError, match=r"NormalizeObservation around it.*VecNormalize.*observe="):
        make_briefing(env)
    sheet = NamedEnv.task_sheet
    assert make_briefing(env, sheet=sheet).sheet is sheet
    assert make_briefing(env, read=NamedEnv().observation_space).sheet is sheet


@pytest.mark.parametrize(
    "env",
    [
        lambda: VecFrameStack(DummyVecEnv([NamedEnv]), 3),
        lambda: DummyVecEnv([lambda: gym.wrappers.FrameStackObservation(NamedEnv(), 3)]),
    ],
)
def test_a_sheet_of_one_observation_is_not_read_off_the_oldest_of_several(env):
    with pytest.raises(ArgumentError, match=r"several are stacked.*observe="):
        make_briefing(env())
    sheet = NamedEnv.task_sheet
    assert make_briefing(env(), sheet=sheet).sheet is sheet
    assert make_briefing(env(), read=NamedEnv().observation_space).sheet is sheet
