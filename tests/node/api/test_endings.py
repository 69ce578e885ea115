"""How an exchange ends on its socket: closed where that was asked for, else open for the next request, for a while.

Raw sockets, for a client library hides whether a connection was closed or given up. A read to the end of the stream has
a deadline that is far shorter than the keep-alive time, so only a close by the server ends it in time.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from starlette.applications import Starlette

from node.api import serve as serve_module
from node.api.gateway import build_gateway
from node.api.serve import Served
from tests.node.api.scripted import MODEL, ScriptedBackend, serving

DEADLINE_S = 10.0
"""Far more than an answer takes here, and a third of the keep-alive time."""

CHAT = {"model": MODEL.name, "messages": [{"role": "user", "content": "hello"}]}
TEXT = {"model": MODEL.name, "prompt": "hello"}

EXCHANGES: dict[str, tuple[str, str, object, int]] = {
    "models": ("GET", "/v1/models", None, 200),
    "one model": ("GET", f"/v1/models/{MODEL.name}", None, 200),
    "unknown model": ("GET", "/v1/models/nobody", None, 404),
    "unknown url": ("GET", "/v2", None, 404),
    "wrong method": ("GET", "/v1/completions", None, 405),
    "audio": ("POST", "/v1/audio/speech", {}, 400),
    "video": ("POST", "/v1/videos", {}, 400),
    "chat, streamed": ("POST", "/v1/chat/completions", CHAT | {"stream": True}, 200),
    "chat, whole": ("POST", "/v1/chat/completions", CHAT, 200),
    "chat, refused": ("POST", "/v1/chat/completions", CHAT | {"max_tokens": -1}, 400),
    "text, streamed": ("POST", "/v1/completions", TEXT | {"stream": True}, 200),
    "text, whole": ("POST", "/v1/completions", TEXT, 200),
    "text, refused": ("POST", "/v1/completions", TEXT | {"max_tokens": -1}, 400),
}
"""Method, path, body and the status of the answer."""

every_exchange = pytest.mark.parametrize("name", EXCHANGES)


def request(name: str, version: str, connection: str | None) -> bytes:
    method, path, fields, _ = EXCHANGES[name]
    body = b"" if fields is None else json.dumps(fields).encode()
    lines = [f"{method} {path} HTTP/{version}", "host: localhost", f"content-length: {len(body)}"]
    lines += [] if connection is None else [f"connection: {connection}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def connected(served: Served) -> AsyncIterator[trio.SocketStream]:
    with trio.fail_after(DEADLINE_S):
        async with await trio.open_tcp_stream(served.host, served.port) as stream:
            yield stream


async def read_to_end(stream: trio.SocketStream) -> bytes:
    """All that comes until the server closes."""
    answer = bytearray()
    while chunk := await stream.receive_some():
        answer += chunk
    return bytes(answer)


async def read_answer(stream: trio.SocketStream) -> bytes:
    """One answer of a connection that stays open."""
    answer = bytearray()
    while not is_whole(bytes(answer)):
        chunk = await stream.receive_some()
        assert chunk, f"closed after {bytes(answer)!r}"
        answer += chunk
    return bytes(answer)


def is_whole(answer: bytes) -> bool:
    head, split, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    if not split:
        return False
    if b"content-length" in fields:
        return len(body) >= int(fields[b"content-length"])
    return body.endswith(b"0\r\n\r\n")


def app() -> Starlette:
    return build_gateway(ScriptedBackend())


def check(name: str, answer: bytes) -> None:
    """The answer is the one that was asked for, to its last byte."""
    status = EXCHANGES[name][3]
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    if "streamed" in name:
        assert b"data: [DONE]\n\n" in answer
        assert b"\r\nx-accel-buffering: no\r\n" in answer.lower(), "a proxy would hold the tokens back"


@every_exchange
@pytest.mark.parametrize(("version", "connection"), [("1.0", None), ("1.1", "close")])
async def test_closed_at_once_where_that_is_asked_for(name: str, version: str, connection: str | None) -> None:
    async with serving(app()) as served, connected(served) as stream:
        await stream.send_all(request(name, version, connection))
        check(name, await read_to_end(stream))


@every_exchange
async def test_open_for_the_next_request(name: str) -> None:
    async with serving(app()) as served, connected(served) as stream:
        for _ in range(3):
            await stream.send_all(request(name, "1.1", None))
            check(name, await read_answer(stream))


@every_exchange
async def test_closed_once_it_was_idle_for_the_keep_alive_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "KEEP_ALIVE_S", 0.1)
    async with serving(app()) as served, connected(served) as stream:
        await stream.send_all(request(name, "1.1", "keep-alive"))
        answer = await read_to_end(stream)
        check(name, answer)
        assert is_whole(answer)


async def test_an_answer_may_take_longer_than_the_keep_alive_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "KEEP_ALIVE_S", 0.05)
    backend = ScriptedBackend()
    backend.hang = True
    async with serving(build_gateway(backend)) as served, connected(served) as stream:
        await stream.send_all(request("chat, streamed", "1.1", None))
        while not backend.answers or backend.answers[0].tokens < len(backend.pieces):
            assert await stream.receive_some()
        with trio.move_on_after(4 * serve_module.KEEP_ALIVE_S):
            while chunk := await stream.receive_some():
                assert b"Paris" in chunk or b"data" in chunk
            pytest.fail("closed within the answer")


async def serves_again(served: Served) -> None:
    """Until the one connection that there may be is free."""
    with trio.fail_after(DEADLINE_S):
        while True:
            async with connected(served) as stream:
                await stream.send_all(request("models", "1.1", "close"))
                with suppress(trio.BrokenResourceError):  # refused before it was read
                    if (await read_to_end(stream)).startswith(b"HTTP/1.1 200 "):
                        return


async def test_a_request_behind_one_whose_client_leaves_holds_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "CONNECTIONS", 1)
    backend = ScriptedBackend()
    backend.pieces = ["x" * 10_000] * 2_000
    async with serving(build_gateway(backend)) as served:
        async with connected(served) as stream:
            await stream.send_all(request("chat, streamed", "1.1", None) + request("models", "1.1", None))
            assert await stream.receive_some()
        await serves_again(served)
