"""The report: what it finds, what it says, what it draws, and what a browser makes of it."""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from conftest import KEY, CounterEnv, make_query, make_vlm
from sb3_varl import VARL, Advice, AdvisorCallback, Briefing, FunctionAdvisor, Rejection, Usage, VisitedState
from sb3_varl.advice.log import AdviceLog
from sb3_varl.advice.types import AdviceQuery, Answer, Failure, Request
from sb3_varl.report import curves as panels
from sb3_varl.report.corrections import view_rules
from sb3_varl.report.page import main, write_report
from sb3_varl.report.runs import read_runs
from sb3_varl.testing import Misbehaviour, VLMServer
from sb3_varl.wording import count

STEPS, CUTOFF = 300, 200
# As much as a browser has to be told before it runs something, if nobody keeps it from that.
HOSTILE = '</pre><script>alert("owned")</script><img src=x onerror=alert(1)>'


class WinnableEnv(CounterEnv):
    """Every third episode succeeds, with a reward for each step."""

    def step(self, action):
        observation, _, terminated, truncated, _ = super().step(action)
        return observation, float(self.episode % 3 == 0), terminated, truncated, {"is_success": self.episode % 3 == 0}


def train(folder, outputs, advisor=None, log_path=None):
    """A run as users have it: a monitor, evaluations, SB3's logger and an advice log."""
    folder.mkdir(parents=True, exist_ok=True)
    env = Monitor(WinnableEnv(), str(folder / "0"), info_keywords=("is_success",))
    small = {"learning_starts": 5, "batch_size": 8, "seed": 0, "train_freq": 5, "policy_kwargs": {"net_arch": [8]}}
    model = VARL("MlpPolicy", env, shaping_steps=CUTOFF, **small)
    model.set_logger(configure(str(folder), outputs))
    evaluation = EvalCallback(
        Monitor(WinnableEnv()), eval_freq=100, n_eval_episodes=3, log_path=str(folder), verbose=0, warn=False
    )
    advice = AdvisorCallback(
        advisor or FunctionAdvisor(lambda observation: None if observation[1] > 5 else np.array([0.5, -0.5])),
        "Count.",
        n_queries=2,
        first_query=40,
        query_freq=60,
        states_per_query=4,
        window=30,
        blocking=True,
        log_path=log_path,
    )
    model.learn(STEPS, callback=[evaluation, advice])
    model.save(folder / "model.zip")
    model.logger.close()
    env.close()
    return folder


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "VARL_1", ["csv", "tensorboard"])


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(finished_run, tmp_path / "VARL_1")


def write_log(
    folder,
    step=100,
    text="",
    error=None,
    failures=(),
    finished=True,
    run="a1b2c3",
    actions=((0.5, 0.5), None, None),
    cost=0.25,
    answered=(0, 1, 2),
):
    """An advice log with a query about three states, made by hand."""
    frame = np.full((300, 400, 3), 90, np.uint8)
    states = tuple(VisitedState(np.zeros(3), np.full(2, 0.1), frame, step - 3 + i) for i in range(3))
    briefing = Briefing(spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-1.0, 1.0, (3,)), "Count.")
    query = AdviceQuery(0, step, states, briefing)
    log = AdviceLog(folder, run)
    log.write_query(query)
    log.write_event(query, Request(0, answered))
    for failure in failures:
        log.write_event(query, Failure(0, failure, Usage(1, seconds=0.5)))
        log.write_event(query, Request(0, answered))
    said = {0: actions[0], 1: actions[1] or (9.0, 9.0), 2: actions[2]}
    items = [{"state": state, "action": said[state]} for state in answered if said[state] is not None]
    answer = f"{text} {json.dumps({'advice': items})}"
    log.write_event(query, Answer(0, answered, answer, Usage(1, 1200, 34, cost, 1.5)))
    if finished:
        advised = [None if action is None else np.array(action) for action in actions]
        log.write_advice(query, Advice(advised, [Rejection("out_of_bounds", 1)]), 2.25, error)
    return folder


def write_evaluations(folder, steps=(100, 200), success=0.5):
    folder.mkdir(parents=True, exist_ok=True)
    results = np.full((len(steps), 4), 3.0)
    np.savez(folder / "evaluations.npz", timesteps=steps, results=results, successes=np.full_like(results, success))


def write_progress(folder, **columns):
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"time/total_timesteps": [100, 200], **columns}
    rows = [",".join(columns), *(",".join(str(cell) for cell in row) for row in zip(*columns.values(), strict=True))]
    (folder / "progress.csv").write_text("\n".join(rows) + "\n")


def text_of(page):
    """The page's text, with what the tags are good for left out."""
    body = page.read_text().split("</style>")[1]
    text = re.sub(r"<[^>]+>", " ", body)
    return " ".join(text.replace("&nbsp;", " ").replace("\u202f", "").split())


def titles_of(page):
    """The panels that there are."""
    return re.findall(r"<figure>\s*<h3>([^<]+)</h3>", page.read_text())


def rows_of(page, heading):
    """The cells of the first table below a heading, without its head."""
    table = page.read_text().split(f"<h2>{heading}</h2>")[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in table.split("<tr>")[2:]]
    return [[re.sub(r"<[^>]+>", "", cell).replace("&nbsp;", " ").replace("\u202f", "") for cell in row] for row in rows]


@pytest.fixture
def figures(monkeypatch):
    """The axes of all panels that are drawn in a test, by their labels."""
    drawn = {}
    draw = panels._draw

    def keep(quantity, *arguments):
        figure = draw(quantity, *arguments)
        drawn[quantity.title] = figure.axes[0]
        return figure

    monkeypatch.setattr(panels, "_draw", keep)
    return drawn


def test_a_run_as_users_have_it(run, figures):
    page = write_report(run)
    assert page.name == "report.html"
    text = text_of(page)
    for fact in (
        "Task: Count.",
        f"environment steps {STEPS}",
        "queries 2",
        "states asked about 8",
        "requests 0",
        "Faults: none.",
        "Advisor: FunctionAdvisor.",
    ):
        assert fact in text
    assert titles_of(page) == [
        "Success",
        "Return",
        "Open gates",
        "Shaping loss",
        "Entropy",
        "Q of advised minus greedy action",
        "Entropy coefficient",
        "Critic loss",
    ]
    assert "What is not here" not in text
    rows = rows_of(page, "Queries")
    assert [row[:3] for row in rows] == [["1", "40", "4"], ["2", "100", "4"]]
    assert [int(row[3]) + int(row[4]) for row in rows] == [4, 4]
    accepted = re.search(r"answers accepted (\d+)", text).group(1)
    assert int(accepted) == sum(int(row[3]) for row in rows) < 8

    curve, queries, cutoff = figures["Success"].lines
    assert curve.get_xdata().tolist() == [100, 200, 300]
    with np.load(run / "evaluations.npz") as evaluations:
        assert curve.get_ydata().tolist() == (100 * evaluations["successes"].mean(axis=1)).tolist()
    assert list(queries.get_xdata()) == [40, 100]
    assert list(cutoff.get_xdata()) == [CUTOFF, CUTOFF]
    assert "mean of 3 evaluation episodes" in text
    gates = figures["Open gates"].lines[0]
    assert 0 < len(gates.get_xdata()) < 10
    assert max(gates.get_xdata()) < CUTOFF
    difference = figures["Q of advised minus greedy action"].lines[0].get_ydata()
    assert len(difference) == len(gates.get_xdata())


def test_a_logger_that_hardly_wrote_is_told_of(tmp_path):
    for n in (1, 3):
        rows = "".join(f"{500 * (i + 1)},1\n" for i in range(n))
        (tmp_path / "progress.csv").write_text(f"time/total_timesteps,train/critic_loss\n{rows}")
        (run,) = read_runs(tmp_path)
        assert any("wrote no more than 1 time, so" in sentence for sentence in run.missing) == (n == 1)


@pytest.mark.slow
def test_tensorboard_says_the_same_as_csv(run, tmp_path):
    written = read_runs(run)[0]
    (run / "progress.csv").unlink()
    events = read_runs(run)[0]
    shared = events.scalars.keys() & written.scalars.keys()
    assert {"varl/gate_open", "train/critic_loss", "rollout/success_rate", "advice/queries"} <= shared
    for key in shared - {"time/fps"}:
        np.testing.assert_allclose(events.scalar(key).to_numpy(), written.scalar(key).to_numpy(), rtol=1e-4)
        assert events.scalar(key).index.tolist() == written.scalar(key).index.tolist()
    assert events.cutoff == written.cutoff == CUTOFF
    assert titles_of(write_report(run))[2] == "Open gates"


def test_tensorboard_is_not_installed(run, monkeypatch):
    (run / "progress.csv").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    page = write_report(run)
    assert titles_of(page) == ["Success", "Return"]
    assert "need tensorboard: pip install tensorboard" in text_of(page)


def test_success_and_return_come_from_the_best_source(run):
    def sources():
        found = read_runs(run)[0]
        return found.success.source, found.returns.source

    assert sources() == ("3 evaluation episodes",) * 2
    in_file = read_runs(run)[0].success.values
    (run / "evaluations.npz").unlink()
    assert sources() == ("evaluation episodes",) * 2
    assert read_runs(run)[0].success.values.tolist() == in_file.tolist()

    lines = (run / "progress.csv").read_text().splitlines()
    names = [name.replace("eval/", "other/") for name in lines[0].split(",")]
    (run / "progress.csv").write_text("\n".join([",".join(names), *lines[1:]]))
    assert sources() == ("the latest training episodes",) * 2
    in_training = read_runs(run)[0].success.values

    for file in run.glob("events*"):
        file.unlink()
    (run / "progress.csv").unlink()
    assert sources() == ("the last 100 training episodes",) * 2
    episodes = read_runs(run)[0].success.values
    assert len(episodes) == STEPS // 7
    assert episodes.index[-1] == 7 * len(episodes)
    assert episodes[in_training.index].tolist() == pytest.approx(in_training.tolist())

    (run / "0.monitor.csv").unlink()
    run_without = read_runs(run)[0]
    assert (run_without.success, run_without.returns) == (None, None)
    assert any("neither evaluations" in sentence for sentence in run_without.missing)


def test_what_has_no_data_is_left_out(tmp_path):
    write_evaluations(tmp_path / "SAC")
    page = write_report(tmp_path / "SAC")
    assert titles_of(page) == ["Success", "Return"]
    text = text_of(page)
    assert "There was no advice." in text
    assert "There is neither progress.csv nor a TensorBoard file" in text


def test_a_cutoff_that_was_ended_before_its_time_is_the_one_that_counts(run):
    model = VARL.load(run / "model.zip")
    model.num_timesteps = 33
    model.end_shaping()
    model.save(run / "model.zip")
    (run / "progress.csv").unlink()
    assert read_runs(run)[0].cutoff == 33


def test_the_cutoff_is_the_earlier_of_what_the_model_and_the_logger_know(run):
    (run / "model.zip").unlink()
    logged = read_runs(run)[0].cutoff
    assert CUTOFF <= logged < CUTOFF + 50
    # As until_success leaves it behind, if the model was saved before.
    write_evaluations(run.parent / "other")
    active = [1, 1, 0]
    write_progress(run, **{"time/total_timesteps": [10, 20, 30], "varl/shaping_active": active})
    assert read_runs(run)[0].cutoff == 30


def test_the_layout_of_the_quickstart(run, tmp_path, figures):
    root = tmp_path / "quickstart"
    for name, success, active in (("VARL", 0.75, [1, 1, 0]), ("SAC", 0.25, [np.nan] * 3)):
        write_evaluations(root / name, success=success)
        steps = [100, 200, STEPS] if name == "VARL" else [50, 100, 200]
        write_progress(root / name, **{"time/total_timesteps": steps, "varl/shaping_active": active})
    write_log(root / "VARL" / "advice-2026-11-21-03-50-37")
    shutil.copy(run / "model.zip", root / "varl.zip")
    varl, sac = read_runs(root)
    assert (varl.folder.name, varl.cutoff) == ("VARL", STEPS)
    assert list(varl.queries) == ["advice-2026-11-21-03-50-37"]
    assert (sac.folder.name, sac.queries, sac.cutoff) == ("SAC", {}, None)
    assert (varl.n_steps, sac.n_steps) == (STEPS, 200)

    rows = rows_of(write_report(root), "Runs")
    ends = [f"{share}%, 4 evaluation episodes" for share in (75, 25)]
    assert rows[0] == ["VARL", "300", ends[0], "1", "3", "1", "1", "1200", "34", "0.250", "1.5", "1 out of bounds"]
    assert rows[1] == ["SAC", "200", ends[1], "no advice"]
    blue, orange = figures["Success"].lines[:2]
    assert (blue.get_ydata()[0], orange.get_ydata()[0]) == (75, 25)
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in (blue, orange)]
    assert all(first != second for first, second in zip(*looks, strict=True))


def test_evaluations_and_models_beside_the_folders_of_tensorboard(run, tmp_path):
    root = tmp_path / "mountain_car"
    unlogged = shutil.ignore_patterns("*.npz", "*.zip", "*monitor*", "advice")
    for name in ("VARL", "SAC"):
        shutil.copytree(run, root / name / f"{name}_1", ignore=unlogged)
        write_evaluations(root / name)
    write_log(root / "VARL" / "VARL_1" / "advice")
    shutil.copy(run / "model.zip", root / "VARL" / "model.zip")
    varl, sac = read_runs(root)
    assert (varl.folder.name, varl.success.source, len(varl.all_queries)) == ("VARL_1", "4 evaluation episodes", 1)
    assert (sac.folder.name, sac.success.source, len(sac.all_queries)) == ("SAC_1", "4 evaluation episodes", 0)
    assert not varl.missing


def test_what_is_not_clear_is_not_guessed(tmp_path):
    for name in ("VARL_1", "VARL_2"):
        write_progress(tmp_path / name)
    write_evaluations(tmp_path / "VARL")
    write_log(tmp_path / "advice-today")
    assert {run.folder.name for run in read_runs(tmp_path)} == {"VARL_1", "VARL_2", "VARL", "advice-today"}


def test_a_folder_for_each_seed(tmp_path):
    for seed in ("seed_1", "seed_2"):
        write_evaluations(tmp_path / seed / "VARL")
        write_evaluations(tmp_path / seed / "SAC")
        write_log(tmp_path / seed / "VARL" / "advice", step=int(seed[-1]))
    runs = read_runs(tmp_path)
    assert [(f"{run.folder.parent.name}/{run.folder.name}", [q.step for q in run.all_queries]) for run in runs] == [
        ("seed_1/VARL", [1]),
        ("seed_2/VARL", [2]),
        ("seed_1/SAC", []),
        ("seed_2/SAC", []),
    ]
    names = [row[0] for row in rows_of(write_report(tmp_path), "Runs")]
    assert names == ["seed_1/VARL", "seed_2/VARL", "seed_1/SAC", "seed_2/SAC"]


# For each layout, the files of each run by its folder, and by None those that are of no run.
LAYOUTS = {
    "logger": {"VARL_1": ["VARL_1/progress.csv", "VARL_1/advice/advice.jsonl", "VARL_1/advice_2/advice.jsonl"]},
    "all around the logger": {
        "tb/VARL_1": [
            "tb/VARL_1/events.out.tfevents.1",
            "evaluations.npz",
            "monitor.csv",
            "advice/advice.jsonl",
            "checkpoints/rl_model_100_steps.zip",
            "best_model.zip",
        ]
    },
    "two of tensorboard, one place for the rest": {
        "VARL_1": ["VARL_1/events.out.tfevents.1", "VARL_1/advice/advice.jsonl"],
        "VARL_2": ["VARL_2/events.out.tfevents.2", "VARL_2/advice/advice.jsonl"],
        ".": ["evaluations.npz", "0.monitor.csv", "best_model.zip"],
    },
    "two runs, models of nobody": {
        "VARL_1": ["VARL_1/progress.csv", "VARL_1/rl_model_100_steps.zip"],
        "SAC_1": ["SAC_1/progress.csv"],
        None: ["VARL_1.zip", "models/SAC_1.zip"],
    },
    "two runs, evaluations of nobody": {
        "VARL_1": ["VARL_1/progress.csv", "VARL_1/advice/advice.jsonl"],
        "SAC_1": ["SAC_1/progress.csv"],
        "VARL": ["VARL/evaluations.npz"],
        "SAC": ["SAC/evaluations.npz", "SAC/best_model.zip"],
    },
    "evaluations of another": {
        "VARL": ["VARL/progress.csv", "VARL/evaluations.npz"],
        "SAC": ["SAC/evaluations.npz"],
    },
    "monitors in a run's folder": {
        "VARL_1": ["VARL_1/progress.csv", "VARL_1/train/0.monitor.csv", "VARL_1/eval/0.monitor.csv"]
    },
    "a logger's folder in another's": {
        ".": ["progress.csv", "evaluations.npz"],
        "VARL_1": ["VARL_1/progress.csv", "VARL_1/evaluations.npz", "VARL_1/advice/advice.jsonl"],
    },
    "rl-zoo": {
        "logs/varl/Env-v0_1": [
            "logs/varl/Env-v0_1/0.monitor.csv",
            "logs/varl/Env-v0_1/1.monitor.csv",
            "logs/varl/Env-v0_1/evaluations.npz",
            "logs/varl/Env-v0_1/best_model.zip",
            "logs/varl/Env-v0_1/Env-v0.zip",
            "logs/varl/Env-v0_1/advice/advice.jsonl",
        ],
        "logs/varl/Env-v0_2": ["logs/varl/Env-v0_2/0.monitor.csv", "logs/varl/Env-v0_2/rl_model_100_steps.zip"],
        "tb/Env-v0/VARL_1": ["tb/Env-v0/VARL_1/events.out.tfevents.1"],
    },
    "rl-zoo, one run": {
        "tb/Env-v0/VARL_1": [
            "tb/Env-v0/VARL_1/events.out.tfevents.1",
            "logs/varl/Env-v0_1/0.monitor.csv",
            "logs/varl/Env-v0_1/advice/advice.jsonl",
        ]
    },
    "quickstart": {
        "VARL": ["VARL/progress.csv", "VARL/evaluations.npz", "VARL/advice-today/advice.jsonl"],
        "SAC": ["SAC/progress.csv", "SAC/evaluations.npz"],
        None: ["varl.zip"],
    },
    "examples": {
        "VARL/VARL_1": [
            "VARL/VARL_1/events.out.tfevents.1",
            "VARL/VARL_1/advice/advice.jsonl",
            "VARL/evaluations.npz",
            "VARL/model.zip",
        ],
        "SAC/SAC_1": ["SAC/SAC_1/events.out.tfevents.2", "SAC/evaluations.npz", "SAC/model.zip"],
    },
    "advice beside evaluations": {"eval": ["eval/evaluations.npz", "advice/today/advice.jsonl", "model.zip"]},
    "advice of several runs": {
        "eval": ["eval/evaluations.npz"],
        "advice/yesterday": ["advice/yesterday/advice.jsonl"],
        "advice/today": ["advice/today/advice.jsonl"],
    },
    "advice beside two runs": {
        "VARL": ["VARL/evaluations.npz"],
        "SAC": ["SAC/evaluations.npz"],
        ".": ["advice/advice.jsonl", "advice_2/advice.jsonl"],
    },
    "nothing but advice": {"VARL_1": ["VARL_1/advice/advice.jsonl"], "VARL_2": ["VARL_2/advice/advice.jsonl"]},
}


def found_in(root, files):
    """Make empty files, and see which runs they are."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return read_runs(root)


def below(root, path):
    return path.relative_to(root).as_posix()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_whose_is_what(layout, tmp_path):
    runs = found_in(tmp_path, [file for files in layout.values() for file in files])
    found = {below(tmp_path, run.folder): {below(tmp_path, file) for file in run.files} for run in runs}
    assert found == {folder: set(files) for folder, files in layout.items() if folder is not None}
    assert len(runs) == len(found)


FOLDERS = st.lists(st.sampled_from(["VARL_1", "eval", "advice", "advice_2"]), max_size=3).map("/".join)
FILES = st.sampled_from(["progress.csv", "evaluations.npz", "0.monitor.csv", "advice.jsonl", "model.zip"])


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(FOLDERS, FILES).map(lambda parts: "/".join(filter(None, parts))), min_size=1, max_size=9))
def test_nothing_is_lost_and_nothing_counts_twice(files):
    needed = {file for file in files if not file.endswith(".zip")}
    assume(needed)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        runs = found_in(root, files)
        of_runs = [below(root, file) for run in runs for file in run.files]
        assert needed <= set(of_runs) <= files
        assert len(of_runs) == len(set(of_runs))
        assert sum(len(run.queries) for run in runs) == sum(file.endswith("advice.jsonl") for file in files)
        for run in runs:
            logged = {file.parent for file in run.files if file.name == "progress.csv"}
            assert logged <= {run.folder}
            # No run has anything of the folder of another one's logger.
            for other in runs:
                if other is not run and run.folder in logged and run.folder not in other.folder.parents:
                    assert not any(run.folder in file.parents for file in other.files)


def test_what_is_there_and_not_read_is_named(tmp_path):
    for folder in ("", "eval"):
        write_evaluations(tmp_path / folder)
        (tmp_path / folder / "0.monitor.csv").touch()
    write_progress(tmp_path, **{"advice/queries": [1, 2]})
    (run,) = read_runs(tmp_path)
    for name in ("evaluations", "monitors"):
        assert f"Of the {name} in 2 folders, only those in {tmp_path} are read." in run.missing


def test_a_cutoff_that_nobody_knows(run, tmp_path):
    write_log(tmp_path / "VARL" / "advice")
    (unknown,) = read_runs(tmp_path / "VARL")
    sentence = "The cutoff is not known: there is neither a saved model (*.zip) nor varl/shaping_active"
    assert unknown.cutoff is None
    assert any(missing.startswith(sentence) for missing in unknown.missing)
    shutil.copy(run / "model.zip", tmp_path / "VARL")
    (known,) = read_runs(tmp_path / "VARL")
    assert known.cutoff == CUTOFF
    assert not any(missing.startswith(sentence) for missing in known.missing)


def test_one_run_may_be_scattered(tmp_path):
    write_progress(tmp_path / "tb" / "VARL_1")
    write_evaluations(tmp_path / "evaluation")
    write_log(tmp_path / "advice" / "2026-11-21")
    (run,) = read_runs(tmp_path)
    assert (run.folder.name, run.success is None, len(run.all_queries)) == ("VARL_1", False, 1)


def test_advice_logs_by_themselves(tmp_path):
    for time in ("09-00", "10-00"):
        write_log(tmp_path / "advice" / time)
    assert [run.folder.name for run in read_runs(tmp_path)] == ["09-00", "10-00"]
    assert [run.folder.name for run in read_runs(tmp_path / "advice" / "09-00")] == ["09-00"]
    page = write_report(tmp_path)
    assert titles_of(page) == ["Spent on advice, US dollars"]
    assert "There are neither evaluations" in text_of(page)


def test_previews_are_no_runs(tmp_path):
    for folder in ("preview/advice-2026-11-21-03-50-37", "preview/advice-2026-11-21-04-00-00"):
        write_log(tmp_path / folder, run=None)
    assert len(read_runs(tmp_path)) == 2, "there is nothing else"
    write_log(tmp_path / "VARL" / "advice")
    (run,) = read_runs(tmp_path)
    assert [len(queries) for queries in run.queries.values()] == [1]
    (tmp_path / "progress.csv").write_text("time/total_timesteps,varl/gate_open\n10,0.5\n")
    (run,) = read_runs(tmp_path)
    assert list(run.queries) == ["VARL/advice"]


def test_a_run_that_has_only_begun(tmp_path):
    folder = tmp_path / "VARL_1"
    (folder / "advice").mkdir(parents=True)
    (folder / "advice" / "advice.jsonl").touch()
    page = write_report(folder)
    assert titles_of(page) == []
    assert "environment steps 0 queries 0" in text_of(page)
    write_evaluations(folder, steps=(0,))
    assert titles_of(write_report(folder)) == ["Success", "Return"]


@pytest.mark.parametrize("steps", [CUTOFF - 1, CUTOFF])
def test_a_cutoff_that_is_still_to_come_is_not_drawn(steps, tmp_path, figures):
    write_log(tmp_path / "advice", step=40)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as model:
        model.writestr("data", json.dumps({"num_timesteps": steps, "shaping_steps": CUTOFF}))
    page = write_report(tmp_path)
    assert ("The dashed line" in text_of(page)) == (steps == CUTOFF)
    assert len(figures["Spent on advice, US dollars"].lines) == 2 + (steps == CUTOFF)


def test_a_simulated_advisor_is_called_so(tmp_path):
    for name in ("ScriptedAdvisor", "openai/gpt-5"):
        log = AdviceLog(tmp_path / name, "a1b2c3")
        log.write_query(make_query(2), name)
        text = text_of(write_report(tmp_path / name))
        assert f"Advisor: {name}." in text
        assert ("It is simulated" in text) == (name == "ScriptedAdvisor")


def test_a_run_with_two_advisors(tmp_path, figures):
    write_log(tmp_path / "VARL_1" / "advice", step=100)
    write_log(tmp_path / "VARL_1" / "advice_2", step=200)
    (run,) = read_runs(tmp_path)
    assert list(run.queries) == ["advice", "advice_2"]
    page = write_report(tmp_path)
    assert [row[:3] for row in rows_of(page, "Queries")] == [["1", "advice", "100"], ["1", "advice_2", "200"]]
    assert figures["Spent on advice, US dollars"].lines[0].get_ydata().tolist() == [0, 0.25, 0.5, 0.5]


@pytest.mark.slow
def test_two_models_that_were_trained_in_one_folder(tmp_path):
    folder = train(tmp_path / "VARL_1", ["csv"])
    train(folder, ["csv"], FunctionAdvisor(lambda observation: np.zeros(2)))
    (run,) = read_runs(tmp_path)
    assert run.n_steps == STEPS
    page = write_report(tmp_path)
    first, second = rows_of(page, "Advice logs")
    assert first[:3] == ["advice", "2", "8"]
    assert int(first[3]) < 8
    assert second[:4] == ["advice_2", "2", "8", "8"]
    text = text_of(page)
    assert f"answers accepted {int(first[3]) + 8}" in text
    assert "the curves are of the last one only" in text
    # Nobody has to be told that who has one log.
    shutil.rmtree(folder / "advice_2")
    assert "Advice logs" not in text_of(write_report(tmp_path))


def test_two_models_that_shared_a_logger(tmp_path):
    steps, gates = [100, 200, 300, 100, 200], [0.9, 0.9, 0.9, 0.1, 0.2]
    write_progress(tmp_path, **{"time/total_timesteps": steps, "varl/gate_open": gates})
    (run,) = read_runs(tmp_path)
    assert run.scalar("varl/gate_open").to_dict() == {100: 0.1, 200: 0.2}
    assert any("progress.csv is of 2 models that were trained one after the other" in line for line in run.missing)


def test_a_run_that_went_on_from_a_checkpoint_keeps_what_was_logged_before(tmp_path):
    steps, gates = [100, 200, 300, 200, 400], [0.9, 0.8, 0.7, 0.1, 0.2]
    write_progress(tmp_path, **{"time/total_timesteps": steps, "varl/gate_open": gates})
    (run,) = read_runs(tmp_path)
    assert run.scalar("varl/gate_open").to_dict() == {100: 0.9, 200: 0.1, 300: 0.7, 400: 0.2}
    assert not any("one after the other" in line for line in run.missing)


def test_the_table_says_what_each_query_brought(tmp_path):
    write_log(tmp_path / "VARL_1" / "advice", failures=["overloaded", "no complete answer within 60 s"])
    page = write_report(tmp_path)
    cells = ["1", "100", "3", "1", "1", "1 out of bounds", "3", "0", "1200", "34", "0.250", "2.2"]
    assert rows_of(page, "Queries") == [cells]
    text = text_of(page)
    assert "Faults: 1 out of bounds." in text
    assert "request 0: overloaded request 0: no complete answer within 60 s" in text


def test_tokens_where_the_price_is_not_known(tmp_path):
    write_log(tmp_path / "VARL_1" / "advice", cost=0.0)
    assert titles_of(write_report(tmp_path)) == ["Spent on advice, tokens"]


def test_queries_that_failed_or_are_not_finished(tmp_path):
    write_log(tmp_path / "VARL_1" / "advice", error="ZeroDivisionError: of mine", actions=(None,) * 3, answered=(1,))
    write_log(tmp_path / "VARL_2" / "advice", finished=False)
    page = write_report(tmp_path)
    failed, unfinished = rows_of(page, "Runs")
    assert failed[-1] == "1 out of bounds, 1 failed query"
    assert unfinished[-1] == "1 out of bounds, 1 unfinished query"
    text = text_of(page)
    assert "The query failed ZeroDivisionError: of mine" in text
    assert "The run ended before the query did." in text
    assert page.read_text().count('class="state failed"') == 2
    assert rows_of(page, "Queries of VARL_1")[0][4] == "0"


def test_totals_of_the_logger_where_there_is_no_advice_log(tmp_path):
    write_progress(
        tmp_path / "VARL_1",
        **{"varl/shaping_active": [1, 0], "advice/queries": [1, 2], "advice/states": [4, 8], "advice/accepted": [3, 6]},
        **{"advice/requests": [1, 2], "advice/cost": [0.5, 1.5], "advice/rejected_not_json": [0, 2]},
    )
    page = write_report(tmp_path)
    text = text_of(page)
    for fact in ("queries 2", "answers accepted 6", "requests 2", "US dollars 1.50", "Faults: 2 not json."):
        assert fact in text
    assert "There is no advice log" in text


@pytest.mark.parametrize(
    ("number", "singular", "words"),
    [
        (0, "state", "0 states"),
        (1, "state", "1 state"),
        (2, "failed query", "2 failed queries"),
        (1, "query", "1 query"),
    ],
)
def test_one_is_singular(number, singular, words):
    assert count(number, singular) == words


def test_many_runs(tmp_path, figures):
    for i in range(1, 11):
        write_evaluations(tmp_path / f"SAC_{i}")
        write_log(tmp_path / f"SAC_{i}" / "advice")
    page = write_report(tmp_path)
    assert [row[0] for row in rows_of(page, "Runs")] == [f"{i} SAC_{i}" for i in range(1, 11)]
    curves = figures["Success"].lines[:10]
    assert len({(line.get_color(), str(line._unscaled_dash_pattern), line.get_marker()) for line in curves}) == 10
    assert len({line.get_color() for line in curves[:8]}) == 8
    keys = re.findall(r'class="key" src="([^"]+)"', page.read_text())
    assert len(set(keys)) == 10


def test_a_run_that_is_named_twice_counts_once(tmp_path):
    write_evaluations(tmp_path / "SAC")
    assert "environment steps 200" in text_of(write_report([tmp_path, tmp_path / "SAC", str(tmp_path / "SAC")]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("progress.csv", b"\x00\xff\xfe not a table"),
        ("progress.csv", b""),
        ("evaluations.npz", b"PK\x03\x04 cut sh"),
        ("evaluations.npz", b""),
        ("0.monitor.csv", b"no header\n1,2,3\n"),
        ("0.monitor.csv", b""),
        ("model.zip", b"not a zip"),
    ],
)
def test_a_damaged_file_does_not_cost_the_others(name, content, run):
    sound = read_runs(run)[0]
    (run / name).write_bytes(content)
    page = write_report(run)
    assert re.search(rf"/{name} cannot be read \([A-Z]", text_of(page))
    damaged = read_runs(run)[0]
    assert len(damaged.missing) == 1
    assert len(damaged.all_queries) == 2
    for file, part in (("progress.csv", "scalars"), ("evaluations.npz", "success"), ("model.zip", "cutoff")):
        if file != name:
            assert str(getattr(damaged, part)) == str(getattr(sound, part))


def test_a_run_that_is_still_being_written(run):
    for name in ("progress.csv", "0.monitor.csv"):
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    found = read_runs(run)[0]
    assert not found.missing
    assert len(found.scalar("varl/gate_open")) > 1


@pytest.mark.slow
def test_a_frame_that_is_gone(run, caplog):
    before = write_report(run).read_text().count("data:image/jpeg")
    frame = next((run / "advice").glob("query0*.png"))
    frame.write_bytes(b"")
    assert write_report(run).read_text().count("data:image/jpeg") == before - 1 == 7
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: {**record, "version": 99}, "has version 99"),
        (lambda record: {**record, "query": None}, "no record of an advice log"),
        (lambda record: {**record, "actions": [[0.5, 0.5]]}, "does not fit together"),
        (lambda record: {**record, "actions": [["a", "b"], None, None]}, "does not fit together"),
        (lambda record: {**record, "actions": [[9.0, 9.0], None, None]}, "out_of_bounds"),
    ],
)
def test_an_advice_log_that_is_none(change, message, tmp_path):
    log = write_log(tmp_path / "VARL_1" / "advice") / "advice.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text(
        "".join(json.dumps(change(record) if record["type"] == "advice" else record) + "\n" for record in records)
    )
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path)])
    assert not (tmp_path / "report.html").exists()


def test_errors_say_what_to_do(tmp_path):
    (tmp_path / "empty").mkdir()
    write_evaluations(tmp_path / "SAC")
    file = tmp_path / "SAC" / "evaluations.npz"
    for arguments, message in (
        (["empty"], "empty holds no run: there is none of advice.jsonl, progress.csv, events.out.tfevents*"),
        (["absent"], "There is no absent"),
        ([str(file)], "evaluations.npz is a file, expected the folder of a run"),
        (["SAC", "empty"], "empty holds no run"),
        (["SAC", "--output", "absent/report.html"], "there is no folder absent"),
        (["SAC", "--output", "empty"], "output is empty, which is a folder"),
    ):
        with pytest.raises(SystemExit, match=re.escape(message)):
            main(arguments)
    with pytest.raises(ValueError, match="run_dirs is empty"):
        write_report([])


@pytest.mark.slow
def test_the_command(tmp_path):
    write_evaluations(tmp_path / "SAC")
    process = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "sb3_varl.report", "SAC"],
        capture_output=True,
        text=True,
        env={**os.environ, "DISPLAY": ""},
    )
    assert (process.returncode, process.stderr) == (0, "")
    size = (tmp_path / "report.html").stat().st_size
    assert process.stdout == f"report.html: {size / 1e6:.1f} MB\n"


@pytest.mark.usefixtures("vlm_environment")
def test_no_key_gets_into_the_page(tmp_path):
    answer = json.dumps({"advice": [], "note": f"your key is {KEY}"})
    with VLMServer(always=Misbehaviour(message={"content": answer})) as server:
        train(tmp_path / "VARL_1", ["csv"], make_vlm(server))
    page = write_report(tmp_path).read_text()
    assert "your key is ***" in page
    assert KEY not in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(width, run, look):
    write_evaluations(run.parent / "SAC_1")
    write_log(
        run.parent / "SparseMetaWorld-button-press-topdown-v3_1" / "advice", text="a" * 3000, failures=["b" * 200]
    )
    seen = look(write_report(run.parent), width)
    seen.assert_sound()
    assert seen.title == "Report on SparseMetaWorld-button-press-topdown-v3_1, VARL_1, SAC_1"
    # A key for each run, the panels, and a frame for each state.
    assert seen.n_images == 3 + 9 + (3 + 8)
    assert "Task: Count." in seen.text
    # The first query is open, the others wait to be opened.
    assert seen.text.count("state 0, step") == 1


def test_whatever_a_model_says_is_only_shown(tmp_path, look):
    folder = tmp_path / "$x_1$ <b>VARL"
    log = write_log(folder / "advice", text=f"\ud800 {HOSTILE}", failures=[HOSTILE]) / "advice.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records:
        record.update(task=HOSTILE, action_names=["<i>dx</i>", '" onmouseover="alert(1)'])
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    write_evaluations(folder)
    page = write_report(tmp_path)
    seen = look(page, 1280)
    seen.assert_sound()
    assert f"Task: {HOSTILE}" in seen.text
    assert f"request 0: {HOSTILE}" in seen.text
    assert "<i>dx</i>" in seen.text
    assert seen.title == "Report on $x_1$ <b>VARL"
    assert "<script" not in page.read_text()


def test_a_script_would_not_run(tmp_path, look):
    write_evaluations(tmp_path / "SAC")
    page = write_report(tmp_path)
    script = "<script>document.title = 'owned'</script><img src='https://example.com/x.png'>"
    page.write_text(page.read_text().replace("</h1>", f"</h1>{script}"))
    seen = look(page, 1280)
    assert seen.title == "Report on SAC"
    assert seen.broken_images == ["https://example.com/x.png"]
    assert any("Content Security Policy" in error for error in seen.errors)


def test_panels_are_pictures_by_themselves(run):
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', write_report(run).read_text())
    assert len(pictures) == 8
    for picture in pictures:
        svg = base64.b64decode(picture).decode()
        assert "<svg" in svg
        assert "NaN" not in svg
        assert not re.search(r'href="(?!#)', svg)


def test_shares_stand_beside_no_other_rules():
    rules = [{"name": name, "when": "true", "action": ["0"]} for name in "abc"]
    answer = Answer(0, (0,), json.dumps({"rules": rules}), Usage(), "rules")
    assert view_rules([("query 1", answer, [])], [0.5, 0.3, 0.2, None]).shares == [0.5, 0.3, 0.2]
    assert view_rules([("query 1", answer, [])], [0.5, 0.5, None, None]).shares == []  # one of them could not be used
    view = view_rules([("query 1", answer, ["b: there is no wrist"])], [0.5, 0.5, None, None])
    assert view.shares == [0.5, None, 0.5]
    assert [rule.name for rule in view.lost] == ["b"]
    twice = Answer(0, (0,), json.dumps({"rules": [rules[0], rules[0], rules[1]]}), Usage(), "rules")
    view = view_rules([("query 1", twice, ["a: there is no wrist"])], [0.5, 0.5, None])
    assert [view.is_lost(row[0]) for row in view.rows] == [True, False, False]
