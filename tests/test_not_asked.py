"""What is not asked: queries after the end of training, and those whose answers would come too late."""

import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorder import Recorder, SuccessEnv, learn
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from standing import SMALL

from conftest import CounterEnv, make_vlm, wait_until
from sb3_varl import VARL, Advice, AdviceWarning, AdvisorCallback
from sb3_varl.advice.history import read_queries
from sb3_varl.testing import VLMServer, advise_zeros
from sb3_varl.training.schedule import Schedule

# ---- What a run will not come to ask


@pytest.mark.parametrize(
    ("n_envs", "steps", "beyond", "end"),
    [(1, 199, [200], 199), (3, 200, None, 201), (3, 198, [201], 198), (4, 150, [200], 152)],
)
def test_queries_after_the_end_are_announced_before_the_first_step(n_envs, steps, beyond, end):
    said_at, model = [], VARL("MlpPolicy", DummyVecEnv([CounterEnv] * n_envs), **SMALL)
    advisor = Recorder()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AdviceWarning)

        class Watch(BaseCallback):
            def _on_step(self):
                said_at.append(len([w for w in caught if w.category is AdviceWarning]))
                return True

        learn(advisor, model=model, steps=steps, callbacks=[Watch()])
    said = [str(w.message) for w in caught if w.category is AdviceWarning]
    if beyond is None:
        assert said == []
        assert len(advisor.queries) == 2
    else:
        (text,) = said
        assert f"1 of 2 queries will not be asked: they are due at {beyond}, and training ends at step {end}" in text
        assert said_at[0] == 1
        assert len(advisor.queries) == 1


def test_training_in_pieces_is_told_once():
    callback = AdvisorCallback(
        Recorder(), n_queries=3, first_query=40, query_freq=40, states_per_query=5, window=20, log_path=False
    )
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    with pytest.warns(AdviceWarning, match="3 of 3 queries will not be asked"):
        model.learn(30, callback=callback)
    for _ in range(4):  # any other warning is an error
        model.learn(30, callback=callback, reset_num_timesteps=False)
    assert callback.n_asked == 3


def test_the_numbers_of_queries_begin_with_the_first_that_is_asked():
    """Also where the last ones of the schedule would come after the cutoff."""
    model = VARL("MlpPolicy", CounterEnv(), **{**SMALL, "shaping_steps": 300})
    model.learn(200)
    advisor = Recorder()
    schedule = {"n_queries": 6, "first_query": 50, "query_freq": 40, "states_per_query": 40, "window": 40}
    callback = AdvisorCallback(advisor, **schedule, blocking=True, log_path="log")
    with pytest.warns(AdviceWarning, match="4 of 6 queries will not be asked"):
        model.learn(100, callback=callback, reset_num_timesteps=False)
    assert [query.index for query in advisor.queries] == [0, 1]
    assert model.advice_progress[0]["answered"] == 2


def test_rollouts_of_several_steps_go_beyond_the_end():
    model = VARL("MlpPolicy", CounterEnv(), **{**SMALL, "train_freq": 64})
    advisor = Recorder()
    learn(advisor, model=model, steps=100, n_queries=2, first_query=60, query_freq=60)  # a warning is an error
    assert [query.step for query in advisor.queries] == [60, 120]


@given(
    triggers=st.lists(st.integers(1, 500), min_size=1, max_size=6, unique=True).map(sorted),
    now=st.integers(0, 400),
    n_envs=st.integers(1, 7),
    n_states=st.integers(1, 30),
)
def test_postponed_queries_have_time_to_collect_their_states(triggers, now, n_envs, n_states):
    to_collect = n_envs * -(-n_states // n_envs)
    steps = Schedule(tuple(triggers), 0, n_envs, to_collect).postponed(now).triggers
    assert len(steps) == len(triggers)
    for before, step, trigger in zip([now + n_envs, *steps], steps, triggers, strict=False):
        assert (step - now) % n_envs == 0, "no step of the training"
        assert step - before >= to_collect
        assert step >= trigger
        on_time = max(trigger, before + to_collect)
        assert step < on_time + n_envs, "later than it has to be"


# ---- Nothing is paid for nothing


class Slow:
    """Answers when told to; remembers at which step each query came."""

    def __init__(self):
        self.go_on, self.asked, self.threads = threading.Event(), [], []

    def advise(self, query):
        self.asked.append(query.index)
        self.threads.append(threading.current_thread())
        self.go_on.wait(30)
        return Advice([np.zeros(2)] * len(query.states))


PIECES = {"n_queries": 4, "first_query": 20, "query_freq": 20, "states_per_query": 5, "window": 20}


@pytest.mark.parametrize("same_callback", [True, False])
def test_queries_that_wait_when_training_ends_are_put_off(same_callback, caplog):
    advisor = Slow()
    callback = AdvisorCallback(advisor, **PIECES, log_path=False)
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)

    class Release(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 90:  # while the others wait behind the first
                threading.Timer(0.5, advisor.go_on.set).start()
            return True

    model.learn(90, callback=[callback, Release()])
    assert advisor.asked == [0]
    assert model.guidance_buffer.size() == 5, "what was on its way was waited for"
    assert (callback.n_asked, callback.totals["queries"], callback.totals["states"]) == (1, 1, 5)
    assert "3 queries were waiting for the one before when training ended" in caplog.text

    if not same_callback:
        callback = AdvisorCallback(advisor, **PIECES, log_path=False)
    model.learn(60, callback=callback, reset_num_timesteps=False)
    assert advisor.asked == [0, 1, 2, 3]
    assert model.guidance_buffer.size() == 20
    assert (callback.totals["queries"], callback.totals["states"]) == (4, 20)


def test_dropped_queries_are_not_in_the_totals(caplog):
    advisor = Slow()
    model = VARL("MlpPolicy", CounterEnv(), **{**SMALL, "shaping_steps": 85})
    callback = AdvisorCallback(advisor, **PIECES, log_path=False)
    model.learn(100, callback=callback)
    assert advisor.asked == [0]
    assert (callback.n_asked, callback.totals["queries"], callback.totals["states"]) == (1, 1, 5)
    assert "3 queries were not answered when the cutoff at 85 came" in caplog.text
    advisor.go_on.set()


def test_the_end_does_not_wait_for_an_answer_after_the_cutoff():
    advisor = Slow()
    model = VARL("MlpPolicy", CounterEnv(), **{**SMALL, "shaping_steps": 30})
    start = time.monotonic()
    model.learn(60, callback=AdvisorCallback(advisor, **PIECES | {"n_queries": 1}, log_path=False))
    assert time.monotonic() - start < 20
    assert advisor.threads[0].is_alive()
    assert model.guidance_buffer.size() == 0
    advisor.go_on.set()


@pytest.mark.usefixtures("vlm_environment")
def test_after_the_cutoff_nothing_more_of_a_query_is_sent(tmp_path, caplog):
    """Of its three requests, the first is on its way when the cutoff comes; the log has its answer all the same."""
    answered = threading.Event()

    def answer(states, images):
        answered.wait(30)
        return advise_zeros(states, images)

    class Watch(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 20:
                wait_until(lambda: server.requests)
            if self.num_timesteps == 40:
                answered.set()
                wait_until(lambda: any(query.answers for query in read_queries(tmp_path)))
            return True

    with VLMServer(answer) as server:
        model = VARL("MlpPolicy", CounterEnv(), **{**SMALL, "shaping_steps": 30})
        advisor = make_vlm(server, states_per_request=2)
        callback = AdvisorCallback(advisor, **PIECES | {"n_queries": 1}, frames=False, log_path=tmp_path)
        model.learn(60, callback=[callback, Watch()])
        assert len(server.requests) == 1
    (query,) = read_queries(tmp_path)
    assert [answer.states for answer in query.answers] == [(0, 1)]
    assert callback.usage.requests == 1
    assert "1 query was not answered when the cutoff at 30 came" in caplog.text


def test_a_callback_that_collects_does_not_ask_after_another_has_ended_the_advice():
    model = VARL("MlpPolicy", SuccessEnv(0), **SMALL)
    first, second = Recorder(), Recorder()
    schedule = {"n_queries": 1, "states_per_query": 10, "window": 200, "blocking": True, "log_path": False}
    ends = AdvisorCallback(first, first_query=50, until_success=0.25, **schedule)
    collects = AdvisorCallback(second, first_query=150, **schedule)
    model.learn(200, callback=[ends, collects])
    assert model.cutoff == 101
    assert (len(first.queries), len(second.queries)) == (1, 0)
    assert collects.totals["queries"] == 0
