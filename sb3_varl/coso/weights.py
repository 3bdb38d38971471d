"""How much the entropy of each token counts in CoSo's objective."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from sb3_varl.coso.utterances import Utterance

if TYPE_CHECKING:
    from sb3_varl.coso.policy import VLMPolicy


@runtime_checkable
class TokenWeights(Protocol):
    """What weighs tokens."""

    def prepare(self, policy: "VLMPolicy") -> None:
        """
        Learn whose words they are.

        :param policy: The policy, with its language model and parser
        """

    def fit(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """
        Learn from a rollout, before it is weighed.

        :param utterances: What was written in it
        :return: What is to be logged
        """

    def weigh(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        """
        Weigh tokens.

        :param utterances: What was written
        :return: For each of them an array of its tokens' weights, none below 0
        """


class UniformWeights:
    """All tokens count 1, which is PPO's entropy: what CoSo compares with."""

    def prepare(self, policy: "VLMPolicy") -> None:
        """Nothing to learn."""

    def fit(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """Nothing to learn."""
        return {}

    def weigh(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        """
        Weigh tokens.

        :param utterances: What was written
        :return: Ones
        """
        return [np.ones(len(utterance.tokens), np.float32) for utterance in utterances]


class ParserWeights:
    """
    The parser's own causality, exactly: a token counts 1 if the text without it says another action, or none, and 0
    otherwise. This is not the paper's, which learns what tokens predict (see
    :class:`~sb3_varl.coso.LearnedWeights`). What cannot be read weighs nothing.
    """

    def prepare(self, policy: "VLMPolicy") -> None:
        """
        Learn whose words they are.

        :param policy: The policy, with its language model and parser
        """
        self._policy = policy

    def fit(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """Nothing to learn."""
        return {}

    def weigh(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        """
        Weigh tokens.

        :param utterances: What was written
        :return: 1 for each token that the action hangs on
        """
        return [self._weigh(utterance) for utterance in utterances]

    def _weigh(self, utterance: Utterance) -> np.ndarray:
        tokens, reading = utterance.tokens, utterance.reading
        weights = np.zeros(len(tokens), np.float32)
        if reading is None:
            return weights
        decode, parser = self._policy.language.decode, self._policy.parser
        for i in range(len(tokens)):
            without = decode(tokens[:i] + tokens[i + 1 :])
            left = parser.read(without, utterance.observation)
            weights[i] = left is None or not np.array_equal(left.action, reading.action)
        return weights

    def __getstate__(self) -> dict[str, object]:
        return {}
