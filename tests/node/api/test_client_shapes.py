"""Requests as LangChain, Open WebUI and other clients send them, legacy completions, and input that is refused."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import trio

from inference.engine import ChatMessage
from node.api import serve as serve_module
from node.api.backend import BackendError
from node.api.gateway import build_gateway
from tests.node.api.scripted import MODEL, RFC, ScriptedBackend, serving

TEXT = "The capital of France is Paris. ☃"


@pytest.fixture
async def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
async def client(backend: ScriptedBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(build_gateway(backend)) as served,
        httpx.AsyncClient(base_url=f"{served.url}/v1", trust_env=False, timeout=20) as opened,
    ):
        yield opened


LANGCHAIN: dict[str, Any] = {
    "messages": [
        {"content": "You are terse.", "role": "system"},
        {"content": "hi", "role": "user", "name": "ann"},
        {"content": "hello", "role": "assistant"},
        {"content": [{"type": "text", "text": "capital "}, {"type": "text", "text": "of France?"}], "role": "user"},
    ],
    "model": MODEL.name,
    "n": 1,
    "stop": ["\n\n"],
    "stream": False,
    "temperature": 0.7,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "max_completion_tokens": 64,
    "parallel_tool_calls": True,
    "user": "ann",
}

OPEN_WEBUI: dict[str, Any] = {
    "stream": True,
    "model": MODEL.name,
    "messages": [{"role": "user", "content": "capital of France?"}],
    "stream_options": {"include_usage": True},
    "metadata": {"chat_id": "3f", "features": {"web_search": False}},
    "tools": [],
    "tool_ids": None,
    "response_format": {"type": "text"},
    "top_p": None,
    "seed": None,
    "stop": None,
    "reasoning_effort": "low",
    "service_tier": "auto",
    "store": False,
}


async def test_langchains_request(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    response = await client.post("/chat/completions", json=LANGCHAIN, headers={"authorization": "Bearer none"})
    assert response.json()["choices"][0]["message"]["content"] == TEXT
    (asked,) = backend.requests
    assert asked.messages[-1] == ChatMessage("user", "capital of France?")
    assert (asked.max_tokens, asked.sampling.temperature, asked.sampling.stop) == (64, 0.7, ("\n\n",))


async def test_open_webuis_requests(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/models", headers={"authorization": "Bearer none"})).json()
    assert MODEL.name in [model["id"] for model in listed["data"]]
    response = await client.post("/chat/completions", json=OPEN_WEBUI)
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == TEXT
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    # its title generation, which some versions send with tools it does not want used
    title = {**OPEN_WEBUI, "stream": False, "tools": [{"type": "function"}], "tool_choice": "none"}
    del title["stream_options"]
    assert (await client.post("/chat/completions", json=title)).status_code == 200


LEGACY: dict[str, Any] = {
    "model": MODEL.name,
    "prompt": ["capital of France?"],
    "best_of": 1,
    "echo": False,
    "logprobs": None,
    "suffix": None,
    "n": 1,
    "max_tokens": 16,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "top_p": 1,
}


async def test_legacy_completions(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    response = await client.post("/completions", json=LEGACY)
    assert response.json() == {
        "id": f"cmpl-{RFC.hex()}",
        "object": "text_completion",
        "created": response.json()["created"],
        "model": MODEL.name,
        "system_fingerprint": None,
        "choices": [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    }
    assert backend.requests[0].messages == (ChatMessage("user", "capital of France?"),)
    assert backend.requests[0].max_tokens == 16


async def test_legacy_completions_by_the_official_client(backend: ScriptedBackend) -> None:
    async with serving(build_gateway(backend)) as served:

        def stream() -> list[openai.types.Completion]:
            with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", timeout=20) as client:
                return list(
                    client.completions.create(
                        model=MODEL.name, prompt="hello", stream=True, stream_options={"include_usage": True}
                    )
                )

        with trio.fail_after(30):
            chunks = await trio.to_thread.run_sync(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == TEXT
    assert [c.finish_reason for chunk in chunks for c in chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"echo": True}, "echo"),
        ({"logprobs": 6}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": ""}, "model"),
    ],
)
async def test_legacy_completions_that_are_refused(
    client: httpx.AsyncClient, backend: ScriptedBackend, fields: dict[str, Any], param: str
) -> None:
    response = await client.post("/completions", json={**LEGACY, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert backend.requests == []


CHAT = {"model": MODEL.name, "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (json.dumps({**CHAT, "prompt": "x" * 10_000_000}).encode(), (413, "body_too_large")),
        (json.dumps({**CHAT, "prompt": "x", "max_tokens": 10**9}).encode(), (400, "invalid_value")),
        (json.dumps({**CHAT, "prompt": "x", "max_tokens": 10**99}).encode(), (400, "invalid_value")),
        (json.dumps({**CHAT, "prompt": "x", "temperature": -0.1}).encode(), (400, "invalid_value")),
        (b'{"model": "m", "temperature": NaN}', (400, "invalid_json")),
        (b'{"model": "m", ', (400, "invalid_json")),
        (b'{"model": "\xff\xfe"}', (400, "invalid_json")),
        (b"[" * 100_000, (400, "invalid_json")),
        (b"null", (400, "invalid_type")),
    ],
)
async def test_bad_input_has_its_own_error(
    client: httpx.AsyncClient, backend: ScriptedBackend, path: str, raw: bytes, expected: tuple[int, str]
) -> None:
    response = await client.post(path, content=raw)
    assert (response.status_code, response.json()["error"]["code"]) == expected
    assert backend.requests == []
    assert (await client.post("/chat/completions", json=CHAT)).status_code == 200, "the server goes on"


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/audio/speech", "AUDIO_SAMPLE"),
        ("/audio/transcriptions", "AUDIO_SAMPLE"),
        ("/videos", "VIDEO_FRAME"),
        ("/videos/generations", "VIDEO_FRAME"),
    ],
)
async def test_other_units_are_refused_by_name(client: httpx.AsyncClient, path: str, unit: str) -> None:
    response = await client.post(path, json={"model": MODEL.name, "input": "hello"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unit_unsupported")
    assert unit in response.json()["error"]["message"]


async def test_a_prompt_that_crashed_an_engine_is_not_to_be_repeated(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    backend.refusal = BackendError(502, "engine_crashed", "it died", final=True)
    response = await client.post("/chat/completions", json=CHAT)
    assert (response.status_code, response.headers["x-should-retry"]) == (502, "false")


async def test_a_client_that_stops_reading_is_given_up(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_module, "WRITE_S", 0.2)
    backend.pieces = ["x" * 60_000] * 10_000
    async with serving(build_gateway(backend)) as served:
        reader = await trio.open_tcp_stream(served.host, served.port)
        body = json.dumps({**CHAT, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        await reader.send_all(head.encode() + body)
        with trio.fail_after(20):
            await backend.left.wait()
        given = backend.answers[0].tokens
        assert given < 1_000, "what was not read was not asked for: neither fetched nor kept"
        await reader.aclose()
