"""
CoSo on NumberLine from pixels, with a tiny vision-language model that is made on the spot.

    pip install -e ".[coso]"
    python examples/coso_number_line.py
    python examples/coso_number_line.py --weights uniform      # what CoSo compares with
    tensorboard --logdir coso

The model learns to read two numbers, then to imitate made-up answers that are guesses in a third of the pictures, and
then from the environment's reward.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_varl.coso import Choices, CoSo, NumberLine, TinyVLM, imitate
from sb3_varl.coso.number_line import N_NUMBERS

PROMPT = "Go from the blue number to the red one."
WORDS = {"-": 0, "+": 1}
WEIGHTS = ("none", "uniform", "parser", "learned", "code")
N_ENVS, N_STEPS = 32, 16
N_EXAMPLES, N_READING_EPOCHS, N_ANSWER_EPOCHS = 600, 8, 16
N_EVAL_EPISODES = 100
# Of the pictures: those that are answered rightly. In the others answers are guesses.
KNOWN = 0.65


def say(target: int, current: int, action: int) -> str:
    """What the model is to write."""
    verb, sign = ("add", "+") if action else ("subtract", "-")
    return f'{{"target": {target}, "current": {current}, "thoughts": "{verb} one", "action": "{sign}"}}'


def make_examples(n: int, rng: np.random.Generator) -> tuple[list, list]:
    """Pictures with their numbers, and pictures with answers: in some pictures right, in others guessed."""
    env = NumberLine()
    is_known = rng.random((N_NUMBERS, N_NUMBERS)) < KNOWN
    numbers, answers = [], []
    for _ in range(n):
        target, current = (int(number) for number in rng.choice(N_NUMBERS, 2, replace=False))
        picture, _ = env.reset(options={"target": target, "current": current})
        action = int(target > current)
        numbers.append((picture, say(target, current, action).partition(', "thoughts"')[0]))
        answers.append((picture, say(target, current, action if is_known[target, current] else int(rng.integers(2)))))
    return numbers, answers


class History(BaseCallback):
    """Success and unparsed answers of each rollout, as they were drawn."""

    def _init_callback(self) -> None:
        self.rows: list[tuple[int, float, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        unparsed = np.mean([u.reading is None for u in self.model.rollout_buffer.utterances])  # type: ignore[attr-defined]
        self.rows.append((self.num_timesteps, float(np.mean(self.model.ep_success_buffer or [0])), float(unparsed)))


def make_model(weights: str, alpha: float, seed: int, tensorboard_log: str | None = None) -> CoSo:
    """Make a model that has learnt nothing yet."""
    answers = [say(i, j, action) for i in range(N_NUMBERS) for j in range(N_NUMBERS) for action in (0, 1)]
    return CoSo(
        "VLMPolicy",
        make_vec_env(NumberLine, N_ENVS, seed=seed),
        learning_rate=1e-4,
        n_steps=N_STEPS,
        max_grad_norm=0.5,
        ent_coef=alpha,
        weights=None if weights == "none" else weights,
        policy_kwargs={
            "model": TinyVLM.knowing([PROMPT, *answers], seed=seed),
            "prompt": PROMPT,
            "actions": Choices(WORDS),
            "lora": None,
            "temperature": 1.0,
            "thought_coef": 1.0,
            "max_new_tokens": 40,
        },
        tensorboard_log=tensorboard_log,
        seed=seed,
    )


def teach(model: CoSo, seed: int, progress_bar: bool = True) -> None:
    """Teach the model to read, and then to answer."""
    numbers, made_up = make_examples(N_EXAMPLES, np.random.default_rng(seed))
    kwargs: dict[str, Any] = {"learning_rate": 1e-3, "progress_bar": progress_bar}
    imitate(model, numbers, n_epochs=N_READING_EPOCHS, must_say_actions=False, **kwargs)
    imitate(model, made_up, n_epochs=N_ANSWER_EPOCHS, **kwargs)


def main() -> None:
    """Imitate, train, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="learned", choices=WEIGHTS)
    parser.add_argument("--alpha", type=float, default=0.03, help="coefficient of the weighted entropy")
    parser.add_argument("--steps", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="coso", help="folder for TensorBoard")
    args = parser.parse_args()
    th.set_num_threads(1)
    start = time.time()

    model = make_model(args.weights, args.alpha, args.seed, args.out)
    teach(model, args.seed)
    before = success(model, args.seed)
    history = History()
    model.learn(args.steps, callback=history, progress_bar=True)
    print("Words as they are drawn, the last 100 episodes:\n   steps  success  unparsed")
    for row in history.rows:
        print(f"{row[0]:8d}  {row[1]:7.2f}  {row[2]:8.2f}")
    after = success(model, args.seed)
    seconds = time.time() - start
    print(f"The likeliest words: success {before:.2f} after imitation, {after:.2f} in the end; {seconds:.0f} s")


def success(model: CoSo, seed: int) -> float:
    """Share of episodes that succeed when the likeliest words are written."""
    env = make_vec_env(NumberLine, N_ENVS, seed=seed + 1000)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=N_EVAL_EPISODES, return_episode_rewards=True)
    return float(np.mean(np.array(returns) > 0))


if __name__ == "__main__":
    main()
