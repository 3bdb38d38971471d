"""Totals add up, whatever becomes of a query."""

import json

import numpy as np
import pytest
from logged import Interrupt, Stuck, Until, centre, go_on, kinds, make_callback, make_model

from conftest import CounterEnv, make_vlm
from sb3_varl import VARL, Advice, Rejection, Usage
from sb3_varl.advice.history import read_queries
from sb3_varl.report.relabel import main as relabel
from sb3_varl.testing import Misbehaviour, VLMServer, http_error

pytestmark = [
    pytest.mark.usefixtures("vlm_environment"),
    pytest.mark.filterwarnings("ignore:. of . quer"),
]


def adds_up(callback):
    """Each state that was asked about is in one total, and in one only."""
    totals = callback.totals
    of_no_state = ("malformed_item", "unknown_state")
    n_rejected = sum(
        n for name, n in totals.items() if name.startswith("rejected_") and name[len("rejected_") :] not in of_no_state
    )
    return totals["states"] == totals["accepted"] + totals["abstained"] + n_rejected


@pytest.mark.parametrize("log_path", ["log", False])
def test_what_is_in_flight_when_training_ends_after_the_cutoff_is_counted(log_path, caplog):
    with VLMServer(script=(None, http_error(400), Misbehaviour(delay=60))) as server:
        model = make_model(shaping_steps=40)
        callback = make_callback(make_vlm(server, states_per_request=1), log_path, n_queries=1, blocking=False)
        model.learn(50, callback=[callback, Until(30, lambda: len(server.requests) == 3)])
        assert callback.usage.requests == len(server.requests) == 3
        assert model.advice_progress[0]["usage"]["requests"] == 3
    totals = {name: n for name, n in callback.totals.items() if n}
    expected = {"queries": 1, "states": 4, "accepted": 1, "late": 1, "rejected_given_up": 3, "failed_requests": 1}
    assert totals == expected
    assert "1 query was not answered when the cutoff at 40 came" in caplog.text
    assert caplog.text.count("BadRequestError") == 1


def test_the_end_tells_what_a_query_failed_with(monkeypatch, caplog):
    monkeypatch.setattr("sb3_varl.advisors.vlm_query.MAX_RETRY_WAIT", 60.0)
    monkeypatch.setattr("sb3_varl.advisors.vlm_query.RETRY_WAIT", 60.0)
    with VLMServer(always=http_error(500, "overheated", Retry_After="60")) as server:
        model = make_model(shaping_steps=40)
        callback = make_callback(make_vlm(server, max_retries=9), "log", n_queries=1, blocking=False)
        model.learn(50, callback=[callback, Until(30, lambda: kinds().count("failure") == 1)])
        assert callback.usage.requests == len(server.requests) == 1
    assert caplog.text.count("overheated") == 1
    assert callback.totals["rejected_given_up"] == callback.totals["states"] == 4
    assert callback.totals["failed_requests"] == 1


def test_an_answer_that_comes_after_the_end_is_taken_by_the_next_run():
    """Not as guidance, for the cutoff is over, but it is counted, and not asked for again."""
    advisor, model = Stuck(0.5, paid=True), make_model(shaping_steps=40)
    asking = make_callback(advisor, "log", n_queries=1, blocking=False)
    model.learn(50, callback=[asking, Until(30, lambda: "request" in kinds())])
    advisor.finish()
    callback = make_callback(Stuck(0.0), "log", n_queries=1)
    with pytest.warns(UserWarning, match="the advisor will not be asked"):
        model.learn(10, callback=callback, reset_num_timesteps=False)
    assert (callback.totals["accepted"], callback.totals["late"]) == (4, 4)
    assert adds_up(callback)
    assert callback.totals["rejected_given_up"] == 0
    assert callback.usage == Usage(1, cost=0.5)


def test_without_a_log_what_was_broken_off_counts_for_the_budget():
    with VLMServer(script=(None, Misbehaviour(delay=60))) as server:
        model = make_model()
        settings = {"n_queries": 1, "blocking": False}
        callback = make_callback(make_vlm(server, states_per_request=1, max_requests=4), False, **settings)
        with pytest.raises(KeyboardInterrupt):
            model.learn(60, callback=[callback, Until(30, lambda: len(server.requests) == 2), Interrupt(31)])
        assert callback.usage.requests == 2
        model = go_on(model)
        callback = make_callback(make_vlm(server, states_per_request=1, max_requests=4), False, **settings)
        model.learn(40, callback=callback, reset_num_timesteps=False)
        assert callback.usage.requests == len(server.requests) == 4
    assert callback.totals["rejected_budget_exhausted"] == 2


def test_a_state_counts_once_whatever_is_said_of_it(capsys):
    """Rejections that cost a state nothing, and second ones, are in the log only."""
    text = [
        {"state": 0, "action": [0, 0]},
        {"state": 0, "action": [1, 1]},
        {"state": 1, "action": [9, 9]},
        {"state": 1, "action": [1, 1]},
        {"state": 2, "action": None},
        {"state": 2, "action": [1, 1]},
        {"state": 7, "action": [1, 1]},
    ]
    with VLMServer(lambda states, images: json.dumps({"advice": text})) as server:
        model, callback = make_model(), make_callback(make_vlm(server), "log", n_queries=1)
        model.learn(30, callback=callback)
    totals = {name: n for name, n in callback.totals.items() if n}
    rejections = {"rejected_out_of_bounds": 1, "rejected_duplicate_state": 1, "rejected_unknown_state": 1}
    assert totals == {"queries": 1, "states": 4, "accepted": 1, "abstained": 1, **rejections}
    (query,) = read_queries("log")
    assert len(query.advice.rejected) == 5
    assert [(r.reason, r.state) for r in query.read().rejected] == [
        ("out_of_bounds", 1),
        ("duplicate_state", 2),
        ("unknown_state", None),
    ]
    assert query.n_abstained == 1
    fresh = make_callback(centre(), "log", task="Go.", n_queries=1, resume=True)
    make_model().learn(30, callback=fresh)
    assert {name: n for name, n in fresh.totals.items() if n} == totals
    relabel(["log"])
    assert "1 duplicate_state" in capsys.readouterr().out


def test_two_rejections_of_a_state_are_one():
    class Twice:
        def advise(self, query):
            rejected = [Rejection("raised", 0), Rejection("odd", 0), Rejection("raised", 1), Rejection("odd", 9)]
            return Advice([None, np.zeros(2), np.zeros(2), None], rejected)

    model, callback = make_model(), make_callback(Twice(), "log", n_queries=1)
    model.learn(30, callback=callback)
    assert (callback.totals["rejected_raised"], callback.totals["rejected_odd"]) == (1, 0)
    assert adds_up(callback)
    callback = make_callback(centre(), "log", n_queries=1)
    model = go_on(model)
    model.learn(10, callback=callback, reset_num_timesteps=False)
    assert callback.totals["rejected_raised"] == callback.totals["rejected_odd"] == 0
    assert adds_up(callback)


@pytest.mark.parametrize("mended", [True, False])
def test_failed_requests_are_the_same_for_a_model_that_goes_on_and_a_new_one(mended):
    with VLMServer(script=(None,), always=http_error(400)) as server:
        model = make_model()
        model.learn(30, callback=make_callback(make_vlm(server, states_per_request=2), "log", n_queries=1))
        model.save("old")
        server.always = None if mended else http_error(400)
        totals = []
        for name in ("old", "old", None):
            model = make_model() if name is None else VARL.load(name, env=CounterEnv(offset=100))
            advisor = make_vlm(server, states_per_request=2)
            callback = make_callback(advisor, "log", n_queries=1, resume=name is None)
            model.learn(10, callback=callback, reset_num_timesteps=name is None)
            totals.append({name: n for name, n in callback.totals.items() if n})
            assert adds_up(callback)
    assert totals[0] == totals[1] == totals[2]
    assert totals[0].get("failed_requests", 0) == (0 if mended else 1)
    assert len(read_queries("log")[0].failed_requests) == (0 if mended else 1)
