"""Guidance that counts again after the cutoff, as far as the agent falls short of the advice."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger, configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from standing import ALL, SMALL, UPDATES, NamedEnv, answer_of, make_callback, make_model

from conftest import assert_same_parameters
from sb3_varl import VARL, AdviceQuery, ArgumentError, FunctionAdvisor, RulesAdvisor
from sb3_varl.advice.types import AdviceWarning, Episode
from sb3_varl.report.curves import _counting as counting
from sb3_varl.report.runs import read_runs
from sb3_varl.training.query_queue import Outcome
from sb3_varl.training.track_record import TrackRecord
from sb3_varl.training.until_success import missing_success

CUTOFF = 1000


class NarrowEnv(NamedEnv):
    """Succeeds where the action is the one that is expected; an agent that acts at random never comes so near."""

    def __init__(self, expected=0.5, tolerance=1e-4):
        super().__init__()
        self.expected = expected
        self.tolerance = tolerance

    def step(self, action):
        *transition, info = super().step(action)
        return *transition, {**info, "is_success": bool(abs(action[0] - self.expected) < self.tolerance)}


def held(env, value=0.5, steps=CUTOFF + 100, **callback):
    model = make_model(env, shaping_steps=CUTOFF, learning_starts=10_000)
    callback = make_callback(RulesAdvisor(answer_of(value)), **{"n_queries": 1, **callback})
    model.learn(steps, callback=callback)
    assert callback._teacher.record.is_known
    return model, callback


def recorded(n_episodes, n_successes):
    record = TrackRecord(lambda observation: None)
    for i in range(n_episodes):
        record.add(Episode((), (), (), i < n_successes, {}))
    return record


@given(
    st.sampled_from([None, "advice", 0.25, 1.0]),
    st.integers(0, 20),
    st.integers(0, 30),
    st.lists(st.booleans(), max_size=40),
)
def test_what_is_missing(until_success, n_successes, n_more, own):
    record = recorded(n_successes + n_more, n_successes)
    missing = missing_success(until_success, record, own)
    assert 0 <= missing <= record.success, "advice that seldom succeeds hardly counts"
    if len(own) < 20:
        assert missing == 0
    else:
        share = sum(own[-20:]) / 20
        by_advice = max(0.25, 0.75 * record.success) if record.is_known else 1.0
        enough = {None: 1.0, "advice": by_advice}.get(until_success, until_success)
        assert (missing == 0) == (share >= min(enough, n_successes / max(8, n_successes + n_more)))
        assert missing_success(until_success, record, [*own, True]) <= missing_success(
            until_success, record, [*own, False]
        )


def test_nothing_is_missing_as_long_as_nothing_is_known():
    assert missing_success(None, None, [False] * 20) == 0
    assert missing_success(None, recorded(0, 0), [False] * 20) == 0


def test_episodes_in_which_advice_was_not_followed_count_as_failures():
    assert missing_success(None, recorded(4, 4), [False] * 20) == 0.5
    assert missing_success(None, recorded(8, 8), [False] * 20) == 1


def test_guidance_counts_again_where_the_advice_succeeds_and_the_agent_does_not():
    model, callback = held(NarrowEnv())
    assert model.num_timesteps > model.cutoff
    assert model.held_share == 1
    assert model.shaping_active
    assert callback._teacher.n_held == 101
    labelled = model.guidance_buffer.rows()["steps"]
    assert labelled.max() > CUTOFF, "what is visited is labelled again"


@pytest.mark.parametrize(("tolerance", "share"), [(1e-4, 1), (3.0, 0)])
def test_more_environments_than_episodes_that_are_looked_at(tolerance, share):
    """Many of which end in one step."""
    envs = DummyVecEnv([lambda: NarrowEnv(tolerance=tolerance)] * 30)
    model = make_model(envs, shaping_steps=3000, learning_starts=10_000)
    callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1, first_query=60, query_freq=60)
    model.learn(3090, callback=callback)
    assert callback._teacher.record.is_known
    assert model.held_share == share
    assert callback._teacher.n_held == share * 4 * 30


def test_it_ends_after_as_long_again():
    model, callback = held(NarrowEnv(), steps=2 * CUTOFF - 1)
    assert model.held_share == 1
    model, callback = held(NarrowEnv(), steps=2 * CUTOFF)
    assert not model.shaping_active
    assert callback._teacher.n_held == CUTOFF
    assert model.guidance_buffer.rows()["steps"].max() <= 2 * CUTOFF


def test_nothing_is_executed_or_asked_after_the_cutoff():
    env = NarrowEnv()
    _, callback = held(env, steps=CUTOFF)
    _, longer = held(NarrowEnv(), steps=CUTOFF + 500)
    assert callback._teacher.roll_ins.n_executed == longer._teacher.roll_ins.n_executed > 0
    assert callback.n_asked == longer.n_asked


@pytest.mark.parametrize(
    ("env", "value"),
    [(NarrowEnv(expected=0.9), 0.5), (NarrowEnv(tolerance=3.0), 0.5)],
    ids=["neither_succeeds", "both_succeed"],
)
def test_it_does_not_count_where_the_advice_is_no_better(env, value):
    model, callback = held(env, value)
    assert model.held_share == 0
    assert not model.shaping_active
    assert callback._teacher.n_held == 0
    assert model.guidance_buffer.rows()["steps"].max() <= CUTOFF


def test_it_does_not_count_with_hold_off():
    model, callback = held(NarrowEnv(), hold=False)
    assert model.held_share == 0
    assert callback._teacher.n_held == 0


class Lines(KVWriter):
    def __init__(self):
        self.lines = []

    def write(self, key_values, key_excluded, step=0):
        self.lines.append((step, dict(key_values)))


@pytest.mark.parametrize("fast", [False, True])
def test_the_coefficient_is_what_is_missing(fast, capsys):
    settings = {**UPDATES, "shaping_steps": CUTOFF, "shaping_coef": 10.0, "train_freq": 10, "fast": fast}
    model = make_model(NarrowEnv(tolerance=0.02), **settings)
    log = Lines()
    model.set_logger(Logger(folder=None, output_formats=[log]))
    callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1, verbose=1)
    shares = []

    class Watch(BaseCallback):
        def _on_step(self):
            shares.append((self.num_timesteps, self.model.shaping_share))
            return True

    model.learn(CUTOFF + 400, callback=[callback, Watch()], log_interval=1)
    before, after = ([share for step, share in shares if (step < CUTOFF) == early] for early in (True, False))
    assert set(before) == {1.0}
    assert any(0 < share < 1 for share in after)
    # What is logged is of the latest update, which came after a whole number of rollouts.
    of_updates = {step: 10 * share for step, share in shares if step % 10 == 0}
    told = [(step // 10 * 10, line["varl/shaping_coef"]) for step, line in log.lines if "varl/shaping_coef" in line]
    assert len(told) > 100
    for step, coef in told:
        assert coef == pytest.approx(of_updates[step])
    assert log.lines[-1][1]["advice/held"] == sum(share > 0 for share in after)
    assert capsys.readouterr().out.count("succeeds less often than the advice, which still counts") == 1


def test_a_run_that_goes_on_holds_as_one_that_was_never_stopped(tmp_path):
    def model_and_callback():
        model = make_model(NarrowEnv(), shaping_steps=CUTOFF, learning_starts=10_000)
        return model, make_callback(RulesAdvisor(answer_of(0.5)), log_path=False, n_queries=1)

    model, callback = model_and_callback()
    model.learn(CUTOFF + 50, callback=callback)
    assert model.held_share > 0
    model.save(tmp_path / "it")
    loaded = VARL.load(tmp_path / "it", env=NarrowEnv())
    assert loaded.held_share == 0, "it is the callback's to say"
    again = make_callback(RulesAdvisor(answer_of(0.5)), log_path=False, n_queries=1)
    loaded.learn(10, callback=again, reset_num_timesteps=False)
    assert loaded.held_share == model.held_share
    assert list(again._teacher.roll_ins.own)[:10] == list(callback._teacher.roll_ins.own)[-10:]
    loaded.learn(10, reset_num_timesteps=False)
    assert not loaded.shaping_active, "nobody looks any more"


@pytest.mark.filterwarnings("ignore:. of . queries w")
def test_a_policy_that_succeeds_is_the_parents_after_the_cutoff():
    """Holding changes nothing, to the last bit."""
    models = []
    for hold in (True, False):
        model = make_model(NarrowEnv(tolerance=3.0), **{**UPDATES, "shaping_steps": CUTOFF, "train_freq": 10})
        model.learn(CUTOFF + 400, callback=make_callback(RulesAdvisor(answer_of(0.5)), hold=hold, n_queries=1))
        models.append(model)
    assert_same_parameters(*models)


def test_what_is_known_of_a_function_is_there_when_a_run_goes_on(tmp_path):
    def make():
        advisor = FunctionAdvisor(lambda observation: np.array([0.5, 0.0], np.float32))
        return make_callback(advisor, n_queries=1, hold=True, roll_in=0.5, label_freq=2)

    model = make_model(NarrowEnv(), shaping_steps=CUTOFF, learning_starts=10_000)
    first = make()
    model.learn(CUTOFF + 100, callback=first)
    model.save(tmp_path / "model")
    loaded = VARL.load(tmp_path / "model", env=model.get_env())
    second = make()
    loaded.learn(100, callback=second, reset_num_timesteps=False)
    assert loaded.held_share == model.held_share == 1
    assert second._teacher.record.n_episodes == first._teacher.record.n_episodes > 0
    assert second._teacher.n_held == first._teacher.n_held + 100


@pytest.mark.parametrize(
    "arguments",
    [
        {"roll_in": 0},
        {"roll_in": 1.0},
        {"max_executed_steps": 0},
        {"advisor": FunctionAdvisor(lambda observation: [0, 0])},
    ],
)
def test_what_nobody_follows_holds_nothing(arguments):
    with pytest.raises(ArgumentError, match=r"hold is True, .* nobody can compare them"):
        make_model().learn(10, callback=make_callback(**arguments, hold=True))


def test_by_default_what_nobody_follows_is_no_error():
    model = make_model(NarrowEnv(), shaping_steps=100)
    callback = make_callback(RulesAdvisor(json.dumps(ALL)), roll_in=0, n_queries=1)
    model.learn(600, callback=callback)
    assert not callback._teacher.holds
    assert not model.shaping_active


def test_only_standing_advice_holds():
    model = make_model(NarrowEnv(), shaping_steps=100)
    callback = make_callback(FunctionAdvisor(lambda observation: [0.0, 0.0]), n_queries=1)
    model.learn(300, callback=callback)
    assert not callback._teacher.holds


@pytest.mark.parametrize("value", [0.5, -0.5], ids=["known_to_hold", "without_a_record"])
def test_after_the_cutoff_advice_that_holds_goes_without_saying(value, tmp_path, recwarn):
    """Rules other than those that the model was trained with have no record."""
    model, _ = held(NarrowEnv())
    model.save(tmp_path / "it")
    loaded = VARL.load(tmp_path / "it", env=NarrowEnv())
    callback = make_callback(RulesAdvisor(answer_of(value)), n_queries=1)
    loaded.learn(30, callback=callback, reset_num_timesteps=False)
    said = [warning for warning in recwarn if "will not be asked" in str(warning.message)]
    assert len(said) == (value != 0.5)
    assert loaded.shaping_active == (value == 0.5)


@pytest.mark.parametrize(("cutoff", "n_followed"), [(50, 0), (300, 4)])
def test_advice_that_was_hardly_followed_holds_the_less_and_is_told_of(cutoff, n_followed, caplog):
    model = make_model(NarrowEnv(), shaping_steps=cutoff, learning_starts=10_000)
    model.learn(2 * cutoff - 1, callback=make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1))
    said = f"ends at step {cutoff}, and {n_followed} of the 8 episodes"
    assert said in caplog.text
    assert f"succeeds in less than {100 * n_followed / 8:.0f}%" in caplog.text
    assert model.held_share == n_followed / 8
    assert model.shaping_active == (n_followed > 0)


def test_episodes_that_do_not_tell_are_told_of():
    callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1, hold=True)
    with pytest.warns(UserWarning, match="hold is True, but no episode said whether it succeeded"):
        make_model(shaping_steps=100).learn(200, callback=callback)


def test_late_rules_do_not_replace_those_that_hold():
    """Nobody would follow them, to see how well they do."""
    model, callback = held(NarrowEnv())
    rules, size = callback._teacher.standing.advice, model.guidance_buffer.size()
    query = AdviceQuery(1, model.num_timesteps, (), callback._briefing)
    advice = callback.advisor.advise(query)
    other = RulesAdvisor(answer_of(-0.5)).standing(callback._briefing)
    callback._queries._accept(Outcome(query, dataclasses.replace(advice, standing=other), ()))
    assert callback._teacher.standing.advice == rules
    assert model.guidance_buffer.size() == size


def test_rules_that_were_corrected_late_are_measured_by_those_before():
    before = recorded(19, 17)
    assert TrackRecord(lambda observation: None, before).better_known is before
    after = TrackRecord(lambda observation: None, before)
    for _ in range(8):
        after.add(Episode((), (), (), True, {}))
    assert after.better_known is after
    assert TrackRecord(lambda observation: None, recorded(7, 7)).better_known.n_episodes == 7


@pytest.mark.parametrize("until_success", [None, 1.0])
def test_who_ends_the_shaping_has_ended_it(until_success):
    class End(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == CUTOFF:
                self.model.end_shaping()
            return True

    model = make_model(NarrowEnv(), shaping_steps=5000, learning_starts=10_000)
    callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1, until_success=until_success)
    model.learn(CUTOFF + 50, callback=[callback, End()])
    assert model.cutoff == CUTOFF
    assert not model.shaping_active
    with pytest.warns(AdviceWarning, match=r"model.end_shaping\(\) was called there"):
        model.learn(10, callback=make_callback(RulesAdvisor(answer_of(0.5)), hold=False), reset_num_timesteps=False)


def test_what_ends_the_advice_is_enough():
    """This agent acts at random, and three in ten of its episodes succeed, where the advice succeeds in all."""
    model = make_model(NarrowEnv(expected=1.0, tolerance=0.6), shaping_steps=5000, learning_starts=10_000)
    callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1, until_success=0.1)
    shares = []

    class Watch(BaseCallback):
        def _on_step(self):
            shares.append((self.model.shaping_ended is not None, self.model.held_share, callback._teacher.roll_ins.own))
            return True

    model.learn(1500, callback=[callback, Watch()])
    ended = [share for has_ended, share, _ in shares if has_ended]
    assert len(ended) > 500
    assert max(ended) <= 0.1
    assert ended[0] == 0


def test_a_second_callback_leaves_it_alone():
    model = make_model(NarrowEnv(), shaping_steps=CUTOFF, learning_starts=10_000)
    first = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1)
    second = make_callback(RulesAdvisor(answer_of(-0.5)), n_queries=1, roll_in=0, label_freq=0)
    model.learn(CUTOFF + 50, callback=[first, second])
    assert model.held_share == 1


def test_several_environments_with_normalised_observations():
    env = VecNormalize(DummyVecEnv([NarrowEnv] * 4), norm_reward=False)
    model = VARL("MlpPolicy", env, **{**SMALL, "shaping_steps": 2000, "learning_starts": 10_000})
    callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1)
    model.learn(2100, callback=callback)
    assert model.held_share == 1
    assert callback._teacher.n_held == 104
    actions = model.guidance_buffer.rows()["actions"]
    np.testing.assert_allclose(actions[:, 0], 0.5)


def test_the_report_knows_the_cutoff(tmp_path):
    model = make_model(NarrowEnv(), **{**UPDATES, "shaping_steps": CUTOFF, "train_freq": 20})
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(CUTOFF + 300, callback=make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1), log_interval=1)
    assert model.held_share > 0
    model.logger.close()
    (run,) = read_runs(tmp_path)
    assert CUTOFF <= run.cutoff < CUTOFF + 50


def test_the_report_draws_how_much_counts(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "progress.csv").write_text(
        "time/total_timesteps,varl/shaping_active,varl/held_share\n500,1,\n1000,1,\n1500,1,0.25\n2000,0,\n"
    )
    (run,) = read_runs(folder)
    assert counting(run).to_dict() == {500: 100, 1000: 100, 1500: 25, 2000: 0}
    del run.scalars["varl/held_share"]
    assert counting(run).empty


def long_env():
    env = NarrowEnv(tolerance=1.5)
    env.horizon = 100
    return env


@pytest.mark.parametrize(
    ("shaping_steps", "callback", "n_episodes"),
    [(16_000, {}, None), (6400, {}, None), (3200, {}, 8), (3000, {}, 7), (800, {}, 2), (800, {"hold": False}, None)],
)
def test_where_the_cutoff_comes_too_soon_it_is_said_when_an_episode_has_ended(
    shaping_steps, callback, n_episodes, caplog
):
    model = make_model(long_env(), shaping_steps=shaping_steps, learning_starts=10_000)
    callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1, **callback)
    model.learn(150, callback=callback)
    messages = [record.getMessage() for record in caplog.records if "It takes 8 to tell" in record.getMessage()]
    if n_episodes is None or n_episodes >= 8:
        assert not messages
    else:
        (message,) = messages
        assert f"ends at step {shaping_steps}, it is followed to the end in about {n_episodes} episodes" in message
        assert "have 100 steps" in message


def test_with_long_episodes_advice_is_followed_to_the_end_more_often():
    """In 60 episodes of 7 steps: by the usual share in 6 of them, and in half of those begun until it is known."""
    followed = []
    for shaping_steps in (420, 5000):
        model = make_model(NarrowEnv(), shaping_steps=shaping_steps, learning_starts=10_000)
        callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1)
        model.learn(420, callback=callback)
        followed.append(callback._teacher.record.n_episodes)
    assert followed[0] >= 8 > followed[1]


def test_what_is_known_of_the_rules_outlives_runs_in_which_nothing_is_learnt_of_them(tmp_path):
    model, callback = held(NarrowEnv())
    known = callback._teacher.record.n_episodes
    for _ in range(3):
        model.save(tmp_path / "it")
        model = VARL.load(tmp_path / "it", env=NarrowEnv())
        callback = make_callback(RulesAdvisor(answer_of(0.5)), n_queries=1)
        model.learn(3, callback=callback, reset_num_timesteps=False)
        assert callback._teacher.record.n_episodes == known


def test_hold_is_yes_or_no():
    with pytest.raises(ArgumentError, match="hold is 1, expected"):
        make_callback(RulesAdvisor(answer_of(0.5)), hold=1)
