"""The simulation of a model's mistakes."""

import json
import os
import pickle

os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np
import pytest

from sb3_varl import ArgumentError, Rules, RulesAdvisor
from sb3_varl.advice.types import AdviceQuery, Briefing, VisitedState
from sb3_varl.metaworld import MistakenAdvisor, ScriptedAdvisor, SparseMetaWorldEnv


@pytest.fixture(scope="module")
def briefing():
    env = SparseMetaWorldEnv("push-v3")
    return Briefing(env.action_space, env.observation_space, sheet=env.task_sheet)


@pytest.fixture(scope="module")
def states(briefing):
    """Visited by the recorded rules for push, on their way to the goal."""
    env = SparseMetaWorldEnv("push-v3", frame_skip=3)
    rules = RulesAdvisor.recorded("push-v3").standing(briefing)
    visited = [env.reset(seed=0)[0]]
    for _ in range(30):
        visited.append(env.step(rules(visited[-1]))[0])
    return visited


@pytest.fixture(scope="module")
def advice_with(briefing):
    def make(mistake, advisor=None, **kwargs):
        advisor = MistakenAdvisor(advisor or RulesAdvisor.recorded("push-v3"), mistake, **kwargs)
        advisor.prepare(briefing)
        return advisor

    return make


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        ("mirrored", lambda right: right * [-1, 1, 1, 1]),
        ("open_gripper", lambda right: np.append(right[:3], -1)),
        ("too_fast", lambda right: np.append(np.clip(10 * right[:3], -1, 1), right[3])),
    ],
)
@pytest.mark.parametrize(
    "advisor",
    [RulesAdvisor.recorded("push-v3"), ScriptedAdvisor("push-v3", seed=0)],
    ids=["rules", "scripted"],
)
def test_the_same_mistake_in_all_states(states, mistake, expected, advisor, briefing, advice_with):
    right = advisor.standing(briefing)
    wrong = advice_with(mistake, advisor).standing(briefing)
    for state in states:
        np.testing.assert_allclose(wrong(state), expected(right(state)), atol=1e-6)


def test_off_target_is_beside_the_place_and_not_faster(states, briefing, advice_with):
    text = json.dumps({"rules": [{"when": "true", "action": ["gripper_position[0]", "gripper_position[1]", "0", "0"]}]})
    still = text.replace('"gripper_position[0]"', '"velocity(gripper_position)[0] * 100"')
    wrong = advice_with("off_target", RulesAdvisor(text)).standing(None)
    speed = advice_with("off_target", RulesAdvisor(still)).standing(None)
    right = RulesAdvisor(still).standing(briefing)
    for state in states:
        np.testing.assert_allclose(wrong(state)[:2], state[:2] - 0.03, atol=1e-6)
        assert speed(state)[0] == pytest.approx(right(state)[0], abs=1e-6)


def test_mistakes_of_rules(states, briefing, advice_with):
    rules = RulesAdvisor.recorded("push-v3").standing(briefing)
    before = advice_with("phase_before").standing(None)
    without = advice_with("phase_left_out").standing(None)
    assert {rules.which(state) for state in states} >= {0, 2}
    for state in states:
        rule = rules.which(state)
        np.testing.assert_array_equal(before(state), rules.action_of(min(rule + 1, len(rules) - 1), state))
        assert without.which(state) == rule or rule == 0
        assert without.which(state) != 0
    with pytest.raises(ArgumentError, match="'phase_before' is one of rules"):
        advice_with("phase_before", ScriptedAdvisor("push-v3"))


def test_a_mistake_can_be_corrected(states, briefing, advice_with):
    advisor = advice_with("open_gripper", corrected_at=1)
    visited = tuple(VisitedState(state, np.zeros(4), None, i) for i, state in enumerate(states))
    first, second = (advisor.advise(AdviceQuery(i, 0, visited, briefing)) for i in range(2))
    assert {float(action[3]) for action in first.actions} == {-1.0}
    assert 1.0 in {float(action[3]) for action in second.actions}
    assert first.standing is advisor.standing(None)
    assert isinstance(second.standing, Rules)


def test_a_mistake_is_pickled_and_made_again(states, advice_with):
    advisor = pickle.loads(pickle.dumps(advice_with("mirrored")))
    np.testing.assert_array_equal(advisor.standing(None)(states[3]), advice_with("mirrored").standing(None)(states[3]))


def test_a_mistake_is_made_when_the_advisor_is_prepared(briefing):
    with pytest.raises(RuntimeError, match=r"made by prepare\(briefing\), which was not called"):
        MistakenAdvisor(RulesAdvisor.recorded("push-v3"), "mirrored").standing(briefing)


def test_a_mistake_that_there_is_not():
    with pytest.raises(ArgumentError, match="mistake is 'tired', expected one of 'mirrored'"):
        MistakenAdvisor(RulesAdvisor.recorded("push-v3"), "tired")
    with pytest.raises(ArgumentError, match="expected one with standing advice"):
        MistakenAdvisor(object(), "mirrored")
