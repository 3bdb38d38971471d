"""
Every fault of a server, in a whole training run: it ends normally, with the guidance that did arrive.

What is expected is in the first table of docs/faults.md. ``python tests/test_faults.py`` measures and prints it.
"""

import asyncio
import dataclasses
import logging
import os
import tempfile
import threading
import time

import numpy as np
import pytest

from conftest import KEY, CounterEnv, counts, failures, make_query, make_vlm, page_table, reasons
from sb3_varl import VARL, AdviceWarning, AdvisorCallback, Answer, Briefing, ObservationSlice, TaskSheet, VLMAdvisor
from sb3_varl.advice import answer
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.types import Failure, Request
from sb3_varl.advisors import vlm_query
from sb3_varl.rules import answers as rules_answers
from sb3_varl.testing import Misbehaviour, VLMServer, http_error

pytestmark = pytest.mark.usefixtures("vlm_environment")

DEADLINE = 0.5
RETRIES = 2

SLOW = (Misbehaviour(delay=60), Misbehaviour(drip=0.05))
REFUSED = Misbehaviour()
ELSEWHERE = Misbehaviour(307, body="")
FAULTS = {
    "refuses the connection": REFUSED,
    "resets the connection": Misbehaviour(reset=True),
    "closes it in the middle of the answer": Misbehaviour(cut=100),
    "400 Bad Request": http_error(400),
    "401 Unauthorized": http_error(401),
    "403 Forbidden": http_error(403),
    "404 Not Found": http_error(404),
    "413 Content Too Large": http_error(413),
    "422 Unprocessable Content": http_error(422),
    "408 Request Timeout": http_error(408),
    "409 Conflict": http_error(409),
    "425 Too Early": http_error(425),
    "429 Too Many Requests": http_error(429),
    "429 with `Retry-After: 3600`": http_error(429, Retry_After="3600"),
    "429 with `Retry-After: soon`": http_error(429, Retry_After="soon"),
    "429, the quota is exhausted": http_error(429, "Pay!", "insufficient_quota"),
    "500 Internal Server Error": http_error(500),
    "500 and 100 000 bytes of zeros": http_error(500, "\x00" * 100_000),
    "501 Not Implemented": http_error(501),
    "502 Bad Gateway": http_error(502),
    "503 Service Unavailable": http_error(503),
    "504 Gateway Timeout": http_error(504),
    "529 Overloaded": http_error(529),
    "says nothing until the deadline": SLOW[0],
    "sends a byte now and then, for ever": SLOW[1],
    "answers with invalid JSON": Misbehaviour(body='{"choices": ['),
    "answers with JSON of another kind": Misbehaviour(body="[1]"),
    "answers with HTML": Misbehaviour(body="<html>Bad gateway</html>"),
    "answers with an empty body": Misbehaviour(body=""),
    "answers with an error, as 200": Misbehaviour(body='{"error": {"message": "Overloaded"}}'),
    "answers with `choices` that are none": Misbehaviour(body='{"choices": 1}'),
    "answers with content that is no text": Misbehaviour(message={"content": [1, 2]}),
    "answers with token counts that are none": Misbehaviour(response={"usage": {"prompt_tokens": "many"}}),
    "answers in `reasoning_content`": Misbehaviour(message={"content": None, "reasoning_content": "{answer}"}),
    "answers in `reasoning`": Misbehaviour(message={"content": "", "reasoning": "I see. {answer}"}),
    "thinks, then answers": Misbehaviour(message={"reasoning_content": 'Perhaps {"advice": []}? No.'}),
    "thinks, and says nothing": Misbehaviour(message={"content": None, "reasoning_content": "Hm."}),
    "answers in blocks of thought": Misbehaviour(
        message={"content": "", "thinking_blocks": [{"type": "thinking", "thinking": "{answer}"}]}
    ),
    "answers by calling a tool": Misbehaviour(
        message={
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "advise", "arguments": "{answer}"}}],
        },
        choice={"finish_reason": "tool_calls"},
    ),
    "answers by calling a function": Misbehaviour(
        message={"content": None, "function_call": {"name": "advise", "arguments": "{answer}"}}
    ),
    "answers in parts": Misbehaviour(
        message={"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "{answer}"}]}
    ),
    "answers with an object": Misbehaviour(
        message={"content": {"advice": [{"state": i, "action": [0.0, 0.0]} for i in range(6)]}}
    ),
    "answers without a message": Misbehaviour(choice={"message": None, "text": "{answer}"}),
    "answers twice": Misbehaviour(
        response={
            "choices": [
                {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                for i, text in enumerate(("{answer}", '{"advice": [{"state": 3, "action": [1, 1]}]}'))
            ]
        }
    ),
    "ends for a reason of its own": Misbehaviour(choice={"finish_reason": "eos"}),
    "answers without choices": Misbehaviour(response={"choices": []}),
    "cuts the answer short": Misbehaviour(choice={"finish_reason": "length"}, message={"content": '{"advice": [{"sta'}),
    "answers with null": Misbehaviour(message={"content": None}),
    "refuses": Misbehaviour(message={"content": None, "refusal": "I can't."}),
    "filters the content": Misbehaviour(choice={"finish_reason": "content_filter"}, message={"content": ""}),
    "redirects to itself for ever": Misbehaviour(307, {"Location": "/v1/chat/completions"}, ""),
    "redirects to another server": ELSEWHERE,
    "redirects with 302": Misbehaviour(302, {"Location": "/v1/elsewhere"}, ""),
    "answers with 50 MB": Misbehaviour(message={"content": "x" * 50_000_000}),
}


def train(fault, log_path, model="openai/test"):
    """
    Ask about six states in three requests, of which the fault befalls all but the first.

    litellm has a client of its own for most providers, and OpenAI's for the ``openai/`` ones.

    :return: The model, the callback, the requests as the two servers saw them, and seconds
    """
    with VLMServer(script=(None,)) as server, VLMServer() as elsewhere:
        server.always = fault
        if fault is ELSEWHERE:
            server.always = dataclasses.replace(fault, headers={"Location": f"{elsewhere.api_base}/chat/completions"})
        deadline = DEADLINE if fault in SLOW else 60.0
        settings = {"states_per_request": 2, "deadline": deadline, "max_retries": RETRIES, "max_failures": 9}
        settings["form"] = "actions"  # of which nothing has to be said where nothing has a name
        advisor = VLMAdvisor(model, "Go.", api_base=server.api_base, **settings)
        if fault is REFUSED:
            advisor.endpoint.api_base = "http://127.0.0.1:9/v1"
        callback = AdvisorCallback(
            advisor,
            n_queries=1,
            first_query=20,
            states_per_query=6,
            window=15,
            frames=False,
            blocking=True,
            log_path=log_path,
        )
        varl = VARL("MlpPolicy", CounterEnv(), learning_starts=5, batch_size=8, policy_kwargs={"net_arch": [8]})
        start = time.monotonic()
        varl.learn(40, callback=callback)
        return varl, callback, server.requests, elsewhere.requests, time.monotonic() - start


def said(log_path):
    """What the log has to say of the states without advice."""
    (query,) = read_queries(log_path)
    texts = {failure.text for failure in query.failures} or {rejection.reason for rejection in query.advice.rejected}
    return texts or {"nothing"}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", FAULTS)
def test_fault(name, tmp_path, caplog):
    n_requests, guidance, _, words = page_table("What a server may do")[name]
    model, callback, requests, elsewhere, seconds = train(FAULTS[name], tmp_path)
    assert model.num_timesteps == 40
    assert model.guidance_buffer.size() == int(guidance)
    assert callback.usage.requests == int(n_requests)
    if FAULTS[name] is not REFUSED and "for ever" not in name:
        assert len(requests) == int(n_requests)
    assert seconds < 20
    assert all(word in text for text in said(tmp_path) for word in words.strip("`").split(" … "))
    told = {text for text in caplog.messages if not text.startswith("There was no advice")}
    assert len(told) == callback.totals["failed_requests"]
    assert all(request.authorization == "" for request in elsewhere)


@pytest.mark.parametrize(
    "name",
    [
        "refuses the connection",
        "resets the connection",
        "401 Unauthorized",
        "429 Too Many Requests",
        "503 Service Unavailable",
        "sends a byte now and then, for ever",
        "answers with invalid JSON",
        "answers with HTML",
        "answers with an empty body",
        "answers with null",
        "redirects to another server",
    ],
)
def test_fault_with_litellm_s_own_client(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", KEY)
    n_requests, guidance, *_ = page_table("What a server may do")[name]
    model, callback, requests, elsewhere, _ = train(FAULTS[name], tmp_path, "hosted_vllm/test")
    assert model.guidance_buffer.size() == int(guidance)
    assert callback.usage.requests == int(n_requests)
    assert all(request.authorization == f"Bearer {KEY}" for request in requests)
    assert all(request.authorization == "" for request in elsewhere)


def test_the_page_has_all_faults():
    assert list(page_table("What a server may do")) == list(FAULTS)


def test_a_dead_endpoint_is_given_up_and_tried_again(tmp_path, caplog):
    with VLMServer(script=(None,), always=http_error(503)) as server:
        advisor = make_vlm(server, states_per_request=1, max_retries=1, max_failures=2)
        advice = advisor.advise(make_query(6))
        # Two requests with a retry each, and then none.
        assert len(server.requests) == 1 + 2 * 2
        assert reasons(advice) == ["request_failed"] * 2 + ["given_up"] * 3
        assert caplog.text.count("2 requests in a row brought nothing") == 1
        # One try, without a retry, and then none.
        advice = advisor.advise(make_query(6))
        assert len(server.requests) == 6
        assert reasons(advice) == ["request_failed"] + ["given_up"] * 5
        assert caplog.text.count("brought nothing") == 1
        server.always = None
        assert reasons(advisor.advise(make_query(6))) == []
        assert len(server.requests) == 12


def test_answers_that_are_of_no_use_are_given_up_as_well():
    with VLMServer(lambda states, images: "I see.") as server:
        advice = make_vlm(server, states_per_request=1, max_failures=2).advise(make_query(4))
        assert len(server.requests) == 2
    assert reasons(advice) == ["not_json", "not_json", "given_up", "given_up"]


def test_abstaining_is_of_use():
    with VLMServer(lambda states, images: '{"advice": []}') as server:
        make_vlm(server, states_per_request=1, max_failures=2).advise(make_query(4))
        assert len(server.requests) == 4


def test_a_retry_that_succeeds_leaves_no_trace_but_its_cost():
    events = []
    with VLMServer(script=(http_error(429), Misbehaviour(reset=True))) as server:
        advice = make_vlm(server, max_retries=2).advise(make_query(1, events.append))
        assert len(server.requests) == 3
    assert advice.rejected == []
    assert counts(advice.usage) == (3, 100, 10, 0.0)
    assert [type(event) for event in events] == [Request, Failure, Request, Failure, Request, Answer]


@pytest.mark.parametrize(
    ("retry_after", "cap", "at_least", "at_most"),
    [("0.4", 10.0, 0.4, 30.0), ("3600", 0.1, 0.1, 30.0), ("soon", 0.1, 0, 30.0)],
)
def test_retry_after_is_obeyed_up_to_a_cap(monkeypatch, retry_after, cap, at_least, at_most):
    monkeypatch.setattr(vlm_query, "MAX_RETRY_WAIT", cap)
    with VLMServer(script=(http_error(429, Retry_After=retry_after),)) as server:
        started = time.monotonic()
        advice = make_vlm(server, max_retries=1).advise(make_query(1))
    assert at_least <= time.monotonic() - started < at_most
    assert advice.rejected == []


@pytest.mark.parametrize("behaviour", [Misbehaviour(drip=0.05), Misbehaviour(delay=60.0)])
def test_the_deadline_holds_for_the_whole_request(behaviour):
    with VLMServer(script=(behaviour,)) as server:
        events, started = [], time.monotonic()
        advice = make_vlm(server, deadline=0.7, states_per_request=1).advise(make_query(2, events.append))
        assert 0.7 <= time.monotonic() - started < 10
        if behaviour.drip:
            assert server.hung_up.wait(5)
    assert failures(events) == [reason.example for reason in advice.rejected] == ["no complete answer within 0.7 s"]
    assert [action is None for action in advice.actions] == [True, False]


def test_the_deadline_holds_where_litellm_blocks_a_thread(monkeypatch):
    """As it does for the providers that it only has a synchronous client of."""
    over, ended = threading.Event(), threading.Event()

    def wait():
        over.wait(60)
        ended.set()

    async def blocking(**kwargs):
        return await asyncio.get_running_loop().run_in_executor(None, wait)

    monkeypatch.setattr("litellm.acompletion", blocking)
    with VLMServer() as server:
        advice = make_vlm(server, deadline=0.3).advise(make_query(1))
        assert not ended.is_set()
        over.set()
    assert reasons(advice) == ["request_failed"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["openai/test", "hosted_vllm/test"])
def test_a_large_error_keeps_neither_the_deadline_nor_the_training_waiting(model):
    with VLMServer(always=Misbehaviour(500, body="<p>word</p> " * 1_000_000)) as server:
        started = time.process_time()
        advisor = VLMAdvisor(model, "Go.", api_base=server.api_base, max_retries=0)
        advice = advisor.advise(make_query(1))
    assert time.process_time() - started < 20  # litellm by itself takes half a minute
    assert len(advice.rejected[0].example) < 400


def test_the_deadline_counts_for_each_attempt():
    with VLMServer(script=(Misbehaviour(delay=60.0),)) as server:
        advice = make_vlm(server, deadline=0.7, max_retries=1).advise(make_query(1))
    assert advice.rejected == []
    assert advice.usage.requests == 2


def failing_once(read):
    """A reader that raises for the first answer."""
    fails = iter([True])

    def fail_once(text):
        if next(fails, False):
            raise IndexError("list index out of range")
        return read(text)

    return fail_once


def test_a_fault_of_the_reader_s_own_costs_one_answer(tmp_path, monkeypatch):
    """It has been paid for, is in the log, and is read there when the reader is mended."""
    monkeypatch.setattr(answer, "read_items", failing_once(answer.read_items))
    with pytest.warns(AdviceWarning, match=r"IndexError: list index out of range \(test_faults.py, line \d+\)"):
        model, callback, *_ = train(Misbehaviour(), tmp_path)
    assert model.guidance_buffer.size() == 4
    assert callback.totals["rejected_unread"] == 2
    (query,) = read_queries(tmp_path)
    assert all(action is not None for action in query.read().actions)
    with VLMServer() as server:
        callback = AdvisorCallback(
            make_vlm(server, task="Go.", form="actions"),
            n_queries=1,
            first_query=20,
            states_per_query=6,
            window=15,
            blocking=True,
            log_path=tmp_path,
            frames=False,
        )
        model.learn(20, callback=callback, reset_num_timesteps=False)
        assert len(server.requests) == 0
    assert model.guidance_buffer.size() == 6
    assert callback.totals["rejected_unread"] == 0
    assert callback.totals["accepted"] == 6


def test_a_fault_of_the_reader_s_own_costs_one_answer_with_rules(monkeypatch):
    monkeypatch.setattr(rules_answers, "without_thoughts", failing_once(rules_answers.without_thoughts))
    env = CounterEnv()
    sheet = TaskSheet("Count.", observation=(ObservationSlice("count", 0, 3),))
    briefing = Briefing(env.action_space, env.observation_space, sheet=sheet)
    with pytest.warns(AdviceWarning, match="That is a fault of sb3_varl's"):
        parsed = rules_answers.read_rules("No rules.", (0, 1), [np.zeros(3)] * 2, briefing)
    assert [rejection.reason for rejection in parsed.rejected] == ["unread", "unread"]
    assert rules_answers.read_rules("No rules.", (0,), [np.zeros(3)], briefing).rejected[0].reason == "no_rules"


if __name__ == "__main__":
    os.environ["OPENAI_API_KEY"] = KEY
    vlm_query.RETRY_WAIT, vlm_query.MAX_RETRY_WAIT = 0.001, 0.01
    logging.disable()
    with VLMServer() as server:
        make_vlm(server).advise(make_query(1))
    print("| The server … | Requests | Guidance | Seconds | The log says |\n| --- | --- | --- | --- | --- |")
    for name, fault in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            model, callback, _, _, seconds = train(fault, folder)
            words = min(said(folder), key=len)
        if words.startswith("litellm."):
            kind, _, text = words.removeprefix("litellm.").partition(" - ")
            words = kind.partition(":")[0] + f" … {text}" * (0 < len(text) < 30)
        size = model.guidance_buffer.size()
        print(f"| {name} | {callback.usage.requests} | {size} | {seconds:.1f} | `{words}` |", flush=True)


# ---- What a lost connection says


@pytest.mark.parametrize("model", ["openai/test", "hosted_vllm/test"])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("http://127.0.0.1:9/v1", "Connect call failed ('127.0.0.1', 9)"),
        ("http://no-such-host.invalid/v1", "gaierror"),
        ("https", "SSL: "),
    ],
    ids=["refused port", "unknown host", "certificate"],
)
def test_a_connection_that_fails_says_why(model, place, words, caplog):
    with VLMServer() as server:
        base = server.api_base.replace("http:", "https:") if place == "https" else place
        advisor, events = VLMAdvisor(model, "Go.", api_base=base, max_retries=0), []
        advisor.advise(make_query(1, events.append))
    (failure,) = failures(events)
    assert words in failure or words.replace("gaierror", "not known") in failure
    assert "object at 0x" not in failure


@pytest.mark.parametrize("model", ["openai/test", "hosted_vllm/test"])
def test_a_proxy_that_cannot_be_reached_is_named(model, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://user:planted-password@127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    # A place of its own, because clients are kept for the next request.
    advisor = VLMAdvisor(model, "Go.", api_base="http://behind-a-proxy.invalid/v1", max_retries=0)
    events = []
    advisor.advise(make_query(1, events.append))
    (failure,) = failures(events)
    assert "through the proxy that the environment names, in HTTP_PROXY for instance" in failure
    assert "127.0.0.1" in failure
    assert "planted" not in failure
