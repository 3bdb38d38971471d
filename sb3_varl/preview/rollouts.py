"""States of an environment to ask about without training: by random actions, a saved policy or a function."""

import functools
import importlib
import importlib.util
import pathlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from tqdm import tqdm

from sb3_varl.advice.types import Observation, VisitedState
from sb3_varl.training.state_collector import StateCollector

# From the observations of a VecEnv to its actions.
Act = Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class Step:
    """
    What came of an action.

    :param reward: The reward
    :param done: Whether the episode is over
    :param success: Whether the task is solved, by ``info["is_success"]`` or ``info["success"]``; ``None`` if the
        environment has neither
    """

    reward: float
    done: bool
    success: bool | None


@dataclass(frozen=True)
class Visit:
    """
    A rollout, and the states that were drawn from it.

    :param states: The drawn states, each with the number of actions before it as its ``step``
    :param actions: All actions, in the environment's units, in order
    :param steps: What came of each of them
    :param seed: What the environment was seeded with
    """

    states: tuple[VisitedState, ...]
    actions: tuple[np.ndarray, ...]
    steps: tuple["Step", ...]
    seed: int


def can_render(env_id: str) -> bool:
    """
    Tell whether an environment makes pictures, as far as its class says.

    :param env_id: Its name, as for ``gym.make``
    :return: Whether it can be made with ``render_mode="rgb_array"``
    :raises gymnasium.error.Error: if there is no such environment
    :raises ModuleNotFoundError: if there is no such module
    """
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    entry_point = gym.spec(name).entry_point
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return "rgb_array" in (getattr(creator, "metadata", None) or {}).get("render_modes", ())


def wrapped(env: VecEnv) -> VecEnv:
    """
    Wrap an environment as Stable-Baselines3's algorithms do, so that images have their channels first.

    :param env: The environment
    :return: The same
    """
    return BaseAlgorithm._wrap_env(env, monitor_wrapper=False)


def make_act(policy: str, env: VecEnv, seed: int) -> Act:
    """
    Find out how to act.

    :param policy: ``"random"``; a zip of any of Stable-Baselines3's algorithms, whose greedy actions are taken; or
        ``"file.py:function"`` with a function from an observation to an action
    :param env: The environment
    :param seed: Of random actions
    :return: A function from the environment's observations to its actions
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the name is none of these, or the policy is for other spaces
    """
    if policy == "random":
        env.action_space.seed(seed)
        return lambda observations: np.stack([env.action_space.sample() for _ in range(env.num_envs)])
    name, _, function = policy.partition(".py:")
    if function:
        act = _load_function(pathlib.Path(f"{name}.py"), function)
        return lambda observations: np.stack([np.asarray(act(observation)) for observation in _each(observations, env)])
    if policy.endswith(".zip"):
        return functools.partial(_predict, _load_policy(policy, env))
    raise ValueError(f"The policy is {policy!r}, expected random, a model's .zip, or file.py:function.")


def statistics_of_checkpoint(model: pathlib.Path) -> pathlib.Path | None:
    """
    Find the statistics of ``VecNormalize`` that ``CheckpointCallback`` saved with a model.

    :param model: The model's zip
    :return: The file, or ``None`` if there is none
    """
    path = model.parent / re.sub(r"_(\d+_steps)\.zip$", r"_vecnormalize_\1.pkl", model.name)
    return path if path.suffix == ".pkl" and path.is_file() else None


def statistics_of(model: pathlib.Path) -> pathlib.Path | None:
    """
    Find the statistics of ``VecNormalize`` that belong to a saved model: those of a checkpoint, ``vecnormalize.pkl``
    beside the model, or in the folder where rl-zoo has it, which is called as the run's own folder is, without its
    number.

    :param model: The model's zip
    :return: The file, or ``None`` if there is none of these
    """
    run = model.absolute().parent
    of_rl_zoo = [path for path in run.glob("*/vecnormalize.pkl") if run.name.startswith(f"{path.parent.name}_")]
    candidates = (statistics_of_checkpoint(model), run / "vecnormalize.pkl", *sorted(of_rl_zoo))
    return next((path for path in candidates if path is not None and path.is_file()), None)


def _predict(policy: BasePolicy, observations: Any) -> np.ndarray:
    return policy.predict(observations, deterministic=True)[0]


def _each(observations: Observation, env: VecEnv) -> list[Any]:
    if isinstance(observations, dict):
        return [{key: value[i] for key, value in observations.items()} for i in range(env.num_envs)]
    return list(observations)


def _load_function(path: pathlib.Path, name: str) -> Callable[[Any], Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} to take the function {name} from.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{path} has no function {name!r} from an observation to an action.")
    return function


def _load_policy(path: str, env: VecEnv) -> BasePolicy:
    # The policy alone, so that the algorithm need not be known, nor its package's version fit.
    data, parameters, _ = load_from_zip_file(path, device="cpu")
    if not data or "policy_class" not in data:
        raise ValueError(f"{path} is no model of Stable-Baselines3.")
    for name, mine in (("observation", env.observation_space), ("action", env.action_space)):
        if data[f"{name}_space"] != mine:
            raise ValueError(
                f"The policy in {path} is for the {name} space {data[f'{name}_space']}, and the environment has {mine}."
            )
    # The others have it among the keyword arguments.
    use_sde = {"use_sde": data["use_sde"]} if issubclass(data["policy_class"], ActorCriticPolicy) else {}
    arguments = {**use_sde, **data["policy_kwargs"]}
    policy: BasePolicy = data["policy_class"](
        data["observation_space"], data["action_space"], lambda progress: 0.0, **arguments
    )
    policy.load_state_dict(parameters["policy"])  # type: ignore[arg-type]
    policy.set_training_mode(False)
    return policy


def original(env: VecEnv, observations: Observation) -> Observation:
    """
    Undo what ``VecNormalize`` did to the latest observations.

    :param env: The environment
    :param observations: What it returned
    :return: The original observations
    """
    normalize = unwrap_vec_normalize(env)
    return observations if normalize is None else normalize.get_original_obs()


def step_of(reward: float, done: bool, info: dict[str, Any]) -> Step:
    """
    Tell what came of an action.

    :param reward: The reward
    :param done: Whether the episode is over
    :param info: What the environment says besides
    :return: The same in short
    """
    for name in ("is_success", "success"):
        if name in info:
            return Step(reward, done, bool(info[name]))
    return Step(reward, done, None)


def visit(env: VecEnv, act: Act, n_states: int, n_steps: int, frames: bool = True, seed: int = 0) -> Visit:
    """
    Act for some steps, and draw states on the way.

    :param env: One environment, of any wrappers
    :param act: From its observations to its actions
    :param n_states: Number of states
    :param n_steps: Number of steps that they are drawn from
    :param frames: Whether to take pictures of them
    :param seed: Of the environment, and of the draw
    :return: The states, and how to get there again
    :raises ValueError: if there are fewer steps than states, or the environment is not one
    """
    if env.num_envs != 1:
        raise ValueError(f"There are {env.num_envs} environments side by side, expected one.")
    if n_steps < n_states:
        raise ValueError(f"{n_states} states cannot be drawn from {n_steps} steps. Visit more steps, or fewer states.")
    collector = StateCollector(n_states, frames, np.random.default_rng(seed))
    collector.draw(range(0, n_steps, 1))
    env.seed(seed)
    observations: Any = env.reset()
    actions, steps = [], []
    for step in tqdm(range(n_steps), desc="visiting states", unit="step", leave=False):
        if collector.is_drawn(step):
            collector.visit(env, step, original(env, observations))
        actions.append(act(observations))
        collector.complete(actions[-1])
        observations, rewards, dones, infos = env.step(actions[-1])
        steps.append(step_of(float(rewards[0]), bool(dones[0]), infos[0]))
    return Visit(collector.take(), tuple(np.array(action[0]) for action in actions), tuple(steps), seed)
