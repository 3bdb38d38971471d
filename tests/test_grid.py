"""The grid of methods, tasks and seeds: what it runs, what it writes down, and what VARL is compared with."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from rliable import metrics

import cells
import figures
import grid
import result_tables
import results
import rivals
import training
import variants
from conftest import make_query
from evaluations import Evaluations, interquartile_mean
from sb3_varl import AdviceQuery, FunctionAdvisor, VisitedState
from sb3_varl.algorithms import shaping

BENCHMARK = Path(__file__).parents[1] / "examples" / "benchmark"
TASK = "reach-v3"
STEPS = 400


def of_command(folder, *arguments):
    """All arguments of a command about short runs."""
    short = ("--steps", str(STEPS), "--eval-episodes", "2", "--jobs", "2")
    return [*arguments, *short, "--results", str(folder / "results"), "--work", str(folder / "work")]


def grid_command(folder, *arguments):
    command = [sys.executable, BENCHMARK / "grid.py", *of_command(folder, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=550)


@pytest.fixture
def call_main(monkeypatch, capsys):
    """The command in this process, which need not import everything anew: what it prints, and how it exits."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["grid.py", *arguments])
        status = None
        try:
            grid.main()
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return SimpleNamespace(status=status, out=printed.out, err=printed.err)

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def grid_main(call_main):
    """The same about short runs."""
    return lambda folder, *arguments: call_main(*of_command(folder, *arguments))


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def small_grid(tmp_path_factory):
    """Two runs of one task."""
    folder = tmp_path_factory.mktemp("grid")
    outcome = grid_command(folder, "main", "--tasks", TASK, "--seeds", "0")
    assert outcome.returncode == 0, outcome.stderr
    return folder


@pytest.mark.slow
def test_the_grid_writes_a_row_for_each_run_and_evaluation(small_grid):
    runs = read(small_grid / "results" / "runs.csv")
    assert sorted(run["method"] for run in runs) == ["SAC", "VARL"]
    assert all(run["status"] == results.FINISHED and run["task"] == TASK for run in runs)
    assert json.loads(runs[0]["versions"])["metaworld"]
    evaluations = read(small_grid / "results" / "evaluations.csv")
    for run in runs:
        own = [row for row in evaluations if row["id"] == run["id"]]
        assert [int(row["step"]) for row in own] == [80, 160, 240, 320, 400]
        advised = run["method"] == "VARL"
        assert [row["queries"] for row in own] == ["0", "0", "0", "1" if advised else "0", "1" if advised else "0"]
        assert (own[-1]["gate_open"] != "") == advised
        assert np.isfinite(float(own[-1]["entropy"]))
        assert all(0 <= float(row["success_at_end"]) <= float(row["success"]) for row in own)


@pytest.mark.slow
def test_what_was_run_is_not_run_again(small_grid, grid_main):
    before = (small_grid / "results" / "runs.csv").read_bytes()
    outcome = grid_main(small_grid, "main", "--tasks", TASK, "--seeds", "0")
    assert outcome.status is None, outcome
    assert "2 runs, 0 of them to do" in outcome.out
    assert (small_grid / "results" / "runs.csv").read_bytes() == before


@pytest.mark.slow
# As in a run of its own, where a warning is none of an error.
@pytest.mark.filterwarnings("ignore:5 of 6 queries will not be asked:sb3_varl.AdviceWarning")
def test_a_run_comes_out_the_same_again(small_grid, grid_main):
    outcome = grid_main(small_grid, "--check", f"VARL/{TASK}/0")
    assert outcome.status is None, outcome
    assert "largest difference 0" in outcome.out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:5 of 6 queries will not be asked:sb3_varl.AdviceWarning")
def test_a_run_is_the_beginning_of_a_longer_one(small_grid, tmp_path):
    """So that a longer one stands for it."""
    kept = results.Results(small_grid / "results")
    longer = kept.finished()["VARL", TASK, 0]
    cell = cells.make_cell("VARL", TASK, 0, STEPS, eval_episodes=2)
    cell.settings["steps"] = 320
    assert cell.is_same_as(longer["configuration"])
    _, evaluations = training.run(cell, tmp_path / "run", {})
    for row, of_longer in zip(evaluations, kept.evaluations(longer["id"])[:4], strict=True):
        repeated = row.keys() - grid.NOT_REPEATED
        assert {name: str(row[name]) for name in repeated} == {name: of_longer[name] for name in repeated}


@pytest.mark.slow
def test_ray_does_the_same(small_grid, tmp_path):
    outcome = grid_command(tmp_path, "main", "--tasks", TASK, "--seeds", "0", "--methods", "VARL", "--ray", "local")
    assert outcome.returncode == 0, outcome.stderr
    [here] = read(tmp_path / "results" / "runs.csv")
    [there] = [run for run in read(small_grid / "results" / "runs.csv") if run["method"] == "VARL"]
    assert here["success"] == there["success"]
    assert here["configuration"] == there["configuration"]


@pytest.fixture
def changed(small_grid, tmp_path):
    """Copies the results, with other evaluations."""

    def copy(change):
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "runs.csv").write_bytes((small_grid / "results" / "runs.csv").read_bytes())
        rows = read(small_grid / "results" / "evaluations.csv")
        with (tmp_path / "results" / "evaluations.csv").open("w") as file:
            csv.DictWriter(file, results.EVALUATION_COLUMNS).writeheader()
            csv.writer(file).writerows(change(row) for row in rows)
        return tmp_path

    return copy


@pytest.mark.slow
def test_a_check_notices_a_difference(changed, grid_main):
    folder = changed(lambda row: {**row, "entropy": float(row["entropy"]) + 1}.values())
    path = folder / "results" / "runs.csv"
    path.write_text(path.read_text().replace('""python"": ""3', '""python"": ""2'))
    told = grid_main(folder, "--check", f"SAC/{TASK}/0").status
    assert "is not what it was" in told
    assert "what else differs: python (2." in told


@pytest.mark.slow
def test_older_runs_lack_the_last_columns(changed, grid_main):
    folder = changed(lambda row: [value for name, value in row.items() if name not in results.ADDED_LATER])
    outcome = grid_main(folder, "--check", f"SAC/{TASK}/0")
    assert outcome.status is None, outcome
    assert "largest difference 0" in outcome.out


@pytest.mark.slow
def test_other_settings_are_not_mixed_in(small_grid):
    kept = results.Results(small_grid / "results")
    assert grid.outdated_cells([cells.make_cell("SAC", TASK, 0, STEPS, 2)], kept) == []
    for other in ((2 * STEPS, 2), (STEPS, None)):
        cell = cells.make_cell("SAC", TASK, 0, *other)
        assert grid.outdated_cells([cell], kept) == [cell]


@pytest.fixture
def outdated(changed):
    """Results of which a run had other settings."""
    folder = changed(lambda row: row.values())
    path = folder / "results" / "runs.csv"
    path.write_text(path.read_text().replace('""least_std"": 0.3', '""least_std"": 0.0'))
    return folder


@pytest.mark.slow
def test_what_was_run_with_other_settings_is_said(outdated, grid_main):
    arguments = ("main", "--tasks", TASK, "--seeds", "0")
    told = grid_main(outdated, *arguments)
    assert "has 1 of these runs with other settings, among them VARL/reach-v3/0" in told.status
    assert "--again" in told.status
    listed = grid_main(outdated, *arguments, "--list")
    assert listed.status is None, listed
    [sac, varl] = (next(line for line in listed.out.splitlines() if line.startswith(name)) for name in ("SAC", "VARL"))
    assert varl.endswith(" *")
    assert not sac.endswith("*")
    assert "1 of them were run with settings that their methods have no longer" in listed.out


def test_a_quick_look_does_not_stand_for_a_run(tmp_path, grid_main):
    outcome = grid_main(tmp_path, "main", "--again")
    assert outcome.status == 2
    assert "does not stand for a run" in outcome.err


def test_again_runs_what_was_run_with_other_settings(tmp_path, monkeypatch, call_main):
    ran = []
    monkeypatch.setattr(grid, "run_all", lambda missing, *_: ran.extend(cell.name for cell in missing))
    kept = results.Results(tmp_path)
    for method, change in (("SAC", {}), ("VARL", {"normalize": False})):
        cell = cells.make_cell(method, "push-v3", 100)
        of_then = dataclasses.replace(cell, settings=cell.settings | change)
        kept.add(training.summarize(of_then, results.FINISHED, [], 0.0, {}), [])
    which = ("rules", "--methods", "SAC", "VARL", "--tasks", "push-v3", "--seeds", "100", "--results", str(tmp_path))
    outcome = call_main(*which, "--again")
    assert outcome.status is None, outcome
    assert ran == ["VARL/push-v3/100"]


def test_all_that_is_published_can_be_listed(call_main):
    outcome = call_main("all", "--list")
    assert outcome.status is None, outcome
    assert "rules/push-v3/100" in outcome.out


def test_a_run_that_was_longer_need_not_be_run_again(tmp_path):
    kept = results.Results(tmp_path)
    [long], [short] = (
        [cell for cell in cells.make_grid([experiment], (0,)) if cell.name == "SAC/push-v3/0"]
        for experiment in ("main", "fifteen tasks")
    )
    assert (long.settings["steps"], short.settings["steps"]) == (cells.FULL_STEPS, cells.SHORT_STEPS)
    assert long in cells.make_grid(["fifteen tasks", "main", "rules"], (0,))
    for cell, missing in ((short, [long]), (long, [])):
        kept.add(training.summarize(cell, results.FINISHED, [], 0.0, {}), [])
        assert grid.missing_cells([short, long], kept) == missing
        seeds = Evaluations(kept).seeds(["SAC"], ["push-v3"], cells.FULL_STEPS)
        assert seeds == [0] * (cell is long)


def test_a_run_that_fails_is_a_row_and_is_tried_again(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(training, "train", fail)
    cell = cells.make_cell("SAC", TASK, 0, STEPS)
    row, evaluations = training.run(cell, tmp_path / "work", {})
    assert row["status"] == "failed: RuntimeError: out of luck"
    kept = results.Results(tmp_path / "results")
    kept.add(row, evaluations)
    assert read(kept.runs_path)[0]["status"] == row["status"]
    assert grid.missing_cells([cell], kept) == [cell]


@pytest.mark.slow
def test_a_process_that_dies_is_a_row_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "send_outcome", die_or_send)
    cells_ = [cells.make_cell("SAC", TASK, seed, STEPS) for seed in (0, 1)]
    args = SimpleNamespace(work=tmp_path / "work", jobs=2, ray=None)
    kept = results.Results(tmp_path / "results")
    grid.run_all(cells_, kept, args)
    statuses = {row["seed"]: row["status"] for row in read(kept.runs_path)}
    assert statuses == {"0": "failed: its process died", "1": results.FINISHED}


def die_or_send(sender, job):
    if job.cell.seed == 0:
        os._exit(1)
    evaluation = {"success": "1", "queries": "0", "requests": "0", "states": "0"}
    sender.send((training.summarize(job.cell, results.FINISHED, [evaluation], 0.0, {}), []))


def test_results_of_another_version_are_left_alone(tmp_path):
    kept = results.Results(tmp_path)
    kept.runs_path.write_text("id,colour\n1,red\n")
    with pytest.raises(ValueError, match="another version"):
        kept.finished()
    with pytest.raises(ValueError, match="another version"):
        kept.add(dict.fromkeys(results.RUN_COLUMNS, 0), [])
    assert kept.runs_path.read_text() == "id,colour\n1,red\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which experiments"),
        (["gates"], "there is no experiment gates"),
        (["main", "--methods", "PPO"], "invalid choice"),
        (["--check", "VARL"], "has no run 'VARL'"),
    ],
)
def test_bad_arguments_are_explained(grid_main, tmp_path, arguments, message):
    outcome = grid_main(tmp_path, *arguments)
    assert outcome.status not in (None, 0)
    assert message in f"{outcome.status} {outcome.err}"


def test_every_experiment_is_made_of_cells_that_can_be_trained():
    grid_of_all = cells.make_grid(list(cells.EXPERIMENTS), (0,))
    assert len({cell.name for cell in grid_of_all}) == len(grid_of_all)
    assert {cell.method for cell in grid_of_all} == set(cells.METHODS)
    for cell in grid_of_all:
        assert json.loads(cell.configuration) == cell.settings
        assert cell.settings["steps"] % cell.settings["eval_freq"] == 0


def make_branching(task="drawer-open-v3"):
    return rivals.Branching(training.make_env(cells.make_cell("SAC", task, 3)), n_remembered=200)


@pytest.mark.parametrize("task", cells.TASKS)
def test_what_if_the_same_had_been_done(task):
    env = make_branching(task)
    seen = []
    for _ in range(2):
        observation, _ = env.reset()
        for _ in range(30):
            action = env.action_space.sample()
            next_observation, reward, *_ = env.step(action)
            seen.append((observation, action, next_observation, reward))
            observation = next_observation
    for observation, action, next_observation, reward in seen:
        imagined, imagined_reward = env.what_if(observation, action)
        np.testing.assert_allclose(imagined, next_observation, atol=1e-6)
        assert imagined_reward == reward
    # The present is as it was.
    action = env.action_space.sample()
    imagined, _ = env.what_if(seen[-1][2], action)
    np.testing.assert_array_equal(env.step(action)[0], imagined)


def test_what_if_of_something_never_seen():
    env = make_branching()
    env.reset()
    with pytest.raises(LookupError, match="not seen lately"):
        env.what_if(np.zeros(39, np.float32), np.zeros(4, np.float32))


def test_scores_are_asked_for_now_and_then_and_follow_the_progress():
    cell = cells.make_cell("SAC", "drawer-open-v3", 0)
    scorer = rivals.SimulatedScorer(training.make_env(cell), every=3, weight=2.0, noise=0.0, error_rate=0.0, seed=0)
    expert = training.sb3_varl.metaworld.ScriptedAdvisor("drawer-open-v3", noise=0, resolution=0, error_rate=0, seed=0)
    observation, _ = scorer.reset()
    rewards, progress = [], []
    for step in range(30):
        observation, reward, _, _, info = scorer.step(expert._answer(0, step, observation))
        rewards.append(reward - info["success"])
        progress.append(info["unscaled_reward"] / 10)
    assert scorer.n_queries == 10
    assert rewards == [2 * round(progress[step - step % 3], 1) for step in range(30)]
    assert max(rewards) > min(rewards)
    scorer.step(scorer.action_space.sample())
    scorer.reset()
    scorer.step(scorer.action_space.sample())
    assert scorer.n_queries == 12


def trained(tmp_path, method, task="reach-v3", steps=504, **settings):
    cell = cells.make_cell(method, task, 0, steps, eval_episodes=1)
    cell.settings.update(settings)
    cell.settings["advice"]["n_queries"] = 1
    return training.train(cell, tmp_path, training.Recorder(cell, tmp_path))


@pytest.mark.slow
def test_advice_in_the_replay_buffer_stands_by_itself(tmp_path):
    model = trained(tmp_path, "SAC, advice in replay")
    buffer = model.replay_buffer
    assert buffer.size() == 504 + 32
    advised = np.flatnonzero(
        (buffer.actions[: buffer.size(), None, 0] == model.guidance_buffer.rows()["actions"]).all(axis=-1).any(axis=1)
    )
    assert len(advised) == 32
    # Each begins after the end of an episode, and is cut off after its only step.
    assert buffer.dones[advised - 1].all()
    assert buffer.timeouts[advised].all()
    assert not np.array_equal(buffer.observations[advised], buffer.next_observations[advised])


@pytest.mark.slow
def test_cloning_fits_the_advice(tmp_path):
    far = trained(tmp_path / "far", "SAC, advice cloned", steps=302, cloning={"n_updates": 1})
    near = trained(tmp_path / "near", "SAC, advice cloned", steps=302, cloning={"n_updates": 600})
    assert near.guidance_summary()["gate_open"] < 0.5 < far.guidance_summary()["gate_open"]


@pytest.mark.parametrize("choice", ["late", "novel"])
def test_a_choosy_advisor_asks_about_some(choice):
    observations = [np.full(2, 10.0 * (i % 3) + 0.1 * i) for i in range(12)]
    states = [VisitedState(observation, np.zeros(1), None, 20 + i) for i, observation in enumerate(observations)]
    query = AdviceQuery(0, 40, tuple(states), make_query(n_states=1).briefing)
    advisor = variants.Choosy(FunctionAdvisor(lambda _: np.ones(2)), n_states=3, choice=choice, episode_length=25)
    chosen = [i for i, action in enumerate(advisor.advise(query).actions) if action is not None]
    assert len(chosen) == 3
    if choice == "late":
        assert chosen == [2, 3, 4]  # steps 22 to 24: the 25th begins another episode
    else:
        assert {i % 3 for i in chosen} == {0, 1, 2}


def test_another_least_std_lasts_as_long_as_its_run():
    usual = shaping.MIN_STD
    comparison = shaping.Comparison(th.zeros(1, 1), th.ones(1, 1), th.full((1, 1), usual / 10), lambda actions: actions)
    bounded = shaping.shaping_gradient(comparison, th.tensor([True]))
    with variants.least_std(0.0):
        unbounded = shaping.shaping_gradient(comparison, th.tensor([True]))
    assert usual == shaping.MIN_STD
    th.testing.assert_close(unbounded, 100 * bounded)


def test_a_falling_coefficient():
    coefficient = variants.FallingCoefficient(20.0, share=0.25)
    assert [coefficient(p) for p in (1.0, 0.875, 0.75, 0.5, 0.0)] == [20.0, 10.0, 0.0, 0.0, 0.0]


def test_a_fading_coefficient():
    coefficient = variants.FadingCoefficient(12.0, share=0.5)
    found = [coefficient(p) for p in (1.0, 0.875, 0.875 - 0.5 / 12, 0.875 - 1 / 12)]
    np.testing.assert_allclose(found, 12 / np.exp([0, 0, 1, 2]))


def made_up_results(folder):
    """Of all methods, with 3 seeds; VARL succeeds, and others do not."""
    kept = results.Results(folder)
    for i, cell in enumerate(cells.make_grid(list(cells.EXPERIMENTS), (0, 1, 2))):
        identity = {"id": str(i), "method": cell.method, "task": cell.task, "seed": cell.seed}
        success = 0.9 if cell.method == "VARL" else 0.1
        evaluations = [
            {**dict.fromkeys(results.EVALUATION_COLUMNS, 0.5), **identity, "step": step, "success": success}
            for step in range(2000, cell.settings["steps"] + 1, 2000)
        ]
        run = {**training.summarize(cell, results.FINISHED, [], 0.0, {}), **identity}
        if cell.method == "coef 100" and cell.seed == 1:
            run["status"], evaluations = "failed: ValueError: nan", evaluations[:2]
        kept.add(run, evaluations)
    return kept


@pytest.mark.slow
def test_figures_and_tables(tmp_path, monkeypatch, capsys):
    made_up_results(tmp_path)
    monkeypatch.setattr(sys, "argv", ["figures.py", "--results", str(tmp_path)])
    monkeypatch.setattr("evaluations.N_RESAMPLES", 20)
    figures.main()
    for name in ("fifteen", "main", "rivals", "ablations", "health"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    text = capsys.readouterr().out
    assert text.strip() == (tmp_path / "tables.md").read_text().strip()
    line = next(line for line in text.splitlines() if line.startswith("| VARL | 90%"))
    assert line == "| VARL " + "| 90% " * (len(cells.TASKS) + 3) + "| 3 |"
    # A run that failed has failed from there on.
    line = next(line for line in text.splitlines() if line.startswith("| coef 100 |"))
    assert line.startswith("| coef 100 | 7% (0\N{EN DASH}10) ")
    assert line.endswith("| 3, of 9 runs 3 failed |")
    assert "| basketball | 100% | 10% | 10% | 50% | 10% | 10% | never | never | 3 | 3 |" in text.splitlines()
    assert "| mean | 100% | 10% | 10% | 50% | 10% | 10% |  |  | 3 | 3 |" in text.splitlines()
    assert "| basketball | 100% | 10% | 50% | 20% | 43% | 83% |" in text.splitlines()
    assert "| mean | 100% | 10% | 50% | 60% | 84% | 91% |" in text.splitlines()
    assert f"| push | five lines, batch of 256 {'| 10% ' * 7}| 3 |" in text.splitlines()
    assert f"| push, 1 {'| 10% ' * 7}|" in text.splitlines()
    assert f"| basketball {'| 50% ' * 2}{'| 10% ' * 4}| 3 |" in text.splitlines()
    assert f"| **push, mean** {'| 10% ' * 7}|" in text.splitlines()
    assert f"| VARL, actions {'| 90%; 90% ' * 4}| 3 |" in text.splitlines()


def test_how_soon_a_task_is_learnt():
    at = np.array([6000, 12000, 18000])
    runs = np.array([[0.0, 0.8, 0.1], [0.9, 0.0, 0.0], [0.0, 0.0, 0.79]])
    assert result_tables.steps_to(0.8, at, runs) == "12 000"
    assert result_tables.steps_to(0.8, at, runs[1:2]) == "6 000"
    assert result_tables.steps_to(0.8, at, runs[2:]) == "never"
    assert result_tables.steps_to(0.8, at, runs[:0]) == ""


def test_what_was_not_measured_is_left_out():
    values = np.array([[[0.0, 0.3, 0.6, 0.9]], [[np.nan] * 4]])
    assert result_tables.at_end(values) == "60%, 1 of 2 runs"
    assert result_tables.at_end(values[:1]) == "60%"
    assert result_tables.at_end(values[1:]) == result_tables.at_end(values[:0]) == ""


@pytest.mark.parametrize("n_runs", range(1, 13))
def test_the_interquartile_mean_is_rliable_s(n_runs):
    values = np.random.default_rng(n_runs).normal(size=(n_runs, 1))
    assert interquartile_mean(values) == pytest.approx(metrics.aggregate_iqm(values))


def test_methods_are_compared_on_seeds_that_all_have(tmp_path):
    kept = results.Results(tmp_path)
    for cell in cells.make_grid(["batch"], (0, 1)):
        if (cell.method, cell.seed) != ("batch 512", 1):
            kept.add(training.summarize(cell, results.FINISHED, [], 0.0, {}), [])
    evaluations = Evaluations(kept)
    assert evaluations.seeds(["VARL", "batch 32"], cells.ABLATION_TASKS) == [0, 1]
    assert evaluations.seeds(evaluations.compared("batch"), cells.ABLATION_TASKS) == [0]
    assert evaluations.compared("states") == []
