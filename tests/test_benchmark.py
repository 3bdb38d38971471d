"""The benchmark runs and keeps what it prints. How fast things are is for the benchmark to say, not for a test."""

import csv
import os
import pathlib
import subprocess
import sys

import pytest

from sb3_varl.advisors.rules_advisor import recorded_tasks

SCRIPT = pathlib.Path(__file__).parents[1] / "examples" / "benchmark" / "throughput.py"


@pytest.mark.slow
def test_throughput(tmp_path):
    command = [sys.executable, str(SCRIPT), "--only", "profile", "--updates", "2", "--repeats", "2", "--out", tmp_path]
    # The compiler's half a minute is the business of other tests.
    environment = {**os.environ, "TORCH_COMPILE_DISABLE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr
    assert "Where an update's time goes" in result.stdout
    with (tmp_path / "throughput.csv").open() as file:
        rows = list(csv.DictReader(file))
    contestants = {row["contestant"] for row in rows}
    assert {"SAC", "VARL, every gate open"} < contestants
    assert all(float(row["median"]) >= 0 for row in rows)
    assert (tmp_path / "profile.png").stat().st_size > 10_000


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("share", ["unadvised", "a fifth of the gates open", "every gate open"])
def test_the_table_of_speed_follows_from_the_data(fast, share):
    """Medians and quartiles of ratios, by section of the benchmark."""
    with SCRIPT.with_name("throughput_avx2.csv").open() as file:
        data = {(row["section"], row["contestant"]): row for row in csv.DictReader(file) if row["metric"] == "ratio"}
    cells = []
    for section, name in (("updates", "VARL"), ("tqc", "VARLTQC"), ("crossq", "VARLCrossQ"), ("learning", "VARL")):
        row = data.get((section, f"{name}{'(fast=True)' * fast}, {share}"))
        numbers = [] if row is None else [float(row[column]) for column in ("median", "q25", "q75")]
        cells.append("{:.2f} ({:.2f}\N{EN DASH}{:.2f}) ".format(*numbers) if numbers else "")
    page = (SCRIPT.parents[2] / "docs" / "speed.md").read_text().replace("**", "")
    assert f"| VARL, {'`fast=True`, ' * fast}{share} | {'| '.join(cells)}|" in page


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("share", ["unadvised", "a fifth of the gates open"])
def test_the_table_of_a_gpu_follows_from_the_data(fast, share):
    """Milliseconds, and medians and quartiles of ratios."""
    with SCRIPT.with_name("throughput_cuda.csv").open() as file:
        data = {(row["section"], row["contestant"], row["metric"]): row for row in csv.DictReader(file)}
    cells = []
    for section, name in (("updates", "VARL"), ("tqc", "VARLTQC"), ("images", "VARL")):
        contestant = f"{name}{'(fast=True)' * fast}, {share}"
        milliseconds = float(data[section, contestant, "milliseconds"]["median"])
        ratio = [float(data[section, contestant, "ratio"][column]) for column in ("median", "q25", "q75")]
        cells.append("{:.1f}: {:.2f} ({:.2f}\N{EN DASH}{:.2f})".format(milliseconds, *ratio))
    page = (SCRIPT.parents[2] / "docs" / "speed.md").read_text().replace("**", "")
    assert f"| VARL, {'`fast=True`, ' * fast}{share} | {' | '.join(cells)} |" in page


@pytest.mark.slow
def test_rules_speed():
    script = SCRIPT.with_name("rules_speed.py")
    command = [sys.executable, str(script), "--states", "20", "--repeats", "2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "microseconds a state" in lines[0]
    assert len(lines) == 1 + len(recorded_tasks())
    assert all(float(number) > 0 for line in lines[1:] for number in line.split()[1:4])
