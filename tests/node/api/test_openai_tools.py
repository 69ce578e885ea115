"""Tools and logarithms as the official client, LangChain and Open WebUI ask for them and read them."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import httpx
import openai
import pytest
import trio
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gossip.messages.session import LikelyToken, TokenDetail, ToolDelta
from inference.engine import ChatMessage, Piece
from inference.tools import FunctionCall, Tool, ToolCall, ToolUse
from node.api.backend import BackendError
from node.api.gateway import build_gateway
from tests.node.api.scripted import MODEL, ScriptedBackend, serving

T = TypeVar("T")

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather of a city.", "parameters": SCHEMA},
}
CALLS = [
    Piece("", (1,), calls=(ToolDelta(0, "call_a", "get_weather"),)),
    Piece("", (2,), calls=(ToolDelta(0, arguments='{"city":'), ToolDelta(0, arguments=' "Paris"}'))),
    Piece("", (3,), calls=(ToolDelta(1, "call_b", "get_time", "{}"),)),
]


@pytest.fixture
async def backend() -> ScriptedBackend:
    scripted = ScriptedBackend()
    scripted.pieces = list(CALLS)
    scripted.finish = "tool_calls"
    return scripted


@pytest.fixture
async def url(backend: ScriptedBackend) -> AsyncIterator[str]:
    async with serving(build_gateway(backend)) as served:
        yield f"{served.url}/v1"


async def run(url: str, call: Callable[[openai.OpenAI], T]) -> T:
    def work() -> T:
        with openai.OpenAI(base_url=url, api_key="none", timeout=20, max_retries=0) as client:
            return call(client)

    with trio.fail_after(30):
        return await trio.to_thread.run_sync(work)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    messages = fields.pop("messages", [{"role": "user", "content": "Weather in Paris?"}])
    return client.chat.completions.create(model=MODEL.name, messages=messages, **fields)


async def test_calls_come_back_whole(url: str, backend: ScriptedBackend) -> None:
    answer: ChatCompletion = await run(url, lambda c: ask(c, tools=[WEATHER], tool_choice="required"))
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls = [call.to_dict() for call in choice.message.tool_calls or []]
    assert calls == [
        {"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}},
        {"id": "call_b", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
    ]
    schema = json.dumps(SCHEMA, separators=(",", ":"))
    assert backend.requests[0].tools == ToolUse((Tool("get_weather", "Weather of a city.", schema),), "required")


async def test_calls_come_back_in_a_stream(url: str) -> None:
    chunks: list[ChatCompletionChunk] = await run(url, lambda c: list(ask(c, tools=[WEATHER], stream=True)))
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
    assert [(part.index, part.id, part.type, part.function and part.function.name) for part in parts] == [
        (0, "call_a", "function", "get_weather"),
        (0, None, None, None),
        (0, None, None, None),
        (1, "call_b", "function", "get_time"),
    ]
    assert "".join(part.function.arguments or "" for part in parts[:3] if part.function) == '{"city": "Paris"}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_the_official_clients_own_accumulation(url: str) -> None:
    """Agents use the stream helper, which is strict about every delta."""

    def stream(client: openai.OpenAI) -> ChatCompletion:
        with client.chat.completions.stream(
            model=MODEL.name,
            messages=[{"role": "user", "content": "x"}],
            tools=[WEATHER],  # type: ignore[list-item]  # as clients write it
        ) as events:
            for _ in events:
                pass
            return events.get_final_completion()

    calls = (await run(url, stream)).choices[0].message.tool_calls or []
    arguments = [call.function.arguments for call in calls if call.type == "function"]
    assert arguments == ['{"city": "Paris"}', "{}"]


LANGCHAIN_AGENT: dict[str, Any] = {
    "messages": [
        {"content": "You are a helpful assistant", "role": "system"},
        {"content": "Weather in Paris?", "role": "user"},
        {
            "content": None,
            "role": "assistant",
            "tool_calls": [
                {
                    "type": "function",
                    "id": "call_a",
                    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                }
            ],
        },
        {"content": "18 degrees", "role": "tool", "tool_call_id": "call_a"},
    ],
    "model": MODEL.name,
    "stream": False,
    "tools": [WEATHER],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
}


async def test_langchains_agent_turn(url: str, backend: ScriptedBackend) -> None:
    backend.pieces, backend.finish = ["It is 18 degrees."], "stop"
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        response = await client.post(f"{url}/chat/completions", json=LANGCHAIN_AGENT)
    message = response.json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "It is 18 degrees.", "refusal": None}
    asked = backend.requests[0]
    call = ToolCall("call_a", FunctionCall("get_weather", '{"city": "Paris"}'))
    assert asked.messages[2:] == (
        ChatMessage("assistant", "", (call,)),
        ChatMessage("tool", "18 degrees", tool_call_id="call_a"),
    )
    assert asked.tools is not None
    assert asked.tools.parallel is False


async def test_open_webuis_native_function_calling(url: str) -> None:
    body = {
        "model": MODEL.name,
        "stream": True,
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [WEATHER],
        "metadata": {"function_calling": "native"},
        "stream_options": {"include_usage": True},
    }
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        response = await client.post(f"{url}/chat/completions", json=body)
    chunks = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
    assert chunks[1]["choices"][0]["delta"] == {
        "tool_calls": [
            {"index": 0, "id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        ]
    }
    assert chunks[-1]["usage"]["completion_tokens"] == 3


DETAILS = (
    TokenDetail(b" Paris", 250_000, (LikelyToken(b" Paris", 250_000), LikelyToken(b" Lyon", 3_000_000))),
    TokenDetail(b"\xe2\x98", 0, ()),
)


async def test_logarithms(url: str, backend: ScriptedBackend) -> None:
    backend.pieces, backend.finish = [Piece(" Paris", (1,), details=DETAILS[:1]), Piece("☃", (2, 3))], "stop"
    answer: ChatCompletion = await run(url, lambda c: ask(c, logprobs=True, top_logprobs=2))
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    (token,) = logprobs.content
    assert (token.token, token.logprob, token.bytes) == (" Paris", -0.25, list(b" Paris"))
    assert [(other.token, other.logprob) for other in token.top_logprobs] == [(" Paris", -0.25), (" Lyon", -3.0)]
    chunks: list[ChatCompletionChunk] = await run(url, lambda c: list(ask(c, logprobs=True, stream=True)))
    told = [chunk.choices[0].logprobs.content for chunk in chunks if chunk.choices[0].logprobs]
    assert [len(content or []) for content in told] == [1, 0]
    assert backend.requests[0].logprobs == 2


async def test_logarithms_of_a_legacy_completion(url: str, backend: ScriptedBackend) -> None:
    backend.pieces, backend.finish = [Piece(" Paris", (1,), details=DETAILS)], "stop"
    answer = await run(url, lambda c: c.completions.create(model=MODEL.name, prompt="x", logprobs=2))
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == [" Paris", "\ufffd"]
    assert logprobs.token_logprobs == [-0.25, 0.0]
    assert logprobs.top_logprobs == [{" Paris": -0.25, " Lyon": -3.0}, {}]
    assert logprobs.text_offset == [0, 6]


async def test_an_engine_without_tools_is_a_400_by_name(url: str, backend: ScriptedBackend) -> None:
    text = "tools: engine llama.cpp/1 has none for this model"
    backend.refusal = BackendError(400, "unsupported_parameter", text, kind="invalid_request_error", param="tools")
    with pytest.raises(openai.BadRequestError) as refused:
        await run(url, lambda c: ask(c, tools=[WEATHER]))
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "tools")
