"""Rules of one's own and of an earlier run: refused before training if they cannot be used, and found in logs."""

import dataclasses
import json
import pathlib

import pytest
from standing import NamedEnv, TargetEnv, answer_of, make_callback, make_model, pytest_vlm

from conftest import CounterEnv, make_vlm
from sb3_varl import AdvisorCallback, ArgumentError, FunctionAdvisor, ObservationSlice, RulesAdvisor
from sb3_varl.testing import VLMServer

pytestmark = pytest.mark.filterwarnings("ignore:. of . queries w")


def test_rules_of_one_s_own_that_cannot_be_used_are_refused_before_training(tmp_path, caplog):
    rules = [{"name": "good", "when": "t > 1", "action": ["0", "0"]}, {"name": "bad", "when": "wrist", "action": ["0"]}]
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"rules": rules}))
    message = r"mine.json: 1 of 2 rules cannot be used in this environment: bad: there is no wrist.*Mend what is wrong"
    with pytest.raises(ValueError, match=message):
        make_model().learn(10, callback=make_callback(f"rules/{file}"))
    make_model().learn(30, callback=make_callback(RulesAdvisor(file.read_text(), partial=True)))
    assert any("1 of the rules of rules cannot be used" in message for message in caplog.messages)


@pytest_vlm
def test_the_rules_that_a_run_ended_with():
    texts = [answer_of(-0.5), answer_of(0.5), '{"keep": true}']
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        callback = make_callback(make_vlm(server), n_queries=3, query_freq=200, roll_in=1.0, log_path="log")
        make_model(TargetEnv(), shaping_steps=2000).learn(600, callback=callback)
        assert len(server.requests) in (2, 3)
    assert RulesAdvisor.load("log").text == answer_of(0.5)
    assert RulesAdvisor.load(pathlib.Path("log").absolute()).model == "rules/log", "a zip holds no absolute path"
    again = make_callback("rules/log")
    make_model().learn(60, callback=again)
    assert again._teacher.standing.advice == callback._teacher.standing.advice
    file = pathlib.Path("log/advice.jsonl")
    last = json.loads(file.read_text().splitlines()[-1])
    older = {"version": last["version"], "time": 0.0, "type": "put_back", "query": 1, "rules": answer_of(-0.5)}
    file.write_text(f"{file.read_text()}{json.dumps(older)}\n")
    assert RulesAdvisor.load("log").text == answer_of(-0.5)


@pytest_vlm
def test_rules_of_which_none_could_be_used_never_stood():
    texts = [answer_of(-0.5), *[answer_of(0.5).replace("true", "wrist > 0")] * 2]
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=200, roll_in=1.0, log_path="log")
        make_model(TargetEnv(), shaping_steps=2000).learn(400, callback=callback)
        assert len(server.requests) == 3
    assert RulesAdvisor.load("log").text == answer_of(-0.5)


def test_a_log_without_rules():
    make_model().learn(60, callback=make_callback(FunctionAdvisor(lambda seen: [0, 0]), log_path="log", roll_in=0))
    with pytest.raises(ValueError, match=r"log holds no rules\. Those of single actions are repeated by replay/log"):
        AdvisorCallback("rules/log")


def test_a_replay_with_rules_says_something_of_other_states_too(caplog):
    make_model().learn(60, callback=make_callback(RulesAdvisor(answer_of(0.5)), log_path="log", n_queries=1))
    callback = make_callback("replay/log", n_queries=2, query_freq=20)
    make_model(NamedEnv(offset=50)).learn(60, callback=callback)
    assert callback.totals["accepted"] == callback.totals["states"] > 0
    assert callback._teacher.standing.advice.rules[0].name == "always 0.5"


def test_a_replay_of_rules_without_a_task_sheet_is_refused_before_training():
    make_model().learn(60, callback=make_callback(RulesAdvisor(answer_of(0.5)), log_path="log", n_queries=1))
    with pytest.raises(ArgumentError, match="Rules are about numbers that have names"):
        make_model(CounterEnv()).learn(60, callback=make_callback("replay/log"))
    sheet = dataclasses.replace(NamedEnv.task_sheet, observation=(ObservationSlice("other", 0, 3),))
    with pytest.raises(ValueError, match=r"The rules in log cannot be used in this environment: .*there is no t,"):
        make_model().learn(60, callback=make_callback("replay/log", sheet=sheet))
