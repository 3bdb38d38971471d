"""Roll-ins: episodes that begin with advice being executed, and when the advice has to end."""

import json
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.noise import NormalActionNoise
from standing import (
    ALL,
    SMALL,
    UPDATES,
    NamedEnv,
    TargetEnv,
    answer_of,
    executed,
    make_callback,
    make_model,
)

from conftest import assert_same_parameters
from sb3_varl import (
    VARL,
    VARLTQC,
    ArgumentError,
    FunctionAdvisor,
    RulesAdvisor,
    VARLCrossQ,
)
from sb3_varl.advice.types import Episode
from sb3_varl.training import roll_ins
from sb3_varl.training.track_record import TrackRecord
from sb3_varl.training.until_success import needed_success, succeeds

pytestmark = pytest.mark.filterwarnings("ignore:. of . queries w")


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
        assert not callback._teacher.roll_ins.own


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
    assert callback._teacher.roll_ins.rolled_in
    assert not callback._teacher.roll_ins.own
    assert callback._teacher.record.n_shown


def test_roll_ins_are_bounded_and_end_with_the_cutoff():
    model, callback = make_model(), make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0, max_executed_steps=11)
    model.learn(100, callback=callback)
    assert callback._teacher.roll_ins.n_executed == 11
    model = make_model(shaping_steps=30)
    callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0)
    model.learn(200, callback=callback)
    assert 0 < callback._teacher.roll_ins.n_executed <= 30


def test_the_bound_is_that_of_a_run_that_goes_on():
    def make():
        return make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0, max_executed_steps=11, log_path="log")

    model = make_model()
    model.learn(8, callback=(callback := make()))
    assert 0 < callback._teacher.roll_ins.n_executed < 11
    for _ in range(2):
        model.save("model")
        model = VARL.load("model", env=NamedEnv(offset=100))
        model.learn(100, callback=(callback := make()), reset_num_timesteps=False)
        assert callback._teacher.roll_ins.n_executed == 11
    figures = callback._teacher.figures()
    assert figures["advice/executed"] == 11 / 208
    assert figures["advice/labels"] > 100 // 7 * 4


class TwofoldEnv(NamedEnv):
    """Says of two things whether they succeeded."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "is_success": np.array([True, self.t < 5])}


@pytest.mark.parametrize("roll_in", [0.0, 0.5])
def test_success_in_several_numbers_is_all_of_them(roll_in):
    callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=roll_in, until_success=0.25)
    model = make_model(TwofoldEnv())
    model.learn(400, callback=callback)
    assert model.shaping_ended is None
    assert callback._teacher.record.n_successes == 0
    assert (callback._teacher.record.n_episodes > 0) == (roll_in > 0)


class SilentFailures(NamedEnv):
    """Says that it succeeded, and of failures nothing."""

    def step(self, action):
        *transition, info = super().step(action)
        return *transition, {**info, "is_success": True} if self.episode % 2 else info


def test_where_some_episodes_tell_of_success_the_others_had_none():
    callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=0.99)
    make_model(SilentFailures()).learn(700, callback=callback)
    record = callback._teacher.record
    assert 0.3 < record.success < 0.7
    assert record.n_episodes > 10


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
    model = make_model(env, cls, **{**UPDATES, **settings})
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
        model = make_model(**UPDATES)
        model.learn(150, callback=make_callback(RulesAdvisor(json.dumps(ALL))))
        models.append(model)
    assert_same_parameters(*models)


def test_without_advice_nothing_changes():
    text = '{"rules": [{"when": "t < 0", "action": ["0", "0"]}]}'
    varl = make_model(**UPDATES).learn(150, callback=make_callback(RulesAdvisor(text)))
    settings = {name: value for name, value in {**SMALL, **UPDATES}.items() if name != "shaping_steps"}
    sac = SAC("MlpPolicy", NamedEnv(), **settings).learn(150)
    assert_same_parameters(varl, sac)


def test_pieces_of_a_run_draw_other_episodes():
    model, executed = make_model(NamedEnv(horizon=10)), []
    for piece in range(6):
        callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=0.5)
        model.learn(50, callback=callback, reset_num_timesteps=piece == 0)
        executed.append(callback._teacher.roll_ins.n_executed)
    assert len(set(np.diff([0, *executed]))) > 1


def test_the_horizon_is_that_of_the_environment():
    gym.register("Named-v0", entry_point=NamedEnv, max_episode_steps=5, kwargs={"horizon": 100})
    try:
        callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0)
        model = make_model(gym.make("Named-v0"))
        model.learn(60, callback=callback)
        assert callback._briefing.max_episode_steps == 5
        lengths = {callback._teacher.roll_ins._draw().left for _ in range(200)}
        assert lengths == {1, 2, 3, 4, 5}
        for env, limit in ((NamedEnv(), 6), (gym.make("Named-v0"), 4)):
            model.set_env(gym.wrappers.TimeLimit(env, limit))
            model.learn(10, callback=callback)
            assert callback._briefing.max_episode_steps == limit
    finally:
        gym.registry.pop("Named-v0")


def test_success_of_executed_advice_is_not_the_agents():
    """One in five episodes is advice all the way, and succeeds."""

    class NarrowEnv(NamedEnv):
        def step(self, action):
            *transition, info = super().step(action)
            return *transition, {**info, "is_success": bool(abs(action[0] - 0.5) < 1e-4)}

    model = make_model(NarrowEnv(), shaping_steps=10_000, learning_starts=10_000)
    callback = make_callback(RulesAdvisor(answer_of(0.5)), roll_in=0.5, until_success=0.05, n_queries=1)
    model.learn(800, callback=callback)
    assert callback._teacher.record.n_successes > 3
    assert len(callback._teacher.roll_ins.own) == 20
    assert model.shaping_active


@pytest.mark.parametrize(("value", "success", "ends"), [(0.5, 1.0, False), (-0.5, 0.0, True)])
def test_advice_ends_once_the_agent_succeeds_as_often(value, success, ends):
    """This agent acts at random, and three in ten of its episodes succeed."""

    class NarrowEnv(NamedEnv):
        def step(self, action):
            *transition, info = super().step(action)
            return *transition, {**info, "is_success": bool(action[0] > 0.4)}

    model = make_model(NarrowEnv(), shaping_steps=10_000, learning_starts=10_000)
    callback = make_callback(RulesAdvisor(answer_of(value)), n_queries=1, until_success="advice")
    model.learn(1500, callback=callback)
    record, own = callback._teacher.record, callback._teacher.roll_ins.own
    assert record.n_episodes >= 8
    assert record.success == success
    assert 0 < np.mean(own) < 0.75
    assert model.shaping_active != ends


@pytest.mark.parametrize(
    ("until_success", "episodes", "successes", "needed"),
    [
        (0.4, 0, 0, 0.4),
        ("advice", 7, 7, None),  # too few to tell
        ("advice", 8, 8, 0.75),
        ("advice", 20, 16, 0.6),
        ("advice", 8, 0, 0.25),
        (None, 8, 8, None),
    ],
)
def test_how_often_the_agent_has_to_succeed(until_success, episodes, successes, needed):
    record = TrackRecord(lambda observation: None)
    for i in range(episodes):
        record.add(Episode((), (), (), i < successes, {}))
    assert needed_success(until_success, record) == (None if needed is None else pytest.approx(needed))


@pytest.mark.parametrize(("share", "n", "is_enough"), [(0.55, 11, True), (0.55, 10, False), (0.7, 14, True)])
def test_a_share_of_twenty_episodes(share, n, is_enough):
    successes = deque([True] * 50 + [False] * (20 - n) + [True] * n, maxlen=20)
    assert succeeds(share, successes, successes.maxlen) == is_enough
    assert not succeeds(share, list(successes)[1:], 20)


def test_advice_that_is_a_measure_is_soon_known():
    """In half of the episodes that begin with it, and not in a fifth, it is followed to the end until it is."""
    model = make_model(TargetEnv(), shaping_steps=10_000, learning_starts=10_000)
    callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1, until_success="advice")
    model.learn(7 * 70, callback=callback)
    assert callback._teacher.record.is_known
    assert len(callback._teacher.roll_ins.rolled_in) > 3


def test_a_measure_that_never_came_is_told_of():
    callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1, until_success="advice", max_executed_steps=20)
    with pytest.warns(UserWarning, match="takes 8 episodes in which the advice is followed to the end, and there were"):
        make_model(TargetEnv()).learn(400, callback=callback)


@pytest.mark.parametrize(
    "arguments",
    [
        {"roll_in": 0},
        {"roll_in": 1.0},
        {"max_executed_steps": 0},
        {"advisor": FunctionAdvisor(lambda observation: [0, 0])},
    ],
)
def test_what_nobody_follows_is_no_measure(arguments):
    with pytest.raises(ArgumentError, match="nobody can compare them"):
        make_model().learn(10, callback=make_callback(**arguments, until_success="advice"))


def test_where_no_episode_is_its_own_the_agent_cannot_be_judged():
    with pytest.raises(ArgumentError, match=r"until_success is 0.5, but with roll_in=1 .* Make roll_in less"):
        make_model().learn(10, callback=make_callback(roll_in=1.0, until_success=0.5))
    make_model(TargetEnv()).learn(10, callback=make_callback(roll_in=1.0, until_success=0.5, max_executed_steps=50))


@pytest.mark.parametrize(("n_before", "n_followed"), [(3, 3), (7, 2)])
def test_an_episode_that_had_begun_before_is_not_followed_from_its_start(n_before, n_followed, monkeypatch):
    monkeypatch.setattr(roll_ins, "WHOLE_WHILE_UNKNOWN", 1.0)
    monkeypatch.setattr(roll_ins, "WHOLE", 1.0)
    model, callback = make_model(), make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=1.0, until_success=None)
    model.learn(n_before)
    lengths = []
    monkeypatch.setattr(TrackRecord, "add", lambda self, episode: lengths.append(len(episode.actions)))
    model.learn(25, callback=callback, reset_num_timesteps=False)
    assert set(lengths) == {7}
    assert len(lengths) == n_followed
    assert not callback._teacher.roll_ins.own
    assert not callback._teacher.roll_ins.rolled_in
