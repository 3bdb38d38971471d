"""What an advisor reads of a state, where that is not what the policy sees: the simulator's numbers beside pixels."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_varl.advice.types import Observation
from sb3_varl.arguments import ArgumentError


class Privileged:
    """
    Numbers that an environment tells beside its observation.

    :param env: The environments
    :param name: Name of an attribute or a method of each
    :raises ArgumentError: if there is none of this name, or it is not made of numbers
    """

    def __init__(self, env: VecEnv, name: str) -> None:
        self._env = env
        self._name = name
        try:
            # Asked first, because a SubprocVecEnv dies of an attribute that there is not.
            is_there = env.has_attr(name)
            value = env.get_attr(name)[0] if is_there else None
        except AttributeError:
            is_there = False
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise ArgumentError(
                f"observe is {name!r}, which an environment in another process could not send. Of a method the whole "
                "environment is sent along: make it a property."
            ) from error
        if not is_there:
            raise ArgumentError(
                f"observe is {name!r}, expected the name of an attribute or a method of the environment that says what "
                "the advisor reads, an array or a dictionary of arrays. It has none of this name."
            )
        self._is_method = callable(value)
        self.space = self._space(self.read()[0])

    def read(self) -> list[Observation]:
        """
        Read the present states.

        :return: For each environment an array, or a dictionary of arrays, of its own
        """
        values = self._env.env_method(self._name) if self._is_method else self._env.get_attr(self._name)
        return [self._numbers(value) for value in values]

    def _numbers(self, value: Any) -> Observation:
        if isinstance(value, dict):
            return {key: self._array(part) for key, part in value.items()}
        return self._array(value)

    def _array(self, value: Any) -> np.ndarray:
        array = np.array(value)  # a copy
        if array.dtype.kind not in "fiub":
            raise ArgumentError(
                f"The environment's {self._name}, which observe names, is {value!r}, expected numbers: an array or a "
                "dictionary of arrays."
            )
        return array.astype(np.float64)

    def _space(self, value: Observation) -> spaces.Space:
        if isinstance(value, dict):
            return spaces.Dict({key: self._space(part) for key, part in value.items()})
        return spaces.Box(-np.inf, np.inf, value.shape, np.float64)
