"""What a server refuses is found out once, said once, and not sent again."""

import numpy as np
import pytest
from gymnasium import spaces

from conftest import make_query, make_vlm, reasons
from sb3_varl.advice.types import AdviceQuery, Briefing, Failure, VisitedState
from sb3_varl.advisors.limits import ServerLimits
from sb3_varl.advisors.prompt import Chat, chats
from sb3_varl.testing import Misbehaviour, VLMServer, http_error

pytestmark = pytest.mark.usefixtures("vlm_environment")

# As servers say it: what they refuse, how many states share a request from then on, and how many pictures.
REFUSALS = {
    "vLLM, pictures": ("At most 1 image(s) may be provided in one request.", 1, 1),
    "vLLM, more pictures": ("At most 3 image(s) may be provided in one prompt.", 3, 3),
    "Groq, pictures": ("Too many images provided. This model supports up to 5 images", 5, 5),
    "pictures, without a number": ("Too many images in the request", 4, 4),
    "vLLM, a text model": ("At most 0 image(s) may be provided in one prompt.", 8, 0),
    "OpenAI, a text model": ("Invalid content type. image_url is only supported by certain models.", 8, 0),
    "DeepSeek": ("Failed to deserialize: messages[1]: unknown variant `image_url`, expected `text`", 8, 0),
    "llama.cpp, a text model": ("image input is not supported - hint: you may need to provide the mmproj", 8, 0),
    "llama.cpp, earlier": ('Unsupported content part type: "image_url"', 8, 0),
    "vLLM, too long": (
        "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens. Please reduce the "
        "length of the messages.",
        4,
        4,
    ),
    "OpenAI, too long": ("Your input exceeds the context window of this model.", 4, 4),
    "Anthropic, too long": ("prompt is too long: 209000 tokens > 200000 maximum", 4, 4),
    "llama.cpp, too long": ("the request exceeds the available context size, try increasing it", 4, 4),
    "Groq, too large": ("Request too large for model in organization on tokens per minute", 4, 4),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_is_not_sent_again(name, caplog):
    text, n_states, n_pictures = REFUSALS[name]
    events = []
    with VLMServer(script=[http_error(400, text)]) as server:
        advisor = make_vlm(server, states_per_request=8)
        advice = advisor.advise(make_query(8, record=events.append, frames=True))
        again = advisor.advise(make_query(8, frames=True))
    first, *others = server.requests
    assert [action is not None for action in advice.actions + again.actions] == [True] * 16
    assert not advice.rejected
    assert len(first.states) == 8
    assert max(len(request.states) for request in others) == n_states
    assert max(sum(image is not None for image in request.images) for request in others) == n_pictures
    assert sorted(state["state"] for request in others for state in request.states) == sorted([*range(8)] * 2)
    assert len([event for event in events if isinstance(event, Failure)]) == 1
    (message,) = (message for message in caplog.messages if "refuses a request" in message)
    assert text[:40] in message
    assert "states_per_request=" in message or "frames=False" in message


@pytest.mark.parametrize(
    "body",
    [
        '{"detail": "Unexpected fields in the request: {\'seed\'}"}',  # transformers serve
        '{"detail": [{"loc": ["body", "seed"], "msg": "Unexpected field seed"}]}',  # FastAPI
        '{"error": "unexpected seed"}',  # Ollama
        '{"object": "error", "message": "unexpected seed", "code": 400}',  # older vLLM
        "unexpected seed",
    ],
)
def test_servers_say_it_in_forms_of_their_own(body, caplog):
    with VLMServer(script=[Misbehaviour(422, body=body)]) as server:
        assert not make_vlm(server, completion_kwargs={"seed": 3}).advise(make_query(1)).rejected
    assert ["seed" in request.body for request in server.requests] == [True, False]
    (message,) = (message for message in caplog.messages if "refuses a request" in message)
    assert "nexpected" in message


def test_a_prompt_that_is_too_long_is_made_shorter_until_it_fits():
    with VLMServer(script=[http_error(400, "prompt is too long")] * 3) as server:
        advice = make_vlm(server, states_per_request=8).advise(make_query(8, frames=True))
    assert [len(request.states) for request in server.requests] == [8, 4, 2, *[1] * 8]
    assert not advice.rejected


def test_a_single_state_that_is_too_long_costs_itself():
    with VLMServer(script=[http_error(400, "prompt is too long")] * 2) as server:
        advice = make_vlm(server, states_per_request=1, max_failures=9).advise(make_query(3, frames=True))
    # Once without its picture, and not a third time.
    assert [sum(image is not None for image in request.images) for request in server.requests] == [1, 0, 0, 0]
    assert reasons(advice) == ["request_failed"]


@pytest.mark.parametrize(
    "text",
    [
        "System role not supported",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "This model does not support system messages",
    ],
)
def test_no_system_message(text):
    with VLMServer(script=[http_error(400, text)]) as server:
        advisor = make_vlm(server)
        assert not advisor.advise(make_query(2, frames=True)).rejected
        assert not advisor.advise(make_query(2, frames=True)).rejected
    first, *others = server.requests
    assert [message["role"] for message in first.body["messages"]] == ["system", "user"]
    for request in others:
        (message,) = request.body["messages"]
        assert message["role"] == "user"
        assert message["content"][0]["text"].startswith("You advise a reinforcement learning agent.")
        assert request.text.split() == first.text.split()


def test_an_argument_that_is_refused(caplog):
    text = "Unsupported parameter: 'temperature' is not supported with this model."
    with VLMServer(script=[http_error(400, text)]) as server:
        advisor = make_vlm(server, completion_kwargs={"temperature": 0.2, "top_p": 0.9})
        assert not advisor.advise(make_query(2, frames=True)).rejected
        assert not advisor.advise(make_query(2, frames=True)).rejected
    bodies = [request.body for request in server.requests]
    assert [("temperature" in body, "top_p" in body) for body in bodies] == [(True, True), (False, True), (False, True)]
    assert len([message for message in caplog.messages if "without temperature (completion_kwargs)" in message]) == 1


@pytest.mark.parametrize("text", ["no", "Your credit balance is too low", "temperature must be hot", "limit reached"])
def test_other_refusals_are_failures(text):
    with VLMServer() as server:
        server.always = http_error(400, text)
        advice = make_vlm(server).advise(make_query(2, frames=True))
    assert len(server.requests) == 1
    assert reasons(advice) == ["request_failed"] * 2


def test_refusals_without_an_end_come_to_an_end():
    for text in ("At most 1 image(s)", "prompt is too long", "System role not supported", "not support image input"):
        with VLMServer() as server:
            server.always = http_error(400, text)
            advice = make_vlm(server, states_per_request=8, max_failures=2).advise(make_query(8, frames=True))
        assert len(server.requests) <= 8
        assert len(advice.rejected) == 8


def test_rules_are_asked_for_with_fewer_pictures():
    limits = ServerLimits("x")
    (chat,) = chats(make_query(4, frames=True), "Go.", range(4))
    chat = Chat(chat.states, chat.messages, is_divisible=False)
    assert limits.learn("At most 2 image(s) may be provided in one request.", chat, {})
    assert limits.states_per_request(16) == 16
    assert str(limits.messages(chat)).count("image_url'") == 4  # a type and a key of each


def test_a_server_that_cuts_prompts_off_in_silence(caplog):
    with VLMServer() as server:
        advisor = make_vlm(server)
        advisor.endpoint.api_base = server.api_base
        advisor.endpoint.model = "openai/test"
        advisor.advise(make_query(4, frames=True))
        assert not caplog.messages  # what counts otherwise may be right
    limits = ServerLimits("ollama/x")
    for _ in range(2):
        limits.notice_cut(9000, 4096)
        limits.notice_cut(9000, 0)
        limits.notice_cut(4096, 4000)
    (message,) = caplog.messages
    assert "read 4096 tokens of about 9000" in message
    assert '{"num_ctx": 16384}' in message


PICTURES_REFUSED = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"


def test_a_refusal_that_is_called_an_error_of_the_server_is_not_sent_again():
    """As llama.cpp's server does with pictures."""
    with VLMServer(script=[http_error(500, PICTURES_REFUSED)] * 2) as server:
        advice = make_vlm(server, max_retries=3).advise(make_query(4, frames=True))
    assert [sum(image is not None for image in request.images) for request in server.requests] == [4, 0, 0]
    assert not advice.rejected


def test_who_asks_for_patience_is_not_taken_to_refuse():
    with VLMServer(script=[http_error(429, "Rate limit: request too large for tokens per minute")]) as server:
        advice = make_vlm(server, states_per_request=8, max_retries=1).advise(make_query(8))
    assert [len(request.states) for request in server.requests] == [8, 8]
    assert not advice.rejected


def test_without_a_budget_nothing_is_said_to_be_asked_again(caplog):
    with VLMServer(script=[http_error(500, PICTURES_REFUSED)]) as server:
        make_vlm(server, max_requests=1).advise(make_query(2, frames=True))
    assert len(server.requests) == 1
    assert not [message for message in caplog.messages if "is asked again" in message]


def test_an_answer_that_misses_its_schema_is_tried_again_and_then_asked_for_in_plain_words():
    text = "The model produced output that does not match the expected peg-native format"
    with VLMServer(script=[http_error(500, text)] * 3) as server:
        advice = make_vlm(server, max_retries=2, json_schema=True).advise(make_query(2))
    assert ["response_format" in request.body for request in server.requests] == [True] * 3 + [False]
    assert not advice.rejected


def test_without_pictures_the_text_does_not_speak_of_them():
    with VLMServer(script=[http_error(400, PICTURES_REFUSED)]) as server:
        make_vlm(server).advise(make_query(2, frames=True))
    assert ["picture" in request.text for request in server.requests] == [True, False]


def test_what_is_only_to_be_seen_is_not_asked_about_blindly():
    space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    briefing = Briefing(spaces.Box(-1, 1, (2,), np.float32), space, "Go.")
    picture = np.zeros((8, 8, 3), np.uint8)
    query = AdviceQuery(0, 10, (VisitedState(picture, np.zeros(2), picture, 3),), briefing)
    with VLMServer(script=[http_error(400, PICTURES_REFUSED)]) as server:
        advice = make_vlm(server).advise(query)
    assert len(server.requests) == 1
    assert "image input is not supported" in advice.rejected[0].example


def test_a_picture_that_is_all_there_is_is_not_given_up_for_being_too_long():
    space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    briefing = Briefing(spaces.Box(-1, 1, (2,), np.float32), space, "Go.")
    picture = np.zeros((8, 8, 3), np.uint8)
    states = tuple(VisitedState(picture, np.zeros(2), picture, i) for i in range(2))
    with VLMServer(script=[http_error(400, "prompt is too long")] * 2) as server:
        advisor = make_vlm(server, max_failures=9)
        advice = advisor.advise(AdviceQuery(0, 10, states, briefing))
        again = advisor.advise(AdviceQuery(1, 20, states, briefing))
    assert [action is not None for action in advice.actions + again.actions] == [False, True, True, True]
    assert reasons(advice) == ["request_failed"]


@pytest.mark.parametrize(
    "text",
    [
        "upstream request timeout; response payload exceeds the limit",
        "Structured output backend crashed, please retry",
        "failed to allocate mmproj buffer: out of memory",
        "Unexpected error. Received: temperature=0.2",
    ],
)
def test_what_else_an_error_of_the_server_says_may_pass(text):
    arguments = {"temperature": 0.2}
    with VLMServer(script=[http_error(500, text)]) as server:
        advisor = make_vlm(server, max_retries=2, completion_kwargs=arguments, json_schema=True)
        advice = advisor.advise(make_query(4, frames=True))
    assert not advice.rejected
    first, second = server.requests
    assert first.body == second.body


def test_what_was_cut_off_says_what_to_do():
    with VLMServer(script=[Misbehaviour(choice={"finish_reason": "length"}, message={"content": "{"})]) as server:
        advice = make_vlm(server).advise(make_query(1))
    assert advice.rejected[0].reason == "truncated"
    assert "Raise max_tokens" in advice.rejected[0].example
