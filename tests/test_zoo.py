"""rl-zoo with VARL, as its users have it: other processes, started from an empty folder."""

import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import yaml

import sb3_varl
from conftest import wait_until
from sb3_varl import SPARSE, VARL, AdvisorCallback
from sb3_varl.advice.history import read_queries
from sb3_varl.advisors.by_name import check_arguments

HYPERPARAMS = pathlib.Path(sb3_varl.__file__).parent / "hyperparams"
ENV = "SparseMetaWorld/button-press-topdown-v3"
RUN = "logs/varl/SparseMetaWorld-button-press-topdown-v3_"

# Runs several commands, as importing rl-zoo and PyTorch takes longer than they do.
_RUNNER = """
import json, sys, traceback
import gymnasium
from sb3_varl.zoo import main

sys.path.insert(0, ".")
outcomes = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["zoo", *command]
    print(">>>", *command, flush=True)
    try:
        main()
        outcomes.append(None)
    except BaseException as error:
        outcomes.append(f"{type(error).__name__}: {error}")
    print("<<<", flush=True)
open("outcomes.json", "w").write(json.dumps(outcomes))
"""


def zoo(*commands, folder, **environment):
    """Run commands; return what each printed and, if it failed, its error."""
    process = subprocess.run(
        [sys.executable, "-c", _RUNNER, json.dumps([command.split() for command in commands])],
        cwd=folder,
        env={**os.environ, "MUJOCO_GL": "egl", "MPLBACKEND": "agg", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    outputs = [part.split("<<<")[0] for part in process.stdout.split(">>>")[1:]]
    return list(zip(outputs, json.loads((folder / "outcomes.json").read_text()), strict=True))


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """Train, resume from a checkpoint, enjoy and plot, with a task's settings as they are shipped."""
    folder = tmp_path_factory.mktemp("journey")
    common = f"--algo varl --env {ENV} -f logs --num-threads 1 --eval-episodes 1 --seed 0"
    outcomes = zoo(
        f"train {common} -n 500 --eval-freq 400 --save-freq 400 --save-replay-buffer",
        f"train {common} -n 200 --eval-freq -1 -i {RUN}1/rl_model_400_steps.zip",
        f"enjoy --algo varl --env {ENV} -f logs --no-render -n 60",
        f"plot_train -a varl -e {ENV} -f logs -y success",
        f"all_plots -a varl -e {ENV} -f logs -k successes --no-display",
        folder=folder,
    )
    for output, error in outcomes:
        assert error is None, output + error
    return folder, [output for output, _ in outcomes]


@pytest.mark.slow
class TestJourney:
    def test_a_run_is_trained_evaluated_and_saved(self, journey):
        folder, outputs = journey
        run = folder / f"{RUN}1"
        assert np.load(run / "evaluations.npz")["successes"].shape == (1, 1)
        assert np.load(run / "evaluations.npz")["ep_lengths"].max() <= 50, "evaluated with the file's env_kwargs"
        model = VARL.load(run / f"{ENV.replace('/', '-')}.zip")
        assert (model.num_timesteps, model.guidance_buffer.size(), model.fast) == (504, 32, True)
        assert "Query 1: 32 answers accepted" in outputs[0]

    def test_every_answer_is_in_the_run_s_folder(self, journey):
        folder, _ = journey
        lines = [json.loads(line) for line in (folder / f"{RUN}1/advice/advice.jsonl").read_text().splitlines()]
        assert [line["type"] for line in lines] == ["query", "advice"]
        assert not (folder / "advice").exists()

    def test_a_resumed_run_goes_on_counting_and_asks_nothing_twice(self, journey):
        folder, outputs = journey
        model = VARL.load(folder / f"{RUN}2/{ENV.replace('/', '-')}.zip")
        assert (model.num_timesteps, model.guidance_buffer.size()) == (600, 32)
        assert "Query" not in outputs[1]
        assert not (folder / f"{RUN}2/advice").exists(), "the log of the run before goes on"

    def test_a_resumed_run_goes_on_with_the_checkpoint_s_statistics(self, journey):
        folder, _ = journey
        counts = {}
        for name in ("1/rl_model_vecnormalize_400_steps", "2/{}/vecnormalize"):
            path = folder / (RUN + name.format(ENV.replace("/", "-")) + ".pkl")
            with path.open("rb") as file:
                counts[name[0]] = pickle.load(file).obs_rms.count
        # One for each step and each run's first observation.
        assert counts["1"] == pytest.approx(401, abs=0.01)
        assert counts["2"] == pytest.approx(401 + 201, abs=0.01)

    def test_it_is_enjoyed(self, journey):
        assert "Success rate" in journey[1][2]


@pytest.mark.slow
def test_sigterm_saves_the_model(tmp_path):
    command = f"train --algo varl --env {ENV} -f logs -n 100000 --eval-freq -1 --save-freq 100 --num-threads 1"
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "sb3_varl.zoo", *command.split()],
            cwd=tmp_path,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    saved = tmp_path / f"{RUN}1/rl_model_200_steps.zip"
    wait_until(saved.exists, seconds=120, process=process)
    process.terminate()
    assert process.wait(20) == 0, (tmp_path / "said").read_text()
    assert (tmp_path / f"{RUN}1/{ENV.replace('/', '-')}.zip").exists()


@pytest.mark.slow
def test_all_three_with_advice_in_yaml_and_optimisation(tmp_path):
    (tmp_path / "my.yml").write_text(
        textwrap.dedent("""
        Counter-v0:
          n_timesteps: 120
          policy: MlpPolicy
          learning_starts: 30
          batch_size: 16
          shaping_steps: 100
          shaping_coef: lin_20
          callback:
            - mine.Advice:
                first_query: 60
                n_queries: 1
                states_per_query: 5
                window: 20
                blocking: true
        """)
    )
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
        import gymnasium as gym
        import numpy as np
        import sb3_varl

        gym.register("Counter-v0", "conftest:CounterEnv", kwargs={"render_mode": None})

        class Advice(sb3_varl.AdvisorCallback):
            def __init__(self, **kwargs):
                super().__init__(sb3_varl.FunctionAdvisor(lambda observation: np.ones(2)), **kwargs)
        """)
    )
    common = "--num-threads 1 --eval-episodes 1 --eval-freq -1 --seed 0"
    algorithms = ("varl", "varl_tqc", "varl_crossq")
    advised = "--env Counter-v0 --gym-packages mine --conf-file my.yml"
    optimise = "--env Pendulum-v1 -optimize --n-trials 1 --no-optim-plots -n 40 -f optimised"
    outcomes = zoo(
        *(f"train --algo {algo} {common} {advised}" for algo in algorithms),
        *(f"train --algo {algo} {common} {optimise}" for algo in algorithms),
        f"train --algo varl_tqc {common} --env MountainCarContinuous-v0 -n 40",
        folder=tmp_path,
        PYTHONPATH=str(pathlib.Path(__file__).parent),
    )
    for output, error in outcomes:
        assert error is None, output + error
    assert all("shaping_coef: " in output for output, _ in outcomes[3:6])
    assert "hyperparams/tqc.yml" in outcomes[6][0], "rl-zoo's, for want of an own entry"
    for algo in algorithms:
        run = tmp_path / "logs" / algo / "Counter-v0_1"
        # Frames were rendered although nobody had asked for a render_mode.
        assert len(list((run / "advice").rglob("*.png"))) == 5
        with zipfile.ZipFile(run / "Counter-v0.zip") as archive:
            assert "guidance_buffer" in json.loads(archive.read("data"))
        assert len(list((tmp_path / "optimised" / algo).glob("report_*.csv"))) == 1


@pytest.mark.slow
def test_coso_is_trained_and_enjoyed(tmp_path):
    """A model from a folder, with actions as YAML can say them."""
    tiny_models = pytest.importorskip("tiny_models")
    for part in tiny_models.tiny()():
        part.save_pretrained(tmp_path / "tiny")
    (tmp_path / "my.yml").write_text(
        textwrap.dedent("""
        NumberLine-v0:
          policy: VLMPolicy
          n_envs: 2
          n_timesteps: 16
          n_steps: 4
          batch_size: 8
          policy_kwargs: {model: tiny, prompt: Go on., actions: {"-": 0, "+": 1}, lora: null, max_new_tokens: 12}
        """)
    )
    outcomes = zoo(
        "train --algo=coso --env NumberLine-v0 --conf-file my.yml --eval-freq 8 --eval-episodes 1 --seed 0",
        "enjoy --algo coso --env NumberLine-v0 -f logs --no-render -n 8",
        "train --algo coso --env NumberLine-v0 --conf-file my.yml --eval-freq -1 --eval-episodes 1 -optimize"
        " --n-trials 1 --no-optim-plots -n 16",
        folder=tmp_path,
    )
    for output, error in outcomes:
        assert error is None, output + error
    with zipfile.ZipFile(tmp_path / "logs/coso/NumberLine-v0_1/NumberLine-v0.zip") as archive:
        assert json.loads(archive.read("data"))["num_timesteps"] == 16


BAD_FILES = {
    "key": ("policy: MlpPolicy, api_key: sk-0123456789abcdef", "ValueError: .*no place for a secret"),
    "value": ("policy: MlpPolicy, tensorboard: planted-in-environment", "ValueError: .*no place for a secret"),
    "nested": (
        "policy: MlpPolicy, callback: [{sb3_varl.AdvisorCallback: {advisor: openai/x, advisor_kwargs: {api_key: x}}}]",
        "ValueError: .*'api_key'.*no place for a secret",
    ),
    "misspelt": (
        "policy: MlpPolicy, shapping_coef: 3",
        "TypeError: VARL takes no 'shapping_coef'. Did you mean 'shaping_coef'",
    ),
    "coefficient": (
        "policy: MlpPolicy, shaping_coef: twenty",
        "ArgumentError: shaping_coef is 'twenty', expected a number, or lin_ and a number",
    ),
    "misspelt_callback": (
        "policy: MlpPolicy, callback: [{sb3_varl.AdvisorCallback: {advisor: openai/x, window_: 9}}]",
        "TypeError: AdvisorCallback takes no 'window_'. Did you mean 'window'",
    ),
    "unknown_advisor": (
        "policy: MlpPolicy, callback: [{sb3_varl.AdvisorCallback: {advisor: gtp-5}}]",
        "ValueError: model must name its provider",
    ),
    "no_frames": (
        "policy: MlpPolicy, env_kwargs: {render_mode: human}, callback: [{sb3_varl.AdvisorCallback: "
        "{advisor: simulated/reach-v3}}]",
        "ValueError: The advisor is to see frames.*render_mode 'human'.*frames: false",
    ),
}


@pytest.mark.slow
def test_bad_files(tmp_path):
    commands = []
    for name, (entry, _) in BAD_FILES.items():
        (tmp_path / f"{name}.yml").write_text(f"Pendulum-v1: {{n_timesteps: 50, {entry}}}")
        commands.append(f"train --algo varl --env Pendulum-v1 --conf-file {name}.yml --num-threads 1 --eval-freq -1")
    commands += ["train --algo varl --env Pendulum-v1 --env-kwargs api_key:'x'", "trian"]
    planted = "planted-in-environment"
    outcomes = zoo(*commands, folder=tmp_path, PLANTED_API_KEY=planted, SDL_VIDEODRIVER="dummy")
    for (output, error), (name, (_, message)) in zip(outcomes, BAD_FILES.items(), strict=False):
        assert error is not None, name
        assert re.match(message, error, re.DOTALL), error
        assert "sk-0123456789abcdef" not in output + error
        assert planted not in output + error
    assert re.match(r"ValueError: the command line\[\d\] seems to contain a key", outcomes[-2][1])
    assert outcomes[-1][1].startswith("SystemExit: usage: python -m sb3_varl.zoo {train,enjoy,")
    assert not list((tmp_path / "logs").rglob("config.yml"))


@pytest.mark.parametrize("file", [*HYPERPARAMS.glob("*.yml")], ids=lambda file: file.stem)
def test_advisors_are_for_the_task_of_their_entry(file):
    for env, entry in yaml.safe_load(file.read_text()).items():
        for callback in entry.get("callback", ()):
            ((name, arguments),) = callback.items()
            assert name == "sb3_varl.AdvisorCallback"
            check_arguments(AdvisorCallback, arguments)
            kind, _, task = arguments["advisor"].partition("/")
            assert task == env.removeprefix("SparseMetaWorld/")
            assert kind in ("simulated", "recorded")
            if kind == "recorded":
                assert entry.items() >= SPARSE.items()


@pytest.mark.slow
def test_runs_that_are_started_side_by_side_have_folders_of_their_own(tmp_path):
    command = f"train --algo varl --env {ENV} -f logs -n 450 --eval-freq -1 --num-threads 1"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "sb3_varl.zoo", *command.split(), "--seed", str(seed)],
            cwd=tmp_path,
            env={**os.environ, "MUJOCO_GL": "egl"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(2)
    ]
    for process in processes:
        assert process.wait(280) == 0, process.stderr.read()
        process.stderr.close()
    for run in (1, 2):
        (query,) = read_queries(tmp_path / f"{RUN}{run}" / "advice")
        model = VARL.load(tmp_path / f"{RUN}{run}" / f"{ENV.replace('/', '-')}.zip")
        np.testing.assert_array_equal(model.guidance_buffer.rows()["observations/observation"], query.observations)


def test_a_folder_is_chosen_and_made_at_once(tmp_path):
    """Whoever else chose it at the same time."""
    from sb3_varl.zoo import GuidedExperimentManager  # takes seconds

    manager = GuidedExperimentManager.__new__(GuidedExperimentManager)
    manager.env_name, manager.log_path = "Some-Env_2-v1", str(tmp_path)
    for uuid in ("", "_a1-b2"):
        for number in (1, 2, 3):
            manager.save_path = str(tmp_path / f"Some-Env_2-v1_1{uuid}")
            manager._claim_folder()
            assert manager.save_path == str(tmp_path / f"Some-Env_2-v1_{number}{uuid}")
            assert os.path.isdir(manager.save_path)
            assert number == 1 or manager.params_path == f"{manager.save_path}/Some-Env_2-v1"
