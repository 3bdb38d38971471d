"""
What a language model of some size costs in CoSo on a GPU: seconds to write and to learn from a batch of answers, and
the most memory that either takes. Its weights are RANDOM, in bfloat16, with adapters of rank 16: time and memory do not
know what they say.

    python examples/benchmark/coso_sizes.py TOKENIZER_FOLDER --out coso_sizes.csv

Prints a row for each size and writes them down. With a short prompt, and with one as long as pictures make it.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sb3_varl.coso import Choices, VLMPolicy

# Width, layers, heads, heads of keys and values, width of the feedforward layers: SmolLM2's three, and Llama 2's.
SIZES = {
    "135M": (576, 30, 9, 3, 1536),
    "360M": (960, 32, 15, 5, 2560),
    "1.7B": (2048, 24, 32, 32, 8192),
    "7B": (4096, 32, 32, 32, 11008),
}
BATCHES, LENGTH = (4, 32), 100
COLUMNS = ("weights", "batch", "prompt", "answer", "write_s", "write_gib", "learn_s", "learn_gib", "apart", "device")


def make_policy(size: str, folder: str, prompt: str) -> VLMPolicy:
    """Make a policy of some size, with random weights."""
    width, layers, heads, kv_heads, feedforward = SIZES[size]

    def source() -> tuple[Any, Any]:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = LlamaConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            intermediate_size=feedforward,
            vocab_size=len(tokenizer),
            tie_word_embeddings=width < 4096,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        with th.device("cuda"):
            th.set_default_dtype(th.bfloat16)
            model = LlamaForCausalLM(config)
            th.set_default_dtype(th.float32)
        return model, tokenizer

    return VLMPolicy(
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Discrete(2),
        lambda _: 1e-4,
        model=source,
        prompt=lambda _: prompt,
        actions=Choices({"-": 0, "+": 1}),
        temperature=1.0,
        max_new_tokens=LENGTH,
    ).to("cuda")


def measure(policy: VLMPolicy, batch: int) -> tuple[float, float, float, float, float]:
    """Write and learn from a batch of answers."""
    observations = list(np.zeros((batch, 2), np.float32))
    th.cuda.reset_peak_memory_stats()
    th.cuda.synchronize()
    start = time.perf_counter()
    written = policy.write(th.zeros(batch, 2, device="cuda"))
    th.cuda.synchronize()
    numbers = [time.perf_counter() - start, th.cuda.max_memory_allocated() / 2**30]
    # What is written at random ends when it likes; all shall be of one length.
    tokens = [(utterance.tokens * LENGTH)[:LENGTH] for utterance in written]
    th.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    scores = policy.language.score(policy.prompts(observations), tokens)
    (scores.entropies - scores.log_probs).sum().backward()
    policy.optimizer.step()
    policy.optimizer.zero_grad()
    th.cuda.synchronize()
    numbers += [time.perf_counter() - start, th.cuda.max_memory_allocated() / 2**30]
    with th.no_grad():
        together = policy.language.score(policy.prompts(observations), tokens).log_probs.sum(dim=1)
        alone = policy.language.score(policy.prompts(observations[:1]), tokens[:1]).log_probs.sum(dim=1)
    return (*numbers, abs(together[0] - alone[0]).item())  # type: ignore[return-value]


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="folder of a tokenizer")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--out", type=Path, default=Path("coso_sizes.csv"))
    args = parser.parse_args()
    with args.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        print(*COLUMNS)
        for size in args.sizes:
            for n_words in (80, 1000):
                policy = make_policy(size, args.tokenizer, "word " * n_words)
                n_prompt = policy.language._encode(policy.prompts([np.zeros(2)]))["input_ids"].shape[1]
                measure(policy, 1)  # so that nothing is done for the first time below
                for batch in BATCHES:
                    try:
                        numbers = [f"{number:.3g}" for number in measure(policy, batch)]
                    except MemoryError:
                        numbers = ["out of memory"] * 5
                    row = [size, batch, n_prompt, LENGTH, *numbers, th.cuda.get_device_name()]
                    writer.writerow(row)
                    file.flush()
                    print(*row, flush=True)
                del policy
                th.cuda.empty_cache()


if __name__ == "__main__":
    main()
