"""
From advice to a model of one's own, and from that to a policy: a tiny language model imitates an advice log, CoSo tunes
it by reward, and its advice teaches VARL.

    pip install -e ".[coso]"
    python examples/coso_bridge.py

In KeyAndDoor somebody has to fetch a key and go to a door, and only the door is rewarded. The advice that is imitated
is SIMULATED: between some places it is right, between the others a guess. Takes some ten minutes on two cores.
"""

import argparse
import concurrent.futures
import multiprocessing
import pathlib
import shutil
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_varl import SPARSE, VARL, AdvisorCallback, FunctionAdvisor
from sb3_varl.coso import BoxActions, CoSo, KeyAndDoor, TinyVLM, advisor, imitate, read_examples
from sb3_varl.coso.key_and_door import SIZE

# Of the pairs of places: those between which the simulated advice knows the way.
KNOWN = 0.7
N_PLACES = SIZE + 1
LOG_STEPS, N_QUERIES, STATES_PER_QUERY = 4000, 16, 128
ADVICE: dict[str, Any] = {"states_per_query": 100, "frames": False, "blocking": True}


def places(observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say where one is and where to go next, in whole numbers."""
    place, key, door, has_key = observation[:2], observation[2:4], observation[4:6], observation[6]
    return np.round(place).astype(int), np.round(door if has_key else key).astype(int)


def tell(observation: np.ndarray) -> str:
    """Put a state in words."""
    (x, y), (to_x, to_y) = places(observation)
    return f"Go from {x} {y} to {to_x} {to_y}."


def make_simulated_advisor(seed: int) -> FunctionAdvisor:
    """Make an advisor that knows some ways, and guesses the others anew each time."""
    rng = np.random.default_rng(seed)
    is_known = rng.random((2, N_PLACES, N_PLACES)) < KNOWN

    def advise(observation: np.ndarray) -> np.ndarray:
        here, there = places(observation)
        knows = is_known[np.arange(2), here, there]
        return np.where(knows, np.sign(there - here), rng.integers(-1, 2, 2)).astype(np.float32)

    return FunctionAdvisor(advise)


def make_env(seed: int, training: bool = True) -> VecNormalize:
    """Make an environment for VARL."""
    env = VecNormalize(DummyVecEnv([lambda: Monitor(KeyAndDoor())]), training=training, norm_reward=False)
    env.seed(seed)
    return env


def make_model(seed: int, out: pathlib.Path) -> CoSo:
    """Make a language model that knows some words."""
    actions = BoxActions()
    actions.check(KeyAndDoor().action_space)
    answers = [actions.write(np.array([x, y])) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    prompts = [f"Go from {x} {x} to {x} {x}." for x in range(N_PLACES)]
    return CoSo(
        "VLMPolicy",
        make_vec_env(KeyAndDoor, 32, seed=seed),
        learning_rate=1e-4,
        n_steps=16,
        gamma=0.95,
        max_grad_norm=0.5,
        ent_coef=0.01,
        policy_kwargs={
            "model": TinyVLM.knowing([*prompts, *answers], seed=seed),
            "prompt": tell,
            "actions": actions,
            "lora": None,
            "temperature": 1.0,
            "max_new_tokens": 40,
        },
        tensorboard_log=str(out),
        seed=seed,
    )


class Curve(BaseCallback):
    """Prints each evaluation. It goes into an ``EvalCallback`` as its ``callback_after_eval``."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.successes: list[float] = []

    def _on_step(self) -> bool:
        assert isinstance(self.parent, EvalCallback)
        self.successes.append(float(np.mean(self.parent.evaluations_successes[-1])))
        print(f"{self.name}: {self.successes[-1]:.0%} at {self.num_timesteps} steps", flush=True)
        return True


def train(name: str, saved: str | None, args: argparse.Namespace) -> list[float]:
    """Train VARL, with the advice of a saved model or, which is SAC, without any."""
    th.set_num_threads(1)
    curve = Curve(name)
    evaluation = EvalCallback(
        make_env(args.seed + 1000, training=False),
        callback_after_eval=curve,
        eval_freq=args.varl_steps // 6,
        n_eval_episodes=args.episodes,
        log_path=str(args.out / name),
        verbose=0,
    )
    callbacks: list[BaseCallback] = [evaluation]
    if saved is not None:
        tuned = CoSo.load(saved)
        callbacks.append(
            AdvisorCallback(advisor(tuned), n_queries=args.queries, log_path=args.out / name / "advice", **ADVICE)
        )
    model = VARL(
        "LayerNormMlpPolicy",
        make_env(args.seed),
        shaping_steps=args.varl_steps // 2,
        seed=args.seed,
        fast=True,
        **SPARSE,
    )
    model.learn(args.varl_steps, callback=callbacks)
    return curve.successes


def success(model: CoSo) -> float:
    """Share of the last 100 training episodes that succeeded."""
    return float(np.mean(model.ep_success_buffer or [0.0]))


def main() -> None:
    """Collect advice, imitate it, tune by reward, and advise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8192, help="steps of CoSo")
    parser.add_argument("--varl-steps", type=int, default=12_000, help="steps of VARL and of SAC")
    parser.add_argument("--queries", type=int, default=10, help="of VARL, about 100 states each")
    parser.add_argument("--episodes", type=int, default=50, help="of an evaluation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("coso_bridge"), help="folder, made anew")
    args = parser.parse_args()
    th.set_num_threads(1)
    shutil.rmtree(args.out, ignore_errors=True)

    print("1. Advice about visited states, into a log")
    pupil = VARL("MlpPolicy", make_env(args.seed), learning_starts=LOG_STEPS, seed=args.seed, shaping_steps=LOG_STEPS)
    asking = AdvisorCallback(
        make_simulated_advisor(args.seed),
        n_queries=N_QUERIES,
        states_per_query=STATES_PER_QUERY,
        first_query=LOG_STEPS // N_QUERIES,
        query_freq=LOG_STEPS // N_QUERIES - 1,
        window=LOG_STEPS // N_QUERIES,
        frames=False,
        blocking=True,
        log_path=args.out / "advice",
    )
    pupil.learn(LOG_STEPS, callback=asking)

    print("2. A language model imitates it")
    model = make_model(args.seed, args.out)
    imitate(model, read_examples(model, args.out / "advice"), n_epochs=8, learning_rate=1e-3)

    print("3. CoSo tunes it")
    model.learn(512)
    before = success(model)
    model.learn(args.steps - 512, reset_num_timesteps=False, progress_bar=True)
    print(f"success: {before:.0%} after imitation, {success(model):.0%} in the end")
    model.save(args.out / "tuned")

    print("4. It advises VARL, beside SAC")
    saved = {"VARL": str(args.out / "tuned"), "SAC": None}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        runs = {name: pool.submit(train, name, zip_file, args) for name, zip_file in saved.items()}
        for name, run in runs.items():
            print(name, *(f"{share:.0%}" for share in run.result()))


if __name__ == "__main__":
    main()
