"""The examples of CoSo: they run from end to end, and what the docs say of their data is in it."""

import importlib
import pathlib
import sys

import pytest

from sb3_varl.advice.history import read_queries
from sb3_varl.coso import CoSo

ROOT = pathlib.Path(__file__).parent.parent

# Stable-Baselines3's progress bar; SB3 itself ignores this warning, but not before pytest turns it into an error.
pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


@pytest.fixture
def load(monkeypatch):
    """An example with other constants."""
    monkeypatch.syspath_prepend(ROOT / "examples")

    def load_example(name, **constants):
        module = importlib.import_module(name)
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        return module

    return load_example


@pytest.fixture
def run(monkeypatch):
    def run_example(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()

    return run_example


FEW_EXAMPLES = {"N_ENVS": 2, "N_STEPS": 4, "N_EXAMPLES": 8, "N_READING_EPOCHS": 1, "N_ANSWER_EPOCHS": 1}


@pytest.mark.slow
def test_number_line_is_imitated_trained_and_evaluated(load, run, tmp_path, capsys):
    module = load("coso_number_line", **FEW_EXAMPLES, N_EVAL_EPISODES=2)
    run(module, "--steps", 16, "--weights", "uniform", "--out", tmp_path / "out")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line.strip()[:1].isdigit()][-2:] == ["8", "16"]
    assert "after imitation" in printed[-1]


@pytest.mark.slow
def test_the_grid_trains_from_one_start_and_goes_on_where_it_was(load, tmp_path):
    load("coso_number_line", **FEW_EXAMPLES, N_EVAL_EPISODES=2)
    grid = load("coso_grid")
    start = grid.make_start(0, tmp_path)
    assert grid.make_start(0, tmp_path) == start
    for one in (grid.Run("none", 0.0, 0), grid.Run("learned", 1.0, 0)):
        grid.append(tmp_path / "results.csv", grid.train(one, start, 16))
    rows = grid.read(tmp_path / "results.csv")
    assert [row["step"] for row in rows] == ["8", "16", "greedy"] * 2
    assert rows[2]["weights"] == "none"
    assert all(0 <= float(row["success"]) <= 1 for row in rows)


def test_the_table_of_the_docs_is_that_of_the_data(load, tmp_path, capsys):
    grid = load("coso_grid")
    (tmp_path / "coso_results.csv").write_bytes((ROOT / "examples/coso_results.csv").read_bytes())
    grid.draw(tmp_path / "coso_results.csv")
    assert capsys.readouterr().out in (ROOT / "docs/coso.md").read_text()
    assert (tmp_path / "coso_results.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_bridge_goes_from_advice_to_a_policy(load, run, tmp_path, capsys):
    module = load("coso_bridge", LOG_STEPS=40, N_QUERIES=2, STATES_PER_QUERY=8)
    run(module, "--steps", 1024, "--varl-steps", 600, "--queries", 2, "--episodes", 1, "--out", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "after imitation" in printed
    assert [line.split()[0] for line in printed.splitlines()[-2:]] == ["VARL", "SAC"]
    assert CoSo.load(tmp_path / "out/tuned").num_timesteps == 1024
    asked = read_queries(tmp_path / "out/VARL/advice")
    assert len(asked) == 2
    assert all(query.n_states == 100 for query in asked)
