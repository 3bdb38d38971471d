"""Copies of models, callbacks and advisors, as spawned processes, Ray, joblib and sweeps make them."""

import copy
import pickle
import threading

import cloudpickle
import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from conftest import CounterEnv, assert_same_parameters, make_query, make_vlm
from sb3_varl import VARL, VARLTQC, AdvisorCallback, FunctionAdvisor, VARLCrossQ
from sb3_varl.testing import VLMServer

SMALL = {"learning_starts": 5, "batch_size": 8, "seed": 0, "policy_kwargs": {"net_arch": [8]}}
SETTINGS = {"n_queries": 1, "first_query": 20, "states_per_query": 4, "window": 10, "blocking": True}
COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "cloudpickle": lambda thing: cloudpickle.loads(cloudpickle.dumps(thing)),
}


def halves(observation):
    return np.full(2, 0.5)


def make_callback(advisor=None, **kwargs):
    return AdvisorCallback(advisor or FunctionAdvisor(halves), **{**SETTINGS, "log_path": False, **kwargs})


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(
    ("algorithm", "kwargs"), [(SAC, {}), (VARL, {}), (VARL, {"fast": True}), (VARLTQC, {}), (VARLCrossQ, {})]
)
def test_a_model_that_has_learnt_can_be_copied(algorithm, kwargs, how):
    model = algorithm("MlpPolicy", CounterEnv(), **SMALL, **kwargs)
    model.learn(40, callback=None if algorithm is SAC else make_callback())
    twin = COPIES[how](model)
    assert_same_parameters(model, twin)
    twin.learn(20, reset_num_timesteps=False)
    assert twin.num_timesteps == 60
    assert model.num_timesteps == 40
    if algorithm is not SAC:
        assert twin.guidance_buffer.size() == model.guidance_buffer.size() == 4


def test_a_model_can_be_copied_while_it_learns():
    twins = []

    class Copier(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 30:
                twins.append(copy.deepcopy(self.model))
            return True

    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.learn(40, callback=[make_callback(), Copier()])
    twins[0].learn(10, reset_num_timesteps=False)
    assert twins[0].guidance_buffer.size() == 4


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("used", [False, True])
def test_a_callback_can_be_copied_and_begins_anew(how, used, tmp_path):
    callback = make_callback(log_path=tmp_path / "log")
    if used:
        VARL("MlpPolicy", CounterEnv(), **SMALL).learn(40, callback=callback)
    twin = COPIES[how](callback)
    assert (twin.n_asked, dict(twin.totals)) == (0, {})
    assert (twin.n_queries, twin.log_path) == (callback.n_queries, callback.log_path)
    twin.log_path = tmp_path / "another"
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.learn(40, callback=twin)
    assert twin.totals["accepted"] == model.guidance_buffer.size() == 4
    assert callback.n_asked == used


@pytest.mark.usefixtures("vlm_environment")
@pytest.mark.parametrize("how", COPIES)
def test_a_vlm_advisor_can_be_copied(how):
    with VLMServer() as server:
        advisor = make_vlm(server, max_requests=2)
        advisor.advise(make_query(1))
        twin = COPIES[how](advisor)
        assert twin.usage == advisor.usage
        for _ in range(2):
            twin.advise(make_query(1))
        assert (advisor.usage.requests, twin.usage.requests) == (1, 2)
        callback = make_callback(twin)
        assert COPIES[how](callback).advisor.usage == twin.usage


@pytest.mark.usefixtures("vlm_environment")
def test_an_advisor_can_be_copied_while_it_is_asked():
    asked, go_on = threading.Event(), threading.Event()

    def answer(states, images):
        asked.set()
        go_on.wait(20)
        return "{}"

    with VLMServer(answer) as server:
        advisor = make_vlm(server)
        thread = threading.Thread(target=advisor.advise, args=(make_query(1),))
        thread.start()
        assert asked.wait(20)
        twin = copy.deepcopy(advisor)
        go_on.set()
        thread.join(20)
        twin.advise(make_query(1))
    assert twin.usage.requests == 1
