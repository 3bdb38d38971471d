"""The contestants of ``throughput.py``: a model each, in a process of its own, that measures what it is told to."""

import contextlib
import ctypes.util
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

if not os.environ.get("DISPLAY") and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # rendering without a screen

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger

TASK = "button-press-topdown-v3"
LATENCY = 30.0
PRODUCTS = ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise")
PARENTS = {"SAC": SAC, "TQC": TQC, "CrossQ": CrossQ}


class Row(NamedTuple):
    """
    A line of a table.

    :param algorithm: ``"sbx"``, or the name of a class of SB3, sb3-contrib or this package
    :param kwargs: Its arguments
    :param n_advice: Rows of guidance
    :param share_open: Share of them whose gate is open
    """

    algorithm: str
    kwargs: dict[str, Any]
    n_advice: int = 0
    share_open: float = 0.0


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


def make_model(row: Row, env: str, device: str) -> Any:
    algorithm, kwargs, n_advice, share_open = row
    policy = "CnnPolicy" if env == "image" else "MlpPolicy"
    # With next to no learning rate everything is computed as ever, but the share of open gates stays what it is.
    kwargs = {
        "learning_rate": 1e-12,
        "learning_starts": 500,
        "buffer_size": 5000,
        "seed": 0,
        "device": device,
        **kwargs,
    }
    if algorithm == "sbx":
        import sbx

        del kwargs["device"]
        model = sbx.SAC(policy, make_env(env), **kwargs)
    elif algorithm in PARENTS:
        model = PARENTS[algorithm](policy, make_env(env), **kwargs)
    else:
        import sb3_varl

        kwargs.update(shaping_steps=10**9, guidance_buffer_size=max(n_advice, 10_000))
        model = getattr(sb3_varl, algorithm)(policy, make_env(env), **kwargs)
        model._n_updates = 10_000  # as in the middle of a run, when fast updates have been compiled
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
    folder = tempfile.TemporaryDirectory()
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
        answer = json.dumps({"advice": [{"state": i, "action": [0.1, 0.2, 0.3, i / 100]} for i in range(n_states)]})
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
                log_path=folder.name,
            )
        )
    model.learn(n, callback=CallbackList(callbacks), reset_num_timesteps=False, log_interval=None)
    if advised:
        env.env_method = render
    folder.cleanup()
    model.guidance_buffer.reset()
    model.advice_progress.clear()  # or the next turn would have nothing left to ask
    awaited = np.diff(timer.times[80:])
    return {"step": float(awaited.mean()), "frame": float(np.mean(rendering or [np.nan])), "frames": len(rendering)}


def learn_by_rules(model: Any, n: int) -> dict[str, float]:
    """Seconds of an environment step that go to rules, which label states and are executed in half of the episodes."""
    from sb3_varl import AdvisorCallback
    from sb3_varl.training.labels import Labels
    from sb3_varl.training.roll_ins import RollIns

    settings = {"n_queries": 1, "first_query": model.num_timesteps + 64, "states_per_query": 16, "window": 64}
    with tempfile.TemporaryDirectory() as folder:
        callback = AdvisorCallback(f"recorded/{TASK}", blocking=True, frames=False, log_path=folder, **settings)
        model.learn(100, callback=callback, reset_num_timesteps=False, log_interval=None)
        with (
            timed(AdvisorCallback, "update_locals") as in_callback,
            timed(Labels, "add") as labels,
            timed(RollIns, "actions") as roll_ins,
        ):
            model.learn(n, callback=callback, reset_num_timesteps=False, log_interval=None)
    model.guidance_buffer.reset()
    model.advice_progress.clear()
    return {
        "labels": sum(labels) / n,
        "roll-ins": sum(roll_ins) / n,
        "all else in the callback": (sum(in_callback) - sum(labels)) / n,
    }


@contextlib.contextmanager
def timed(cls: type, name: str) -> Iterator[list[float]]:
    """Seconds of each call of a method."""
    method, seconds = getattr(cls, name), list[float]()

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = method(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result

    setattr(cls, name, call)
    try:
        yield seconds
    finally:
        setattr(cls, name, method)


def profile(model: Any, n: int) -> dict[str, float]:
    """Seconds of an update by what is done in them."""
    sample, sampling = model.replay_buffer.sample, 0.0

    def timed_sample(*args: Any, **kwargs: Any) -> Any:
        nonlocal sampling
        start = time.perf_counter()
        batch = sample(*args, **kwargs)
        sampling += time.perf_counter() - start
        return batch

    model.replay_buffer.sample = timed_sample
    update(model, n)
    sampling = 0.0
    total = update(model, n)
    sampling /= n
    model.replay_buffer.sample = sample
    with th.profiler.profile(activities=[th.profiler.ProfilerActivity.CPU]) as profiler:
        update(model, n)
    products = sum(e.self_cpu_time_total for e in profiler.key_averages() if e.key in PRODUCTS) / 1e6 / n
    return {"matrix products": products, "replay buffer": sampling, "all else": total - products - sampling}


MEASUREMENTS: dict[str, Callable[..., Any]] = {
    "update": update,
    "learn": learn,
    "advice": learn_with_advice,
    "rules": learn_by_rules,
    "profile": profile,
}


def work(connection: Connection, row: Row, env: str, device: str, cores: int) -> None:
    """A process with one model, which measures what it is told to."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    th.set_num_threads(cores)
    model = make_model(row, env, device)
    connection.send("ready")
    while (command := connection.recv()) is not None:
        name, arguments = command
        result = MEASUREMENTS[name](model, *arguments)
        connection.send((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    model.get_env().close()


class Contestant:
    """A model in a process of its own."""

    def __init__(self, row: Row, env: str, device: str, cores: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, row, env, device, cores))
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
