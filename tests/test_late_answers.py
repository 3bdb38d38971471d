"""Answers that come after learn() has ended."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from logged import Interrupt, Stuck, kinds, make_callback, make_model, standing
from stable_baselines3.common.callbacks import BaseCallback

from conftest import make_query, make_vlm, wait_until
from sb3_varl import Usage
from sb3_varl.advice import log as advice_log
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import AdviceLog
from sb3_varl.advice.types import Answer, Request
from sb3_varl.testing import VLMServer, http_error

pytestmark = [
    pytest.mark.usefixtures("vlm_environment"),
    pytest.mark.filterwarnings("ignore:. of . quer"),
]


def leave_behind(advisor, monkeypatch, **kwargs):
    """A model whose training ended with Ctrl-C while the advisor, which does not break off, was asked."""
    monkeypatch.setattr("sb3_varl.training.query_queue.PATIENCE", 0.05)
    model = make_model()
    callback = make_callback(advisor, "log", n_queries=1, blocking=False, **kwargs)
    with pytest.raises(KeyboardInterrupt):
        model.learn(60, callback=[callback, Interrupt(25, after=advisor.is_asked)])
    return model


@pytest.mark.parametrize("paid", [True, False])
def test_an_answer_that_comes_when_nobody_has_the_log_is_written(paid, monkeypatch):
    advisor = Stuck(0.5, paid)
    model = leave_behind(advisor, monkeypatch)
    advisor.finish()
    AdviceLog("log").release()
    assert kinds()[-1] == "advice"
    model.learn(10, callback=make_callback(standing(-0.5), "log", n_queries=1), reset_num_timesteps=False)
    assert set(model.guidance_buffer.rows()["actions"].ravel()) == {0.5}


@pytest.mark.parametrize("during", [True, False])
@pytest.mark.parametrize("paid", [True, False])
def test_an_answer_that_comes_after_the_states_were_asked_about_again(paid, during, monkeypatch):
    """Another run on the log has its answers in the log and in the model, and the late one in neither."""
    advisor = Stuck(0.5, paid)
    model = leave_behind(advisor, monkeypatch)

    class Release(BaseCallback):
        def _on_step(self):
            if during:
                advisor.finish()
            return True

    callbacks = [make_callback(standing(-0.5), "log", n_queries=1), Release()]
    model.learn(10, callback=callbacks, reset_num_timesteps=False)
    if not during:
        advisor.finish()
    (query,) = read_queries("log")
    assert query.unanswered(4) == frozenset()
    np.testing.assert_allclose(query.read().actions, [[-0.5] * 2] * 4)
    np.testing.assert_allclose(model.guidance_buffer.rows()["actions"], [[-0.5] * 2] * 4)
    assert kinds().count("advice") == 1
    if paid:
        assert query.usage == Usage(1, cost=0.5)
        assert "after another run had gone on" in query.failures[0].text


def test_an_answer_that_comes_while_another_run_has_asked_in_vain(monkeypatch):
    """It is not lost: it is in the log when that run has ended, and the next one takes it from there."""
    advisor = Stuck(0.5, paid=True)
    model = leave_behind(advisor, monkeypatch, task="Go.")

    class Release(BaseCallback):
        def _on_step(self):
            advisor.finish()
            assert "answer" not in kinds()
            return True

    with VLMServer(always=http_error(400)) as server:
        callbacks = [make_callback(make_vlm(server), "log", n_queries=1), Release()]
        model.learn(10, callback=callbacks, reset_num_timesteps=False)
        assert "answer" in kinds()
        callback = make_callback(make_vlm(server), "log", n_queries=1)
        model.learn(10, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 1
    np.testing.assert_allclose(model.guidance_buffer.rows()["actions"], [[0.5] * 2] * 4)
    assert callback.totals["accepted"] == callback.totals["states"] == 4


def test_nothing_is_sent_after_learn_has_ended(monkeypatch):
    """Not even when another callback of the model trains by then."""

    class Persistent(Stuck):
        def advise(self, query):
            self.thread = threading.current_thread()
            self.is_asked.set()
            self.go_on.wait(30)
            query.record(Request(0, (0,)))

    advisor = Persistent(0.5)
    model = leave_behind(advisor, monkeypatch)

    class Release(BaseCallback):
        def _on_step(self):
            advisor.finish()
            return True

    callbacks = [make_callback(standing(-0.5), "log", n_queries=1), Release()]
    model.learn(10, callback=callbacks, reset_num_timesteps=False)
    assert kinds() == ["query", "advice"]


def test_the_same_callback_takes_an_answer_that_came_in_between(monkeypatch):
    monkeypatch.setattr("sb3_varl.training.query_queue.PATIENCE", 0.05)
    advisor, model = Stuck(0.5, paid=True), make_model()
    callback = make_callback(advisor, "log", n_queries=1, blocking=False)
    with pytest.raises(KeyboardInterrupt):
        model.learn(60, callback=[callback, Interrupt(25, after=advisor.is_asked)])
    advisor.finish()
    model.learn(10, callback=callback, reset_num_timesteps=False)
    assert kinds() == ["query", "request", "answer", "advice"]
    assert model.guidance_buffer.size() == callback.totals["accepted"] == 4
    assert callback.usage == Usage(1, cost=0.5)


@pytest.mark.parametrize("ends_first", [True, False])
def test_an_answer_that_comes_while_another_process_has_the_log_is_written_when_it_lets_go(ends_first, monkeypatch):
    monkeypatch.setattr(advice_log, "_PATIENCE", 0.05)
    log = AdviceLog("log")
    query = make_query(1)
    log.write_query(query)
    log.release()
    hold = "import filelock; lock = filelock.FileLock('log/advice.lock'); lock.acquire(); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        log.write_event(query, Answer(0, (0,), "paid for", Usage(1, cost=0.5)))
        assert kinds() == ["query"]
        other.communicate(b"\n")
    if ends_first:
        advice_log._write_all_that_waits()
    else:
        wait_until(lambda: kinds() == ["query", "answer"])
    assert kinds() == ["query", "answer"]
