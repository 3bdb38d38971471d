"""VLMAdvisor against a real server on the loopback interface."""

import asyncio
import dataclasses
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import sb3_varl
from conftest import KEY, counts, make_query, make_vlm, reasons, wait_until
from sb3_varl.advice.types import (
    Advice,
    AdviceQuery,
    Advisor,
    Answer,
    Briefing,
    Event,
    ObservationSlice,
    Rejection,
    Request,
    TaskSheet,
    Usage,
    VisitedState,
)
from sb3_varl.advisors.vlm import VLMAdvisor
from sb3_varl.testing import Images, Misbehaviour, States, VLMServer, http_error

pytestmark = pytest.mark.usefixtures("vlm_environment")
ACTION_SPACE = spaces.Box(-1.0, 1.0, (2,))
BRIEFING = Briefing(ACTION_SPACE, spaces.Box(-np.inf, np.inf, (1,)))

# ---- Queries and answers


def test_is_an_advisor() -> None:
    with VLMServer() as server:
        assert isinstance(make_vlm(server), Advisor)


def test_a_state_of_which_nothing_is_to_be_seen_is_not_asked_about() -> None:
    """Its picture could not be taken, and it has no numbers."""
    image = np.zeros((8, 8, 3), np.uint8)
    visited = tuple(VisitedState(image, np.zeros(2), frame, 0) for frame in (None, image, None))
    query = AdviceQuery(0, 0, visited, Briefing(ACTION_SPACE, spaces.Box(0, 255, (8, 8, 3), np.uint8)))
    with VLMServer() as server:
        advice = make_vlm(server, form="actions").advise(query)
        assert [[state["state"] for state in request.states] for request in server.requests] == [[1]]
    assert [action is not None for action in advice.actions] == [False, True, False]
    assert [(lost.reason, lost.state) for lost in advice.rejected] == [("not_shown", 0), ("not_shown", 2)]


def test_each_state_goes_with_its_frame_and_its_answer() -> None:
    def look(states: States, images: Images) -> str:
        advice = []
        for state, image in zip(states, images, strict=True):
            assert image is not None
            assert image.size == (64, 48)
            assert image.getpixel((5, 5)) == (state["state"] * 10,) * 3
            assert state["observation"] == [state["state"]]
            advice.append({"state": state["state"], "action": [state["state"] / 10, -1]})
        return json.dumps({"advice": advice[::-1]})

    with VLMServer(look) as server:
        advice = make_vlm(server, states_per_request=4, image_size=64).advise(make_query(10, frames=True))
        assert [[state["state"] for state in request.states] for request in server.requests] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9],
        ]
        assert "Task: Go." in server.requests[0].text
    assert advice.rejected == []
    np.testing.assert_allclose(np.array(advice.actions), [[i / 10, -1] for i in range(10)], rtol=1e-6)
    assert counts(advice.usage) == (3, 300, 30, 0.0)


def test_answers_are_recorded_as_they_came() -> None:
    events: list[Event] = []
    with VLMServer(lambda states, images: f"{len(states)} \ud83e\udd16") as server:
        advice = make_vlm(server, states_per_request=2).advise(make_query(3, events.append))
    assert [type(event) for event in events] == [Request, Answer, Request, Answer]
    answers = [event for event in events if isinstance(event, Answer)]
    assert [(a.request, a.states, a.text) for a in answers] == [
        (0, (0, 1), "2 \N{ROBOT FACE}"),
        (1, (2,), "1 \N{ROBOT FACE}"),
    ]
    assert all(counts(answer.usage) == (1, 100, 10, 0.0) and 0 < answer.usage.seconds < 60 for answer in answers)
    assert reasons(advice) == ["not_json"] * 3


def test_nothing_more_is_paid_once_answers_cannot_be_recorded() -> None:
    def full(event: Event) -> None:
        if isinstance(event, Answer):
            raise OSError("No space left on device")

    with VLMServer() as server:
        advisor = make_vlm(server, states_per_request=1)
        with pytest.raises(OSError, match="No space left"):
            advisor.advise(make_query(3, full))
        assert len(server.requests) == advisor.usage.requests == 1
        assert advisor.usage.prompt_tokens == 100


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Misbehaviour(response={"choices": []}), "no_choices"),
        (Misbehaviour(choice={"finish_reason": "length"}, message={"content": '{"advice": [{"sta'}), "truncated"),
        (Misbehaviour(choice={"finish_reason": "length"}, message={"content": None}), "truncated"),
        (Misbehaviour(message={"content": None, "refusal": "I can't."}), "refused"),
        (Misbehaviour(choice={"finish_reason": "content_filter"}, message={"content": ""}), "refused"),
        (Misbehaviour(message={"content": None}), "empty_answer"),
        (Misbehaviour(message={"content": " \n"}), "empty_answer"),
        (Misbehaviour(message={"content": "No."}), "not_json"),
    ],
)
def test_answers_without_advice_are_paid_and_cost_only_their_states(behaviour: Misbehaviour, reason: str) -> None:
    events: list[Event] = []
    with VLMServer(script=(behaviour,)) as server:
        advice = make_vlm(server, states_per_request=2).advise(make_query(3, events.append))
        assert len(server.requests) == 2
    assert list(advice.rejected) == [Rejection(reason, 0), Rejection(reason, 1)]
    assert [action is None for action in advice.actions] == [True, True, False]
    assert [type(event) for event in events] == [Request, Answer] * 2
    assert advice.usage.prompt_tokens == 200


def test_advice_that_is_complete_counts_whatever_ended_the_answer() -> None:
    with VLMServer(always=Misbehaviour(choice={"finish_reason": "length"})) as server:
        advice = make_vlm(server).advise(make_query(2))
    assert advice.rejected == []
    assert all(action is not None for action in advice.actions)


def test_one_bad_item_costs_only_itself() -> None:
    text = '{"advice": [{"state": 0, "action": [NaN, 0]}, {"state": 1, "action": [0, 0]}]}'
    with VLMServer(lambda states, images: text) as server:
        advice = make_vlm(server).advise(make_query(3))
    assert list(advice.rejected) == [Rejection("not_finite", 0)]
    assert [action is not None for action in advice.actions] == [False, True, False]


def test_completion_arguments_reach_the_server() -> None:
    with VLMServer() as server:
        make_vlm(server, completion_kwargs={"temperature": 0.25, "max_tokens": 500}).advise(make_query(1))
        assert server.requests[0].body["temperature"] == 0.25
        assert server.requests[0].body["max_tokens"] == 500


def test_advise_works_inside_of_a_running_event_loop() -> None:
    async def cell() -> Advice:
        return make_vlm(server).advise(make_query(1))

    with VLMServer() as server:
        assert asyncio.run(cell()).rejected == []


@pytest.mark.slow
@pytest.mark.parametrize("model", ["openai/test", "hosted_vllm/test"])
def test_connections_do_not_add_up(model: str) -> None:
    """One may be kept for the next request, whoever sends it; those that failed are closed."""
    with VLMServer(script=(None, http_error(500), Misbehaviour(drip=0.05))) as server:
        settings = {"api_base": server.api_base, "deadline": 3.0, "states_per_request": 1, "max_retries": 0}
        for n_states in (3, 1, 1, 1):
            VLMAdvisor(model, "Go.", **settings).advise(make_query(n_states))
        wait_until(lambda: server.n_connections <= 1)
        assert len(server.requests) == 6


def test_a_query_without_states_sends_nothing() -> None:
    with VLMServer() as server:
        assert make_vlm(server).advise(make_query(0)) == Advice([], [], Usage())
        assert server.requests == []


# ---- The task


@pytest.mark.parametrize(
    ("own", "briefed", "goal", "told"),
    [("A.", "B.", "C.", "A."), (None, "B.", "C.", "B."), (None, None, "C.", "C.")],
)
def test_task_of_the_advisor_goes_first(own: str | None, briefed: str | None, goal: str, told: str) -> None:
    briefing = Briefing(ACTION_SPACE, BRIEFING.observation_space, briefed, TaskSheet(goal))
    with VLMServer() as server:
        advisor = make_vlm(server, task=own)
        advisor.prepare(briefing)
        query = make_query(1)
        advisor.advise(AdviceQuery(0, 0, query.states, briefing))
        assert f"Task: {told}\n" in server.requests[0].text


@pytest.mark.parametrize(
    ("action_space", "sheet", "match"),
    [
        (ACTION_SPACE, None, "does not know the task"),
        (spaces.Box(0.0, np.inf, (1,)), TaskSheet("x"), "bounds"),
        (ACTION_SPACE, TaskSheet("x", observation=(ObservationSlice("a", 0, 9),)), "sheet"),
    ],
)
def test_prepare_refuses_what_cannot_be_asked(action_space: spaces.Box, sheet: TaskSheet | None, match: str) -> None:
    advisor = VLMAdvisor("openai/test")
    with pytest.raises(ValueError, match=match):
        advisor.prepare(Briefing(action_space, BRIEFING.observation_space, None, sheet))


def test_asking_without_a_task() -> None:
    with pytest.raises(ValueError, match="does not know the task"):
        VLMAdvisor("openai/test").advise(make_query(1))


# ---- The constructor


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("gpt-5", '"openai/gpt-5"'),
        ("claude-sonnet-4-5", '"anthropic/claude-sonnet-4-5"'),
        ("my-model", '"openai/my-model"'),
        ("openai/", "must name its provider"),
        ("", "must name its provider"),
        ("meta-llama/Llama-3", '"openai/meta-llama/Llama-3" and give api_base'),
        ("anthropic/claude-sonnet-4-5", "ANTHROPIC_API_KEY"),
        ("gemini/gemini-2.5-pro", "GOOGLE_API_KEY or GEMINI_API_KEY"),
    ],
)
def test_models_that_cannot_be_asked(model: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        VLMAdvisor(model)


@pytest.mark.parametrize("model", ["hosted_vllm/x", "ollama/llava", "bedrock/x", "vertex_ai/gemini-2.5-pro", "azure/x"])
def test_providers_with_other_ways_to_log_in(model: str) -> None:
    assert VLMAdvisor(model).model == model


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ({"model": None}, TypeError, "model must be"),
        ({"task": 3}, TypeError, "task is 3, expected text such as"),
        ({"api_base": 8000}, TypeError, "api_base is 8000, expected a URL"),
        ({"api_base": "localhost:8000"}, ValueError, "api_base is 'localhost:8000', expected a URL"),
        ({"api_base": "http://me:pass@localhost"}, ValueError, "environment"),
        (
            {"states_per_request": 0},
            ValueError,
            "expected an integer that is at least 1 and at most 100.",
        ),
        ({"states_per_request": 1.5}, TypeError, "states_per_request is 1.5, expected an integer"),
        ({"image_size": True}, TypeError, "image_size"),
        ({"deadline": float("nan")}, ValueError, "deadline"),
        ({"deadline": float("inf")}, ValueError, "deadline"),
        ({"deadline": "60"}, TypeError, "deadline"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"max_requests": 0}, ValueError, "max_requests"),
        ({"max_total_tokens": 0.5}, TypeError, "max_total_tokens"),
        ({"max_seconds": 0}, ValueError, "max_seconds"),
        ({"max_failures": 0}, ValueError, "max_failures"),
        ({"states_per_request": 101}, ValueError, "states_per_request is 101, expected an integer"),
        ({"image_size": 2049}, ValueError, "image_size is 2049, expected an integer"),
        ({"max_cost": -1.0}, ValueError, "max_cost"),
        ({"max_cost": 1.0}, ValueError, r"Give price_per_token=\(sent, received\)"),
        ({"price_per_token": 1e-6}, TypeError, "two numbers"),
        ({"price_per_token": (1e-6, -1e-6)}, ValueError, "price_per_token"),
        ({"completion_kwargs": "temperature=0"}, TypeError, "dictionary"),
        ({"completion_kwargs": {"api_key": KEY}}, ValueError, "OPENAI_API_KEY"),
        ({"completion_kwargs": {"extra_headers": {"Authorization": KEY}}}, ValueError, "OPENAI_API_KEY"),
        ({"completion_kwargs": {"aws_secret_access_key": KEY}}, ValueError, "environment variable"),
        ({"completion_kwargs": {"timeout": 5}}, ValueError, "sets itself"),
        ({"completion_kwargs": {"stream": True}}, ValueError, "sets itself"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        VLMAdvisor(**{"model": "openai/test", **arguments})
    assert KEY not in str(caught.value)


def test_a_key_in_litellm_s_own_configuration_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setattr("litellm.openai_key", "configured-key-0123")
    assert VLMAdvisor("openai/test", "Go.").model == "openai/test"
    with VLMServer() as server:
        make_vlm(server).advise(make_query(1))
        assert server.requests[0].authorization == "Bearer configured-key-0123"


@pytest.mark.parametrize("key", ["", " \n"])
def test_an_empty_key_is_none(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match=r"There is no key for 'openai/test'.* Set OPENAI_API_KEY"):
        VLMAdvisor("openai/test", "Go.")
    with VLMServer() as server:
        assert make_vlm(server).advise(make_query(1)).rejected == []
        assert server.requests[0].authorization == "Bearer unused"
    assert os.environ["OPENAI_API_KEY"] == key


def test_an_empty_key_beside_another_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "")
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    assert VLMAdvisor("gemini/gemini-2.5-pro", "Go.").endpoint.has_key


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\n", f"{KEY} ", f"{KEY[:8]}\x07{KEY[8:]}", f"{KEY}é"])
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
@pytest.mark.parametrize("api_base", [None, "http://127.0.0.1:9/v1"])
def test_a_key_that_cannot_be_sent_is_refused(
    key: str, provider: str, api_base: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"{provider.upper()}_API_KEY"
    monkeypatch.setenv(variable, key)
    with pytest.raises(ValueError, match=f"The key in {variable} cannot be sent") as caught:
        VLMAdvisor(f"{provider}/test", "Go.", api_base=api_base)
    assert KEY[:8] not in str(caught.value)
    assert VLMAdvisor("ollama/llava", "Go.").model == "ollama/llava", "that does not need it"


# ---- What a model is told of


def test_large_states_are_divided_and_too_large_ones_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_varl.advisors.prompt.MAX_REQUEST_CHARACTERS", 400)
    monkeypatch.setattr("sb3_varl.advisors.prompt.MAX_STATE_CHARACTERS", 300)
    query = make_query(8)
    states = [dataclasses.replace(state, observation=np.full(20, 0.1234)) for state in query.states]
    states[3] = dataclasses.replace(states[3], observation=np.full(80, 0.1234))
    with VLMServer() as server:
        advice = make_vlm(server).advise(dataclasses.replace(query, states=tuple(states)))
        asked = [[state["state"] for state in request.states] for request in server.requests]
    assert asked == [[0, 1], [2, 4], [5, 6], [7]]
    assert list(advice.rejected) == [Rejection("too_large", 3)]


def test_the_same_action_everywhere_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with VLMServer() as server:
        advisor = make_vlm(server, states_per_request=4)
        assert advisor.advise(make_query(7)).rejected == []
        assert not caplog.records
        advice = advisor.advise(make_query(8))
    assert all(action is not None for action in advice.actions)
    assert "openai/test advised the same action, [0.0, 0.0], in all 8 states of query 1" in caplog.text


# ---- Importing


def test_litellm_is_imported_late_and_quietly(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PLANTED_BY_DOTENV=1\n")
    script = """
import os, socket, sys, threading
import sb3_varl.advisors.vlm
assert "litellm" not in sys.modules

calls = []
def refuse(*args, **kwargs):
    calls.append(args)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse

before, threads = dict(os.environ), threading.active_count()
sb3_varl.advisors.vlm.VLMAdvisor("openai/test")
from litellm.anthropic_beta_headers_manager import update_headers_with_filtered_beta
update_headers_with_filtered_beta({"anthropic-beta": "x"}, "anthropic")
assert dict(os.environ) == before, "the environment has changed"
assert threading.active_count() == threads
assert not calls, calls
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(sb3_varl.__file__).parents[1])},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


# ---- The event loop that all requests share


def test_what_ends_a_program_ends_one_query_only() -> None:
    def leave(event: Event) -> None:
        raise SystemExit(3)

    with VLMServer() as server:
        with pytest.raises(SystemExit):
            make_vlm(server).advise(make_query(1, leave))
        assert make_vlm(server).advise(make_query(1)).rejected == []


def test_a_request_that_waits_for_another_is_refused(recwarn: pytest.WarningsRecorder) -> None:
    with VLMServer() as server:
        advisor = make_vlm(server)
        advisor.advise(make_query(1))  # the first of a process keeps warnings quiet

        def ask(event: Event) -> None:
            make_vlm(server).advise(make_query(1))

        with pytest.raises(RuntimeError, match="ask from another thread"):
            advisor.advise(make_query(1, ask))
        assert advisor.advise(make_query(1)).rejected == []
    gc.collect()
    assert not [str(warning.message) for warning in recwarn if "never awaited" in str(warning.message)]


_FORK = """
import os, sys, threading, time
from conftest import make_query, make_vlm
from sb3_varl.testing import VLMServer

def ask(who):
    advice = advisor.advise(make_query(1))
    assert not advice.rejected, (who, advice.rejected)

server = VLMServer(answer=lambda states, images: (time.sleep(0.3), '{"advice": [{"state": 0, "action": [0, 0]}]}')[1])
server.__enter__()  # a forked process is not to leave it
advisor = make_vlm(server, deadline=20)
ask("parent")
if sys.argv[1] == "asking":
    asking = threading.Thread(target=ask, args=("beside the fork",))
    asking.start()
    time.sleep(0.1)
child = os.fork()
if child == 0:
    ask("child")
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
ask("parent again")
if sys.argv[1] == "asking":
    asking.join()
server.__exit__()
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["idle", "asking"])
def test_a_forked_process_asks_by_itself_and_leaves_the_connections_of_the_other_alone(moment: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OPENAI_API_KEY": KEY}
    result = subprocess.run(
        [sys.executable, "-c", _FORK, moment], capture_output=True, text=True, timeout=90, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr


def test_an_answer_that_is_too_long_to_be_kept_is_read_as_far_as_it_is():
    items = [{"state": 0, "action": [0.5, 0.5]}, {"state": 1, "action": [0.25, 0.25]}]
    with VLMServer(lambda states, images: json.dumps({"advice": items}) + " " * 300_000) as server:
        advice = make_vlm(server).advise(make_query(2))
    assert [rejection.reason for rejection in advice.rejected] == ["too_long"]
    assert all(action is not None for action in advice.actions)


def test_an_answer_that_the_provider_cut_off_abstains_from_nothing():
    text = '{"state": 0, "action": [0.5, 0.5]}'
    events = []
    with VLMServer(lambda states, images: text, always=Misbehaviour(choice={"finish_reason": "length"})) as server:
        advice = make_vlm(server).advise(make_query(2, events.append))
    assert reasons(advice) == ["truncated"]
    assert [event.is_cut for event in events if isinstance(event, Answer)] == [True]
