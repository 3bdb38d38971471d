"""Rules of which something cannot be used, and which are sent back to the model, once, with the reasons."""

import itertools
import json
import pathlib
import re

import numpy as np
import pytest
from gymnasium import spaces
from standing import (
    OTHER,
    TEXT,
    NamedEnv,
    TargetEnv,
    answer_of,
    answers,
    assert_rows_are_advised,
    make_callback,
    make_model,
    pytest_vlm,
)

from conftest import make_vlm
from sb3_varl import VARL, ReplayAdvisor, Rules, RulesAdvisor, load_task_sheet
from sb3_varl.advice.history import read_queries
from sb3_varl.advisors.rules_prompt import objection
from sb3_varl.metaworld import task_sheet
from sb3_varl.report import write_report
from sb3_varl.testing import Misbehaviour, VLMServer, http_error

GOOD = json.loads(TEXT)["rules"][0]
BAD = {"name": "bad", "when": "wrist > 0", "action": ["0", "0"]}
SHORT = {"name": "short", "when": "true", "action": ["0"]}
NEVER = {"name": "never", "when": "1 > 2", "action": ["0", "0"]}
FLAWED = {
    "nothing": "I would rather not.",
    "one_unusable": json.dumps({"rules": [BAD, GOOD]}),
    "all_unusable": json.dumps({"rules": [BAD, SHORT]}),
    "one_idle": json.dumps({"rules": [NEVER, GOOD]}),
}
OBJECTIONS = {
    "nothing": ["there is no list of rules"],
    "one_unusable": ["bad: there is no wrist, only episode, t"],
    "all_unusable": ["bad: there is no wrist", "short: its action has"],
    "one_idle": ["never: 1 > 2 holds in no state"],
}


@pytest_vlm
@pytest.mark.parametrize("flaw", FLAWED)
def test_rules_that_cannot_all_be_used_are_sent_back_with_the_reasons(flaw):
    with VLMServer(answers(FLAWED[flaw], TEXT)) as server:
        model, callback = make_model(), make_callback(make_vlm(server), n_queries=1, log_path="log")
        model.learn(60, callback=callback)
        first, second = (request.body["messages"] for request in server.requests)
    assert second[: len(first)] == first
    said, objection = second[len(first) :]
    assert said == {"role": "assistant", "content": FLAWED[flaw]}
    assert objection["role"] == "user"
    for reason in OBJECTIONS[flaw]:
        assert reason in objection["content"]
    assert_rows_are_advised(model.guidance_buffer.rows())
    assert callback.totals["accepted"] > 0
    assert not [name for name in callback.totals if name.startswith("rejected") and callback.totals[name]]
    (query,) = read_queries("log")
    assert [answer.text for answer in query.answers] == [FLAWED[flaw], TEXT]
    assert query.usage.requests == 2


@pytest_vlm
def test_rules_are_sent_back_once_and_count_as_far_as_they_can_be_used(caplog):
    text = FLAWED["one_unusable"]
    with VLMServer(answers(text)) as server:
        callback = make_callback(make_vlm(server), n_queries=1)
        make_model().learn(60, callback=callback)
        assert len(server.requests) == 2
    assert callback.totals["rejected_unknown_name"] == 1
    (message,) = [message for message in caplog.messages if "of the rules, this cannot be used" in message]
    assert "bad: there is no wrist" in message


@pytest_vlm
@pytest.mark.parametrize(
    "second", ["Mended!", json.dumps({"rules": [GOOD]}), json.dumps({"rules": [BAD, SHORT]}), http_error(400)]
)
def test_what_comes_back_never_costs_rules_that_could_be_used(second):
    text = json.dumps({"rules": [{**GOOD, "name": "first"}, {**GOOD, "name": "second", "when": "t > 1"}, BAD]})
    misbehaves = () if isinstance(second, str) else (None, second)
    with VLMServer(answers(text, second), misbehaves) as server:
        model, callback = make_model(), make_callback(make_vlm(server), n_queries=1, log_path="log")
        model.save("before")
        model.learn(60, callback=callback)
        assert len(server.requests) == 2
        kept = callback._teacher.standing.advice
        assert [rule.name for rule in kept.rules] == ["first", "second"]
        assert callback.totals["rejected_unknown_name"] == 1

        resumed = VARL.load("before", env=NamedEnv())
        again = make_callback(make_vlm(server), n_queries=1, log_path="log", resume=True)
        resumed.learn(60, callback=again)
        assert len(server.requests) == 2
    assert again._teacher.standing.advice == kept
    of_log = RulesAdvisor.load("log").standing(callback._briefing)
    assert [rule.name for rule in of_log.rules] == ["first", "second"]
    replayed = make_callback(ReplayAdvisor("log"), n_queries=1)
    make_model().learn(60, callback=replayed)
    assert replayed._teacher.standing.advice == kept


@pytest_vlm
@pytest.mark.parametrize("is_resumed", [False, True])
def test_mended_rules_are_those_of_the_log(is_resumed):
    with VLMServer(answers(FLAWED["one_unusable"], OTHER)) as server:
        model, callback = make_model(), make_callback(make_vlm(server), n_queries=1, log_path="run/advice")
        model.save("before")
        model.learn(60, callback=callback)
        other = callback._teacher.standing.advice
        assert [rule.name for rule in other.rules] == ["other"]
        if is_resumed:
            lines = pathlib.Path("run/advice/advice.jsonl").read_text().splitlines(keepends=True)
            pathlib.Path("run/advice/advice.jsonl").write_text("".join(x for x in lines if '"type": "advice"' not in x))
        model = VARL.load("before", env=NamedEnv())
        again = make_callback(make_vlm(server), n_queries=1, log_path="run/advice", resume=True)
        model.learn(60, callback=again)
        assert len(server.requests) == 2
    assert again._teacher.standing.advice == other
    assert not again.totals.get("rejected_unknown_name")
    page = write_report("run").read_text()
    assert re.findall(r"query \d, step \d+[, a-z]*", page.partition("<h2>Rules</h2>")[2].partition("</table>")[0]) == [
        "query 1, step 20, sent back",
        "query 1, step 20",
    ]


@pytest_vlm
def test_what_has_nothing_to_mend_is_not_sent_back():
    with VLMServer(answers(answer_of(-0.5), '{"keep": true}')) as server:
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=400, roll_in=1.0)
        make_model(TargetEnv(), shaping_steps=3000).learn(1000, callback=callback)
        assert len(server.requests) == 2


@pytest_vlm
def test_rules_that_were_cut_off_are_not_sent_back_and_neither_are_they_beyond_the_budget():
    cut_off = Misbehaviour(choice={"finish_reason": "length"})
    with VLMServer(answers(FLAWED["one_unusable"]), always=cut_off) as server:
        make_model().learn(60, callback=make_callback(make_vlm(server), n_queries=1))
        assert len(server.requests) == 1
    with VLMServer(answers(FLAWED["one_unusable"])) as server:
        callback = make_callback(make_vlm(server, max_requests=1), n_queries=1)
        make_model().learn(60, callback=callback)
        assert len(server.requests) == 1
    assert [rule.name for rule in callback._teacher.standing.advice.rules] == ["odd"]
    assert not callback.totals.get("rejected_budget_exhausted")


@pytest_vlm
def test_only_the_first_request_of_a_model_that_was_given_up_is_a_try():
    with VLMServer(answers("No.")) as server:
        vlm = make_vlm(server, max_failures=1)
        make_model().learn(60, callback=make_callback(vlm, n_queries=2))
        assert len(server.requests) == 3


def test_of_the_recorded_answers_about_metaworld_none_would_be_sent_back():
    root, n = pathlib.Path(__file__).parents[1], 0
    folders = [root / "examples" / "benchmark" / name for name in ("earlier_rules", "rules_asked_again", "drafted_rules")]
    folders.append(root / "sb3_varl" / "advisors" / "recorded_rules")
    for path in itertools.chain(*(folder.rglob("*.txt") for folder in folders)):
        drafted = path.with_suffix(".yml")
        sheet = load_task_sheet(drafted) if drafted.exists() else task_sheet(path.name.split(".")[0])
        rules = Rules.parse(path.read_text(), sheet, spaces.Box(-np.inf, np.inf, (39,)), spaces.Box(-1, 1, (4,)))
        assert objection(rules) == "", path
        n += 1
    assert f"of the {n} recorded answers about Meta-World none was such" in (root / "docs" / "tips.md").read_text()
