"""What version 0.1.0 saves is read: models, guidance, and the log of a run that was broken off."""

import json
import pathlib
import shutil
import warnings

import numpy as np
import pytest

from conftest import CounterEnv, DictEnv, make_vlm
from sb3_varl import VARL, VARLTQC, AdvisorCallback, GuidanceBuffer, ReplayAdvisor, VARLCrossQ
from sb3_varl.advice.history import read_queries
from sb3_varl.report import relabel
from sb3_varl.testing import VLMServer

OLD = pathlib.Path(__file__).parent / "data" / "v0.1.0"
EXPECTED = json.loads((OLD / "expected.json").read_text())
ALGORITHMS = {
    "varl.zip": (VARL, CounterEnv),
    "varl_dict.zip": (VARL, DictEnv),
    "varl_tqc.zip": (VARLTQC, CounterEnv),
    "varl_crossq.zip": (VARLCrossQ, CounterEnv),
}

# SB3's zips are pickles, and of arrays of NumPy 2, which NumPy 1 cannot read.
needs_numpy_2 = pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="written with NumPy 2")


@needs_numpy_2
@pytest.mark.parametrize("name", ALGORITHMS)
def test_models(name):
    algorithm, env = ALGORITHMS[name]
    model = algorithm.load(OLD / name, env=env())
    observation = {"count": np.ones(3, np.float32), "extra": np.zeros(2, np.float32)}
    action, _ = model.predict(observation if env is DictEnv else observation["count"], deterministic=True)
    np.testing.assert_allclose(action, EXPECTED[name]["action"], rtol=1e-4)
    np.testing.assert_allclose(model.guidance_buffer.rows()["actions"], EXPECTED[name]["rows"])
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == EXPECTED[name]["steps"] + 10
    model.save("again")
    algorithm.load("again")


def test_guidance():
    env = CounterEnv()
    buffer = GuidanceBuffer(10, env.observation_space, env.action_space, device="cpu")
    buffer.load(OLD / "guidance.npz")
    assert buffer.size() == 2


def test_the_classes_are_still_where_models_look_for_them():
    from sb3_varl.algorithms.guidance_buffer import GuidanceBuffer as pickled_buffer
    from sb3_varl.algorithms.policies import LayerNormCritic, LayerNormMlpPolicy

    assert pickled_buffer is GuidanceBuffer
    assert LayerNormCritic.__name__ == "LayerNormCritic"
    assert VARL.policy_aliases["LayerNormMlpPolicy"] is LayerNormMlpPolicy


def test_log(capsys):
    first, second = read_queries(OLD / "advice")
    assert [answer.states for answer in first.answers] == [(2, 3), (0, 1)]
    assert [answer.states for answer in second.answers] == [(0, 1)]
    assert [failure.request for failure in first.failures] == [0]
    assert second.advice is None
    relabel.main([str(OLD / "advice"), "--output", "guidance.npz"])
    assert "3 rows of guidance" in capsys.readouterr().out
    actions = ReplayAdvisor(OLD / "advice").advise(second.to_query(_briefing())).actions
    np.testing.assert_allclose(actions[0], [0.5, -0.5])


def _briefing():
    from sb3_varl import Briefing

    return Briefing(CounterEnv().action_space, CounterEnv().observation_space, task="Count.")


@needs_numpy_2
@pytest.mark.usefixtures("vlm_environment")
def test_a_run_goes_on(tmp_path):
    shutil.copytree(OLD / "advice", tmp_path / "advice")
    model = VARL.load(OLD / "varl.zip", env=CounterEnv(offset=100))
    with VLMServer() as server:
        callback = AdvisorCallback(
            make_vlm(server, task="Count."),
            log_path=tmp_path / "advice",
            n_queries=3,
            first_query=20,
            query_freq=20,
            states_per_query=4,
            window=10,
            blocking=True,
            frames=False,
        )
        model.learn(40, callback=callback, reset_num_timesteps=False)
        # Those that had not been answered, and a query that was due.
        asked = [[state["state"] for state in request.states] for request in server.requests]
        assert asked == [[2, 3], [0, 1, 2, 3]]
    assert model.guidance_buffer.size() == 2 + 1 + 2 + 4
    assert callback.totals["states"] == 12
    assert callback.totals["accepted"] == 9
    assert (callback.totals["abstained"], callback.totals["rejected_out_of_bounds"]) == (1, 2)
    assert callback.totals["rejected_request_failed"] == 0
    assert [query.index for query in read_queries(tmp_path / "advice")] == [0, 1, 2]


def _callback(server, **kwargs):
    settings = {"n_queries": 3, "first_query": 20, "query_freq": 20, "states_per_query": 4, "window": 10}
    return AdvisorCallback(make_vlm(server, task="Count."), **settings, blocking=True, frames=False, **kwargs)


@needs_numpy_2
@pytest.mark.usefixtures("vlm_environment")
@pytest.mark.parametrize("meanwhile", [False, "other"])
def test_a_log_that_was_away_for_a_while(meanwhile, tmp_path):
    """What is open in it is asked about when it is there again."""
    shutil.copytree(OLD / "advice", tmp_path / "advice")
    model = VARL.load(OLD / "varl.zip", env=CounterEnv(offset=100))
    with VLMServer() as server:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.learn(10, callback=_callback(server, log_path=meanwhile), reset_num_timesteps=False)
        model.save("again")
        model = VARL.load("again", env=CounterEnv(offset=200))
        n_requests = len(server.requests)
        callback = _callback(server, log_path=tmp_path / "advice")
        model.learn(30, callback=callback, reset_num_timesteps=False)
        asked = [[state["state"] for state in request.states] for request in server.requests[n_requests:]]
    assert asked[0] == [2, 3]
    assert callback.totals["rejected_request_failed"] == 0
    assert not (tmp_path / "advice_2").exists()
    observations = model.guidance_buffer.rows()["observations/observation"]
    assert len(np.unique(observations, axis=0)) == len(observations)
