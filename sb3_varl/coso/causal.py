"""The paper's causal model: which tokens tell the action."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from sb3_varl.arguments import ArgumentError, check_bool, check_integer, check_number
from sb3_varl.coso.utterances import Utterance

if TYPE_CHECKING:
    from sb3_varl.coso.policy import VLMPolicy

_WIDTH, _N_HEADS, _N_LAYERS, _DROPOUT = 128, 4, 3, 0.1
# Answers in which one token after the other is nulled together.
_BATCH = 64
_EPSILON = 1e-10


class _Key(NamedTuple):
    """What the causal model knows of an answer, without the picture that it is about."""

    tokens: tuple[int, ...]
    classes: tuple[int, ...]


class CausalModel(nn.Module):
    """
    A small classifier of the action from an answer's tokens, without its prompt and pictures: embeddings, three layers
    of a transformer's encoder, the mean over the tokens, and a head for each component of the action.

    The last token of its vocabulary is the null token, and the one before it padding.

    :param n_tokens: Size of the language model's vocabulary
    :param n_classes: Classes of each component of an action
    :param max_length: Tokens of an answer at most
    """

    def __init__(self, n_tokens: int, n_classes: Sequence[int], max_length: int) -> None:
        super().__init__()
        self.n_classes = tuple(n_classes)
        self.pad, self.null = n_tokens, n_tokens + 1
        self.tokens = nn.Embedding(n_tokens + 2, _WIDTH, padding_idx=self.pad)
        self.places = nn.Embedding(max_length, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH)
        layer = nn.TransformerEncoderLayer(
            _WIDTH, _N_HEADS, 4 * _WIDTH, _DROPOUT, activation=functional.gelu, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, _N_LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(_WIDTH, sum(self.n_classes))

    def forward(self, tokens: th.Tensor) -> th.Tensor:
        """
        Classify answers.

        :param tokens: Their tokens, ``(n, length)``, padded behind
        :return: Logarithm of the likelihood of each class, components one after the other, ``(n, all classes)``
        """
        is_padding = tokens == self.pad
        embedded = self.norm(self.tokens(tokens) + self.places.weight[: tokens.shape[1]])
        encoded = self.encoder(embedded, src_key_padding_mask=is_padding)
        kept = (~is_padding)[..., None]
        mean = (encoded * kept).sum(dim=1) / kept.sum(dim=1)
        logits = self.head(mean).split(self.n_classes, dim=1)
        return th.cat([part.log_softmax(dim=1) for part in logits], dim=1)

    def log_likelihood(self, tokens: th.Tensor, classes: th.Tensor) -> th.Tensor:
        """
        Say how likely actions are.

        :param tokens: Answers, ``(n, length)``
        :param classes: The class of each component of an action, ``(n, components)``
        :return: Logarithm of the likelihood of each action, ``(n,)``
        """
        offsets = th.tensor(np.cumsum((0, *self.n_classes[:-1])), device=classes.device)
        return self(tokens).gather(1, classes + offsets).sum(dim=1)


class LearnedWeights:
    """
    CoSo's token weights (https://arxiv.org/abs/2505.03792, eq. 4 to 6): a causal model learns to tell the action from
    the words, and a token weighs what the likelihood of the action loses if the token is nulled.

    The paper and its code differ, and the defaults are the paper's; :meth:`as_in_code` has the code's. What says no
    action weighs nothing, and is not learnt from.

    :param window: How many tokens, from the one that is weighed on, are nulled together: 1 in the paper, 4 in the code
    :param absolute: Whether a likelihood that grows counts as one that falls, as in the code; otherwise it counts 0
    :param normalize: Whether the weights of an answer are stretched from 0 to 1, and then replaced by their root, as in
        the code
    :param skip: Characters, of which a token that has no other weighs 0: punctuation in the code
    :param learning_rate: Of the causal model; ours. In the paper 1e-5, after it was trained beforehand
    :param n_updates: Updates of the causal model for each rollout, each with up to ``batch_size`` answers; ours
    :param batch_size: Answers in an update
    :param memory: How many answers it learns from, the latest
    """

    def __init__(
        self,
        *,
        window: int = 1,
        absolute: bool = False,
        normalize: bool = False,
        skip: str = "",
        learning_rate: float = 1e-3,
        n_updates: int = 10,
        batch_size: int = 128,
        memory: int = 10_000,
    ) -> None:
        check_integer("window", window)
        check_bool("absolute", absolute)
        check_bool("normalize", normalize)
        check_number("learning_rate", learning_rate, above_low=True)
        check_integer("n_updates", n_updates)
        check_integer("batch_size", batch_size)
        check_integer("memory", memory)
        if not isinstance(skip, str):
            raise ArgumentError(f"skip is {skip!r}, expected characters.")
        self.window, self.absolute, self.normalize, self.skip = window, absolute, normalize, skip
        self.learning_rate, self.n_updates, self.batch_size, self.memory = learning_rate, n_updates, batch_size, memory
        self._known: list[_Key] = []

    @classmethod
    def as_in_code(cls, **kwargs: Any) -> "LearnedWeights":
        """
        Weigh as the paper's code does: four tokens nulled together, absolute, normalized, and without punctuation.

        :param kwargs: Other arguments of the class
        :return: The weights
        """
        code = {"window": 4, "absolute": True, "normalize": True, "skip": "[](){}:\"',!?;_. \n"}
        return cls(**{**code, **kwargs})

    def prepare(self, policy: "VLMPolicy") -> None:
        """
        Make the causal model.

        :param policy: The policy, with its language model and parser
        """
        language = policy.language
        self._decode = language.decode
        self.network = CausalModel(language.vocabulary_size, policy.parser.n_classes, language.max_new_tokens)
        self.network.to(policy.device)
        self.optimizer = th.optim.Adam(self.network.parameters(), lr=self.learning_rate)

    def fit(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """
        Train the causal model.

        :param utterances: What was written
        :return: Its accuracy on these answers before it learnt from them
        """
        new = [_key(utterance) for utterance in utterances if utterance.reading is not None]
        if not new:
            return {}
        accuracy = self._accuracy(new)
        self._known = [*self._known, *new][-self.memory :]
        self.network.train()
        for _ in range(self.n_updates):
            drawn = [self._known[row] for row in np.random.randint(len(self._known), size=self.batch_size)]
            counts = Counter(drawn)
            shares = th.tensor([count / len(drawn) for count in counts.values()])
            tokens, classes = self._tensors(list(counts))
            loss = -(self.network.log_likelihood(tokens, classes) * shares.to(tokens.device)).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.network.eval()
        return {"causal_accuracy": accuracy, "causal_loss": loss.item()}

    def weigh(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        """
        Weigh tokens.

        :param utterances: What was written
        :return: For each its tokens' weights
        """
        # A policy that knows its task says the same thing many times.
        different = {_key(utterance) for utterance in utterances if utterance.reading is not None}
        weights: dict[Any, np.ndarray] = {}
        self.network.eval()
        with th.no_grad():
            keys = sorted(different)
            for start in range(0, len(keys), _BATCH):
                batch = keys[start : start + _BATCH]
                for key, effects in zip(batch, self._effects(batch), strict=True):
                    weights[key] = self._weights(key.tokens, effects)
        return [
            np.zeros(len(utterance.tokens), np.float32) if utterance.reading is None else weights[_key(utterance)]
            for utterance in utterances
        ]

    def _effects(self, keys: Sequence[_Key]) -> list[np.ndarray]:
        """What the likelihood of the action loses by each token."""
        tokens, classes = self._tensors(keys)
        whole = self.network.log_likelihood(tokens, classes).exp()
        length = tokens.shape[1]
        place = th.arange(length, device=tokens.device)
        is_nulled = (place >= place[:, None]) & (place < place[:, None] + self.window)
        effects = []
        for position in range(length):
            is_null = is_nulled[position] & (tokens != self.network.pad)
            without = self.network.log_likelihood(tokens.masked_fill(is_null, self.network.null), classes).exp()
            effects.append(whole - without)
        stacked = th.stack(effects, dim=1).cpu().numpy()
        return [stacked[i, : len(key.tokens)] for i, key in enumerate(keys)]

    def _weights(self, tokens: Sequence[int], effects: np.ndarray) -> np.ndarray:
        effects = np.abs(effects) if self.absolute else np.maximum(effects, 0.0)
        if self.skip:
            # What is all punctuation; also the token that ends the answer, which has no text.
            effects = np.where([not self._decode([token]).strip(self.skip) for token in tokens], 0.0, effects)
        if self.normalize:
            low, high = effects.min(), effects.max()
            effects = np.sqrt((effects - low) / (high - low + _EPSILON))
        return effects.astype(np.float32)

    def _accuracy(self, keys: Sequence[_Key]) -> float:
        self.network.eval()
        with th.no_grad():
            right = []
            for start in range(0, len(keys), self.batch_size):
                tokens, classes = self._tensors(keys[start : start + self.batch_size])
                parts = self.network(tokens).split(self.network.n_classes, dim=1)
                guesses = th.stack([part.argmax(dim=1) for part in parts], dim=1)
                right.append((guesses == classes).all(dim=1))
        return th.cat(right).float().mean().item()

    def _tensors(self, keys: Sequence[_Key]) -> tuple[th.Tensor, th.Tensor]:
        device = self.network.head.weight.device
        rows = [th.tensor(key.tokens) for key in keys]
        tokens = pad_sequence(rows, batch_first=True, padding_value=self.network.pad)
        classes = th.tensor([key.classes for key in keys])
        return tokens.to(device), classes.to(device)

    def __getstate__(self) -> dict[str, Any]:
        """Without what :meth:`prepare` makes, whose parameters are saved on their own."""
        made = ("network", "optimizer", "_decode")
        return {name: value for name, value in self.__dict__.items() if name not in made} | {"_known": []}


def _key(utterance: Utterance) -> _Key:
    assert utterance.reading is not None
    return _Key(tuple(utterance.tokens), utterance.reading.classes)
