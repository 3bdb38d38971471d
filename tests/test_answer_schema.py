"""A provider that can is told the form of an answer; one that cannot is asked in plain words."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from conftest import make_query, make_vlm, reasons
from sb3_varl import ArgumentError, Briefing, ObservationSlice, TaskSheet, VLMAdvisor
from sb3_varl.advice.types import AdviceQuery
from sb3_varl.advisors.answer_schema import response_format
from sb3_varl.advisors.limits import ServerLimits
from sb3_varl.testing import VLMServer, http_error

pytestmark = pytest.mark.usefixtures("vlm_environment")

BOX = spaces.Box(-1, 1, (2,))
# As it would be answered by a model that is held to the schemas.
ACTIONS = '{"advice": [{"reason": "It is far.", "state": 0, "action": [0.5, 1e-1]}]}'
RULES = (
    '{"plan": "Go.", "rules": [{"name": "go", "let": ["gap = 2 * t", "far = gap > 1"], "when": "far or true", '
    '"action": ["gap", "0.5"]}]}'
)
KEEP = '{"plan": "They are fine.", "keep": true, "rules": []}'


def objects(schema):
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects(value)


def fits(value, schema):
    """Whether a provider that holds a model to the schema could have said this."""
    if schema["type"] == "object":
        return value.keys() == schema["properties"].keys() and all(
            fits(value[name], part) for name, part in schema["properties"].items()
        )
    if schema["type"] == "array":
        return isinstance(value, list) and all(fits(item, schema["items"]) for item in value)
    return isinstance(value, {"string": str, "integer": int, "number": (int, float), "boolean": bool}[schema["type"]])


@pytest.mark.parametrize(
    ("form", "is_correction", "answer"),
    [("actions", False, ACTIONS), ("rules", False, RULES), ("rules", True, KEEP)],
)
def test_schemas_are_strict_and_have_answers_as_they_are_read(form, is_correction, answer):
    schema = response_format(form, BOX, is_correction)["json_schema"]["schema"]
    for part in objects(schema):
        assert part["required"] == list(part["properties"])
        assert part["additionalProperties"] is False
    assert fits(json.loads(answer), schema)
    assert not fits({"advice": [{"state": 0}]}, schema)


def rules_query(**kwargs):
    sheet = TaskSheet("Go.", observation=(ObservationSlice("t", 0, 1),))
    query = make_query(2)
    briefing = Briefing(BOX, spaces.Box(-np.inf, np.inf, (1,)), sheet=sheet)
    return AdviceQuery(0, 2, query.states, briefing, **kwargs)


@pytest.mark.parametrize(("form", "answer"), [("actions", ACTIONS), ("rules", RULES)])
def test_the_schema_is_sent_and_what_it_brings_is_read(form, answer):
    with VLMServer(lambda states, images: answer) as server:
        advice = make_vlm(server, form=form, json_schema=True).advise(rules_query())
    (request,) = server.requests
    assert request.body["response_format"] == response_format(form, BOX)
    assert not advice.rejected
    np.testing.assert_allclose(advice.actions[0], [0.5, 0.1] if form == "actions" else [0.0, 0.5])


def test_a_model_of_which_litellm_does_not_know_is_asked_in_plain_words():
    with VLMServer() as server:
        make_vlm(server).advise(make_query(1))
        assert not {"response_format", "reasoning_effort"} & server.requests[0].body.keys()


def test_thought_that_a_model_is_not_known_to_be_capable_of(caplog):
    with VLMServer() as server:
        make_vlm(server, reasoning_effort="medium").advise(make_query(1))
        assert not caplog.messages
        make_vlm(server, reasoning_effort="high").advise(make_query(1))
        (message,) = caplog.messages
        assert message.endswith("""give completion_kwargs={"reasoning_effort": 'high'}.""")
        make_vlm(server, completion_kwargs={"reasoning_effort": "high"}).advise(make_query(1))
    assert [request.body.get("reasoning_effort") for request in server.requests] == [None, None, "high"]


@pytest.mark.parametrize(
    ("model", "arguments", "sent"),
    [
        ("openai/gpt-4o", {}, {"response_format"}),
        ("openai/gpt-5.1", {}, {"response_format", "reasoning_effort"}),
        ("openai/gpt-5.1", {"json_schema": False, "reasoning_effort": None}, set()),
        (
            "openai/gpt-5.1",
            {"completion_kwargs": {"reasoning_effort": "none"}},
            {"response_format", "reasoning_effort"},
        ),
    ],
)
def test_what_is_sent_is_what_litellm_says_the_model_can(model, arguments, sent):
    with VLMServer() as server:
        VLMAdvisor(model, "Go.", api_base=server.api_base, max_retries=0, **arguments).advise(make_query(1))
    (request,) = server.requests
    assert {"response_format", "reasoning_effort"} & request.body.keys() == sent
    if "completion_kwargs" in arguments:
        assert request.body["reasoning_effort"] == "none"
    elif "reasoning_effort" in sent:
        assert request.body["reasoning_effort"] == "medium"


REFUSALS = [
    "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
    "This model does not support structured outputs",
    "guided decoding backend is not available",
    "Failed to parse grammar",
    "Bad Request",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_who_refuses_the_schema_is_asked_once_more_in_plain_words(text, caplog):
    with VLMServer(script=[http_error(400, text)]) as server:
        advisor = make_vlm(server, json_schema=True)
        for _ in range(2):
            assert not advisor.advise(make_query(1)).rejected
    assert ["response_format" in request.body for request in server.requests] == [True, False, False]
    (message,) = (message for message in caplog.messages if "refuses a request" in message)
    assert "without a JSON schema, in plain words (json_schema=False)" in message


def test_who_refuses_something_else_is_asked_no_more_than_once_again():
    with VLMServer(script=[http_error(400, "Bad Request")] * 2) as server:
        assert reasons(make_vlm(server, json_schema=True).advise(make_query(1))) == ["request_failed"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_is_not_taken_for_a_refusal_of_the_schema(status):
    with VLMServer(script=[http_error(status, "No.")]) as server:
        assert reasons(make_vlm(server, json_schema=True).advise(make_query(1))) == ["request_failed"]
    assert len(server.requests) == 1


def test_a_server_that_has_answered_does_not_refuse_the_schema():
    with VLMServer(script=[None, http_error(400, "Bad Request")]) as server:
        advisor = make_vlm(server, json_schema=True)
        assert not advisor.advise(make_query(1)).rejected
        assert reasons(advisor.advise(make_query(1))) == ["request_failed"]
    assert len(server.requests) == 2


def test_refused_thinking_is_left_out(caplog):
    with VLMServer(script=[http_error(400, "Unsupported parameter: 'reasoning_effort'")]) as server:
        advisor = VLMAdvisor("openai/gpt-5.1", "Go.", api_base=server.api_base, max_retries=0)
        assert not advisor.advise(make_query(1)).rejected
    assert ["reasoning_effort" in request.body for request in server.requests] == [True, False]
    assert ["response_format" in request.body for request in server.requests] == [True, True]


def test_what_litellm_knows_to_be_refused_is_left_out_from_the_start(caplog):
    with VLMServer() as server:
        arguments = {"api_base": server.api_base, "completion_kwargs": {"temperature": 0.2, "seed": 3}}
        advisor = VLMAdvisor("openai/o3", "Go.", max_retries=0, **arguments)
        query = make_query(1)
        advisor.prepare(query.briefing)
        (message,) = caplog.messages
        assert message.startswith("openai/o3 is asked without temperature (completion_kwargs): ")
        assert "don't support temperature=0.2" in message
        assert not advisor.advise(query).rejected
    (request,) = server.requests
    assert "temperature" not in request.body
    assert request.body["seed"] == 3


def test_what_does_not_go_with_thinking_goes():
    limits = ServerLimits("openai/gpt-6.1-sol")
    arguments = {"reasoning_effort": "medium", "temperature": 0.2}
    said = "doesn't support temperature=0.2 while reasoning is active. Only 1 is, unless reasoning_effort is 'none'."
    assert limits.learn_arguments(said, arguments)
    assert limits.arguments(arguments) == {"reasoning_effort": "medium"}
    assert limits.learn_arguments(said, arguments)
    assert limits.arguments(arguments) == {}
    assert not limits.learn_arguments(said, arguments)


def test_other_values_are_refused():
    with pytest.raises(ArgumentError, match=r"reasoning_effort is 'much', expected 'low', 'medium', 'high' or None"):
        VLMAdvisor("openai/gpt-5.1", reasoning_effort="much")
    with pytest.raises(ArgumentError, match="json_schema"):
        VLMAdvisor("openai/gpt-5.1", json_schema="yes")
