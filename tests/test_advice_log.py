"""What was asked and answered is on disk, and a recorded run repeats."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import stat
import tempfile
import threading

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from conftest import CounterEnv, DictEnv, assert_same_parameters
from sb3_varl import VARL, Advice, AdviceQuery, AdvisorCallback, Briefing, ReplayAdvisor, VisitedState
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import AdviceLog, decode_observation, encode_observation, read_records
from sb3_varl.advice.types import Answer, Failure, Rejection, Request, Usage

SMALL = {"learning_starts": 20, "batch_size": 16, "seed": 3, "policy_kwargs": {"net_arch": [16]}}
SPACE = spaces.Box(-1, 1, (2,), np.float32)


def query(n=2, index=0, frame=True, observation=0.1):
    frames = [np.full((4, 4, 3), i, np.uint8) if frame else None for i in range(n)]
    states = [VisitedState(np.full(3, i + observation), np.zeros(2), frames[i], i) for i in range(n)]
    return AdviceQuery(index, 100, tuple(states), Briefing(SPACE, SPACE, "Count."))


class Noisy:
    """Answers differ even where observations do not."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def advise(self, query):
        actions = [self.rng.uniform(-1, 3, 2) for _ in query.states]
        actions[0] = None
        actions[1] = [99, 99]
        return Advice(actions)


def run(advisor, log_path, env=CounterEnv, policy="MlpPolicy"):
    model = VARL(policy, env(low=-1, high=3), **SMALL)
    callback = AdvisorCallback(
        advisor,
        n_queries=2,
        first_query=50,
        query_freq=50,
        states_per_query=20,
        window=40,
        blocking=True,
        log_path=log_path,
    )
    model.learn(150, callback=callback)
    return model, callback


@pytest.mark.parametrize(("env", "policy"), [(CounterEnv, "MlpPolicy"), (DictEnv, "MultiInputPolicy")])
def test_a_recorded_run_replays_to_the_same_weights(env, policy, tmp_path):
    recorded, _ = run(Noisy(), tmp_path / "log", env, policy)
    replayed, callback = run(ReplayAdvisor(tmp_path / "log"), False, env, policy)
    assert replayed.guidance_buffer.size() == 36
    assert_same_parameters(recorded, replayed)
    assert callback.totals["abstained"] == 4
    again, _ = run(Noisy(), False, env, policy)
    assert_same_parameters(recorded, again)


def test_everything_is_on_disk(tmp_path):
    log = AdviceLog(tmp_path / "log")
    asked = query()
    log.write_query(asked)
    log.write_event(asked, Answer(0, (0, 1), '{"advice": []}', Usage(1, 10, 5, 0.1, 2.5)))
    log.write_advice(asked, Advice([np.float32([0.1, 0.2]), None], (Rejection("truncated", 1),), Usage(1)), 3.0)
    first, answer, advice = read_records(tmp_path / "log")
    assert (first["type"], first["query"], first["step"], first["task"]) == ("query", 0, 100, "Count.")
    assert first["states"][1]["observation"] == [1.1, 1.1, 1.1]
    frame = Image.open(tmp_path / "log" / first["states"][1]["frame"])
    assert frame.getpixel((0, 0)) == (1, 1, 1)
    frame.close()
    assert (answer["text"], answer["usage"]["cost"], answer["usage"]["seconds"]) == ('{"advice": []}', 0.1, 2.5)
    assert np.float32(advice["actions"][0]).tolist() == np.float32([0.1, 0.2]).tolist()
    assert advice["rejected"] == [{"reason": "truncated", "state": 1, "example": ""}]


def test_an_answer_is_on_disk_before_it_is_used(tmp_path):
    seen = []

    class Paid:
        def advise(self, query):
            query.record(Answer(0, (0,), "text", Usage(1)))
            seen.append([record["type"] for record in read_records(tmp_path / "log")])
            return Advice([None] * len(query.states))

    run(Paid(), tmp_path / "log")
    assert seen[0] == ["query", "answer"]


def test_only_the_owner_can_read_it(tmp_path):
    AdviceLog(tmp_path / "log").write_query(query())
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "log" / "advice.jsonl").stat().st_mode) == 0o600


def test_half_a_line_of_a_crash_is_kept_aside(tmp_path, caplog):
    log = AdviceLog(tmp_path)
    log.write_query(query())
    log.release()
    with open(tmp_path / "advice.jsonl", "ab") as file:
        file.write(b'{"version": 1, "type": "adv')
    log = AdviceLog(tmp_path)
    assert (tmp_path / "advice.torn").read_bytes() == b'{"version": 1, "type": "adv\n'
    assert "cut short by a crash; it is now in advice.torn" in caplog.text
    log.write_advice(query(), Advice([np.zeros(2), None]), 1.0)
    assert [record["type"] for record in read_records(tmp_path)] == ["query", "advice"]


def full_log(path):
    """Two queries with everything that a log can have, and its bytes."""
    for index in (0, 1):
        log, asked = AdviceLog(path), query(index=index)
        log.write_query(asked)
        log.write_event(asked, Request(0, (0, 1)))
        log.write_event(asked, Failure(0, "no", Usage(1)))
        log.write_event(asked, Request(0, (0, 1)))
        log.write_event(asked, Answer(0, (0, 1), "\ud83e \n \u2028", Usage(1, 100, 10)))
        log.write_advice(asked, Advice([np.zeros(2), None]), 1.0)
        log.release()
    return (path / "advice.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return full_log(tmp_path_factory.mktemp("whole"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_log_cut_anywhere_loses_the_last_line_at_most(whole, data):
    cut = data.draw(st.integers(0, len(whole)))
    complete = [json.loads(line) for line in whole[:cut].split(b"\n")[:-1]]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "advice.jsonl"
        file.write_bytes(whole[:cut])
        read = list(read_records(folder))
        assert read[: len(complete)] == complete
        assert len(read) - len(complete) in (0, 1)
        # The next run finds the same, goes on behind it, and what was cut is aside.
        AdviceLog(folder).write_event(query(index=1), Request(1, (0,)))
        assert list(read_records(folder))[:-1] == read
        torn = pathlib.Path(folder) / "advice.torn"
        tail = whole[:cut].rpartition(b"\n")[2]
        expected = tail + b"\n" if tail and len(read) == len(complete) else b""
        assert (torn.read_bytes() if torn.exists() else b"") == expected


def test_a_line_that_cannot_be_read_costs_that_line_only(tmp_path, caplog):
    lines = full_log(tmp_path).split(b"\n")
    lines[4] = lines[4][:30] + b"\xff\x00" + lines[4][35:]
    (tmp_path / "advice.jsonl").write_bytes(b"\n".join(lines))
    assert [logged.index for logged in read_queries(tmp_path)] == [0, 1]
    assert "Line 5 of" in caplog.text


def test_what_is_no_record_of_ours_is_said_to_be_none(tmp_path):
    (tmp_path / "advice.jsonl").write_text('{"version": 1, "type": "query", "query": 0}\n')
    with pytest.raises(ValueError, match=r"no record of an advice log \(KeyError: 'step'\)"):
        read_queries(tmp_path)


def test_states_that_were_not_recorded_are_counted(tmp_path):
    log = AdviceLog(tmp_path)
    log.write_query(query())
    log.write_advice(query(), Advice([np.ones(2), None]), 1.0)
    replay = ReplayAdvisor(tmp_path)
    advice = replay.advise(query(n=3, index=5))
    np.testing.assert_array_equal(advice.actions[0], [1.0, 1.0])
    assert advice.actions[1:] == [None, None]
    assert advice.rejected == [Rejection("not_recorded", 2)]


def test_answers_of_a_query_that_a_crash_cut_short_are_not_lost(tmp_path):
    log = AdviceLog(tmp_path)
    log.write_query(query(n=3))
    text = '{"advice": [{"state": 0, "action": [0.5, -0.5]}, {"state": 1, "action": ["left", 0]}]}'
    log.write_event(query(n=3), Answer(0, (0, 1), text, Usage(1)))
    advice = ReplayAdvisor(tmp_path).advise(query(n=3, index=1))
    assert advice.actions[0].tolist() == [0.5, -0.5]
    assert advice.actions[1:] == [None, None]
    assert [rejection.state for rejection in advice.rejected] == [2]


def test_what_was_answered_before_an_advisor_failed_is_used(tmp_path, caplog):
    class FailsAfterAnAnswer:
        def advise(self, query):
            query.record(Answer(0, (0,), '{"advice": [{"state": 0, "action": [1, 1]}]}', Usage(1)))
            np.random.default_rng().choice([])  # whose frames are those of a compiled module

    recorded, _ = run(FailsAfterAnAnswer(), tmp_path / "log")
    replayed, _ = run(ReplayAdvisor(tmp_path / "log"), False)
    assert recorded.guidance_buffer.size() == replayed.guidance_buffer.size() == 2
    assert "failed and training goes on with 1 of 20 answers" in caplog.text
    assert "(test_advice_log.py, line " in caplog.text


def test_a_path_without_a_log_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the log folder of a run with advice.jsonl"):
        ReplayAdvisor(tmp_path)


def test_a_log_without_advice_is_refused(tmp_path):
    AdviceLog(tmp_path).write_query(query())
    with pytest.raises(ValueError, match="holds no advice"):
        ReplayAdvisor(tmp_path)


def test_a_newer_log_is_refused(tmp_path):
    (tmp_path / "advice.jsonl").write_text('{"version": 2, "type": "query"}\n')
    with pytest.raises(ValueError, match="has version 2, expected at most 1: update sb3_varl"):
        ReplayAdvisor(tmp_path)


@given(hnp.arrays(np.float32, 3) | hnp.arrays(np.float64, (2, 2)) | hnp.arrays(np.uint8, (3, 20, 20)))
def test_observations_lose_no_bit(array):
    encoded = json.loads(json.dumps(encode_observation(array)))
    decoded = decode_observation(encoded, array.dtype.str)
    assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(decoded, array)
    assert json.dumps(encode_observation(array.copy())) == json.dumps(encode_observation(array))


def test_a_folder_that_vanishes_is_made_anew(tmp_path):
    log = AdviceLog(tmp_path / "log")
    log.write_query(query())
    shutil.rmtree(tmp_path / "log")
    log.write_query(query(index=1))
    assert [record["query"] for record in read_records(tmp_path / "log")] == [1]
    assert len(list((tmp_path / "log").glob("*.png"))) == 2


def test_a_line_that_could_be_neither_finished_nor_taken_back_spoils_no_other(tmp_path, monkeypatch, caplog):
    log, write = AdviceLog(tmp_path), os.write

    def half(descriptor, data):
        write(descriptor, data[: len(data) // 2])
        raise OSError(errno.EIO, "Input/output error")

    def refuse(descriptor, size):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        patch.setattr(os, "ftruncate", refuse)
        log.write_event(query(), Request(0, (0,)))
    log.write_event(query(), Request(1, (1,)))
    assert [record["request"] for record in read_records(tmp_path)] == [0, 1]
    assert "Line 1 of" in caplog.text


def test_what_the_disk_refused_is_written_without_another_line(tmp_path, monkeypatch):
    log = AdviceLog(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        log.write_event(query(), Request(0, (0,)))
    assert not list(read_records(tmp_path))
    log.catch_up()
    log.catch_up()
    assert [record["request"] for record in read_records(tmp_path)] == [0]


@pytest.mark.parametrize("line", ['{"version": "1"}', "[" * 100_000, '{"version": 1, "type": "query", "query": "0"}'])
def test_lines_of_something_else(line, tmp_path):
    (tmp_path / "advice.jsonl").write_text(line + "\n" + line)
    with contextlib.suppress(ValueError):
        assert read_queries(tmp_path) == []


def test_training_does_not_wait_while_another_thread_writes(tmp_path, monkeypatch):
    log, syncing, go_on = AdviceLog(tmp_path), threading.Event(), threading.Event()

    def slow(descriptor):
        syncing.set()
        assert go_on.wait(20)

    monkeypatch.setattr(os, "fsync", slow)
    writer = threading.Thread(target=log.write_event, args=(query(), Request(0, (0,))))
    writer.start()
    assert syncing.wait(20)
    training = threading.Thread(target=log.catch_up)
    training.start()
    training.join(5)
    waited = training.is_alive()
    go_on.set()
    writer.join()
    training.join()
    assert not waited


def strictly(constant):
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("observation", [[np.nan, np.inf, -np.inf], {"a": [1.0, np.nan, 2.0], "b": [[np.inf], [0.5]]}])
def test_every_line_is_json_as_all_the_world_reads_it(observation, tmp_path):
    """JSON has no numbers that are not finite."""
    observation = (
        {key: np.array(value, np.float32) for key, value in observation.items()}
        if isinstance(observation, dict)
        else np.array(observation)
    )
    briefing = Briefing(spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-np.inf, np.inf, (3,)), "Count.")
    state = VisitedState(observation, np.array([np.nan, 1], np.float32), None, 5)
    asked = AdviceQuery(0, 10, (state,), briefing)
    log = AdviceLog(tmp_path)
    log.write_query(asked)
    log.write_advice(asked, Advice([None], usage=Usage(np.int64(1), cost=np.float32(0.5))), 1.0)
    for line in (tmp_path / "advice.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=strictly)
    (query,) = read_queries(tmp_path)
    np.testing.assert_equal(query.observations, [observation])
    np.testing.assert_equal(query.executed_actions, [state.executed_action])
    np.testing.assert_equal(query.action_low, [-np.inf, -np.inf])
    assert query.advice.usage == Usage(1, cost=0.5)
