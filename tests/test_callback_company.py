"""AdvisorCallback among other callbacks, and in runs that stop and go on."""

import pathlib

import numpy as np
import pytest
from pandas import read_csv
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack
from test_callback import SMALL, Recorder

from conftest import CounterEnv
from sb3_varl import VARL, Advice, AdvisorCallback, FunctionAdvisor, ReplayAdvisor
from sb3_varl.training import query_queue


def make_callback(advisor=None, **kwargs):
    settings = {"n_queries": 2, "first_query": 100, "query_freq": 100, "states_per_query": 10, "window": 50}
    advisor = Recorder() if advisor is None else advisor
    return AdvisorCallback(advisor, **{**settings, "blocking": True, "log_path": False, **kwargs})


def make_model(env=None, **kwargs):
    return VARL("MlpPolicy", env or CounterEnv(), **{**SMALL, **kwargs})


def evaluation(**kwargs):
    return EvalCallback(DummyVecEnv([CounterEnv]), n_eval_episodes=1, verbose=0, warn=False, **kwargs)


def answered(model):
    return [progress["answered"] for progress in model.advice_progress]


class Stop(BaseCallback):
    """Ends training at a step, by returning False or as Ctrl-C does."""

    def __init__(self, step, interrupt=False):
        super().__init__()
        self.step, self.interrupt = step, interrupt

    def _on_step(self):
        if self.num_timesteps == self.step and self.interrupt:
            raise KeyboardInterrupt
        return self.num_timesteps != self.step


PLACES = {
    "in a list": lambda callback: [ProgressBarCallback(), callback, LogEveryNTimesteps(70)],
    "in lists in a list": lambda callback: CallbackList([CallbackList([callback])]),
    "under EveryNTimesteps": lambda callback: EveryNTimesteps(77, callback),
    "under EvalCallback": lambda callback: evaluation(eval_freq=60, callback_after_eval=callback),
    "beside EvalCallback": lambda callback: [
        evaluation(eval_freq=60, callback_after_eval=StopTrainingOnNoModelImprovement(50)),
        callback,
    ],
    "in a list under EveryNTimesteps": lambda callback: EveryNTimesteps(50, CallbackList([callback])),
}


@pytest.fixture(scope="module")
def queries_when_alone():
    advisor = Recorder()
    make_model().learn(210, callback=make_callback(advisor))
    return advisor.queries


@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("place", PLACES)
def test_wherever_it_is_it_asks_the_same(place, queries_when_alone):
    advisor = Recorder()
    make_model().learn(210, callback=PLACES[place](make_callback(advisor)))
    assert len(advisor.queries) == 2
    for first, second in zip(queries_when_alone, advisor.queries, strict=True):
        assert first.step == second.step
        assert [state.step for state in first.states] == [state.step for state in second.states]
        for one, other in zip(first.states, second.states, strict=True):
            np.testing.assert_array_equal(one.frame, other.frame)
            np.testing.assert_array_equal(one.executed_action, other.executed_action)


def test_where_it_would_never_hear_of_a_step_it_is_refused():
    callback = evaluation(eval_freq=60, callback_on_new_best=make_callback())
    with pytest.raises(TypeError, match=r"callback_on_new_best.*Put it beside"):
        make_model().learn(210, callback=callback)


def test_in_a_list_that_would_never_hear_of_a_step_it_is_refused_as_soon_as_it_is_called():
    callback = evaluation(eval_freq=60, callback_on_new_best=CallbackList([make_callback(n_queries=1)]))
    model = make_model()
    with pytest.raises(TypeError, match=r"callback_on_new_best.*Put it beside"):
        model.learn(210, callback=callback)
    assert model.num_timesteps == 60


def test_where_it_never_heard_of_a_step_it_says_so():
    callback = evaluation(eval_freq=600, callback_on_new_best=CallbackList([make_callback(n_queries=1)]))
    with pytest.warns(UserWarning, match=r"callback_on_new_best.*Put it beside"):
        make_model().learn(120, callback=callback)


@pytest.mark.parametrize("place", ["under EveryNTimesteps", "under EvalCallback", "in a list under EveryNTimesteps"])
def test_wherever_it_is_the_last_answers_are_there_when_training_ends(place):
    model, callback = make_model(), make_callback(Recorder(latency=0.5), blocking=False, n_queries=1)
    model.learn(103, callback=PLACES[place](callback))
    assert model.guidance_buffer.size() == 10
    assert answered(model) == [1]


@pytest.mark.filterwarnings("ignore:. of . queries w")
def test_a_query_that_was_put_off_twice_is_not_forgotten():
    model, advisor = make_model(), Recorder()
    model.learn(95, callback=make_callback(advisor))
    for steps in (8, 150):
        model.learn(steps, callback=make_callback(advisor), reset_num_timesteps=False)
    assert [(query.index, query.step) for query in advisor.queries] == [(0, 114), (1, 200)]


def test_advice_for_a_model_that_was_trained_without():
    model, advisor = make_model(), Recorder()
    model.learn(120)
    model.learn(150, callback=make_callback(advisor), reset_num_timesteps=False)
    assert [query.step for query in advisor.queries] == [131, 200]


def test_no_query_is_asked_after_the_cutoff():
    model, advisor = make_model(shaping_steps=230), Recorder()
    model.learn(222)
    callback = make_callback(advisor, n_queries=2)
    with pytest.warns(UserWarning, match="2 of 2 queries will not be asked: the model ignores.*from step 230"):
        model.learn(50, callback=callback, reset_num_timesteps=False)
    assert not advisor.queries


def test_two_advisors_are_counted_apart(tmp_path):
    first, second = Recorder(), Recorder()
    model = make_model()
    with pytest.warns(UserWarning, match="of . queries will not be asked"):
        model.learn(150, callback=[make_callback(first, n_queries=1), make_callback(second)])
    assert answered(model) == [1, 1]
    model.save(tmp_path / "model")
    resumed = VARL.load(tmp_path / "model", env=CounterEnv())
    resumed.learn(100, callback=[make_callback(first, n_queries=1), make_callback(second)], reset_num_timesteps=False)
    assert [query.step for query in first.queries] == [100]
    assert [query.step for query in second.queries] == [100, 200]


@pytest.mark.parametrize("n_envs", [1, 3])
def test_under_every_n_timesteps_with_several_environments(n_envs):
    advisor = Recorder()
    model = make_model(SubprocVecEnv([CounterEnv] * n_envs, start_method="fork"))
    model.learn(300, callback=EveryNTimesteps(90, make_callback(advisor)))
    for query in advisor.queries:
        for state in query.states:
            assert state.frame[0, 0].tolist() == [*state.observation[:2], 0]
    model.env.close()


@pytest.mark.parametrize("checkpoint_first", [True, False])
def test_a_checkpoint_at_a_trigger_step_has_the_answers(checkpoint_first, tmp_path):
    callbacks = [CheckpointCallback(100, str(tmp_path)), make_callback()]
    make_model().learn(220, callback=callbacks if checkpoint_first else callbacks[::-1])
    advisor = Recorder()
    resumed = VARL.load(tmp_path / "rl_model_100_steps", env=CounterEnv())
    assert resumed.guidance_buffer.size() == 10
    resumed.learn(150, callback=make_callback(advisor), reset_num_timesteps=False)
    assert [query.step for query in advisor.queries] == [200]


def test_the_best_model_of_an_evaluation_has_the_guidance(tmp_path):
    make_model().learn(
        130, callback=[make_callback(n_queries=1), evaluation(eval_freq=120, best_model_save_path=tmp_path)]
    )
    assert VARL.load(tmp_path / "best_model").guidance_buffer.size() == 10


@pytest.mark.filterwarnings("ignore:. of . queries w")
def test_a_stop_by_another_callback(tmp_path):
    model, advisor = make_model(), Recorder()
    model.learn(300, callback=[Stop(150), make_callback(advisor)])
    assert [query.step for query in advisor.queries] == [100]
    model.learn(150, callback=make_callback(advisor), reset_num_timesteps=False)
    assert [query.step for query in advisor.queries] == [100, 200]


@pytest.mark.parametrize("same_callback", [True, False])
@pytest.mark.parametrize("step", [60, 100, 150])
def test_control_c_and_going_on(same_callback, step):
    model, advisor = make_model(), Recorder()
    callback = make_callback(advisor)
    with pytest.raises(KeyboardInterrupt):
        model.learn(300, callback=[callback, Stop(step, interrupt=True)])
    model.learn(300 - step, callback=callback if same_callback else make_callback(advisor), reset_num_timesteps=False)
    assert [query.step for query in advisor.queries] == [100, 200]
    assert model.guidance_buffer.size() == 20


def test_what_an_advisor_answers_soon_after_control_c_is_not_lost(caplog):
    model, callback = make_model(), make_callback(Recorder(latency=0.3), blocking=False)
    with pytest.raises(KeyboardInterrupt):
        model.learn(300, callback=[callback, Stop(101, interrupt=True)])
    assert model.guidance_buffer.size() == 10
    assert not caplog.records


def test_a_query_in_flight_when_the_model_was_saved_is_asked_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(query_queue, "PATIENCE", 0.1)
    model = make_model()
    callback = make_callback(Recorder(latency=0.5), blocking=False)
    with pytest.raises(KeyboardInterrupt):
        model.learn(300, callback=[callback, Stop(101, interrupt=True)])
    assert model.guidance_buffer.size() == 0
    assert "does not break off query 1" in caplog.text
    model.save(tmp_path / "model")
    advisor = Recorder()
    resumed = VARL.load(tmp_path / "model", env=CounterEnv())
    resumed.save(tmp_path / "again")  # before it could ask
    for name in ("model", "again"):
        advisor.queries.clear()
        resumed = VARL.load(tmp_path / name, env=CounterEnv())
        resumed.learn(199, callback=make_callback(advisor), reset_num_timesteps=False)
        assert [(query.index, query.step) for query in advisor.queries] == [(0, 112), (1, 200)]
        assert resumed.guidance_buffer.size() == 20
        assert answered(resumed) == [2]


def test_answers_of_an_interrupted_run_do_not_reach_another():
    callback = make_callback(Recorder(latency=0.3), blocking=False)
    with pytest.raises(KeyboardInterrupt):
        make_model().learn(300, callback=[callback, Stop(101, interrupt=True)])
    other = make_model()
    with pytest.warns(UserWarning, match="2 of 2 queries will not be asked"):
        other.learn(90, callback=callback)
    assert other.guidance_buffer.size() == 0


def test_learning_twice_is_two_runs():
    model, advisor = make_model(), Recorder()
    callback = make_callback(advisor)
    model.learn(300, callback=callback)
    model.learn(300, callback=callback)
    assert [(query.index, query.step) for query in advisor.queries] == [(0, 100), (1, 200)] * 2
    assert model.guidance_buffer.size() == 40


def test_the_end_of_training_is_announced_once():
    """rl-zoo ends its first callback a second time."""
    callback = make_callback()
    with pytest.warns(UserWarning, match="1 of 2 queries will not be asked"):
        make_model().learn(150, callback=callback)
    callback.on_training_end()  # a warning would be an error here


def test_the_cutoff_counts_the_steps_of_the_whole_run(tmp_path):
    make_model(shaping_steps=250).learn(210, callback=make_callback()).save(tmp_path / "model")
    resumed = VARL.load(tmp_path / "model", env=DummyVecEnv([CounterEnv] * 4))
    active = {}

    class Watch(BaseCallback):
        def _on_step(self):
            active[self.num_timesteps] = self.model.shaping_active
            return True

    resumed.learn(80, callback=Watch(), reset_num_timesteps=False)
    assert all(active[step] == (step < 250) for step in active)
    assert {*active.values()} == {True, False}


class TestImageObservations:
    """They serve as frames where the environment does not render."""

    def ask(self, env, **kwargs):
        advisor = Recorder()
        settings = {**SMALL, "policy_kwargs": {}, "buffer_size": 200}
        callback = make_callback(advisor, n_queries=1, first_query=40, **kwargs)
        VARL("CnnPolicy", env, **settings).learn(45, callback=callback)
        return advisor.queries[0].states

    @pytest.mark.parametrize("channel_first", [True, False])
    @pytest.mark.parametrize("n_channels", [1, 3])
    def test_the_frame_is_the_observation(self, channel_first, n_channels):
        env = FakeImageEnv(
            screen_height=36, screen_width=40, n_channels=n_channels, discrete=False, channel_first=channel_first
        )
        for state in self.ask(env):
            assert state.frame.shape == (36, 40, 3)
            for channel in range(3):
                seen = state.observation[channel % n_channels]
                np.testing.assert_array_equal(state.frame[..., channel], seen)

    def test_of_stacked_frames_it_is_the_latest(self):
        env = DummyVecEnv([lambda: FakeImageEnv(screen_height=36, screen_width=36, n_channels=3, discrete=False)])
        for state in self.ask(VecFrameStack(env, 4)):
            assert state.observation.shape == (12, 36, 36)
            np.testing.assert_array_equal(state.frame, np.moveaxis(state.observation[-3:], 0, -1))

    def test_without_frames_there_are_none(self):
        env = FakeImageEnv(screen_height=36, screen_width=36, discrete=False)
        assert all(state.frame is None for state in self.ask(env, frames=False))


def test_advisors_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    make_model().learn(250, callback=make_callback(FunctionAdvisor(lambda observation: [0.5, 0.5]), log_path=tmp_path))
    assert isinstance(AdvisorCallback(f"replay/{tmp_path}").advisor, ReplayAdvisor)
    simulated = AdvisorCallback("simulated/reach-v3", advisor_kwargs={"noise": 0.1}).advisor
    assert (type(simulated).__name__, simulated.noise) == ("ScriptedAdvisor", 0.1)
    vlm = AdvisorCallback("openai/gpt-4o", "Count.", advisor_kwargs={"max_requests": 3}).advisor
    assert (vlm.task, vlm.budget.max_requests) == ("Count.", 3)


@pytest.mark.parametrize(
    ("advisor", "kwargs", "message"),
    [
        ("simulated/reach-v3", {"nose": 0.1}, "ScriptedAdvisor takes no 'nose'. Did you mean 'noise'"),
        ("openai/gpt-4o", {"api_key": "x"}, "VLMAdvisor takes no 'api_key'"),
        (Recorder(), {"noise": 0.1}, "but the advisor is no name"),
    ],
)
def test_bad_arguments_of_advisors(advisor, kwargs, message):
    with pytest.raises(TypeError, match=message):
        AdvisorCallback(advisor, advisor_kwargs=kwargs)


def test_an_advisor_nobody_knows():
    with pytest.raises(ValueError, match=r"Meta-World has no task 'rech-v3'\. Did you mean"):
        AdvisorCallback("simulated/rech-v3")
    with pytest.raises(ValueError, match="model must name its provider"):
        AdvisorCallback("gtp-5")


@pytest.mark.parametrize(("name", "meant"), [("mine.json", "rules/mine.json"), ("log", "replay/log"), ("push-v3",) * 2])
def test_a_name_without_its_kind(name, meant):
    pathlib.Path("rules").mkdir()
    pathlib.Path("rules/mine.json").write_text("{}")
    pathlib.Path("log").mkdir()
    pathlib.Path("log/advice.jsonl").write_text("")
    with pytest.raises(ValueError, match=f"is '{name}', which is no model's name. Did you mean '.*{meant}'"):
        AdvisorCallback(name)


def test_an_abstaining_advisor_counts_as_answered():
    model = make_model()
    model.learn(250, callback=make_callback(Recorder(lambda query: Advice([None] * len(query.states)))))
    assert answered(model) == [2]


@pytest.mark.parametrize("interrupt", [False, True])
def test_totals_of_two_callbacks_are_added_up(interrupt):
    few, many = (make_callback(n_queries=n, query_freq=50, frames=False) for n in (1, 3))
    model = make_model()
    model.set_logger(configure("log", ["csv"]))
    callbacks = [few, many, LogEveryNTimesteps(210), *([Stop(300, interrupt=True)] if interrupt else [])]
    for _ in range(2):
        try:
            model.learn(300, callback=callbacks)
        except KeyboardInterrupt:
            assert interrupt
        found = model.logger.name_to_value
        assert (found["advice/queries"], found["advice/accepted"]) == (4, 40)
        assert found["advice/latency"] < 60
        last = read_csv("log/progress.csv").iloc[-1]
        assert (last["advice/queries"], last["advice/states"]) == (4, 40)
