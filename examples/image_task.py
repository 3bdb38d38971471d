"""
Advice for an agent that sees nothing but pixels: a car in a valley, as three small grey frames for a small CNN.

    pip install -e ".[examples]"
    python examples/image_task.py                               # the advisor is simulated: no key, no cost
    python examples/image_task.py --model openai/gpt-6.1-sol    # a real vision-language model
    python examples/image_task.py --rules                       # recorded rules over what the agent does not see

No single frame tells which way the car is going. The agent sees it in the stack of three. A model is shown what
``render()`` returns, so the wrapper's draws the last places of the car into one picture, and its task sheet says so.
The advice, with these pictures, is in ``--out`` under ``VARL/VARL_1/advice``. ``--compare`` trains SAC as well.

With ``--rules`` the advisor reads the car's position and velocity (``AdvisorCallback(observe="state")``), and what it
advises teaches a policy that sees pixels. With ``--rules --model ...`` a model is asked for such rules.
"""

import argparse
import dataclasses
import os
import pathlib
from collections import deque
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # rendering without a screen

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from PIL import Image
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_varl import (
    VARL,
    ActionComponent,
    Advisor,
    AdvisorCallback,
    FunctionAdvisor,
    LayerNormMlpPolicy,
    ObservationSlice,
    RulesAdvisor,
    TaskSheet,
    VLMAdvisor,
)
from sb3_varl.advisors import EXAMPLE_MODEL

HEIGHT, WIDTH, N_FRAMES, ACTION_REPEAT, MAX_EPISODE_STEPS = 32, 48, 3, 4, 500
N_EVALUATIONS, N_EVAL_EPISODES = 10, 5


class PixelMountainCar(gym.Wrapper):
    """MountainCarContinuous as its last three pictures, small and grey, four of its own steps apart."""

    task_sheet = TaskSheet(
        goal="Drive the car up to the flag on top of the right hill, with as little force as that takes.",
        action=(ActionComponent("force", "of the engine: positive pushes right, towards the flag, negative left"),),
        notes="The picture shows the valley from the side, right is right. The car is drawn three times: black where "
        "it is now, grey where it was one action ago, light grey where it was two actions ago. Where these are closer "
        "together it is slower; a single black car stands still. The engine is weaker than gravity on the slopes: from "
        "rest in the valley no force reaches the flag, and the car has to gain height by swinging between the hills.",
    )

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (N_FRAMES, HEIGHT, WIDTH), np.uint8)
        self._frames: deque[np.ndarray] = deque(maxlen=N_FRAMES)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        _, info = self.env.reset(**kwargs)
        self._frames.extend([self._grey_frame()] * N_FRAMES)
        return self._observation(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward, done = 0.0, False
        for _ in range(ACTION_REPEAT):
            if not done:
                _, step_reward, terminated, truncated, info = self.env.step(action)
                reward, done = reward + float(step_reward), terminated or truncated
        info["is_success"] = terminated
        self._frames.append(self._grey_frame())
        return self._observation(), reward, terminated, truncated, info

    def render(self) -> np.ndarray:
        darkness = [(255 - frame) * share for frame, share in zip(self._frames, (0.25, 0.5, 1.0), strict=True)]
        return np.repeat((255 - np.max(darkness, axis=0)).astype(np.uint8)[..., None], 3, axis=2)

    @property
    def state(self) -> np.ndarray:
        """Position and velocity, which the agent does not see."""
        return np.array(self.unwrapped.state)  # type: ignore[attr-defined]

    def _grey_frame(self) -> np.ndarray:
        frame: Any = self.env.render()
        return np.asarray(Image.fromarray(frame).convert("L"))

    def _observation(self) -> np.ndarray:
        small = [Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BOX) for frame in self._frames]
        return np.stack([np.asarray(frame) for frame in small])


# What the numbers of PixelMountainCar.state are.
STATE_SHEET = dataclasses.replace(
    PixelMountainCar.task_sheet,
    observation=(
        ObservationSlice("position", 0, 1, "-1.2 to 0.6; the valley's bottom is at -0.52, the flag at 0.45"),
        ObservationSlice("velocity", 1, 2, "per step of the simulation, of which an action has 4; -0.07 to 0.07"),
    ),
)
# As a large multimodal model wrote them, for the same car with numbers in place of pictures.
RECORDED_RULES = """
{"rules": [
{"name": "moving right: push right", "when": "velocity > 0", "action": ["1"]},
{"name": "moving left: push left to gain height", "when": "velocity < 0", "action": ["-1"]},
{"name": "standing right of the bottom: start to the left", "when": "position > -0.52", "action": ["-1"]},
{"name": "standing left of the bottom: start to the right", "when": "true", "action": ["1"]}
]}
"""


class SmallCNN(BaseFeaturesExtractor):
    """SB3's own, NatureCNN, is for pictures of at least 36 by 36 pixels."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 64) -> None:
        super().__init__(observation_space, features_dim)
        convolutions = nn.Sequential(
            nn.Conv2d(N_FRAMES, 16, kernel_size=5, stride=3),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        with th.no_grad():
            n_outputs = convolutions(th.zeros(1, *observation_space.shape)).shape[1]
        self.layers = nn.Sequential(convolutions, nn.Linear(n_outputs, features_dim), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


# Both algorithms get these. Their policy is SB3's CnnPolicy, but for this CNN and layer normalisation in the critics.
SETTINGS: dict[str, Any] = {
    "learning_starts": 500,
    "train_freq": 4,
    "gradient_steps": 4,
    "batch_size": 64,
    "gamma": 0.98,
    "tau": 0.01,
    "n_steps": 5,
    "buffer_size": 20_000,
    "policy_kwargs": {"features_extractor_class": SmallCNN, "net_arch": [64, 64]},
}
ADVICE: dict[str, Any] = {"n_queries": 6, "states_per_query": 32}


def make_env() -> DummyVecEnv:
    def make() -> gym.Env:
        env = gym.make("MountainCarContinuous-v0", render_mode="rgb_array", max_episode_steps=MAX_EPISODE_STEPS)
        return Monitor(PixelMountainCar(env))

    return DummyVecEnv([make])


def make_advisor(args: argparse.Namespace) -> Advisor:
    if args.model is not None:
        return VLMAdvisor(args.model, api_base=args.api_base)
    if args.rules:
        print("The advisor is RECORDED: rules that a large multimodal model wrote when it was asked once.")
        return RulesAdvisor(RECORDED_RULES)
    print("The advisor is SIMULATED: a rule with noise and errors. Ask a real model with --model.")
    rng = np.random.default_rng(args.seed)

    def push_along(observation: np.ndarray) -> np.ndarray:
        """Push where the car is going anyway, as far as the pixels tell; a tenth of the answers is random."""
        if rng.random() < 0.1:
            return rng.uniform(-1, 1, 1)
        # Nothing else moves, so the centre of all that is dark moves with the car.
        darkness = 255.0 - observation
        centres = (darkness * np.arange(WIDTH)).sum(axis=(1, 2)) / darkness.sum(axis=(1, 2))
        return np.clip(np.sign([centres[-1] - centres[-2]]) + rng.normal(0, 0.3, 1), -1, 1)

    return FunctionAdvisor(push_along)


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
    parser.add_argument("--rules", action="store_true", help="rules over the car's position and velocity")
    parser.add_argument("--api-base", help="URL of an OpenAI-compatible server of your own")
    parser.add_argument("--steps", type=int, default=10_000, help="environment steps of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="train SAC as well, with the same settings")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("image_task"))
    args = parser.parse_args()
    th.set_num_threads(1)  # more hardly help networks this small

    # Training waits for the answers, because a run this short would be over before a model has given them all.
    how: dict[str, Any] = {"sheet": STATE_SHEET, "observe": "state"} if args.rules else ADVICE
    advice = AdvisorCallback(make_advisor(args), blocking=True, verbose=1, **how)
    success = {"VARL": train(VARL, args, [advice], shaping_steps=args.steps // 2, fast=True)}
    if args.compare:
        success["SAC"] = train(SAC, args, [])
    print("Success in the last three evaluations: " + ", ".join(f"{name} {rate:.0%}" for name, rate in success.items()))


if __name__ == "__main__":
    main()
