"""Rules of which none can be used, and which are sent back to the model, once, with the reasons."""

import itertools
import json
import pathlib
import re

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.logger import configure
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
from sb3_varl.metaworld import task_sheet
from sb3_varl.report import write_report
from sb3_varl.testing import Misbehaviour, VLMServer, http_error

GOOD = json.loads(TEXT)["rules"][0]
BAD = {"name": "bad", "when": "wrist > 0", "action": ["0", "0"]}
SHORT = {"name": "short", "when": "true", "action": ["0"]}
USELESS = json.dumps({"rules": [BAD, SHORT]})
OBJECTIONS = {
    "I would rather not.": ["- the answer: there is no list of rules"],
    USELESS: ["- bad: there is no wrist, only episode, t", "- short: its action has 1 component, expected 2"],
    f"<think>Hm.</think>{USELESS}\ud800": ["- bad: "],
}


@pytest_vlm
@pytest.mark.parametrize("text", OBJECTIONS, ids=["none", "useless", "odd"])
def test_rules_of_which_none_can_be_used_are_sent_back_with_the_reasons(text):
    with VLMServer(answers(text, TEXT)) as server:
        model, callback = make_model(), make_callback(make_vlm(server), n_queries=1, log_path="log")
        model.learn(60, callback=callback)
        first, second = (request.body["messages"] for request in server.requests)
    assert second[: len(first)] == first
    said, objection = second[len(first) :]
    without_thoughts = text.removeprefix("<think>Hm.</think>")
    assert said == {"role": "assistant", "content": without_thoughts.replace("\ud800", "?")}
    assert objection["role"] == "user"
    for reason in OBJECTIONS[text]:
        assert reason in objection["content"]
    assert_rows_are_advised(model.guidance_buffer.rows())
    assert callback.totals["accepted"] > 0
    assert not [name for name in callback.totals if name.startswith("rejected") and callback.totals[name]]
    (query,) = read_queries("log")
    assert [answer.text for answer in query.answers][1:] == [TEXT]
    assert query.usage.requests == 2


@pytest_vlm
@pytest.mark.parametrize("second", [USELESS, "Mended!", http_error(400)], ids=["useless", "none", "refused"])
def test_they_are_sent_back_once(second, caplog):
    script = () if isinstance(second, str) else (None, second)
    with VLMServer(answers(USELESS, second), script) as server:
        callback = make_callback(make_vlm(server), n_queries=1)
        make_model().learn(60, callback=callback)
        assert len(server.requests) == 2
    assert callback.totals["rejected_no_rules" if second == "Mended!" else "rejected_unknown_name"] == 4
    assert [message for message in caplog.messages if "brought no advice" in message or "request 1: " in message]


@pytest_vlm
@pytest.mark.parametrize("lost", [0, 1], ids=["whole_log", "without_its_last_line"])
def test_the_second_answer_is_that_of_the_log(lost):
    with VLMServer(answers(USELESS, OTHER)) as server:
        model, callback = make_model(), make_callback(make_vlm(server), n_queries=1, log_path="run/advice")
        model.save("before")
        model.learn(60, callback=callback)
        other = callback._teacher.standing.advice
        assert [rule.name for rule in other.rules] == ["other"]
        log = pathlib.Path("run/advice/advice.jsonl")
        lines = log.read_text().splitlines(keepends=True)
        assert '"type": "advice"' in lines[-1]
        log.write_text("".join(lines[: len(lines) - lost]))
        model = VARL.load("before", env=NamedEnv())
        again = make_callback(make_vlm(server), n_queries=1, log_path="run/advice", resume=True)
        model.learn(60, callback=again)
        assert len(server.requests) == 2
    replayed = make_callback(ReplayAdvisor("run/advice"), n_queries=1)
    make_model().learn(60, callback=replayed)
    assert again._teacher.standing.advice == replayed._teacher.standing.advice == other
    assert RulesAdvisor.load("run/advice").text == OTHER
    assert not again.totals.get("rejected_unknown_name")
    page = write_report("run").read_text()
    rules = page.partition("<h2>Rules</h2>")[2].partition("</table>")[0]
    assert re.findall(r"query \d, step \d+[, a-z]*", rules) == ["query 1, step 20, sent back", "query 1, step 20"]


@pytest_vlm
def test_a_correction_that_is_sent_back_may_be_withdrawn():
    with VLMServer(answers(answer_of(-0.5), USELESS, '{"keep": true}')) as server:
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=400, roll_in=1.0, log_path="run/advice")
        model = make_model(TargetEnv(), shaping_steps=3000)
        model.set_logger(configure("run", ["csv"]))
        model.learn(1000, callback=callback)
        assert len(server.requests) == 3
    assert [rule.name for rule in callback._teacher.standing.advice.rules] == ["always -0.5"]
    assert not callback.totals.get("rejected_unknown_name")
    assert RulesAdvisor.load("run/advice").text == answer_of(-0.5)
    rules = write_report("run").read_text().partition("<h2>Rules</h2>")[2].partition("</table>")[0]
    assert "sent back" in rules
    assert "%" not in rules  # nobody knows beside which rules the shares belong


@pytest_vlm
def test_rules_of_which_some_can_be_used_are_not_sent_back():
    for text in (TEXT, json.dumps({"rules": [BAD, GOOD]})):
        with VLMServer(answers(text)) as server:
            make_model().learn(60, callback=make_callback(make_vlm(server), n_queries=1))
            assert len(server.requests) == 1


@pytest_vlm
def test_what_was_cut_off_or_is_beyond_the_budget_is_not_sent_back():
    cut_off = Misbehaviour(choice={"finish_reason": "length"})
    with VLMServer(answers(USELESS), always=cut_off) as server:
        make_model().learn(60, callback=make_callback(make_vlm(server), n_queries=1))
        assert len(server.requests) == 1
    with VLMServer(answers(USELESS)) as server:
        callback = make_callback(make_vlm(server, max_requests=1), n_queries=1)
        make_model().learn(60, callback=callback)
        assert len(server.requests) == 1
    assert callback.totals["rejected_unknown_name"] == 4
    assert not callback.totals.get("rejected_budget_exhausted")


@pytest_vlm
def test_each_of_the_two_counts_as_a_request_that_brought_nothing():
    """After two in a row, what is sent is a single try."""
    with VLMServer(answers("No.")) as server:
        vlm = make_vlm(server, max_failures=2)
        make_model().learn(100, callback=make_callback(vlm, n_queries=3))
        assert len(server.requests) == 4


def test_of_the_recorded_answers_about_metaworld_none_has_anything_that_cannot_be_used():
    root, n = pathlib.Path(__file__).parents[1], 0
    names = "earlier_rules", "rules_asked_again", "drafted_rules"
    folders = [root / "sb3_varl/advisors/recorded_rules", *(root / "examples/benchmark" / name for name in names)]
    for path in itertools.chain(*(folder.rglob("*.txt") for folder in folders)):
        drafted = path.with_suffix(".yml")
        sheet = load_task_sheet(drafted) if drafted.exists() else task_sheet(path.name.split(".")[0])
        rules = Rules.parse(path.read_text(), sheet, spaces.Box(-np.inf, np.inf, (39,)), spaces.Box(-1, 1, (4,)))
        assert not rules.rejected, path
        assert not rules.idle, path
        n += 1
    assert (
        f"in the {n} recorded answers about Meta-World there is nothing that cannot"
        in (root / "docs" / "tips.md").read_text()
    )
