"""
Environments beyond Meta-World: what VARL makes of rules, beside the rules alone and SAC with the same settings. The
rules are RECORDED: a large multimodal model wrote them once, mostly from a few states with pictures, and nobody
corrected them. Those of FetchSlide, Pusher and PushT do not solve their task, or not always, and the others do; for
FetchSlide there are rules that were corrected, too.

    python examples/benchmark/beyond_metaworld.py FetchSlide-v4 --seeds 0 1 2
    python examples/benchmark/beyond_metaworld.py Pusher-v5 --methods VARL

The results go to ``results/beyond_metaworld.csv``; what is there is not run again. ``pip install -e ".[examples]"``.
"""

import argparse
import csv
import json
import pathlib
import sys
import tempfile
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_varl import (
    SPARSE,
    VARL,
    AdvisorCallback,
    LayerNormMlpPolicy,
    ObservationSlice,
    Rules,
    RulesAdvisor,
    TaskSheet,
    load_task_sheet,
)
from sb3_varl.algorithms.shaping import MIN_STD
from variants import least_std

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))  # for robosuite_tasks
RULES = HERE / "recorded_rules"
EVAL_SEED = 10_000
N_EVALUATIONS, N_EVAL_EPISODES, N_EPISODES_OF_RULES = 10, 20, 40
METHODS = ("VARL", "SAC", "VARL, no roll-ins")
# Rules that the model wrote when it was shown what had become of others.
CORRECTED = "VARL, corrected rules"
# How closely rules are followed.
GATES: dict[str, dict[str, Any]] = {
    "VARL, threshold 0.1": {"gate_threshold": 0.1},
    "VARL, gate always": {"gate": "always"},
    "VARL, corrected rules, threshold 0.1": {"gate_threshold": 0.1},
}
# As it was before: until the cutoff only, and without the least standard deviation in the shaping term.
UNBOUNDED = ("VARL, unbounded pull", "VARL, unbounded pull, no roll-ins")
EARLIER = ("VARL, no hold", *UNBOUNDED)
# The settings of the README's code, and no HER.
PRESET = ("VARL, SPARSE", "SAC, SPARSE")
COLUMNS = ("environment", "method", "seed", "step", "return", "success")
SETTINGS: dict[str, Any] = {
    "learning_starts": 500,
    "learning_rate": 1e-3,
    "batch_size": 256,
    "gamma": 0.97,
    "tau": 0.01,
    "train_freq": 2,
    "gradient_steps": 1,
    "ent_coef": "auto_0.1",
}


class Task(NamedTuple):
    """
    An environment that rules were recorded for.

    :param id: Where gymnasium has it
    :param kwargs: Its arguments
    :param steps: Environment steps of a run; the advice ends half-way
    :param settings: Further settings of SAC
    """

    id: str
    kwargs: dict[str, Any]
    steps: int
    settings: dict[str, Any]


HER: dict[str, Any] = {
    "replay_buffer_class": HerReplayBuffer,
    "replay_buffer_kwargs": {"n_sampled_goal": 4},
    "buffer_size": 200_000,
}
TASKS = {
    "FetchPickAndPlace-v4": Task("gymnasium_robotics:FetchPickAndPlace-v4", {}, 40_000, HER),
    "FetchSlide-v4": Task("gymnasium_robotics:FetchSlide-v4", {}, 40_000, HER),
    # Its episodes have 600 steps, a hundred and more of which are the way.
    "PointMaze_Medium-v3": Task(
        "gymnasium_robotics:PointMaze_Medium-v3",
        {"continuing_task": False},
        40_000,
        {**HER, "gamma": 0.99, "learning_starts": 1000},
    ),
    "Pusher-v5": Task("Pusher-v5", {}, 30_000, {}),
    "PandaPickAndPlace-v3": Task("panda_gym:PandaPickAndPlace-v3", {}, 40_000, HER),
    "PandaStack-v3": Task("panda_gym:PandaStack-v3", {}, 40_000, HER),
    "PushT-v0": Task("gym_pusht:gym_pusht/PushT-v0", {}, 40_000, {}),
    "RobosuiteLift-v0": Task("robosuite_tasks:RobosuiteLift-v0", {}, 40_000, {}),
    "RobosuiteDoor-v0": Task("robosuite_tasks:RobosuiteDoor-v0", {}, 30_000, {}),
    "RobosuiteStack-v0": Task("robosuite_tasks:RobosuiteStack-v0", {}, 40_000, {}),
    "RobosuitePickPlaceCan-v0": Task("robosuite_tasks:RobosuitePickPlaceCan-v0", {}, 40_000, {}),
    "RobosuiteNutAssemblySquare-v0": Task("robosuite_tasks:RobosuiteNutAssemblySquare-v0", {}, 40_000, {}),
}


class Named(gym.Wrapper):
    """Says what the rules call its numbers, and of success what SB3 calls it."""

    def __init__(self, name: str) -> None:
        super().__init__(gym.make(TASKS[name].id, **TASKS[name].kwargs))
        sheet = RULES / f"{name}.yml"
        if sheet.exists():
            self.task_sheet = load_task_sheet(sheet)
            return
        names = json.loads((RULES / "names.json").read_text())[name]
        slices = [
            ObservationSlice(part, start, stop, meaning, key) for part, (key, start, stop, meaning) in names.items()
        ]
        self.task_sheet = TaskSheet(name, observation=tuple(slices))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if "success" in info:
            info["is_success"] = info["success"]
        return observation, reward, terminated, truncated, info


def make_env(name: str, seed: int, training: bool = True) -> VecNormalize:
    """Make an environment for training or for evaluation, with normalised observations."""

    def make() -> gym.Env:
        env = Named(name)
        env.reset(seed=seed)
        env.action_space.seed(seed)
        return Monitor(env)

    return VecNormalize(DummyVecEnv([make]), training=training, norm_reward=False)


class Recorder(BaseCallback):
    """Prints each evaluation, and writes it down. It goes into an ``EvalCallback`` as its ``callback_after_eval``."""

    def __init__(self, path: pathlib.Path, **identity: Any) -> None:
        super().__init__()
        self.path = path
        self.identity = identity

    def _on_step(self) -> bool:
        evaluation = self.parent
        assert isinstance(evaluation, EvalCallback)
        successes = evaluation.evaluations_successes
        success = float(np.mean(successes[-1])) if successes else None
        note(self.path, **self.identity, step=self.num_timesteps, value=evaluation.last_mean_reward, success=success)
        return True


def note(path: pathlib.Path, *, value: float, success: float | None, **row: Any) -> None:
    """Print a row of the results, and append it."""
    row |= {"return": round(value, 2), "success": "" if success is None else round(success, 3)}
    print(", ".join(f"{name} {row[name]}" for name in COLUMNS))
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def follow_rules(name: str, path: pathlib.Path) -> None:
    """Follow the rules for some episodes; where they have no advice, nothing is done."""
    env = Named(name)
    space: Any = env.action_space
    rules = Rules.parse((RULES / f"{name}.txt").read_text(), env.task_sheet, env.observation_space, space)
    returns, successes = [], []
    for seed in range(EVAL_SEED, EVAL_SEED + N_EPISODES_OF_RULES):
        observation, _ = env.reset(seed=seed)
        previous, total, is_over, info = observation, 0.0, False, dict[str, Any]()
        while not is_over:
            advised = rules(observation, previous)
            previous = observation
            action = np.zeros(space.shape, space.dtype) if advised is None else advised
            observation, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            is_over = terminated or truncated
        returns.append(total)
        successes += [info["is_success"]] if "is_success" in info else []
    success = float(np.mean(successes)) if successes else None
    note(path, environment=name, method="rules", seed=EVAL_SEED, step=0, value=float(np.mean(returns)), success=success)


def train(name: str, method: str, seed: int, path: pathlib.Path, folder: str) -> None:
    """Train a model, and evaluate it along the way. Without a folder to write to, EvalCallback forgets successes."""
    task = TASKS[name]
    recorder = Recorder(path, environment=name, method=method, seed=seed)
    callbacks: list[BaseCallback] = [
        EvalCallback(
            make_env(name, EVAL_SEED + seed, training=False),
            callback_after_eval=recorder,
            eval_freq=task.steps // N_EVALUATIONS,
            n_eval_episodes=N_EVAL_EPISODES,
            log_path=folder,
            verbose=0,
        )
    ]
    if not method.startswith("SAC"):
        advisor = RulesAdvisor.load(RULES / (f"{name}.corrected.txt" if CORRECTED in method else f"{name}.txt"))
        roll_in = 0.0 if method.endswith("no roll-ins") else None
        hold = False if method in EARLIER else None
        callbacks.append(
            AdvisorCallback(advisor, frames=False, blocking=True, log_path=False, roll_in=roll_in, hold=hold)
        )
    settings = SPARSE if method in PRESET else {**SETTINGS, **task.settings, **GATES.get(method, {})}
    cutoff = task.steps // 2
    model = VARL(LayerNormMlpPolicy, make_env(name, seed), seed=seed, shaping_steps=cutoff, fast=True, **settings)
    with least_std(0.0 if method in UNBOUNDED else MIN_STD):
        model.learn(task.steps, callback=callbacks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=TASKS)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=(*METHODS, CORRECTED, *GATES, *PRESET, *EARLIER),
        default=list(METHODS),
        metavar="METHOD",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "results" / "beyond_metaworld.csv")
    args = parser.parse_args()
    th.set_num_threads(1)
    done: set[tuple[str, ...]] = set()
    if args.results.exists():
        with args.results.open(newline="") as file:
            last = ("0", str(TASKS[args.env].steps))
            done = {(r["environment"], r["method"], r["seed"]) for r in csv.DictReader(file) if r["step"] in last}
    if (args.env, "rules", str(EVAL_SEED)) not in done:
        follow_rules(args.env, args.results)
    for seed in args.seeds:
        for method in args.methods:
            if (args.env, method, str(seed)) not in done:
                with tempfile.TemporaryDirectory() as folder:
                    train(args.env, method, seed, args.results, folder)


if __name__ == "__main__":
    main()
