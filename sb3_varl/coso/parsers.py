"""From the words of a model to an action of the environment, or to nothing."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from sb3_varl.advice.answer import parse_answer
from sb3_varl.advice.sheets import action_names
from sb3_varl.advice.types import Briefing, TaskSheet
from sb3_varl.arguments import ArgumentError, check_integer
from sb3_varl.rules import Rules

_KEY = re.compile(r'"\s*action\s*"\s*:', re.IGNORECASE)
_QUOTED = re.compile(r'\s*"[^"]*"')
_RULES = re.compile(r'"\s*rules\s*"\s*:', re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """
    What a text says.

    :param action: The action, in the environment's units
    :param classes: The same as a class for each component, which is what a causal model predicts
    :param start: Where the words that state the action begin, in characters; what is before are thoughts
    """

    action: np.ndarray
    classes: tuple[int, ...]
    start: int = 0


class Parser(Protocol):
    """What reads actions from text. It says nothing where the text does not say one thing."""

    def check(self, action_space: spaces.Space) -> None:
        """
        Refuse an action space that it does not cover.

        :param action_space: The environment's action space
        :raises ValueError: if there are actions that it cannot name, or it names others
        """

    @property
    def n_classes(self) -> tuple[int, ...]:
        """How many classes each component of an action has, once it was checked against a space."""

    @property
    def fallback(self) -> np.ndarray:
        """The action that is executed where a text cannot be read."""

    def read(self, text: str, observation: Any) -> Reading | None:
        """
        Read a text.

        :param text: The model's words
        :param observation: What they are about, unbatched, as the policy sees it
        :return: What it says, or ``None`` where that is not one action
        """

    def write(self, action: np.ndarray, thoughts: str = "") -> str:
        """
        Say an action, as the model should.

        :param action: An action in the environment's units
        :param thoughts: What it should say before that
        :return: Text that reads as the action
        """


class Choices:
    """
    Words for the actions of a Discrete space. The model is to write JSON with ``"thoughts"``, if it likes, and
    ``"action"``, and what counts is which of the words stands in the quotes behind ``"action":``, or, without quotes,
    in all that follows. A word that is a part of another
    one, as "hit" of "hit again", does not count where the longer one stands.

    :param words: For each word the action, for instance ``{"+": 1, "-": 0}``; several words may mean one action
    :param fallback: The action that is executed where the text says none or several, which is never drawn at random;
        ``None`` for the first
    :raises ArgumentError: if there are no words, or some are empty or equal but for capitals, or mean no integer
    """

    def __init__(self, words: Mapping[str, int], *, fallback: int | None = None) -> None:
        if (
            not isinstance(words, Mapping)
            or not words
            or not all(isinstance(word, str) and word.strip() for word in words)
        ):
            raise ArgumentError(f'Choices is {words!r}, expected words with their actions, such as {{"+": 1, "-": 0}}.')
        if any(json.dumps(word, ensure_ascii=False) != f'"{word}"' for word in words):
            raise ArgumentError(
                "Choices has words with quotes, backslashes or line breaks, which JSON spells otherwise: "
                f"{', '.join(words)}."
            )
        for word, action in words.items():
            check_integer(f"the action of {word!r}", action, -math.inf)
        check_integer("fallback", fallback, -math.inf, optional=True)
        self.words = {word.lower().strip(): int(action) for word, action in words.items()}
        if len(self.words) != len(words):
            raise ArgumentError(f"Choices has words that differ by capitals or blanks only: {', '.join(words)}.")
        self._fallback = next(iter(self.words.values())) if fallback is None else fallback
        self._first = 0
        self._n = 0
        # The longest first, so that a word does not hide one that it is a part of.
        longest = sorted(self.words, key=len, reverse=True)
        alternatives = "|".join(f"{_edge(word, 0)}{re.escape(word)}{_edge(word, -1)}" for word in longest)
        self._pattern = re.compile(alternatives, re.IGNORECASE)

    def check(self, action_space: spaces.Space) -> None:
        """
        Refuse an action space that the words do not cover.

        :param action_space: The environment's action space
        :raises ValueError: if it is not Discrete, or some action has no word, or a word none of its actions
        """
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(
                f"Choices are words for a Discrete action space, and this one is {action_space}. "
                "For a Box take BoxActions or BoxRules; others are not covered."
            )
        actions = set(range(int(action_space.start), int(action_space.start + action_space.n)))
        foreign = {word for word, action in self.words.items() if action not in actions}
        unnamed = sorted(actions - set(self.words.values()))
        if foreign or unnamed or self._fallback not in actions:
            wrong = f"{', '.join(map(repr, sorted(foreign)))} mean none of them" if foreign else ""
            wrong = wrong or (f"there are no words for {unnamed}" if unnamed else f"the fallback is {self._fallback}")
            raise ValueError(f"The actions are {min(actions)} to {max(actions)}, and {wrong}.")
        self._first, self._n = int(action_space.start), int(action_space.n)

    @property
    def n_classes(self) -> tuple[int, ...]:
        """The number of actions."""
        return (self._n,)

    @property
    def fallback(self) -> np.ndarray:
        """The action that is executed where a text cannot be read."""
        return np.array(self._fallback)

    def read(self, text: str, observation: Any = None) -> Reading | None:
        """
        Read a text.

        :param text: The model's words
        :param observation: What they are about, which does not matter
        :return: The one action that they name behind ``"action":``, or ``None``
        """
        key = _last(_KEY, text)
        if key is None:
            return None
        value = _QUOTED.match(text, key.end())
        end = len(text) if value is None else value.end()
        named = {self.words.get(match.group().lower()) for match in self._pattern.finditer(text, key.end(), end)}
        action = named.pop() if len(named) == 1 else None
        if action is None:
            return None
        return Reading(np.array(action), (action - self._first,), key.start())

    def write(self, action: np.ndarray, thoughts: str = "") -> str:
        """
        Say an action.

        :param action: One of the actions
        :param thoughts: What comes before it
        :return: For instance ``{"thoughts": "add one", "action": "+"}``
        """
        word = next(word for word, meant in self.words.items() if meant == int(action))
        return json.dumps({**({"thoughts": thoughts} if thoughts else {}), "action": word}, ensure_ascii=False)


class BoxActions:
    """
    Actions of a Box as :class:`~sb3_varl.VLMAdvisor` reads them from a model: ``{"advice": [{"state": 0, "action":
    [0.5, -1.0]}]}``, about one state at a time, with whatever faults are mended there.

    :param sheet: The task sheet, by whose names an action may give its components; ``None`` for one without
    :param fallback: The action that is executed where a text cannot be read; ``None`` for zeros, or the nearest to them
    :param n_bins: Classes for each component, for token weights that are learned
    """

    def __init__(
        self, sheet: TaskSheet | None = None, *, fallback: Sequence[float] | None = None, n_bins: int = 5
    ) -> None:
        check_integer("n_bins", n_bins, 2)
        self.sheet = sheet
        self.n_bins = n_bins
        self._given = fallback
        self._space: spaces.Box | None = None

    def check(self, action_space: spaces.Space) -> None:
        """
        Refuse an action space that is no bounded Box.

        :param action_space: The environment's action space
        :raises ValueError: if it is another one, or the fallback is not in it
        """
        if not isinstance(action_space, spaces.Box) or not action_space.is_bounded():
            raise ValueError(
                f"{type(self).__name__} reads actions of a bounded Box, and the action space is {action_space}. "
                "Give the Box bounds, or for a Discrete space take Choices."
            )
        self._space = action_space
        self._names()
        given = self._given
        n = np.prod(action_space.shape)
        if given is not None and (np.size(given) != n or not action_space.contains(self.fallback)):
            raise ValueError(f"The fallback {given} is no action of {action_space}.")

    @property
    def space(self) -> spaces.Box:
        """The action space."""
        if self._space is None:
            raise ValueError(
                f"{type(self).__name__} does not know the action space yet: call check(env.action_space) first, as the "
                "policy does that is given it."
            )
        return self._space

    @property
    def n_classes(self) -> tuple[int, ...]:
        """As many for each component."""
        return (self.n_bins,) * int(np.prod(self.space.shape))

    @property
    def fallback(self) -> np.ndarray:
        """The action that is executed where a text cannot be read."""
        space = self.space
        given = np.zeros(space.shape) if self._given is None else np.reshape(self._given, space.shape)
        return (np.clip(given, space.low, space.high) if self._given is None else given).astype(space.dtype)

    def read(self, text: str, observation: Any = None) -> Reading | None:
        """
        Read a text.

        :param text: The model's words
        :param observation: What they are about, which does not matter
        :return: The action that they give to state 0, or ``None``
        """
        action = parse_answer(text, [0], self.space, self._names()).actions.get(0)
        return None if action is None else self._reading(text, action, _KEY)

    def write(self, action: np.ndarray, thoughts: str = "") -> str:
        """
        Say an action.

        :param action: An action in the environment's units
        :param thoughts: A reason, which comes before it
        :return: The answer that says it, to a thousandth of the Box
        """
        reason = {"reason": thoughts} if thoughts else {}
        return json.dumps({"advice": [{**reason, "state": 0, "action": self._numbers(action)}]}, ensure_ascii=False)

    def _numbers(self, action: np.ndarray) -> list[float]:
        low, high = self._bounds()
        numbers = np.ravel(action).astype(float)
        # Three digits of the number, and as many as a thousandth of the Box takes.
        scale = np.clip(np.minimum(high - low, np.abs(numbers) * 10), np.finfo(float).tiny, None)
        digits = 3 - np.floor(np.log10(scale)).astype(int)
        rounded = [round(number, n) for number, n in zip(numbers.tolist(), digits.tolist(), strict=True)]
        return [float(number) for number in np.clip(rounded, low, high)]

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        # Of 8 bits or of large numbers, the difference would overflow.
        return np.ravel(self.space.low).astype(float), np.ravel(self.space.high).astype(float)

    def _names(self) -> tuple[str, ...]:
        return tuple(action_names(Briefing(self.space, self.space, sheet=self.sheet))) if self.sheet is not None else ()

    def _reading(self, text: str, action: np.ndarray, key: re.Pattern[str]) -> Reading:
        low, high = self._bounds()
        share = (np.ravel(action) - low) / np.maximum(high - low, np.finfo(float).tiny)
        classes = np.clip((share * self.n_bins).astype(int), 0, self.n_bins - 1)
        found = _last(key, text)
        return Reading(action, tuple(map(int, classes)), 0 if found is None else found.start())


class BoxRules(BoxActions):
    """
    Actions of a Box as :doc:`rules </rules>` that the model writes anew in each state: what they say there is executed.

    :param sheet: The task sheet, whose names the rules use
    :param observation_space: What the rules are about
    :param fallback: The action that is executed where no rule can be read, or none decides; ``None`` for zeros
    :param n_bins: Classes for each component, for token weights that are learned
    """

    def __init__(
        self,
        sheet: TaskSheet,
        observation_space: spaces.Space,
        *,
        fallback: Sequence[float] | None = None,
        n_bins: int = 5,
    ) -> None:
        super().__init__(sheet, fallback=fallback, n_bins=n_bins)
        self.observation_space = observation_space

    def read(self, text: str, observation: Any = None) -> Reading | None:
        """
        Read a text.

        :param text: The model's words
        :param observation: The state in which the rules are asked, unbatched
        :return: What they say in the state, or ``None``
        """
        rules = Rules.parse(text, self.sheet, self.observation_space, self.space)
        action = rules(observation) if len(rules) else None
        return None if action is None else self._reading(text, action, _RULES)

    def write(self, action: np.ndarray, thoughts: str = "") -> str:
        """
        Say an action.

        :param action: An action in the environment's units
        :param thoughts: What comes before it
        :return: One rule that says it everywhere, to a thousandth of the Box
        """
        numbers = [str(number) for number in self._numbers(action)]
        rules = [{"name": "act", "when": "true", "action": numbers}]
        return json.dumps({**({"thoughts": thoughts} if thoughts else {}), "rules": rules}, ensure_ascii=False)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found


def _edge(word: str, end: int) -> str:
    """Where a letter or digit is at the end of a word, none may follow: "hit" is not in "white"."""
    if not word[end].isalnum():
        return ""
    return r"(?<!\w)" if end == 0 else r"(?!\w)"
