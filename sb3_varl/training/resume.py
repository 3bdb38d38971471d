"""What a model has of its advice log, and what it lacks: a run that goes on takes that from the log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces

from sb3_varl.advice.answer import ParsedAnswer
from sb3_varl.advice.history import LoggedQuery
from sb3_varl.advice.log import decode_observation
from sb3_varl.advice.types import Advice, AdviceQuery, Briefing
from sb3_varl.rules.answers import read_answers
from sb3_varl.training.log_folder import Progress
from sb3_varl.training.query_queue import Outcome


@dataclass(frozen=True)
class Recovered:
    """
    A query of the log that the model does not have all of.

    :param logged: The query
    :param known: What was answered
    :param states: The states of which the model does not have the answers
    :param open: The states that were not answered
    :param uncounted: Those of them that are in no total, because they were to be asked about again
    :param is_new: Whether the model has nothing of it
    """

    logged: LoggedQuery
    known: Advice
    states: tuple[int, ...]
    open: tuple[int, ...]
    uncounted: tuple[int, ...]
    is_new: bool

    def outcome(self, query: AdviceQuery, is_over: bool) -> Outcome:
        """
        Put it as news.

        :param query: The query
        :param is_over: Whether what is open will not be asked about again
        :return: What the model does not have
        """
        logged, states = self.logged, self.states + (self.uncounted if is_over else ())
        return Outcome(
            query,
            self.known,
            states,
            tuple(r for r in self.known.rejected if r.state in states or (r.state is None and self.is_new)),
            frozenset(self.open) & frozenset(states),
            tuple(logged.failed_requests) if self.is_new and (is_over or not self.open) else (),
            len(logged.failed_requests),
            logged.latency,
            logged.error if is_over and self.uncounted else None,
        )


def recover(queries: Sequence[LoggedQuery], progress: Progress, briefing: Briefing) -> list[Recovered]:
    """
    Compare a log with what a model has of it.

    :param queries: The queries of the log
    :param progress: What the model knows
    :param briefing: What stays the same over all queries
    :return: Of which queries something is missing
    :raises ValueError: if one of these is about another environment or another task
    """
    n_answered = progress.get("answered", 0)
    progress.setdefault("open", [])
    recovered = []
    for query in queries:
        unanswered, is_new = query.unanswered(query.n_states), query.index >= n_answered
        if is_new:
            progress["open"] += [[query.index, state, ""] for state in sorted(unanswered)]
        reasons = {state: reason for index, state, reason in progress["open"] if index == query.index}
        missing = frozenset(range(query.n_states)) if is_new else frozenset(reasons)
        if missing:
            states, still_open = sorted(missing - unanswered), sorted(missing & unanswered)
            uncounted = [state for state in still_open if reasons[state] == ""]
            check_environment(query, briefing)
            known = query.read(briefing.action_space, _parsed(query, briefing))
            recovered.append(Recovered(query, known, tuple(states), tuple(still_open), tuple(uncounted), is_new))
    return recovered


def _parsed(query: LoggedQuery, briefing: Briefing) -> ParsedAnswer | None:
    if all(answer.form == "actions" for answer in query.answers):
        return None
    return read_answers(query.answers, query.observations, briefing)


def check_environment(query: LoggedQuery, briefing: Briefing) -> None:
    """
    Make sure that a logged query is about this environment and this task.

    :param query: The query
    :param briefing: What stays the same over all queries
    :raises ValueError: if it is not
    """
    space = briefing.action_space
    expected: dict[str, Any] = {
        "task": briefing.task,
        "action bounds": (space.low.tolist(), space.high.tolist()),
        "observation": _shapes(briefing.observation_space),
    }
    given = {
        "task": query.task,
        "action bounds": (query.action_low.tolist(), query.action_high.tolist()),
        "observation": _shapes(decode_observation(query.encoded_observations[0], query.dtype)),
    }
    for name, value in expected.items():
        if given[name] != value:
            raise ValueError(
                f"The advice log {query.folder} belongs to another run: the {name} of its query {query.index + 1} is "
                f"{given[name]!r}, expected {value!r}. Give the {name} that it has, to go on with it, or another "
                "log_path, to begin anew."
            )


def _shapes(thing: Any) -> Any:
    """Of an observation or a space of them."""
    if isinstance(thing, dict | spaces.Dict):
        return {key: _shapes(value) for key, value in sorted(thing.items())}
    return thing.shape
