"""VLMAdvisor against a real server on the loopback interface."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_varl import providers, vlm
from sb3_varl.advice import (
    Advice,
    AdviceQuery,
    Advisor,
    Answer,
    Briefing,
    ObservationSlice,
    Rejection,
    TaskSheet,
    Usage,
    VisitedState,
)
from sb3_varl.vlm import VLMAdvisor
from vlm_server import Images, Misbehaviour, States, VLMServer, error

KEY = "planted-key-0123456789"
ACTION_SPACE = spaces.Box(-1.0, 1.0, (2,))
BRIEFING = Briefing(ACTION_SPACE, spaces.Box(-np.inf, np.inf, (1,)))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_BASE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(vlm, "RETRY_WAIT", 0.001)
    monkeypatch.setattr(vlm, "MAX_RETRY_WAIT", 0.01)


@pytest.fixture(scope="session", autouse=True)
def warm_litellm() -> None:
    """The first request imports much of litellm, which would count against a short deadline."""
    with VLMServer() as server:
        VLMAdvisor("openai/test", "x", api_base=server.api_base).advise(make_query(1))


def make_query(
    n_states: int, record: Callable[[Answer], None] = lambda answer: None, frames: bool = False
) -> AdviceQuery:
    """States that are numbered in their observations and in the pixels of their frames."""
    states = tuple(
        VisitedState(
            np.array([float(index)]),
            np.zeros(2),
            np.full((300, 400, 3), index * 10, np.uint8) if frames else None,
            step=index,
        )
        for index in range(n_states)
    )
    return AdviceQuery(0, n_states, states, BRIEFING, record)


def make_advisor(server: VLMServer, **arguments: Any) -> VLMAdvisor:
    return VLMAdvisor("openai/test", **{"task": "Go.", "api_base": server.api_base, "max_retries": 0, **arguments})


def reasons(advice: Advice) -> list[str]:
    return [rejection.reason for rejection in advice.rejected]


# ---- Queries and answers


def test_is_an_advisor() -> None:
    with VLMServer() as server:
        assert isinstance(make_advisor(server), Advisor)


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
        advice = make_advisor(server, states_per_request=4, image_size=64).advise(make_query(10, frames=True))
        assert [[state["state"] for state in request.states] for request in server.requests] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9],
        ]
        assert "Task: Go." in server.requests[0].text
    assert advice.rejected == []
    np.testing.assert_allclose(np.array(advice.actions), [[i / 10, -1] for i in range(10)], rtol=1e-6)
    assert advice.usage == Usage(3, 300, 30, 0.0)


def test_answers_are_recorded_as_they_came() -> None:
    answers: list[Answer] = []
    with VLMServer(lambda states, images: f"{len(states)} \ud83e\udd16") as server:
        advice = make_advisor(server, states_per_request=2).advise(make_query(3, answers.append))
    assert [(a.request, a.states, a.text) for a in answers] == [
        (0, (0, 1), "2 \N{ROBOT FACE}"),
        (1, (2,), "1 \N{ROBOT FACE}"),
    ]
    assert all(answer.usage == Usage(1, 100, 10, 0.0) and 0 < answer.latency < 60 for answer in answers)
    assert reasons(advice) == ["not_json"] * 3


def test_nothing_more_is_paid_once_answers_cannot_be_recorded() -> None:
    def full(answer: Answer) -> None:
        raise OSError("No space left on device")

    with VLMServer() as server:
        advisor = make_advisor(server, states_per_request=1)
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
    answers: list[Answer] = []
    with VLMServer(script=(behaviour,)) as server:
        advice = make_advisor(server, states_per_request=2).advise(make_query(3, answers.append))
        assert len(server.requests) == 2
    assert list(advice.rejected) == [Rejection(reason, 0), Rejection(reason, 1)]
    assert [action is None for action in advice.actions] == [True, True, False]
    assert advice.failures == []
    assert len(answers) == 2
    assert advice.usage.prompt_tokens == 200


def test_advice_that_is_complete_counts_whatever_ended_the_answer() -> None:
    with VLMServer(always=Misbehaviour(choice={"finish_reason": "length"})) as server:
        advice = make_advisor(server).advise(make_query(2))
    assert advice.rejected == []
    assert all(action is not None for action in advice.actions)


def test_one_bad_item_costs_only_itself() -> None:
    text = '{"advice": [{"state": 0, "action": [NaN, 0]}, {"state": 1, "action": [0, 0]}]}'
    with VLMServer(lambda states, images: text) as server:
        advice = make_advisor(server).advise(make_query(3))
    assert list(advice.rejected) == [Rejection("not_finite", 0)]
    assert [action is not None for action in advice.actions] == [False, True, False]


def test_completion_arguments_reach_the_server() -> None:
    with VLMServer() as server:
        make_advisor(server, completion_kwargs={"temperature": 0.25, "max_tokens": 500}).advise(make_query(1))
        assert server.requests[0].body["temperature"] == 0.25
        assert server.requests[0].body["max_tokens"] == 500


def test_advise_works_inside_of_a_running_event_loop() -> None:
    async def cell() -> Advice:
        return make_advisor(server).advise(make_query(1))

    with VLMServer() as server:
        assert asyncio.run(cell()).rejected == []


@pytest.mark.parametrize("model", ["openai/test", "hosted_vllm/test"])
def test_no_connection_is_left_open(model: str) -> None:
    with VLMServer(script=(None, error(500), Misbehaviour(drip=0.05))) as server:
        advisor = VLMAdvisor(model, "Go.", api_base=server.api_base, deadline=0.7, states_per_request=1, max_retries=0)
        for n_states in (3, 1):
            advisor.advise(make_query(n_states))
            give_up = time.monotonic() + 10
            while server.n_connections and time.monotonic() < give_up:
                time.sleep(0.01)
            assert server.n_connections == 0
        assert len(server.requests) == 4


def test_a_query_without_states_sends_nothing() -> None:
    with VLMServer() as server:
        assert make_advisor(server).advise(make_query(0)) == Advice([], [], Usage(), [])
        assert server.requests == []


# ---- Faults


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_failures_that_may_pass_are_retried(status: int) -> None:
    with VLMServer(always=error(status)) as server:
        advice = make_advisor(server, max_retries=2).advise(make_query(2))
        assert len(server.requests) == 3
    assert reasons(advice) == ["request_failed"] * 2
    assert advice.usage == Usage(requests=3)
    assert len(advice.failures) == 1


@pytest.mark.parametrize(
    "behaviour",
    [*(error(status) for status in (400, 401, 403, 404, 422, 501)), error(429, "Pay!", "insufficient_quota")],
)
def test_failures_that_will_not_pass_are_not_retried(behaviour: Misbehaviour) -> None:
    with VLMServer(always=behaviour) as server:
        advice = make_advisor(server, max_retries=2).advise(make_query(2))
        assert len(server.requests) == 1
    assert list(advice.rejected) == [Rejection("request_failed", 0), Rejection("request_failed", 1)]


def test_a_retry_that_succeeds_leaves_no_trace_but_its_cost() -> None:
    answers: list[Answer] = []
    with VLMServer(script=(error(429), Misbehaviour(reset=True))) as server:
        advice = make_advisor(server, max_retries=2).advise(make_query(1, answers.append))
        assert len(server.requests) == 3
    assert advice.rejected == advice.failures == []
    assert advice.usage == answers[0].usage == Usage(3, 100, 10, 0.0)


@pytest.mark.parametrize(
    ("retry_after", "cap", "at_least", "at_most"),
    [("0.4", 10.0, 0.4, 5.0), ("3600", 0.1, 0.1, 5.0), ("soon", 0.1, 0, 5.0)],
)
def test_retry_after_is_obeyed_up_to_a_cap(
    monkeypatch: pytest.MonkeyPatch, retry_after: str, cap: float, at_least: float, at_most: float
) -> None:
    monkeypatch.setattr(vlm, "MAX_RETRY_WAIT", cap)
    with VLMServer(script=(error(429, Retry_After=retry_after),)) as server:
        started = time.monotonic()
        advice = make_advisor(server, max_retries=1).advise(make_query(1))
    assert at_least <= time.monotonic() - started < at_most
    assert advice.failures == []


@pytest.mark.parametrize(
    "behaviour",
    [
        Misbehaviour(reset=True),
        Misbehaviour(body="<html>Bad gateway</html>"),
        Misbehaviour(body="[1]"),
        Misbehaviour(body='{"choices": 1}'),
        Misbehaviour(body='{"error": {"message": "Overloaded"}}'),
        Misbehaviour(message={"content": [1, 2]}),
        Misbehaviour(response={"usage": {"prompt_tokens": "many"}}),
        error(500, "\x00" * 100_000),
    ],
)
def test_failed_request_costs_only_its_own_states(behaviour: Misbehaviour) -> None:
    with VLMServer(script=(behaviour,)) as server:
        advice = make_advisor(server, states_per_request=2).advise(make_query(3))
        assert len(server.requests) == 2
    assert [action is None for action in advice.actions] == [True, True, False]
    assert {rejection.state for rejection in advice.rejected} == {0, 1}
    assert all(failure.startswith("request 0: ") and len(failure) < 400 for failure in advice.failures)
    assert not any("\n" in failure for failure in advice.failures)


def test_server_that_is_not_there() -> None:
    with VLMServer() as server:
        pass
    advice = make_advisor(server, max_retries=1).advise(make_query(1))
    assert reasons(advice) == ["request_failed"]
    assert advice.usage == Usage(requests=2)


@pytest.mark.parametrize("behaviour", [Misbehaviour(drip=0.05), Misbehaviour(delay=60.0)])
def test_deadline_holds_for_the_whole_request(behaviour: Misbehaviour) -> None:
    with VLMServer(script=(behaviour,)) as server:
        started = time.monotonic()
        advice = make_advisor(server, deadline=0.7, states_per_request=1).advise(make_query(2))
        assert 0.7 <= time.monotonic() - started < 10
        if behaviour.drip:
            assert server.hung_up.wait(5)
    assert advice.failures == ["request 0: no complete answer within 0.7 s"]
    assert [action is None for action in advice.actions] == [True, False]


def test_deadline_counts_for_each_attempt() -> None:
    with VLMServer(script=(Misbehaviour(delay=60.0),)) as server:
        advice = make_advisor(server, deadline=0.7, max_retries=1).advise(make_query(1))
    assert advice.failures == []
    assert advice.usage.requests == 2


# ---- Keys


async def attempt(advisor: VLMAdvisor) -> None:
    litellm = providers.import_litellm()
    try:
        await advisor._attempt(litellm, [{"role": "user", "content": "x"}])
    finally:
        await providers.close_clients(litellm)


def test_key_reaches_the_server_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = Misbehaviour(
        401,
        body='{"error": {"message": "Wrong key: {authorization}, sk-proj-abcdefgh, ?key=AIzaSyAbcdefghijk"}}',
    )
    with VLMServer(always=echo) as server:
        advisor = make_advisor(server)
        advice = advisor.advise(make_query(1))
        assert server.requests[0].authorization == f"Bearer {KEY}"
        with pytest.raises(providers.RequestFailed) as caught:
            asyncio.run(attempt(advisor))
    assert "Wrong key: ***" in advice.failures[0]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    said = "".join(
        [
            *advice.failures,
            repr(advice),
            repr(advisor),
            repr(vars(advisor)),
            repr(vars(caught.value)),
            *traceback.format_exception(caught.value),
            caplog.text,
        ]
    )
    for secret in (KEY, "abcdefgh", "AIza"):
        assert secret not in said


def test_local_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with VLMServer() as server:
        assert make_advisor(server).advise(make_query(1)).failures == []


def test_scrubbing_is_not_put_off_by_short_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a")
    monkeypatch.setenv("OTHER_SECRET", "correct-horse\n")
    assert providers.scrub("a\n correct-horse") == "a ***"
    assert len(providers.scrub("x" * 10_000)) == 300


# ---- Budgets


def test_budget_of_requests_counts_retries(caplog: pytest.LogCaptureFixture) -> None:
    with VLMServer(script=(None, error(500))) as server:
        advisor = make_advisor(server, states_per_request=1, max_retries=5, max_requests=2)
        first = advisor.advise(make_query(3))
        second = advisor.advise(make_query(1))
        assert len(server.requests) == 2
    assert list(first.rejected) == [Rejection("request_failed", 1), Rejection("budget_exhausted", 2)]
    assert first.actions[0] is not None
    assert second == Advice([None], [Rejection("budget_exhausted", 0)], Usage(), [])
    assert advisor.usage == Usage(2, 100, 10, 0.0)
    assert [record.levelname for record in caplog.records if record.name == "sb3_varl.vlm"] == ["WARNING"]
    assert "max_requests=2" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "n_requests"),
    [
        ({"max_tokens": 110}, 1),
        ({"max_tokens": 111}, 2),
        ({"max_cost": 0.5, "price_per_token": (0.001, 0.01)}, 3),
        ({"max_cost": 0.5, "price_per_token": [0, 0.1]}, 1),
    ],
)
def test_budgets_of_tokens_and_dollars(arguments: dict[str, Any], n_requests: int) -> None:
    with VLMServer() as server:
        advice = make_advisor(server, states_per_request=1, **arguments).advise(make_query(4))
        assert len(server.requests) == n_requests
    assert reasons(advice) == ["budget_exhausted"] * (4 - n_requests)


def test_cost_of_a_model_on_the_price_list() -> None:
    with VLMServer() as server:
        advisor = VLMAdvisor("openai/gpt-4o", "Go.", api_base=server.api_base, max_cost=1.0)
        advice = advisor.advise(make_query(1))
    assert advice.usage.cost == pytest.approx(100 * 2.5e-6 + 10 * 1e-5)


def test_server_that_counts_no_tokens() -> None:
    with VLMServer(always=Misbehaviour(response={"usage": None})) as server:
        advice = make_advisor(server).advise(make_query(1))
    assert advice.usage == Usage(requests=1)


# ---- The task


@pytest.mark.parametrize(
    ("own", "briefed", "goal", "told"),
    [("A.", "B.", "C.", "A."), (None, "B.", "C.", "B."), (None, None, "C.", "C.")],
)
def test_task_of_the_advisor_goes_first(own: str | None, briefed: str | None, goal: str, told: str) -> None:
    briefing = Briefing(ACTION_SPACE, BRIEFING.observation_space, briefed, TaskSheet(goal))
    with VLMServer() as server:
        advisor = make_advisor(server, task=own)
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
        ({"task": 3}, TypeError, "task must be"),
        ({"api_base": 8000}, TypeError, "api_base must be"),
        ({"api_base": "localhost:8000"}, ValueError, "api_base must be a URL"),
        ({"api_base": "http://me:pass@localhost"}, ValueError, "environment"),
        ({"states_per_request": 0}, ValueError, "states_per_request must be an integer greater than 0, got 0"),
        ({"states_per_request": 1.5}, TypeError, "states_per_request must be an integer"),
        ({"image_size": True}, TypeError, "image_size"),
        ({"deadline": float("nan")}, ValueError, "deadline"),
        ({"deadline": float("inf")}, ValueError, "deadline"),
        ({"deadline": "60"}, TypeError, "deadline"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"max_requests": 0}, ValueError, "max_requests"),
        ({"max_tokens": 0.5}, TypeError, "max_tokens"),
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


# ---- Importing


def test_litellm_is_imported_late_and_quietly(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PLANTED_BY_DOTENV=1\n")
    script = """
import os, socket, sys, threading
import sb3_varl.vlm
assert "litellm" not in sys.modules

calls = []
def refuse(*args, **kwargs):
    calls.append(args)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse

before, threads = dict(os.environ), threading.active_count()
sb3_varl.vlm.VLMAdvisor("openai/test")
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
        env={**os.environ, "PYTHONPATH": str(Path(vlm.__file__).parents[1])},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
