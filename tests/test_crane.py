"""A task in which small actions decide, with rules that somebody wrote."""

import csv
import sys

import gymnasium as gym
import numpy as np
import pytest

import crane
from sb3_varl import Rules


@pytest.mark.parametrize(("off", "least", "most"), [(0.0, 1.0, 1.0), (0.2, 0.2, 0.5)])
def test_the_rules_succeed_and_nearly_the_same_does_not(off, least, most):
    env, wins, rng = gym.make("Crane-v0"), [], np.random.default_rng(0)
    rules = Rules.parse(crane.RULES.read_text(), crane.Crane.task_sheet, env.observation_space, env.action_space)
    assert not rules.rejected
    asked_for = []
    for seed in range(40):
        (observation, _), is_over, error = env.reset(seed=seed), False, rng.uniform(-off, off, 2)
        while not is_over:
            asked_for.append(rules(observation))
            action = np.clip(asked_for[-1] + error, -1, 1).astype(np.float32)
            observation, _, terminated, truncated, info = env.step(action)
            is_over = terminated or truncated
        wins.append(info["is_success"])
    assert least <= np.mean(wins) <= most
    if not off:
        assert f"{np.mean(np.abs(asked_for).max(axis=1) < 0.4):.0%}" == "51%"


@pytest.mark.slow
@pytest.mark.parametrize("method", crane.METHODS)
def test_each_method_runs(method, tmp_path, monkeypatch, capsys):
    path = tmp_path / "crane.csv"
    monkeypatch.setattr(crane, "N_EVALUATIONS", 2)
    monkeypatch.setattr(sys, "argv", ["crane.py", "--method", method, "--steps", "240", "--results", str(path)])
    crane.main()
    assert f"{method}, 2 evaluations" in capsys.readouterr().out
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], int(row["step"])) for row in rows] == [(method, 120), (method, 240)]
