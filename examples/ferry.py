"""
A task of one's own: an environment, what its numbers mean, and an agent that learns it. A ferry has to stop at a pier.

    python examples/ferry.py                                   # recorded rules: no key, no cost
    python examples/ferry.py --advisor openai/gpt-6.1-sol      # a model is asked for rules

trains VARL and SAC with the same settings. The advisor is RECORDED: the rules in ``ferry_rules.json`` are the answer of
a large multimodal model to the prompt that this shows, without sending anything:

    python -m sb3_varl.preview --env examples/ferry.py:Ferry-v0 --model openai/gpt-6.1-sol
"""

import argparse
import pathlib
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_varl import SPARSE, VARL, ActionComponent, AdvisorCallback, LayerNormMlpPolicy, ObservationSlice, TaskSheet

RULES = pathlib.Path(__file__).parent / "ferry_rules.json"


class Ferry(gym.Env):
    """A ferry with thrusters to all sides, which drifts on when they rest. Reward comes at the pier only."""

    task_sheet = TaskSheet(
        goal="Bring the ferry to the pier and stop there.",
        action=(
            ActionComponent("east", "thrust: 1 makes the speed 0.01 greater in a step, -1 smaller"),
            ActionComponent("north", "the same"),
        ),
        observation=(
            ObservationSlice("ferry", 0, 2, "place, east and north, from -1 to 1"),
            ObservationSlice("speed", 2, 4, "by how much the place changes in a step; water takes 5% of it each step"),
            ObservationSlice("pier", 4, 6, "place"),
        ),
        success="The ferry is within 0.05 of the pier in both directions, at a speed below 0.005 in both.",
    )
    observation_space = gym.spaces.Box(-2, 2, (6,))
    action_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.pier = self.np_random.uniform(-1, 1, (2, 2))
        self.speed = np.zeros(2)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.speed = 0.95 * self.speed + 0.01 * np.clip(action, -1, 1)
        self.place = np.clip(self.place + self.speed, -2, 2)
        success = bool(np.all(np.abs(self.place - self.pier) < 0.05) and np.all(np.abs(self.speed) < 0.005))
        return self._observation(), float(success), success, False, {"is_success": success}

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.place, self.speed, self.pier]).astype(np.float32)


gym.register("Ferry-v0", Ferry, max_episode_steps=100)  # type: ignore[arg-type]


def make_env(seed: int, training: bool = True) -> VecNormalize:
    env = make_vec_env(lambda: gym.make("Ferry-v0"), seed=seed)
    return VecNormalize(env, training=training, norm_reward=False)


def train(model: SAC, args: argparse.Namespace, *callbacks: AdvisorCallback) -> EvalCallback:
    """Train a model, and evaluate it on the way."""
    evaluation = EvalCallback(
        make_env(1000 + args.seed, training=False),
        eval_freq=args.steps // 6,
        n_eval_episodes=20,
        log_path=str(args.out / type(model).__name__),
        verbose=0,
    )
    model.learn(args.steps, callback=[evaluation, *callbacks], progress_bar=True)
    return evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--advisor", default=f"rules/{RULES}", help="as AdvisorCallback takes it (default: recorded)")
    parser.add_argument("--steps", type=int, default=12_000, help="environment steps of each of the two runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("ferry"))
    args = parser.parse_args()
    varl = VARL(LayerNormMlpPolicy, make_env(args.seed), seed=args.seed, shaping_steps=args.steps * 2 // 3, **SPARSE)
    advised = train(varl, args, AdvisorCallback(args.advisor, frames=False, log_path=args.out / "advice", verbose=1))
    alone = train(SAC(LayerNormMlpPolicy, make_env(args.seed), seed=args.seed, **SPARSE), args)
    print("Success in 20 episodes\n  steps   VARL    SAC")
    for i, steps in enumerate(advised.evaluations_timesteps):
        print(f"{steps:7}" + "".join(f"{np.mean(run.evaluations_successes[i]):7.0%}" for run in (advised, alone)))


if __name__ == "__main__":
    main()
