"""What passes between the callback, which knows Stable-Baselines3, and an advisor, which does not."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, astuple, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import yaml
from gymnasium import spaces

from sb3_varl.arguments import ArgumentError, check_integer

Observation = np.ndarray | dict[str, np.ndarray]
# What is asked for: an action for each state, or rules for any.
Form = Literal["actions", "rules"]

# Reasons for which a state was not answered, so that it may be asked about again. Others are about an answer.
UNANSWERED = frozenset({"request_failed", "given_up", "budget_exhausted", "raised"})
# The reason of an answer on which the reader failed, so that it may be read again.
UNREAD = "unread"


class AdviceWarning(UserWarning):
    """What this package warns of: a run that will have less advice than it was told to ask for."""


class AdvisorError(RuntimeError):
    """Raised in training, by the first query, of an advisor that cannot answer, and would not if it was asked again."""


@dataclass(frozen=True)
class ActionComponent:
    """
    One component of an action, in the environment's units.

    :param name: Short name, for instance ``"dx"``
    :param meaning: Unit, direction and sign in a few words
    """

    name: str
    meaning: str = ""

    def __post_init__(self) -> None:
        _check_words(self, "name", "meaning")


@dataclass(frozen=True)
class ObservationSlice:
    """
    A named run of components of a flat observation, or of an entry of a Dict observation.

    :param name: Short name, for instance ``"gripper position"``
    :param start: First index
    :param stop: One past the last index
    :param meaning: Unit and frame of reference in a few words
    :param key: Which entry of a Dict observation; ``None`` for an observation that is an array
    :param before: First index of the same components as they were a moment earlier, if the observation has them
    """

    name: str
    start: int
    stop: int
    meaning: str = ""
    key: str | None = None
    before: int | None = None

    def __post_init__(self) -> None:
        _check_words(self, "name", "meaning")
        if self.key is not None:
            _check_words(self, "key")
        check_integer("start", self.start, low=0)
        check_integer("stop", self.stop)
        check_integer("before", self.before, low=0, optional=True)


@dataclass(frozen=True)
class TaskSheet:
    """
    What somebody who knows an environment would tell an advisor about it.
    An environment offers one as its attribute ``task_sheet``.

    :param goal: One sentence that says what success is
    :param action: The action's components in order, or empty if they have no names
    :param observation: The observation's slices in order, or empty if they have no names
    :param notes: Conventions that the numbers do not tell: axes, the camera's place, the gripper's sign
    :param sizes: Sizes of the objects and of the fingers, and where on them the reported points lie
    :param success: When exactly success counts, and whether touching it once is enough
    :param lag: How the real motion follows the commanded one
    :raises ArgumentError: if ``action`` or ``observation`` has something else in it
    """

    goal: str
    action: tuple[ActionComponent, ...] = ()
    observation: tuple[ObservationSlice, ...] = ()
    notes: str = ""
    sizes: str = ""
    success: str = ""
    lag: str = ""

    def __post_init__(self) -> None:
        _check_words(self, "goal", "notes", "sizes", "success", "lag")
        for name, expected in (("action", ActionComponent), ("observation", ObservationSlice)):
            parts = getattr(self, name)
            if not isinstance(parts, Iterable) or isinstance(parts, str):
                raise ArgumentError(
                    f"{name} of a task sheet is {parts!r}, expected a tuple of sb3_varl.{expected.__name__}, which has "
                    "a comma also where there is one of them."
                )
            object.__setattr__(self, name, tuple(parts))
            for i, part in enumerate(getattr(self, name)):
                if not isinstance(part, expected):
                    raise ArgumentError(
                        f"{name}[{i}] of a task sheet is {part!r}, expected an sb3_varl.{expected.__name__}."
                    )

    def __str__(self) -> str:
        return yaml.safe_dump(_said(self), sort_keys=False, allow_unicode=True, width=100)


def _check_words(thing: Any, *names: str) -> None:
    for name in names:
        value = getattr(thing, name)
        if not isinstance(value, str):
            raise ArgumentError(f"{name} of {type(thing).__name__} is {value!r}, expected text.")


def _said(thing: Any) -> Any:
    """Of a sheet or a part of it, what is not as it is by itself, as YAML has it."""
    if is_dataclass(thing):
        given = [(each, getattr(thing, each.name)) for each in fields(thing)]
        return {each.name: _said(value) for each, value in given if each.default is MISSING or value != each.default}
    if isinstance(thing, (list, tuple)):
        return [_said(part) for part in thing]
    return str(thing) if isinstance(thing, str) else int(thing)


@dataclass(frozen=True)
class Briefing:
    """
    What stays the same over all queries of a run.

    :param action_space: The environment's action space, in its own units
    :param observation_space: The environment's observation space
    :param task: The task in words, or ``None`` if nobody gave one
    :param sheet: The environment's task sheet, if it has one
    :param frames: Whether states come with pictures, unless the environment turns out to have none
    :param max_episode_steps: How many actions an episode has at most, or ``None`` if nobody knows
    """

    action_space: spaces.Box
    observation_space: spaces.Space
    task: str | None = None
    sheet: TaskSheet | None = None
    frames: bool = True
    max_episode_steps: int | None = None


@dataclass(frozen=True)
class VisitedState:
    """
    A state that the agent was in, and what it did there.

    :param observation: The original observation, before any normalisation; images as the policy sees them,
        channels first. Where the advisor reads something else than the policy (``AdvisorCallback(observe=...)``), that
    :param executed_action: The action that was executed there, in the environment's units
    :param frame: The picture of this very state, ``(height, width, 3)`` uint8, or ``None``
    :param step: The run's environment steps when the state was reached
    :param seen: The policy's original observation, where the advisor reads something else
    """

    observation: Observation
    executed_action: np.ndarray
    frame: np.ndarray | None
    step: int
    seen: Observation | None = None

    @property
    def guided(self) -> Observation:
        """The observation that advice about this state is guidance for: the policy's."""
        return self.observation if self.seen is None else self.seen


@dataclass(frozen=True)
class Usage:
    """
    What an answer, or several, cost.

    :param requests: Requests sent, retries included
    :param prompt_tokens: Tokens sent
    :param completion_tokens: Tokens received
    :param cost: US dollars as far as the prices are known
    :param seconds: Time spent on asking, retries and the waiting between them included
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def at_least(self, other: "Usage") -> "Usage":
        """
        Take the larger of each two amounts.

        :param other: Another usage
        :return: The larger amounts
        """
        return Usage(*(max(pair) for pair in zip(astuple(self), astuple(other), strict=True)))

    @property
    def tokens(self) -> int:
        """Tokens sent and received."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Request:
    """
    A request that is about to be sent. Each retry is one, of the same number.

    :param request: Number of the request within its query
    :param states: Indices of the states that it asks about
    """

    request: int
    states: tuple[int, ...]


@dataclass(frozen=True)
class Failure:
    """
    A request that brought no answer.

    :param request: Number of the request within its query
    :param text: Why, in one line that is free of secrets
    :param usage: What it cost, as far as known
    :param permanent: Whether it would fail again, as with a wrong key or a model that there is not
    """

    request: int
    text: str
    usage: Usage
    permanent: bool = False


@dataclass(frozen=True)
class Answer:
    """
    The text that a request brought back.

    :param request: Number of the request within its query
    :param states: Indices of the states that it asked about
    :param text: The model's words
    :param usage: What it cost
    :param form: What was asked for: ``"actions"``, one for each state, or ``"rules"``
    :param is_cut: Whether it breaks off, as far as the provider tells
    """

    request: int
    states: tuple[int, ...]
    text: str
    usage: Usage
    form: Form = "actions"
    is_cut: bool = False


Event = Request | Failure | Answer


class StandingAdvice(Protocol):
    """Advice for any state, without a request: rules, a function, a controller."""

    def __call__(self, observation: Observation, previous: Observation | None = None, /) -> Any:
        """
        Advise in a state.

        :param observation: The original observation, not batched
        :param previous: The observation before, which is the same one at the start of an episode, or ``None`` if it is
            not known
        :return: An action in the environment's units, or ``None`` for no advice
        """


@dataclass(frozen=True)
class Episode:
    """
    An episode in which standing advice was followed from the beginning to the end.

    :param observations: The original observation of each state
    :param actions: What was executed there, in the environment's units; NaN where there was no advice, and the policy
        acted
    :param rules: Index of the rule that it was by, or ``None``
    :param succeeded: Whether the environment called it a success, ``None`` if it does not say
    :param frames: Pictures of some of the states, by their step within the episode, ``(height, width, 3)`` uint8
    """

    observations: tuple[Observation, ...]
    actions: tuple[np.ndarray, ...]
    rules: tuple[int | None, ...]
    succeeded: bool | None
    frames: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Followed:
    """
    What became of standing advice, for a query that asks to correct it.

    :param advice: The advice
    :param episodes: The latest episodes in which it was followed
    :param remark: What else there is to say, for instance that it did worse than what stood before
    """

    advice: StandingAdvice
    episodes: tuple[Episode, ...]
    remark: str = ""


@dataclass(frozen=True)
class AdviceQuery:
    """
    One query: what would you have done in each of these states?

    :param index: Number of the query within the run, from 0
    :param step: The run's environment steps when it was asked
    :param states: The states in question
    :param briefing: What stays the same over all queries
    :param record: To be called before each request that is paid for and with what becomes of it, before that is used;
        writes it to disk
    :param answers: What the query was already answered before, not to be paid for again: what an advisor says of these
        states is not looked at
    :param spent: What the run has spent on advice before, for budgets
    :param altered: In a few words, what was changed about the states to see what the advisor makes of it, or nothing.
        What is answered about altered states is in the log, and no advice
    :param open: Indices of the states that advice is wanted of; ``None`` for all that the answers are not about
    :param followed: What became of the advice that stands, which is to be corrected, if any does
    """

    index: int
    step: int
    states: tuple[VisitedState, ...]
    briefing: Briefing
    record: Callable[[Event], None] = field(default=lambda event: None, repr=False, compare=False)
    answers: tuple[Answer, ...] = ()
    spent: Usage = Usage()
    altered: str = ""
    open: tuple[int, ...] | None = None
    followed: Followed | None = field(default=None, repr=False, compare=False)

    @property
    def wanted(self) -> tuple[int, ...]:
        """Indices of the states that advice is wanted of. What is said of the others is not looked at."""
        answered = {state for answer in self.answers for state in answer.states}
        indices = range(len(self.states)) if self.open is None else self.open
        return tuple(index for index in indices if index not in answered)


class QueryInterrupted(Exception):
    """Raised by an advisor that was told to break off: the query stays open until the run goes on."""


@dataclass(frozen=True)
class Rejection:
    """
    An answer, or a part of one, that could not be used, or why there was none.

    :param reason: A short slug that serves as a counter's name, for instance ``"out_of_bounds"``. Another text is made
        one, of at most 24 characters, and is kept as the example
    :param state: Index of the state that it was about, or ``None`` if it was about none
    :param example: What it was that could not be used, or what went wrong, in a few words. Reasons count, so this is
        not compared
    """

    reason: str
    state: int | None = None
    example: str = field(default="", compare=False)


@dataclass(frozen=True)
class Advice:
    """
    An advisor's answer to a query.

    :param actions: For each state of the query, in order, an action in the environment's units or ``None``.
        A ``None`` without a rejection of the same state is an abstention.
    :param rejected: What could not be used, and why
    :param usage: What the whole query cost, of an advisor that does not record its requests
    :param standing: What it advises in any state, if its answer says so. It takes the place of what stood before
    """

    actions: Sequence[Any]
    rejected: Sequence[Rejection] = ()
    usage: Usage = Usage()
    standing: StandingAdvice | None = field(default=None, compare=False)


@runtime_checkable
class Advisor(Protocol):
    """
    Whatever can say what it would have done in a state: a vision-language model, a planner, a person.

    It is called from a worker thread, one query at a time. Six more methods are optional. With
    ``prepare(briefing: Briefing) -> None`` an advisor says before training starts, by raising, that it will not be able
    to answer. ``interrupt() -> None`` is called from another thread when training breaks off, by Ctrl-C for instance:
    ``advise`` is then to raise :class:`QueryInterrupted` soon. ``prompt(query: AdviceQuery) -> str`` is what the
    advisor is told, for TensorBoard. ``standing(briefing: Briefing) -> StandingAdvice | None``, called after
    ``prepare`` when a run begins, is what it advises in any state before it was asked anything.
    ``form_for(briefing: Briefing) -> str`` says whether its answers are ``"rules"``, for any state, or ``"actions"``.
    ``withdraw() -> None``, from another thread, tells it after the cutoff that what it was asked is not needed any
    more; it may answer nevertheless. An
    attribute ``task``, in words, goes before the task that it is given, and ``model`` names it in logs.

    The states that it is shown are copies, its own to work on. Of a query that goes on, ``query.wanted`` are those that
    were not answered yet.
    """

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Answer a query.

        :param query: The states in question and what there is to know about the task
        :return: An action or ``None`` for each state
        """
        ...
