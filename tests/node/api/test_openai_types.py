"""Requests in OpenAI's words become ours, or a 400 that names what is wrong."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import ChatMessage, Sampling
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
        ({"stop": "x" * 257}, "stop", "257"),
        ({"model": ""}, "model", "empty"),
        ({"model": None}, "model", "null"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": "hello"}, "messages", "str"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "no content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "role"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role", "boss"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "tool"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "int"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "image_url",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "no text"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[0].tool_calls", "tool"),
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
        {"logprobs": True},
        {"top_logprobs": 3},
        {"tools": [{"type": "function"}]},
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
