"""A recorded run as an advisor."""

import json
import os
import pathlib
from typing import Any

from sb3_varl.advice.history import LoggedQuery, read_queries
from sb3_varl.advice.log import encode_observation
from sb3_varl.advice.types import Advice, AdviceQuery, Briefing, Form, Rejection
from sb3_varl.rules import Rules


class ReplayAdvisor:
    """
    Answers from a recorded run, without a model and without a key. A run with the same seed, environment and
    settings as the recorded one, both with ``AdvisorCallback(..., blocking=True)``, ends with the same weights; rules
    that were there beforehand are followed from the first query on only.
    A state that was not recorded is rejected as ``not_recorded``, unless the run was advised by rules, which say
    something of any. What was answered in the preview about exchanged pictures is passed over. Of a query that a crash
    cut short, those answers are repeated that had come.

    :param path: The log folder of the recorded run
    :raises FileNotFoundError: if there is no log
    :raises ValueError: if the log holds no advice
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        # The same observation may have been asked about twice, with different answers.
        self._by_place: dict[tuple[int, int, str], Any] = {}
        self._by_observation: dict[str, Any] = {}
        self._rules: dict[int, str] = {}
        for query in read_queries(path):
            if not query.altered and (query.advice is not None or query.answers):
                self._remember(query)
        if not self._by_observation:
            raise ValueError(f"The advice log {self.path} holds no advice: its run ended before the first answer.")

    def _remember(self, query: LoggedQuery) -> None:
        for answer in query.answers:
            if answer.form == "rules":
                self._rules[query.index] = answer.text
        unanswered = query.unanswered(query.n_states)
        for state, (observation, action) in enumerate(
            zip(query.encoded_observations, query.read().actions, strict=True)
        ):
            if state not in unanswered:
                encoded = json.dumps(observation)
                self._by_place[query.index, state, encoded] = action
                self._by_observation[encoded] = action

    def form_for(self, briefing: Briefing) -> Form:
        """
        Say what was answered in the recorded run.

        :param briefing: What stays the same over all queries
        :return: ``"rules"`` or ``"actions"``
        """
        return "rules" if self._rules else "actions"

    def prepare(self, briefing: Briefing) -> None:
        """
        Find out before the training starts whether recorded rules are about its environment.

        :param briefing: What stays the same over all queries
        :raises ValueError: if none of them can be used there
        """
        read = [self._read(text, briefing) for text in self._rules.values()]
        if read and not any(map(len, read)):
            lost = "; ".join(str(rejected) for rules in read for rejected in rules.rejected[:3])
            raise ValueError(f"The rules in {self.path} cannot be used in this environment: {lost}.")

    @staticmethod
    def _read(text: str, briefing: Briefing) -> Rules:
        return Rules.parse(text, briefing.sheet, briefing.observation_space, briefing.action_space)

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Look the states up.

        :param query: The states in question
        :return: What was answered about them in the recorded run
        """
        texts = {index: text for index, text in self._rules.items() if index <= query.index}
        by_index = {index: rules for index in texts if len(rules := self._read(texts[index], query.briefing))}
        latest = by_index[max(by_index)] if by_index else None
        actions, rejected = [], []
        for i, state in enumerate(query.states):
            observation = json.dumps(encode_observation(state.observation))
            if observation in self._by_observation:
                action = self._by_place.get((query.index, i, observation), self._by_observation[observation])
            elif latest is not None:
                action = latest(state.observation)
            else:
                action = None
                rejected.append(Rejection("not_recorded", i))
            actions.append(action)
        return Advice(actions, rejected, standing=by_index.get(query.index))
