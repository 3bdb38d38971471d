"""The benchmark runs and keeps what it prints. How fast things are is for the benchmark to say, not for a test."""

import csv
import pathlib
import subprocess
import sys

import pytest

from sb3_varl.advisors.rules_advisor import recorded_tasks

SCRIPT = pathlib.Path(__file__).parents[1] / "examples" / "benchmark" / "throughput.py"


@pytest.mark.slow
def test_throughput(tmp_path):
    command = [sys.executable, str(SCRIPT), "--only", "profile", "--updates", "2", "--repeats", "2", "--out", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "Where an update's time goes" in result.stdout
    with (tmp_path / "throughput.csv").open() as file:
        rows = list(csv.DictReader(file))
    contestants = {row["contestant"] for row in rows}
    assert {"SAC", "VARL, every gate open"} < contestants
    assert all(float(row["median"]) >= 0 for row in rows)
    assert (tmp_path / "profile.png").stat().st_size > 10_000


@pytest.mark.slow
def test_rules_speed():
    script = SCRIPT.with_name("rules_speed.py")
    command = [sys.executable, str(script), "--states", "20", "--repeats", "2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "microseconds a state" in lines[0]
    assert len(lines) == 1 + len(recorded_tasks())
    assert all(float(number) > 0 for line in lines[1:] for number in line.split()[1:])
