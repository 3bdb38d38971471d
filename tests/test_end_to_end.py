"""The whole way: environment, frames, prompt, HTTP, answer, guidance, training, log, replay; and the quickstart."""

import importlib
import json
import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scripted_vlm import scripted_answer

from conftest import CounterEnv, assert_same_parameters
from sb3_varl import VARL, AdvisorCallback, ReplayAdvisor, RulesAdvisor, VLMAdvisor
from sb3_varl.advice.log import read_records
from sb3_varl.advisors import vlm_query
from sb3_varl.testing import VLMServer, http_error
from sb3_varl.training import roll_ins, track_record

QUICKSTART = pathlib.Path(__file__).parent.parent / "examples" / "quickstart.py"
SMALL = {"learning_starts": 20, "batch_size": 16, "seed": 3, "policy_kwargs": {"net_arch": [16]}}

# Stable-Baselines3's progress bar; SB3 itself ignores this warning, but not before pytest turns it into an error.
pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


@pytest.fixture(autouse=True)
def _no_key_and_no_long_waits(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(vlm_query, "RETRY_WAIT", 0.001)


def learn(advisor, log_path):
    model = VARL("MlpPolicy", CounterEnv(low=-1.0, high=3.0), **SMALL)
    callback = AdvisorCallback(
        advisor,
        "Count to seven.",
        n_queries=2,
        first_query=60,
        query_freq=60,
        states_per_query=10,
        window=50,
        blocking=True,
        log_path=log_path,
    )
    model.learn(200, callback=callback)
    return model, callback


def by_the_step(states, images):
    """Advice that depends on what the request shows, both in numbers and in its picture."""
    items = []
    for state, image in zip(states, images, strict=True):
        episode, t, _ = state["observation"]
        assert image.getpixel((0, 0)) == (episode, t, 0), "the picture belongs to another state"
        assert all(-1 <= component <= 3 for component in state["executed_action"])
        items.append({"state": state["state"], "action": [t / 2, -1], "reason": "because"})
    return "Sure!\n```json\n" + json.dumps({"advice": items}) + "\n```"


def test_a_vlm_s_answers_become_guidance_and_are_on_disk(tmp_path):
    with VLMServer(by_the_step) as server:
        advisor = VLMAdvisor("openai/some-model", api_base=server.api_base, states_per_request=4)
        model, callback = learn(advisor, tmp_path / "log")
        assert len(server.requests) == 6  # 4 + 4 + 2 states, twice
        assert "Count to seven." in server.requests[0].text
    rows = model.guidance_buffer.rows()
    expected = model.policy.scale_action(
        np.stack([rows["observations/observation"][:, 1] / 2, np.full(20, -1)], axis=1)
    )
    np.testing.assert_allclose(rows["actions"], expected, atol=1e-6)
    assert callback.totals["accepted"] == 20
    kinds = [record["type"] for record in read_records(tmp_path / "log")]
    assert kinds == ["query", *["request", "answer"] * 3, "advice"] * 2
    assert len(list((tmp_path / "log").glob("*.png"))) == 20

    replayed, _ = learn(ReplayAdvisor(tmp_path / "log"), False)
    assert_same_parameters(model, replayed)


def test_a_dead_endpoint_costs_answers_and_not_the_run(tmp_path):
    with VLMServer(by_the_step, script=(http_error(400, "bad request"),)) as server:
        advisor = VLMAdvisor("openai/some-model", api_base=server.api_base, states_per_request=10)
        model, callback = learn(advisor, tmp_path / "log")
    assert model.num_timesteps == 200
    assert callback.totals["failed_requests"] == 1
    assert callback.totals["rejected_request_failed"] == 10
    assert callback.totals["accepted"] == 10


@pytest.fixture
def quickstart(monkeypatch, tmp_path):
    # By its name, as the process that trains SAC imports it.
    monkeypatch.syspath_prepend(QUICKSTART.parent)
    module = importlib.import_module("quickstart")
    monkeypatch.setattr(module, "N_LAST", 1)

    def run(*arguments, in_own_process=False):
        if not in_own_process:
            monkeypatch.setattr(module, "ProcessPoolExecutor", lambda n, context: ThreadPoolExecutor(n))
        defaults = ["--steps", "500", "--evaluations", "2", "--episodes", "2", "--out", str(tmp_path / "out")]
        defaults += ["--queries", "1", "--states-per-query", "12"]
        monkeypatch.setattr(sys, "argv", ["quickstart.py", *defaults, *arguments])
        module.main()
        plt.close("all")
        return tmp_path / "out"

    return run


@pytest.mark.slow
def test_quickstart_with_the_simulated_advisor(quickstart, capsys):
    out = quickstart("--task", "reach-v3", "--advisor", "simulated")
    assert {"success.png", "advice.png", "success.csv", "varl.zip", "vecnormalize.pkl"} <= {
        path.name for path in out.iterdir()
    }
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed
    assert "reach-v3" in printed
    assert plt.imread(out / "advice.png").std() > 0.1
    assert VARL.load(out / "varl.zip").guidance_buffer.size() == 12


@pytest.mark.slow
def test_quickstart_with_recorded_rules(quickstart, capsys):
    out = quickstart(in_own_process=True)
    printed = capsys.readouterr().out
    assert "RECORDED" in printed
    assert "push-v3" in printed
    rows = VARL.load(out / "varl.zip").guidance_buffer.rows()
    assert rows["labels"].all()
    assert len(rows["steps"]) == 12 + 504 // 2  # the query's states, and every second one


def test_recorded_answers_are_followed_corrected_and_resumed(tmp_path, monkeypatch):
    """The first rules for this task fail, and those after the correction succeed."""
    monkeypatch.setattr(roll_ins, "WHOLE", 1.0)
    monkeypatch.setattr(track_record, "ENOUGH", 2)
    recorded = QUICKSTART.with_name("benchmark") / "earlier_rules"
    texts = [(recorded / f"peg-insert-side-v3{which}.txt").read_text() for which in ("", ".round2")]
    left = list(texts)
    settings = {"n_queries": 2, "first_query": 60, "query_freq": 60, "states_per_query": 8, "window": 40}
    settings |= {"frames": False, "blocking": True, "roll_in": 1.0, "log_path": tmp_path / "advice"}

    def learn(model, server, n_steps):
        callback = AdvisorCallback(VLMAdvisor("openai/test", form="rules", api_base=server.api_base), **settings)
        model.learn(n_steps, callback=callback, reset_num_timesteps=False)
        return callback._teacher

    def make_env():
        return gym.make("sb3_varl.metaworld:SparseMetaWorld/peg-insert-side-v3", frame_skip=3, max_episode_steps=50)

    with VLMServer(lambda states, images: left.pop(0)) as server:
        model = VARL("MlpPolicy", make_env(), shaping_steps=5000, **{**SMALL, "learning_starts": 5000})
        learn(model, server, 300)
        assert len(server.requests) == 2
        assert "2 episodes of at most 50 steps: 0 of 2 succeeded" in server.requests[1].text
        model.save(tmp_path / "model")
        model = VARL.load(tmp_path / "model", env=make_env())
        teacher = learn(model, server, 150)
        assert len(server.requests) == 2
    assert teacher.standing.advice.rules == teacher.read(texts[1]).rules
    assert teacher.record.n_successes > 0
    assert model.guidance_buffer.rows()["labels"].all()


@pytest.mark.slow
@pytest.mark.parametrize(("form", "n_states"), [("rules", 5), ("actions", 12)])
def test_quickstart_with_a_server(quickstart, capsys, form, n_states):
    task = "button-press-topdown-v3"
    rules = RulesAdvisor.recorded(task).text
    with VLMServer(scripted_answer(task) if form == "actions" else lambda states, images: rules) as server:
        quickstart("--task", task, "--model", "openai/scripted", "--form", form, "--api-base", server.api_base)
        assert [len(request.states) for request in server.requests] == [n_states]
        assert all(image.size == (224, 224) for image in server.requests[0].images)
        assert "Press the red button down from above" in server.requests[0].text
    printed = capsys.readouterr().out
    assert "SIMULATED" not in printed
    assert "1 request, " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gpt-5"], "openai/gpt-5"),
        (["--model", "openai/gpt-5"], "OPENAI_API_KEY"),
        (["--states-per-query", "301"], "window"),
    ],
)
def test_quickstart_says_what_is_wrong_before_it_trains(quickstart, arguments, message):
    with pytest.raises(SystemExit, match=message):
        quickstart(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "raech-v3"], "reach-v3"),
        (["--steps", "1"], "--steps is 1, but there are 2 evaluations"),
        (["--form", "rule"], "invalid choice: 'rule'"),
        (["--queries", "0"], "between 1 and 4200 states"),
        (["--queries", "75", "--states-per-query", "64"], "between 1 and 4200 states"),
    ],
)
def test_quickstart_refuses_arguments_that_make_no_sense(quickstart, capsys, arguments, message):
    with pytest.raises(SystemExit):
        quickstart(*arguments)
    assert message in capsys.readouterr().err
