"""Runs that break off and go on: nothing that was answered is lost, and nothing is asked twice."""

import errno
import os
import pathlib
import signal
import threading
import time

import numpy as np
import pytest
from gymnasium import spaces
from logged import SMALL
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from conftest import CounterEnv, DictEnv, make_vlm, wait_until
from sb3_varl import VARL, Advice, AdvisorCallback, FunctionAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import read_records
from sb3_varl.report import relabel
from sb3_varl.testing import Misbehaviour, VLMServer
from sb3_varl.training.state_collector import StateCollector

pytestmark = pytest.mark.usefixtures("vlm_environment")

SETTINGS = {"n_queries": 3, "first_query": 20, "query_freq": 20, "states_per_query": 4, "window": 10}
# Neither answers nor fails until the end of the test.
NEVER = Misbehaviour(delay=60)


def make_callback(advisor, log_path, **kwargs):
    return AdvisorCallback(advisor, log_path=log_path, **{**SETTINGS, "frames": False, "blocking": True, **kwargs})


def make_model(env=None, policy="MlpPolicy"):
    return VARL(policy, env or CounterEnv(), **SMALL)


class Interrupt(BaseCallback):
    """Ctrl-C at a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def _on_step(self):
        if self.num_timesteps == self.step:
            os.kill(os.getpid(), signal.SIGINT)
        return True


def interrupt_when(condition):
    """Ctrl-C from another thread as soon as something is so."""

    def wait():
        wait_until(condition)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def asked(server):
    """Numbers and observations of the states of each request."""
    return [[(state["state"], tuple(state["observation"])) for state in request.states] for request in server.requests]


def assert_asked_once(server):
    observations = [observation for request in asked(server) for _, observation in request]
    assert len(observations) == len(set(observations)), "a state was asked about twice"


@pytest.mark.filterwarnings("ignore:. of 3 queries w")
@pytest.mark.parametrize(("env", "policy"), [(CounterEnv, "MlpPolicy"), (DictEnv, "MultiInputPolicy")])
def test_what_was_answered_after_the_model_was_saved_comes_from_the_log(env, policy, tmp_path):
    advisor = FunctionAdvisor(lambda observation: np.full(2, 0.5))
    model = make_model(env(), policy)
    model.learn(30, callback=make_callback(advisor, tmp_path / "log"))
    model.save(tmp_path / "model")
    model.learn(20, callback=make_callback(advisor, tmp_path / "log"), reset_num_timesteps=False)
    assert model.guidance_buffer.size() == 8

    resumed = VARL.load(tmp_path / "model", env=env(offset=100))
    assert resumed.guidance_buffer.size() == 4
    callback = make_callback(advisor, tmp_path / "log")
    resumed.learn(40, callback=callback, reset_num_timesteps=False)
    assert callback.n_asked == 1
    assert resumed.guidance_buffer.size() == 12
    assert callback.totals["queries"] == 3
    assert callback.totals["states"] == callback.totals["accepted"] == 12
    for name, rows in model.guidance_buffer.rows().items():
        if name != "steps":
            np.testing.assert_array_equal(resumed.guidance_buffer.rows()[name][:8], rows)
    assert resumed.guidance_buffer.rows()["steps"].tolist() == [20] * 4 + [30] * 4 + [60] * 4
    assert [query.index for query in read_queries(tmp_path / "log")] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:. of 3 queries w")
def test_a_run_of_which_only_the_log_is_left(tmp_path):
    with VLMServer() as server:
        make_model().learn(30, callback=make_callback(make_vlm(server), tmp_path / "log"))
        model = make_model(CounterEnv(offset=100))
        callback = make_callback(make_vlm(server), tmp_path / "log", resume=True)
        model.learn(60, callback=callback)
        assert len(server.requests) == 3
        assert_asked_once(server)
    assert model.guidance_buffer.size() == 12
    assert callback.usage.requests == 3


@pytest.mark.filterwarnings("ignore:. of 3 queries w")
@pytest.mark.parametrize("fresh_callback", [True, False])
@pytest.mark.parametrize("blocking", [True, False])
def test_control_c_while_a_request_is_in_flight(fresh_callback, blocking, tmp_path):
    """The first request of the first query is answered, the second is broken off, and is asked when the run goes on."""
    with VLMServer(script=(None, NEVER)) as server:
        callback = make_callback(make_vlm(server, states_per_request=2), tmp_path / "log", blocking=blocking)
        interrupt_when(lambda: len(server.requests) == 2)
        model = make_model()
        with pytest.raises(KeyboardInterrupt):
            model.learn(100_000, callback=callback)
        wait_until(lambda: not any(thread.name == "advisor" for thread in threading.enumerate()), seconds=5)
        kinds = [record["type"] for record in read_records(tmp_path / "log")]
        assert kinds == ["query", "request", "answer", "request", "failure"]
        assert model.guidance_buffer.size() == 0

        if fresh_callback:
            callback = make_callback(make_vlm(server, states_per_request=2), tmp_path / "log")
        model.learn(60, callback=callback, reset_num_timesteps=False)
        states = [[state for state, _ in request] for request in asked(server)]
        assert states[:3] == [[0, 1], [2, 3], [2, 3]]
    assert model.guidance_buffer.size() % 4 == 0 < model.guidance_buffer.size()
    queries = read_queries(tmp_path / "log")
    assert [query.index for query in queries] == list(range(len(queries)))
    assert queries[0].n_sent == queries[0].usage.requests == 3
    assert [answer.states for answer in queries[0].answers] == [(0, 1), (2, 3)]
    assert callback.usage.requests == len(server.requests)


def test_an_advisor_that_is_interrupted_without_reason_does_not_hang(tmp_path, caplog):
    from sb3_varl.advice.types import QueryInterrupted

    class Lazy:
        def advise(self, query):
            raise QueryInterrupted

    callback = make_callback(Lazy(), tmp_path, n_queries=1)
    make_model().learn(40, callback=callback)
    assert callback.totals["failed_queries"] == 1
    assert "says that it was interrupted" in caplog.text


def test_control_c_with_an_advisor_that_serves_two_callbacks(tmp_path):
    """It is told to break off for each, and neither takes that for a fault."""
    with VLMServer(script=(NEVER,)) as server:
        advisor = make_vlm(server)
        callbacks = [make_callback(advisor, tmp_path / name, blocking=False, n_queries=1) for name in "ab"]
        interrupt_when(lambda: server.requests)
        model = make_model()
        with pytest.raises(KeyboardInterrupt):
            model.learn(100_000, callback=callbacks)
        model.learn(10, callback=callbacks, reset_num_timesteps=False)
    assert model.guidance_buffer.size() == 8
    assert [callback.totals["failed_queries"] for callback in callbacks] == [0, 0]


def test_a_budget_holds_for_two_callbacks_with_one_advisor(tmp_path):
    with VLMServer() as server:
        advisor = make_vlm(server, states_per_request=1, max_requests=5)
        make_model().learn(60, callback=[make_callback(advisor, tmp_path / name, blocking=False) for name in "ab"])
        assert len(server.requests) == 5


def test_seconds_of_a_request_that_was_broken_off_count(tmp_path):
    with VLMServer(always=NEVER) as server:
        started = []

        def late():
            started.extend([time.monotonic()] * (bool(server.requests) and not started))
            return started and time.monotonic() - started[0] > 0.6

        interrupt_when(late)
        with pytest.raises(KeyboardInterrupt):
            make_model().learn(100_000, callback=make_callback(make_vlm(server), tmp_path, n_queries=1))
    assert 0.5 < read_queries(tmp_path)[0].usage.seconds < 5


def test_control_c_while_answers_are_put_into_the_buffer(tmp_path, monkeypatch):
    """They are there once, whether the run goes on in this process or in another."""
    advisor = FunctionAdvisor(lambda observation: np.zeros(2))
    for crash_after in (False, True):
        model, callback = make_model(), make_callback(advisor, tmp_path / str(crash_after), n_queries=1)
        add_all = model.guidance_buffer.add_all

        def interrupted(*args, add_all=add_all, crash_after=crash_after, model=model, **kwargs):
            model.guidance_buffer.add_all = add_all
            if crash_after:
                add_all(*args, **kwargs)
            raise KeyboardInterrupt

        model.guidance_buffer.add_all = interrupted
        with pytest.raises(KeyboardInterrupt):
            model.learn(30, callback=callback)
        model.guidance_buffer.__dict__.pop("add_all", None)
        model.learn(10, callback=callback, reset_num_timesteps=False)
        # Only Ctrl-C between two lines of code, adding and taking note of it, leaves answers there twice.
        assert model.guidance_buffer.size() == (8 if crash_after else 4)


def test_threads_that_cannot_be_started_put_a_query_off(tmp_path, monkeypatch, caplog):
    model, start, threads = make_model(), threading.Thread.start, []

    def refuse(thread):
        if thread.name == "advisor":
            if model.num_timesteps < 30:
                raise RuntimeError("can't start new thread")
            threads.append(thread)
        start(thread)

    class Wait(BaseCallback):
        def _on_step(self):
            wait_until(lambda: not any(thread.is_alive() for thread in threads))
            return True

    monkeypatch.setattr(threading.Thread, "start", refuse)
    advisor = FunctionAdvisor(lambda observation: np.zeros(2))
    model.learn(60, callback=[make_callback(advisor, tmp_path, blocking=False), Wait()])
    assert model.guidance_buffer.size() == 12
    assert caplog.text.count("Query 1 cannot be asked at present: can't start new thread") == 1


def test_a_state_whose_action_nobody_saw_is_in_no_query():
    env = DummyVecEnv([CounterEnv])
    states = StateCollector(2, frames=False, rng=np.random.default_rng(0))
    states.draw(range(1, 3))
    states.visit(env, 1, env.reset())
    states.complete(np.zeros((1, 2)))
    states.visit(env, 2, env.reset())
    assert [state.step for state in states.take()] == [1]
    states.complete(np.ones((1, 2)))
    assert states.take() == ()


def test_actions_of_64_bits(tmp_path):
    class Env(CounterEnv):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.action_space = spaces.Box(-0.4, 0.4, (2,), np.float64)

    advisor = FunctionAdvisor(lambda observation: np.full(2, 0.1))
    model = make_model(Env())
    model.learn(60, callback=make_callback(advisor, tmp_path / "log"))
    fresh = make_model(Env())
    fresh.learn(10, callback=make_callback(advisor, tmp_path / "log", resume=True))
    assert fresh.guidance_buffer.size() == 12
    relabel.main([str(tmp_path / "log"), "--output", str(tmp_path / "guidance")])
    fresh.load_guidance_buffer(tmp_path / "guidance")


def test_learning_twice_with_one_log_has_the_answers_once(tmp_path):
    asked_about = []
    advisor = FunctionAdvisor(lambda observation: asked_about.append(observation) or np.zeros(2))
    model = make_model()
    model.learn(60, callback=make_callback(advisor, tmp_path))
    model.learn(60, callback=make_callback(advisor, tmp_path, resume=True))
    assert len(asked_about) == model.guidance_buffer.size() == 12


def test_queries_that_wait_behind_another_are_not_asked_after_the_cutoff(tmp_path, caplog):
    asked_about = []

    def slow(query):
        asked_about.append(query.index)
        wait_until(lambda: model.num_timesteps > 61)
        return Advice([None] * len(query.states))

    advisor = type("Slow", (), {"advise": staticmethod(slow)})()
    model = VARL("MlpPolicy", CounterEnv(), **{**SMALL, "shaping_steps": 61})
    model.learn(100, callback=make_callback(advisor, tmp_path, blocking=False))
    assert asked_about == [0]
    assert "2 queries were not answered when the cutoff at 61 came" in caplog.text


@pytest.mark.filterwarnings("ignore:. of 3 queries w")
def test_a_log_that_was_moved_is_missed(tmp_path):
    advisor = FunctionAdvisor(lambda observation: np.zeros(2))
    model = make_model()
    model.learn(30, callback=make_callback(advisor, "advice"))
    pathlib.Path("advice").rename("elsewhere")
    with pytest.warns(UserWarning, match="advice log is not in .*advice any more"):
        model.learn(10, callback=make_callback(advisor, None), reset_num_timesteps=False)


def test_the_frames_of_an_interrupted_query_are_shown_again(tmp_path):
    seen = []

    def look(states, images):
        seen.append([image.getpixel((0, 0)) for image in images])
        return '{"advice": []}'

    with VLMServer(look, script=(NEVER,)) as server:
        interrupt_when(lambda: server.requests)
        model = make_model()
        with pytest.raises(KeyboardInterrupt):
            model.learn(30, callback=make_callback(make_vlm(server), tmp_path, n_queries=1, frames=True))
        model.learn(10, callback=make_callback(make_vlm(server), tmp_path, n_queries=1), reset_num_timesteps=False)
        states = [state["observation"] for state in server.requests[1].states]
        assert seen == [[(*state[:2], 0) for state in states]]
        first, second = asked(server)
        assert first == second


@pytest.mark.parametrize(
    ("env", "task", "message"),
    [
        (DictEnv(), None, "the observation of its query 1 is"),
        (CounterEnv(high=3.0), None, "the action bounds of its query 1"),
        (CounterEnv(), "Count down.", "the task of its query 1 is None, expected 'Count down.'"),
    ],
)
@pytest.mark.filterwarnings("ignore:. of 3 queries w")
def test_the_log_of_another_run_is_refused(env, task, message, tmp_path):
    advisor = FunctionAdvisor(lambda observation: np.zeros(2))
    make_model().learn(30, callback=make_callback(advisor, tmp_path))
    model = make_model(env, "MultiInputPolicy" if isinstance(env, DictEnv) else "MlpPolicy")
    with pytest.raises(ValueError, match=message):
        model.learn(60, callback=make_callback(advisor, tmp_path, task=task, resume=True))


@pytest.mark.filterwarnings("ignore:. of 3 queries w")
def test_the_model_remembers_its_log(tmp_path):
    advisor = FunctionAdvisor(lambda observation: np.zeros(2))
    model = make_model()
    model.learn(30, callback=make_callback(advisor, None))
    model.save("model")
    resumed = VARL.load("model", env=CounterEnv())
    resumed.learn(40, callback=make_callback(advisor, None), reset_num_timesteps=False)
    (log,) = pathlib.Path(os.environ["XDG_DATA_HOME"], "sb3_varl", "advice").iterdir()
    assert [query.index for query in read_queries(log)] == [0, 1, 2]


def test_two_advisors_have_two_logs(tmp_path):
    advisor = FunctionAdvisor(lambda observation: np.zeros(2))
    with pytest.raises(ValueError, match="Two AdvisorCallbacks have the log_path"):
        make_model().learn(60, callback=[make_callback(advisor, tmp_path), make_callback(advisor, str(tmp_path))])
    model = make_model()
    model.set_logger(configure(str(tmp_path / "run"), ["csv"]))
    model.learn(60, callback=[make_callback(advisor, None), make_callback(advisor, None)])
    model.logger.close()
    assert {path.parent.name for path in tmp_path.glob("*/advice*/advice.jsonl")} == {"advice", "advice_2"}


def test_a_full_disk_costs_no_answer(tmp_path, monkeypatch, caplog):
    """What could not be written is, as soon as there is room."""
    model, write = make_model(), os.write

    def full(descriptor, data):
        if 15 < model.num_timesteps < 50:
            write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with VLMServer() as server:
        model.learn(60, callback=make_callback(make_vlm(server), tmp_path, frames=True))
    assert model.guidance_buffer.size() == 12
    assert caplog.text.count("cannot be written: [Errno 28] No space left on device") == 1
    assert [query.n_sent for query in read_queries(tmp_path)] == [1, 1, 1]
    assert not caplog.text.count("cannot be read")
    frames = [
        state["frame"] for record in read_records(tmp_path) if record["type"] == "query" for state in record["states"]
    ]
    assert [frame is None for frame in frames] == [True] * 8 + [False] * 4


def test_a_frame_that_is_gone_costs_the_frame_only(tmp_path, caplog):
    with VLMServer(script=(NEVER,)) as server:
        interrupt_when(lambda: server.requests)
        model = make_model()
        with pytest.raises(KeyboardInterrupt):
            model.learn(30, callback=make_callback(make_vlm(server), tmp_path, n_queries=1, frames=True))
        first, second, *_ = tmp_path.glob("*.png")
        first.unlink()
        second.write_bytes(second.read_bytes()[:20])
        model.learn(10, callback=make_callback(make_vlm(server), tmp_path, n_queries=1), reset_num_timesteps=False)
        assert [image is None for image in server.requests[1].images].count(True) == 2
    assert caplog.text.count("cannot be read, and its state is asked about without") == 2
