"""Actions read from what CoSo's policy writes: words for them, vectors, rules."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from tiny_models import WORDS, make_model

from sb3_varl.advice.types import ActionComponent, ObservationSlice, TaskSheet
from sb3_varl.coso import BoxActions, BoxRules, Choices, NumberLine


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"thoughts": "x", "action": "+"}', 1),
        ('{"action": "-"}', 0),
        ('{"ACTION" : "+"', 1),
        ('{"action": "+"} no, {"action": "-"}', 0),
        ('{"action": "+-"}', None),
        ('{"action": ""}', None),
        ("+", None),
        ("", None),
        ('{"action": "+"} but then {"action": ', None),
        ('{"action": "+", "why": "left-most"}', 1),
        ('{"action": +}', 1),
    ],
)
def test_choices(text, action):
    choices = Choices(WORDS)
    choices.check(spaces.Discrete(2))
    reading = choices.read(text)
    assert (None if reading is None else int(reading.action)) == action
    if reading is not None:
        assert reading.classes == (action,)
        assert text[reading.start :].lower().startswith('"action"')


def test_words_that_are_parts_of_others():
    choices = Choices({"hit": 1, "hit again": 2, "stand": 0})
    assert int(choices.read('"action": "Hit again"').action) == 2
    assert int(choices.read('"action": "hit"').action) == 1
    assert choices.read('"action": "white"') is None
    assert choices.read('"action": "hit or stand"') is None
    for action in range(3):
        assert int(choices.read(choices.write(np.array(action))).action) == action


@pytest.mark.parametrize(
    ("words", "space", "message"),
    [
        (WORDS, spaces.Discrete(3), r"actions are 0 to 2, and there are no words for \[2\]"),
        ({"+": 1, "-": 5}, spaces.Discrete(2), "'-' mean none of them"),
        (WORDS, spaces.Box(-1, 1, (2,)), "Discrete action space.*BoxActions"),
    ],
)
def test_choices_that_do_not_cover_the_space(words, space, message):
    with pytest.raises(ValueError, match=message):
        Choices(words).check(space)


def test_words_of_any_language():
    choices = Choices({"→": 1, "Straße": 0})
    for action in range(2):
        assert int(choices.read(choices.write(np.array(action))).action) == action


@pytest.mark.parametrize("words", [{}, {" ": 0}, {"a": 0, "A": 1}, {'"a"': 0}, {"a\nb": 0}, ["a", "b"], 5])
def test_choices_that_cannot_be(words):
    with pytest.raises(ValueError, match="words"):
        Choices(words)


@pytest.mark.parametrize("action", [1.7, True, "1", None])
def test_words_mean_integers(action):
    with pytest.raises(ValueError, match="the action of 'a' is"):
        Choices({"a": action, "b": 0})


def test_actions_of_a_box():
    parser = BoxActions(n_bins=4)
    parser.check(spaces.Box(-1, 1, (2,)))
    reading = parser.read('I think {"advice": [{"state": 0, "action": [1, "-0.3"]}]}')
    assert reading.action.tolist() == pytest.approx([1, -0.3])
    assert reading.classes == (3, 1)
    assert parser.read("right") is None
    assert parser.read('{"advice": [{"state": 0, "action": [9, 9]}]}') is None
    assert parser.read(parser.write(np.array([0.25, -0.5]))).action.tolist() == [0.25, -0.5]
    assert parser.fallback.tolist() == [0, 0]
    small = BoxActions()
    small.check(spaces.Box(-0.126, 0.126, (2,)))
    assert small.read(small.write(np.array([0.126, 0.00423]))).action.tolist() == pytest.approx([0.126, 0.00423])
    with pytest.raises(ValueError, match=r"bounded Box.*Choices"):
        BoxActions().check(spaces.Discrete(2))
    with pytest.raises(ValueError, match="fallback"):
        BoxActions(fallback=[3, 3]).check(spaces.Box(-1, 1, (2,)))
    with pytest.raises(ValueError, match="fallback"):
        BoxActions(fallback=[1, 1, 1]).check(spaces.Box(-1, 1, (2,)))
    with pytest.raises(ValueError, match=r"does not know the action space yet: call check"):
        BoxActions().write(np.zeros(2))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(1000.0, 1001.0, (2,), np.float64),
        spaces.Box(273, 300, (2,)),
        spaces.Box(-1e-4, 1e-4, (2,)),
        spaces.Box(-3e38, 3e38, (2,)),
        spaces.Box(-128, 127, (2,), np.int8),
        spaces.Box(np.array([-1, 0]), np.array([1, 1e6]), dtype=np.float64),
    ],
    ids=str,
)
def test_what_is_written_reads_as_the_action(space):
    parser = BoxActions()
    parser.check(space)
    space.seed(0)
    width = space.high.astype(float) - space.low
    classes = set()
    for action in (space.low, space.high, *(space.sample() for _ in range(30))):
        reading = parser.read(parser.write(action))
        assert (np.abs(reading.action.astype(float) - action) <= 0.006 * width).all()
        assert space.contains(reading.action)
        classes.add(reading.classes[0])
    assert classes == set(range(5))


def test_rules_of_a_box():
    sheet = TaskSheet("Go.", (ActionComponent("dx"),), (ObservationSlice("x", 0, 1),))
    parser = BoxRules(sheet, spaces.Box(-1, 1, (1,)))
    parser.check(spaces.Box(-1, 1, (1,)))
    text = '{"rules": [{"name": "back", "when": "x > 0", "action": ["-x"]}]}'
    assert parser.read(text, np.array([0.5])).action.tolist() == [-0.5]
    assert parser.read(text, np.array([-0.5])) is None
    assert parser.read("go back", np.array([0.5])) is None
    assert parser.read(parser.write(np.array([0.25])), np.array([0.5])).action.tolist() == [0.25]


class Raising(Choices):
    def read(self, text, observation=None):
        raise RuntimeError("somebody else's parser")


def test_a_parser_that_raises_is_heard():
    with pytest.raises(RuntimeError, match="somebody else's parser"):
        make_model(policy={"actions": Raising(WORDS)}).learn(12)


def test_what_cannot_be_read_is_counted_and_costs_and_is_never_random():
    executed, rewards = [], []

    class Watched(NumberLine):
        def step(self, action):
            executed.append(int(action))
            result = super().step(action)
            rewards.append(result[1])
            return result

    model = make_model(make_vec_env(Watched, 1, seed=0), n_steps=8, unparsed_penalty=2.5)
    model.policy.parser._fallback = 1
    model.policy.language.write = lambda prompts, greedy=False: [[5, 6]] * len(prompts)
    model.learn(8)
    assert executed == [1] * 8
    assert model.rollout_buffer.rewards.flatten().tolist() == [reward - 2.5 for reward in rewards]
    assert model.logger.name_to_value["coso/unparsed"] == 1
