"""What an advisor may have besides ``advise()``, and what holds where it has not."""

from collections.abc import Callable
from typing import Any

from sb3_varl.advice.types import AdviceQuery, Advisor, Briefing, Form, StandingAdvice


def name_of(advisor: Advisor) -> str:
    """
    Say who an advisor is, for logs and pages.

    :param advisor: The advisor
    :return: What its attribute ``model`` says, or the name of its class
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


def prepare(advisor: Advisor, briefing: Briefing) -> None:
    """
    Have an advisor find out before training starts whether it can answer. Where it does not, it is taken to be able to.

    :param advisor: The advisor
    :param briefing: What stays the same over all queries
    """
    if method := _method(advisor, "prepare"):
        method(briefing)


def form_for(advisor: Advisor, briefing: Briefing) -> Form:
    """
    Say what an advisor's answers are.

    :param advisor: The advisor
    :param briefing: What stays the same over all queries
    :return: What it says, and ``"actions"`` where it says nothing
    :raises ValueError: if it says something else
    """
    method = _method(advisor, "form_for")
    form: Form = "actions" if method is None else method(briefing)
    if form not in ("rules", "actions"):
        raise ValueError(f'form_for() of {name_of(advisor)} returned {form!r}, expected "rules" or "actions".')
    return form


def chooses_form(advisor: Advisor) -> bool:
    """
    Say whether an advisor is asked for rules where it can be, and for actions elsewhere.

    :param advisor: The advisor
    :return: Whether its attribute ``form`` is ``None``
    """
    return getattr(advisor, "form", "actions") is None


def advises_unasked(advisor: Advisor) -> bool:
    """
    Say whether an advisor may advise in any state before it is asked anything.

    :param advisor: The advisor
    :return: Whether it has a method ``standing``
    """
    return _method(advisor, "standing") is not None


def standing(advisor: Advisor, briefing: Briefing) -> StandingAdvice | None:
    """
    Ask an advisor that is prepared what it advises in any state.

    :param advisor: The advisor
    :param briefing: What stays the same over all queries
    :return: The advice, or ``None`` if there is none before a query is answered
    """
    method = _method(advisor, "standing")
    return method(briefing) if method else None


def prompt(advisor: Advisor, query: AdviceQuery) -> str | None:
    """
    Say what an advisor is told.

    :param advisor: The advisor
    :param query: A query
    :return: The text, or ``None`` of an advisor that reads none
    """
    method = _method(advisor, "prompt")
    return str(method(query)) if method else None


def takes_pictures(advisor: Advisor) -> bool:
    """
    Say whether an advisor looks at the pictures of the states.

    :param advisor: The advisor
    :return: Whether it does, as far as it has found out
    """
    return bool(getattr(advisor, "takes_pictures", True))


def interrupt(advisor: Advisor) -> None:
    """
    Have an advisor break off what it is busy with, if it can.

    :param advisor: The advisor
    """
    if method := _method(advisor, "interrupt"):
        method()


def withdraw(advisor: Advisor) -> None:
    """
    Tell an advisor, if it can be told, that what it was asked is not needed any more.

    :param advisor: The advisor
    """
    if method := _method(advisor, "withdraw"):
        method()


def _method(advisor: Advisor, name: str) -> Callable[..., Any] | None:
    method = getattr(advisor, name, None)
    return method if callable(method) else None
