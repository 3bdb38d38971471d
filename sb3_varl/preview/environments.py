"""Environments by their names, for the command line."""

import functools
import importlib
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator


def env_maker(name: str, arguments: dict[str, Any], frames: bool) -> Callable[[], gym.Env]:
    """
    Find out how an environment is made.

    :param name: As for ``gym.make``, ``"[module:]id"``; or ``"file.py:name"``, what the file registers by this name, a
        class in it, or a function that makes one
    :param arguments: Its arguments
    :param frames: Whether it should make pictures, if its class says that it can, or a function that makes it takes
        ``render_mode``
    :return: A function that makes it
    :raises FileNotFoundError: if there is no such file
    :raises ModuleNotFoundError: if there is no such module
    :raises ValueError: if nothing of this name is registered, or in the file
    """
    path, _, member = name.partition(".py:")
    make: Callable[..., gym.Env]
    module = _run(pathlib.Path(f"{path}.py"), member) if member else None
    if module is not None and member not in gym.registry:
        creator = make = _member(module, member, "an environment, or a function that makes one")
    else:
        creator = _creator(member or name)
        make = functools.partial(gym.make, member or name)
    if frames and _renders(creator):
        arguments = {"render_mode": "rgb_array", **arguments}
    elif frames and inspect.isfunction(creator):
        return functools.partial(_with_pictures_if_it_can, make, arguments)
    return lambda: make(**arguments)


def _with_pictures_if_it_can(make: Callable[..., gym.Env], arguments: dict[str, Any]) -> gym.Env:
    """As SB3's make_vec_env does, because what a function makes cannot be asked beforehand."""
    try:
        return make(**{"render_mode": "rgb_array", **arguments})
    except TypeError:
        return make(**arguments)


def can_render(name: str) -> bool:
    """
    Tell whether an environment makes pictures, as far as its class says.

    :param name: As for ``gym.make``
    :return: Whether it can be made with ``render_mode="rgb_array"``
    :raises ModuleNotFoundError: if there is no such module
    :raises ValueError: if nothing of this name is registered
    """
    return _renders(_creator(name))


def _renders(creator: Any) -> bool:
    return "rgb_array" in (getattr(creator, "metadata", None) or {}).get("render_modes", ())


def _creator(name: str) -> Any:
    module, _, env_id = name.rpartition(":")
    if module:
        importlib.import_module(module)
    try:
        entry_point = gym.spec(env_id).entry_point
    except gym.error.UnregisteredEnv as error:
        raise ValueError(
            f"The environment is {name!r}: {error} Expected a name that gym.register was given, behind the module or "
            'the file that registers it ("boat:Boat-v0", "boat.py:Boat-v0"), or a class in a file, or a function that '
            'makes one ("boat.py:Boat", "boat.py:make_env").'
        ) from None
    return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


def load_from_file(path: pathlib.Path, name: str, expected: str) -> Callable[..., Any]:
    """
    Take a function or a class from a file.

    :param path: The file, of Python
    :param name: Name of the function or the class
    :param expected: What it should be, for errors
    :return: The function or the class
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if there is none of this name in it
    """
    return _member(_run(path, name), name, expected)


def _run(path: pathlib.Path, name: str) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} to take {name} from.")
    return _run_once(path.resolve())


@functools.cache
def _run_once(path: pathlib.Path) -> ModuleType:
    """As ``python file.py`` would, but that a neighbour does not stand in for a module of the same name."""
    sys.path.append(str(path.parent))
    is_taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names
    spec = importlib.util.spec_from_file_location(f"{path.stem}_file" if is_taken else path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def _member(module: ModuleType, name: str, expected: str) -> Callable[..., Any]:
    member = getattr(module, name, None)
    if not callable(member):
        raise ValueError(f"{module.__file__} has no {name!r}, expected {expected}.")
    return member
