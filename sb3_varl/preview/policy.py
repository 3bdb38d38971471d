"""How to act without training: at random, as a saved policy does, or by a function."""

import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv

from sb3_varl.advice.types import Observation
from sb3_varl.preview.environments import load_from_file

# From the observations of a VecEnv to its actions.
Act = Callable[[Any], np.ndarray]


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
        act = load_from_file(pathlib.Path(f"{name}.py"), function, "a function from an observation to an action")
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
