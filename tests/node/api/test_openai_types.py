"""Requests in OpenAI's words become ours, or a 400 that names what is wrong."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import ChatMessage, Sampling
from inference.tools import FunctionCall, Tool, ToolCall, ToolUse
from node.api.backend import BackendError
from node.api.openai_types import DEPTH_MAX, Asked, parse_request

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def parse(**fields: Any) -> Asked:
    return parse_raw(json.dumps({**HELLO, **fields}).encode())


def parse_raw(raw: bytes) -> Asked:
    return parse_request(raw, default_tokens=256, most_tokens=1_000)


def refused(**fields: Any) -> BackendError:
    with pytest.raises(BackendError) as caught:
        parse(**fields)
    assert (caught.value.status, caught.value.kind) == (400, "invalid_request_error")
    return caught.value


FUNCTION: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_tools_calls_and_logarithms_are_understood() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "audio": None},
        {"role": "tool", "content": [{"type": "text", "text": "sunny"}], "tool_call_id": "c1"},
    ]
    function = {"name": "f", "description": "Looks.", "parameters": schema, "strict": True}
    choice = {"type": "function", "function": {"name": "f"}}
    asked = parse(
        messages=turns, tools=[{"type": "function", "function": function}], tool_choice=choice,
        parallel_tool_calls=False, logprobs=True, top_logprobs=3,
    )  # fmt: skip
    tool = Tool("f", "Looks.", json.dumps(schema, separators=(", ", ": ")))
    assert asked.chat.tools == ToolUse((tool,), "required", "f", parallel=False)
    assert asked.chat.logprobs == 3
    assert asked.chat.messages[1:] == (
        ChatMessage("assistant", "", (ToolCall("c1", FunctionCall("f", '{"a": 1}')),)),
        ChatMessage("tool", "sunny", tool_call_id="c1"),
    )
    assert parse(tools=[FUNCTION]).chat.tools == ToolUse((Tool("f"),))
    assert parse(tools=[FUNCTION], tool_choice="required").chat.tools == ToolUse((Tool("f"),), "required")
    unused: dict[str, Any]
    for unused in ({"tools": [FUNCTION], "tool_choice": "none"}, {"tools": []}, {"tool_choice": "auto"}):
        assert parse(**unused).chat.tools is None
    assert parse(logprobs=True).chat.logprobs == 0
    assert parse(logprobs=False, top_logprobs=0).chat.logprobs is None


def test_the_least_request() -> None:
    asked = parse()
    assert asked.chat.messages == (ChatMessage("user", "hello"),)
    assert asked.chat.max_tokens == 256
    assert asked.chat.sampling == Sampling()
    assert not asked.stream
    assert not asked.include_usage


def test_everything_that_is_understood() -> None:
    asked = parse(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "three", "refusal": None},
            {"role": "user", "content": "", "name": "x"},
        ],
        max_tokens=5,
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=-3,
        stop=["\n", "end"],
        stream=True,
        stream_options={"include_usage": True},
    )
    assert asked.chat.messages == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "one two"),
        ChatMessage("assistant", "three"),
        ChatMessage("user", ""),
    )
    assert asked.chat.max_tokens == 7
    assert asked.chat.sampling == Sampling(0.5, 0.9, -3, ("\n", "end"))
    assert asked.stream
    assert asked.include_usage


def test_unknown_fields_nulls_and_neutral_values_are_accepted() -> None:
    asked = parse(
        user="me", metadata={"a": {"b": [1]}}, store=False, n=1, logprobs=False, tools=[], presence_penalty=0,
        max_tokens=None, temperature=None, stop=None, response_format={"type": "text"}, modalities=["text"],
    )  # fmt: skip
    assert asked == parse()


@pytest.mark.parametrize(
    ("fields", "param", "value"),
    [
        ({"max_tokens": 0}, "max_tokens", "0"),
        ({"max_tokens": -1}, "max_tokens", "-1"),
        ({"max_tokens": 1_001}, "max_tokens", "1001"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "0"),
        ({"max_tokens": "5"}, "max_tokens", "str"),
        ({"max_tokens": 1.5}, "max_tokens", "float"),
        ({"temperature": -0.1}, "temperature", "-0.1"),
        ({"temperature": 2.5}, "temperature", "2.5"),
        ({"temperature": True}, "temperature", "bool"),
        ({"top_p": 0}, "top_p", "0"),
        ({"top_p": 1.1}, "top_p", "1.1"),
        ({"seed": 2**64}, "seed", str(2**64)),
        ({"stop": ["a"] * 5}, "stop", "5"),
        ({"stop": ""}, "stop", "0"),
        ({"stop": "x" * 65}, "stop", "65"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "21"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "-1"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "no function"),
        ({"tools": [FUNCTION | {"function": {"name": "a b"}}]}, "tools[0].function.name", "a b"),
        (
            {"tools": [FUNCTION | {"function": {"name": "f", "parameters": 5}}]},
            "tools[0].function.parameters",
            "object",
        ),
        (
            {"tools": [FUNCTION | {"function": {"name": "f", "parameters": {"a": "x" * 70_000}}}]},
            "tools[0].function.parameters",
            "70009",
        ),
        (
            {"tools": [FUNCTION | {"function": {"name": "f", "description": "x" * 5_000}}]},
            "tools[0].function.description",
            "5000",
        ),
        ({"tools": [FUNCTION] * 129}, "tools", "129"),
        ({"tools": [FUNCTION], "tool_choice": "maybe"}, "tool_choice", "maybe"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "g"),
        ({"tool_choice": "required"}, "tool_choice", "no 'tools'"),
        ({"model": ""}, "model", "empty"),
        ({"model": None}, "model", "null"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": "hello"}, "messages", "str"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "no content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "role"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role", "boss"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "names no call"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id", "user"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1" * 129}]},
            "messages[0].tool_call_id",
            "129",
        ),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [CALL]}]}, "messages[0].tool_calls", "user"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL] * 129}]}, "messages[0].tool_calls", "129"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [CALL | {"id": ""}]}]},
            "messages[0].tool_calls[0].id",
            "0",
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "no content"),
        (
            {"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]},
            "messages[0].function_call",
            "tool_calls",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "int"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "image_url",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "no text"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id", "id"),
    ],
)
def test_bad_value_is_named(fields: dict[str, Any], param: str, value: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert value in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"functions": [{}]},
        {"logit_bias": {"5": 1}},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -0.5},
        {"response_format": {"type": "json_object"}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "x"}},
    ],
)
def test_unsupported_is_refused_by_name(fields: dict[str, Any]) -> None:
    error = refused(**fields)
    assert error.param in fields
    assert error.code == "unsupported_parameter"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"hello",
        b"\xff\xfe{}",
        b'{"model": "\xff", "messages": []}',
        b'{"x": "\xff", "model": "m", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "m", "messages": [], "temperature": NaN}',
    ],
)
def test_broken_json(raw: bytes) -> None:
    with pytest.raises(BackendError) as caught:
        parse_raw(raw)
    assert caught.value.status == 400
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("field", ["x", "tools", "messages"])
def test_deep_nesting_is_refused_before_it_is_decoded(field: str) -> None:
    deep = b"[" * 400_000 + b"]" * 400_000
    raw = b'{"model": "m", "messages": [], "' + field.encode() + b'": ' + deep + b"}"
    with pytest.raises(BackendError, match="nested"):
        parse_raw(raw)


def test_brackets_in_text_are_no_nesting() -> None:
    text = "[{" * 10 * DEPTH_MAX + '\\"['
    asked = parse(messages=[{"role": "user", "content": text}])
    assert asked.chat.messages[0].content == text


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100)
@given(st.sampled_from(["model", "messages", "max_tokens", "temperature", "stop", "stream", "tools", "seed"]), _json)
def test_any_value_gives_a_request_or_a_400(field: str, value: Any) -> None:
    try:
        tokens, status = parse(**{field: value}).chat.max_tokens, 400
    except BackendError as error:
        tokens, status = 1, error.status
    assert 1 <= tokens <= 1_000
    assert status == 400


@settings(max_examples=100)
@given(st.binary(max_size=64))
def test_any_bytes_are_a_400(raw: bytes) -> None:
    with pytest.raises(BackendError) as caught:
        parse_raw(raw)
    assert caught.value.status == 400
