"""One rule for the advice log: what is done and what is asked again, whose log it is, and where it lies."""

import base64
import io
import json
import logging
import multiprocessing
import pathlib
import pickle
import re
import warnings
import zipfile

import numpy as np
import pytest
from gymnasium import spaces
from logged import WRONG_KEY, asked, centre, go_on, make_callback, make_model, standing
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.logger import configure

from conftest import CounterEnv, make_query, make_vlm, reasons
from sb3_varl import VARL, Advice, AdvisorError, ArgumentError, FunctionAdvisor, Rejection, ReplayAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import AdviceLog
from sb3_varl.report.relabel import main as relabel
from sb3_varl.testing import VLMServer, http_error, write_answer

GOES_ON = {"reset_num_timesteps": False}

pytestmark = [
    pytest.mark.usefixtures("vlm_environment"),
    pytest.mark.filterwarnings("ignore:. of . quer"),
]


# ---- (a) A state is done when it was answered


@pytest.mark.parametrize("resumed", [True, False])
def test_states_whose_request_failed_are_asked_again(resumed):
    """By a model that goes on, and by a new one that takes over the log; and what was answered is not."""
    with VLMServer(script=(None, http_error(400), None, None)) as server:
        first = make_callback(make_vlm(server, states_per_request=2), "log")
        model = make_model()
        model.learn(50, callback=first)
        assert asked(server) == [[0, 1], [2, 3], [0, 1], [2, 3]]
        assert first.totals["rejected_request_failed"] == 2
        assert model.guidance_buffer.size() == 6

        model = go_on(model) if resumed else make_model()
        second = make_callback(make_vlm(server, states_per_request=2), "log", resume=not resumed)
        model.learn(20, callback=second, reset_num_timesteps=False)
        assert asked(server)[4:] == [[2, 3]]
    assert model.guidance_buffer.size() == 8
    assert second.totals["queries"] == 2
    assert second.totals["states"] == second.totals["accepted"] == 8
    assert second.totals["rejected_request_failed"] == 0
    assert second.usage.requests == 5
    assert [query.unanswered(4) for query in read_queries("log")] == [frozenset(), frozenset()]


def test_what_is_open_is_so_until_it_is_answered():
    """Whatever is in between: a run that fails in the same way, a zip that is older than the log."""
    with VLMServer(script=(None, http_error(400), http_error(400))) as server:
        model = make_model()
        model.learn(30, callback=make_callback(make_vlm(server, states_per_request=2), "log", n_queries=1))
        model.save("old")
        for n_rows in (2, 4):
            model = VARL.load("old", env=CounterEnv(offset=100))
            callback = make_callback(make_vlm(server, states_per_request=2), "log", n_queries=1)
            model.learn(5, callback=callback, reset_num_timesteps=False)
            assert model.guidance_buffer.size() == n_rows
        # The old model takes from the log what was answered meanwhile.
        model = VARL.load("old", env=CounterEnv(offset=100))
        callback = make_callback(make_vlm(server), "log", n_queries=1)
        model.learn(5, callback=callback, reset_num_timesteps=False)
        assert asked(server) == [[0, 1], [2, 3], [2, 3], [2, 3]]
    assert model.guidance_buffer.size() == callback.totals["accepted"] == 4
    assert callback.totals["rejected_request_failed"] == 0


def test_abstentions_and_answers_that_cannot_be_used_are_done():
    answers = iter(['{"advice": [{"state": 0, "action": [9, 9]}, {"state": 1, "action": null}]}', "no idea"])
    with VLMServer(lambda states, images: next(answers)) as server:
        model = make_model()
        model.learn(30, callback=make_callback(make_vlm(server, states_per_request=2), "log", n_queries=1))
        model = go_on(model)
        model.learn(10, callback=make_callback(make_vlm(server), "log", n_queries=1), reset_num_timesteps=False)
        assert len(server.requests) == 2


@pytest.mark.parametrize("reason", ["budget_exhausted", "given_up", "raised"])
def test_states_that_nobody_was_asked_about_are_open(reason):
    class Poor:
        def advise(self, query):
            return Advice([np.zeros(2), None, None, np.ones(2)], [Rejection(reason, 1), Rejection("out_of_bounds", 2)])

    model = make_model()
    model.learn(30, callback=make_callback(Poor(), "log", n_queries=1))
    (query,) = read_queries("log")
    assert query.unanswered(4) == {1}
    model = go_on(model)
    callback = make_callback(FunctionAdvisor(lambda observation: np.full(2, 0.5)), "log", n_queries=1)
    # A new name of the advisor, and the log is given: it is the log that counts.
    model.learn(10, callback=callback, reset_num_timesteps=False)
    np.testing.assert_allclose(model.guidance_buffer.rows()["actions"], [[0, 0], [1, 1], [0.5, 0.5]])
    assert callback.totals["rejected_out_of_bounds"] == 1
    assert callback.totals[f"rejected_{reason}"] == 0


def test_an_advisor_that_fails_altogether_is_asked_again():
    def fail(query):
        raise RuntimeError("no")

    broken = type("Broken", (), {"advise": staticmethod(fail)})()
    model = make_model()
    first = make_callback(broken, "log", n_queries=1)
    model.learn(30, callback=first)
    assert first.totals["failed_queries"] == 1
    model = go_on(model)
    second = make_callback(centre(), "log", n_queries=1)
    model.learn(10, callback=second, reset_num_timesteps=False)
    assert model.guidance_buffer.size() == second.totals["accepted"] == second.totals["states"] == 4
    assert second.totals["failed_queries"] == 0


def test_after_the_cutoff_nothing_is_asked_again():
    with VLMServer(script=(http_error(400),)) as server:
        model = make_model(shaping_steps=40)
        model.learn(50, callback=make_callback(make_vlm(server), "log", n_queries=1))
        model = go_on(model)
        with pytest.warns(UserWarning, match="the advisor will not be asked"):
            model.learn(10, callback=make_callback(make_vlm(server), "log", n_queries=1), reset_num_timesteps=False)
        assert len(server.requests) == 1


# ---- (b) A failure that cannot pass


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_failure_that_cannot_pass_ends_the_start_of_training(status, blocking):
    with VLMServer(always=http_error(status, "no such thing")) as server:
        model = make_model()
        with pytest.raises(AdvisorError, match=r"openai/test cannot be asked.*no such thing.*Mend the key"):
            model.learn(3000, callback=make_callback(make_vlm(server), "log", blocking=blocking))
        assert len(server.requests) == 1
        server.always = None
        model = make_model()
        model.learn(50, callback=make_callback(make_vlm(server), "log", resume=True))
    assert model.guidance_buffer.size() == 8


def test_an_unknown_model_ends_it_whatever_the_status():
    fault = http_error(400, "The model `x` does not exist", "model_not_found")
    with VLMServer(always=fault) as server, pytest.raises(AdvisorError, match="does not exist"):
        make_model().learn(60, callback=make_callback(make_vlm(server)))


@pytest.mark.parametrize("fault", [(400,), (429, "slow", "insufficient_quota"), (500,), (503,)])
def test_other_failures_do_not(fault):
    with VLMServer(always=http_error(*fault)) as server:
        make_model().learn(60, callback=make_callback(make_vlm(server)))
        assert len(server.requests) >= 2


def test_nor_does_a_key_that_expires(caplog):
    with VLMServer(script=(None,), always=WRONG_KEY) as server:
        model = make_model()
        model.learn(50, callback=make_callback(make_vlm(server), "log"))
        model = go_on(model)
        model.learn(20, callback=make_callback(make_vlm(server), "log", n_queries=3), reset_num_timesteps=False)
    assert model.guidance_buffer.size() == 4
    assert "Incorrect API key" in caplog.text


def test_nor_at_the_end_of_a_training():
    """What was trained is worth saving."""
    with VLMServer(always=WRONG_KEY) as server:
        settings = {"first_query": 20, "n_queries": 1, "blocking": False}
        make_model().learn(20, callback=make_callback(make_vlm(server), "log", **settings))
        assert len(server.requests) == 1


def test_the_rest_of_the_query_is_not_asked_after_a_failure_that_cannot_pass(caplog):
    with VLMServer(always=WRONG_KEY) as server:
        advice = make_vlm(server, states_per_request=1).advise(make_query(3))
        assert len(server.requests) == 1
    assert reasons(advice) == ["request_failed", "given_up", "given_up"]
    assert "A request that would fail again brought nothing" in caplog.text


# ---- (c) A log belongs to a run


def test_a_loop_over_seeds_with_one_folder(caplog):
    seen = []
    for seed in range(3):
        advisor = FunctionAdvisor(lambda observation: seen.append(observation) or np.zeros(2))
        model = make_model(seed=seed)
        model.learn(50, callback=make_callback(advisor, "runs/advice"))
        assert model.guidance_buffer.size() == 8
    assert len(seen) == 24
    assert sorted(path.parent.name for path in pathlib.Path("runs").glob("*/advice.jsonl")) == [
        "advice",
        "advice_2",
        "advice_3",
    ]
    assert len({query.run for log in pathlib.Path("runs").iterdir() for query in read_queries(log)}) == 3
    assert "belongs to another run; that of this run is in" in caplog.text
    assert "resume=True" in caplog.text


@pytest.mark.parametrize("has_ended", [False, True], ids=["same model", "loaded"])
def test_a_run_whose_log_is_beside_the_one_it_was_to_have_goes_on_there(has_ended):
    with VLMServer() as server:
        for _ in range(2):
            model = make_model()
            model.learn(50, callback=make_callback(make_vlm(server), "log"))
        n_requests = len(server.requests)
        if has_ended:
            model = go_on(model)
        model.learn(50, callback=make_callback(make_vlm(server), "log"), reset_num_timesteps=False)
        assert len(server.requests) == n_requests
        # Another's is none of its own.
        other = make_model()
        other.learn(50, callback=make_callback(make_vlm(server), "log"))
        assert len(server.requests) == n_requests * 3 // 2
    assert sorted(path.name for path in pathlib.Path().glob("log*")) == ["log", "log_2", "log_3"]


def test_one_logger_folder_for_several_models():
    for _ in range(2):
        model = make_model()
        model.set_logger(configure("run", ["csv"]))
        model.learn(50, callback=make_callback(centre()))
        model.logger.close()
    assert [len(read_queries(log)) for log in ("run/advice", "run/advice_2")] == [2, 2]


def test_a_new_model_takes_over_a_log_if_told_to():
    make_model().learn(50, callback=make_callback(centre(), "log"))
    model, asked_about = make_model(), []
    advisor = FunctionAdvisor(lambda observation: asked_about.append(observation) or np.zeros(2))
    callback = make_callback(advisor, "log", n_queries=3, resume=True)
    model.learn(80, callback=callback)
    assert len(asked_about) == 4
    assert model.guidance_buffer.size() == 12
    assert len({query.run for query in read_queries("log")}) == 1


def test_resume_is_no_number():
    with pytest.raises(ValueError, match="resume is 1, expected True or False"):
        make_callback(centre(), resume=1)


# ---- (d) The task that is sent is the task that is logged and compared


def test_the_task_of_the_advisor_is_logged_and_compared():
    with VLMServer() as server:
        make_model().learn(50, callback=make_callback(make_vlm(server, task="Open the drawer."), "log"))
        assert {query.task for query in read_queries("log")} == {"Open the drawer."}
        with pytest.raises(ValueError, match=r"the task of its query 1 is 'Open the drawer.', expected 'CLOSE"):
            make_model().learn(50, callback=make_callback(make_vlm(server, task="CLOSE it."), "log", resume=True))


@pytest.mark.parametrize("in_between", [lambda model: model, go_on], ids=["same process", "zip"])
def test_a_changed_task_is_noticed_where_everything_was_answered(in_between):
    model = make_model().learn(50, callback=make_callback(centre(), "log", task="Open."))
    model = in_between(model)
    with pytest.raises(ValueError, match=r"the task of its query 1 is 'Open.', expected 'Close.'"):
        model.learn(10, callback=make_callback(centre(), "log", task="Close."), reset_num_timesteps=False)


# ---- (e) Progress is found by its log


@pytest.mark.parametrize("in_between", [lambda model: model, go_on], ids=["same process", "zip"])
def test_a_second_advisor_on_an_advised_model_has_a_log_of_its_own(in_between, caplog):
    model = make_model()
    model.learn(50, callback=make_callback(centre(), "first"))
    model = in_between(model)
    second = make_callback(FunctionAdvisor(lambda observation: np.ones(2)), "second", first_query=60)
    model.learn(60, callback=second, reset_num_timesteps=False)
    assert "FunctionAdvisor has advised this model before, and its log is in" in caplog.text
    assert second.n_asked == 2
    assert model.guidance_buffer.size() == 16
    assert [progress["log"] for progress in model.advice_progress] == ["first", "second"]


def test_callbacks_in_another_order_find_their_own_logs():
    other = type("Other", (), {"advise": lambda self, query: Advice([np.ones(2)] * len(query.states))})
    model = make_model()
    model.learn(30, callback=[make_callback(centre(), "a"), make_callback(other(), "b")])
    model = go_on(model)
    callbacks = [make_callback(other()), make_callback(centre())]
    model.learn(30, callback=callbacks, reset_num_timesteps=False)
    assert [callback.n_asked for callback in callbacks] == [1, 1]
    for log in "ab":
        assert [query.index for query in read_queries(log)] == [0, 1]
    assert not any(pathlib.Path().glob("*_2"))


def test_a_log_of_another_advisor_that_is_given_is_gone_on_with():
    model = make_model()
    model.learn(30, callback=make_callback(centre(), "log"))
    model = go_on(model)
    other = type("Other", (), {"advise": lambda self, query: Advice([np.ones(2)] * len(query.states))})
    callback = make_callback(other(), "log")
    model.learn(30, callback=callback, reset_num_timesteps=False)
    assert callback.n_asked == 1
    assert [query.advisor for query in read_queries("log")] == ["FunctionAdvisor", "Other"]


# ---- (f) One process at a time


def _hold(folder, started, stop):
    log = AdviceLog(folder)
    started.set()
    stop.wait(30)
    log.release()


def test_a_second_process_gets_an_error(tmp_path):
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "log", started, stop))
    process.start()
    try:
        assert started.wait(60)
        with pytest.raises(RuntimeError, match=r"Another run is writing to the advice log .*log_path="):
            make_model().learn(50, callback=make_callback(centre(), tmp_path / "log"))
    finally:
        stop.set()
        process.join()
    make_model().learn(50, callback=make_callback(centre(), tmp_path / "log"))


def test_the_log_is_free_when_training_has_ended():
    model, callback = make_model(), make_callback(centre(), "log")
    model.learn(30, callback=callback)
    AdviceLog("log").release()
    model.learn(30, callback=callback, reset_num_timesteps=False)
    AdviceLog("log").release()
    with pytest.raises(ZeroDivisionError):
        model.learn(10, callback=[callback, ConvertCallback(lambda *_: 1 / 0)], reset_num_timesteps=False)
    AdviceLog("log").release()


# ---- (g) No absolute path in a zip


def zip_text(model):
    buffer = io.BytesIO()
    model.save(buffer)
    with zipfile.ZipFile(buffer) as archive:
        data = json.loads(archive.read("data"))
    pickled = [base64.b64decode(value[":serialized:"]) for value in data.values() if ":serialized:" in repr(value)]
    return json.dumps(data).encode() + b"".join(pickled)


@pytest.mark.parametrize("log_path", [None, "relative", "absolute", "elsewhere"])
def test_a_zip_has_no_absolute_path(log_path, tmp_path, tmp_path_factory):
    folder = {"absolute": tmp_path / "log", "elsewhere": tmp_path_factory.mktemp("else")}.get(log_path, log_path)
    model = make_model()
    model.learn(50, callback=make_callback(centre(), folder))
    text = zip_text(model)
    assert str(tmp_path.parent).encode() not in text
    assert pickle.dumps(model.advice_progress).count(b"/tmp") == 0
    (progress,) = model.advice_progress
    assert progress["log"] == {"relative": "relative", "absolute": "log"}.get(log_path)


# ---- (h) Nothing in the working directory unasked


def test_without_a_folder_the_log_is_in_the_user_s_data(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path.parent / f"{tmp_path.name}-data"))
    model, callback = make_model(), make_callback(centre())
    model.learn(30, callback=callback)
    model.learn(30, callback=callback, reset_num_timesteps=False)
    assert list(tmp_path.iterdir()) == []
    (folder,) = (tmp_path.parent / f"{tmp_path.name}-data" / "sb3_varl" / "advice").iterdir()
    assert len(read_queries(folder)) == 2
    assert caplog.text.count(f"The advice log of this run is in {folder}") == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_model_finds_its_log_outside_of_the_working_directory(tmp_path_factory, monkeypatch, caplog, resume):
    """Its zip holds no absolute path, but its logger is where it was."""
    logs = tmp_path_factory.mktemp("logs")
    model = make_model(tensorboard_log=str(logs))
    model.learn(30, callback=make_callback(centre()))
    model = go_on(model)
    monkeypatch.setattr("sb3_varl.training.log_folder._folders", {})  # as in another process
    callback = make_callback(centre(), resume=resume)
    model.learn(30, callback=callback, reset_num_timesteps=False)
    assert callback.n_asked == 1
    assert len(read_queries(logs / "VARL_1" / "advice")) == 2
    assert "another run" not in caplog.text


def test_a_log_outside_of_the_working_directory_is_another_advisor_s(tmp_path_factory, monkeypatch):
    """Of two callbacks each finds its own, also where the other is not there any more."""
    logs = tmp_path_factory.mktemp("logs")
    with VLMServer() as server:
        model = make_model(tensorboard_log=str(logs))
        model.learn(30, callback=[make_callback(centre()), make_callback(make_vlm(server))])
        model = go_on(model)
        monkeypatch.setattr("sb3_varl.training.log_folder._folders", {})  # as in another process
        model.learn(30, callback=make_callback(make_vlm(server)), reset_num_timesteps=False)
        assert len(server.requests) == 2
    assert [len(read_queries(logs / "VARL_1" / name)) for name in ("advice", "advice_2")] == [1, 2]


def test_a_log_that_is_not_there_cannot_be_taken_over(caplog):
    make_model(tensorboard_log="logs").learn(30, callback=make_callback(centre()))
    make_model(tensorboard_log="logs").learn(30, callback=make_callback(centre(), resume=True))
    (message,) = [message for message in caplog.messages if "resume is True, but" in message]
    assert "VARL_2/advice holds no advice log" in message
    assert len(read_queries("logs/VARL_2/advice")) == 1


def test_a_model_finds_its_log_in_the_user_s_data(monkeypatch):
    model = make_model()
    model.learn(30, callback=make_callback(centre()))
    model = go_on(model)
    monkeypatch.setattr("sb3_varl.training.log_folder._folders", {})  # as in another process
    callback = make_callback(centre())
    model.learn(30, callback=callback, reset_num_timesteps=False)
    assert callback.n_asked == 1
    assert callback.totals["queries"] == 2


# ---- What readers make of it


def test_a_request_that_failed_and_was_answered_before_a_crash(capsys):
    """The log, the report and relabel agree on what it holds, and so does the run that goes on."""
    with VLMServer(script=(None, http_error(400))) as server:
        model = make_model()
        model.learn(30, callback=make_callback(make_vlm(server, states_per_request=2), "run/log", n_queries=1))
        model.save("model")
        model = VARL.load("model", env=CounterEnv(offset=100))
        callback = make_callback(make_vlm(server, states_per_request=2), "run/log", n_queries=1)
        model.learn(5, callback=callback, reset_num_timesteps=False)
    # As if it had crashed before the query was closed again.
    file = pathlib.Path("run/log/advice.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    assert json.loads(lines.pop())["type"] == "advice"
    file.write_text("".join(lines))
    (query,) = read_queries("run/log")
    assert query.unanswered(4) == frozenset()
    assert [action is None for action in query.read().actions] == [False] * 4
    assert query.read().rejected == []
    relabel(["run/log", "--output", "guidance.npz"])
    assert "4 rows of guidance" in capsys.readouterr().out
    assert len(ReplayAdvisor("run/log").advise(query.to_query(make_query(1).briefing)).rejected) == 0
    model = VARL.load("model", env=CounterEnv(offset=100))
    callback = make_callback(centre(), "run/log", task="Go.", n_queries=1)
    model.learn(5, callback=callback, reset_num_timesteps=False)
    assert model.guidance_buffer.size() == callback.totals["accepted"] == 4
    assert callback.totals["rejected_request_failed"] == 0


@pytest.mark.parametrize("saved", [None, 30, 50])
def test_a_log_that_ends_after_any_line(saved, monkeypatch):
    """Whatever a crash leaves of it, and whatever the model knows: each state has one answer, and totals add up."""

    def answer(states, images):
        return write_answer(states, [[state["observation"][1] / 10, 0.5] for state in states])

    with VLMServer(answer, script=(None, http_error(400))) as server:
        model = make_model()
        for steps in (30, 20):
            callback = make_callback(make_vlm(server, states_per_request=2), "log")
            model.learn(steps, callback=callback, reset_num_timesteps=False)
            model.save(f"model_{model.num_timesteps}")
        lines = pathlib.Path("log/advice.jsonl").read_text().splitlines(keepends=True)
        for n_lines in range(len(lines) + 1):
            monkeypatch.setattr("sb3_varl.training.log_folder._folders", {})  # as in another process
            pathlib.Path("log/advice.jsonl").write_text("".join(lines[:n_lines]))
            model = VARL.load(f"model_{saved}", env=CounterEnv(offset=100)) if saved else make_model()
            callback = make_callback(make_vlm(server, states_per_request=2), "log", resume=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an empty log, that it is missing
                model.learn(60, callback=callback, reset_num_timesteps=not saved)
            rows = model.guidance_buffer.rows()
            assert len(np.unique(rows["observations/observation"], axis=0)) == model.guidance_buffer.size()
            np.testing.assert_allclose(rows["actions"][:, 0], rows["observations/observation"][:, 1] / 10, atol=1e-6)
            totals = {name: n for name, n in callback.totals.items() if n}
            n_rejected = sum(n for name, n in totals.items() if name.startswith("rejected_"))
            assert totals["states"] == totals["accepted"] + n_rejected == 8, (n_lines, totals)
            assert totals["accepted"] == model.guidance_buffer.size()
            if n_lines and saved != 50:  # that one has all of it, whatever the log has lost
                assert [query.unanswered(4) for query in read_queries("log")] == [frozenset()] * 2, n_lines
                assert all(query.advice is not None for query in read_queries("log")), "a query was left open"


# ---- Several callbacks of one advisor's name


def actions_of(log):
    """Of each query: its number, and the first component of its first action."""
    return [(query.index, query.read().actions[0][0]) for query in read_queries(log)]


def test_logs_outside_the_working_directory_are_not_mixed_up(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("elsewhere")
    late = {"first_query": 40}
    model = make_model()
    model.learn(
        30, callback=[make_callback(standing(0.25), folder / "A"), make_callback(standing(0.5), folder / "B", **late)]
    )
    model = go_on(model)
    monkeypatch.setattr("sb3_varl.training.log_folder._folders", {})
    callbacks = [make_callback(standing(0.5), folder / "B", **late), make_callback(standing(0.25), folder / "A")]
    model.learn(40, callback=callbacks, reset_num_timesteps=False)
    assert actions_of(folder / "A") == [(0, 0.25), (1, 0.25)]
    assert actions_of(folder / "B") == [(0, 0.5), (1, 0.5)]
    assert sorted(path.name for path in folder.iterdir()) == ["A", "B"]


def test_callbacks_keep_their_logs_whatever_is_in_between():
    model = make_model()
    model.set_logger(configure("run", ["csv"]))
    first, second = make_callback(standing(0.25), n_queries=3), make_callback(standing(0.5), n_queries=3)
    model.learn(30, callback=[first, second])
    model.learn(3, reset_num_timesteps=False)
    model.learn(40, callback=[second, first], reset_num_timesteps=False)
    model.logger.close()
    assert actions_of("run/advice") == [(0, 0.25), (1, 0.25), (2, 0.25)]
    assert actions_of("run/advice_2") == [(0, 0.5), (1, 0.5), (2, 0.5)]


def test_a_log_that_is_refused_leaves_nothing_behind():
    make_model().learn(30, callback=make_callback(centre(), "log", task="Open."))
    model = make_model()
    with pytest.raises(ValueError, match="belongs to another run"):
        model.learn(30, callback=make_callback(centre(), "log", task="Close.", resume=True))
    assert model.advice_progress == []


@pytest.mark.parametrize("n_components", [1, 2])
def test_a_log_with_other_actions_is_refused_by_its_name(n_components):
    env = CounterEnv(low=-0.5, high=0.5)
    env.action_space = spaces.Box(-0.5, 0.5, (n_components,))
    make_model().learn(30, callback=make_callback(FunctionAdvisor(lambda observation: np.full(2, 0.9)), "log"))
    model = make_model(env)
    with pytest.raises(
        ValueError, match=r"log belongs to another run: the action bounds .* Give the action bounds that"
    ):
        model.learn(30, callback=make_callback(centre(), "log", resume=True))


def test_a_wrong_task_costs_the_model_nothing_that_it_knows():
    with VLMServer() as server:
        model = make_model()
        model.learn(50, callback=make_callback(make_vlm(server, task=None), "log", task="Open."))
        with pytest.raises(ValueError, match=r"is 'Open\.', expected 'Typo\.'\. Give the task that it has"):
            model.learn(20, callback=make_callback(make_vlm(server, task=None), "log", task="Typo."), **GOES_ON)
        n_requests = len(server.requests)
        model.learn(20, callback=make_callback(make_vlm(server, task=None), "log", task="Open."), **GOES_ON)
        assert len(server.requests) == n_requests
    assert not pathlib.Path("log_2").exists()


def test_a_model_goes_on_with_the_log_of_a_preview():
    """Which belongs to no run, and in which nothing was written since."""
    with VLMServer() as server:
        make_model().learn(30, callback=make_callback(make_vlm(server), "log", n_queries=1))
        file = pathlib.Path("log", "advice.jsonl")
        file.write_text(re.sub('"run": "[^"]*"', '"run": null', file.read_text()))
        model = make_model()
        model.learn(30, callback=make_callback(make_vlm(server), "log", resume=True, n_queries=1))
        model = go_on(model)
        model.learn(30, callback=make_callback(make_vlm(server), "log", n_queries=1), **GOES_ON)
        assert len(server.requests) == 1
    assert not pathlib.Path("log_2").exists()


def test_a_model_that_goes_on_without_its_log_is_told_that_all_is_asked_anew(caplog):
    model = make_model()
    model.learn(30, callback=make_callback(centre(), "log"))
    model.learn(30, callback=make_callback(centre(), False), **GOES_ON)
    assert "has advised this model before, and its log is in" in caplog.text
    assert "With log_path=False it is asked all its queries anew" in caplog.text


def test_a_model_that_never_had_a_log_does_not_miss_it(caplog, recwarn):
    model = make_model()
    model.learn(30, callback=[make_callback(centre(), False), make_callback(centre(), False)])
    model.learn(30, callback=make_callback(centre(), "log"), **GOES_ON)
    assert "has advised this model before, and kept no log" in caplog.text
    assert not [warning for warning in recwarn if "any more" in str(warning.message)]


def test_a_log_that_is_moved_while_a_callback_has_it_ends_no_run():
    with VLMServer() as server:
        callback, model = make_callback(make_vlm(server), "log"), make_model()
        model.learn(30, callback=callback)
        pathlib.Path("log").rename("elsewhere")
        with pytest.warns(UserWarning, match="advice log is not in .*log any more"):
            model.learn(30, callback=callback, **GOES_ON)
        assert asked(server) == [[0, 1, 2, 3]] * 2
    assert [query.index for query in read_queries("log")] == [1]


@pytest.mark.parametrize("log_path", [5, b"log", "", True])
def test_a_log_path_that_is_none(log_path):
    with pytest.raises(ArgumentError, match=r"log_path is .*, expected a folder, False for no log, or None"):
        make_callback(centre(), log_path)


def test_a_model_goes_on_where_the_log_of_another_run_lies(tmp_path, tmp_path_factory, monkeypatch):
    model = make_model()
    model.learn(30, callback=make_callback(centre(), "log"))
    model.save("model")
    monkeypatch.chdir(tmp_path_factory.mktemp("other"))
    make_model().learn(30, callback=make_callback(centre(), "log"))
    monkeypatch.setattr("sb3_varl.training.log_folder._folders", {})
    model = VARL.load(tmp_path / "model", env=CounterEnv(offset=100))
    callback = make_callback(centre(), "log")
    with pytest.warns(UserWarning, match="advice log is not in log any more"):
        model.learn(30, callback=callback, reset_num_timesteps=False)
    assert callback.n_asked == 1
    assert len(read_queries("log")) == 1


# ---- Only what is open is asked


def test_a_function_is_called_for_what_is_open_only():
    calls = []

    def once_more(observation):
        calls.append(tuple(observation))
        if len(calls) == 2:
            raise ZeroDivisionError
        return np.full(2, 0.5 if len(calls) <= 4 else -0.5)

    model = make_model()
    model.learn(30, callback=make_callback(FunctionAdvisor(once_more), "log", n_queries=1))
    model = go_on(model)
    callback = make_callback(FunctionAdvisor(once_more), "log", n_queries=1)
    model.learn(10, callback=callback, reset_num_timesteps=False)
    assert len(calls) == 5
    assert calls[4] == calls[1]
    rows = model.guidance_buffer.rows()
    assert sorted(rows["actions"][:, 0]) == [-0.5, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(read_queries("log")[0].read().actions, [[0.5] * 2, [-0.5] * 2, [0.5] * 2, [0.5] * 2])
    assert callback.totals["accepted"] == callback.totals["states"] == 4


def test_a_model_is_not_asked_for_what_the_log_has_lost():
    with VLMServer(script=(None, http_error(400))) as server:
        model = make_model()
        model.learn(30, callback=make_callback(make_vlm(server, states_per_request=2), "log", n_queries=1))
        model = go_on(model)
        file = pathlib.Path("log/advice.jsonl")
        file.write_text(file.read_text().splitlines(keepends=True)[0])
        callback = make_callback(make_vlm(server, states_per_request=2), "log", n_queries=1)
        model.learn(10, callback=callback, reset_num_timesteps=False)
        assert asked(server) == [[0, 1], [2, 3], [2, 3]]
    assert model.guidance_buffer.size() == callback.totals["accepted"] == 4


# ---- Whose place is told, and how


def test_a_log_path_through_a_link_is_relative(tmp_path, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    model = make_model()
    with pytest.raises(ValueError, match="Two AdvisorCallbacks have the log_path"):
        model.learn(30, callback=[make_callback(centre(), link / "log"), make_callback(centre(), "log")])
    model = make_model()
    model.learn(30, callback=make_callback(centre(), link / "log2"))
    assert [progress["log"] for progress in model.advice_progress] == ["log2"]
    callback = make_callback(centre(), "log2")
    model.learn(30, callback=callback, reset_num_timesteps=False)
    assert callback.n_asked == 1
    assert len(read_queries("log2")) == 2


def test_a_log_path_in_the_home_folder(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    make_model().learn(30, callback=make_callback(centre(), "~/log"))
    assert len(read_queries(home / "log")) == 1
    assert not pathlib.Path("~").exists()


def test_a_wrong_key_ends_training_as_long_as_nothing_was_answered():
    """Also where another fault came before it."""
    with VLMServer(script=(http_error(400),), always=WRONG_KEY) as server:
        model = make_model()
        with pytest.raises(AdvisorError, match="Incorrect API key"):
            model.learn(60, callback=make_callback(make_vlm(server), "log", n_queries=2))
        assert len(server.requests) == 2


def test_one_is_no_plural(caplog, capsys):
    from sb3_varl.wording import count

    assert [count(n, "query was", "queries were") for n in (0, 1, 2)] == [
        "0 queries were",
        "1 query was",
        "2 queries were",
    ]
    with pytest.warns(UserWarning, match="1 of 1 query will not be asked"):
        make_model().learn(10, callback=make_callback(centre(), "log", n_queries=1))
    make_model().learn(30, callback=make_callback(centre(), "log2", n_queries=1, states_per_query=1, verbose=1))
    assert "asking about 1 state." in capsys.readouterr().out
