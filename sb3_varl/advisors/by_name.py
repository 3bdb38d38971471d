"""
Advisors by name, for configuration files and command lines.

Another package can add a kind of its own, by an entry point of the group ``sb3_varl.advisors``. Its name is what stands
before the slash, and it leads to an :class:`AdvisorMaker`, a function or a class. With this in ``pyproject.toml``::

    [project.entry-points."sb3_varl.advisors"]
    planner = "my_package.planner:PlannerAdvisor"

``AdvisorCallback("planner/rrt", advisor_kwargs={"seconds": 2.0})`` asks ``PlannerAdvisor("rrt", None, seconds=2.0)``.
"""

import difflib
import importlib
import inspect
import pathlib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from typing import Any, Protocol

from sb3_varl.advice.log import FILE_NAME
from sb3_varl.advice.types import Advisor

# What docstrings, errors and help texts have for an example: a general model that takes pictures, whose price litellm
# knows, and whose end its provider has not announced.
EXAMPLE_MODEL = "openai/gpt-6.1-sol"

PLUGINS = "sb3_varl.advisors"

# Modules and classes. Those of other packages cannot take their place.
_BUILT_IN = {
    "human": ("sb3_varl.human", "HumanAdvisor"),
    "recorded": ("sb3_varl.advisors.rules_advisor", "RulesAdvisor.recorded"),
    "replay": ("sb3_varl.advisors.recorded", "ReplayAdvisor"),
    "rules": ("sb3_varl.advisors.rules_advisor", "RulesAdvisor.load"),
    "simulated": ("sb3_varl.metaworld", "ScriptedAdvisor"),
}


class AdvisorMaker(Protocol):
    """What an entry point of the group ``sb3_varl.advisors`` leads to."""

    def __call__(self, name: str, task: str | None, /, **kwargs: Any) -> Advisor:
        """
        Make an advisor.

        :param name: What stands behind the first slash of the advisor's name, perhaps nothing
        :param task: The task in words, or ``None`` if it is the environment's to say
        :param kwargs: The user's ``advisor_kwargs``; names that the signature does not have are refused before
        :return: The advisor
        """


def make_advisor(name: str, task: str | None = None, **kwargs: Any) -> Advisor:
    """
    Make an advisor from its name.

    :param name: ``"recorded/<task>"`` for a :class:`~sb3_varl.RulesAdvisor` with the recorded rules of a large
        multimodal model for a Meta-World task, ``"rules/<file or advice log>"`` for one with other rules,
        ``"human/<task>"`` for a :class:`~sb3_varl.HumanAdvisor`, who is asked on a web page of this machine,
        ``"simulated/<task>"`` for a :class:`~sb3_varl.metaworld.ScriptedAdvisor` of a Meta-World task,
        ``"replay/<folder>"`` for a :class:`~sb3_varl.ReplayAdvisor` of an advice log, ``"<kind>/<anything>"`` where an
        installed package has an entry point ``<kind>`` of the group ``sb3_varl.advisors``, and anything else is
        a litellm model string such as ``"openai/gpt-6.1-sol"`` for a :class:`~sb3_varl.VLMAdvisor`. An installed
        package goes before a provider of litellm's that has the same name
    :param task: The task in words, for a VLM
    :param kwargs: Further arguments of the advisor
    :return: The advisor
    :raises ImportError: if the package that has the advisor cannot be imported
    :raises TypeError: if the advisor takes no such argument, or another package's is no advisor
    :raises ValueError: if an argument is out of its range, or several packages have an advisor of this name
    """
    kind, _, rest = name.partition("/")
    if kind in _BUILT_IN:
        module, path = _BUILT_IN[kind]
        make = attrgetter(path)(importlib.import_module(module))
        check_arguments(make, kwargs)
        return make(rest, **kwargs)
    plugin = _plugin(kind)
    if plugin is not None:
        return _make_with(plugin, rest, task, kwargs)
    from sb3_varl.advisors.vlm import VLMAdvisor

    if "/" not in name and (meant := _meant(name)):
        raise ValueError(f"The advisor is {name!r}, which is no model's name. Did you mean {meant!r}?")
    check_arguments(VLMAdvisor, kwargs)
    return VLMAdvisor(name, task, **kwargs)


def _meant(name: str) -> str:
    """What a name without a kind may stand for, if that is there."""
    if pathlib.Path(name).is_file() or pathlib.Path("rules", name).is_file():
        return f"rules/{name}"
    if pathlib.Path(name, FILE_NAME).is_file():
        return f"replay/{name}"
    from sb3_varl.advisors.rules_advisor import recorded_tasks

    return f"recorded/{name}" if name in recorded_tasks() else ""


def is_model(name: str) -> bool:
    """
    Say whether an advisor's name is that of a model, for litellm.

    :param name: As :func:`make_advisor` knows it
    :return: Whether it is neither one of this package's own kinds nor one of another package's
    """
    kind = name.partition("/")[0]
    return kind not in _BUILT_IN and _plugin(kind) is None


def _plugin(kind: str) -> EntryPoint | None:
    found = list(entry_points(group=PLUGINS, name=kind))
    if len(found) > 1:
        packages = ", ".join(sorted(_package(plugin) for plugin in found))
        raise ValueError(f"Several packages have an advisor {kind!r}: {packages}. Uninstall all but one.")
    return found[0] if found else None


def _package(plugin: EntryPoint) -> str:
    return f"{plugin.dist.name} {plugin.dist.version}" if plugin.dist is not None else plugin.value


def _make_with(plugin: EntryPoint, rest: str, task: str | None, arguments: Mapping[str, Any]) -> Advisor:
    source = f"{plugin.value} of the package {_package(plugin)}"
    try:
        make = plugin.load()
    except Exception as error:  # whatever somebody else's module raises
        raise ImportError(
            f"The advisor {plugin.name!r} is {source}, which cannot be imported ({type(error).__name__}: {error}). "
            "Mend the package, or uninstall it."
        ) from error
    if not callable(make):
        raise TypeError(f"The advisor {plugin.name!r} is {source}, which is {make!r}, expected a function or a class.")
    check_arguments(make, arguments)
    advisor = make(rest, task, **arguments)
    if not isinstance(advisor, Advisor):
        raise TypeError(
            f"The advisor {plugin.name!r} is {source}, which made {advisor!r}, expected an object with a method "
            "advise(query)."
        )
    return advisor


def check_arguments(function: Callable[..., Any], names: Iterable[str], also: Iterable[str] = ()) -> None:
    """
    Find misspelt keyword arguments before they are passed on.

    :param function: The class or the function that is to be called
    :param names: Names of the arguments that it is to be called with
    :param also: Further names that are allowed
    :raises TypeError: if one of them is not known
    """
    arguments = _arguments(function)
    if arguments is None:
        return
    known = {*arguments, *also}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            called = getattr(function, "__name__", repr(function))
            raise TypeError(f"{called} takes no {name!r}.{hint} It takes {', '.join(sorted(known))}.")


def _arguments(function: Callable[..., Any]) -> set[str] | None:
    """
    Names of its arguments; where a class's constructor passes keywords on, also those of the next class's. ``None`` if
    it takes any.
    """
    functions: list[Any] = [function]
    if isinstance(function, type):
        functions = [vars(base)["__init__"] for base in function.__mro__[:-1] if "__init__" in vars(base)]
    names: set[str] = set()
    for each in functions:
        parameters = inspect.signature(each).parameters.values()
        names |= {
            parameter.name
            for parameter in parameters
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            return names - {"self"}
    return None if functions else names
