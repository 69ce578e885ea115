"""Every exchange with the gateway ends, on the wire: a proxy waits for the close, or for a connection that is idle."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from node.api.gateway import build_gateway
from node.api.serve import Served, serve
from tests.node.api.scripted import MODEL, ScriptedBackend

CHAT = {"model": MODEL.name, "messages": [{"role": "user", "content": "hello"}]}
TEXT = {"model": MODEL.name, "prompt": "hello"}
BODIES: dict[str, tuple[str, str, object]] = {
    "chat streamed": ("POST", "/v1/chat/completions", CHAT | {"stream": True}),
    "chat whole": ("POST", "/v1/chat/completions", CHAT),
    "chat refused": ("POST", "/v1/chat/completions", CHAT | {"max_tokens": -1}),
    "completion streamed": ("POST", "/v1/completions", TEXT | {"stream": True}),
    "completion whole": ("POST", "/v1/completions", TEXT),
    "completion refused": ("POST", "/v1/completions", TEXT | {"max_tokens": -1}),
    "models": ("GET", "/v1/models", None),
    "no such model": ("GET", "/v1/models/nobody", None),
    "no such path": ("GET", "/v1/nothing", None),
}
KEEP_ALIVE_S = 0.4


@asynccontextmanager
async def gateway(backend: ScriptedBackend) -> AsyncIterator[Served]:
    async def server(*, task_status: trio.TaskStatus[Served]) -> None:
        await serve(build_gateway(backend), "test gateway", keep_alive_s=KEEP_ALIVE_S, task_status=task_status)

    async with trio.open_nursery() as nursery:
        served: Served = await nursery.start(server)
        yield served
        nursery.cancel_scope.cancel()


def request(name: str, version: str, connection: str | None) -> bytes:
    method, path, body = BODIES[name]
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/{version}", "host: 127.0.0.1", f"content-length: {len(data)}"]
    if connection is not None:
        lines.append(f"connection: {connection}")
    return "\r\n".join([*lines, "", ""]).encode() + data


async def read_to_the_end(stream: trio.SocketStream) -> bytes:
    """All bytes until the server closes."""
    received = b""
    with trio.fail_after(5):
        async for data in stream:
            received += data
    return received


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def expected_status(name: str) -> int:
    return 400 if "refused" in name else 404 if "no such" in name else 200


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize(("version", "connection"), [("1.0", None), ("1.1", "close")])
async def test_the_server_closes_where_it_is_asked_to(name: str, version: str, connection: str | None) -> None:
    """The deadline is far below the keep-alive time that would close the socket anyhow."""
    async with gateway(ScriptedBackend()) as served, await trio.open_tcp_stream(served.host, served.port) as stream:
        await stream.send_all(request(name, version, connection))
        answer = await read_to_the_end(stream)
    assert status(answer) == expected_status(name)
    if "streamed" in name:
        assert b"data: [DONE]" in answer


@pytest.mark.parametrize("name", BODIES)
async def test_a_connection_that_is_kept_serves_again_and_closes_when_idle(name: str) -> None:
    async with gateway(ScriptedBackend()) as served, await trio.open_tcp_stream(served.host, served.port) as stream:
        for _ in range(2):
            await stream.send_all(request(name, "1.1", None))
            await read_one(stream)
        assert await read_to_the_end(stream) == b""


async def read_one(stream: trio.SocketStream) -> None:
    """One answer, by its length or its last chunk."""
    received = b""
    with trio.fail_after(5):
        while True:
            head, found, body = received.partition(b"\r\n\r\n")
            fields = head.lower()
            if found and b"transfer-encoding: chunked" in fields and body.endswith(b"0\r\n\r\n"):
                return
            if found and b"content-length: " in fields:
                length = int(fields.split(b"content-length: ")[1].split(b"\r\n")[0])
                if len(body) == length:
                    return
            data = await stream.receive_some()
            assert data, "closed in the middle of an answer"
            received += data


async def test_a_proxy_is_told_not_to_hold_a_stream_back() -> None:
    async with gateway(ScriptedBackend()) as served, await trio.open_tcp_stream(served.host, served.port) as stream:
        await stream.send_all(request("chat streamed", "1.1", "close"))
        answer = await read_to_the_end(stream)
    assert b"x-accel-buffering: no" in answer.lower()


async def test_an_answer_that_breaks_off_ends_its_exchange_too() -> None:
    backend = ScriptedBackend()
    backend.break_after = 1
    async with gateway(backend) as served, await trio.open_tcp_stream(served.host, served.port) as stream:
        await stream.send_all(request("chat streamed", "1.0", None))
        answer = await read_to_the_end(stream)
    assert b"provider_failed" in answer
    assert b"[DONE]" not in answer


async def test_a_client_that_leaves_in_a_stream_still_cancels_its_session() -> None:
    backend = ScriptedBackend()
    backend.hang = True
    async with gateway(backend) as served:
        stream = await trio.open_tcp_stream(served.host, served.port)
        await stream.send_all(request("chat streamed", "1.1", None))
        await stream.receive_some()
        await trio.aclose_forcefully(stream)
        with trio.fail_after(5):
            await backend.left.wait()
