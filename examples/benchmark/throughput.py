"""
How fast VARL is beside SAC, whether slow advice makes training wait, and what the guidance costs.

    python examples/benchmark/throughput.py                  # all of it, a quarter of an hour on one CPU core
    python examples/benchmark/throughput.py --only updates stalls
    python examples/benchmark/throughput.py --device cuda

Every contestant lives in a process of its own, pinned to the same core. They take turns, so that whatever else the
machine does hits all of them alike, and each turn gives one ratio to SAC. With ``pip install sbx-rl`` beside this
package, sbx's SAC, in JAX, takes part. Prints tables, and writes ``throughput.csv`` and ``profile.png`` into ``--out``.
"""

import argparse
import contextlib
import csv
import ctypes.util
import functools
import importlib.util
import json
import multiprocessing
import os
import pathlib
import resource
import statistics
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

if not os.environ.get("DISPLAY") and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # rendering without a screen

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger
from tqdm import tqdm

SECTIONS = ("updates", "images", "learning", "stalls", "guidance", "profile")
TASK = "button-press-topdown-v3"
LATENCY = 30.0
GUIDANCE_SIZES = (100, 10_000, 1_000_000)
N_ADVICE = 192  # what three queries of 64 states give

# Contestants: algorithm, its arguments, rows of guidance, and the share of them whose gate is open.
# In a run of the quickstart that share was 0.8 right after the first query, and a fifth or less for most of the time.
Row = tuple[str, dict[str, Any], int, float]
SAC_ROW: dict[str, Row] = {"SAC": ("SAC", {}, 0, 0.0)}
DEFAULT_ROWS: dict[str, Row] = {
    "VARL, unadvised": ("VARL", {}, 0, 0.0),
    "VARL, a fifth of the gates open": ("VARL", {}, N_ADVICE, 0.2),
    "VARL, every gate open": ("VARL", {}, N_ADVICE, 1.0),
}
FAST_ROWS: dict[str, Row] = {
    name.replace("VARL", "VARL(fast=True)"): (algorithm, {"fast": True}, n, share)
    for name, (algorithm, _, n, share) in DEFAULT_ROWS.items()
}
SBX_ROW: dict[str, Row] = {"sbx's SAC (JAX)": ("sbx", {}, 0, 0.0)}


class RandomEnv(gym.Env):
    """Observations of a size, and nothing else: what an update costs does not depend on what is in them."""

    def __init__(self, image: bool) -> None:
        self.observation_space = (
            spaces.Box(0, 255, (3, 64, 64), np.uint8) if image else spaces.Box(-np.inf, np.inf, (39,), np.float64)
        )
        self.action_space = spaces.Box(-1, 1, (4,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> Any:
        return self.observation_space.sample(), float(action[0]), False, False, {}


def make_env(kind: str) -> gym.Env:
    if kind != "metaworld":
        return RandomEnv(image=kind == "image")
    return gym.make(f"sb3_varl.metaworld:SparseMetaWorld/{TASK}", render_mode="rgb_array", max_episode_steps=150)


def make_model(algorithm: str, kwargs: dict[str, Any], n_advice: int, share_open: float, env: str, device: str) -> Any:
    policy = "CnnPolicy" if env == "image" else "MlpPolicy"
    # Without a learning rate everything is computed as ever, but the share of open gates stays what it is.
    kwargs = {"learning_rate": 0.0, "learning_starts": 500, "buffer_size": 5000, "seed": 0, "device": device, **kwargs}
    if algorithm == "sbx":
        import sbx

        del kwargs["device"]
        model = sbx.SAC(policy, make_env(env), **kwargs)
    elif algorithm == "SAC":
        model = SAC(policy, make_env(env), **kwargs)
    else:
        from sb3_varl import VARL

        model = VARL(policy, make_env(env), shaping_steps=10**9, guidance_buffer_size=max(n_advice, 10_000), **kwargs)
    model.learn(500, log_interval=None)
    model.set_logger(Logger(folder=None, output_formats=[]))
    if n_advice:
        rows = np.arange(n_advice) % min(n_advice, 500)
        observations = model.replay_buffer.observations[:500, 0]
        actions, _ = model.predict(observations, deterministic=True)
        actions[: int(500 * share_open)] = np.where(actions[: int(500 * share_open)] > 0, -0.9, 0.9)
        order = np.random.default_rng(0).permutation(500)
        model.guidance_buffer.extend(
            {
                "observations/observation": observations[order][rows],
                "actions": actions[order][rows],
                "steps": np.zeros(n_advice, dtype=int),
            }
        )
    return model


class Timer(BaseCallback):
    """When each step was."""

    def _on_training_start(self) -> None:
        self.times: list[float] = []

    def _on_step(self) -> bool:
        self.times.append(time.perf_counter())
        return True


def wait_for(model: Any) -> None:
    if hasattr(model, "qf"):  # JAX
        import jax

        jax.block_until_ready(model.policy.qf_state.params)
    elif model.device.type == "cuda":
        th.cuda.synchronize()


def update(model: Any, n: int) -> float:
    """Seconds for an update, called one by one as ``train_freq=1`` does."""
    wait_for(model)
    start = time.perf_counter()
    for _ in range(n):
        model.train(gradient_steps=1, batch_size=256)
    wait_for(model)
    return (time.perf_counter() - start) / n


def learn(model: Any, n: int) -> float:
    """Seconds for an environment step with its update."""
    start = time.perf_counter()
    model.learn(n, reset_num_timesteps=False, log_interval=None)
    wait_for(model)
    return (time.perf_counter() - start) / n


def learn_with_advice(model: Any, n: int, advised: bool) -> dict[str, float]:
    """Seconds for an environment step while an answer is awaited, or without an advisor; and for a frame."""
    from sb3_varl import AdvisorCallback, VLMAdvisor

    n_states, timer, rendering = 16, Timer(), []
    callbacks: list[BaseCallback] = [timer]
    env = model.get_env()
    if advised:
        render = env.env_method

        def timed_render(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            frames = render(*args, **kwargs)
            rendering.append(time.perf_counter() - start)
            return frames

        env.env_method = timed_render
        answer = json.dumps({"advice": [{"state": i, "action": [0.1, 0.2, 0.3, 0.4]} for i in range(n_states)]})
        # Everything is real but the network: the prompt, the pictures, the thread, the log and the parsing.
        advisor = VLMAdvisor(
            "openai/mock",
            api_base="http://localhost/v1",  # nothing is sent there
            completion_kwargs={"mock_response": answer, "mock_delay": LATENCY},
        )
        callbacks.append(
            AdvisorCallback(
                advisor,
                task="Press the button.",
                n_queries=1,
                first_query=model.num_timesteps + 64,
                states_per_query=n_states,
                window=64,
                log_path=tempfile.mkdtemp(),
            )
        )
    model.learn(n, callback=CallbackList(callbacks), reset_num_timesteps=False, log_interval=None)
    if advised:
        env.env_method = render
    model.guidance_buffer.reset()
    awaited = np.diff(timer.times[80:])
    return {"step": float(awaited.mean()), "frame": float(np.mean(rendering or [np.nan])), "frames": len(rendering)}


def profile(model: Any, n: int) -> dict[str, float]:
    """Seconds of an update by what is done in them."""
    from stable_baselines3.sac import sac

    from sb3_varl import fast_sac, mlp, varl

    stages: list[tuple[str, float]] = []
    spent: dict[str, float] = {}

    def timed(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if any(running == "shaping term" for running, _ in stages):
                return function(*args, **kwargs)
            stages.append((stage, 0.0))
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                total = time.perf_counter() - start
                _, inner = stages.pop()
                spent[stage] = spent.get(stage, 0.0) + total - inner
                if stages:
                    stages[-1] = (stages[-1][0], stages[-1][1] + total)

        return wrapper

    for owner, name, stage in [
        (model.replay_buffer, "sample", "replay buffer"),
        (type(model.actor), "action_log_prob", "forward"),
        (type(model.critic), "forward", "forward"),
        (mlp.Mlp, "forward", "forward"),
        (fast_sac.FastActor, "forward", "forward"),
        (fast_sac.FastSAC, "_act", "forward"),
        (mlp.Mlp, "add_gradients", "backward"),
        (mlp.Mlp, "input_gradient", "backward"),
        (th.Tensor, "backward", "backward"),
        (th.autograd, "backward", "backward"),
        (sac, "polyak_update", "target networks"),
        (th, "_foreach_lerp_", "target networks"),
        (varl._ShapingTerm, "add_gradient", "shaping term"),
        (varl._ShapingTerm, "sample", "shaping term"),
        (varl._ShapingTerm, "gradient", "shaping term"),
        *(
            (optimizer, name, "Adam")
            for optimizer in (model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer)
            for name in ("step", "zero_grad")
        ),
    ]:
        setattr(owner, name, timed(getattr(owner, name), stage))
    update(model, n)
    spent.clear()
    total = update(model, n)
    by_stage = {stage: seconds / n for stage, seconds in spent.items()}
    return {**by_stage, "losses and Python": total - sum(by_stage.values())}


def products(model: Any, n: int) -> dict[str, float]:
    """Seconds of the matrix products of an update by themselves, by PyTorch's BLAS and as ``fast=True`` has them."""
    from sb3_varl import fast_sac, mlp

    factors: list[tuple[th.Tensor, th.Tensor]] = []
    product: Callable[..., th.Tensor] = mlp.product

    def recorded(x: th.Tensor, weight: th.Tensor, *args: Any) -> th.Tensor:
        factors.append((th.randn_like(x), th.randn_like(weight)))
        return product(x, weight, *args)

    with unittest.mock.patch.object(fast_sac, "product", recorded):
        model.train(1, 256)
    seconds = {}
    for name, multiply in {"PyTorch's": lambda x, w: th.mm(x, w.t()), "oneDNN's": product}.items():
        for _ in range(2):  # the first time is to warm up
            start = time.perf_counter()
            for _ in range(n):
                for pair in factors:
                    multiply(*pair)
            seconds[name] = (time.perf_counter() - start) / n
    return seconds


MEASUREMENTS: dict[str, Callable[..., Any]] = {
    "update": update,
    "learn": learn,
    "advice": learn_with_advice,
    "profile": profile,
    "products": products,
}


def work(connection: Connection, cores: int, *contestant: Any) -> None:
    """A process with one model, which measures what it is told to."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    th.set_num_threads(cores)
    model = make_model(*contestant)
    connection.send("ready")
    while (command := connection.recv()) is not None:
        name, arguments = command
        result = MEASUREMENTS[name](model, *arguments)
        connection.send((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    model.get_env().close()


class Contestant:
    """A model in a process of its own."""

    def __init__(self, args: argparse.Namespace, row: Row, env: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, args.cores, *row, env, args.device))
        self.process.start()
        other.close()
        self._receive()

    def __call__(self, measurement: str, *arguments: Any) -> Any:
        self.connection.send((measurement, arguments))
        result, self.megabytes = self._receive()
        return result

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            raise RuntimeError("A contestant has failed; its own error message is above.") from None

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(None)
        self.process.join()


@contextlib.contextmanager
def contest(args: argparse.Namespace, rows: dict[str, Row], env: str) -> Iterator[dict[str, Contestant]]:
    contestants: dict[str, Contestant] = {}
    try:
        for name, row in tqdm(rows.items(), desc="starting", leave=False):
            contestants[name] = Contestant(args, row, env)
        yield contestants
    finally:
        for contestant in contestants.values():
            contestant.close()


class Report:
    """A table in a file, where the rows of a section replace those of an earlier run."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def begin(self, section: str) -> None:
        self.rows = [row for row in self.rows if row["section"] != section]

    def add(self, section: str, name: str, metric: str, values: list[float]) -> None:
        quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        self.rows.append(
            {"section": section, "contestant": name, "metric": metric, "n": len(values)}
            | dict(zip(("q25", "median", "q75"), (f"{value:.5g}" for value in quartiles), strict=True))
        )

    def write(self) -> None:
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)


def race(
    args: argparse.Namespace,
    report: Report,
    section: str,
    rows: dict[str, Row],
    env: str,
    measurement: str,
    n: int,
) -> None:
    """Let all take turns, and print each one's speed and its ratio to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    with contest(args, rows, env) as contestants:
        for contestant in contestants.values():
            contestant(measurement, n)
        for _ in tqdm(range(args.repeats), desc=section, leave=False):
            for name, contestant in contestants.items():
                seconds[name].append(contestant(measurement, n))
        megabytes = {name: contestant.megabytes for name, contestant in contestants.items()}
    first = seconds[next(iter(rows))]
    print(f"{'':46}{'ms':>8}{'per s':>8}{'ratio':>8}  (quartiles)    peak MB")
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(first, own, strict=True)]
        median = statistics.median(own)
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        speed = f"{1e3 * median:8.2f}{1 / median:8.1f}{middle:8.2f}  ({low:.2f}-{high:.2f})"
        print(f"{name:46}{speed}{megabytes[name]:13.0f}")
        report.add(section, name, "milliseconds", [1e3 * value for value in own])
        report.add(section, name, "ratio", ratios)
        report.add(section, name, "peak_megabytes", [megabytes[name]])


def run_updates(args: argparse.Namespace, report: Report) -> None:
    print("\nGradient updates: 39 observations, 4 actions, 256x256 networks, batches of 256")
    race(args, report, "updates", SAC_ROW | DEFAULT_ROWS | FAST_ROWS | args.sbx, "state", "update", args.updates)


def run_images(args: argparse.Namespace, report: Report) -> None:
    print("\nGradient updates: images of 3x64x64, SB3's NatureCNN, batches of 256")
    rows = {name: row for name, row in (DEFAULT_ROWS | FAST_ROWS).items() if "every gate" not in name}
    race(args, report, "images", SAC_ROW | rows, "image", "update", max(1, args.updates // 10))


def run_learning(args: argparse.Namespace, report: Report) -> None:
    print(f"\nEnvironment steps with one update each: Meta-World's {TASK}")
    rows = {name: row for name, row in (DEFAULT_ROWS | FAST_ROWS).items() if "every gate" not in name}
    race(args, report, "learning", SAC_ROW | rows | args.sbx, "metaworld", "learn", 3 * args.updates)


def run_stalls(args: argparse.Namespace, report: Report) -> None:
    print(f"\nEnvironment steps while an answer is awaited that takes {LATENCY:.0f} s, prompt and pictures included")
    rows = {name: ("VARL", {"fast": True}, 0, 0.0) for name in ("without", "with")}
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    with contest(args, rows, "metaworld") as contestants:
        for contestant in contestants.values():
            contestant("learn", 300)
        for _ in tqdm(range(args.stall_repeats), desc="stalls", leave=False):
            for name, contestant in contestants.items():
                result = contestant("advice", args.stall_steps, name == "with")
                seconds[name].append(result["step"])
    ratios = [a / b for a, b in zip(seconds["without"], seconds["with"], strict=True)]
    print(
        f"throughput with advice in flight / without: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f}-{max(ratios):.3f}, {len(ratios)} pairs of {args.stall_steps} steps)\n"
        f"rendering, before the question: {result['frames']} frames, {1e3 * result['frame']:.0f} ms each"
    )
    report.add("stalls", "with / without", "ratio", ratios)
    report.add("stalls", "frame", "milliseconds", [1e3 * result["frame"]])


def run_guidance(args: argparse.Namespace, report: Report) -> None:
    from sb3_varl import GuidanceBuffer

    print("\nShaped updates (fast=True) by rows in the guidance buffer")
    rows: dict[str, Row] = {f"{size:9,} rows": ("VARL", {"fast": True}, size, 0.2) for size in GUIDANCE_SIZES}
    race(args, report, "guidance", rows, "state", "update", args.updates)
    for kind in ("state", "image"):
        env = RandomEnv(image=kind == "image")
        buffer = GuidanceBuffer(10, env.observation_space, env.action_space, "cpu")
        size = sum(array.nbytes for array in (*buffer.observations.values(), buffer.actions, buffer.steps)) / 10
        print(f"{kind} task, {env.observation_space.shape} of {env.observation_space.dtype}: {size:,.0f} bytes per row")
        report.add("guidance", kind, "bytes_per_row", [size])


def run_profile(args: argparse.Namespace, report: Report) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ("SAC", "VARL, every gate open", "VARL(fast=True), every gate open")
    shares: dict[str, dict[str, float]] = {}
    everyone = SAC_ROW | DEFAULT_ROWS | FAST_ROWS
    with contest(args, {name: everyone[name] for name in names}, "state") as contestants:
        for name, contestant in contestants.items():
            shares[name] = contestant("profile", 5 * args.updates)
        limits = contestants[names[-1]]("products", args.updates)
    stages = ["replay buffer", "forward", "backward", "Adam", "target networks", "shaping term", "losses and Python"]
    print(f"\nWhere an update's time goes, ms\n{'':46}" + "".join(f"{stage:>18}" for stage in stages))
    for name, by_stage in shares.items():
        print(f"{name:46}" + "".join(f"{1e3 * by_stage.get(stage, 0):18.2f}" for stage in stages))
        for stage in stages:
            report.add("profile", name, stage, [1e3 * by_stage.get(stage, 0)])
    for name, seconds in limits.items():
        speed = f"{1e3 * seconds:.2f} ms, {1 / seconds:.0f} updates a second"
        print(f"the matrix products of fast=True by themselves, {name}: {speed}")
        report.add("profile", f"products, {name}", "milliseconds", [1e3 * seconds])

    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    labels = [*shares, *(f"matrix products alone, {name}" for name in limits)]
    colors = ("#999999", "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00", "#F0E442")
    left = np.zeros(len(shares))
    for stage, color in zip(stages, colors, strict=True):
        width = np.array([1e3 * by_stage.get(stage, 0) for by_stage in shares.values()])
        axes.barh(labels[: len(shares)], width, left=left, color=color, label=stage, edgecolor="white")
        left += width
    axes.barh(labels[len(shares) :], [1e3 * seconds for seconds in limits.values()], color="#444444")
    axes.invert_yaxis()
    axes.set(xlabel="ms for one gradient update", title="Where the time of an update goes")
    figure.legend(loc="outside lower center", ncols=4)
    figure.savefig(args.out / "profile.png", dpi=120)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cores", type=int, default=1, help="CPU cores that the contestants share")
    parser.add_argument("--repeats", type=int, default=21, help="turns of each contestant")
    parser.add_argument("--updates", type=int, default=50, help="updates in a turn")
    parser.add_argument("--stall-repeats", type=int, default=5)
    parser.add_argument("--stall-steps", type=int, default=3000)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("throughput"))
    args = parser.parse_args()
    args.sbx = SBX_ROW if importlib.util.find_spec("sbx") else {}
    return args


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out / "throughput.csv")
    run = {
        "updates": run_updates,
        "images": run_images,
        "learning": run_learning,
        "stalls": run_stalls,
        "guidance": run_guidance,
        "profile": run_profile,
    }
    for section in args.only:
        report.begin(section)
        run[section](args, report)
        report.write()


if __name__ == "__main__":
    main()
