"""The comparison on environments that are not of Meta-World."""

import csv
import pathlib
import sys

import beyond_metaworld
import numpy as np
import pytest

from sb3_varl import Rules


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"), [("FetchSlide-v4", 1100), ("PointMaze_Medium-v3", 2200), ("Pusher-v5", 1100)]
)
def test_a_short_run_is_written_down_and_not_repeated(name, steps, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(beyond_metaworld, "TASKS", {name: beyond_metaworld.TASKS[name]._replace(steps=steps)})
    for constant in ("N_EVALUATIONS", "N_EVAL_EPISODES", "N_EPISODES_OF_RULES"):
        monkeypatch.setattr(beyond_metaworld, constant, 1)
    path = tmp_path / "results.csv"
    monkeypatch.setattr(sys, "argv", ["beyond_metaworld.py", name, "--methods", "VARL", "--results", str(path)])
    beyond_metaworld.main()
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["environment"], row["method"]) for row in rows] == [(name, "rules"), (name, "VARL")]
    assert [row["success"] in ("0.0", "1.0") for row in rows] == [name != "Pusher-v5"] * 2
    assert all(np.isfinite(float(row["return"])) for row in rows)
    capsys.readouterr()
    beyond_metaworld.main()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "n_successes"),
    [
        (".", 3),
        ("correction_earlier_tables", 10),
        ("correction_earlier_tables_again", 4),
        ("correction", 18),
        ("correction_again", 13),
    ],
)
def test_what_comes_of_a_second_answer_about_sliding_and_of_its_corrections(folder, n_successes):
    """To the present prompt, with a sheet of what was measured; three rules each, of 40 episodes."""
    text = (pathlib.Path(__file__).parent / "data" / "asked" / "FetchSlide-v4" / folder / "answer.txt").read_text()
    env = beyond_metaworld.Named("FetchSlide-v4")
    rules = Rules.parse(text, env.task_sheet, env.observation_space, env.action_space)
    assert len(rules) == 3
    assert not rules.rejected
    if folder == "correction":
        assert text == (beyond_metaworld.RULES / "FetchSlide-v4.corrected.txt").read_text()
    successes = []
    for seed in range(beyond_metaworld.EVAL_SEED, beyond_metaworld.EVAL_SEED + beyond_metaworld.N_EPISODES_OF_RULES):
        observation, _ = env.reset(seed=seed)
        previous, is_over = observation, False
        while not is_over:
            action = rules(observation, previous)
            previous = observation
            observation, _, terminated, truncated, info = env.step(action)
            is_over = terminated or truncated
        successes.append(info["is_success"])
    assert sum(successes) == pytest.approx(n_successes, abs=2)
