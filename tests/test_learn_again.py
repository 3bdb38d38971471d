"""learn() again with the same callback: what is asked, which answers go where, and who has the log."""

import os
import signal

import filelock
import numpy as np
import pytest
from logged import WRONG_KEY, Interrupt, Stuck, Until, asked, centre, go_on, make_callback, make_model
from stable_baselines3.common.callbacks import ConvertCallback

from conftest import make_vlm
from sb3_varl import Advice, AdvisorError, ArgumentError, FunctionAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import LOCK_FILE_NAME
from sb3_varl.testing import Misbehaviour, VLMServer, http_error

pytestmark = [
    pytest.mark.usefixtures("vlm_environment"),
    pytest.mark.filterwarnings("ignore:. of . quer"),
]


def test_the_same_callback_asks_again_what_failed():
    with VLMServer(always=WRONG_KEY) as server:
        model, callback = make_model(), make_callback(make_vlm(server, states_per_request=2), "log")
        with pytest.raises(AdvisorError):
            model.learn(50, callback=callback)
        server.always = None
        model.learn(50, callback=callback, reset_num_timesteps=False)
        assert asked(server) == [[0, 1], [0, 1], [2, 3], [0, 1], [2, 3]]
        server.always = http_error(400)
        model.learn(10, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 5
    assert model.guidance_buffer.size() == callback.totals["accepted"] == callback.totals["states"] == 8
    assert callback.totals["rejected_request_failed"] == callback.totals["rejected_given_up"] == 0
    assert callback.usage.requests == 5
    assert len(read_queries("log")) == callback.n_asked == 2


def test_another_model_goes_on_with_the_log_in_between():
    with VLMServer() as server:
        first, callback = make_model(), make_callback(make_vlm(server), "log", n_queries=3)
        first.learn(35, callback=callback)
        second = go_on(first)
        second.learn(10, callback=make_callback(make_vlm(server), "log", n_queries=3), reset_num_timesteps=False)
        first.learn(30, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 3
    assert [query.index for query in read_queries("log")] == [0, 1, 2]
    assert first.guidance_buffer.size() == callback.totals["accepted"] == callback.totals["states"] == 12


def test_another_model_answers_what_was_broken_off():
    """A query that is in the queue, another that waits behind it: what the log has by now is not asked again."""
    with VLMServer(script=(Misbehaviour(delay=60),)) as server:
        first, callback = make_model(), make_callback(make_vlm(server), "log", blocking=False)
        with pytest.raises(KeyboardInterrupt):
            first.learn(60, callback=[callback, Until(44, lambda: len(server.requests) == 1), Interrupt(45)])
        assert callback.n_asked == 2
        second = go_on(first)
        second.learn(30, callback=make_callback(make_vlm(server), "log"), reset_num_timesteps=False)
        assert second.guidance_buffer.size() == 8
        first.learn(20, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 3
    assert first.guidance_buffer.size() == callback.totals["accepted"] == callback.totals["states"] == 8
    assert callback.totals["queries"] == len(read_queries("log")) == 2
    assert callback.usage.requests == 3


def test_what_is_open_after_the_cutoff_is_told_and_counted_once(caplog):
    def fail(query):
        raise RuntimeError("no")

    model = make_model(shaping_steps=40)
    callback = make_callback(type("Broken", (), {"advise": staticmethod(fail)})(), "log", n_queries=1)
    model.learn(50, callback=callback)
    with pytest.warns(UserWarning, match="the advisor will not be asked"):
        model.learn(10, callback=callback, reset_num_timesteps=False)
    model.learn(10, callback=callback, reset_num_timesteps=False)  # said once, and any warning is an error
    assert caplog.text.count("failed and training goes on") == 1
    assert callback.totals["failed_queries"] == 1


class Hearing:
    """Notes the tasks that it is asked about."""

    def __init__(self):
        self.tasks = []

    def advise(self, query):
        self.tasks.append(query.briefing.task)
        return Advice([np.zeros(2)] * len(query.states))


def test_another_task_is_what_the_same_callback_asks_about_from_then_on():
    model, advisor = make_model(), Hearing()
    callback = make_callback(advisor, False, task="Go.")
    model.learn(30, callback=callback)
    callback.task = "Stay."
    model.learn(30, callback=callback, reset_num_timesteps=False)
    assert advisor.tasks == ["Go.", "Stay."]


def test_another_task_has_another_log():
    model = make_model()
    callback = make_callback(centre(), "log", task="Go.")
    model.learn(30, callback=callback)
    callback.task = "Stay."
    with pytest.raises(ValueError, match=r"the task of its query 1 is 'Go\.', expected"):
        model.learn(30, callback=callback, reset_num_timesteps=False)


def test_a_callback_that_is_given_twice_leaves_its_log_to_others():
    callback = make_callback(centre(), "log")
    with pytest.raises(ValueError, match="a log belongs to one"):
        make_model().learn(30, callback=[callback, callback])
    make_model().learn(30, callback=make_callback(centre(), "log", resume=True))


def test_an_answer_goes_to_the_model_that_asked(monkeypatch):
    """Also where it comes after Ctrl-C, when the callback is given to another model, whose run does not begin."""
    monkeypatch.setattr("sb3_varl.training.query_queue.PATIENCE", 0.05)
    advisor = Stuck(0.5)
    first, other, callback = make_model(), make_model(), make_callback(advisor, "log", blocking=False)
    with pytest.raises(KeyboardInterrupt):
        first.learn(60, callback=[callback, Interrupt(25, advisor.is_asked)])
    advisor.finish()
    callback.observe = "nothing"
    with pytest.raises(ArgumentError, match="nothing"):
        other.learn(30, callback=callback)
    assert (first.guidance_buffer.size(), other.guidance_buffer.size()) == (4, 0)


@pytest.mark.parametrize("method", ["guidance_buffer.add_all", "_ledger.note", "_queue.close", "_ledger.accept"])
def test_control_c_while_an_answer_is_taken_in_leaves_no_half_of_it(method):
    model, callback = make_model(), make_callback(centre(), "log")
    owner, name = method.split(".")

    def arm(locals_, globals_):
        """Once the run has begun, have Ctrl-C come right after the method."""
        if model.num_timesteps == 19:
            of = getattr(model if owner == "guidance_buffer" else callback, owner)
            original = getattr(of, name)

            def call(*args, **kwargs):
                setattr(of, name, original)
                original(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGINT)

            setattr(of, name, call)
        return True

    with pytest.raises(KeyboardInterrupt):
        model.learn(60, callback=[ConvertCallback(arm), callback])
    assert model.guidance_buffer.size() == callback.totals["accepted"] == 4
    model.learn(60, callback=callback, reset_num_timesteps=False)
    assert model.guidance_buffer.size() == callback.totals["accepted"] == callback.totals["states"] == 8
    assert len(read_queries("log")) == 2


class InterruptedAgain(FunctionAdvisor):
    """Somebody presses Ctrl-C once more while it is told to stop."""

    def interrupt(self):
        raise KeyboardInterrupt


def test_who_is_interrupted_twice_leaves_no_log_locked():
    model = make_model()
    first, second = (
        make_callback(advisor(lambda observation: np.zeros(2)), log)
        for advisor, log in ((InterruptedAgain, "a"), (FunctionAdvisor, "b"))
    )
    with pytest.raises(KeyboardInterrupt):
        model.learn(60, callback=[first, second, Interrupt(45)])
    for log in ("a", "b"):
        with filelock.FileLock(os.path.join(log, LOCK_FILE_NAME), timeout=0):
            pass
    assert not model.after_learning
    assert not model.roll_ins
