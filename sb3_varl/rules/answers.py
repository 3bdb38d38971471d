"""What answers say of the states that they are about, in whatever form they were asked for."""

import re
from collections.abc import Sequence

import numpy as np

from sb3_varl.advice.answer import ParsedAnswer, parse_answers, unread
from sb3_varl.advice.items import without_thoughts
from sb3_varl.advice.sheets import action_names
from sb3_varl.advice.types import Answer, Briefing, Observation, Rejection
from sb3_varl.arguments import ArgumentError
from sb3_varl.rules.rules import Rules

# What a model says that would leave its rules as they are.
_KEEP = re.compile(r"""["']?keep["']?\s*:\s*["']?true""", re.IGNORECASE)


def read_answers(answers: Sequence[Answer], observations: Sequence[Observation], briefing: Briefing) -> ParsedAnswer:
    """
    Read the advice out of answers about different states of a query.

    :param answers: The answers
    :param observations: The original observation of each state of the query
    :param briefing: What stays the same over all queries
    :return: The usable actions and the rejections of all, and the last rules
    """
    parsed = parse_answers(answers, briefing.action_space, action_names(briefing))
    # The last one about the same states: those before it were sent back.
    with_rules = {tuple(answer.states): answer for answer in answers if answer.form == "rules"}
    for answer in with_rules.values():
        read = read_rules(answer.text, answer.states, observations, briefing)
        parsed = ParsedAnswer(
            {**parsed.actions, **read.actions}, (*parsed.rejected, *read.rejected), read.standing or parsed.standing
        )
    return parsed


def read_rules(
    text: str, states: Sequence[int], observations: Sequence[Observation], briefing: Briefing
) -> ParsedAnswer:
    """
    Read rules, and what they say of some states.

    :param text: The model's words
    :param states: Indices of the states
    :param observations: The original observation of each state of the query
    :param briefing: What stays the same over all queries
    :return: What they say, which is nothing if those before are to be kept; each rule that was rejected, which is about
        no state in particular; and the rules. If there are none, all states are rejected for the first reason; where
        the reading itself fails, for that (see :func:`~sb3_varl.advice.answer.unread`)
    :raises ArgumentError: if the task sheet does not fit the environment
    """
    try:
        return _read_rules(text, states, observations, briefing)
    except ArgumentError:
        raise
    except Exception as error:
        return unread(error, states)


def _read_rules(
    text: str, states: Sequence[int], observations: Sequence[Observation], briefing: Briefing
) -> ParsedAnswer:
    rules = Rules.parse(text, briefing.sheet, briefing.observation_space, briefing.action_space)
    rejected = [Rejection(lost.reason, None, str(lost)) for lost in rules.rejected]
    found_none = any(lost.reason == "no_rules" for lost in rejected)
    if found_none and _KEEP.search(without_thoughts(text)):
        return ParsedAnswer({}, ())
    if not len(rules):
        first = rejected[0] if rejected else Rejection("no_rules")
        return ParsedAnswer({}, tuple(Rejection(first.reason, state, first.example) for state in states))
    actions: dict[int, np.ndarray] = {}
    for state in states:
        action = rules(observations[state])
        if action is not None:
            actions[state] = action
    rules.undefined.clear()
    return ParsedAnswer(actions, tuple(rejected), rules)
