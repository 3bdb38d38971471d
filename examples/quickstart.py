"""
SAC and VARL side by side on a sparse Meta-World task.

    python examples/quickstart.py                                  # recorded rules of a real model: no key, no cost
    python examples/quickstart.py --advisor simulated              # a scripted expert, made worse, in six queries
    python examples/quickstart.py --advisor openai/gpt-6.1-sol     # a real vision-language model

Prints a table of the success rate over the steps and writes two pictures into the folder ``--out``:
``success.png``, the learning curves, and ``advice.png``, the frames that were asked about with the executed and
the suggested action drawn on each.
"""

import argparse
import ctypes.util
import datetime
import multiprocessing
import os
import pathlib
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

if not os.environ.get("DISPLAY") and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # rendering without a screen

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_varl import SPARSE, VARL, Advisor, AdvisorCallback, LayerNormMlpPolicy, RulesAdvisor, VLMAdvisor
from sb3_varl.advice.log import read_records
from sb3_varl.advisors import EXAMPLE_MODEL
from sb3_varl.metaworld import TASKS, ScriptedAdvisor
from sb3_varl.training.callback import N_QUERIES

# An action holds for 3 steps of the simulation, so an episode lasts as long as 150 of Meta-World's own steps.
ENV_KWARGS: dict[str, Any] = {"frame_skip": 3, "max_episode_steps": 50}

# Both algorithms get these. What they are good for is in docs/tips.md, under "What helps after the cutoff".
SETTINGS: dict[str, Any] = {
    **SPARSE,
    "learning_starts": 300,
    "policy_kwargs": {"log_std_init": -2.5, "optimizer_kwargs": {"fused": True}},
}
# VARL asks from step 300 on, all within the next 4200 steps, and its cutoff is at step 6000.
FIRST_QUERY, QUERY_PERIOD, WINDOW, SHAPING_STEPS = 300, 4200, 300, 6000

# Evaluations that the last line is the mean of.
N_LAST = 3
N_QUERIES_SHOWN, N_FRAMES = 3, 6
ARROW_LENGTH = 0.15  # metres for an action of 1
BLUE, SKY, ORANGE, GREY = "#0072B2", "#56B4E9", "#D55E00", "#595959"

Curve = tuple[np.ndarray, np.ndarray]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="push-v3", choices=TASKS, metavar="TASK")
    parser.add_argument(
        "--advisor",
        default="recorded",
        help="recorded (rules that a large multimodal model wrote for each task), simulated, or a litellm model string "
        f"such as {EXAMPLE_MODEL}; default: recorded",
    )
    parser.add_argument("--model", dest="advisor", help="the same as --advisor")
    parser.add_argument("--form", choices=("rules", "actions"), help="what a model is asked for; default: rules")
    parser.add_argument("--api-base", help="URL of an OpenAI-compatible server of your own")
    parser.add_argument("--steps", type=int, default=9_000, help="environment steps of each of the two runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, help="default: 6, or for rules 1, or a model's 3")
    parser.add_argument("--states-per-query", type=int, default=32)
    parser.add_argument("--evaluations", type=int, default=9, help="evaluations on the way")
    parser.add_argument("--episodes", type=int, default=20, help="episodes of each evaluation")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("quickstart"))
    args = parser.parse_args()
    if args.steps < args.evaluations:
        parser.error(f"--steps is {args.steps}, but there are {args.evaluations} evaluations to make on the way")
    n_queries = N_QUERIES if args.queries is None else args.queries
    if not 1 <= n_queries * args.states_per_query <= QUERY_PERIOD:
        parser.error(
            f"--queries {n_queries} of --states-per-query {args.states_per_query} do not fit: "
            f"there must be between 1 and {QUERY_PERIOD} states in all"
        )
    return args


def make_env(task: str, seed: int, render_mode: str | None = None) -> gym.Env:
    env = gym.make(f"SparseMetaWorld/{task}", render_mode=render_mode, **ENV_KWARGS)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    return env


def normalised(env: gym.Env, training: bool = True) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: Monitor(env)]), training=training, norm_reward=False)


def make_advisor(args: argparse.Namespace) -> Advisor:
    if args.advisor == "simulated":
        print("The advisor is SIMULATED: a scripted expert with noise and errors. Ask a real one with --advisor.")
        return ScriptedAdvisor(args.task, seed=args.seed)
    if args.advisor == "recorded":
        print("The advisor is RECORDED: rules that a large multimodal model once wrote.")
        return RulesAdvisor.recorded(args.task)
    return VLMAdvisor(args.advisor, form=args.form, api_base=args.api_base)


def train(model: SAC, args: argparse.Namespace, advice: AdvisorCallback | None = None) -> Curve:
    """
    Train a model and evaluate it along the way.

    :return: The steps of the evaluations, and the success rate at each
    """
    name = type(model).__name__
    model.set_logger(configure(str(args.out / name), ["csv"]))
    env = normalised(make_env(args.task, seed=1000 + args.seed), training=False)
    evaluation = EvalCallback(
        env,
        eval_freq=args.steps // args.evaluations,
        n_eval_episodes=args.episodes,
        log_path=str(args.out / name),
        verbose=0,
    )
    model.learn(args.steps, callback=[evaluation, advice] if advice else evaluation, progress_bar=advice is not None)
    model.logger.close()
    env.close()
    return np.array(evaluation.evaluations_timesteps), np.mean(evaluation.evaluations_successes, axis=1)


def train_sac(args: argparse.Namespace) -> Curve:
    """Train SAC, in a process of its own beside VARL's."""
    th.set_num_threads(1)
    env = normalised(make_env(args.task, args.seed))
    curve = train(SAC(LayerNormMlpPolicy, env, seed=args.seed, **SETTINGS), args)
    env.close()
    return curve


def print_table(curves: dict[str, Curve], args: argparse.Namespace) -> None:
    names = list(curves)
    steps = curves[names[0]][0]
    rows = np.column_stack([curves[name][1] for name in names])
    print(f"\nSuccess in {args.episodes} episodes on {args.task}")
    print(f"{'steps':>8}" + "".join(f"{name:>8}" for name in names))
    for step, row in zip(steps, rows, strict=True):
        print(f"{step:>8}" + "".join(f"{value:>8.0%}" for value in row))
    print(f"{f'last {N_LAST}':>8}" + "".join(f"{value:>8.0%}" for value in rows[-N_LAST:].mean(axis=0)))
    header = ",".join(["steps", *names])
    np.savetxt(
        args.out / "success.csv", np.column_stack([steps, rows]), "%g", delimiter=",", header=header, comments=""
    )


def described(advisor: str) -> str:
    names = {"simulated": "simulated advisor", "recorded": "recorded rules of a multimodal model"}
    return names.get(advisor, advisor)


def plot_success(curves: dict[str, Curve], log: pathlib.Path, args: argparse.Namespace) -> None:
    query_steps = [record["step"] for record in read_records(log) if record["type"] == "query"]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, (steps, success)), color in zip(curves.items(), (BLUE, ORANGE), strict=True):
        axes.plot(steps, 100 * success, marker="o", markersize=4, color=color, label=name)
    for i, step in enumerate(query_steps):
        axes.axvline(step, color=GREY, linestyle=":", label="query" if i == 0 else None)
    if args.steps > SHAPING_STEPS:
        axes.axvline(SHAPING_STEPS, color=GREY, linestyle="--", label="cutoff of the advice")
    axes.set(
        title=f"{args.task}, reward only on success, {described(args.advisor)}",
        xlabel="environment steps",
        ylabel=f"success in {args.episodes} episodes (%)",
        xlim=(0, args.steps),
        ylim=(-3, 103),
    )
    figure.legend(loc="outside lower center", ncols=4)
    figure.savefig(args.out / "success.png", dpi=120)


def plot_advice(log: pathlib.Path, args: argparse.Namespace) -> None:
    """A row of frames for some of the queries, with arrows from the gripper along the two actions."""
    records = list(read_records(log))
    queries = {record["query"]: record for record in records if record["type"] == "query"}
    answers = {record["query"]: record["actions"] for record in records if record["type"] == "advice"}
    if not answers or any(state["frame"] is None for query in queries.values() for state in query["states"]):
        print("There are no frames to draw: see the warning above.")
        return
    shown = sorted({list(answers)[i] for i in np.linspace(0, len(answers) - 1, N_QUERIES_SHOWN, dtype=int)})
    env = make_env(args.task, args.seed)
    project = env.get_wrapper_attr("project")
    figure, axes = plt.subplots(
        len(shown), N_FRAMES, figsize=(2 * N_FRAMES, 2.4 * len(shown)), squeeze=False, layout="constrained"
    )
    for row, index in zip(axes, shown, strict=True):
        states, actions = queries[index]["states"], answers[index]
        for cell, i in zip(row, np.linspace(0, len(states) - 1, N_FRAMES, dtype=int), strict=True):
            gripper = np.array(states[i]["observation"][:3])
            cell.imshow(plt.imread(log / states[i]["frame"]))
            cell.set_title(f"query {index + 1}, step {states[i]['step']}", fontsize=9)
            cell.axis("off")
            for action, color in ((states[i]["executed_action"], ORANGE), (actions[i], SKY)):
                if action is not None:
                    (x, y), tip = project(gripper), project(gripper + ARROW_LENGTH * np.array(action[:3]))
                    cell.annotate("", tip, (x, y), arrowprops={"arrowstyle": "->", "color": color, "lw": 2})
    env.close()
    handles = [plt.Line2D([], [], color=color, lw=2) for color in (ORANGE, SKY)]
    figure.legend(
        handles,
        ["executed", f"suggested: {described(args.advisor)}"],
        loc="outside lower center",
        ncols=2,
    )
    figure.savefig(args.out / "advice.png", dpi=120)


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    th.set_num_threads(1)  # more hardly help networks this small

    log = args.out / "VARL" / f"advice-{datetime.datetime.now():%Y-%m-%d-%H-%M-%S}"
    try:
        advice = AdvisorCallback(
            make_advisor(args),
            n_queries=args.queries,
            first_query=FIRST_QUERY,
            query_freq=QUERY_PERIOD // (args.queries or N_QUERIES),
            states_per_query=args.states_per_query,
            window=WINDOW,
            blocking=True,  # these runs are so short that a VLM's answers would come too late for them
            log_path=log,
            verbose=1,
        )
    except ValueError as error:
        sys.exit(f"quickstart.py: {error}")

    print(f"\nTraining VARL and SAC side by side, {args.steps} steps each")
    others = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    sac = others.submit(train_sac, args)
    # A VLM looks at the frames. The other advisors do not, but the second picture is made of them.
    env = normalised(make_env(args.task, args.seed, render_mode="rgb_array"))
    varl = VARL(LayerNormMlpPolicy, env, seed=args.seed, shaping_steps=SHAPING_STEPS, fast=True, **SETTINGS)
    curves = {"VARL": train(varl, args, advice)}
    env.close()
    varl.save(args.out / "varl.zip")
    env.save(str(args.out / "vecnormalize.pkl"))
    print(
        f"{advice.usage.requests} request{'s' * (advice.usage.requests != 1)}, {advice.usage.prompt_tokens} tokens in, "
        f"{advice.usage.completion_tokens} out, {advice.usage.cost:.2f} US dollars"
    )

    curves["SAC"] = sac.result()
    others.shutdown()

    print_table(curves, args)
    plot_success(curves, log, args)
    plot_advice(log, args)
    print(f"\nIn {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")


if __name__ == "__main__":
    main()
