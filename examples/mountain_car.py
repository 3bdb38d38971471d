"""
A car in a valley, with an engine too weak for the hill: SAC finds that doing nothing costs nothing, VARL takes advice.

    pip install -e ".[examples]"
    python examples/mountain_car.py                               # the advisor is simulated: no key, no cost
    python examples/mountain_car.py --model openai/gpt-6.1-sol    # a real vision-language model

It shows how to make an environment of Gymnasium understandable to a model: a wrapper with a task sheet, and with
``info["is_success"]``. The advice, with the pictures that were shown, is in ``--out`` under ``VARL/VARL_1/advice``.
Advice is not the only way up this hill: noise that holds for many steps (``use_sde=True``) finds the flag as well.
"""

import argparse
import os
import pathlib
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # rendering without a screen

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_varl import (
    VARL,
    ActionComponent,
    Advisor,
    AdvisorCallback,
    FunctionAdvisor,
    LayerNormMlpPolicy,
    ObservationSlice,
    TaskSheet,
    VLMAdvisor,
)
from sb3_varl.advisors import EXAMPLE_MODEL

# Both algorithms get these; all else is as SB3 has it.
SETTINGS: dict[str, Any] = {
    "learning_starts": 1000,
    "learning_rate": 1e-3,
    "train_freq": 8,
    "gradient_steps": 4,
    "n_steps": 5,
    "policy_kwargs": {"net_arch": [64, 64]},
}
ADVICE: dict[str, Any] = {"n_queries": 6, "states_per_query": 32}
N_EVALUATIONS, N_EVAL_EPISODES = 10, 5


class ExplainedMountainCar(gym.Wrapper):
    """Says what the numbers mean, which way they count and what the picture shows; and which episodes succeeded."""

    task_sheet = TaskSheet(
        goal="Drive the car up to the flag on top of the right hill, with as little force as that takes.",
        action=(ActionComponent("force", "of the engine: positive pushes right, towards the flag, negative left"),),
        observation=(
            ObservationSlice("position", 0, 1, "-1.2 is the left edge, -0.52 the bottom of the valley, 0.45 the flag"),
            ObservationSlice("velocity", 1, 2, "per step, -0.07 to 0.07; positive is to the right"),
        ),
        notes="The engine is weaker than gravity on the slopes: from rest in the valley no force reaches the flag, and "
        "the car has to gain height by swinging between the hills. The left edge stops it. A step's reward is -0.1 "
        "times the force squared, and 100 at the flag. The picture shows the valley from the side, right is right.",
    )

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["is_success"] = terminated
        return observation, reward, terminated, truncated, info


def make_env(training: bool = True) -> VecNormalize:
    def make() -> gym.Env:
        return Monitor(ExplainedMountainCar(gym.make("MountainCarContinuous-v0", render_mode="rgb_array")))

    return VecNormalize(DummyVecEnv([make]), training=training, norm_reward=False)


def make_advisor(args: argparse.Namespace) -> Advisor:
    if args.model is not None:
        return VLMAdvisor(args.model, api_base=args.api_base)
    print("The advisor is SIMULATED: a rule with noise and errors. Ask a real model with --model.")
    rng = np.random.default_rng(args.seed)

    def push_along(observation: np.ndarray) -> np.ndarray:
        """Push where the car is going anyway; a tenth of the answers is random."""
        if rng.random() < 0.1:
            return rng.uniform(-1, 1, 1)
        return np.clip(np.sign(observation[1:]) + rng.normal(0, 0.3, 1), -1, 1)

    return FunctionAdvisor(push_along)


def train(algorithm: type[SAC], args: argparse.Namespace, callbacks: list[BaseCallback], **shaping: Any) -> float:
    """:return: Share of successes in the last three evaluations"""
    folder = args.out / algorithm.__name__
    print(f"Training {folder.name} for {args.steps} steps")
    env, eval_env = make_env(), make_env(training=False)
    eval_env.seed(1000 + args.seed)
    evaluation = EvalCallback(
        eval_env,
        eval_freq=args.steps // N_EVALUATIONS,
        n_eval_episodes=N_EVAL_EPISODES,
        log_path=str(folder),
        verbose=0,
    )
    model = algorithm(LayerNormMlpPolicy, env, seed=args.seed, tensorboard_log=str(folder), **SETTINGS, **shaping)
    model.learn(args.steps, callback=[evaluation, *callbacks], progress_bar=True)
    model.save(folder / "model.zip")
    env.close()
    eval_env.close()
    return float(np.mean(evaluation.evaluations_successes[-3:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"litellm model string such as {EXAMPLE_MODEL}; default: the simulated advisor")
    parser.add_argument("--api-base", help="URL of an OpenAI-compatible server of your own")
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps of each of the two runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("mountain_car"))
    args = parser.parse_args()
    th.set_num_threads(1)  # more hardly help networks this small

    # Training waits for the answers, because a run this short would be over before a model has given them all.
    advice = AdvisorCallback(make_advisor(args), blocking=True, verbose=1, **ADVICE)
    success = {"VARL": train(VARL, args, [advice], shaping_steps=args.steps // 2, fast=True)}
    success["SAC"] = train(SAC, args, [])
    print("Success in the last three evaluations: " + ", ".join(f"{name} {rate:.0%}" for name, rate in success.items()))


if __name__ == "__main__":
    main()
