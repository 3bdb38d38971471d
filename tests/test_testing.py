"""The server for tests, used as a user would: a sheet, the pictures, faults, and nothing that stays behind."""

import http.client
import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from conftest import CounterEnv, make_query, make_vlm, reasons, wait_until
from sb3_varl import VARL, ActionComponent, AdvisorCallback, TaskSheet, VLMAdvisor
from sb3_varl.testing import Misbehaviour, VLMServer, decode_image, http_error, write_answer

pytestmark = pytest.mark.usefixtures("vlm_environment")

SHEET = TaskSheet(
    "Count to seven.", action=(ActionComponent("up", "counts on"), ActionComponent("down", "counts back"))
)
CHAT = {"model": "any", "messages": [{"role": "user", "content": '{"state": 0, "executed_action": [0, 0]}'}]}


def post(server, chat=CHAT):
    """What a client without this package gets."""
    request = urllib.request.Request(f"{server.api_base}/chat/completions", json.dumps(chat).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def test_a_training_run_with_a_task_sheet(tmp_path):
    def answer(states, images):
        # The picture shows the episode and the step, as the observation does.
        assert [list(image.getpixel((0, 0))[:2]) for image in images] == [s["observation"][:2] for s in states]
        return write_answer(states, [np.array([0.5, -0.5]) if s["observation"][1] < 5 else None for s in states])

    with VLMServer(answer) as server:
        callback = AdvisorCallback(
            VLMAdvisor("openai/test", api_base=server.api_base, states_per_request=4),
            sheet=SHEET,
            n_queries=1,
            first_query=20,
            states_per_query=8,
            window=14,
            blocking=True,
            log_path=tmp_path,
        )
        model = VARL("MlpPolicy", CounterEnv(), learning_starts=30, policy_kwargs={"net_arch": [4]})
        model.learn(25, callback=callback)
    assert [len(request.states) for request in server.requests] == [4, 4]
    for words in ("Count to seven.", "up", "counts back"):
        assert all(words in request.text for request in server.requests)
    n_advised = sum(state["observation"][1] < 5 for request in server.requests for state in request.states)
    assert model.guidance_buffer.size() == n_advised > 0
    np.testing.assert_allclose(model.guidance_buffer.rows()["actions"], [[0.5, -0.5]] * n_advised)
    assert [request.path for request, _ in server.delivered] == ["/v1/chat/completions"] * 2


def test_scripted_faults():
    no_json = Misbehaviour(message={"content": "Hm."})
    with VLMServer(script=[http_error(429, Retry_After="1"), Misbehaviour(reset=True), None, no_json]) as server:
        advice = make_vlm(server, states_per_request=1, max_retries=2).advise(make_query(3))
    assert [action is None for action in advice.actions] == [False, True, False]
    assert reasons(advice) == ["not_json"]
    assert len(server.requests) == 5
    assert len(server.delivered) == 4


def ask(answer, error=None):
    with VLMServer(answer) as server:
        advice = make_vlm(server).advise(make_query(2))
        assert reasons(advice) == ["request_failed"] * 2
        if error is not None:
            raise error


def test_what_goes_wrong_in_an_answer_is_raised_in_the_test():
    def answer(states, images):
        assert images == [None, "a picture"], "no picture"
        return ""

    with pytest.raises(AssertionError, match="no picture"):
        ask(answer)
    with pytest.raises(KeyError, match="of the test's own"):
        ask(answer, KeyError("of the test's own"))
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ask(lambda states, images: write_answer(states, []))


def test_what_is_scripted_comes_before_the_answer():
    answered = []

    def answer(states, images):
        answered.append(states)
        return write_answer(states, [None])

    with VLMServer(answer, script=[Misbehaviour(reset=True), http_error(500), Misbehaviour(delay=0.1)]) as server:
        make_vlm(server, max_retries=3).advise(make_query(1))
    assert len(server.requests) == 3
    assert len(answered) == 1


def test_requests_side_by_side():
    together = threading.Barrier(8, timeout=10)

    def answer(states, images):
        together.wait()
        return write_answer(states, [[1, 2]])

    with VLMServer(answer) as server:
        threads = [threading.Thread(target=post, args=(server,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.requests) == len(server.delivered) == 8
    assert server.n_connections == 0


def test_nothing_stays_behind():
    n_threads = threading.active_count()
    with VLMServer(always=Misbehaviour(delay=60)) as server:
        kept, waiting = (http.client.HTTPConnection(server.api_base.split("/")[2], timeout=10) for _ in range(2))
        kept.request("POST", "/", "{}")
        assert kept.getresponse().read()
        waiting.request("POST", "/", json.dumps(CHAT))
        wait_until(lambda: server.requests)
        assert server.n_connections == 2
    assert server.n_connections == 0
    assert threading.active_count() == n_threads
    assert kept.sock.recv(1) == b""
    with pytest.raises(http.client.RemoteDisconnected):
        waiting.getresponse()
    kept.close()
    waiting.close()
    with pytest.raises(urllib.error.URLError):
        post(server)
    server.always = None
    with server:
        assert post(server)["usage"]["total_tokens"] == 110
        with pytest.raises(RuntimeError, match="running already"):
            server.__enter__()


def test_what_a_server_cannot_answer_is_said():
    with pytest.raises(RuntimeError, match="with VLMServer"):
        _ = VLMServer().api_base
    with VLMServer() as server:
        with pytest.raises(urllib.error.HTTPError, match="400") as refusal:
            post(server, {"prompt": "Go."})
        assert "This is no chat" in refusal.value.read().decode()
        refusal.value.close()
        assert server.requests == []
    with pytest.raises(ValueError, match="no data URL of a PNG"):
        decode_image("https://example.com/picture.png")
