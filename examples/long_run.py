"""
A run that goes on: the same command again, after whatever ended it, continues from its last checkpoint and from the log
of its advice. Nothing is asked twice.

    python examples/long_run.py                                            # recorded rules: no key, no cost
    python examples/long_run.py --advisor openai/gpt-6.1-sol --max-cost 1  # a model, for a dollar at most
    python examples/long_run.py --advisor openai/MODEL --api-base http://localhost:8000/v1
    python examples/long_run.py --act                                      # what was learnt, without advice

The advisor of the first line is RECORDED: rules that a large multimodal model wrote when it was asked once. For an
environment of yours, copy this file beside its module: ``--env module:Name-v0``.
"""

import argparse
import pathlib
import re
import signal
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_varl import SPARSE, VARL, AdvisorCallback

RULES = pathlib.Path(__file__).parent / "ferry_rules.json"
# Of checkpoints, too.
N_EVALUATIONS, N_EVAL_EPISODES = 20, 20


class SaveStatistics(BaseCallback):
    """Keeps beside the best model what its observations were normalised by, which EvalCallback does not."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.path = path

    def _on_step(self) -> bool:
        self.model.get_vec_normalize_env().save(str(self.path))  # type: ignore[union-attr]
        return True


def make_env(args: argparse.Namespace, seed: int, n_envs: int = 1) -> VecEnv:
    kwargs: dict[str, Any] = {"render_mode": "rgb_array"} if args.frames else {}
    return make_vec_env(lambda: gym.make(args.env, **kwargs), n_envs, seed)


def last_checkpoint(folder: pathlib.Path) -> int | None:
    """Steps of the last checkpoint that is whole: its statistics are what is written last."""
    found = (re.fullmatch(r"rl_model_vecnormalize_(\d+)_steps", path.stem) for path in folder.glob("*.pkl"))
    return max((int(match[1]) for match in found if match), default=None)


def start(args: argparse.Namespace, checkpoints: pathlib.Path) -> VARL:
    """Make a model, or load it with all that it needs to go on."""
    env = make_env(args, args.seed, args.n_envs)
    steps = last_checkpoint(checkpoints)
    if steps is None:
        env = VecNormalize(env, norm_reward=False)
        settings = {**SPARSE, "gradient_steps": SPARSE["gradient_steps"] * args.n_envs}
        # More transitions than steps there will not be, and the replay buffer is written as large as it may become.
        settings |= {"buffer_size": args.steps, "shaping_steps": args.steps // 2}
        return VARL("LayerNormMlpPolicy", env, seed=args.seed, **settings)
    print(f"Going on from step {steps}.")
    env = VecNormalize.load(str(checkpoints / f"rl_model_vecnormalize_{steps}_steps.pkl"), env)
    model = VARL.load(checkpoints / f"rl_model_{steps}_steps", env)
    model.load_replay_buffer(checkpoints / f"rl_model_replay_buffer_{steps}_steps")
    return model


def save(model: VARL, folder: pathlib.Path) -> None:
    """Save a checkpoint as CheckpointCallback does."""
    steps = model.num_timesteps
    model.save(folder / f"rl_model_{steps}_steps")
    model.save_replay_buffer(folder / f"rl_model_replay_buffer_{steps}_steps")
    model.get_vec_normalize_env().save(str(folder / f"rl_model_vecnormalize_{steps}_steps.pkl"))  # type: ignore[union-attr]


def evaluation(args: argparse.Namespace, done: int) -> EvalCallback:
    """Evaluate now and then, and keep what was evaluated before: EvalCallback alone would begin with an empty file."""
    callback = EvalCallback(
        VecNormalize(make_env(args, 1000 + args.seed), training=False, norm_reward=False),
        eval_freq=max(1, args.steps // N_EVALUATIONS // args.n_envs),
        n_eval_episodes=N_EVAL_EPISODES,
        log_path=str(args.out),
        best_model_save_path=str(args.out),
        callback_on_new_best=SaveStatistics(args.out / "best_model_vecnormalize.pkl"),
    )
    path = args.out / "evaluations.npz"
    if done and path.exists():
        with np.load(path) as before:
            kept = before["timesteps"] <= done
            callback.evaluations_timesteps = before["timesteps"][kept].tolist()
            callback.evaluations_results = before["results"][kept].tolist()
            callback.evaluations_length = before["ep_lengths"][kept].tolist()
            if "successes" in before:
                callback.evaluations_successes = before["successes"][kept].tolist()
            callback.best_mean_reward = float(before["results"].mean(1).max())
    return callback


def train(args: argparse.Namespace) -> None:
    checkpoints = args.out / "checkpoints"
    model = start(args, checkpoints)
    limits = {"max_cost": args.max_cost, "api_base": args.api_base}
    advice = AdvisorCallback(
        args.advisor,
        advisor_kwargs={name: limit for name, limit in limits.items() if limit is not None},
        frames=args.frames,
        log_path=args.out / "advice",
        # A run that ended before its first checkpoint has answers as well.
        resume=(args.out / "advice").exists(),
        verbose=1,
    )
    checkpoint = CheckpointCallback(
        max(1, args.steps // N_EVALUATIONS // args.n_envs),
        str(checkpoints),
        save_replay_buffer=True,
        save_vecnormalize=True,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        model.learn(
            args.steps - model.num_timesteps,
            callback=[advice, checkpoint, evaluation(args, model.num_timesteps)],
            reset_num_timesteps=False,
            progress_bar=True,
        )
    except KeyboardInterrupt:
        checkpoints.mkdir(parents=True, exist_ok=True)
        save(model, checkpoints)
        print(f"Ended at step {model.num_timesteps}. The same command goes on.")
        return
    save(model, checkpoints)
    print(f"Done. What was learnt: python {sys.argv[0]} --act --out {args.out}")


def act(args: argparse.Namespace) -> None:
    """What a policy needs to act: its zip, and the statistics that it was trained with."""
    env = VecNormalize.load(str(args.out / "best_model_vecnormalize.pkl"), make_env(args, 2000 + args.seed))
    env.training = False
    successes: list[bool] = []

    def remember(local_variables: dict, global_variables: dict) -> None:
        if local_variables["done"]:
            successes.append(local_variables["info"].get("is_success", False))

    mean, deviation = evaluate_policy(VARL.load(args.out / "best_model"), env, N_EVAL_EPISODES, callback=remember)
    print(f"Success in {sum(successes)} of {len(successes)} episodes, return {mean:.2f} (±{deviation:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="ferry:Ferry-v0", help="with a module to import before it, if need be")
    parser.add_argument("--advisor", default=f"rules/{RULES}", help="as AdvisorCallback takes it (default: recorded)")
    parser.add_argument("--max-cost", type=float, help="US dollars that a model may cost in the whole run")
    parser.add_argument("--api-base", help="address of a server of your own")
    parser.add_argument("--frames", action="store_true", help="show pictures, of an environment that renders")
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps of the whole run")
    parser.add_argument("--n-envs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("long_run"), help="folder of the run")
    parser.add_argument("--act", action="store_true", help="only show what was learnt")
    args = parser.parse_args()
    (act if args.act else train)(args)


if __name__ == "__main__":
    main()
