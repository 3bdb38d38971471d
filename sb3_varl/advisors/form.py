"""What somebody who advises in words is asked for: rules, or an action for each state."""

import logging
from typing import Any

from sb3_varl.advice.types import Briefing, Form
from sb3_varl.arguments import ArgumentError
from sb3_varl.rules.names import Names

logger = logging.getLogger(__name__)


def check_form(form: Any) -> None:
    """
    Check an argument ``form``.

    :param form: What was given
    :raises ArgumentError: if it is neither a form nor ``None``
    """
    if form not in (None, "actions", "rules"):
        raise ArgumentError(f'form is {form!r}, expected "rules", "actions" or None.')


class UsualForm:
    """
    What is asked for in an environment unless somebody wants something else. Says once what is wrong with a task
    sheet's names, where that is why it is no rules.

    :param who_is: Who is asked, with the verb: ``"You are"``
    """

    def __init__(self, who_is: str) -> None:
        self.who_is = who_is
        self._has_said_why = False

    def __call__(self, briefing: Briefing) -> Form:
        """
        Choose.

        :param briefing: What stays the same over all queries
        :return: ``"rules"`` where the task sheet names the numbers of an observation, and ``"actions"`` elsewhere
        """
        if briefing.sheet is None or not briefing.sheet.observation:
            return "actions"
        try:
            Names(briefing.sheet, briefing.observation_space)
        except ArgumentError as error:
            if not self._has_said_why:
                logger.warning("%s asked for actions, and not for rules: %s", self.who_is, error)
                self._has_said_why = True
            return "actions"
        return "rules"
