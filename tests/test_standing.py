"""Advice for every state: labels of visited states, and what is said of rules that are of no use."""

import json
import re

import numpy as np
import pytest
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from standing import (
    ALL,
    OTHER,
    SHEET,
    SLICES,
    TEXT,
    UPDATES,
    NamedDictEnv,
    NamedEnv,
    TargetEnv,
    answer_of,
    answers,
    assert_rows_are_advised,
    executed,
    make_callback,
    make_model,
    pytest_vlm,
)

from conftest import CounterEnv, make_vlm
from sb3_varl import (
    VARL,
    Advice,
    AdviceWarning,
    ArgumentError,
    FunctionAdvisor,
    ObservationSlice,
    ReplayAdvisor,
    Rules,
    RulesAdvisor,
    TaskSheet,
    draft_sheet,
)
from sb3_varl.advice import optional
from sb3_varl.advice.history import read_queries
from sb3_varl.report import write_report
from sb3_varl.report.relabel import Relabelled, merge
from sb3_varl.testing import VLMServer
from sb3_varl.training.standing import Standing

pytestmark = pytest.mark.filterwarnings("ignore:. of . queries w")


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
    model = make_model(env, **UPDATES)
    model.learn(90, callback=make_callback(label_freq=1, roll_in=0.5))
    rows = model.guidance_buffer.rows()
    assert_rows_are_advised(rows)
    assert len(rows["steps"]) > 30
    assert {int(x) % 2 for x in rows["observations/observation"][:, 0]} == {0, 1}


def test_labels_of_dict_observations():
    model = make_model(NamedDictEnv(), **UPDATES)
    model.learn(60, callback=make_callback(label_freq=1))
    assert_rows_are_advised(model.guidance_buffer.rows(), key="count")


# Among them a rule without a value, one that advises nothing, and states without a rule.
OF_ALL_KINDS = json.dumps(
    {
        "rules": [
            {"name": "no value", "when": "1 / (t - 2) > 0.9", "action": ["t / 9", "episode / 10"]},
            {"name": "lost action", "when": "t == 4", "action": ["1 / (t - 4)", "0"]},
            {"name": "null", "when": "t == 1", "action": None},
            {"name": "early", "when": "t < 1", "action": ["t / 9 + velocity(t)", "episode / 7"]},
        ]
    }
)


@pytest.mark.parametrize("make_env", [NamedEnv, NamedDictEnv])
def test_labels_of_many_environments_are_those_of_each(make_env, monkeypatch):
    """From 24 environments on, rules decide in all of them at once."""
    rows, figures = [], []
    for smallest in (2, 1000):
        monkeypatch.setattr("sb3_varl.training.standing._MIN_BATCH", smallest)
        model = make_model(DummyVecEnv([make_env] * 5), learning_starts=10)
        callback = make_callback(RulesAdvisor(OF_ALL_KINDS), label_freq=1, roll_in=0.5)
        model.learn(150, callback=callback)
        rows.append(model.guidance_buffer.rows())
        figures.append(callback._teacher.figures())
    assert len(rows[0]["actions"]) > 20
    for name, column in rows[0].items():
        np.testing.assert_allclose(column, rows[1][name], rtol=1e-6, err_msg=name)
    assert figures[0] == figures[1]
    kinds = ("rule_1", "rule_2", "rule_3", "rule_4", "no_rule", "no_value")
    assert [figures[0][f"advice/{kind}"] > 0 for kind in kinds] == [True, False, True, True, True, True]


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


def standing_in(observations, previous, rules):
    """What stands in some environments, where not all that was before is known."""
    standing = Standing(rules.action_space)
    standing.replace(rules)
    standing._now, standing._before = observations, previous
    return standing


def test_many_environments_of_which_some_have_no_state_before():
    env = NamedEnv()
    text = '{"rules": [{"name": "fast", "when": "velocity(t) > 0", "action": ["t / 10", "0"]}]}'
    rules = Rules.parse(text, SHEET, env.observation_space, env.action_space)
    now = [np.array([0, t, 0], np.float32) for t in range(60)]
    before = [None if t % 2 else np.array([0, t - 1, 0], np.float32) for t in range(60)]
    decisions = standing_in(now, before, rules).decide_all()
    alone = standing_in(now, before, rules)
    assert [decision.rule for decision in decisions] == [alone.decide(env).rule for env in range(60)] == [0, None] * 30


def test_few_equal_actions_are_no_warning_however_many_environments_there_are(caplog):
    env = NamedEnv()
    text = '{"rules": [{"name": "sides", "when": "true", "action": ["1 if t < 3 else -1", "0"]}]}'
    rules = Rules.parse(text, SHEET, env.observation_space, env.action_space)
    now = [np.array([0, t, 0], np.float32) for t in range(128)]
    standing = standing_in(now, now, rules)
    standing.decide_all()
    assert sum(standing.by_rule.values()) == 128
    assert "the same action" not in caplog.text


def test_a_state_is_asked_about_once():
    """Be it labelled, executed or both."""
    asked = []

    class Counting(StandingOnly):
        def standing(self, briefing):
            def advise(observation, previous):
                asked.append(tuple(observation[:2]))
                return np.zeros(2)

            return advise

    model, callback = make_model(), make_callback(Counting(), label_freq=1, roll_in=1.0)
    model.learn(100, callback=callback)
    assert callback._teacher.labels.n_labels > 60
    assert callback._teacher.roll_ins.n_executed > 40
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("name", ["rules/first.json", "rules/second.json"])
@pytest.mark.parametrize("reset", [False, True])
def test_what_rules_said_leaves_the_guidance_when_a_callback_with_others_comes(reset, name):
    model = make_model()
    first = RulesAdvisor(TEXT, name="rules/first.json")
    model.learn(60, callback=make_callback(first, roll_in=0, n_queries=1))
    n_rows = model.guidance_buffer.size()
    model.learn(60, callback=make_callback(first, roll_in=0, n_queries=1), reset_num_timesteps=reset)
    assert model.guidance_buffer.size() > n_rows, "the same rules, whose labels stay"
    other = RulesAdvisor(OTHER, name=name)
    model.learn(60, callback=make_callback(other, roll_in=0, n_queries=1), reset_num_timesteps=reset)
    assert_rows_are_advised(model.guidance_buffer.rows(), sign=-1)


def test_what_rules_said_leaves_the_guidance_of_a_model_that_was_loaded(tmp_path):
    make_model().learn(100, callback=make_callback()).save(tmp_path / "model")
    model = VARL.load(tmp_path / "model", env=NamedEnv())
    assert model.guidance_buffer.rows()["labels"].any()
    model.learn(50, callback=make_callback(RulesAdvisor(OTHER)))
    rows = model.guidance_buffer.rows()
    assert_rows_are_advised({name: column[rows["labels"]] for name, column in rows.items()}, sign=-1)


@pytest.mark.parametrize("reverse", [False, True])
def test_rules_that_are_only_asked_leave_the_labels_of_others_alone(reverse):
    def make():
        first = make_callback(RulesAdvisor(TEXT, name="rules/first.json"), roll_in=0, n_queries=1)
        second = make_callback(
            RulesAdvisor(OTHER, name="rules/second.json"), roll_in=0, label_freq=0, first_query=50, n_queries=2
        )
        return [second, first] if reverse else [first, second]

    model = make_model()
    model.learn(49, callback=make())
    sizes = [model.guidance_buffer.size()]
    for _ in range(2):
        model.learn(10, callback=make(), reset_num_timesteps=False)
        sizes.append(model.guidance_buffer.size())
        model.save("model")
        model = VARL.load("model", env=NamedEnv(offset=100))
    assert sizes == sorted(sizes)
    assert sizes[-1] >= sizes[0] + 4


def test_a_function_that_changed_between_two_runs_is_asked_anew():
    class Changing(StandingOnly):
        value = 0.1

        def standing(self, briefing):
            return lambda observation, previous: np.full(2, self.value)

    advisor, model = Changing(), make_model()
    callback = make_callback(advisor, label_freq=1, roll_in=1.0)
    model.learn(30, callback=callback)
    advisor.value = 0.9
    n_before = model.replay_buffer.pos
    model.learn(10, callback=callback, reset_num_timesteps=False)
    assert executed(model)[1][n_before, 0] > 0.5


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


@pytest.mark.parametrize("others_first", [True, False])
def test_what_rules_of_an_earlier_run_said_leaves_whoever_is_asked_first(others_first):
    model = make_model()
    for text in (TEXT, OTHER):
        callbacks = [
            make_callback(FunctionAdvisor(lambda observation: np.zeros(2)), n_queries=1),
            make_callback(RulesAdvisor(text), n_queries=1),
        ]
        model.learn(100, callback=callbacks if others_first else callbacks[::-1])
    advised = model.guidance_buffer.rows()["actions"][:, 1]
    assert (advised < 0).sum() > 10
    assert not (advised > 0).any()


# ---- What the policy does not do when the advice ends


@pytest.mark.parametrize(("distance", "n_said"), [(0.0, 0), (0.2, 0), (0.9, 1)])
def test_it_is_said_once_at_the_cutoff_if_the_policy_does_something_else(distance, n_said, caplog):
    model = make_model(shaping_steps=60, gate_threshold=0.1)

    def advise(observation):
        action = model.predict(observation, deterministic=True)[0]
        return action - distance * np.sign(action + 1e-9)

    callback = make_callback(FunctionAdvisor(advise), label_freq=1, n_queries=1)
    model.learn(40, callback=callback)
    model.learn(40, callback=callback, reset_num_timesteps=False)
    said = [message for message in caplog.messages if "the policy does something else" in message]
    assert len(said) == n_said
    assert all("cutoff is at step 60, and in 100% of the states" in message for message in said)


@pytest.mark.parametrize("changes", [{"gate": "always"}, {"shaping_steps": 1000}])
def test_disagreement_is_not_told_of_where_it_says_nothing(changes, caplog):
    model = make_model(**{"shaping_steps": 60, **changes})
    model.learn(100, callback=make_callback(RulesAdvisor(json.dumps(ALL)), label_freq=1, n_queries=1))
    assert not any("the policy does something else" in message for message in caplog.messages)


# ---- Rules that say nothing


def warnings_of(caplog, text, **kwargs):
    make_model().learn(250, callback=make_callback(RulesAdvisor(text), label_freq=1, **kwargs))
    return [message for message in caplog.messages if "rules" in message]


def test_rules_that_never_hold_are_told_of_once(caplog):
    never = '{"rules": [{"name": "a", "when": "t > 50", "action": ["0", "0"]}]}'
    (message,) = warnings_of(caplog, never)
    assert "none of the rules (1) held in any of" in message
    assert "no condition was true" in message
    assert "Compare their conditions with the observations: a: t > 50." in message


def test_rules_without_a_value_are_told_of_once(caplog):
    text = '{"rules": [{"name": "far", "when": "1 / (t - t) > 0", "action": ["0", "0"]}]}'
    (message,) = warnings_of(caplog, text)
    assert "of {'far': " in message


def test_states_without_a_value_are_logged_apart_from_those_without_a_rule():
    text = '{"rules": [{"name": "far", "when": "1 / (t - 2) > 0", "action": ["t / 9", "0"]}]}'
    callback = make_callback(RulesAdvisor(text), label_freq=1, roll_in=0)
    make_model().learn(70, callback=callback)
    figures = callback._teacher.figures()
    assert figures["advice/no_value"] == pytest.approx(1 / 7, abs=0.03)
    assert figures["advice/no_rule"] == pytest.approx(2 / 7, abs=0.03)


def test_rules_that_can_decide_in_no_state_are_told_of_once(caplog):
    first = '{"when": "true", "action": ["t / 9", "0"]}'
    text = f'{{"rules": [{first}, {{"name": "late", "when": "t > 2", "action": ["0", "0"]}}]}}'
    (message,) = warnings_of(caplog, text)
    assert "late: it comes after rule 1, which always holds. Put it before that one" in message


def test_rules_that_advise_nothing_are_told_of_once(caplog):
    (message,) = warnings_of(caplog, '{"rules": [{"name": "wait", "when": "true", "action": null}]}')
    assert (
        'the rules that held in the first 6 states advise nothing, "action": null. Have them give an action: wait'
        in message
    )


def test_success_that_nobody_tells_is_not_logged():
    callback = make_callback(RulesAdvisor(TEXT), roll_in=1.0, label_freq=0)
    make_model().learn(100, callback=callback)
    assert not [name for name in callback._teacher.figures() if "success" in name]


def test_rules_that_seldom_decide_are_mentioned_once(caplog, monkeypatch):
    monkeypatch.setattr("sb3_varl.training.standing._MIN_SILENT", 30)
    text = TEXT[:-2] + ', {"name": "never", "when": "t > 99", "action": ["0", "0"]}]}'
    with caplog.at_level("INFO"):
        (message,) = warnings_of(caplog, text)
    assert message.startswith("1 of 2 rules decided in none of the first ")
    assert "never: t > 99" in message


def test_rules_that_always_advise_the_same_are_told_of_once(caplog):
    same = '{"rules": [{"name": "one", "when": "true", "action": ["0.5", "-0.25"]}]}'
    (message,) = warnings_of(caplog, same, roll_in=0)
    assert "the same action, [0.5, -0.25], in all of the first 100 states" in message
    assert "look at the observation: one." in message
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


@pytest_vlm
def test_an_environment_without_names_is_asked_about_rules_once_it_is_measured(caplog):
    words = "AdvisorCallback(sheet=sb3_varl.draft_sheet(env)) measures one"
    with VLMServer() as server:
        for kwargs, n_told in [({}, 1), ({"form": "actions"}, 0)]:
            caplog.clear()
            make_model(CounterEnv()).learn(30, callback=make_callback(make_vlm(server, **kwargs), n_queries=1))
            assert '"advice"' in server.requests[-1].text
            assert sum(words in message for message in caplog.messages) == n_told
        caplog.clear()
        sheet = draft_sheet(CounterEnv(), "Count.")
        make_model(CounterEnv()).learn(30, callback=make_callback(make_vlm(server), n_queries=1, sheet=sheet))
        assert '"rules"' in server.requests[-1].text
        assert "observation_1" in server.requests[-1].text
        assert not any(words in message for message in caplog.messages)


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


@pytest.mark.parametrize("make_env", [SeenEnv, lambda: SubprocVecEnv([SeenEnv], start_method="fork")])
def test_what_is_not_there_cannot_be_read(make_env):
    with pytest.raises(ArgumentError, match="observe is 'wrist', expected the name of an attribute or a method"):
        make_model(make_env()).learn(10, callback=make_callback(observe="wrist"))


def test_what_cannot_be_read():
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
        with pytest.warns(AdviceWarning, match="ZeroDivisionError: of the reader"):
            make_model().learn(60, callback=callback)
    assert callback.totals["rejected_unread"] == 4
    assert callback.totals["failed_queries"] == 0


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
@pytest.mark.parametrize("never", [{"max_executed_steps": 0}, {"roll_in": 0}])
def test_rules_that_are_never_executed_are_replaced_only_if_they_are_to_be(never, caplog):
    """There is nothing to correct them by, so that the next answer would know no more than the first."""
    caplog.set_level("INFO", "sb3_varl")
    with VLMServer(answers("no rules", TEXT)) as server:
        callback = make_callback(make_vlm(server), n_queries=None, query_freq=30, **never)
        make_model().learn(100, callback=callback)
        assert len(server.requests) == 2  # of which the first brought none
        assert [
            message for message in caplog.messages if message.startswith("Query 3 is not asked: no episode follows")
        ]
        callback = make_callback(make_vlm(server), n_queries=3, **never)
        make_model().learn(100, callback=callback)
        assert len(server.requests) == 2 + 3


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
def test_rules_that_another_sheet_does_not_know_are_refused_and_not_lost():
    """A run that goes on by the rules that are left would do something that nobody has written."""
    sheets = {name: TaskSheet("Go.", (), (SLICES[0], ObservationSlice(name, 1, 2))) for name in ("t", "u")}
    with VLMServer(
        answers(json.dumps({"rules": [*ALL["rules"], {"name": "rest", "when": "true", "action": [0, 0]}]}))
    ) as s:
        model = make_model()
        model.learn(40, callback=make_callback(make_vlm(s), sheet=sheets["t"], query_freq=500))
        model.save("model")
        model = VARL.load("model", env=NamedEnv())
        with pytest.raises(
            ArgumentError, match=r"that stand, and they cannot be read here: all: there is no t, .* the task sheet"
        ):
            model.learn(10, callback=make_callback(make_vlm(s), sheet=sheets["u"]), reset_num_timesteps=False)


class Around:
    """Passes on what another advisor has, standing advice too, of which it has none."""

    def __init__(self, advisor):
        self.advisor = advisor

    def prepare(self, briefing):
        optional.prepare(self.advisor, briefing)

    def form_for(self, briefing):
        return optional.form_for(self.advisor, briefing)

    def standing(self, briefing):
        return optional.standing(self.advisor, briefing)

    def advise(self, query):
        return self.advisor.advise(query)


@pytest_vlm
def test_an_advisor_around_another_is_corrected_as_that_one_is():
    with VLMServer(answers(answer_of(-0.4))) as server:
        model = make_model(TargetEnv())
        callback = make_callback(Around(make_vlm(server)), query_freq=200)
        model.learn(900, callback=callback)
        assert len(server.requests) == 3


def test_a_form_that_there_is_not_is_refused():
    class Misspelt(Around):
        def form_for(self, briefing):
            return "Rules"

    with pytest.raises(ValueError, match=r"form_for\(\) of Misspelt returned 'Rules', expected \"rules\" or"):
        make_model().learn(30, callback=make_callback(Misspelt(RulesAdvisor(TEXT))))


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
        *['{"keep": true}'] * 2,  # which is sent back where nothing is to be corrected
    ]
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        callback = make_callback(make_vlm(server), n_queries=3, query_freq=30, roll_in=0, log_path="run/advice")
        model = make_model()
        model.set_logger(configure("run", ["csv"]))
        model.learn(120, callback=callback, log_interval=1)
        assert len(server.requests) == 4
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


def test_a_function_that_works_in_place_changes_nothing_of_what_is_labelled():
    def work(observation, previous=None):
        observation += 1
        previous += 1
        return np.zeros(2)

    standing = Standing(CounterEnv().action_space)
    standing.replace(work)
    standing.visit([np.zeros(3)], np.array([True]))
    assert standing.decide(0).action is not None
    np.testing.assert_array_equal(standing.present[0], np.zeros(3))


def test_rules_that_need_no_query_are_not_refused_for_queries_that_come_too_late():
    model = make_model(learning_starts=100, shaping_steps=50)
    model.learn(60, callback=make_callback(first_query=None, query_freq=None))
    assert model.guidance_buffer.rows()["labels"].any()
    with pytest.raises(ArgumentError, match="The queries are due at steps"):
        make_model(learning_starts=100, shaping_steps=50).learn(
            60, callback=make_callback(FunctionAdvisor(lambda _: np.zeros(2)), first_query=None, query_freq=None)
        )


@pytest.mark.parametrize(("threshold", "is_said"), [(None, True), (0.1, False)])
def test_what_decides_by_less_than_the_gate_sees_is_said(threshold, is_said, caplog):
    def advise(observation):
        action = model.predict(observation, deterministic=True)[0]
        return action - 0.2 * np.sign(action)

    class ExactEnv(NamedEnv):
        def step(self, action):
            advised = advise(self._obs())
            observation, reward, terminated, truncated, info = super().step(action)
            is_success = bool(np.abs(action - advised).max() < 1e-3)
            return observation, reward, terminated, truncated, {**info, "is_success": is_success}

    model = make_model(ExactEnv(), gate_threshold=threshold, shaping_steps=700)
    model.learn(710, callback=make_callback(FunctionAdvisor(advise), label_freq=1, roll_in=0.5, n_queries=1))
    said = [message for message in caplog.messages if "what decides is smaller than gate_threshold" in message]
    assert len(said) == is_said
    if said:
        assert "in 100% of the episodes in which it is followed, and the agent by itself in 0%" in said[0]


def test_rules_that_are_there_need_no_picture_and_are_not_asked_for(capsys):
    """Any warning is an error."""
    make_model(NamedEnv(render_mode=None)).learn(50, callback=make_callback(frames=True, verbose=1))
    assert "asking" not in capsys.readouterr().out


@pytest_vlm
def test_what_is_asked_for_is_said(capsys):
    with VLMServer(answers(json.dumps(ALL))) as server:
        model = make_model(TargetEnv())
        model.learn(400, callback=make_callback(make_vlm(server, form="rules"), n_queries=2, query_freq=300, verbose=1))
    said = capsys.readouterr().out
    assert "Query 1 at step 20: asking for rules." in said
    assert "Query 1: 1 rule, after " in said
    assert "This run ends at step 400, and the advice at 1000 (shaping_steps)" in said
