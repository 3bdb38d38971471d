"""Advice logs offline: counts, agreement, and guidance from what was paid for."""

import subprocess
import sys

import numpy as np
import pytest

from conftest import CounterEnv, DictEnv, make_vlm
from sb3_varl import VARL, Advice, AdvisorCallback, FunctionAdvisor, GuidanceBuffer, Rejection, Usage
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.types import Answer, Failure, Request
from sb3_varl.report.relabel import main
from sb3_varl.testing import VLMServer

SMALL = {"learning_starts": 5, "gradient_steps": 0, "seed": 0, "policy_kwargs": {"net_arch": [8]}}


def train(advisor, log_path, env=None, policy="MlpPolicy", task=None, resume=False):
    model = VARL(policy, env or CounterEnv(low=-1, high=3), **SMALL)
    callback = AdvisorCallback(
        advisor,
        task,
        n_queries=2,
        first_query=20,
        query_freq=20,
        states_per_query=4,
        window=10,
        blocking=True,
        log_path=log_path,
        resume=resume,
    )
    return model.learn(50, callback=callback)


class Recording:
    """Speaks of what it does, as VLMAdvisor does."""

    def advise(self, query):
        text = '{"advice": [{"state": 0, "action": [3, 3]}, {"state": 1, "action": [9, 9]}, {"state": 2}]}'
        query.record(Request(0, (0, 1, 2, 3)))
        query.record(Failure(0, "overloaded", Usage(1, seconds=0.5)))
        query.record(Request(0, (0, 1, 2, 3)))
        query.record(Answer(0, (0, 1, 2, 3), text, Usage(1, 100, 10, 0.25, 1.0)))
        return Advice([np.full(2, 3.0), None, None, None], [Rejection("out_of_bounds", 1)])


@pytest.mark.parametrize(("env", "policy"), [(CounterEnv, "MlpPolicy"), (DictEnv, "MultiInputPolicy")])
def test_merged_guidance_is_that_of_the_runs(env, policy, tmp_path, capsys):
    models = []
    for name, action in (("one", [3.0, -1.0]), ("two", [0.0, 1.0])):
        advisor = FunctionAdvisor(lambda observation, action=action: np.array(action))
        models.append(train(advisor, tmp_path / name, env(low=-1, high=3), policy))
    main([str(tmp_path / "one"), str(tmp_path / "two" / "advice.jsonl"), "--output", str(tmp_path / "guidance")])
    assert "16 rows of guidance" in capsys.readouterr().out
    fresh = VARL(policy, env(low=-1, high=3), **SMALL)
    fresh.load_guidance_buffer(tmp_path / "guidance.npz")
    merged = fresh.guidance_buffer.rows()
    for name, rows in merged.items():
        if name != "steps":
            expected = np.concatenate([model.guidance_buffer.rows()[name] for model in models])
            np.testing.assert_allclose(rows, expected, atol=1e-6)
            assert rows.dtype == expected.dtype


def test_the_table_counts_what_was_paid_for(tmp_path, capsys):
    train(Recording(), tmp_path / "log")
    main([str(tmp_path / "log")])
    lines = capsys.readouterr().out.splitlines()
    names = lines[1].replace("tokens in", "tokens_in").split()
    total = dict(zip(["all", *names[2:]], lines[-2].split(), strict=True))
    assert total == {
        "all": "all",
        "states": "8",
        "advised": "2",
        "rejected": "2",
        "abstained": "4",
        "requests": "4",
        "failed": "0",
        "tokens_in": "200",
        "out": "20",
        "dollars": "0.50",
        "seconds": "3.0",
        "agree": total["agree"],
    }
    assert lines[-1] == "rejected: 2 out_of_bounds"


def test_help_explains_the_columns_that_need_it(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "'failed' is how many requests brought no answer in the end" in text
    assert "'agree' is the share of the advice" in text


def test_agreement_is_with_the_executed_action(tmp_path, capsys):
    executed = {}

    class Same:
        def advise(self, query):
            executed[query.index] = [state.executed_action for state in query.states]
            return Advice([action if query.index else -np.sign(action - 1) + 1 for action in executed[query.index]])

    train(Same(), tmp_path)
    main([str(tmp_path)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:4]]
    assert rows[1][-1] == "100%"
    assert rows[0][-1] != "100%"


def test_answers_that_a_crash_kept_from_being_used_are_rescued(tmp_path, capsys, caplog):
    model = train(Recording(), tmp_path / "log")
    lines = (tmp_path / "log" / "advice.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "log" / "advice.jsonl").write_text("".join(line for line in lines if '"type": "advice"' not in line))
    main([str(tmp_path / "log"), "--output", str(tmp_path / "guidance.npz")])
    assert "2 rows of guidance" in capsys.readouterr().out
    buffer = GuidanceBuffer(5, model.observation_space, model.action_space)
    buffer.load(tmp_path / "guidance.npz")
    np.testing.assert_array_equal(buffer.rows()["actions"], np.ones((2, 2)))
    assert buffer.rows()["steps"].tolist() == [20, 40]


@pytest.mark.parametrize("other", [CounterEnv(low=-1, high=1), DictEnv(low=-1, high=3)])
def test_logs_of_different_environments_are_refused(other, tmp_path):
    advisor = FunctionAdvisor(lambda observation: np.zeros(2))
    train(advisor, tmp_path / "one")
    train(advisor, tmp_path / "two", other, "MultiInputPolicy" if isinstance(other, DictEnv) else "MlpPolicy")
    with pytest.raises(SystemExit, match="different environments"):
        main([str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path / "guidance")])


@pytest.mark.slow
def test_a_path_without_a_log(tmp_path):
    process = subprocess.run(
        [sys.executable, "-W", "error", "-m", "sb3_varl.relabel", str(tmp_path)], capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "holds no advice log" in process.stderr
    assert "Traceback" not in process.stderr


def test_nothing_to_merge(tmp_path):
    train(FunctionAdvisor(lambda observation: None), tmp_path / "log")
    with pytest.raises(SystemExit, match="no advice in these logs"):
        main([str(tmp_path / "log"), "--output", str(tmp_path / "guidance")])


def test_logs_of_different_tasks_are_refused(tmp_path):
    for task, action in (("Open the drawer.", 0.9), ("Close the drawer.", -0.9)):
        advisor = FunctionAdvisor(lambda observation, action=action: np.full(2, action))
        train(advisor, tmp_path / task[:4], task=task)
    with pytest.raises(SystemExit, match=r"different tasks: 'Open the drawer.' in .*Open and 'Close the drawer.' in"):
        main([str(tmp_path / "Open"), str(tmp_path / "Clos"), "--output", str(tmp_path / "guidance")])
    assert not (tmp_path / "guidance.npz").exists()


@pytest.mark.usefixtures("vlm_environment")
def test_the_task_of_an_advisor_is_the_task_in_its_log(tmp_path):
    with VLMServer() as server:
        for task in ("Open the drawer.", "Close the drawer."):
            train(make_vlm(server, task=task), tmp_path / task[:4])
            assert f"Task: {task}" in server.requests[-1].text
            assert {query.task for query in read_queries(tmp_path / task[:4])} == {task}
        with pytest.raises(SystemExit, match="different tasks"):
            main([str(tmp_path / "Open"), str(tmp_path / "Clos"), "--output", str(tmp_path / "guidance")])
        n_requests = len(server.requests)
        with pytest.raises(ValueError, match=r"the task of its query 1 is 'Open the drawer\.', expected 'Close"):
            train(make_vlm(server, task="Close the drawer."), tmp_path / "Open", resume=True)
        assert len(server.requests) == n_requests
