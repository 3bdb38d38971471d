"""Advice for every state: labels of visited states, roll-ins, and rules that a model writes."""

import dataclasses
import json
import pathlib
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import CounterEnv, DictEnv, assert_same_parameters, make_vlm
from sb3_varl import (
    VARL,
    VARLTQC,
    Advice,
    AdvisorCallback,
    ArgumentError,
    FunctionAdvisor,
    ObservationSlice,
    ReplayAdvisor,
    Rules,
    RulesAdvisor,
    TaskSheet,
    VARLCrossQ,
)
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.types import Episode
from sb3_varl.report import write_report
from sb3_varl.report.relabel import Relabelled, merge
from sb3_varl.rules.description import describe
from sb3_varl.rules.rules import Rule
from sb3_varl.testing import VLMServer, decode_image, http_error
from sb3_varl.training.track_record import TrackRecord

pytestmark = pytest.mark.filterwarnings("ignore:. of . queries w")

SLICES = (ObservationSlice("episode", 0, 1), ObservationSlice("t", 1, 2))
SHEET = TaskSheet("Count.", (), SLICES)
SMALL = {"learning_starts": 5, "batch_size": 8, "seed": 0, "policy_kwargs": {"net_arch": [8]}, "shaping_steps": 1000}
SETTINGS = {"first_query": 20, "query_freq": 20, "states_per_query": 4, "window": 10, "frames": False, "blocking": True}
# The episode's number and the step within it, so that advice beside the wrong observation is found out.
TEXT = '{"rules": [{"name": "odd", "when": "t > 2", "action": ["episode / 10", "t / 10"]}]}'
OTHER = '{"rules": [{"name": "other", "when": "true", "action": ["-episode / 10", "-t / 10"]}]}'


class NamedEnv(CounterEnv):
    task_sheet = SHEET


class NamedDictEnv(DictEnv):
    task_sheet = TaskSheet("Count.", (), tuple(ObservationSlice(s.name, s.start, s.stop, key="count") for s in SLICES))


def make_model(env=None, cls=VARL, **kwargs):
    env = NamedEnv() if env is None else env
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    return cls(policy, env, **{**SMALL, **kwargs})


def make_callback(advisor=None, **kwargs):
    return AdvisorCallback(advisor or RulesAdvisor(TEXT), **{**SETTINGS, "log_path": False, **kwargs})


def assert_rows_are_advised(rows, sign=1, key="observation"):
    observations = rows[f"observations/{key}"]
    np.testing.assert_allclose(rows["actions"], sign * np.clip(observations[:, :2] / 10, -1, 1), atol=1e-6)


# ---- Labels


@pytest.mark.parametrize("label_freq", [1, 2, 3])
def test_every_so_many_steps_the_visited_state_becomes_guidance(label_freq):
    model = make_model()
    model.learn(100, callback=make_callback(label_freq=label_freq, roll_in=0, first_query=90))
    rows = model.guidance_buffer.rows()
    assert_rows_are_advised(rows)
    assert rows["labels"].all()
    # Of those at which the rule holds; the query's states are among the guidance as well.
    visited = [i for i in range(label_freq, 101, label_freq) if i % 7 > 2]
    assert sum(step != 90 for step in rows["steps"]) == sum(step != 90 for step in visited)


def test_labels_in_several_environments_under_normalisation():
    env = VecNormalize(DummyVecEnv([lambda i=i: NamedEnv(horizon=5 + i, offset=i * 2) for i in range(3)]))
    model = make_model(env)
    model.learn(90, callback=make_callback(label_freq=1, roll_in=0.5))
    rows = model.guidance_buffer.rows()
    assert_rows_are_advised(rows)
    assert len(rows["steps"]) > 30
    assert {int(x) % 2 for x in rows["observations/observation"][:, 0]} == {0, 1}


def test_labels_of_dict_observations():
    model = make_model(NamedDictEnv())
    model.learn(60, callback=make_callback(label_freq=1))
    assert_rows_are_advised(model.guidance_buffer.rows(), key="count")


def test_labels_end_with_the_cutoff():
    model = make_model(shaping_steps=50)
    model.learn(100, callback=make_callback(label_freq=1))
    assert 45 < model.guidance_buffer.rows()["steps"].max() < 50


class StandingOnly:
    """Somebody's own advisor."""

    def standing(self, briefing):
        return lambda observation, previous=None: observation[:2] / 10

    def advise(self, query):
        return Advice([None] * len(query.states))


@pytest.mark.parametrize(
    "advisor", [StandingOnly(), FunctionAdvisor(lambda observation: observation[:2] / 10, clip=True)]
)
def test_other_advisors_label_when_they_are_told_to(advisor):
    for label_freq, n_labels in ((None, 0), (2, 25)):
        model = make_model()
        model.learn(50, callback=make_callback(advisor, label_freq=label_freq))
        rows = model.guidance_buffer.rows()
        assert rows["labels"].sum() == n_labels
        assert_rows_are_advised(rows)


def test_standing_advice_that_cannot_be_used_is_counted_and_said_once(caplog):
    class Bad:
        def standing(self, briefing):
            def advise(observation, previous=None):
                if observation[1] == 0:
                    raise ZeroDivisionError("no")
                return [9.0, 9.0] if observation[1] < 3 else None if observation[1] < 5 else np.zeros(2)

            return advise

        def advise(self, query):
            return Advice([None] * len(query.states))

    model, callback = make_model(), make_callback(Bad(), label_freq=1, roll_in=0.5)
    model.learn(70, callback=callback)
    assert {"raised", "out_of_bounds", "abstained"} == set(callback._teacher.standing.missing)
    assert model.guidance_buffer.size() > 0
    assert sum("cannot be used in a state" in message for message in caplog.messages) == 2


# ---- Roll-ins


def executed(model):
    """Of each stored transition: the observation, and the action."""
    buffer = model.replay_buffer
    return buffer.observations[: buffer.pos, 0], buffer.actions[: buffer.pos, 0]


ALL = {"rules": [{"name": "all", "when": "true", "action": ["t / 10 - 0.3", "0.5"]}]}


def is_advice(model):
    observations, actions = executed(model)
    advised = np.stack([observations[:, 1] / 10 - 0.3, np.full(len(actions), 0.5)], axis=1)
    return (np.abs(actions - advised) < 0.6).all(axis=1)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_stored_transition_is_the_one_that_was_executed(share):
    env = NamedEnv()
    model = make_model(env, learning_starts=40)
    callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=share)
    model.learn(200, callback=callback)
    observations, actions = executed(model)
    done = np.array([action for _, _, action in env.history])
    np.testing.assert_allclose(actions, done, atol=1e-6)
    np.testing.assert_allclose(observations[:, 1], [t for _, t, _ in env.history])
    n_executed = callback._teacher.roll_ins.n_executed
    assert is_advice(model).sum() >= n_executed
    assert (n_executed > 0) == (share > 0)
    if share == 1:  # all 7 steps of an episode in a fifth, and a length between 1 and 7 in the others
        assert 80 < n_executed < 190
        assert callback._teacher.roll_ins.episodes["own"] == 0


def test_roll_ins_begin_an_episode_and_then_the_policy_takes_over():
    env = NamedEnv()
    model = make_model(env, learning_starts=1000)  # random actions, most of which are far from the advice
    callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0)
    model.learn(700, callback=callback)
    per_episode = is_advice(model).reshape(-1, 7)
    assert per_episode[:, 0].all()
    lengths = [int(np.argmin([*row, False])) for row in per_episode]
    assert len(set(lengths)) == 7
    figures = callback._teacher.roll_ins.figures()
    assert figures["advice/executed"] == pytest.approx(callback._teacher.roll_ins.n_executed / 700)
    assert set(callback._teacher.roll_ins.episodes) == {"rolled_in", "all_the_way"}


def test_roll_ins_are_bounded_and_end_with_the_cutoff():
    model, callback = make_model(), make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0, max_executed_steps=11)
    model.learn(100, callback=callback)
    assert callback._teacher.roll_ins.n_executed == 11
    model = make_model(shaping_steps=30)
    callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0)
    model.learn(200, callback=callback)
    assert 0 < callback._teacher.roll_ins.n_executed <= 30


@pytest.mark.parametrize("cls", [VARL, VARLTQC, VARLCrossQ])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_sde": True, "use_sde_at_warmup": True},
        {"action_noise": NormalActionNoise(np.zeros(2), np.full(2, 0.1))},
        {"fast": True},
    ],
    ids=["plain", "sde", "noise", "fast"],
)
def test_roll_ins_of_every_algorithm(cls, settings):
    if cls is VARLCrossQ and settings.get("use_sde"):
        pytest.skip("CrossQ has no gSDE")
    env = NamedEnv()
    model = make_model(env, cls, **settings)
    model.learn(60, callback=make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0))
    np.testing.assert_allclose(executed(model)[1], [action for _, _, action in env.history], atol=1e-6)
    assert is_advice(model)[::7].all()


def test_actions_in_the_units_of_the_environment():
    env = NamedEnv(low=-4.0, high=2.0)
    model = make_model(env)
    text = '{"rules": [{"when": "true", "action": ["2", "-4"]}]}'
    model.learn(30, callback=make_callback(RulesAdvisor(text), roll_in=1.0, label_freq=1))
    first = [action for _, t, action in env.history if t == 0]
    assert all(action[0] > 0 and action[1] < -2 for action in first)
    assert np.all(model.guidance_buffer.rows()["actions"] == [1, -1])


def test_a_run_can_be_repeated():
    models = []
    for _ in range(2):
        model = make_model()
        model.learn(150, callback=make_callback(RulesAdvisor(json.dumps(ALL))))
        models.append(model)
    assert_same_parameters(*models)


def test_without_advice_nothing_changes():
    text = '{"rules": [{"when": "t < 0", "action": ["0", "0"]}]}'
    varl = make_model().learn(150, callback=make_callback(RulesAdvisor(text)))
    settings = {name: value for name, value in SMALL.items() if name != "shaping_steps"}
    sac = SAC("MlpPolicy", NamedEnv(), **settings).learn(150)
    assert_same_parameters(varl, sac)


def test_the_horizon_is_that_of_the_environment():
    gym.register("Named-v0", entry_point=NamedEnv, max_episode_steps=5, kwargs={"horizon": 100})
    try:
        callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0)
        model = make_model(gym.make("Named-v0"))
        model.learn(60, callback=callback)
        assert callback._briefing.max_episode_steps == 5
        lengths = {callback._teacher.roll_ins._draw().left for _ in range(200)}
        assert lengths == {1, 2, 3, 4, 5}
    finally:
        gym.registry.pop("Named-v0")


# ---- Rules from a model


def answers(*texts):
    """What a server says, one text after the other."""
    left = list(texts)
    return lambda states, images: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def _environment(vlm_environment):
    pass


pytest_vlm = pytest.mark.usefixtures("_environment")


@pytest_vlm
def test_one_request_brings_rules_that_label_every_state():
    with VLMServer(answers(f"```json\n{TEXT}\n```")) as server:
        model, callback = make_model(), make_callback(make_vlm(server), log_path="log")
        model.learn(100, callback=callback)
        (request,) = server.requests
    assert '"rules"' in request.text
    assert "- episode: a number" in request.text
    assert len(request.states) == 4
    rows = model.guidance_buffer.rows()
    assert_rows_are_advised(rows)
    assert len(rows["steps"]) > 15
    assert callback.totals["queries"] == 1
    (query,) = read_queries("log")
    assert query.answers[0].form == "rules"
    assert callback._teacher.roll_ins.n_executed > 0


@pytest_vlm
@pytest.mark.parametrize("has_log", [True, False], ids=["log", "no_log"])
def test_a_resumed_run_has_the_rules_without_asking(has_log):
    with VLMServer(answers(TEXT)) as server:
        log = "log" if has_log else False
        model = make_model()
        model.learn(50, callback=make_callback(make_vlm(server), log_path=log))
        n_rows = model.guidance_buffer.size()
        model.save("model")
        model = VARL.load("model", env=NamedEnv(offset=100))
        assert model.guidance_buffer.size() == n_rows
        callback = make_callback(make_vlm(server), log_path=log, label_freq=1)
        model.learn(30, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 1
    assert model.guidance_buffer.size() > n_rows
    assert_rows_are_advised(model.guidance_buffer.rows())


@pytest_vlm
def test_a_zip_that_is_older_than_the_log_takes_the_rules_from_it():
    with VLMServer(answers(TEXT)) as server:
        model = make_model()
        model.save("old")
        model.learn(50, callback=make_callback(make_vlm(server), log_path="log"))
        old = VARL.load("old", env=NamedEnv())
        callback = make_callback(make_vlm(server), log_path="log", resume=True)
        old.learn(50, callback=callback)
        assert len(server.requests) == 1
    assert callback._teacher.standing.advice == Rules.parse(TEXT, SHEET, old.observation_space, old.action_space)
    assert_rows_are_advised(old.guidance_buffer.rows())


@pytest_vlm
def test_the_next_rules_replace_these_and_their_labels():
    with VLMServer(answers(TEXT, OTHER)) as server:
        model = make_model()
        model.learn(39, callback=(first := make_callback(make_vlm(server), n_queries=2, roll_in=0)))
        assert_rows_are_advised(model.guidance_buffer.rows())
        model.learn(60, callback=first, reset_num_timesteps=False)
        assert len(server.requests) == 2
    rows = model.guidance_buffer.rows()
    assert_rows_are_advised(rows, sign=-1)
    assert (rows["steps"] >= 40).all()


@pytest_vlm
def test_an_answer_without_rules_costs_that_answer(caplog):
    with VLMServer(answers("I would rather not.", TEXT)) as server:
        model, callback = make_model(), make_callback(make_vlm(server), n_queries=2)
        model.learn(60, callback=callback)
    assert callback.totals["rejected_no_rules"] == 4
    assert callback.totals["accepted"] > 0
    assert any("brought no advice" in message for message in caplog.messages)


@pytest_vlm
def test_bad_rules_are_counted_and_cost_no_other():
    text = json.dumps(
        {"rules": [{"name": "bad", "when": "wrist > 0", "action": ["0", "0"]}, json.loads(TEXT)["rules"][0]]}
    )
    with VLMServer(answers(text)) as server:
        callback = make_callback(make_vlm(server))
        make_model().learn(50, callback=callback)
    assert callback.totals["rejected_unknown_name"] == 1
    assert [rule.name for rule in callback._teacher.standing.advice.rules] == ["odd"]


@pytest_vlm
def test_a_failed_request_is_asked_again_by_the_run_that_goes_on():
    with VLMServer(answers(TEXT), script=(http_error(400),)) as server:
        model = make_model()
        model.learn(50, callback=make_callback(make_vlm(server), log_path="log", n_queries=1))
        assert model.guidance_buffer.size() == 0
        model.save("model")
        model = VARL.load("model", env=NamedEnv(offset=100))
        model.learn(50, callback=make_callback(make_vlm(server), log_path="log"), reset_num_timesteps=False)
        assert len(server.requests) == 2
    assert model.guidance_buffer.size() > 4


@pytest_vlm
def test_the_form_is_chosen_by_what_has_a_name():
    with VLMServer() as server:
        make_model(CounterEnv()).learn(30, callback=make_callback(make_vlm(server), n_queries=1))
        assert '"advice"' in server.requests[0].text
        with pytest.raises(ArgumentError, match=r'task sheet.*form="actions"'):
            make_model(CounterEnv()).learn(30, callback=make_callback(make_vlm(server, form="rules")))
        make_model().learn(30, callback=make_callback(make_vlm(server, form="actions"), n_queries=1))
        assert '"advice"' in server.requests[1].text
    with pytest.raises(ArgumentError, match='form is \'rule\', expected "rules", "actions" or None'):
        make_vlm(server, form="rule")


def test_rules_of_a_file_and_by_name():
    with open("mine.json", "w") as file:
        file.write(TEXT)
    model = make_model()
    model.learn(50, callback=make_callback("rules/mine.json"))
    assert_rows_are_advised(model.guidance_buffer.rows())
    with pytest.raises(ValueError, match=r"no recorded rules for 'pusch-v3'\. Did you mean push-v3"):
        AdvisorCallback("recorded/pusch-v3")
    with pytest.raises(ValueError, match="is for the task 'Push the dark red puck"):
        make_model().learn(10, callback=make_callback("recorded/push-v3"))


def test_a_file_in_a_folder_that_is_called_rules():
    pathlib.Path("rules").mkdir()
    pathlib.Path("rules/mine.json").write_text(TEXT)
    model = make_model()
    model.learn(50, callback=make_callback("rules/mine.json"))
    assert_rows_are_advised(model.guidance_buffer.rows())


def test_rules_that_never_fire_are_logged_and_so_is_where_none_does():
    text = TEXT[:-2] + ', {"name": "never", "when": "t > 99", "action": ["0", "0"]}]}'
    callback = make_callback(RulesAdvisor(text), roll_in=0, label_freq=1)
    make_model().learn(70, callback=callback)
    figures = callback._teacher.standing.figures()
    assert figures["advice/rule_2"] == 0
    assert figures["advice/no_rule"] == pytest.approx(3 / 7, abs=0.03)
    assert sum(figures.values()) == pytest.approx(1)


def test_other_rules_than_those_that_the_model_was_saved_with_are_told_of(caplog):
    model = make_model()
    model.learn(50, callback=make_callback(RulesAdvisor(TEXT), log_path="log"))
    n_labels = model.guidance_buffer.rows()["labels"].sum()
    model.save("model")
    for text, is_said in ((TEXT, False), (OTHER, True)):
        model = VARL.load("model", env=NamedEnv())
        model.learn(30, callback=make_callback(RulesAdvisor(text), log_path="log"), reset_num_timesteps=False)
        assert is_said == any("not those that the model was saved with" in message for message in caplog.messages)
    assert_rows_are_advised(model.guidance_buffer.rows(), sign=-1)
    assert n_labels > 0


def test_rules_of_which_none_can_be_used():
    text = '{"rules": [{"name": "grasp", "when": "true", "action": ["wrist", "0"]}]}'
    with pytest.raises(ValueError, match=r"None of the rules of rules .*: grasp: there is no wrist, only episode, t"):
        make_model().learn(10, callback=make_callback(RulesAdvisor(text)))
    with pytest.raises(TypeError, match=r"RulesAdvisor\.load reads files"):
        RulesAdvisor(Rule("a", "true", None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_freq": -1}, "label_freq is -1"),
        ({"label_freq": 0.5}, "label_freq is 0.5"),
        ({"roll_in": 1.5}, "roll_in is 1.5"),
        ({"max_executed_steps": -1}, "max_executed_steps is -1"),
        ({"n_queries": 0}, "n_queries is 0"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        make_callback(**arguments)


# ---- Corrections


class TargetEnv(NamedEnv):
    """Succeeds if the first component of the last action of an episode is above 0."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "is_success": bool(action[0] > 0)}


def test_success_of_executed_advice_is_not_the_agents():
    """One in five episodes is advice all the way, and succeeds."""

    class NarrowEnv(NamedEnv):
        def step(self, action):
            *transition, info = super().step(action)
            return *transition, {**info, "is_success": bool(abs(action[0] - 0.5) < 1e-4)}

    model = make_model(NarrowEnv(), shaping_steps=10_000, learning_starts=10_000)
    callback = make_callback(RulesAdvisor(answer_of(0.5)), roll_in=0.5, until_success=0.05, n_queries=1)
    model.learn(800, callback=callback)
    assert callback._teacher.roll_ins.successes["all_the_way"] > 3
    assert len(callback._teacher.roll_ins.own) == 20
    assert model.shaping_active


def answer_of(value):
    return json.dumps({"rules": [{"name": f"always {value}", "when": "true", "action": [str(value), "t / 10"]}]})


@pytest_vlm
def test_the_next_query_shows_what_became_of_the_rules():
    answers = [answer_of(-0.5), answer_of(0.5)]
    with VLMServer(lambda states, images: answers.pop(0)) as server:
        model = make_model(TargetEnv(), shaping_steps=2000)
        callback = make_callback(make_vlm(server), n_queries=3, query_freq=300, roll_in=1.0)
        model.learn(900, callback=callback)
        first, second = (request.text for request in server.requests)  # the third is left out, for these succeed
    assert "Your rules so far" not in first
    assert answer_of(-0.5)[11:-2] in second
    assert "0 of " in second
    assert "succeeded" in second
    assert '"always -0.5" ' in second
    assert "An episode that failed, of 7 steps." in second
    assert "An episode that succeeded" not in second
    assert '{"keep": true}' in second
    assert callback._teacher.standing.advice.rules[0].name == "always 0.5"
    assert callback._teacher.record.is_good_enough
    assert callback.totals["queries"] == 2


@pytest_vlm
def test_a_correction_comes_with_pictures_of_the_changes_of_rule():
    """The frames of this environment show the step within the episode."""
    two = (
        '{"rules": [{"name": "late", "when": "t > 3", "action": ["-1", "0"]}, {"when": "true", "action": ["-1", "0"]}]}'
    )
    texts = [two, '{"keep": true}']
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        callback = make_callback(
            make_vlm(server), n_queries=2, query_freq=300, roll_in=1.0, frames=True, log_path="log"
        )
        make_model(TargetEnv(), shaping_steps=2000).learn(700, callback=callback)
        request = server.requests[1]
    parts = request.body["messages"][1]["content"]
    pictures = [decode_image(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
    assert [picture.getpixel((0, 0))[1] for picture in pictures] == [0, 4, 0, 4]  # of two episodes that failed
    assert request.text.count("(A picture of step 4.)") == 2
    with open("log/advice.jsonl") as file:
        (shown,) = [followed for line in file if (followed := json.loads(line).get("followed"))]
    assert shown["episodes"] >= 8
    assert shown["succeeded"] == 0


@pytest_vlm
@pytest.mark.parametrize(
    ("before", "now", "worse"),
    [
        ((8, 8), (0, 8), True),
        ((8, 8), (8, 8), False),
        ((16, 20), (6, 8), False),  # may well be chance
        ((16, 20), (4, 8), True),
        ((16, 20), (15, 20), True),
        ((16, 20), (17, 20), False),
        ((5, 7), (0, 20), False),  # nobody knows how good that was
        ((5, 8), (0, 7), False),
    ],
)
def test_rules_are_worse_if_it_is_hardly_chance(before, now, worse):
    records = []
    for successes, episodes in (before, now):
        record = TrackRecord(lambda observation: None, records[-1] if records else None)
        for i in range(episodes):
            record.add(Episode((), (), (), i < successes, {}))
        records.append(record)
    assert records[-1].is_worse_than_before == worse


def test_rules_that_do_worse_are_put_back(caplog):
    answers = [answer_of("0.4 if sin(episode * 3) > 0 else -0.4"), answer_of(-0.5), '{"keep": true}']
    with VLMServer(lambda states, images: answers.pop(0)) as server:
        model = make_model(TargetEnv(), shaping_steps=3000)
        callback = make_callback(make_vlm(server), n_queries=3, query_freq=400, roll_in=1.0)
        model.learn(1500, callback=callback)
        _, _, third = (request.text for request in server.requests)
    assert callback._teacher.standing.advice.rules[0].name.startswith("always 0.4 if")
    assert "You have revised them once, and the revised rules did worse: 0 of " in third
    assert any("which stands again" in message for message in caplog.messages)
    rows = model.guidance_buffer.rows()
    np.testing.assert_allclose(np.abs(rows["actions"][:, 0]), 0.4, atol=1e-6)
    assert model.advice_progress[0]["rules"] == callback._teacher.standing.advice.text


@pytest_vlm
def test_rules_that_are_kept_stand():
    answers = [answer_of(-0.5), '{"keep": true}']
    with VLMServer(lambda states, images: answers.pop(0)) as server:
        model = make_model(TargetEnv(), shaping_steps=2000)
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=300, roll_in=1.0)
        model.learn(700, callback=callback)
        assert len(server.requests) == 2
    assert callback._teacher.standing.advice.rules[0].name == "always -0.5"
    assert callback.totals["abstained"] == 4


def test_a_table_has_what_changes_and_every_change_of_rule():
    rules = Rules.parse(
        '{"rules": [{"name": "late", "when": "t > 47", "action": ["t / 100", "0"]},'
        '{"name": "early", "when": "t < 40", "action": ["0", "0"]}]}',
        SHEET,
        spaces.Box(-np.inf, np.inf, (3,), np.float32),
        spaces.Box(-1, 1, (2,), np.float32),
    )
    observations = tuple(np.array([5.0, t, 0.0], np.float32) for t in range(50))
    decisions = [rules.decide(observation) for observation in observations]
    actions = tuple(np.full(2, np.nan) if d.action is None else d.action for d in decisions)
    episode = Episode(observations, actions, tuple(d.rule for d in decisions), False)
    parts = describe(rules, [episode, episode, dataclasses.replace(episode, succeeded=True)])
    text = "\n\n".join(part.text for part in parts)
    assert "followed for 3 episodes of at most 50 steps: 1 of 3 succeeded" in text
    assert '"late" 6, "early" 120, none of them 24' in text
    assert text.count("episode 5 throughout") == 3
    assert text.count("An episode that failed") == 2
    assert "\n0; early; 0; 0 0\n" in text
    assert "\n40; none; 40; nan nan\n" in text
    assert "\n48; late; 48; 0.48 0\n" in text
    assert "\n49; late; 49; 0.49 0" in text
    table = text.split("An episode that succeeded")[1]
    assert len(table.splitlines()) <= 34


@pytest_vlm
def test_a_run_that_was_killed_anywhere_asks_nothing_twice(tmp_path):
    """The log ends after each of its lines in turn, and a new run goes on from there."""
    settings = {"n_queries": 2, "roll_in": 0, "label_freq": 5}
    with VLMServer(answers(TEXT, OTHER)) as server:
        make_model().learn(60, callback=make_callback(make_vlm(server), log_path="log", **settings))
        assert len(server.requests) == 2
    lines = pathlib.Path("log/advice.jsonl").read_text().splitlines(keepends=True)
    for n in range(1, len(lines) + 1):
        kept = [json.loads(line) for line in lines[:n]]
        answered = {record["query"] for record in kept if record["type"] == "answer"}
        folder = tmp_path / f"cut_{n}"
        folder.mkdir()
        (folder / "advice.jsonl").write_text("".join(lines[:n]))
        with VLMServer(answers(*([TEXT, OTHER][len(answered) :] or [OTHER]))) as server:
            model = make_model(NamedEnv(offset=100))
            callback = make_callback(make_vlm(server), log_path=str(folder), resume=True, **settings)
            model.learn(60, callback=callback)
            assert len(server.requests) == 2 - len(answered), n
        assert callback._teacher.standing.advice.rules[0].name == "other"
        assert_rows_are_advised(model.guidance_buffer.rows(), sign=-1)
        assert [len(query.answers) for query in read_queries(folder)] == [1, 1]


@pytest_vlm
def test_a_recorded_run_with_rules_can_be_replayed():
    texts = [answer_of(-0.5), answer_of(0.5)]
    models = []
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        for advisor in (make_vlm(server), None):
            model = make_model(TargetEnv(), shaping_steps=2000)
            callback = make_callback(
                advisor or ReplayAdvisor("log"),
                n_queries=2,
                query_freq=300,
                roll_in=1.0,
                log_path="log" if advisor else False,
            )
            models.append(model.learn(700, callback=callback))
        assert len(server.requests) == 2
    assert callback._teacher.standing.advice.rules[0].name == "always 0.5"
    assert_same_parameters(*models)


@pytest_vlm
def test_what_is_logged_of_rules(tmp_path):
    text = '{"rules": [{"when": "t > 2", "action": ["0", "0"]}, {"when": "t < 1", "action": null}]}'
    with VLMServer(answers(text)) as server:
        model = make_model(tensorboard_log=str(tmp_path))
        model.learn(100, callback=make_callback(make_vlm(server), roll_in=0, n_queries=1), log_interval=1)
    (file,) = tmp_path.glob("VARL_1/events*")
    logged = EventAccumulator(str(file.parent), size_guidance={"tensors": 0}).Reload()
    shares = [logged.Scalars(f"advice/rule_{i}")[-1].value for i in (1, 2)]
    np.testing.assert_allclose(shares, [4 / 7, 1 / 7], atol=0.1)
    (shown,) = logged.Tensors("advice/rules/text_summary")
    assert "t > 2" in shown.tensor_proto.string_val[0].decode()
    assert logged.Scalars("advice/labels")[-1].value > 10


# ---- Rules that say nothing


def warnings_of(caplog, text, **kwargs):
    make_model().learn(250, callback=make_callback(RulesAdvisor(text), label_freq=1, **kwargs))
    return [message for message in caplog.messages if "rules" in message]


def test_rules_that_never_hold_are_told_of_once(caplog):
    never = '{"rules": [{"name": "a", "when": "t > 50", "action": ["0", "0"]}]}'
    (message,) = warnings_of(caplog, never)
    assert "none of the 1 rules held in any of" in message
    assert "no condition was true" in message


def test_rules_without_a_value_are_told_of_once(caplog):
    text = '{"rules": [{"name": "far", "when": "1 / (t - t) > 0", "action": ["0", "0"]}]}'
    (message,) = warnings_of(caplog, text)
    assert "of {'far': " in message


def test_rules_that_always_advise_the_same_are_told_of_once(caplog):
    same = '{"rules": [{"when": "true", "action": ["0.5", "-0.25"]}]}'
    (message,) = warnings_of(caplog, same, roll_in=0)
    assert "the same action, [0.5, -0.25], in all of the first 100 states" in message
    caplog.clear()
    assert warnings_of(caplog, TEXT) == []


@pytest_vlm
def test_a_sheet_that_rules_cannot_use_is_told_of(caplog):
    class OverlappingEnv(NamedEnv):
        task_sheet = TaskSheet("Count.", (), (ObservationSlice("a", 0, 2), ObservationSlice("b", 1, 3)))

    with VLMServer() as server:
        advisor = make_vlm(server)
        make_model(OverlappingEnv()).learn(30, callback=make_callback(advisor, n_queries=1))
        assert '"advice"' in server.requests[0].text
        (message,) = [message for message in caplog.messages if "is asked for actions, and not for rules" in message]
        assert "'a' (0 to 2) and 'b' (1 to 3) overlap. Give each number one name." in message
        with pytest.raises(ArgumentError, match="overlap"):
            make_model(OverlappingEnv()).learn(30, callback=make_callback(make_vlm(server, form="rules")))


# ---- What the advisor reads may differ from what the policy sees


class SeenEnv(CounterEnv):
    """The policy sees the counter negated; the advisor reads it, as an attribute or from a method."""

    task_sheet = SHEET

    def _obs(self):
        return -super()._obs()

    @property
    def counter(self):
        return -self._obs()

    def counters(self):
        return {"count": list(-self._obs()[:2]), "constant": 3}


class SeenDictEnv(SeenEnv):
    task_sheet = TaskSheet("Count.", (), tuple(ObservationSlice(s.name, s.start, s.stop, key="count") for s in SLICES))


@pytest.mark.parametrize("observe", ["counter", "counters"])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_rules_over_what_the_policy_does_not_see(observe, n_envs):
    env_class = SeenEnv if observe == "counter" else SeenDictEnv
    env = VecNormalize(DummyVecEnv([lambda i=i: env_class(offset=10 * i) for i in range(n_envs)]))
    model = make_model(env)
    callback = make_callback(observe=observe, label_freq=1, roll_in=0.5, log_path="log")
    model.learn(120, callback=callback)
    rows = model.guidance_buffer.rows()
    assert len(rows["steps"]) > 30
    assert_rows_are_advised({**rows, "observations/observation": -rows["observations/observation"]})
    # The query's states are logged as both.
    (query,) = read_queries("log")
    for read, seen in zip(query.observations, query.guided, strict=True):
        counted = read["count"] if observe == "counters" else read[:2]
        np.testing.assert_allclose(seen[:2], -counted)
    relabelled = merge([Relabelled(query)])
    np.testing.assert_allclose(relabelled.rows()["observations/observation"], np.stack(query.guided)[_advised(query)])


def _advised(query):
    return [i for i, action in enumerate(query.read().actions) if action is not None]


@pytest_vlm
def test_a_model_reads_what_the_policy_does_not_see():
    with VLMServer(answers(TEXT)) as server:
        model = make_model(SeenEnv())
        model.save("old")
        model.learn(60, callback=make_callback(make_vlm(server), observe="counter", log_path="log", n_queries=1))
        assert all(state["t"] >= 0 for state in server.requests[0].states)
        # A model that has nothing of it takes it from the log.
        old = VARL.load("old", env=SeenEnv())
        callback = make_callback(make_vlm(server), observe="counter", log_path="log", n_queries=1, resume=True)
        old.learn(60, callback=callback)
        assert len(server.requests) == 1
    for each in (model, old):
        rows = each.guidance_buffer.rows()
        assert len(rows["steps"]) > 4
        assert_rows_are_advised({**rows, "observations/observation": -rows["observations/observation"]})


def test_what_cannot_be_read():
    with pytest.raises(ArgumentError, match="observe is 'wrist', expected the name of an attribute or a method"):
        make_model(SeenEnv()).learn(10, callback=make_callback(observe="wrist"))
    with pytest.raises(ArgumentError, match="The environment's task_sheet, which observe names, is TaskSheet"):
        make_model(SeenEnv()).learn(10, callback=make_callback(observe="task_sheet"))
    with pytest.raises(ArgumentError, match="observe is 3"):
        make_callback(observe=3)


# ---- What has broken it


@pytest_vlm
def test_an_answer_that_nobody_can_read_costs_itself(monkeypatch):
    """Whatever reading it raises."""

    def broken(*args):
        raise ZeroDivisionError("of the reader")

    monkeypatch.setattr(Rules, "parse", broken)
    with VLMServer(answers(TEXT)) as server:
        callback = make_callback(make_vlm(server), n_queries=1)
        make_model().learn(60, callback=callback)
    assert callback.totals["failed_queries"] == 1


@pytest_vlm
@pytest.mark.parametrize("text", ['{"plan": "They are fine.", "keep": true}', '{"keep": true}'])
def test_keep_with_a_plan(text, caplog):
    texts = [answer_of(-0.5), text]
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=300, roll_in=1.0)
        make_model(TargetEnv(), shaping_steps=2000).learn(700, callback=callback)
    assert callback.totals["abstained"] == 4
    assert callback._teacher.standing.advice.rules[0].name == "always -0.5"
    assert not [message for message in caplog.messages if "brought no advice" in message]


@pytest_vlm
def test_keep_in_a_draft_does_not_win():
    texts = [answer_of(-0.5), f'I could say {{"keep": true}}, but: {answer_of(0.5)}']
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=300, roll_in=1.0)
        make_model(TargetEnv(), shaping_steps=2000).learn(700, callback=callback)
    assert callback._teacher.standing.advice.rules[0].name == "always 0.5"


class Asked:
    """Keeps what it is asked about in any state."""

    def __init__(self):
        self.seen = []

    def standing(self, briefing):
        def advise(observation, previous=None):
            self.seen.append((observation[:2].tolist(), None if previous is None else previous[:2].tolist()))
            return np.clip(observation[:2] / 1000, -1, 1)

        return advise

    def advise(self, query):
        return Advice([None] * len(query.states))


def test_another_environment_between_two_runs_begins_anew():
    asked, model = Asked(), make_model(NamedEnv(horizon=10), learning_starts=1000, shaping_steps=5000)
    callback = make_callback(asked, label_freq=0, roll_in=1.0, n_queries=1)
    model.learn(53, callback=callback)
    asked.seen.clear()
    model.set_env(NamedEnv(horizon=10, offset=100))
    model.learn(40, callback=callback, reset_num_timesteps=False)
    assert all(observation[0] >= 100 for observation, _ in asked.seen)
    assert all(previous is None or previous[0] == observation[0] for observation, previous in asked.seen)


def test_episodes_without_an_end_are_handed_over():
    model = make_model(NamedEnv(horizon=10**9), learning_starts=10**6, shaping_steps=10**6)
    callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0, label_freq=0)
    model.learn(1500, callback=callback)
    assert 0 < callback._teacher.roll_ins.n_executed <= 1000


@pytest_vlm
def test_without_roll_ins_corrections_do_not_wait():
    with VLMServer(answers(TEXT)) as server:
        callback = make_callback(make_vlm(server), max_executed_steps=0, n_queries=3)
        make_model().learn(100, callback=callback)
        assert len(server.requests) == 3


def test_rules_that_stand_need_no_query(recwarn):
    """So nobody is told that it will not be asked."""
    make_model().learn(20, callback=make_callback(n_queries=None, first_query=None, query_freq=None))
    assert not [warning for warning in recwarn if "asked" in str(warning.message)]


@pytest_vlm
@pytest.mark.parametrize("model_first", [True, False])
def test_a_model_that_writes_rules_takes_no_place_beside_rules_that_stand(model_first):
    """Its corrections would remove the labels of the others."""
    with VLMServer(answers(TEXT)) as server:
        callbacks = [make_callback(make_vlm(server), label_freq=0, roll_in=0.0, log_path=False)]
        callbacks.insert(model_first, make_callback(log_path=False))
        with pytest.raises(ArgumentError, match="Two AdvisorCallbacks have advice that stands"):
            make_model().learn(30, callback=callbacks)


def test_two_callbacks_whose_advice_stands_are_refused():
    callbacks = [make_callback(log_path=False), make_callback(log_path=False)]
    with pytest.raises(ArgumentError, match="Two AdvisorCallbacks have advice that stands"):
        make_model().learn(30, callback=callbacks)
    callbacks = [make_callback(log_path=False), make_callback(log_path=False, roll_in=0, label_freq=0)]
    make_model().learn(30, callback=callbacks)


@pytest.mark.parametrize("moment", [1, 4, 6])
def test_a_step_that_is_broken_off_is_written_down_once(moment):
    class Interrupted(NamedEnv):
        n = 0

        def step(self, action):
            type(self).n += 1
            if self.n == moment:
                raise KeyboardInterrupt
            return super().step(action)

    model = make_model(Interrupted(), learning_starts=1000)
    callback = make_callback(roll_in=1.0, label_freq=0, n_queries=1)
    seed = next(seed for seed in range(100) if np.random.default_rng([seed, 1]).random(3)[1] < 0.2)
    model.seed = seed  # its first episode is advice all the way
    with pytest.raises(KeyboardInterrupt):
        model.learn(50, callback=callback)
    model.learn(30, callback=callback, reset_num_timesteps=False)
    first = callback._teacher.record._episodes[0].observations
    np.testing.assert_array_equal([o[:2] for o in first], [(0, t) for t in range(7)])


@pytest_vlm
def test_a_resumed_run_knows_how_the_rules_fared():
    texts = [answer_of(0.5), answer_of(-0.5)]
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        model = make_model(TargetEnv(), shaping_steps=5000)
        callback = make_callback(make_vlm(server), n_queries=1, roll_in=1.0, log_path="log")
        model.learn(400, callback=callback)
        record = callback._teacher.record
        assert record.n_successes == record.n_episodes > 8
        model.save("model")
        model = VARL.load("model", env=TargetEnv())
        callback = make_callback(make_vlm(server), n_queries=2, first_query=410, roll_in=1.0, log_path="log")
        model.learn(400, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 1  # for these succeed
        assert callback._teacher.record.n_episodes > record.n_episodes


@pytest_vlm
def test_rules_are_put_back_in_a_resumed_run(caplog):
    texts = [answer_of(0.5), answer_of(-0.5)]
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        model = make_model(FlakyEnv(), shaping_steps=5000)
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=400, roll_in=1.0, log_path="log")
        while len(server.requests) < 2:
            model.learn(50, callback=callback, reset_num_timesteps=False)
        model.save("model")
        model = VARL.load("model", env=FlakyEnv())
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=400, roll_in=1.0, log_path="log")
        model.learn(500, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 2
    assert any("which stands again" in message for message in caplog.messages)
    assert callback._teacher.standing.advice.rules[0].name == "always 0.5"


class FlakyEnv(TargetEnv):
    """Fails every fourth time."""

    n = 0

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        type(self).n += terminated or truncated
        return observation, reward, terminated, truncated, {**info, "is_success": info["is_success"] and self.n % 4 > 0}


@pytest_vlm
def test_a_model_with_rules_in_an_environment_without_their_names_says_so():
    with VLMServer(answers(TEXT)) as server:
        model = make_model()
        model.learn(50, callback=make_callback(make_vlm(server), log_path=False, n_queries=1))
        model.save("model")
        env = NamedEnv()
        env.task_sheet = TaskSheet("Count.")
        model = VARL.load("model", env=env)
        callback = make_callback(make_vlm(server), log_path=False)
        with pytest.raises(ArgumentError, match=r"was saved with rules that stand, .*AdvisorCallback\(sheet=\.\.\.\)"):
            model.learn(50, callback=callback, reset_num_timesteps=False)


@pytest_vlm
def test_the_report_has_corrections_beside_each_other():
    def answer(*rules):
        return json.dumps({"rules": [{"name": name, "when": when, "action": [x, "0"]} for name, when, x in rules]})

    texts = [
        answer(("grasp", "t > 5", "1"), ("lower", "t > 3", "-0.5"), ("approach", "true", "-0.1")),
        answer(("grasp", "t > 5", "1"), ("lift", "t > 4", "0.7"), ("lower", "t > 3", "-0.4")),
        '{"keep": true}',
    ]
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        callback = make_callback(make_vlm(server), n_queries=3, query_freq=30, roll_in=0, log_path="run/advice")
        model = make_model()
        model.set_logger(configure("run", ["csv"]))
        model.learn(120, callback=callback, log_interval=1)
        assert len(server.requests) == 3
    page = write_report("run").read_text()
    table = page.partition("<h2>Rules</h2>")[2].partition("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in table.split("<tr>")[2:]]
    shares = [row.pop() for row in rows]
    assert shares[3] == ""
    assert sum(int(share.rstrip("%")) for share in shares[:3]) in range(20, 100)
    assert [re.sub(r"<[^>]*>| ", "", "|".join(row)) for row in rows] == [
        "1|graspt&gt;510|asbefore",
        "2||liftt&gt;40.70",
        "3|lowert&gt;3-0.50|lowert&gt;3-0.40",
        "4|approachtrue-0.10|leftout",
    ]
    assert re.findall(r"query \d, step \d+", table) == ["query 1, step 20", "query 2, step 50"]


def test_the_log_has_the_rules_that_were_there_beforehand():
    first = make_model().learn(60, callback=make_callback(RulesAdvisor(TEXT), log_path="run/advice", n_queries=1))
    (query,) = read_queries("run/advice")
    assert [(answer.form, answer.text) for answer in query.answers] == [("rules", TEXT)]
    assert query.usage.requests == 0
    assert "odd" in write_report("run").read_text().partition("<h2>Rules</h2>")[2].partition("</table>")[0]
    again = make_model()
    again.learn(60, callback=make_callback(ReplayAdvisor("run/advice"), n_queries=1, label_freq=2, roll_in=0.5))
    assert len(again.guidance_buffer.rows()["labels"]) > 0
    assert first.guidance_buffer.size() > 0
