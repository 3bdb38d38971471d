"""Rules that are there beforehand, somebody's own or recorded ones, as an advisor."""

import difflib
import importlib
import logging
import os
import pathlib

from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import FILE_NAME as LOG_FILE_NAME
from sb3_varl.advice.types import Advice, AdviceQuery, Answer, Briefing, Form, Usage
from sb3_varl.rules import Rules
from sb3_varl.rules.rule import outline

logger = logging.getLogger(__name__)

_FOLDER = pathlib.Path(__file__).parent / "recorded_rules"
# Answers after a correction, which go before the first ones.
_ROUND_2 = ".round2"


class RulesAdvisor:
    """
    An advisor whose advice are rules, for every state and without a request.

    :param rules: The rules as JSON, as a model would write them (see :class:`~sb3_varl.Rules`)
    :param name: What it is called in logs and on pages
    :param goal: The goal that the rules are for, as the environment's task sheet says it; ``None`` for any
    :param partial: Whether rules that cannot be used in the environment are left out, as those of a model are, and not
        refused before the training starts
    :raises TypeError: if ``rules`` are not text
    """

    def __init__(self, rules: str, *, name: str = "rules", goal: str | None = None, partial: bool = False) -> None:
        if not isinstance(rules, str):
            raise TypeError(
                f"RulesAdvisor takes the text of rules, JSON, got {rules!r}. RulesAdvisor.load reads files."
            )
        self.text = rules
        self.model = name
        self.goal = goal
        self.partial = partial

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RulesAdvisor":
        """
        Take the rules of a file, or those that stood last in a run.

        :param path: A file of JSON, or of a model's answer as it came; if there is none, the one in the folder
            ``rules``, because ``"rules/mine.json"`` as an advisor's name looks like that; or the folder of an advice
            log, for the rules that its run ended with, where those that could not be used are left out again
        :return: The advisor
        :raises OSError: if there is no such file or log, or it cannot be read
        :raises ValueError: if it is no text, or no rules are in the log
        """
        places = [pathlib.Path(path), pathlib.Path("rules") / path]
        if (places[0] / LOG_FILE_NAME).is_file():
            # The name goes into models' zips, which hold no absolute path.
            shown = places[0].name if places[0].is_absolute() else path
            return cls(_latest_rules(places[0]), name=f"rules/{shown}", partial=True)
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            kind = "is a folder without an advice log" if places[0].is_dir() else "is no file of rules"
            tried = " and ".join(str(place.absolute()) for place in places)
            raise FileNotFoundError(
                f"{str(path)!r} {kind}, expected a file of rules, or the folder of an advice log. Looked for {tried}."
            )
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is no text in UTF-8, expected rules as JSON or an answer: {error}.") from None
        return cls(text, name=f"rules/{file.name}")

    @classmethod
    def recorded(cls, task: str, *, first: bool = False) -> "RulesAdvisor":
        """
        Take the recorded rules of a large multimodal model for a Meta-World task: the answer as it came, or, where
        there are two, the second one, given after the model was shown what had become of the first.

        :param task: One of :func:`recorded_tasks`, for instance ``"push-v3"``
        :param first: Whether to take the first answer in any case
        :return: The advisor
        :raises ValueError: if there are none for the task
        """
        tasks = recorded_tasks()
        if task not in tasks:
            near = difflib.get_close_matches(task, tasks)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"There are no recorded rules for {task!r}.{hint} There are for {', '.join(tasks)}.")
        second = _FOLDER / f"{task}{_ROUND_2}.txt"
        file = second if second.exists() and not first else _FOLDER / f"{task}.txt"
        goal = importlib.import_module("sb3_varl.metaworld").task_sheet(task).goal
        return cls(file.read_text(encoding="utf-8"), name=f"recorded/{task}", goal=goal)

    def prepare(self, briefing: Briefing) -> None:
        """
        Find out before the training starts whether the rules are about its environment.

        :param briefing: What stays the same over all queries
        :raises ValueError: if any of them cannot be used there, or none where some may be left out, or they are for
            another task
        """
        sheet = briefing.sheet
        if self.goal is not None and (sheet is None or sheet.goal != self.goal):
            raise ValueError(
                f"{self.model} is for the task {self.goal!r}, but the environment's is "
                f"{sheet.goal if sheet is not None else None!r}. Take the rules of its own task."
            )
        rules = self.standing(briefing)
        lost = "; ".join(map(str, rules.rejected[:3]))
        if not len(rules):
            raise ValueError(f"{self.model}: none of it can be used in this environment: {lost}.")
        if rules.rejected and not self.partial:
            which = (
                f"{len(rules.rejected)} of {len(rules) + len(rules.rejected)} rules cannot be used in this environment"
            )
            raise ValueError(f"{self.model}: {which}: {lost}. Mend what is wrong, or take it out.")
        if rules.rejected:
            logger.warning("%d of the rules of %s cannot be used: %s", len(rules.rejected), self.model, lost)

    def form_for(self, briefing: Briefing) -> Form:
        """
        Say what its answers are.

        :param briefing: What stays the same over all queries
        :return: ``"rules"``
        """
        return "rules"

    def standing(self, briefing: Briefing) -> Rules:
        """
        Say what it advises in any state.

        :param briefing: What stays the same over all queries
        :return: The rules
        """
        return Rules.parse(self.text, briefing.sheet, briefing.observation_space, briefing.action_space)

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Answer a query. The rules are in the advice log, as a model's answer would be, and cost nothing.

        :param query: The states in question
        :return: What the rules say of them
        """
        number = max((answer.request + 1 for answer in query.answers), default=0)
        query.record(Answer(number, tuple(query.wanted), self.text, Usage(), "rules"))
        rules = self.standing(query.briefing)
        return Advice([rules(state.observation) for state in query.states], standing=rules)


def _latest_rules(log: pathlib.Path) -> str:
    latest = None
    for query in read_queries(log):
        rejected = set() if query.advice is None else {lost.state for lost in query.advice.rejected}
        # Where nothing of an answer could be used, every state was rejected, and what stood before went on.
        if not query.altered and not rejected.issuperset(range(query.n_states)):
            # The last answer counts: one before it was sent back.
            said = [answer.text for answer in query.answers if answer.form == "rules"][-1:]
            latest = next(filter(outline, said), latest)
        latest = query.put_back or latest
    if latest is None:
        raise ValueError(f"The advice log {log} holds no rules. Those of single actions are repeated by replay/{log}.")
    return latest


def recorded_tasks() -> tuple[str, ...]:
    """
    Say for which tasks of Meta-World there are recorded rules.

    :return: Their names
    """
    return tuple(sorted({file.name.split(".")[0] for file in _FOLDER.glob("*.txt")}))
