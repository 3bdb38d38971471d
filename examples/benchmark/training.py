"""One run of the grid: from its settings to rows of results."""

import contextlib
import copy
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import time
import traceback
import uuid
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import sb3_varl
import sb3_varl.metaworld
from cells import (
    ASKED_AGAIN,
    DRAFTED,
    EARLIER_PROMPT,
    FIRST_ANSWER,
    Cell,
    Settings,
    actions_between_scores,
    is_recorded,
)
from demonstrations import (
    Demonstration,
    HalfDemonstrations,
    ImitationProposes,
    WithOriginals,
    add,
    demonstrate,
    imitate,
)
from results import EVALUATION_COLUMNS, FINISHED, N_LAST, Row
from rivals import AdviceInReplay, Branching, Cloning, SimulatedScorer
from sb3_varl import VARL, Advisor, AdvisorCallback, Briefing, RulesAdvisor
from sb3_varl.algorithms.shaping import MIN_STD, entropy
from variants import Choosy, FadingCoefficient, FallingCoefficient, least_std

EARLIER_RULES = pathlib.Path(__file__).parent / "earlier_rules"
RULES_ASKED_AGAIN = EARLIER_RULES.with_name("rules_asked_again")
# Of the fourth stage of drafts, each with its sheet.
DRAFTED_RULES = EARLIER_RULES.with_name("drafted_rules") / "4"
N_EVAL_EPISODES = 20
PROGRESS_FILE = "steps"
# States that the policy's entropy is averaged over.
N_RECENT_STATES = 256
EVAL_SEED = 10_000
DEMONSTRATION_SEED = 20_000


def run(cell: Cell, folder: pathlib.Path, made_with: dict[str, str]) -> tuple[Row, list[Row]]:
    """
    Train a model, evaluate it along the way, and say what came of it, whatever that is.

    :param cell: The run
    :param folder: For the run's own files; new
    :param made_with: What :func:`versions` says
    :return: Its row, and one for each evaluation
    """
    th.set_num_threads(1)  # more hardly help networks this small, and there is a run for each core
    folder.mkdir(parents=True)
    start = time.time()
    recorder = Recorder(cell, folder)
    status = FINISHED
    try:
        train(cell, folder, recorder)
    except Exception as error:
        traceback.print_exc()
        status = f"failed: {type(error).__name__}: {error}"
    return summarize(cell, status, recorder.rows, time.time() - start, made_with, recorder.id), recorder.rows


def summarize(
    cell: Cell, status: str, rows: list[Row], seconds: float, made_with: dict[str, str], run_id: str = ""
) -> Row:
    """
    Make the row of a run.

    :param cell: The run
    :param status: What came of it
    :param rows: Those of its evaluations
    :param seconds: How long it took
    :param made_with: What :func:`versions` says
    :param run_id: What it is known by in the rows of its evaluations
    :return: Its row
    """
    last = rows[-N_LAST:]
    return {
        "id": run_id,
        "method": cell.method,
        "task": cell.task,
        "seed": cell.seed,
        "status": status,
        "steps": cell.settings["steps"],
        "success": round(float(np.mean([float(row["success"]) for row in last])), 4) if last else "",
        **{name: last[-1][name] if last else "" for name in ("queries", "requests", "states")},
        "seconds": round(seconds),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "configuration": cell.configuration,
        "versions": json.dumps(made_with),
    }


def steps_done(folder: pathlib.Path) -> int:
    """How far a run is that is under way."""
    try:
        return int((folder / PROGRESS_FILE).read_text())
    except (OSError, ValueError):  # not there yet, or being written
        return 0


def train(cell: Cell, folder: pathlib.Path, recorder: "Recorder") -> VARL:
    """
    Train a model.

    :param cell: The run
    :param folder: For the evaluations and the advice log
    :param recorder: Is told of each evaluation
    :return: The model
    """
    settings = cell.settings
    scores, advice = settings.get("scores"), settings["advice"]

    env: gym.Env = make_env(cell)
    scorer = None
    if scores is not None:
        every = actions_between_scores(settings)
        quality = {name: value for name, value in scores.items() if name != "n_queries"}
        env = scorer = SimulatedScorer(env, every=every, seed=cell.seed, **quality)
    branching = None
    if settings.get("advice_in_replay"):
        env = branching = Branching(env, n_remembered=2 * advice["window"])
    recorder.evaluated = LastSteps(make_env(cell, EVAL_SEED))
    evaluation_env = vectorised(recorder.evaluated, settings, training=False)
    evaluation = EvalCallback(
        evaluation_env,
        callback_after_eval=recorder,
        eval_freq=settings["eval_freq"],
        n_eval_episodes=settings.get("eval_episodes", N_EVAL_EPISODES),
        log_path=str(folder),
        verbose=0,
    )
    callbacks: list[BaseCallback] = [evaluation]
    if advice is not None:
        advisor: Advisor
        if is_recorded(settings):
            advisor = recorded_rules(cell.task, settings["advisor"])
            if "mistake" in settings:
                advisor = sb3_varl.metaworld.MistakenAdvisor(advisor, **settings["mistake"])
        else:
            advisor = sb3_varl.metaworld.ScriptedAdvisor(cell.task, seed=cell.seed, **settings["advisor"])
        if "choice" in settings:
            advisor = Choosy(advisor, episode_length=settings["env"]["max_episode_steps"], **settings["choice"])
        sheet = DRAFTED_RULES / f"{cell.task}.yml" if settings["advisor"] == DRAFTED else None
        recorder.advice = AdvisorCallback(
            advisor, sheet=sheet, frames=False, blocking=True, log_path=folder / "advice", **advice
        )
        callbacks.append(recorder.advice)
    if branching is not None:
        callbacks.append(AdviceInReplay(branching))
    if "cloning" in settings:
        callbacks.append(Cloning(**settings["cloning"]))

    recorder.scorer = scorer
    demonstrations = demonstrated(cell) if "demonstrations" in settings else []
    model = make_model(vectorised(env, settings), cell, demonstrations)
    if demonstrations and settings["demonstrations"]["use"] == "imitation":
        add(model.replay_buffer, demonstrations)  # type: ignore[arg-type]
        callbacks.append(ImitationProposes(imitate(demonstrations)))
    model.set_logger(Logger(None, [recorder.log]))
    with least_std((settings["shaping"] or {}).get("least_std", MIN_STD)):
        model.learn(settings["steps"], callback=callbacks)
    evaluation_env.close()
    model.get_env().close()  # type: ignore[union-attr]
    return model


def recorded_rules(task: str, which: str) -> RulesAdvisor:
    """
    Take a recorded answer: the present one, the second one to the same prompt, the one to a draft, or one to the
    earlier prompt, after a correction or before it.
    """
    folder = {ASKED_AGAIN: RULES_ASKED_AGAIN, DRAFTED: DRAFTED_RULES}.get(which)
    if folder is not None:
        return RulesAdvisor.load(folder / f"{task}.txt")
    names = (f"{task}.round2.txt",) * (which == EARLIER_PROMPT) + (f"{task}.txt",)
    earlier = [EARLIER_RULES / name for name in names if which in (EARLIER_PROMPT, FIRST_ANSWER)]
    file = next((file for file in earlier if file.exists()), None)
    return RulesAdvisor.recorded(task) if file is None else RulesAdvisor.load(file)


def make_env(cell: Cell, seed_offset: int = 0) -> gym.Env:
    """Make the environment of a run, or the one that it is evaluated in."""
    env = gym.make(f"SparseMetaWorld/{cell.task}", **cell.settings["env"])
    env.reset(seed=cell.seed + seed_offset)
    env.action_space.seed(cell.seed + seed_offset)
    return env


def vectorised(env: gym.Env, settings: Settings, training: bool = True) -> VecEnv:
    """Wrap an environment as SB3 would, and normalise its observations if that is among the settings."""
    vec_env = DummyVecEnv([lambda: Monitor(env)])
    return VecNormalize(vec_env, training=training, norm_reward=False) if settings["normalize"] else vec_env


def demonstrated(cell: Cell) -> list[Demonstration]:
    """Make demonstrations: successful episodes of the recorded rules."""
    env = make_env(cell)
    briefing = Briefing(env.action_space, env.observation_space, sheet=env.get_wrapper_attr("task_sheet"))  # type: ignore[arg-type]
    rules = RulesAdvisor.recorded(cell.task).standing(briefing)
    seed = 1000 * cell.seed + DEMONSTRATION_SEED
    found = demonstrate(env, rules, cell.settings["demonstrations"]["n_episodes"], seed)
    env.close()
    return found


def make_model(env: VecEnv, cell: Cell, demonstrations: list[Demonstration]) -> VARL:
    """Make the model. Unadvised it is SAC, TQC or CrossQ, up to rounding."""
    settings = copy.deepcopy(cell.settings)  # SB3 adds to policy_kwargs
    use = settings["demonstrations"]["use"] if demonstrations else None
    if use is not None:
        of_buffer = {"n_steps": settings["model"].pop("n_steps"), "gamma": settings["model"]["gamma"]}
        settings["model"]["replay_buffer_class"] = HalfDemonstrations if use == "replay" else WithOriginals
        settings["model"]["replay_buffer_kwargs"] = of_buffer
    if use == "replay":
        of_buffer["demonstrations"] = demonstrations
    shaping = settings["shaping"] or {}
    shaping.pop("least_std", None)
    if isinstance(shaping.get("shaping_coef"), str):
        way, start = shaping["shaping_coef"].split("_")
        schedule = {"falling": FallingCoefficient, "fading": FadingCoefficient}[way]
        shaping["shaping_coef"] = schedule(float(start), shaping["shaping_steps"] / settings["steps"])
    algorithm = getattr(sb3_varl, settings.get("algorithm", "VARL"))
    if settings["model"]["tau"] is None:
        del settings["model"]["tau"]  # where there is no target network
    # Written out, an update would not see what imitation makes of the critics' targets.
    return algorithm(env=env, seed=cell.seed, fast=use != "imitation", **settings["model"], **shaping)


class LastSteps(gym.Wrapper):
    """Remembers of each episode that came to its end whether the last step was a success."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.successes: list[bool] = []

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            self.successes.append(bool(info["success"]))
        return observation, reward, terminated, truncated, info

    def take(self) -> list[bool]:
        """What it remembers, once."""
        successes, self.successes = self.successes, []
        return successes


class LatestValues(KVWriter):
    """What SB3's logger said last."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.values.update(key_values)

    def close(self) -> None:
        """Nothing is open."""


class Recorder(BaseCallback):
    """
    Writes down each evaluation. It goes into an ``EvalCallback`` as its ``callback_after_eval``.

    :param cell: The run
    :param folder: Its own
    """

    model: VARL

    def __init__(self, cell: Cell, folder: pathlib.Path) -> None:
        super().__init__()
        self.id = uuid.uuid4().hex[:12]
        self.identity = {"id": self.id, "method": cell.method, "task": cell.task, "seed": cell.seed}
        self.folder = folder
        self.advice: AdvisorCallback | None = None
        self.scorer: SimulatedScorer | None = None
        self.evaluated: LastSteps
        self.log = LatestValues()
        self.rows: list[Row] = []
        self._start = time.time()

    def _on_step(self) -> bool:
        evaluation = self.parent
        assert isinstance(evaluation, EvalCallback)
        logged = self.log.values
        queries = self.scorer.n_queries if self.scorer else self.advice.totals["queries"] if self.advice else 0
        row = {
            "step": self.num_timesteps,
            "success": np.mean(evaluation.evaluations_successes[-1]),
            "success_at_end": np.mean(self.evaluated.take()),
            "return": np.mean(evaluation.evaluations_results[-1]),
            "training_success": np.mean(self.model.ep_success_buffer or [0.0]),
            "successes_in_replay": self._successes_in_replay(),
            "queries": queries,
            "requests": self.advice.usage.requests if self.advice else 0,
            "states": self.advice.totals["accepted"] if self.advice else queries,
            **self.model.guidance_summary(),
            # In other states than the summary's, and without guidance, too.
            "entropy": self._entropy(),
            "ent_coef": logged.get("train/ent_coef"),
            "critic_loss": logged.get("train/critic_loss"),
            "held": logged.get("advice/held"),
            "seconds": round(time.time() - self._start),
        }
        rounded = {name: "" if value is None else format(float(value), ".6g") for name, value in row.items()}
        self.rows.append({**dict.fromkeys(EVALUATION_COLUMNS, ""), **self.identity, **rounded})
        (self.folder / PROGRESS_FILE).write_text(str(self.num_timesteps))
        return True

    def _successes_in_replay(self) -> int:
        buffer = self.model.replay_buffer
        assert buffer is not None
        highest_without = self.scorer.weight if self.scorer else 0.0
        return int((buffer.rewards[: buffer.size()] > highest_without).sum())

    def _entropy(self) -> float:
        """The policy's, in nats, in the states that it visited last."""
        buffer, actor = self.model.replay_buffer, self.model.actor
        assert buffer is not None
        latest = (buffer.pos - 1 - np.arange(min(N_RECENT_STATES, buffer.size()))) % buffer.buffer_size
        visited = buffer.observations[latest, 0]
        normalize = self.model.get_vec_normalize_env()
        observations, _ = self.model.policy.obs_to_tensor(normalize.normalize_obs(visited) if normalize else visited)
        with th.no_grad():
            mean, log_std, latent = actor.get_action_dist_params(observations)
            distribution = actor.action_dist.proba_distribution(mean, log_std, **latent)
            return entropy(mean, distribution.distribution.stddev).mean().item()


def versions() -> dict[str, str]:
    """What a run is made with. Asked before it begins, because the code may change meanwhile."""
    packages = ("sb3_varl", "stable_baselines3", "torch", "metaworld", "mujoco", "gymnasium", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    command = ["git", "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):  # no git, no commit
        described = subprocess.run(
            command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=False
        )
        found["commit"] = described.stdout.strip()
    return {**found, "python": platform.python_version(), "processor": th.backends.cpu.get_cpu_capability()}
