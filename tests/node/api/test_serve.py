"""The server around the apps: ports, limits, and an end that does not hang."""

import errno

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from node.api import serve as serve_module
from node.api.serve import Served, serve
from node.errors import AddressInUse
from tests.node.api.scripted import serving

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


def app() -> Starlette:
    return Starlette(routes=[Route("/", hello)])


async def fetch(served: Served, request: bytes = GET) -> bytes:
    """The first bytes of the answer."""
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(served.host, served.port) as stream:
            await stream.send_all(request)
            return bytes(await stream.receive_some())


async def test_a_free_port_is_reported() -> None:
    async with serving(app()) as served:
        assert served.port > 0
        assert served.url == f"http://127.0.0.1:{served.port}"
        assert (await fetch(served)).startswith(b"HTTP/1.1 200")


async def test_a_taken_port_is_one_clear_error() -> None:
    async with serving(app()) as served:
        with pytest.raises(AddressInUse, match=f"the gateway: 127.0.0.1:{served.port} is in use") as caught:
            await serve(app(), "the gateway", served.port)
        assert caught.value.port == served.port


async def test_the_port_is_free_again_afterwards() -> None:
    async with serving(app()) as first:
        await fetch(first)
    async with trio.open_nursery() as nursery:
        again: Served = await nursery.start(serve, app(), "test", first.port)
        assert (await fetch(again)).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()


async def test_a_port_that_only_root_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    async def bind(self: object, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("trio._socket._SocketType.bind", bind)
    with pytest.raises(AddressInUse, match=r"127\.0\.0\.1:80 may not be used"):
        await serve(app(), "the gateway", 80)


async def test_garbage_costs_one_connection() -> None:
    async with serving(app()) as served:
        assert (await fetch(served, b"\x16\x03\x01\x02\x00" * 50 + b"\r\n\r\n")).startswith(b"HTTP/1.1 400")
        assert (await fetch(served)).startswith(b"HTTP/1.1 200")


async def test_a_connection_that_breaks_an_app_costs_no_other() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"more than one byte"})

    async with serving(Starlette(routes=[Route("/", hello), Route("/broken", _Endpoint(broken))])) as served:
        async with await trio.open_tcp_stream(served.host, served.port) as stream:
            await stream.send_all(GET.replace(b"GET /", b"GET /broken"))
            with trio.fail_after(10):
                while await stream.receive_some():
                    pass
        assert (await fetch(served)).startswith(b"HTTP/1.1 200")


async def test_too_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "CONNECTIONS", 2)
    async with serving(app()) as served:
        kept = [await trio.open_tcp_stream(served.host, served.port) for _ in range(2)]
        for stream in kept:
            await stream.send_all(GET)
            assert b"200" in await stream.receive_some()
        assert (await fetch(served)).startswith(b"HTTP/1.1 503")
        await kept[0].aclose()
        with trio.fail_after(10):
            while not (await fetch(served)).startswith(b"HTTP/1.1 200"):
                await trio.lowlevel.checkpoint()
        await kept[1].aclose()


async def test_an_answer_under_way_is_finished_before_the_end() -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def slow(_: Request) -> Response:
        begun.set()
        await go_on.wait()
        return PlainTextResponse("finished")

    stopping = trio.CancelScope()

    async def server(*, task_status: trio.TaskStatus[Served]) -> None:
        with stopping:
            await serve(Starlette(routes=[Route("/", slow)]), "test", task_status=task_status)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            served: Served = await nursery.start(server)
            async with await trio.open_tcp_stream(served.host, served.port) as stream:
                await stream.send_all(GET)
                await begun.wait()
                stopping.cancel()
                go_on.set()
                answer = b""
                while chunk := await stream.receive_some():
                    answer += chunk
    assert answer.endswith(b"finished")


async def test_an_answer_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "GRACE_S", 0.05)
    begun, cancelled = trio.Event(), trio.Event()

    async def endless(_: Request) -> Response:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    with trio.fail_after(20):
        async with serving(Starlette(routes=[Route("/", endless)])) as served:
            stream = await trio.open_tcp_stream(served.host, served.port)
            await stream.send_all(GET)
            await begun.wait()
        assert cancelled.is_set()
        await stream.aclose()


async def test_a_client_that_reads_nothing_cannot_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "GRACE_S", 0.05)
    sent = trio.Event()

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            sent.set()
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})

    with trio.fail_after(20):
        async with serving(Starlette(routes=[Route("/", _Endpoint(flood))])) as served:
            stream = await trio.open_tcp_stream(served.host, served.port)
            await stream.send_all(GET)
            await sent.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
        await stream.aclose()


async def test_a_write_that_stalls_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "WRITE_S", 0.05)
    ended = trio.Event()

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
        ended.set()

    with trio.fail_after(20):
        async with serving(Starlette(routes=[Route("/", _Endpoint(flood))])) as served:
            stream = await trio.open_tcp_stream(served.host, served.port)
            await stream.send_all(GET)
            await ended.wait()
            await stream.aclose()


class _Endpoint:
    """Starlette takes a function for a request handler and anything else for an ASGI app."""

    def __init__(self, application: object) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)  # type: ignore[operator]  # an ASGI callable
