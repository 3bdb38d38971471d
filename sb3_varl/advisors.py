"""Advisors by name, for configuration files and command lines."""

from typing import Any

from sb3_varl.advice import Advisor


def make_advisor(name: str, task: str | None = None, **kwargs: Any) -> Advisor:
    """
    Make an advisor from its name.

    :param name: ``"simulated/<task>"`` for a :class:`~sb3_varl.metaworld.ScriptedAdvisor` of a Meta-World task,
        ``"replay/<folder>"`` for a :class:`~sb3_varl.advice_log.ReplayAdvisor` of an advice log, and anything else is
        a litellm model string such as ``"openai/gpt-5"`` for a :class:`~sb3_varl.vlm.VLMAdvisor`
    :param task: The task in words, for a VLM
    :param kwargs: Further arguments of the advisor
    :return: The advisor
    :raises TypeError: if the advisor takes no such argument
    :raises ValueError: if an argument is out of its range
    """
    kind, _, rest = name.partition("/")
    if kind == "simulated":
        from sb3_varl.metaworld import ScriptedAdvisor

        return ScriptedAdvisor(rest, **kwargs)
    if kind == "replay":
        from sb3_varl.advice_log import ReplayAdvisor

        return ReplayAdvisor(rest, **kwargs)
    from sb3_varl.vlm import VLMAdvisor

    return VLMAdvisor(name, task, **kwargs)
