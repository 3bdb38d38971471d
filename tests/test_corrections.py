"""Rules that a model writes, corrects by what became of them, keeps, or gets back."""

import itertools
import json
import pathlib
import threading
import time

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from standing import (
    OTHER,
    SHEET,
    TEXT,
    UPDATES,
    NamedEnv,
    TargetEnv,
    answer_of,
    answers,
    assert_rows_are_advised,
    make_callback,
    make_model,
    pytest_vlm,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import CounterEnv, assert_same_parameters, make_vlm
from sb3_varl import (
    VARL,
    Advice,
    AdvisorCallback,
    ArgumentError,
    ReplayAdvisor,
    Rules,
    RulesAdvisor,
)
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.types import Answer, Episode, Request, Usage
from sb3_varl.report import write_report
from sb3_varl.rules.rule import Rule
from sb3_varl.testing import VLMServer, decode_image, http_error
from sb3_varl.training.track_record import TrackRecord

pytestmark = pytest.mark.filterwarnings("ignore:. of . queries w")


# ---- Rules from a model


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
    with VLMServer(answers("I would rather not.", "I mean it.", TEXT)) as server:
        model, callback = make_model(), make_callback(make_vlm(server), n_queries=2)
        model.learn(60, callback=callback)
    assert callback.totals["rejected_no_rules"] == 4
    assert callback.totals["accepted"] > 0
    (message,) = [message for message in caplog.messages if "brought no advice" in message]
    assert message.endswith('there is no list of rules. Write one JSON object, {"rules": [...]}.')


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


def test_the_first_of_two_recorded_answers():
    first, second = (RulesAdvisor.recorded("soccer-v3", first=first).text for first in (True, False))
    assert first != second == RulesAdvisor.recorded("soccer-v3").text
    assert len({RulesAdvisor.recorded("push-v3", first=first).text for first in (True, False)}) == 1


def test_what_is_no_file_of_rules():
    pathlib.Path("rules").mkdir()
    with pytest.raises(FileNotFoundError, match=r"is no file of rules, expected .* Looked for .*/mine.json and "):
        AdvisorCallback("rules/mine.json")
    pathlib.Path("mine.json").mkdir()
    with pytest.raises(FileNotFoundError, match=r"'mine.json' is a folder without an advice log, expected a file"):
        AdvisorCallback("rules/mine.json")
    pathlib.Path("rules/mine.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"mine.json is no text in UTF-8"):
        AdvisorCallback("rules/mine.json")


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
    with pytest.raises(
        ValueError, match=r"rules: none of it can be used .*: grasp: there is no wrist, only episode, t"
    ):
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
@pytest.mark.parametrize(("picture_freq", "expected"), [(10, [0, 4]), (3, [0, 4, 6])])
def test_a_correction_comes_with_pictures_of_the_changes_of_rule(picture_freq, expected, monkeypatch):
    """And of what was seen last, as the end is not known. The frames of this environment show the episode's step."""
    monkeypatch.setattr("sb3_varl.training.roll_ins.PICTURE_FREQ", picture_freq)
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
    assert [picture.getpixel((0, 0))[1] for picture in pictures] == 2 * expected  # of two episodes that failed
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
def test_what_was_put_back_stands_where_only_the_log_is_left():
    answers = [answer_of("0.4 if sin(episode * 3) > 0 else -0.4"), answer_of(-0.5), '{"keep": true}']
    with VLMServer(lambda states, images: answers.pop(0)) as server:
        kwargs = {"n_queries": 3, "query_freq": 400, "roll_in": 1.0, "log_path": "log"}
        make_model(TargetEnv(), shaping_steps=3000).learn(1500, callback=make_callback(make_vlm(server), **kwargs))
        again = make_callback(make_vlm(server), **kwargs, resume=True)
        make_model(TargetEnv(), shaping_steps=3000).learn(10, callback=again)
        assert len(server.requests) == 3
    assert again._teacher.standing.advice.rules[0].name.startswith("always 0.4 if")
    assert [query.put_back is not None for query in read_queries("log")] == [False, True, False]
    assert ", put back<" in write_report(["log"]).read_text()


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
        assert [len(query.answers) for query in read_queries(folder) if query.answers] == [1, 1]


@pytest.mark.slow
@pytest_vlm
def test_a_recorded_run_with_rules_can_be_replayed():
    texts = [answer_of(-0.5), answer_of(0.5)]
    models = []
    with VLMServer(lambda states, images: texts.pop(0)) as server:
        for advisor in (make_vlm(server), None):
            model = make_model(TargetEnv(), shaping_steps=2000, train_freq=7, **UPDATES)
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


# ---- What has broken it


@pytest_vlm
def test_success_without_advice_is_no_success_of_the_rules(caplog):
    """These never hold, and the policy succeeds in half of the episodes."""
    never = '{"rules": [{"name": "never", "when": "t > 100", "action": ["0", "0"]}]}'
    texts = [never, '{"keep": true}']
    with VLMServer(lambda states, images: texts.pop(0) if len(texts) > 1 else texts[0]) as server:
        model = make_model(TargetEnv(), shaping_steps=3000, learning_starts=3000)
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=400, roll_in=1.0)
        model.learn(1000, callback=callback)
        _, second = (request.text for request in server.requests)
    assert "0 of " in second
    assert '"never" 0, none of them' in second
    assert not callback._teacher.record.is_good_enough


@pytest_vlm
def test_an_environment_that_does_not_say_whether_it_succeeded(caplog):
    texts = [answer_of(0.5), '{"keep": true}']
    with VLMServer(lambda states, images: texts.pop(0) if len(texts) > 1 else texts[0]) as server:
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=400, roll_in=1.0)
        make_model(shaping_steps=3000).learn(1000, callback=callback)
        _, second = (request.text for request in server.requests)
    assert "whether they succeeded is not known" in second
    assert "succeeded," not in second
    assert "failed" not in second.split("Your rules so far")[1].split("step; rule")[0]
    (message,) = (message for message in caplog.messages if "said yet whether it succeeded" in message)
    assert '"is_success"' in message


@pytest_vlm
def test_that_no_episode_says_so_is_told_before_one_was_followed_to_its_end(caplog, monkeypatch):
    monkeypatch.setattr("sb3_varl.training.roll_ins.WHOLE", 0.0)
    monkeypatch.setattr("sb3_varl.training.roll_ins.WHOLE_WHILE_UNKNOWN", 0.0)
    with VLMServer(lambda states, images: answer_of(0.5)) as server:
        callback = make_callback(make_vlm(server), n_queries=1, roll_in=0.5)
        make_model(shaping_steps=3000).learn(1000, callback=callback)
    assert len([message for message in caplog.messages if "said yet whether it succeeded" in message]) == 1


@pytest_vlm
def test_rules_that_are_partly_lost_are_told_of(caplog):
    bad, good = '{"name": "bad", "when": "wrist > 1", "action": ["0", "0"]}', '{"when": "true", "action": ["1", "0"]}'
    text = f'{{"rules": [{bad}, {good}]}}'
    with VLMServer(lambda states, images: text) as server:
        make_model().learn(60, callback=make_callback(make_vlm(server), n_queries=1))
    (message,) = (message for message in caplog.messages if "of the rules, this cannot be used" in message)
    assert "bad: there is no wrist, only episode, t" in message


@pytest_vlm
def test_rules_of_other_states_than_those_of_the_query_are_no_nothing(caplog):
    text = '{"rules": [{"name": "late", "when": "t > 100", "action": ["0", "0"]}]}'
    texts = [answer_of(-0.5), text]
    with VLMServer(lambda states, images: texts.pop(0) if len(texts) > 1 else texts[0]) as server:
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=400, roll_in=1.0)
        model = make_model(TargetEnv(), shaping_steps=3000)
        with caplog.at_level("INFO"):
            model.learn(900, callback=callback)
    assert callback._teacher.standing.advice.rules[0].name in ("late", "always -0.5")
    assert "keeps its rules" not in caplog.text
    assert "brought no advice" not in caplog.text


@pytest_vlm
def test_who_has_written_no_rules_cannot_keep_them(caplog):
    with VLMServer(lambda states, images: '{"keep": true}') as server:
        make_model().learn(60, callback=make_callback(make_vlm(server), n_queries=1))
    assert any("it would keep its rules, but has written none yet" in message for message in caplog.messages)


@pytest_vlm
def test_a_correction_that_waits_until_the_cutoff_is_told_of(caplog):
    with VLMServer(answers(answer_of(-0.5))) as server:
        callback = make_callback(make_vlm(server), n_queries=3, query_freq=20, roll_in=0.1)
        make_model(TargetEnv(), shaping_steps=100).learn(150, callback=callback)
        assert len(server.requests) == 1
    (message,) = [message for message in caplog.messages if "not asked" in message]
    assert message.startswith("2 queries were not asked when the cutoff at 100 came: a correction waits for 8 episodes")
    assert "and there were 1. Raise roll_in" in message


@pytest_vlm
def test_a_correction_that_waits_until_the_end_is_told_of(caplog):
    with VLMServer(answers(answer_of(-0.5))) as server:
        callback = make_callback(make_vlm(server), n_queries=3, query_freq=20, roll_in=0.1)
        make_model(TargetEnv()).learn(100, callback=callback)
    (message,) = [message for message in caplog.messages if "not asked" in message]
    assert message.startswith("2 queries were not asked when training ended: a correction waits for 8 episodes")
    assert message.endswith("Train longer, or raise roll_in.")


@pytest_vlm
def test_a_query_that_waits_for_nothing_puts_off_no_other():
    callback = make_callback(n_queries=6, first_query=20, query_freq=4, states_per_query=4, window=4, log_path="log")
    make_model().learn(60, callback=callback)
    assert [query.step for query in read_queries("log")] == [20, 24, 28, 32, 36, 40]


@pytest_vlm
def test_a_correction_that_waits_puts_off_the_next():
    """It waits for episodes in which the rules were followed, far beyond the trigger of the one after it."""
    with VLMServer(answers(answer_of(-0.5), answer_of(-0.25), answer_of(0.5))) as server:
        callback = make_callback(make_vlm(server), n_queries=3, query_freq=20, roll_in=1.0, log_path="log")
        make_model(TargetEnv(), shaping_steps=3000).learn(2000, callback=callback)
        assert len(server.requests) == 3
        assert all("were followed for" in request.text for request in server.requests[1:])
    steps = [query.step for query in read_queries("log")]
    assert steps[1] > 60
    assert all(later - earlier > 4 for earlier, later in itertools.pairwise(steps))


def name_of(rules):
    """Of the only rule."""
    return None if rules is None else rules.rules[0].name


class SlowAuthor:
    """Writes rules, other ones each time, until the model has done so many steps, or none for seconds."""

    def __init__(self, n_steps):
        self.n_steps, self.shown, self.model = n_steps, [], None

    def form_for(self, briefing):
        return "rules"

    def advise(self, query):
        self.shown.append(None if query.followed is None else name_of(query.followed.advice))
        query.record(Request(0, tuple(query.wanted)))
        until, latest = self.model.num_timesteps + self.n_steps, time.monotonic() + 3
        while (now := self.model.num_timesteps) < until and time.monotonic() < latest:
            time.sleep(0.001)
            latest = latest if self.model.num_timesteps == now else time.monotonic() + 3
        text = answer_of(-len(self.shown) / 10)
        query.record(Answer(0, tuple(query.wanted), text, Usage(1), "rules"))
        briefing = query.briefing
        rules = Rules.parse(text, briefing.sheet, briefing.observation_space, briefing.action_space)
        return Advice([rules(state.observation) for state in query.states], standing=rules)


@pytest.mark.parametrize("n_steps", [5, 300])
def test_a_model_that_takes_long_is_asked_to_correct_what_stands(n_steps):
    author = SlowAuthor(n_steps)
    callback = make_callback(author, n_queries=3, roll_in=1.0, blocking=False)
    author.model = make_model(TargetEnv(), shaping_steps=20_000)
    author.model.learn(4000, callback=[callback, ConvertCallback(lambda *_: len(author.shown) < 3)])
    assert author.shown == [None, "always -0.1", "always -0.2"]


@pytest.mark.parametrize(
    ("shaping_steps", "said"),
    [(100, "2 queries were not answered when the cutoff at 100 came"), (9000, "2 queries were waiting for the one")],
)
def test_corrections_that_wait_for_an_answer_are_told_of(shaping_steps, said, caplog):
    author = SlowAuthor(170 if shaping_steps == 100 else 1000)
    callback = make_callback(author, n_queries=3, roll_in=1.0, blocking=False)
    author.model = make_model(TargetEnv(), shaping_steps=shaping_steps)
    author.model.learn(150, callback=callback)
    assert author.shown == [None]
    assert sum(message.startswith(said) for message in caplog.messages) == 1


@pytest_vlm
@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("n_failing", [1, 2])
def test_a_correction_that_failed_overthrows_nothing(n_failing, loaded):
    """A later one has taken its place, or takes it as soon as there are episodes that it can be asked about."""
    script = (None, *[http_error(400)] * n_failing)
    with VLMServer(answers(answer_of(-0.5), answer_of(-0.4)), script=script) as server:
        kwargs = {"n_queries": 3, "query_freq": 200, "roll_in": 1.0, "log_path": "log"}
        model, callback = make_model(TargetEnv(), shaping_steps=9000), make_callback(make_vlm(server), **kwargs)
        model.learn(700, callback=callback)
        assert len(server.requests) == 3
        if loaded:
            model.save("model")
            model = VARL.load("model", env=TargetEnv())
            callback = make_callback(make_vlm(server), **kwargs)
        model.learn(300, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 2 + n_failing
        assert all("were followed for" in request.text for request in server.requests[1:])
        model.learn(300, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 2 + n_failing
    assert name_of(callback._teacher.standing.advice) == "always -0.4"


@pytest_vlm
def test_of_first_questions_that_failed_one_is_asked_again():
    with VLMServer(answers(TEXT), script=[http_error(400)] * 2) as server:
        kwargs = {"n_queries": 2, "roll_in": 0, "log_path": "log"}
        model, callback = make_model(), make_callback(make_vlm(server), **kwargs)
        model.learn(60, callback=callback)
        assert len(server.requests) == 2
        model.learn(60, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 3
    assert callback._teacher.standing.advice.rules[0].name == "odd"


@pytest.mark.slow
@pytest_vlm
@pytest.mark.parametrize("third", ["fails", "brings others"])
def test_rules_that_are_put_back_while_others_are_asked_for(third):
    """The log says whose rules did worse, and what the run ended with."""
    # So little worse that eight episodes do not tell, which are enough to ask for the next.
    first, worse = (f"0.4 if sin(episode * 3) > {limit} else -0.4" for limit in (0, 0.4))
    texts, ready, names = [answer_of(value) for value in (first, worse, 0.3)], threading.Event(), []
    records = []

    def answer(states, images):
        if len(texts) == 1:
            assert ready.wait(60)
        return texts.pop(0)

    class Watch(BaseCallback):
        def _on_step(self):
            names.append(name_of(callback._teacher.standing.advice))
            if names[-2:] == [f"always {worse}", f"always {first}"]:
                self.model.save("put_back")
                records.append(callback._teacher.record.save())
                ready.set()
            elif names[-1] == f"always {worse}" != names[-2]:
                self.model.save("before")
            return True

    with VLMServer(answer, script=(None, None, http_error(400) if third == "fails" else None)) as server:
        kwargs = {"query_freq": 60, "roll_in": 1.0, "log_path": "log"}
        callback = make_callback(make_vlm(server), n_queries=3, blocking=False, **kwargs)
        model = make_model(TargetEnv(), shaping_steps=30_000)
        model.learn(6000, callback=[callback, Watch()])
        assert len(server.requests) == 3
        ended_with = callback._teacher.standing.advice
        model = VARL.load("put_back", env=TargetEnv())
        callback = make_callback(make_vlm(server), n_queries=3, **kwargs)
        model.learn(1, callback=callback, reset_num_timesteps=False)
    assert [query.put_back is not None for query in read_queries("log")] == [False, True, False]
    assert name_of(ended_with) == f"always {first if third == 'fails' else 0.3}"
    assert callback._teacher.standing.advice == ended_with
    assert f'"{name_of(ended_with)}"' in RulesAdvisor.load("log").text
    model = VARL.load("before", env=TargetEnv())  # which does not know yet that they did worse
    callback = make_callback(make_vlm(server), n_queries=3, **kwargs)
    model.learn(1, callback=callback, reset_num_timesteps=False)
    assert callback._teacher.standing.advice == ended_with
    record = callback._teacher.record if third == "fails" else callback._teacher.record.before
    (known,), found = records, record.save()
    assert (found["rules"], found["query"], found["episodes"]) == (known["rules"], 0, known["episodes"])
    assert found["remark"].startswith("You have revised them once")


@pytest_vlm
def test_rules_that_may_be_corrected_are_soon_followed_to_the_end():
    """So that a correction, which waits for 8 such episodes, comes soon; and no longer than for it."""
    with VLMServer(answers(answer_of(-0.5), answer_of(0.5))) as server:
        callback = make_callback(make_vlm(server), n_queries=2, query_freq=20, roll_in=0.5, log_path="log")
        make_model(TargetEnv(), shaping_steps=3000).learn(600, callback=callback)
    first, second = (query.step for query in read_queries("log"))
    assert 8 * 7 <= second - first < 60 * 7  # about every fourth episode of 7 steps is one
    assert callback._teacher.record.before.n_episodes >= 8
    assert not callback._teacher.is_to_be_told  # no query is left
