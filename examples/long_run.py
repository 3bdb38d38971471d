"""
A run that goes on: the same command again, after whatever ended it, continues from its last checkpoint and from the log
of its advice. Nothing is asked twice.

    python examples/long_run.py                                            # recorded rules: no key, no cost
    python examples/long_run.py --advisor openai/gpt-6.1-sol --max-cost 1 --out by_model
    python examples/long_run.py --advisor "openai/$MODEL" --api-base http://localhost:8000/v1 --out by_own_model
    python examples/long_run.py --act --out by_model                       # what was learnt, without advice

The advisor of the first line is RECORDED: rules that a large multimodal model wrote when it was asked once. For an
environment of yours, copy this file beside its module: ``--env module:Name-v0 --advisor … --sheet sheet.yml``.
"""

import argparse
import json
import pathlib
import shutil
import signal
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_varl import SPARSE, VARL, AdvisorCallback

RULES = pathlib.Path(__file__).parent / "ferry_rules.json"
N_EVAL_EPISODES = 20
# Of an EvalCallback, by what its file calls them.
EVALUATIONS = {
    "timesteps": "evaluations_timesteps",
    "results": "evaluations_results",
    "ep_lengths": "evaluations_length",
    "successes": "evaluations_successes",
}
# What a run is, and stays when it goes on.
OF_A_RUN = ("env", "advisor", "task", "sheet", "frames", "steps", "n_envs", "seed")


def save(folder: pathlib.Path, model: VARL, evaluation: EvalCallback, with_buffer: bool) -> None:
    """Save all that belongs together: under another name until it is whole, lest a crash leave half of it."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save(partial / "model")
    normalize = model.get_vec_normalize_env()
    assert normalize is not None
    normalize.save(str(partial / "vecnormalize.pkl"))
    evaluations = {name: np.array(getattr(evaluation, attribute)) for name, attribute in EVALUATIONS.items()}
    np.savez(partial / "evaluations.npz", best=evaluation.best_mean_reward, **evaluations)  # type: ignore[arg-type]
    if with_buffer:
        model.save_replay_buffer(partial / "replay_buffer")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def checkpoints(out: pathlib.Path) -> list[pathlib.Path]:
    """Those that are whole, the last one at the end."""
    return sorted((out / "checkpoints").glob("step_*[0-9]"), key=lambda folder: int(folder.name.removeprefix("step_")))


def save_checkpoint(out: pathlib.Path, model: VARL, evaluation: EvalCallback) -> None:
    """Save a checkpoint, and keep the one before."""
    save(out / "checkpoints" / f"step_{model.num_timesteps}", model, evaluation, with_buffer=True)
    for older in checkpoints(out)[:-2]:
        shutil.rmtree(older)


class Checkpoints(BaseCallback):
    """Saves one every so many calls. It goes behind the ``EvalCallback``, whose evaluations it saves as well."""

    model: VARL

    def __init__(self, out: pathlib.Path, evaluation: EvalCallback, save_freq: int) -> None:
        super().__init__()
        self.out, self.evaluation, self.save_freq = out, evaluation, save_freq

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            save_checkpoint(self.out, self.model, self.evaluation)
        return True


class SaveBest(BaseCallback):
    """Saves the best model with what its observations were normalised by, which ``EvalCallback`` alone does not."""

    model: VARL

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        assert isinstance(self.parent, EvalCallback)
        save(self.folder, self.model, self.parent, with_buffer=False)
        return True


def make_env(args: argparse.Namespace, seed: int, n_envs: int = 1) -> VecEnv:
    kwargs: dict[str, Any] = {"render_mode": "rgb_array"} if args.frames else {}
    return make_vec_env(lambda: gym.make(args.env, **kwargs), n_envs, seed)


def start(args: argparse.Namespace, last: pathlib.Path | None) -> VARL:
    """Make a model, or load it with all that it needs to go on."""
    if last is None:
        env = VecNormalize(make_env(args, args.seed, args.n_envs), norm_reward=False)
        settings = {**SPARSE, "gradient_steps": SPARSE["gradient_steps"] * args.n_envs}
        settings |= {"shaping_steps": args.steps // 2, "buffer_size": min(args.steps, 1_000_000)}
        return VARL("LayerNormMlpPolicy", env, seed=args.seed, **settings)
    steps = int(last.name.removeprefix("step_"))
    print(f"Going on from step {steps}.")
    # Other episodes and other noise than at the beginning.
    env = VecNormalize.load(str(last / "vecnormalize.pkl"), make_env(args, args.seed + steps, args.n_envs))
    model = VARL.load(last / "model", env)
    model.set_random_seed(args.seed + steps)
    model.load_replay_buffer(last / "replay_buffer")
    buffer = model.replay_buffer
    assert buffer is not None
    # The episode that was cut off: no return goes on into the next one.
    buffer.dones[buffer.pos - 1] = buffer.timeouts[buffer.pos - 1] = True
    return model


def make_evaluation(args: argparse.Namespace, last: pathlib.Path | None) -> EvalCallback:
    """Evaluate now and then, and remember what was evaluated until the last checkpoint."""
    callback = EvalCallback(
        VecNormalize(make_env(args, 10_000 + args.seed), training=False, norm_reward=False),
        eval_freq=max(1, args.save_freq // args.n_envs),
        n_eval_episodes=N_EVAL_EPISODES,
        log_path=str(args.out),
        callback_on_new_best=SaveBest(args.out / "best"),
    )
    if last is not None:
        with np.load(last / "evaluations.npz") as before:
            for name, attribute in EVALUATIONS.items():
                setattr(callback, attribute, before[name].tolist())
    if (args.out / "best").exists():
        with np.load(args.out / "best" / "evaluations.npz") as of_best:
            callback.best_mean_reward = float(of_best["best"])
    return callback


def train(args: argparse.Namespace) -> None:
    last = next(reversed(checkpoints(args.out)), None)
    model, evaluation = start(args, last), make_evaluation(args, last)
    limits = {"max_cost": args.max_cost, "api_base": args.api_base}
    advice = AdvisorCallback(
        args.advisor,
        args.task,
        sheet=args.sheet,
        advisor_kwargs={name: limit for name, limit in limits.items() if limit is not None},
        frames=args.frames,
        log_path=args.out / "advice",
        # A run that ended before its first checkpoint has answers as well.
        resume=(args.out / "advice").exists(),
        verbose=1,
    )
    saving = Checkpoints(args.out, evaluation, max(1, args.save_freq // args.n_envs))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        model.learn(
            args.steps - model.num_timesteps,
            callback=[advice, evaluation, saving],
            reset_num_timesteps=False,
            progress_bar=True,
        )
    except KeyboardInterrupt:
        save_checkpoint(args.out, model, evaluation)
        print(f"Ended at step {model.num_timesteps}. The same command goes on.")
        return
    save_checkpoint(args.out, model, evaluation)
    print(f"Done. What was learnt: python {sys.argv[0]} --act --out {args.out}")


def act(args: argparse.Namespace) -> None:
    """What a policy needs to act: its zip, and the statistics that it was trained with."""
    if not (args.out / "best").exists():
        sys.exit(f"long_run.py: {args.out} has no best model yet. It is saved at the first evaluation.")
    env = VecNormalize.load(str(args.out / "best" / "vecnormalize.pkl"), make_env(args, 20_000 + args.seed))
    env.training = False
    told: list[bool | None] = []

    def remember(local_variables: dict, global_variables: dict) -> None:
        if local_variables["done"]:
            told.append(local_variables["info"].get("is_success"))

    mean, deviation = evaluate_policy(VARL.load(args.out / "best/model"), env, N_EVAL_EPISODES, callback=remember)
    success = "not told" if None in told else f"in {sum(map(bool, told))} of {len(told)} episodes"
    print(f"Success {success}, return {mean:.2f} (±{deviation:.2f})")


def recall(args: argparse.Namespace) -> None:
    """Write down what run this is, or see that it is the one that is in the folder."""
    path, settings = args.out / "run.json", {name: getattr(args, name) for name in OF_A_RUN}
    if not path.exists():
        if not args.act:
            args.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        return
    before = json.loads(path.read_text())
    if args.act:
        vars(args).update(before)
    elif before != settings:
        changed = ", ".join(
            f"--{name.replace('_', '-')} {before[name]}" for name in OF_A_RUN if before[name] != settings[name]
        )
        sys.exit(f"long_run.py: the run in {args.out} has {changed}. Start it as it was, or give another --out.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="ferry:Ferry-v0", help="with a module to import before it, if need be")
    parser.add_argument("--advisor", default=f"rules/{RULES}", help="as AdvisorCallback takes it (default: recorded)")
    parser.add_argument("--task", help="in words, where the environment has no task sheet")
    parser.add_argument("--sheet", help="task sheet in YAML, where the environment has none")
    parser.add_argument("--frames", action="store_true", help="show pictures, of an environment that renders")
    parser.add_argument("--max-cost", type=float, help="US dollars that a model may cost in the whole run")
    parser.add_argument("--api-base", help="address of a server of your own")
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps of the whole run")
    parser.add_argument("--save-freq", type=int, default=3_000, help="steps between checkpoints, and evaluations")
    parser.add_argument("--n-envs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("long_run"), help="folder of the run")
    parser.add_argument("--act", action="store_true", help="only show what was learnt")
    args = parser.parse_args()
    recall(args)
    (act if args.act else train)(args)


if __name__ == "__main__":
    main()
