"""What came back from a model, in whichever of its fields it is, and whatever is in them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_varl.advisors.completion import read_completion

ANSWER = '{"advice": [{"state": 0, "action": [0.5]}]}'


def completion(message: Any, **choice: Any) -> Any:
    return read_completion({"choices": [{"message": message, "finish_reason": "stop", **choice}]})


@pytest.mark.parametrize(
    "message",
    [
        {"content": ANSWER},
        {"content": [{"type": "text", "text": ANSWER}]},
        {"content": [{"type": "image", "url": "x"}, {"type": "output_text", "text": ANSWER}]},
        {"content": None, "tool_calls": [{"function": {"arguments": ANSWER}}]},
        {"content": "", "provider_specific_fields": {"parsed": {"advice": [{"state": 0, "action": [0.5]}]}}},
        {"content": {"advice": [{"state": 0, "action": [0.5]}], "text": "of no account"}},
    ],
)
def test_what_is_meant_as_the_answer(message: Any) -> None:
    read = completion(message)
    assert read.said_anything
    assert '"advice": [{"state": 0, "action": [0.5]}]' in read.text
    assert "<think>" not in read.text


@pytest.mark.parametrize(
    "message",
    [
        {"content": ANSWER, "reasoning_content": "Hm."},
        {"content": [{"type": "reasoning_text", "text": "Hm."}, {"type": "text", "text": ANSWER}]},
        {"content": ANSWER, "thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]},
    ],
)
def test_thoughts_come_first_and_are_marked(message: Any) -> None:
    assert completion(message).text == f"<think>\nHm.\n</think>\n\n{ANSWER}"


def test_the_first_choice_comes_last() -> None:
    choices = [{"message": {"content": text}} for text in ("first", "second")]
    assert read_completion({"choices": choices}).text == "second\nfirst"


@pytest.mark.parametrize(
    "message",
    [
        {"provider_specific_fields": "x", "content": "y"},
        {"tool_calls": 3, "content": "y"},
        {"tool_calls": True, "content": "y"},
        {"content": ["y", None, 3, {"type": "text", "text": None}]},
        {"content": "y", "reasoning_content": 3},
    ],
)
def test_fields_of_other_kinds(message: Any) -> None:
    assert completion(message).text == "y"


@pytest.mark.parametrize("tokens", ["many", None, True, -3, float("nan"), float("inf"), 10**400, [1]])
def test_tokens_that_are_no_number_count_nothing(tokens: Any) -> None:
    read = read_completion({"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": 7}})
    assert (read.prompt_tokens, read.completion_tokens) == (0, 7)


def test_content_that_is_nested_without_an_end() -> None:
    content: Any = "x"
    for _ in range(5000):
        content = [content]
    assert completion({"content": content}).text == ""


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["content", "tool_calls", "function_call", "reasoning", "reasoning_content", "refusal", "parsed", "thinking_blocks"]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, anything), anything, anything)
def test_whatever_is_in_the_fields_is_read(message: Any, usage: Any, extra: Any) -> None:
    read = read_completion(
        {"choices": [{"message": {**message, "provider_specific_fields": extra}}, extra], "usage": usage}
    )
    assert isinstance(read.text, str)
    assert read.prompt_tokens >= 0
