"""
CoSo on NumberLine with a pretrained model that is told in words what to do and is never shown a right answer.

    pip install -e ".[coso]"
    python examples/coso_pretrained.py HuggingFaceTB/SmolLM2-135M-Instruct
    python examples/coso_pretrained.py HuggingFaceTB/SmolVLM-256M-Instruct --pixels     # pip install torchvision
    python examples/coso_pretrained.py FOLDER --gguf FILE.gguf
    tensorboard --logdir coso

A model without eyes is told both numbers, one with eyes is shown them. For a GPU: on a CPU core each step of a model of
135 million weights takes seconds.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from transformers import AutoModelForCausalLM, AutoTokenizer

from sb3_varl.coso import Choices, CoSo, NumberLine, imitate

TASK = (
    '"+" adds one to the current number, and "-" subtracts one from it. Which of them brings it closer to the target? '
    'Answer with JSON only, for example {"thoughts": "...", "action": "+"} or {"thoughts": "...", "action": "-"}.'
)
SHOWN = f"The picture has the target above, in red, and the current number below, in blue. {TASK}"
WORDS = {"-": 0, "+": 1}
FORMAT = (
    '{"thoughts": "The target is larger", "action": "+"}',
    '{"thoughts": "The target is smaller", "action": "-"}',
)
N_EXAMPLES, GUESS_RATE = 256, 1e-4


def tell(observation: np.ndarray) -> str:
    """Put a state in words."""
    target, current = observation
    return f"The target is {target:.0f} and the current number is {current:.0f}. {TASK}"


def guess(env: NumberLine, n: int, rng: np.random.Generator) -> list[tuple[np.ndarray, str]]:
    """Draw observations with answers in the right format that know nothing of the task."""
    return [(env.reset(seed=int(rng.integers(2**31)))[0], FORMAT[rng.integers(2)]) for _ in range(n)]


class History(BaseCallback):
    """
    Prints what each rollout was like, and writes it down.

    :param path: CSV file
    """

    columns = ("step", "seconds", "success", "return", "unparsed", "length", "weighted_entropy", "approx_kl")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_training_start(self) -> None:
        self.start = time.time()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(",".join(self.columns) + "\n")
        print("   ".join(self.columns))

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, CoSo)
        written = self.model.rollout_buffer.utterances
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        logged = self.model.logger.name_to_value
        row: list[Any] = [self.num_timesteps, round(time.time() - self.start, 1)]
        row += [np.mean(self.model.ep_success_buffer or [0]), np.mean(returns or [0])]
        row += [np.mean([u.reading is None for u in written]), np.mean([len(u.tokens) for u in written])]
        # Of the update before.
        row += [-logged.get("train/entropy_loss", np.nan), logged.get("train/approx_kl", np.nan)]
        row = [round(float(value), 4) for value in row]
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        print("   ".join(map(str, row)), flush=True)


def main() -> None:
    """Train, and write down what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder of a model")
    parser.add_argument("--gguf", help="name of a GGUF file in the folder")
    parser.add_argument("--pixels", action="store_true", help="show the picture, in place of telling the numbers")
    parser.add_argument("--guesses", type=int, default=0, metavar="EPOCHS", help="first imitate the format so often")
    parser.add_argument("--weights", default="learned", choices=["learned", "code", "parser", "uniform", "none"])
    parser.add_argument("--alpha", type=float, default=0.1, help="coefficient of the weighted entropy")
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--lora", type=int, default=16, help="rank of the adapters")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("coso"), help="folder of the results")
    args = parser.parse_args()
    th.set_float32_matmul_precision("high")

    def load() -> tuple[Any, Any]:
        model = AutoModelForCausalLM.from_pretrained(args.model, gguf_file=args.gguf, dtype=args.dtype)
        return model, AutoTokenizer.from_pretrained(args.model, gguf_file=args.gguf)

    observation = "pixels" if args.pixels else "numbers"
    model = CoSo(
        "VLMPolicy",
        make_vec_env(NumberLine, args.envs, seed=args.seed, env_kwargs={"observation": observation}),
        learning_rate=args.learning_rate,
        n_steps=max(1, 512 // args.envs),
        batch_size=args.batch_size,
        ent_coef=args.alpha,
        weights=None if args.weights == "none" else args.weights,
        policy_kwargs={
            "model": load if args.gguf else args.model,
            "prompt": SHOWN if args.pixels else tell,
            "actions": Choices(WORDS),
            "lora": args.lora,
            "dtype": args.dtype,
            "temperature": args.temperature,
            "max_new_tokens": 40,
        },
        tensorboard_log=str(args.out),
        seed=args.seed,
    )
    if args.guesses:
        guesses = guess(NumberLine(observation), N_EXAMPLES, np.random.default_rng(args.seed))
        imitate(model, guesses, n_epochs=args.guesses, learning_rate=GUESS_RATE)
    name = f"{Path(args.model).name}_{args.weights}_{args.alpha:g}_{args.seed}"
    model.learn(args.steps, callback=History(args.out / f"{name}.csv"))
    for utterance in model.rollout_buffer.utterances[:: 512 // 8]:
        print(utterance.observation if not args.pixels else "", repr(utterance.text))


if __name__ == "__main__":
    main()
