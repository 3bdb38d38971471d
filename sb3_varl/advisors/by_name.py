"""Advisors by name, for configuration files and command lines."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from sb3_varl.advice.types import Advisor


def make_advisor(name: str, task: str | None = None, **kwargs: Any) -> Advisor:
    """
    Make an advisor from its name.

    :param name: ``"simulated/<task>"`` for a :class:`~sb3_varl.metaworld.ScriptedAdvisor` of a Meta-World task,
        ``"replay/<folder>"`` for a :class:`~sb3_varl.ReplayAdvisor` of an advice log, and anything else is
        a litellm model string such as ``"openai/gpt-5"`` for a :class:`~sb3_varl.VLMAdvisor`
    :param task: The task in words, for a VLM
    :param kwargs: Further arguments of the advisor
    :return: The advisor
    :raises TypeError: if the advisor takes no such argument
    :raises ValueError: if an argument is out of its range
    """
    kind, _, rest = name.partition("/")
    if kind == "simulated":
        from sb3_varl.metaworld import ScriptedAdvisor

        check_arguments(ScriptedAdvisor, kwargs)
        return ScriptedAdvisor(rest, **kwargs)
    if kind == "replay":
        from sb3_varl.advisors.recorded import ReplayAdvisor

        check_arguments(ReplayAdvisor, kwargs)
        return ReplayAdvisor(rest, **kwargs)
    from sb3_varl.advisors.vlm import VLMAdvisor

    check_arguments(VLMAdvisor, kwargs)
    return VLMAdvisor(name, task, **kwargs)


def name_of(advisor: Advisor) -> str:
    """
    Say who an advisor is, for logs and pages.

    :param advisor: The advisor
    :return: The model's name, or that of the advisor's class
    """
    model = getattr(advisor, "model", None)
    return model if isinstance(model, str) else type(advisor).__name__


def task_of(advisor: Advisor, task: str | None) -> str | None:
    """
    Say what an advisor is asked to solve.

    :param advisor: The advisor; what its attribute ``task`` says, if it has one, goes first
    :param task: The task that it is given with its queries
    :return: The task in words, or ``None`` if neither knows one
    """
    own = getattr(advisor, "task", None)
    return own if isinstance(own, str) and own.strip() else task


def check_arguments(function: type, names: Iterable[str], also: Iterable[str] = ()) -> None:
    """
    Find misspelt keyword arguments before they are passed on.

    :param function: The class that is to be called
    :param names: Names of the arguments that it is to be called with
    :param also: Further names that are allowed
    :raises TypeError: if one of them is not known
    """
    known = {*_arguments(function), *also}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function.__name__} takes no {name!r}.{hint} It takes {', '.join(sorted(known))}.")


def _arguments(function: type) -> set[str]:
    """Names of a constructor's arguments; where it passes keywords on, also those of the next class's."""
    names: set[str] = set()
    for base in function.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            names |= {parameter.name for parameter in parameters if parameter.kind != parameter.VAR_POSITIONAL}
            if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
                break
            names.discard("kwargs")
    return names - {"self"}
