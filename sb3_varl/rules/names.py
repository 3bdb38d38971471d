"""What expressions call the numbers of an observation: the names of the task sheet, as code spells them."""

import keyword
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_varl.advice.pictures import is_picture
from sb3_varl.advice.types import Observation, ObservationSlice, TaskSheet
from sb3_varl.arguments import ArgumentError

_NOT_SPELT = re.compile(r"[^a-z0-9]+")
_IN_PLACE_OF_PICTURES = (
    "Have the advisor read numbers beside the picture, by AdvisorCallback(observe=...) and a task sheet that names "
    'them; a model can be asked for single actions instead, with form="actions".'
)
# Words that mean something else.
_RESERVED = frozenset({*keyword.kwlist, "true", "false", "none"})


@dataclass(frozen=True)
class Variable:
    """
    A named number of an observation, or several.

    :param name: Its name in expressions
    :param places: Where its numbers are among all that have a name
    :param before: Where those are that it had one moment earlier, or nothing where the observation does not tell
    :param meaning: Unit and frame of reference in a few words
    """

    name: str
    places: tuple[int, ...]
    before: tuple[int, ...] = ()
    meaning: str = ""


def spell(name: str) -> str:
    """
    Spell a name of the task sheet as expressions do: in lower case, with underscores.

    :param name: For instance ``"gripper position"``
    :return: For instance ``"gripper_position"``, or ``""`` if there is nothing to spell
    """
    spelt = _NOT_SPELT.sub("_", name.lower()).strip("_")
    return f"_{spelt}" if spelt[:1].isdigit() or spelt in _RESERVED else spelt


def check_names(named: Sequence[ObservationSlice]) -> None:
    """
    Refuse names that cannot be told apart.

    :param named: What has a name
    :raises ArgumentError: if one has no letter or digit, two are spelt alike in rules, or are of the same number
    """
    spelt_as: dict[str, str] = {}
    for i, part in enumerate(named):
        name = spell(part.name)
        if not name:
            raise ArgumentError(
                f"The task sheet's slice {part.name!r} has no letter or digit to name it with in rules. Rename it."
            )
        if name in spelt_as:
            raise ArgumentError(
                f"The task sheet's slices {spelt_as[name]!r} and {part.name!r} are both {name} in rules. "
                "Rename one of them."
            )
        spelt_as[name] = part.name
        for other in named[:i]:
            if other.key == part.key and other.start < part.stop and part.start < other.stop:
                raise ArgumentError(
                    f"The task sheet's slices {other.name!r} ({other.start} to {other.stop}) and {part.name!r} "
                    f"({part.start} to {part.stop}) overlap. Give each number one name."
                )


class Names:
    """
    The named numbers of an environment's observations.

    :param sheet: The environment's task sheet
    :param observation_space: The environment's observation space
    :raises ArgumentError: if nothing of an observation has a name, two names are spelt alike or are of the same number,
        or a slice is no part of the observation, or of something else than numbers
    """

    def __init__(self, sheet: TaskSheet | None, observation_space: spaces.Space) -> None:
        named = sheet.observation if sheet is not None else ()
        if not named and is_picture(observation_space):
            what = f"Rules are about numbers that have names, and {observation_space} is a picture."
            raise ArgumentError(f"{what} {_IN_PLACE_OF_PICTURES}")
        if not named:
            raise ArgumentError(
                f"Rules are about numbers that have names, and of {observation_space} none has any. Give the "
                "environment a task sheet that names the parts of its observation (TaskSheet(observation=...), or a "
                "YAML file of one), which sb3_varl.draft_sheet and python -m sb3_varl.draft make a draft of; a model "
                'can be asked for single actions instead, with form="actions".'
            )
        self._sizes: dict[str | None, int] = {}
        for part in named:
            self._sizes.setdefault(part.key, _size(observation_space, part.key, part.name))
        offsets = dict(zip(self._sizes, np.cumsum([0, *self._sizes.values()]).tolist(), strict=False))
        self.n_numbers = sum(self._sizes.values())
        self.variables: dict[str, Variable] = {}
        check_names(named)
        for part in named:
            places = _places(part.name, part.start, part.stop, self._sizes[part.key], offsets[part.key])
            before: tuple[int, ...] = ()
            if part.before is not None:
                stop = part.before + part.stop - part.start
                before = _places(part.name, part.before, stop, self._sizes[part.key], offsets[part.key])
                if set(before) & set(places):
                    raise ArgumentError(
                        f"The task sheet's slice {part.name!r} goes from {part.start} to {part.stop}, and what it was "
                        f"a moment before begins at {part.before}, among its own numbers. Name the place where the "
                        "observation has the earlier ones, or leave before out."
                    )
            name = spell(part.name)
            self.variables[name] = Variable(name, places, before, part.meaning)

    def numbers(self, observation: Observation) -> np.ndarray:
        """
        Read the numbers that have names, and those beside them.

        :param observation: An observation
        :return: Float64 numbers, ``(n_numbers,)``
        :raises ValueError: if the observation is of another space
        """
        return self._read(observation, ())

    def batch(self, observations: Observation) -> np.ndarray:
        """
        Read those of several observations.

        :param observations: An array whose first axis goes over observations, or a dictionary of such
        :return: Float64 numbers, ``(n, n_numbers)``
        :raises ValueError: if the observations are of another space
        """
        parts = observations.values() if isinstance(observations, Mapping) else [observations]
        shapes = {np.shape(part)[:1] for part in parts}
        if len(shapes) != 1 or shapes == {()}:
            raise ValueError(
                "Expected an array whose first axis goes over observations, or a dictionary of such of one length, "
                f"got {observations!r}."
            )
        return self._read(observations, shapes.pop())

    def _read(self, observation: Any, leading: tuple[int, ...]) -> np.ndarray:
        parts = []
        for key, size in self._sizes.items():
            if (key is not None) != isinstance(observation, Mapping):
                raise ValueError(f"Rules are about {'a Dict' if key is not None else 'an array'}, got {observation!r}.")
            if key is not None and key not in observation:
                given = ", ".join(map(repr, observation)) or "nothing"
                raise ValueError(f"Rules are about an observation's {key!r}, got one that has {given}.")
            part = np.asarray(observation if key is None else observation[key], np.float64)
            if part.size != size * math.prod(leading):
                where = "" if key is None else f" at {key!r}"
                raise ValueError(
                    f"Rules are about observations of {size} numbers{where}, got an array of shape {part.shape}."
                )
            parts.append(part.reshape(*leading, size))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _size(space: spaces.Space, key: str | None, name: str) -> int:
    part: Any = space
    if isinstance(space, spaces.Dict):
        if key not in space.spaces:
            raise ArgumentError(
                f"The task sheet's slice {name!r} has the key {key!r}, expected one of the observation's: "
                f"{', '.join(sorted(map(repr, space.spaces)))}."
            )
        part = space.spaces[key]
    elif key is not None:
        raise ArgumentError(f"The task sheet's slice {name!r} has the key {key!r}, but observations are {space}.")
    if not isinstance(part, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete | spaces.Discrete):
        raise ArgumentError(f"The task sheet's slice {name!r} is of {part}, which is not made of numbers.")
    if is_picture(part):
        raise ArgumentError(f"The task sheet's slice {name!r} is a part of an image. {_IN_PLACE_OF_PICTURES}")
    return math.prod(part.shape or ())


def _places(name: str, start: int, stop: int, size: int, offset: int) -> tuple[int, ...]:
    if not 0 <= start < stop <= size:
        raise ArgumentError(
            f"The task sheet's slice {name!r} goes from {start} to {stop}, which is no part of {size} numbers."
        )
    return tuple(range(offset + start, offset + stop))
