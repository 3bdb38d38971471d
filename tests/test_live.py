"""Runs whose model was asked while they trained: what it answered, and the script that repeats them."""

import csv
import json
import pathlib
import sys

import gymnasium as gym
import live
import numpy as np
import pytest

from sb3_varl import Rules, draft_sheet
from sb3_varl.advice.history import read_queries
from sb3_varl.preview.episodes import follow_whole

ROOT = pathlib.Path(__file__).parents[1]
ASKED = ROOT / "tests" / "data" / "asked" / "live"
DATA = ROOT / "examples" / "benchmark" / "results" / "live.csv"
# In how many of 20 episodes the rules of each answer succeed, seeds 1000 to 1019.
SUCCESSES = {"soccer-v3": (13, 20), "door-lock-v3": (20,), "harbour": (20,)}


def rows():
    with DATA.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", live.TASKS)
def test_the_log_has_the_answers_and_the_prompts_are_kept(task):
    texts = [answer.text for query in read_queries(live.LOGS / task) for answer in query.answers]
    folders = sorted((ASKED / task).iterdir())
    assert [json.loads(text) for text in texts] == [json.loads((path / "answer.txt").read_text()) for path in folders]
    assert len(texts) == len(SUCCESSES[task])
    for path in folders:
        prompt = (path / "prompt.txt").read_text()
        assert f"Task: {live.TASKS[task]}" in prompt
        assert "measured: " in prompt
        assert (path / "asked_afterwards.txt").stat().st_size > 500


@pytest.mark.slow
@pytest.mark.parametrize("task", live.TASKS)
def test_how_often_the_answers_succeed(task):
    env = gym.make(live.env_id(task))
    sheet = draft_sheet(live.env_id(task))
    found = []
    for query in read_queries(live.LOGS / task):
        rules = Rules.parse(query.answers[-1].text, sheet, env.observation_space, env.action_space)
        assert not rules.rejected
        followed = follow_whole(lambda: gym.make(live.env_id(task)), rules, 20, seed=1000)
        found.append(sum(bool(whole.episode.succeeded) for whole in followed))
    assert found == [pytest.approx(expected, abs=1) for expected in SUCCESSES[task]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sb3_varl.AdviceWarning")  # of queries that so short a run does not come to
@pytest.mark.parametrize("model", [[], ["--model", "none"]], ids=["recorded", "nobody"])
def test_a_short_run(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "EVAL_FREQ", 150)
    monkeypatch.setattr(live, "N_EVAL_EPISODES", 1)
    monkeypatch.setattr(sys, "argv", ["live.py", "harbour", "--steps", "300", "--out", str(tmp_path / "out"), *model])
    live.main()
    with (tmp_path / "out" / "harbour" / "success.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["step"] for row in written] == ["150", "300"]
    assert {row["advisor"] for row in written} == {model[-1] if model else "recorded"}
    assert "300 steps: " in capsys.readouterr().out
    assert (tmp_path / "out" / "harbour" / "advice" / "advice.jsonl").exists() == (not model)


def test_what_is_said_follows_from_the_data():
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    found = {}
    for row in rows():
        found.setdefault((row["task"], row["advisor"]), []).append(float(row["success"]))
    for (task, advisor), success in found.items():
        assert len(success) == 6
        name = {"live": "VARL", "none": "SAC"}[advisor]
        cells = " | ".join(f"{share:.0%}" for share in success)
        assert f"| {task.removesuffix('-v3')} | {name} | {cells} |" in page
    readme = " ".join((ROOT / "README.md").read_text().split())
    ends = {task: np.mean(found[task, "live"][-3:]) for task in live.TASKS}
    said = "soccer {:.0%}, door-lock {:.0%}, and {:.0%} in a harbour"
    assert said.format(*(ends[task] for task in ("soccer-v3", "door-lock-v3", "harbour"))) in readme
