"""What passes between us and an advisor that is somebody else's code: nothing is shared, and nothing silently lost."""

import logging
import pathlib
import re

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from standing import SMALL

from conftest import CounterEnv, DictEnv, make_query
from sb3_varl import VARL, Advice, AdvisorCallback, FunctionAdvisor, Rejection
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.validation import as_numbers


def right(observation):
    """An action that is different in each state of a few episodes."""
    return np.clip(observation[:2] / 40, -1, 1)


def learn(advisor, env=None, policy="MlpPolicy", **kwargs):
    settings = {"n_queries": 2, "first_query": 50, "query_freq": 50, "states_per_query": 8, "window": 40}
    callback = AdvisorCallback(advisor, **{**settings, "blocking": True, "log_path": "log", **kwargs})
    model = VARL(policy, env or CounterEnv(), **SMALL)
    model.learn(110, callback=callback)
    return model, callback


class Controller:
    """Has one array for all its actions, as a simulator has its ``ctrl``."""

    def __init__(self, buffer):
        self.buffer = buffer

    def __call__(self, observation):
        self.buffer[:] = th.as_tensor(right(observation)) if isinstance(self.buffer, th.Tensor) else right(observation)
        return self.buffer


def in_place(observation):
    observation /= 40
    return np.clip(observation, -1, 1, out=observation)[:2]


@pytest.mark.parametrize(
    "function",
    [right, Controller(np.zeros(2)), Controller(th.zeros(2)), in_place],
    ids=["new array", "same array", "same tensor", "in place"],
)
def test_each_state_keeps_its_own_observation_and_action(function):
    model, _ = learn(FunctionAdvisor(function))
    rows = model.guidance_buffer.rows()
    visited = [observation for query in read_queries("log") for observation in query.observations]
    np.testing.assert_array_equal(rows["observations/observation"], visited)
    np.testing.assert_allclose(rows["actions"], [right(observation) for observation in visited], atol=1e-6)
    assert len(np.unique(rows["actions"], axis=0)) == 16


@pytest.mark.parametrize(("env", "policy"), [(CounterEnv, "MlpPolicy"), (DictEnv, "MultiInputPolicy")])
def test_an_advisor_may_spoil_all_that_it_is_shown(env, policy):
    class Spoiler:
        def advise(self, query):
            for state in query.states:
                observations = state.observation.values() if env is DictEnv else [state.observation]
                for array in (*observations, state.executed_action, state.frame):
                    array[...] = 77
            return Advice([np.zeros(2)] * len(query.states))

    model, _ = learn(Spoiler(), env(), policy)
    rows = model.guidance_buffer.rows()
    for name, array in rows.items():
        assert not name.startswith("observations") or not (array == 77).any()
    (first, _) = read_queries("log")
    assert not any((frame == 77).any() for frame in first.frames)


# ---- What is accepted


@pytest.mark.parametrize(
    "action",
    [
        [0.5, -1],
        np.float32([0.5, -1]),
        th.tensor([0.5, -1.0], requires_grad=True) * 1,
        th.tensor([0.5, -1.0], dtype=th.bfloat16),
        np.array([[0.5, -1]]),
        th.tensor([[0.5, -1.0]]),
    ],
)
def test_what_is_unambiguous_is_taken(action):
    advice = FunctionAdvisor(lambda observation: action).advise(make_query(1))
    np.testing.assert_array_equal(advice.actions[0], [0.5, -1])


@pytest.mark.parametrize("action", [0.5, np.float32(0.5), [0.5], th.tensor(0.5), [[0.5]]])
def test_a_number_is_an_action_of_one_component(action):
    assert as_numbers(action, spaces.Box(-1, 1, (1,))).tolist() == [0.5]
    assert as_numbers(action, spaces.Box(-1, 1, ())).tolist() == 0.5


def told_of_queries(caplog):
    """What is said besides, at the end, of the run as a whole."""
    *told, of_the_run = caplog.messages
    assert of_the_run.startswith("There was no advice: 2 queries about 16 states brought nothing")
    return told


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (
            [3.0, -9.0],
            r"8 times out of bounds, for instance .*-9.*\]\)\. Let it keep.* to \[1.0, 1.0\]; FunctionAdvisor\(f, clip",
        ),
        ([0.1, np.nan], r"8 times not finite, for instance .*nan.*\]\)\.$"),
        ([0.1, 0.2, 0.3], r"8 times wrong shape, for instance \[0.1, 0.2, 0.3\]\. Let it return 2 numbers"),
        ((np.zeros(2), None), r"8 times not numbers, for instance \(array\(.*policy\.predict\(observation\)\[0\]"),
        ("left", r"8 times not numbers, for instance left\."),
        (True, r"8 times not numbers"),
        (0.5, r"8 times wrong shape, for instance 0.5"),
        (None, r"the advisor abstained in 8 states"),
    ],
)
def test_a_query_that_brings_nothing_says_so_once(action, words, caplog):
    model, _ = learn(FunctionAdvisor(lambda observation: action))
    assert model.guidance_buffer.size() == 0
    (message,) = told_of_queries(caplog)
    assert message.startswith("Query 1 at step 50 brought no advice: ")
    assert re.search(words, message)


def test_an_example_is_of_a_state_where_states_differ(caplog):
    learn(FunctionAdvisor(lambda observation: [observation[0] + 100, 0.0]))
    (message,) = told_of_queries(caplog)
    assert re.search(r"8 times out of bounds, for instance .* in state 0\. Let it", message)


def test_clipping_by_name(caplog):
    model, _ = learn(FunctionAdvisor(lambda observation: [3.0, -9.0], clip=True))
    assert model.guidance_buffer.rows()["actions"].tolist() == [[1, -1]] * 16
    assert not caplog.records
    advice = FunctionAdvisor(lambda observation: [np.nan, 0], clip=True).advise(make_query(1))
    assert np.isnan(advice.actions[0][0]), "clipping makes no number of what is none"
    with pytest.raises(TypeError, match="clip is 1, expected True or False"):
        FunctionAdvisor(right, clip=1)


def test_an_exception_costs_its_own_state(caplog):
    calls = []

    def planner(observation):
        calls.append(observation)
        if len(calls) == 3:
            raise RuntimeError("no path\nfound")
        return right(observation)

    model, callback = learn(FunctionAdvisor(planner))
    assert model.guidance_buffer.size() == 15
    assert (callback.totals["rejected_raised"], callback.totals["abstained"]) == (1, 0)
    (record,) = caplog.records
    expected = "The function raised in 1 of the 8 states of query 1, first in state 2: RuntimeError: no path found"
    assert record.getMessage() == expected
    assert [r.example for q in read_queries("log") for r in q.advice.rejected] == ["RuntimeError: no path found"]


# ---- Reasons


@pytest.mark.parametrize("outputs", [["stdout", "csv", "json", "log"]])
def test_whatever_a_reason_is_the_logger_takes_it(outputs, tmp_path, caplog):
    long = "No path from the gripper to the handle was found, error {}"

    class Talkative:
        def advise(self, query):
            reasons = [long.format(i) for i in range(4)] + [f"reason {100 * query.index + i}" for i in range(4)]
            return Advice([None] * 8, [Rejection(reason, i) for i, reason in enumerate(reasons)])

    callback = AdvisorCallback(
        Talkative(), n_queries=6, first_query=20, query_freq=10, states_per_query=8, window=10, blocking=True
    )
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.set_logger(configure(str(tmp_path / "run"), outputs))
    model.learn(90, callback=callback)
    model.logger.close()
    assert callback.totals["rejected_no_path_from_the_gripper"] == 24
    names = [name for name in callback.totals if name.startswith("rejected_")]
    assert len(names) <= 21
    assert sum(callback.totals[name] for name in names) == 48
    assert "for instance No path from the gripper to the handle was found, error 0 in state 0" in caplog.text


@pytest.mark.parametrize(
    ("reason", "slug"), [("", "unknown"), ("Äh…", "h"), ("Too far!", "too_far"), ("x" * 99, "x" * 24)]
)
def test_reasons_become_slugs(reason, slug):
    class Advisor:
        def advise(self, query):
            return Advice([None] * 8, [Rejection(reason, 0)])

    _, callback = learn(Advisor(), n_queries=1)
    assert callback.totals[f"rejected_{slug}"] == 1


def test_examples_hold_no_key(monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key-0123456789")

    def function(observation):
        return "planted-key-0123456789"

    learn(FunctionAdvisor(function))
    assert "for instance ***" in caplog.text
    assert "planted" not in caplog.text + pathlib.Path("log/advice.jsonl").read_text()


def test_actions_that_are_no_list_are_said_to_be(caplog):
    class Lazy:
        def advise(self, query):
            return Advice(state.executed_action for state in query.states)

    learn(Lazy())
    assert "as actions, expected a list with an action or None for each state" in caplog.text
