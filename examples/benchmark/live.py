"""
The README's code with a model that is asked WHILE the agent trains: for rules, and for corrections of them once it is
seen what becomes of them. Nobody wrote a task sheet: the model has a sentence and what a program measures.

    python examples/benchmark/live.py soccer-v3                              # repeats the run, with the answers it had
    python examples/benchmark/live.py soccer-v3 --model openai/gpt-6.1-sol   # asks a model, with a key
    python examples/benchmark/live.py soccer-v3 --model none                 # VARL that nobody advises, which is SAC

The answers in the folder ``live`` beside this file are those of a large multimodal model, and ``results/live.csv`` has
what came of them. Rounding differs between processors, and with it the run.
"""

import argparse
import csv
import pathlib

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_varl import SPARSE, VARL, AdvisorCallback, draft_sheet

LOGS = pathlib.Path(__file__).parent / "live"
COLUMNS = ("task", "advisor", "seed", "step", "success")
TASKS = {
    "soccer-v3": "Push the ball into the goal.",
    "door-lock-v3": "Lock the door by turning its lock.",
    "harbour": "Fetch the parcel from the buoy, then moor the launch at the berth: within 0.8 of each, and slowly.",
}
STEPS, EVAL_FREQ, N_EVAL_EPISODES = 60_000, 10_000, 20

gym.register("Harbour-v0", "harbour:Harbour")


def env_id(task: str) -> str:
    """
    Name an environment.

    :param task: One of ``TASKS``
    :return: What ``gym.make`` takes
    """
    return "Harbour-v0" if task == "harbour" else f"sb3_varl.metaworld:SparseMetaWorld/{task}"


def train(task: str, advisor: str | None, seed: int, steps: int, out: pathlib.Path) -> EvalCallback:
    """
    Train as the README does, and evaluate on the way.

    :param task: One of ``TASKS``
    :param advisor: Name of an advisor, ``None`` for none
    :param seed: Seed of everything
    :param steps: Environment steps
    :param out: Folder for the advice log
    :return: The evaluations
    """
    env = VecNormalize(make_vec_env(env_id(task), seed=seed), norm_reward=False)
    evaluated = VecNormalize(make_vec_env(env_id(task), seed=1000 + seed), norm_reward=False, training=False)
    model = VARL("LayerNormMlpPolicy", env, seed=seed, **SPARSE)
    evaluation = EvalCallback(evaluated, eval_freq=EVAL_FREQ, n_eval_episodes=N_EVAL_EPISODES, log_path=str(out))
    callbacks: list = [evaluation]
    if advisor is not None:
        sheet = draft_sheet(env_id(task))
        # So that the run can be repeated: training waits for each answer.
        callbacks += [AdvisorCallback(advisor, task=TASKS[task], sheet=sheet, blocking=True, log_path=out / "advice")]
    model.learn(steps, callback=callbacks, progress_bar=True)
    return evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--model", help="litellm model string, or none; default: the recorded answers")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("live"), help="folder (default: live)")
    args = parser.parse_args()
    th.set_num_threads(1)  # more hardly help networks this small
    advisor = None if args.model == "none" else args.model or f"replay/{LOGS / args.task}"
    evaluation = train(args.task, advisor, args.seed, args.steps, args.out / args.task)
    success = np.mean(evaluation.evaluations_successes, axis=1)
    name = "none" if advisor is None else args.model or "recorded"
    with (args.out / args.task / "success.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for step, share in zip(evaluation.evaluations_timesteps, success, strict=True):
            writer.writerow((args.task, name, args.seed, step, share))
            print(f"{step:>6} steps: {share:.0%}")


if __name__ == "__main__":
    main()
