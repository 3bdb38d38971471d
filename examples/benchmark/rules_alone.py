"""
Follow recorded rules, learn nothing, and write down how often they succeed in 20 episodes, and in how many actions. The
answers are RECORDED: a large multimodal model wrote each of them once.

    python examples/benchmark/rules_alone.py

writes ``results/rules_alone.csv`` anew: a row for each answer to the present prompt, to the same once more, and to an
earlier one, on Meta-World's tasks as in the grid, with an action for 3 steps of the simulator and 50 actions in an
episode; for each to a prompt with a sheet that a program drafted, which lies beside it, with an action for 1 step and
150 of them, and for the last of these as in the grid as well; and for each about a task in disguise
(``disguised.py``) or an invented one (``invented.py``), with an action for 4 steps and 38 or 60 actions. Its companion
``results/rules_alone_more.csv``, with the answers that ship and more starts, is

    python examples/benchmark/rules_alone.py --prompts present --seeds 2000 2099 --results <the file>
"""

import argparse
import concurrent.futures
import csv
import functools
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from tqdm import tqdm

import disguised
import invented
import sb3_varl
from cells import FRAME_SKIP
from sb3_varl import Rules, load_task_sheet
from sb3_varl.metaworld import SparseMetaWorldEnv

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "rules_alone.csv"
# Stages of the program.
DRAFTS = ("1", "2", "3", "4")
IN_THE_GRID = f"in the grid, drafted {DRAFTS[-1]}"
FOLDERS = {
    "present": pathlib.Path(sb3_varl.__file__).parent / "advisors" / "recorded_rules",
    "again": HERE / "rules_asked_again",
    "earlier": HERE / "earlier_rules",
    "disguised": HERE / "disguised_rules",
    "invented": HERE / "invented_rules",
    **{f"drafted {stage}": HERE / "drafted_rules" / stage for stage in DRAFTS},
    IN_THE_GRID: HERE / "drafted_rules" / DRAFTS[-1],
}
SEEDS = range(1000, 1020)
MAX_ACTIONS = {
    "present": 150 // FRAME_SKIP,
    "again": 150 // FRAME_SKIP,
    "earlier": 150 // FRAME_SKIP,
    "disguised": disguised.MAX_EPISODE_STEPS,
    "invented": invented.MAX_EPISODE_STEPS,
    **{f"drafted {stage}": 150 for stage in DRAFTS},
    IN_THE_GRID: 150 // FRAME_SKIP,
}
COLUMNS = ("prompt", "task", "answer", "rules", "success", "actions", "failed_seeds")


def answers() -> list[tuple[str, str, int, pathlib.Path]]:
    """
    List the recorded answers.

    :return: Of each the prompt, the task, 1 or 2 for the first or the second answer, and the file
    """
    found = [
        (prompt, file.name.split(".")[0], 2 if "round2" in file.name else 1, file)
        for prompt, folder in FOLDERS.items()
        for file in folder.glob("*.txt")
    ]
    return sorted(found, key=lambda answer: (list(FOLDERS).index(answer[0]), *answer[1:3]))


def make_env(prompt: str, task: str) -> disguised.Disguised | SparseMetaWorldEnv:
    """Make the environment that an answer is about; its episodes end with success."""
    if prompt == "disguised":
        return disguised.Disguised(task, terminate_on_success=True)
    if prompt == "invented":
        return invented.Invented(task, terminate_on_success=True)
    frame_skip = 1 if prompt.startswith("drafted") else FRAME_SKIP
    return SparseMetaWorldEnv(task, frame_skip=frame_skip, terminate_on_success=True)


def follow(
    prompt: str, task: str, file: pathlib.Path, seeds: Iterable[int] = SEEDS
) -> tuple[int, dict[int, int | None]]:
    """
    Follow rules for some episodes; where they have no advice, nothing is done.

    :param prompt: A key of ``FOLDERS``
    :param task: The task
    :param file: The answer
    :param seeds: An episode each
    :return: The number of rules, and of each seed the number of actions until success, ``None`` if there was none
    """
    env = make_env(prompt, task)
    assert isinstance(env.action_space, spaces.Box)
    drafted = file.with_suffix(".yml")
    sheet = load_task_sheet(drafted) if drafted.exists() else env.task_sheet
    rules = Rules.parse(file.read_text(), sheet, env.observation_space, env.action_space)
    lengths: dict[int, int | None] = {}
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        lengths[seed] = None
        for n_actions in range(1, MAX_ACTIONS[prompt] + 1):
            action = rules(observation)
            observation, _, succeeded, _, _ = env.step(np.zeros(4) if action is None else action)
            if succeeded:
                lengths[seed] = n_actions
                break
    env.close()
    return len(rules), lengths


def row_of(answer: tuple[str, str, int, pathlib.Path], seeds: Iterable[int] = SEEDS) -> dict[str, Any]:
    """Follow an answer, and say what came of it; an episode without success counts with all its actions."""
    prompt, task, n, file = answer
    n_rules, lengths = follow(prompt, task, file, seeds)
    failed = [seed for seed, length in lengths.items() if length is None]
    return {
        "prompt": prompt,
        "task": task,
        "answer": n,
        "rules": n_rules,
        "success": 1 - len(failed) / len(lengths),
        "actions": round(float(np.mean([length or MAX_ACTIONS[prompt] for length in lengths.values()])), 1),
        "failed_seeds": " ".join(map(str, failed)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--prompts", nargs="+", choices=FOLDERS, metavar="PROMPT", default=list(FOLDERS))
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("FIRST", "LAST"), default=[SEEDS[0], SEEDS[-1]])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="answers side by side; default: one per core")
    args = parser.parse_args()
    files = [answer for answer in answers() if answer[0] in args.prompts]
    seeds = range(args.seeds[0], args.seeds[1] + 1)
    with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
        rows = list(tqdm(pool.map(functools.partial(row_of, seeds=seeds), files), total=len(files), unit="answer"))
    with args.results.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(
            f"{row['prompt']:<10}{row['task']:<30}{row['answer']:>2}{row['rules']:>4}{row['success']:>6.0%}{row['actions']:>6}"
        )


if __name__ == "__main__":
    main()
