"""The gateway over real sockets, against a scripted backend: statuses, streams, and clients that leave."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from node.api.backend import BackendError, RateLimit
from node.api.gateway import build_gateway
from node.api.serve import Served
from tests.node.api.scripted import MODEL, OTHER, RFC, ScriptedBackend, serving

HELLO: dict[str, Any] = {"model": MODEL.name, "messages": [{"role": "user", "content": "hello"}]}


@asynccontextmanager
async def gateway(backend: ScriptedBackend, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = build_gateway(backend, now_s=lambda: 1_700_000_000, **options)
    async with serving(app) as served, httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
async def backend() -> ScriptedBackend:
    return ScriptedBackend()


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={**HELLO, **fields})


def events(response: httpx.Response) -> list[Any]:
    """The stream's data, in order; what isn't JSON as text."""
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-1] == ""
    data = [block.removeprefix("data: ") for block in blocks[:-1]]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


# Models.


async def test_models(backend: ScriptedBackend) -> None:
    async with gateway(backend) as client:
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [card["id"] for card in listed["data"]] == [MODEL.name, OTHER.name]
        assert listed["data"][0]["yellowstone"]["lowest_price_wei"] == MODEL.lowest_price_wei
        assert (await client.get(f"/v1/models/{OTHER.name}")).json() == listed["data"][1]
        assert (await client.get(f"/v1/models/0x{MODEL.model_id.hex()}")).json() == listed["data"][0]


async def test_unknown_model(backend: ScriptedBackend) -> None:
    async with gateway(backend) as client:
        response = await client.get("/v1/models/gpt-9")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "gpt-9" in response.json()["error"]["message"]


# Whole answers.


async def test_whole_answer(backend: ScriptedBackend) -> None:
    async with gateway(backend) as client:
        response = await ask(client, max_tokens=9)
    assert response.status_code == 200
    assert response.json() == {
        "id": f"chatcmpl-{RFC.hex()}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL.name,
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The capital of France is Paris. ☃", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    }
    assert response.headers["x-yellowstone-rfc"] == "0x" + RFC.hex()
    assert response.headers["x-ratelimit-remaining-tokens"] == "77"
    assert backend.requests[0].max_tokens == 9
    assert backend.left.is_set()


async def test_whole_answer_that_breaks_off_was_paid_for(backend: ScriptedBackend) -> None:
    backend.break_after = 1
    async with gateway(backend) as client:
        response = await ask(client)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "provider_failed"
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-yellowstone-rfc"] == "0x" + RFC.hex()


async def test_a_bad_farewell_does_not_spoil_the_answer(backend: ScriptedBackend) -> None:
    backend.farewell = BackendError(502, "provider_failed", "no receipt")
    async with gateway(backend) as client:
        assert (await ask(client)).status_code == 200
        assert events(await ask(client, stream=True))[-1] == "[DONE]"


# Streams.


async def test_stream(backend: ScriptedBackend) -> None:
    async with gateway(backend) as client:
        found = events(await ask(client, stream=True))
    assert found.pop() == "[DONE]"
    assert {item["object"] for item in found} == {"chat.completion.chunk"}
    assert {item["id"] for item in found} == {f"chatcmpl-{RFC.hex()}"}
    assert all("usage" not in item for item in found)
    choices = [item["choices"][0] for item in found]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "The capital of France is Paris. ☃"
    assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["stop"]


async def test_stream_with_usage(backend: ScriptedBackend) -> None:
    async with gateway(backend) as client:
        found = events(await ask(client, stream=True, stream_options={"include_usage": True}))
    assert found.pop() == "[DONE]"
    last = found.pop()
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 14
    assert all(item["usage"] is None for item in found)


async def test_stream_that_breaks_off_says_so_and_is_never_done(backend: ScriptedBackend) -> None:
    backend.break_after = 2
    async with gateway(backend) as client:
        response = await ask(client, stream=True)
    found = events(response)
    assert response.status_code == 200
    assert response.headers["x-should-retry"] == "false"
    assert found[-1] == {
        "error": {
            "message": "the provider broke off",
            "type": "server_error",
            "param": None,
            "code": "provider_failed",
        }
    }
    assert "[DONE]" not in found
    assert backend.left.is_set()


# Refusals: each with its own status.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        BackendError(404, "model_not_found", "no such model", kind="invalid_request_error", param="model"),
        BackendError(403, "no_balance", "no MOR", kind="insufficient_quota"),
        BackendError(502, "provider_failed", "gone"),
        BackendError(503, "no_provider", "nobody", retry_after=5),
    ],
    ids=lambda error: error.code,
)
async def test_refusal_keeps_its_status(backend: ScriptedBackend, error: BackendError, stream: bool) -> None:
    backend.refusal = error
    async with gateway(backend) as client:
        response = await ask(client, stream=stream)
    assert response.status_code == error.status
    assert response.json()["error"] == {
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    assert response.headers.get("retry-after") == (None if error.retry_after is None else "5")
    assert backend.left.is_set()


async def test_used_up_allowance(backend: ScriptedBackend) -> None:
    backend.refusal = BackendError(
        429, "allowance_used", "used up", kind="insufficient_quota", retry_after=60, limit=RateLimit(1_500, 0, 60)
    )
    async with gateway(backend) as client:
        response = await ask(client)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "60"
    assert response.headers["x-ratelimit-limit-tokens"] == "1500"
    assert response.headers["x-ratelimit-remaining-tokens"] == "0"
    assert response.headers["x-ratelimit-reset-tokens"] == "60s"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 5_000}, "max_tokens"), ({"temperature": -1}, "temperature")],
)
async def test_invalid_request_never_reaches_the_backend(
    backend: ScriptedBackend, fields: dict[str, Any], param: str
) -> None:
    async with gateway(backend) as client:
        response = await ask(client, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert backend.requests == []


async def test_broken_body(backend: ScriptedBackend) -> None:
    async with gateway(backend) as client:
        for raw in (b"{", b"\xff", b""):
            response = await client.post("/v1/chat/completions", content=raw)
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("times", [2, 10])
async def test_body_too_large(backend: ScriptedBackend, times: int) -> None:
    async with gateway(backend, body_max=10_000) as client:
        response = await client.post("/v1/chat/completions", content=b"x" * 10_000 * times)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "body_too_large"
        assert (await ask(client)).status_code == 200, "the server goes on"


async def send_for_ever(connection: trio.SocketStream, chunk: bytes) -> None:
    while True:
        await connection.send_all(chunk)


async def test_body_without_end_is_cut_off(backend: ScriptedBackend) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    async with serving(build_gateway(backend, body_max=10_000)) as served:
        connection = await connect(served)
        await connection.send_all(head)
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            await send_for_ever(connection, chunk)
        await connection.aclose()
        async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=20) as client:
            assert (await ask(client)).status_code == 200, "the server goes on"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/", 404),
        ("POST", "/v1/embeddings", 404),
    ],
)
async def test_other_addresses(backend: ScriptedBackend, method: str, path: str, status: int) -> None:
    async with gateway(backend) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert path in response.json()["error"]["message"]


async def test_a_bug_in_the_backend_is_a_500_and_not_the_end(backend: ScriptedBackend) -> None:
    backend.refusal = ZeroDivisionError("a bug")
    async with gateway(backend) as client:
        response = await ask(client)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"
        assert "a bug" not in response.text
        backend.refusal = None
        assert (await ask(client)).status_code == 200


async def test_a_bug_in_a_stream_is_told(backend: ScriptedBackend) -> None:
    backend.break_after, backend.failure = 1, ZeroDivisionError("a bug")
    async with gateway(backend) as client:
        found = events(await ask(client, stream=True))
        assert found[-1]["error"]["code"] == "internal_error"
        backend.break_after = None
        assert (await ask(client)).status_code == 200


# Who may ask.


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:80"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "["},
    ],
)
async def test_web_pages_are_kept_out(backend: ScriptedBackend, headers: dict[str, str]) -> None:
    async with gateway(backend) as client:
        response = await client.post("/v1/chat/completions", json=HELLO, headers=headers)
    assert response.status_code == 403
    assert backend.requests == []


@pytest.mark.parametrize("headers", [{"host": "localhost:1"}, {"origin": "http://localhost:3000"}, {"host": "[::1]"}])
async def test_local_pages_may_ask(backend: ScriptedBackend, headers: dict[str, str]) -> None:
    async with gateway(backend) as client:
        assert (await client.post("/v1/chat/completions", json=HELLO, headers=headers)).status_code == 200


# Clients that leave.


def raw_request(served_host: str, **fields: Any) -> bytes:
    body = json.dumps({**HELLO, **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {served_host}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def connect(served: Served) -> trio.SocketStream:
    return await trio.open_tcp_stream(served.host, served.port)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_session(backend: ScriptedBackend, stream: bool) -> None:
    backend.hang = True
    async with serving(build_gateway(backend)) as served:
        connection = await connect(served)
        await connection.send_all(raw_request("localhost", stream=stream))
        with trio.fail_after(10):
            await backend.entered.wait()
            if stream:
                assert b"200" in await connection.receive_some()
            await connection.aclose()
            await backend.left.wait()


async def test_a_client_that_leaves_before_the_first_token(backend: ScriptedBackend) -> None:
    backend.hang_on_entry = True
    async with serving(build_gateway(backend)) as served:
        connection = await connect(served)
        await connection.send_all(raw_request("localhost"))
        with trio.fail_after(10):
            await backend.entered.wait()
            await connection.aclose()
            await backend.left.wait()


async def test_a_client_that_leaves_within_its_body(backend: ScriptedBackend) -> None:
    async with serving(build_gateway(backend)) as served:
        connection = await connect(served)
        await connection.send_all(raw_request("localhost")[:-5])
        await connection.aclose()
        async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=20) as client:
            assert (await ask(client)).status_code == 200
    assert len(backend.requests) == 1


async def test_a_client_that_is_slow_to_read_holds_nobody_up(backend: ScriptedBackend) -> None:
    backend.pieces = ["x" * 60_000] * 200
    async with serving(build_gateway(backend)) as served:
        slow = await connect(served)
        await slow.send_all(raw_request("localhost", stream=True))
        with trio.fail_after(10):
            await backend.entered.wait()
        async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=20) as client:
            assert (await client.get("/v1/models")).status_code == 200
        await slow.aclose()
        with trio.fail_after(10):
            await backend.left.wait()
