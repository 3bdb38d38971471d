"""
Pushing a block to a goal with a robot: Dict observations, hindsight experience replay (HER), and advice.

    pip install -e ".[examples]"
    python examples/fetch_her.py                               # the advisor is simulated: no key, no cost
    python examples/fetch_her.py --model openai/gpt-6.1-sol    # a real vision-language model

HER learns from every push, wherever the block ends, but with random actions it moves in a fifth of the episodes only.
The task sheet names the entries of each part of the observation, and the camera is placed so that the picture has the
axes of the actions. The advice, with these pictures, is in ``--out`` under ``VARL/VARL_1/advice``. ``--compare`` trains
SAC as well.
"""

import argparse
import ctypes.util
import os
import pathlib
from typing import Any

if not os.environ.get("DISPLAY") and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # rendering without a screen

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

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

N_EVALUATIONS, N_EVAL_EPISODES = 10, 20
# From the side of the table, so that the axes of the actions are those of the picture.
CAMERA = {"distance": 0.9, "azimuth": 90.0, "elevation": -50.0, "lookat": np.array([1.3, 0.75, 0.45])}
VIEW: dict[str, Any] = {"width": 224, "height": 224, "default_camera_config": CAMERA}


class ExplainedPush(gym.Wrapper):
    """Says what the numbers mean, which way they count and where the camera is."""

    task_sheet = TaskSheet(
        goal="Push the black block over the table until its centre is within 5 cm of the red ball, and leave it there.",
        action=(
            ActionComponent("dx", "motion of the gripper along x, in units of 3 cm; positive is away from the robot"),
            ActionComponent("dy", "the same along y; positive is to the robot's left"),
            ActionComponent("dz", "the same along z; positive is up"),
            ActionComponent("unused", "has no effect, the fingers stay closed: give 0"),
        ),
        observation=(
            ObservationSlice("gripper", 0, 3, "between the tips of the closed fingers, in metres", "observation"),
            ObservationSlice("block", 3, 6, "position of its centre, in metres", "observation"),
            ObservationSlice("gripper to block", 6, 9, "the difference of these two", "observation"),
            ObservationSlice("fingers", 9, 11, "displacement, in metres", "observation"),
            ObservationSlice("block's rotation", 11, 14, "Euler angles, in radians", "observation"),
            ObservationSlice("block's motion", 14, 17, "relative to the gripper, in metres a step", "observation"),
            ObservationSlice("block's turning", 17, 20, "in radians a step", "observation"),
            ObservationSlice("gripper's motion", 20, 23, "in metres a step", "observation"),
            ObservationSlice("fingers' motion", 23, 25, "in metres a step", "observation"),
            ObservationSlice("achieved goal", 0, 3, "the position of the block again", "achieved_goal"),
            ObservationSlice("red ball", 0, 3, "where the block is to be, in metres", "desired_goal"),
        ),
        notes="+x points away from the robot, +y to its left, +z up. The table's surface is at z = 0.40, and a gripper "
        "at z = 0.42 pushes the block, a cube of 5 cm. It has to get to the far side of the block first, seen from the "
        "ball, and above z = 0.47 it passes over the block. An episode has 50 steps. The picture shows the table from "
        "its side, with the robot at the left edge: +x points right in it, +y up and away from the camera.",
    )


class Offsets(BaseFeaturesExtractor):
    """
    The gripper's place, the way from there to the block and from there to the goal, and velocities, all of order 1.

    The last way is what counts, and no entry of the observation has it. It cannot be added by a wrapper: HER exchanges
    goals afterwards.
    """

    middle: th.Tensor

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, features_dim=14)
        self.register_buffer("middle", th.tensor([1.34, 0.75, 0.45]))

    def forward(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        state, to_goal = observations["observation"], observations["desired_goal"] - observations["achieved_goal"]
        places = [state[:, :3] - self.middle, state[:, 6:9], to_goal]
        velocities = [state[:, 14:16], state[:, 20:23]]
        return th.cat([*(10 * place for place in places), *(50 * velocity for velocity in velocities)], dim=1)


# Both algorithms get these. Their policy is SB3's MultiInputPolicy, but for this extractor and layer normalisation in
# the critics.
SETTINGS: dict[str, Any] = {
    "replay_buffer_class": HerReplayBuffer,
    "replay_buffer_kwargs": {"n_sampled_goal": 4},
    "buffer_size": 100_000,
    "learning_starts": 500,
    "learning_rate": 1e-3,
    "gamma": 0.95,
    "tau": 0.02,
    "train_freq": 2,
    "gradient_steps": 1,
    "batch_size": 256,
    "policy_kwargs": {"features_extractor_class": Offsets},
}
ADVICE: dict[str, Any] = {"n_queries": 10, "states_per_query": 32}


def make_env() -> DummyVecEnv:
    def make() -> gym.Env:
        env = gym.make("gymnasium_robotics:FetchPush-v4", render_mode="rgb_array", **VIEW)
        return Monitor(ExplainedPush(env))

    return DummyVecEnv([make])


def make_advisor(args: argparse.Namespace) -> Advisor:
    if args.model is not None:
        return VLMAdvisor(args.model, api_base=args.api_base)
    print("The advisor is SIMULATED: a script with noise and errors. Ask a real model with --model.")
    rng = np.random.default_rng(args.seed)

    def push(observation: dict[str, np.ndarray]) -> np.ndarray:
        """Go behind the block, seen from the goal, and push; a twentieth of the answers is random."""
        if rng.random() < 0.05:
            return np.array([*rng.uniform(-1, 1, 3), 0])
        gripper, block = observation["observation"][:3], observation["achieved_goal"]
        way = (observation["desired_goal"] - block)[:2]
        distance = float(np.linalg.norm(way))
        ahead = way / max(distance, 1e-6)
        offset = (gripper - block)[:2]
        aside = offset - (offset @ ahead) * ahead
        # How far the gripper is right behind the block, and low, from 0 to 1: smooth, so that it can be learnt.
        behind = np.clip(-(offset @ ahead + 0.02) / 0.03, 0, 1) * np.clip((0.05 - np.linalg.norm(aside)) / 0.03, 0, 1)
        pushing = behind * np.clip((0.46 - gripper[2]) / 0.02, 0, 1)
        # A gripper that is low and on the wrong side has to rise before it goes anywhere.
        approach = (-0.08 * ahead - offset) * (1 if gripper[2] > 0.46 or behind > 0 else 0.2)
        level = pushing * (min(0.1, distance + 0.02) * ahead - aside) + (1 - pushing) * approach
        motion = np.array([*level, 0.505 - 0.08 * behind - gripper[2]]) * np.clip(distance / 0.03 - 0.5, 0, 1)
        return np.array([*np.clip(10 * motion + rng.normal(0, 0.1, 3), -1, 1), 0])

    return FunctionAdvisor(push)


def train(algorithm: type[SAC], args: argparse.Namespace, callbacks: list[BaseCallback], **shaping: Any) -> float:
    """:return: Share of successes in the last three evaluations"""
    folder = args.out / algorithm.__name__
    print(f"Training {folder.name} for {args.steps} steps")
    env, eval_env = make_env(), make_env()
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
    parser.add_argument("--steps", type=int, default=30_000, help="environment steps of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="train SAC as well, with the same settings")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("fetch_her"))
    args = parser.parse_args()
    th.set_num_threads(1)  # more hardly help networks this small

    # Training waits for the answers, because a run this short would be over before a model has given them all.
    advice = AdvisorCallback(make_advisor(args), blocking=True, verbose=1, **ADVICE)
    success = {"VARL": train(VARL, args, [advice], shaping_steps=args.steps // 2, fast=True)}
    if args.compare:
        success["SAC"] = train(SAC, args, [])
    print("Success in the last three evaluations: " + ", ".join(f"{name} {rate:.0%}" for name, rate in success.items()))


if __name__ == "__main__":
    main()
