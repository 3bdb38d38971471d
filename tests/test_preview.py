"""What an advisor is shown before it is paid, and what its answers are worth."""

import dataclasses
import json
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from previewed import NAMED, always_the_same, ask, at_random, by_numbers, by_picture, make_env, results
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_varl import Advice, FunctionAdvisor, GuidanceBuffer, ReplayAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import read_records
from sb3_varl.preview import preview
from sb3_varl.preview.checks import changes_with_the_picture, differs_between_states
from sb3_varl.report.page import write_report
from sb3_varl.report.relabel import main as relabel
from sb3_varl.testing import VLMServer, http_error

KEY = "planted-key-0123456789"


def test_without_asking_nothing_is_sent_and_no_key_is_needed(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    shown = preview(make_env, "openai/gpt-4o")
    assert shown.findings is None
    assert list(tmp_path.iterdir()) == []
    assert len(shown.query.states) == 16
    # 16 states of two numbers with a small picture each, and prices from litellm's list.
    assert 1_000 < shown.estimate.prompt_tokens < 10_000  # releases of litellm count pictures differently
    assert 100 < shown.estimate.completion_tokens < 500
    assert shown.estimate.cost == pytest.approx(
        2.5e-6 * shown.estimate.prompt_tokens + 1e-5 * shown.estimate.completion_tokens
    )
    assert "Move the point to the origin." in shown.page()
    with pytest.raises(ValueError, match="There is no key for 'openai/gpt-4o'"):
        preview(make_env, "openai/gpt-4o", ask=True)


@pytest.mark.usefixtures("vlm_environment")
def test_what_is_shown_is_what_is_sent(tmp_path):
    with VLMServer(by_numbers) as server:
        arguments = {"api_base": server.api_base, "states_per_request": 6}
        before = preview(make_env, "openai/gpt-4o", "Go home.", advisor_kwargs=arguments)
        assert server.requests == []
        shown = preview(make_env, "openai/gpt-4o", "Go home.", advisor_kwargs=arguments, ask=True)
        sent = [request.body["messages"] for request in server.requests]
    assert len(sent) == before.estimate.requests == 3
    assert sent == before.chats == shown.chats
    page = shown.page()
    for message in sent[0][1]["content"]:
        assert message.get("text", "").replace('"', "&#34;") in page
        assert message.get("image_url", {}).get("url", "") in page
    assert "Task: Go home." in page


@pytest.mark.usefixtures("vlm_environment")
def test_answers_are_on_disk_and_beside_the_states(tmp_path):
    with VLMServer(by_numbers) as server:
        shown = ask(server, n_states=5)
    (log,) = (tmp_path / "preview").iterdir()
    assert [record["type"] for record in read_records(log)] == ["query", "request", "answer", "advice"]
    page = shown.page()
    assert page.count("advised</span>") == 5
    assert shown.findings.usage.requests == 1
    assert results(shown) == {"answer": True, "differ": True}
    for action, state in zip(shown.findings.advice.actions, shown.query.states, strict=True):
        assert np.allclose(action, np.clip(-5 * state.observation, -1, 1), atol=1e-3)


@pytest.mark.usefixtures("vlm_environment")
@pytest.mark.parametrize(
    ("answer", "differ", "same", "picture", "following"),
    [
        (by_numbers, True, True, None, True),
        (by_picture, True, True, True, True),
        (always_the_same, False, True, None, None),
        (at_random, True, False, None, None),
    ],
)
def test_the_checks_tell_who_understands(answer, differ, same, picture, following):
    with VLMServer(answer) as server:
        shown = ask(server, check=True, follow_rounds=8, hold=2)
    found = results(shown)
    assert found["differ"] is differ
    assert found["say"] is same
    assert found["change"] is picture
    assert found["it"] is following
    assert len(shown.findings.followed) == 4
    # A frame before each advice, and one at the end, of the state itself first.
    for result in shown.findings.followed:
        assert np.array_equal(result.frames[0], result.start.frame)
        assert result.success is (following is True)


def test_a_prompt_for_rules_shows_a_few_of_the_states():
    page = preview(make_env, "openai/gpt-4o", sheet=NAMED, frames=False).page()
    (n,) = re.findall(r"The prompt shows (\d+) of them", page)
    assert 0 < int(n) < 16
    assert "The prompt shows" not in preview(make_env, "openai/gpt-4o", frames=False).page()


def test_who_does_not_look_is_seldom_taken_for_one_who_does():
    rng = np.random.default_rng(0)
    space = spaces.Box(-1, 1, (4,))

    def answer(noise, places):
        return Advice(list(np.clip(places + noise * rng.normal(size=places.shape), -1, 1)))

    blind, seeing = [], []
    for _ in range(200):
        numbers, pictures = rng.uniform(-1, 1, (2, 16, 4))
        blind.append(changes_with_the_picture(*(answer(0.3, numbers) for _ in range(3)), space).passed)
        by_both = [answer(0.3, (numbers + picture) / 2) for picture in (pictures, pictures, np.roll(pictures, 8, 0))]
        seeing.append(changes_with_the_picture(*by_both, space).passed)
    assert np.mean([passed is True for passed in blind]) < 0.1
    assert np.mean([passed is True for passed in seeing]) > 0.8


@pytest.mark.usefixtures("vlm_environment")
def test_what_cannot_be_used_is_shown_with_its_reason():
    def answer(states, images):
        items = [
            {"state": 0, "action": [9, 9]},
            {"state": 1, "action": ["<script>", 0]},
            {"state": 2, "action": [0, 1]},
        ]
        return json.dumps({"advice": items})

    with VLMServer(answer) as server:
        page = ask(server, n_states=4).page()
    verdicts = re.findall(r'class="verdict">([^<]*)<', page)
    assert verdicts == ["rejected: out of bounds", "rejected: not numbers", "advised", "abstained"]
    assert "<script>" not in page


@pytest.mark.usefixtures("vlm_environment")
def test_a_server_that_is_down_is_told_of(tmp_path):
    with VLMServer(always=http_error(401, f"Wrong key: {KEY}")) as server:
        shown = ask(server, n_states=4, check=True, follow_rounds=2)
    assert shown.findings.advice.actions == [None] * 4
    # Having no answer, it is not asked again.
    assert results(shown) == {"answer": False, "differ": None, "it": None}  # nothing could be followed
    assert len(server.requests) == 1
    page = shown.page()
    assert "Wrong key" in page
    assert KEY not in page
    assert "rejected: request failed" in page


@pytest.mark.usefixtures("vlm_environment")
def test_a_server_that_is_not_there_is_told_of():
    with VLMServer() as server:
        pass
    shown = ask(server, n_states=4)
    assert results(shown)["answer"] is False
    assert len(shown.findings.failures) == 1


def test_a_log_of_something_else_is_refused(tmp_path):
    advisor = FunctionAdvisor(np.sign)
    preview(make_env, advisor, ask=True, log_path=tmp_path / "log")
    with pytest.raises(ValueError, match="holds the advice log of something else"):
        preview(make_env, advisor, ask=True, log_path=tmp_path / "log")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"check": True}, "give ask=True, too"),
        ({"n_states": 0}, "n_states is 0, expected an integer that is at least 1"),
        ({"n_states": 99, "n_steps": 20}, "99 states cannot be drawn from 20 steps"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        preview(make_env, FunctionAdvisor(np.sign), **arguments)


@pytest.mark.parametrize("unit", [1.0, 1e-4])
def test_answers_differ_in_any_units(unit):
    space = spaces.Box(-unit, unit, (1,), np.float32)
    assert differs_between_states(Advice([np.array([0.1 * unit]), np.array([0.2 * unit])]), space).passed
    assert not differs_between_states(Advice([np.array([0.1 * unit])] * 2), space).passed


def test_a_task_is_needed():
    with pytest.raises(ValueError, match="does not know the task"):
        preview(lambda: gym.make("Pendulum-v1"), "openai/gpt-4o", frames=False)
    with pytest.raises(ValueError, match="There is no task"):
        preview(lambda: gym.make("Pendulum-v1"), FunctionAdvisor(np.sign), frames=False)
    with pytest.raises(ValueError, match="must name its provider"):
        preview(make_env, "gpt-4o")
    with pytest.raises(TypeError, match="expected a Gymnasium environment or a function that makes one"):
        preview(DummyVecEnv([make_env]), "openai/gpt-4o")
    with pytest.raises(TypeError, match=r"VLMAdvisor takes no 'retries'. Did you mean 'max_retries'\?"):
        preview(make_env, "openai/gpt-4o", advisor_kwargs={"retries": 3})


def test_what_a_run_takes_does_not_depend_on_the_preview():
    runs = [preview(make_env, "openai/gpt-4o", n_states=n).in_a_run for n in (4, 16, 20)]
    assert {run.requests for run in runs} == {12}
    assert max(run.cost for run in runs) < 1.05 * min(run.cost for run in runs)


def test_in_a_notebook_it_shows_itself():
    shown = preview(make_env, "openai/gpt-4o", n_states=2)._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2


@pytest.mark.usefixtures("vlm_environment")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(look, tmp_path, width):
    with VLMServer(by_numbers) as server:
        shown = ask(server, check=True, follow_rounds=3)
    shown.save(tmp_path / "page" / "preview.html")
    seen = look(tmp_path / "page" / "preview.html", width)
    seen.assert_sound()
    assert seen.title == "Preview/Point-v0: what the advisor sees"
    n_frames = sum(len(result.frames) for result in shown.findings.followed)
    assert seen.n_images == 16 + 16 + n_frames
    for text in (
        "Move the point to the origin.",
        "Does it say the same when asked twice?",
        "You advise a reinforcement",
    ):
        assert text in seen.text


class Looker:
    """Answers with what it sees in the picture."""

    def advise(self, query):
        return Advice([np.array(state.frame[0, 0, :2] / 128 - 1, np.float32) for state in query.states])


def test_what_was_said_about_exchanged_pictures_is_no_advice(tmp_path, capsys):
    shown = preview(make_env, Looker(), n_states=8, n_steps=40, ask=True, check=True, log_path=tmp_path / "log")
    queries = read_queries(tmp_path / "log")
    assert [query.altered for query in queries] == ["", "", "pictures exchanged"]
    assert not np.allclose(queries[2].advice.actions, queries[0].advice.actions)
    told = [np.asarray(action) for action in shown.findings.advice.actions]
    for index in range(4):  # as its first, second, third or some other query
        replayed = ReplayAdvisor(tmp_path / "log").advise(dataclasses.replace(shown.query, index=index))
        np.testing.assert_allclose(replayed.actions, told, atol=1e-6)
    page = write_report(tmp_path / "log", tmp_path / "report.html").read_text()
    assert page.count("with pictures exchanged: what was answered is no advice") == 1
    relabel([str(tmp_path / "log"), "--output", str(tmp_path / "guidance")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("16 rows of guidance")
    buffer = GuidanceBuffer(99, shown.query.briefing.observation_space, shown.query.briefing.action_space)
    buffer.load(tmp_path / "guidance.npz")
    np.testing.assert_allclose(buffer.rows()["actions"], told * 2, atol=1e-6)
