"""CoSo's token weights: what each token does to the action, and entropy weighted by it."""

import math

import numpy as np
import pytest
import torch as th
from tiny_models import WORDS, make_model, uttered

from sb3_varl.coso import Choices, LearnedWeights, ParserWeights, UniformWeights
from sb3_varl.coso.utterances import Utterance


class Deciding(th.nn.Module):
    """Tells class 1 with a likelihood that grows with the number of tokens that are 7."""

    n_classes, pad, null = (2,), 98, 99

    def __init__(self):
        super().__init__()
        self.head = th.nn.Linear(1, 1)

    def log_likelihood(self, tokens, classes):
        p = 0.1 + 0.2 * (tokens == 7).sum(dim=1)
        return th.where(classes[:, 0] == 1, p, 1 - p).log()


def known(**kwargs):
    weights = LearnedWeights(**kwargs)
    weights.network, weights._decode = Deciding(), lambda tokens: "," if tokens == [3] else "x"
    return weights


def test_weights_are_what_the_likelihood_loses():
    (one, two, other, nothing) = known().weigh(
        [uttered(t, r) for t, r in (([1, 7, 2], 1), ([7, 7], 1), ([7], 0))] + [uttered([7, 7], None)]
    )
    assert one.tolist() == pytest.approx([0, 0.2, 0])
    assert two.tolist() == pytest.approx([0.2, 0.2])
    assert other.tolist() == [0]  # the likelihood of class 0 grows without it
    assert nothing.tolist() == [0, 0]


def test_weights_as_in_the_code():
    code = {"window": 2, "absolute": True, "normalize": True, "skip": ","}
    (weights, grown, equal) = known(**code).weigh([uttered([1, 3, 7, 7, 2], 1), uttered([7, 1], 0), uttered([7, 3], 1)])
    # The window reaches ahead: 0, 1 (punctuation, so 0), 2, 1, 0 of the sevens are nulled.
    assert weights.tolist() == pytest.approx([0, 0, 1, math.sqrt(0.5), 0])
    assert grown.tolist() == pytest.approx([1, 0])
    assert equal.tolist() == pytest.approx([1, 0])


def test_equal_effects_are_no_nan():
    (weights,) = known(normalize=True).weigh([uttered([1, 2, 1])])
    assert weights.tolist() == [0, 0, 0]


def test_weights_do_not_depend_on_company():
    utterances = [uttered([1, 7, 2], 1), uttered([7] * 4, 1), uttered([7], 0)]
    weights = known()
    together = weights.weigh(utterances)
    for utterance, expected in zip(utterances, together, strict=True):
        assert weights.weigh([utterance])[0].tolist() == expected.tolist()
    turned = weights.weigh(utterances[::-1])[::-1]
    assert [w.tolist() for w in turned] == [w.tolist() for w in together]


@pytest.mark.slow
def test_the_token_that_decides_weighs_most():
    """Of ten tokens the fifth tells the action, and the second looks like it."""
    model = make_model(weights=LearnedWeights(n_updates=20, batch_size=64, learning_rate=2e-3))
    rng = np.random.default_rng(0)
    n = model.policy.language.vocabulary_size
    rows = rng.integers(5, n, (200, 10))
    rows[:, 1] = rng.integers(5, 7, 200)
    rows[:, 4] = rng.integers(5, 7, 200)
    utterances = [uttered(row.tolist(), int(row[4] == 6)) for row in rows]
    learnt = [model.weights.fit(utterances) for _ in range(2)]
    assert learnt[0]["causal_accuracy"] < 0.7 < 0.95 < learnt[1]["causal_accuracy"]
    for model.weights.normalize in (False, True):
        mean = np.mean(model.weights.weigh(utterances[:50]), axis=0)
        assert mean.argmax() == 4
        assert np.delete(mean, 4).max() < 0.35 * mean[4]


def test_parser_weights(taught):
    weights = ParserWeights()
    weights.prepare(taught.policy)
    text = '{"target": 3, "thoughts": "add one", "action": "+"}'
    tokens = taught.policy.language.encode(text)
    (found, nothing) = weights.weigh(
        [Utterance(tokens, text, None, Choices(WORDS).read(text), 0), Utterance(tokens, text, None, None, 0)]
    )
    decisive = {taught.policy.language.decode([token]) for token, weight in zip(tokens, found, strict=True) if weight}
    assert "+" in decisive
    assert "action" in decisive
    assert not decisive & {"add", "thoughts", " one"}
    assert nothing.sum() == 0


@pytest.mark.parametrize("mean_entropy", [False, True])
def test_entropy_is_weighted_without_a_gradient_into_the_weights(mean_entropy):
    model = make_model(policy={"mean_entropy": mean_entropy})
    utterances = [uttered([1, 2, 3]), uttered([1])]
    utterances[0].weights, utterances[1].weights = np.array([0.0, 0.5, 1.0]), np.array([2.0])
    entropies = th.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    total = model.policy.weighted_entropy(utterances, entropies).tolist()
    assert total == pytest.approx([4 / 3, 8] if mean_entropy else [4, 8])


def test_uniform_weights_are_ones():
    assert [weights.tolist() for weights in UniformWeights().weigh([uttered([1, 2]), uttered([3], None)])] == [
        [1, 1],
        [1],
    ]
