"""The worked examples: they run, ask, and tell an advisor about an environment that it fits."""

import argparse
import importlib.util
import pathlib
import re
import runpy
import signal
import sys

import numpy as np
import pytest

from sb3_varl import VARL
from sb3_varl.advice.log import read_records
from sb3_varl.advisors.prompt import system_prompt
from sb3_varl.rules.names import spell
from sb3_varl.testing import VLMServer
from sb3_varl.training.briefing import make_briefing

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
NAMES = ("fetch_her", "mountain_car", "image_task")

# Stable-Baselines3's progress bar; SB3 itself ignores this warning, but not before pytest turns it into an error.
pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


@pytest.fixture
def load(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")

    def load_example(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "N_EVALUATIONS", 1)
        monkeypatch.setattr(module, "N_EVAL_EPISODES", 1)
        monkeypatch.setitem(module.SETTINGS, "learning_starts", 60)  # HER takes an episode
        monkeypatch.setitem(module.SETTINGS, "batch_size", 16)
        for key, value in {"n_queries": 2, "states_per_query": 8}.items():
            monkeypatch.setitem(module.ADVICE, key, value)
        return module

    return load_example


def run(module, monkeypatch, tmp_path, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, "--steps", "200", "--out", str(tmp_path / "out"), *arguments])
    module.main()
    return tmp_path / "out"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"), [("fetch_her", ["--compare"]), ("mountain_car", []), ("image_task", ["--compare"])]
)
def test_varl_and_sac_are_trained_and_the_simulated_advisor_answers(
    name, arguments, load, monkeypatch, tmp_path, capsys
):
    out = run(load(name), monkeypatch, tmp_path, *arguments)
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed
    assert re.search(r"Success in the last three evaluations: VARL \d+%, SAC \d+%", printed)
    records = list(read_records(out / "VARL" / "VARL_1" / "advice"))
    answers = [action for record in records if record["type"] == "advice" for action in record["actions"]]
    assert len(answers) == 16
    assert None not in answers
    assert np.std(answers) > 0.1
    assert len(list((out / "VARL" / "VARL_1" / "advice").glob("*.png"))) == 16
    for algorithm in ("VARL", "SAC"):
        assert "successes" in np.load(out / algorithm / "evaluations.npz")


@pytest.mark.slow
def test_rules_over_what_the_agent_does_not_see(load, monkeypatch, tmp_path, capsys):
    module = load("image_task")
    out = run(module, monkeypatch, tmp_path, "--rules")
    assert "RECORDED" in capsys.readouterr().out
    rows = VARL.load(out / "VARL" / "model.zip").guidance_buffer.rows()
    pixels = rows["observations/observation"]
    assert pixels.shape[1:] == (3, 32, 48)
    assert set(rows["actions"].ravel()) == {-1.0, 1.0}
    assert len(pixels) > 50
    with VLMServer(lambda states, images: module.RECORDED_RULES) as server:
        run(
            module,
            monkeypatch,
            tmp_path / "model",
            "--rules",
            "--model",
            "openai/some-model",
            "--api-base",
            server.api_base,
        )
        assert "- velocity: a number (per step of the simulation" in server.requests[0].text


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_shown_the_sheet_and_the_pictures(name, load, monkeypatch, tmp_path, capsys):
    module = load(name)
    with VLMServer() as server:
        run(module, monkeypatch, tmp_path, "--model", "openai/some-model", "--api-base", server.api_base)
        request = server.requests[0]
    assert "SIMULATED" not in capsys.readouterr().out
    env = module.make_env()
    sheet = env.get_attr("task_sheet")[0]
    env.close()
    asks_for_rules = name != "image_task"  # where no number has a name
    names = [spell(part.name) if asks_for_rules else part.name for part in sheet.observation]
    for text in (sheet.goal, sheet.notes, *names, *(part.name for part in sheet.action)):
        assert text in request.text
    assert len(request.images) == (5 if asks_for_rules else 8)
    assert all(np.std(image) > 5 for image in request.images)


@pytest.mark.parametrize("name", NAMES)
def test_the_sheet_fits_the_spaces(name, load):
    env = load(name).make_env()
    briefing = make_briefing(env)
    env.close()
    assert briefing.sheet.goal in system_prompt(briefing, briefing.task)
    assert len(briefing.sheet.action) == briefing.action_space.shape[0]
    assert briefing.sheet.notes


@pytest.mark.parametrize("name", NAMES)
def test_who_follows_the_simulated_advisor_succeeds(name, load, capsys):
    module = load(name)
    advise = module.make_advisor(argparse.Namespace(model=None, rules=False, seed=0)).function
    env = module.make_env().envs[0]
    succeeded = []
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        done = False
        while not done:
            action = np.asarray(advise(observation), np.float32)
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        succeeded.append(info["is_success"])
    env.close()
    assert np.mean(succeeded) >= 0.8


def test_the_picture_of_the_image_task_shows_which_way_the_car_goes(load, capsys):
    module = load("image_task")
    advise = module.make_advisor(argparse.Namespace(model=None, rules=False, seed=0)).function
    env = module.make_env().envs[0]
    observation, _ = env.reset(seed=0)
    velocities, directions = [0.0], set()
    for _ in range(20):
        observation, *_ = env.step(np.asarray(advise(observation), np.float32))
        velocities.append(env.unwrapped.state[1])
        direction = np.sign(velocities[-1])
        if np.min(direction * np.array(velocities[-3:])) < 0.01:
            continue  # it turns on the way
        picture = env.render()[..., 0].astype(int)
        centres = []
        for grey in (191, 127, 0):
            body = abs(picture - grey) <= 2
            body = body[4:, 4:] & body[:-4, 4:] & body[4:, :-4]  # not the lines of the hill and the flag
            centres.append(np.nonzero(body)[1].mean())
        assert np.all(np.sign(np.diff(centres)) == direction)
        directions.add(direction)
    env.close()
    assert directions == {-1, 1}


@pytest.mark.slow
def test_a_task_of_one_s_own_from_its_rules_to_an_agent(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["ferry.py", "--steps", "180", "--out", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "ferry.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "Query 1: 1 rule, after" in printed
    assert re.search(r"steps +VARL +SAC\n +30 .*%.*%\n", printed)


@pytest.fixture
def long_run(monkeypatch, tmp_path, capsys):
    """The example of a run that goes on, started again and again: what it prints."""
    monkeypatch.syspath_prepend(EXAMPLES)
    module = importlib.import_module("long_run")
    monkeypatch.setattr(module, "N_EVAL_EPISODES", 1)

    def start(*arguments, steps=600):
        defaults = ["--steps", str(steps), "--save-freq", "200", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["long_run.py", *defaults, *arguments])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            module.main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        return capsys.readouterr().out

    start.module = module
    return start


@pytest.fixture
def ended(long_run, monkeypatch):
    """Start a run that somebody ends."""

    class Ended(long_run.module.Checkpoints):
        def _on_step(self):
            if self.n_calls == 250:
                signal.raise_signal(signal.SIGTERM)
            return super()._on_step()

    def start(*arguments, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(long_run.module, "Checkpoints", Ended)
            return long_run(*arguments, **kwargs)

    return start


FERRY_RULES = (EXAMPLES / "ferry_rules.json").read_text()


# Of a run as short as this one.
@pytest.mark.filterwarnings("ignore:. of 3 queries will not be asked")
@pytest.mark.slow
def test_a_run_goes_on_by_the_same_command(long_run, ended, tmp_path):
    with VLMServer(lambda states, images: FERRY_RULES) as server:
        asks = ("--advisor", "openai/gpt-6.1-sol", "--api-base", server.api_base, "--max-cost", "1")
        assert "Ended at step 250. The same command goes on." in ended(*asks)
        with pytest.raises(SystemExit, match=r"has --steps 600\. Start it as it was, or give another --out"):
            long_run(*asks, steps=700)
        printed = long_run(*asks)
        assert len(server.requests) == 1
    assert "Going on from step 250." in printed
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [200, 450]
    steps = [int(folder.name.removeprefix("step_")) for folder in long_run.module.checkpoints(tmp_path)]
    assert steps[0] == 450
    assert 600 <= steps[1] < 608
    # The progress bar of the run that was ended may be drawn once more, when it is collected.
    assert re.search(r"^Success in \d of 1 episodes", long_run("--act", "--env", "Pendulum-v1", steps=7), re.MULTILINE)


@pytest.mark.slow
def test_a_run_that_ended_before_its_first_checkpoint_asks_nothing_twice(long_run, ended, monkeypatch, tmp_path):
    with VLMServer(lambda states, images: FERRY_RULES) as server:
        asks = ("--advisor", "openai/some-model", "--api-base", server.api_base, "--save-freq", "300")
        with monkeypatch.context() as patch:
            patch.setattr(long_run.module, "save_checkpoint", lambda out, model, evaluation: None)
            ended(*asks)
        assert not (tmp_path / "checkpoints").exists()
        with pytest.raises(SystemExit, match="no best model yet"):
            long_run("--act")
        assert "Going on" not in long_run(*asks)
        assert len(server.requests) == 1


@pytest.mark.slow
def test_what_was_not_saved_as_a_whole_is_no_checkpoint(long_run, ended, tmp_path):
    """And the one before it is."""
    ended()
    (tmp_path / "checkpoints/step_250").rename(tmp_path / "checkpoints/step_250.partial")
    assert "Going on from step 200." in long_run()
