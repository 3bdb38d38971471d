"""The comparison on environments that are not of Meta-World."""

import csv
import sys

import beyond_metaworld
import numpy as np
import pytest


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
