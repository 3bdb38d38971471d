"""Which states are asked about, what goes with them, and that nothing an advisor does ends the training."""

import asyncio
import copy
import csv
import errno
import os
import pathlib
import re
import sys
import threading
import warnings

import cloudpickle
import numpy as np
import pytest
from recorder import Recorder, SuccessEnv, learn
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from standing import SMALL

from conftest import CounterEnv, DictEnv, wait_until
from sb3_varl import VARL, Advice, AdviceWarning, AdvisorCallback, FunctionAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import read_records
from sb3_varl.advice.types import ActionComponent, Rejection, TaskSheet, Usage
from sb3_varl.training.ledger import Ledger


def test_queries_come_at_their_trigger_steps_about_the_recent_window():
    advisor = Recorder()
    model, callback = learn(advisor, steps=500, n_queries=3)
    assert [query.step for query in advisor.queries] == [100, 200, 300]
    for query in advisor.queries:
        steps = [state.step for state in query.states]
        assert len(set(steps)) == 10
        assert min(steps) >= query.step - 50
        assert max(steps) < query.step
    assert model.guidance_buffer.size() == 30
    assert set(model.guidance_buffer.rows()["steps"]) == {100, 200, 300}
    assert callback.n_asked == 3


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("wrapper", [None, VecNormalize])
def test_frame_observation_and_executed_action_belong_together_across_episode_ends(n_envs, wrapper):
    """The frame encodes (episode, step); the environment's own history tells what was executed there."""
    envs = [CounterEnv(horizon=4, offset=50 * i) for i in range(n_envs)]
    vec_env = DummyVecEnv([lambda env=env: env for env in envs])
    advisor = Recorder()
    learn(advisor, wrapper(vec_env) if wrapper else vec_env, states_per_query=30, window=60)
    history = {(episode, t): action for env in envs for episode, t, action in env.history}
    states = [state for query in advisor.queries for state in query.states]
    assert len(states) == 60
    for state in states:
        episode, t, _ = state.observation
        assert state.frame[0, 0].tolist() == [episode, t, 0]
        np.testing.assert_array_equal(state.executed_action, history[episode, t])
    assert {0, 1, 2, 3} == {state.observation[1] for state in states}, "first states of an episode are states as well"


def test_only_the_chosen_states_are_rendered():
    env = CounterEnv()
    learn(Recorder(), env)
    assert env.n_renders == 21, "and once before training, to see whether there will be frames"


def test_choosing_states_draws_nothing_from_the_run_s_random_numbers():
    """An advisor that abstains leaves the run as it was."""
    settings = SMALL | {"train_freq": 5, "gradient_steps": 1}
    plain = VARL("MlpPolicy", CounterEnv(), **settings).learn(300)
    asked = VARL("MlpPolicy", CounterEnv(), **settings)
    learn(Recorder(lambda query: Advice([None] * len(query.states))), model=asked)
    for first, second in zip(plain.policy.parameters(), asked.policy.parameters(), strict=True):
        assert (first == second).all()


def test_subprocess_environments():
    advisor = Recorder()
    learn(advisor, SubprocVecEnv([CounterEnv, CounterEnv], start_method="fork"))
    for state in advisor.queries[0].states:
        assert state.frame[0, 0].tolist() == [*state.observation[:2], 0]


def test_dict_observations():
    advisor = Recorder()
    model, _ = learn(advisor, DictEnv(), policy="MultiInputPolicy")
    assert advisor.queries[0].states[0].observation.keys() == {"count", "extra"}
    assert model.guidance_buffer.size() == 20


def test_asymmetric_bounds_reach_the_buffer_scaled():
    model, callback = learn(FunctionAdvisor(lambda observation: [3.0, 0.0]), CounterEnv(low=-1.0, high=3.0))
    np.testing.assert_allclose(model.guidance_buffer.rows()["actions"], np.tile([1.0, -0.5], (20, 1)))
    assert callback.totals["accepted"] == 20


def test_training_goes_on_while_the_advisor_thinks():
    asked_at, answered_at = [], []

    class Watch(BaseCallback):
        def _on_step(self):
            if not answered_at and self.model.guidance_buffer.size():
                answered_at.append(self.num_timesteps)
            return True

    advisor = Recorder(latency=0.3)
    model, _ = learn(advisor, steps=3000, callbacks=[Watch()], n_queries=1, blocking=False)
    asked_at.append(advisor.queries[0].step)
    assert answered_at[0] > asked_at[0] + 5
    assert model.guidance_buffer.size() == 10


def test_blocking_means_that_the_answer_is_there_at_once():
    sizes = {}

    class Watch(BaseCallback):
        def _on_step(self):
            sizes[self.num_timesteps] = self.model.guidance_buffer.size()
            return True

    learn(Recorder(latency=0.05), callbacks=[Watch()])
    assert (sizes[99], sizes[100], sizes[200]) == (0, 10, 20)


def test_the_worker_is_gone_and_the_last_answer_is_there_when_training_ends():
    advisor = Recorder(latency=0.5)
    model, _ = learn(advisor, steps=105, blocking=False, n_queries=1)
    assert model.guidance_buffer.size() == 10
    assert not any(thread.is_alive() for thread in advisor.threads)


def test_no_frames_without_a_render_mode_and_one_warning():
    advisor = Recorder()
    with pytest.warns(UserWarning, match=r"render_mode is None.*numbers only.*rgb_array") as caught:
        learn(advisor, CounterEnv(render_mode=None))
    assert len(caught) == 1
    assert all(state.frame is None for query in advisor.queries for state in query.states)


def test_no_frames_if_rendering_fails(monkeypatch):
    monkeypatch.setattr(CounterEnv, "render", lambda self: 1 / 0)
    advisor = Recorder()
    with pytest.warns(UserWarning, match="rendering failed with ZeroDivisionError") as caught:
        learn(advisor)
    assert len(caught) == 1


def test_frames_can_be_left_out():
    env, advisor = CounterEnv(render_mode=None), Recorder()
    learn(advisor, env, frames=False)
    assert advisor.queries[0].states[0].frame is None


def test_the_briefing_comes_from_the_environment_and_the_callback():
    sheet = TaskSheet("Count to seven.", action=(ActionComponent("a"), ActionComponent("b")))

    class SheetEnv(CounterEnv):
        task_sheet = sheet

    briefings = []
    advisor = Recorder()
    advisor.prepare = briefings.append
    learn(advisor, SheetEnv())
    assert (briefings[0].task, briefings[0].sheet) == ("Count to seven.", sheet)
    assert advisor.queries[0].briefing is briefings[0]
    learn(advisor, SheetEnv(), task="Count to six.")
    assert briefings[1].task == "Count to six."


def test_totals_are_logged(tmp_path):
    def answer(query):
        actions = [np.zeros(2)] * 10
        actions[0] = None
        actions[1] = [9.0, 9.0]
        actions[2] = [np.nan, 0.0]
        actions[3] = "left"
        actions[4] = None
        return Advice(actions, [Rejection("truncated", 4)], Usage(2, 100, 10, 0.5))

    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    learn(Recorder(answer), model=model)
    logged = {name: value for name, value in model.logger.name_to_value.items() if name.startswith("advice/")}
    model.logger.close()
    assert 0 <= logged.pop("advice/latency") <= logged.pop("advice/seconds") < 1
    assert logged == {
        "advice/queries": 2,
        "advice/states": 20,
        "advice/accepted": 10,
        "advice/abstained": 2,
        "advice/late": 0,
        "advice/rejected_out_of_bounds": 2,
        "advice/rejected_not_finite": 2,
        "advice/rejected_not_numbers": 2,
        "advice/rejected_truncated": 2,
        "advice/failed_requests": 0,
        "advice/requests": 4,
        "advice/prompt_tokens": 200,
        "advice/completion_tokens": 20,
        "advice/cost": 1.0,
    }


def cancelled(query):
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda query: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda query: sys.exit(1), "SystemExit: 1"),
        (lambda query: Advice([np.zeros(2)]), "returned 1 action for 10 states, expected one for each"),
        (lambda query: [np.zeros(2)] * 10, "returned list, expected a sb3_varl.Advice"),
        (cancelled, "CancelledError"),
    ],
)
@pytest.mark.parametrize("blocking", [True, False])
def test_an_advisor_that_fails_costs_its_answers_only(answer, message, blocking, caplog):
    model, callback = learn(Recorder(answer), blocking=blocking)
    assert model.num_timesteps == 300
    assert callback.totals["failed_queries"] == 2
    assert callback.totals["abstained"] == 0
    *said, at_the_end = caplog.messages
    assert [message in text for text in said] == [True, True]
    assert "There was no advice: 2 queries about 20 states brought nothing (failed)." in at_the_end


def test_a_run_without_advice_is_told_of_once_at_its_end(caplog):
    model, callback = learn(FunctionAdvisor(lambda observation: None if observation[1] % 2 else np.ones(7)))
    model.learn(50, callback=callback, reset_num_timesteps=False)
    (said,) = (message for message in caplog.messages if "There was no advice" in message)
    totals = callback.totals
    assert totals["abstained"] + totals["rejected_wrong_shape"] == 20
    assert f"2 queries about 20 states brought nothing (abstained: {totals['abstained']}, wrong shape: " in said


def test_a_run_that_ends_before_it_asks_is_not_told_that_there_was_no_advice(caplog):
    with pytest.warns(AdviceWarning, match="queries will not be asked"):
        learn(Recorder(), steps=30)
    assert "There was no advice" not in caplog.text


def test_a_resumed_run_asks_only_what_is_still_due(tmp_path):
    with pytest.warns(UserWarning, match="1 of 2 queries will not be asked"):
        model, _ = learn(Recorder(), steps=150)
    model.save(tmp_path / "model")
    resumed = VARL.load(tmp_path / "model", env=CounterEnv())
    advisor = Recorder()
    callback = AdvisorCallback(
        advisor, n_queries=2, first_query=100, query_freq=100, states_per_query=10, window=50, log_path=False
    )
    resumed.learn(150, callback=callback, reset_num_timesteps=False)
    assert [query.step for query in advisor.queries] == [200]
    assert resumed.guidance_buffer.size() == 20


@pytest.mark.filterwarnings("ignore:. of . queries w")
@pytest.mark.parametrize("chunk", [33, 50, 99])
def test_learning_in_chunks_asks_as_learning_at_once_does(chunk):
    at_once, in_chunks = Recorder(), Recorder()
    learn(at_once)
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    callback = AdvisorCallback(
        in_chunks,
        n_queries=2,
        first_query=100,
        query_freq=100,
        states_per_query=10,
        window=50,
        blocking=True,
        log_path=False,
    )
    for i in range(300 // chunk):
        model.learn(chunk, callback=callback, reset_num_timesteps=i == 0)
    for first, second in zip(at_once.queries, in_chunks.queries, strict=True):
        assert first.step == second.step
        assert [state.step for state in first.states] == [state.step for state in second.states]


def test_a_run_resumed_shortly_before_a_trigger_collects_its_states_first(tmp_path):
    with pytest.warns(UserWarning, match="2 of 2 queries will not be asked"):
        model, _ = learn(Recorder(), steps=95)
    model.save(tmp_path / "model")
    advisor = Recorder()
    learn(advisor, model=VARL.load(tmp_path / "model", env=CounterEnv()), reset_num_timesteps=False)
    assert [query.step for query in advisor.queries] == [106, 200]
    assert [len(query.states) for query in advisor.queries] == [10, 10]


def test_a_resumed_run_goes_on_with_the_queries_numbers(tmp_path):
    with pytest.warns(UserWarning, match="1 of 2"):
        model, _ = learn(Recorder(), steps=150)
    model.save(tmp_path / "model")
    advisor = Recorder()
    learn(advisor, model=VARL.load(tmp_path / "model", env=CounterEnv()), reset_num_timesteps=False)
    assert [query.index for query in advisor.queries] == [1]


@pytest.mark.filterwarnings("ignore:1 of 2 queries")
@pytest.mark.parametrize("log_interval", [1, None])
def test_totals_are_in_all_that_is_written_out(log_interval, tmp_path):
    """By the model, by an EvalCallback, by another callback; as they are at the time, in a second learn() as well."""
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    n_outputs = len(model.logger.output_formats)

    class Dump(BaseCallback):
        def _on_step(self):
            if self.n_calls % 15 == 0:
                self.logger.record("step", self.num_timesteps)
                self.logger.dump(self.num_timesteps)
            return True

    evaluation = EvalCallback(CounterEnv(), n_eval_episodes=1, eval_freq=10, verbose=0)
    advisor = Recorder()
    callback = AdvisorCallback(
        advisor, n_queries=2, first_query=100, query_freq=100, window=50, blocking=True, log_path=False
    )
    for steps in (150, 100):
        model.learn(steps, [callback, evaluation, Dump()], log_interval, reset_num_timesteps=steps == 150)
    model.logger.close()
    assert len(model.logger.output_formats) == n_outputs
    rows = list(csv.DictReader((tmp_path / "progress.csv").read_text().splitlines()))
    assert len(rows) >= 25
    for row in rows:
        step = int(row["time/total_timesteps"] or row["step"])
        n_asked = sum(step >= query.step for query in advisor.queries)
        assert row["advice/queries"] == (str(n_asked) if n_asked else "")


def test_what_a_resumed_run_had_spent_is_logged_before_its_first_step():
    spent = {"requests": 3, "prompt_tokens": 10, "completion_tokens": 5, "cost": 0.25, "seconds": 2.0}
    figures = Ledger({"totals": {"queries": 1}, "usage": spent}).figures()
    assert figures["advice/cost"] == 0.25
    assert figures["advice/requests"] == 3


def test_a_run_that_fails_leaves_the_logger_as_it_was():
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.set_logger(configure(None, []))

    class Fails(BaseCallback):
        def _on_step(self):
            raise RuntimeError("of somebody else")

    with pytest.raises(RuntimeError, match="of somebody else"):
        learn(Recorder(), model=model, callbacks=[Fails()])
    assert model.logger.output_formats == []


def test_a_model_is_copied_in_the_middle_of_a_run_without_its_callbacks():
    copies = []

    class Copies(BaseCallback):
        def _on_step(self):
            if self.n_calls == 120:
                copies.extend((copy.deepcopy(self.model), cloudpickle.loads(cloudpickle.dumps(self.model))))
            return True

    advisor = Recorder()
    advisor.lock = threading.Lock()  # which cannot be copied
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.set_logger(configure(None, []))
    learn(advisor, model=model, steps=150, n_queries=1, callbacks=[Copies()])
    for copied in copies:
        (writer,) = copied.logger.output_formats
        values = {}
        writer.write(values, {})
        assert values == {}


def test_an_end_that_is_broken_off_leaves_the_logger_as_it_was(monkeypatch):
    """Where the model tells the callback of the end, and tells it once more when that fails."""

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(AdvisorCallback, "_on_training_end", interrupt)
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.set_logger(configure(None, []))
    callback = AdvisorCallback(Recorder(), n_queries=1, states_per_query=5, log_path=False)
    with pytest.raises(KeyboardInterrupt):
        model.learn(50, EveryNTimesteps(10, callback))
    assert model.logger.output_formats == []


def test_a_callback_starts_afresh_with_a_new_run():
    advisor = Recorder()
    callback = AdvisorCallback(
        advisor, n_queries=1, first_query=100, states_per_query=10, window=50, blocking=True, log_path=False
    )
    for _ in range(2):
        VARL("MlpPolicy", CounterEnv(), **SMALL).learn(150, callback=callback)
    assert [query.index for query in advisor.queries] == [0, 0]
    assert callback.totals["queries"] == 1


def test_answers_after_the_cutoff_are_announced(caplog):
    model = VARL("MlpPolicy", CounterEnv(), **SMALL | {"shaping_steps": 110})

    def answer(query):
        wait_until(lambda: model.num_timesteps >= 110)
        return Advice([state.executed_action for state in query.states])

    _, callback = learn(Recorder(answer), model=model, n_queries=1, blocking=False)
    assert callback.totals["late"] == 10
    assert re.search("Query 1 .*10 answers came at step .*, after the cutoff at 110.*blocking=True", caplog.text)


def test_a_model_past_its_cutoff_is_announced(tmp_path):
    VARL("MlpPolicy", CounterEnv(), **SMALL).learn(1000).save(tmp_path / "model")
    advisor = Recorder()
    with pytest.warns(UserWarning, match="1000 steps behind it, and its cutoff was at step 1000: the advisor"):
        learn(advisor, model=VARL.load(tmp_path / "model", env=CounterEnv()), reset_num_timesteps=False)
    assert not advisor.queries


def test_an_environment_may_render_into_its_own_buffer(monkeypatch):
    buffer = np.zeros((8, 8, 3), np.uint8)

    def render(env):
        buffer[:] = env.episode, env.t, 0
        return buffer

    monkeypatch.setattr(CounterEnv, "render", render)
    advisor = Recorder()
    learn(advisor)
    for state in advisor.queries[0].states:
        assert state.frame[0, 0].tolist() == state.observation.tolist()


def test_image_observations():
    advisor = Recorder()
    env = FakeImageEnv(screen_height=40, screen_width=40, discrete=False)
    model = VARL("CnnPolicy", env, **SMALL | {"policy_kwargs": {}}, buffer_size=300)
    learn(advisor, model=model, steps=120, n_queries=1, frames=False)
    assert advisor.queries[0].states[0].observation.shape == model.observation_space.shape
    assert model.guidance_buffer.size() == 10


def test_beside_an_eval_callback():
    eval_callback = EvalCallback(DummyVecEnv([CounterEnv]), eval_freq=50, n_eval_episodes=1, verbose=0, warn=False)
    model, _ = learn(Recorder(), callbacks=[eval_callback])
    assert model.guidance_buffer.size() == 20


def test_the_default_log_folder(tmp_path):
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    learn(Recorder(), model=model, log_path=None)
    (folder,) = pathlib.Path(os.environ["XDG_DATA_HOME"], "sb3_varl", "advice").iterdir()
    assert [record["type"] for record in read_records(folder)] == ["query", "advice"] * 2
    model.set_logger(configure(str(tmp_path / "run"), ["csv"]))
    learn(Recorder(), model=model, log_path=None)
    model.logger.close()
    assert len(list(read_records(tmp_path / "run" / "advice"))) == 4


@pytest.mark.parametrize("make_logger", [lambda: configure(None, ["log"]), lambda: Logger(None, [])])
def test_a_logger_that_names_no_folder_gives_the_advice_none(make_logger, caplog):
    """SB3's own choice is a temporary one."""
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.set_logger(make_logger())
    learn(Recorder(), model=model, log_path=None)
    model.logger.close()
    (folder,) = pathlib.Path(os.environ["XDG_DATA_HOME"], "sb3_varl", "advice").iterdir()
    assert len(list(read_records(folder))) == 4
    assert f"The advice log of this run is in {folder}" in caplog.text


def test_the_default_schedule_lies_in_the_first_half_of_the_shaping():
    model = VARL("MlpPolicy", CounterEnv(), **SMALL | {"shaping_steps": 400})
    advisor = Recorder()
    model.learn(300, callback=AdvisorCallback(advisor, states_per_query=10, window=50, blocking=True))
    assert [query.step for query in advisor.queries] == [11, 48, 85, 122, 159, 196]


@pytest.mark.parametrize("blocking", [True, False])
def test_the_advice_ends_with_success(caplog, blocking, tmp_path):
    over = threading.Event()

    def answer(query):
        if not blocking:
            over.wait(10)
        return Advice([state.executed_action for state in query.states])

    class Watch(BaseCallback):
        def _on_step(self):
            if self.num_timesteps >= self.model.cutoff:
                over.set()
                wait_until(lambda: not any(thread.is_alive() for thread in advisor.threads))
            return self.num_timesteps < 150

    # Of the last 20 episodes of 5 steps, 5 have succeeded when episode 28 ends.
    advisor = Recorder(answer)
    schedule = {"n_queries": 5, "first_query": 30, "query_freq": 30, "until_success": 0.25}
    model, _ = learn(advisor, SuccessEnv(20), callbacks=[Watch()], blocking=blocking, **schedule)
    assert [query.step for query in advisor.queries] == ([30, 60, 90, 120] if blocking else [30])
    assert (model.cutoff, model.shaping_steps) == (146, 1000)
    assert not model.shaping_active
    assert not caplog.records
    # Nor does a run that goes on take it up again.
    model.save(tmp_path / "model")
    model = VARL.load(tmp_path / "model", env=SuccessEnv(20))
    with pytest.warns(UserWarning, match="will not be asked"):
        learn(Recorder(), model=model, steps=50, reset_num_timesteps=False, **schedule)
    assert (model.cutoff, model.shaping_steps) == (146, 1000)
    # Another run does.
    model, _ = learn(Recorder(), model=model, steps=11, **schedule | {"n_queries": 1, "first_query": 11})
    assert model.cutoff == 1000


def test_the_advice_ends_with_success_where_nothing_stands_that_could_be_executed():
    schedule = {"n_queries": 5, "first_query": 30, "query_freq": 30, "until_success": 0.25}
    model, _ = learn(Recorder(), SuccessEnv(20), roll_in=0.5, **schedule)
    assert model.cutoff == 146


def test_without_success_the_advice_goes_on():
    advisor = Recorder()
    model, _ = learn(advisor, SuccessEnv(1000), until_success=0.25)
    assert len(advisor.queries) == 2
    assert model.shaping_active


@pytest.mark.parametrize("passes_on", [True, False])
def test_episodes_that_do_not_say_whether_they_succeeded_are_noticed_once(passes_on):
    """Whether or not a callback's parent tells it of the end."""
    callback = AdvisorCallback(Recorder(), n_queries=1, states_per_query=5, until_success=0.5, log_path=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        VARL("MlpPolicy", CounterEnv(), **SMALL).learn(100, callback if passes_on else EveryNTimesteps(50, callback))
    assert sum("until_success is 0.5, but no episode said" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize(
    ("bookkeeping", "message"),
    [
        ({"usage": 3}, "returned 3 as usage, expected a Usage of numbers"),
        ({"usage": Usage(1, 2, 3, None)}, "expected a Usage of numbers"),
        ({"usage": Usage(cost="0.1")}, "expected a Usage of numbers"),
        ({"usage": Usage(cost=float("nan"))}, "expected a Usage of numbers"),
        ({"rejected": [Rejection("x", [1])]}, "expected a Rejection with a reason and a state"),
        ({"rejected": ["x"]}, "returned x as rejected"),
        ({"rejected": 7}, "returned 7 as rejected"),
    ],
)
def test_wrong_bookkeeping_costs_no_action(bookkeeping, message, caplog):
    model, callback = learn(Recorder(lambda query: Advice([np.zeros(2)] * 10, **bookkeeping)))
    assert model.guidance_buffer.size() == 20
    assert callback.totals["accepted"] == 20
    assert message in caplog.text


def test_numbers_of_numpy_are_numbers(caplog):
    def answer(query):
        actions = [np.zeros(2)] * 9 + [None]
        usage = Usage(np.int64(2), np.int32(100), np.int16(10), np.float32(0.5), np.float64(0.25))
        return Advice(np.array(actions, object), [Rejection("no_path", np.int64(9))], usage)

    model, callback = learn(Recorder(answer), n_queries=1, log_path="log")
    assert model.guidance_buffer.size() == 9
    assert (callback.totals["rejected_no_path"], callback.totals["abstained"]) == (1, 0)
    assert callback.usage == Usage(2, 100, 10, 0.5, 0.25)
    assert not caplog.records
    assert read_queries("log")[0].advice.rejected == [Rejection("no_path", 9)]


def test_a_model_string_makes_a_vlm_advisor(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    callback = AdvisorCallback("openai/gpt-4o", task="Count to seven.")
    assert type(callback.advisor).__name__ == "VLMAdvisor"


def test_queries_that_were_not_asked_are_announced():
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    with pytest.warns(UserWarning, match=r"1 of 2 queries will not be asked.*due at \[200\].*ends at step 150"):
        learn(Recorder(), steps=150, model=model)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_queries": 0}, "n_queries is 0, expected an integer that is at least 1."),
        ({"first_query": -5}, "first_query is -5, expected an integer that is at least 1 or None."),
        ({"query_freq": 2.5}, "query_freq is 2.5"),
        ({"states_per_query": "64"}, "states_per_query is '64'"),
        (
            {"until_success": 25},
            'until_success is 25, expected a number greater than 0 and at most 1 or "advice" or None.',
        ),
        (
            {"until_success": "advise"},
            "until_success is 'advise', expected a number greater than 0 and at most 1, \"advice\" or None.",
        ),
        ({"until_success": True}, "until_success is True, expected a number"),
        ({"window": None}, "window is None"),
        ({"states_per_query": 60, "window": 50}, "states_per_query is 60, but the window holds only 50"),
        ({"task": " "}, "task is ' ', expected text such as"),
        ({"first_query": 950}, r"due at steps \[950, 1050\].*ignores guidance from step 1000.*raise shaping_steps"),
        ({"first_query": 5}, "first_query is 5.*Make it at least 11"),
        ({"query_freq": 5}, "query_freq is 5.*Make it at least 10"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        learn(Recorder(), **kwargs)


@pytest.mark.parametrize("advisor", [3, Recorder, lambda observation: observation, None])
def test_what_is_no_advisor_is_refused(advisor):
    with pytest.raises(TypeError, match=r"expected an object with a method advise.*FunctionAdvisor"):
        AdvisorCallback(advisor)


def test_function_advisor_needs_a_function():
    with pytest.raises(TypeError, match="takes a function"):
        FunctionAdvisor(np.zeros(2))


def test_a_sac_that_was_loaded_from_varls_zip_is_refused(tmp_path):
    VARL("MlpPolicy", CounterEnv(), **SMALL).save(tmp_path / "model")
    model = SAC.load(tmp_path / "model", env=CounterEnv())
    with pytest.raises(TypeError, match="the model is SAC"):
        learn(Recorder(), model=model)


def test_a_log_path_that_cannot_be_written_is_found_out_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        learn(Recorder(), log_path=tmp_path / "file")


def test_a_model_without_guidance_is_refused():
    with pytest.raises(TypeError, match=r"the model is SAC, which has none\. Use sb3_varl\.VARL"):
        SAC("MlpPolicy", CounterEnv(), **{k: v for k, v in SMALL.items() if k != "shaping_steps"}).learn(
            10, callback=AdvisorCallback(Recorder())
        )


# ---- Where the log cannot be


def test_a_folder_that_cannot_be_written_says_which_argument_mends_it(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", "advice")

    monkeypatch.setattr("sb3_varl.advice.log.pathlib.Path.mkdir", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied.*log_path=\.\.\..*log_path=False"):
        learn(Recorder(), log_path=None)
