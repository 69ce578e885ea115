"""Run an ASGI app on a loopback port under trio: hypercorn speaks HTTP, this module owns the sockets.

Hypercorn's own accept loop is not used: one connection's failure would end all of it, and a client that stops reading
would hold its write, which hypercorn shields from cancellation, for ever. Here every connection stands alone, every
write has a deadline, every answer that is out leaves its connection closed or ready for the next request, and shutting
down waits a moment for answers under way, then closes the sockets under them.
"""

import errno
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.loopback import LoopbackOnly
from node.errors import AddressInUse

HOST = "127.0.0.1"

CONNECTIONS = 128
"""Connections at once; one more is told 503 and closed."""

KEEP_ALIVE_S = 30.0
"""A connection on which nothing is being answered is closed after so long."""

WRITE_S = 20.0
"""A client that reads nothing for so long is gone."""

GRACE_S = 3.0
"""How long answers under way may still take once the server stops."""

_FULL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 1\r\n\r\n"

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """Where an app listens; ``port`` is the real one."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``, without a slash at the end."""
        return f"http://{self.host}:{self.port}"


async def serve(
    app: ASGIApp, what: str, port: int = 0, *, task_status: trio.TaskStatus[Served] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``app`` on 127.0.0.1 until cancelled; for ``nursery.start``, which returns a :class:`Served`.

    ``what`` names the server in errors and logs; port 0 takes any free one. Raises :class:`AddressInUse`.
    """
    async with _listening(what, port) as (served, listener), trio.open_nursery() as connections:
        server = _Server(app, what)
        task_status.started(served)
        try:
            await trio.serve_listeners(server.handle, [listener], handler_nursery=connections)
        finally:
            with trio.CancelScope(shield=True):
                await server.stop(GRACE_S)


class _Server:
    """What the connections of one app share."""

    def __init__(self, app: ASGIApp, what: str) -> None:
        self._what = what
        self._app = ASGIWrapper(_Ending(LoopbackOnly(app)))  # type: ignore[arg-type]  # starlette's and hypercorn's ASGI types differ
        self._config = _config()
        self._state = LifespanState({})
        self._open: dict[trio.SocketStream, trio.CancelScope] = {}
        self._context = WorkerContext(None)
        self._closed_one = trio.Event()

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close. Nothing that goes wrong in it concerns another."""
        if len(self._open) >= CONNECTIONS:
            await _refuse(stream)
            return
        # Shielded, so that an answer under way may outlive the accept loop by the grace.
        with trio.CancelScope(shield=True) as self._open[stream]:
            try:
                state = ConnectionState(self._state.copy())
                await _Connection(self._app, self._config, self._context, state, _GuardedStream(stream))
            except Exception:  # noqa: BLE001  # a supervisor: the connection is lost, the server is not
                _log.exception("connection failed", server=self._what)
            finally:
                del self._open[stream]
                self._closed_one.set()
                await trio.aclose_forcefully(stream)

    async def stop(self, grace_s: float) -> None:
        """Close idle connections, wait up to ``grace_s`` for the others, then close them too."""
        await self._context.terminated.set()
        with trio.move_on_after(grace_s):
            while self._open:
                self._closed_one = trio.Event()
                await self._closed_one.wait()
        for stream, scope in tuple(self._open.items()):
            stream.socket.close()
            scope.cancel()


class _Ending:
    """ASGI middleware: nothing cancels the ``send`` that ends a response.

    In it hypercorn tells the app that the exchange is over, by the same word as that the client has left, and only then
    closes the connection or makes it ready for the next request. An app that watches for that word cancels its sender.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_shielded(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            with trio.CancelScope(shield=is_last):
                await send(message)

        await self._app(scope, receive, send_shielded)


class _Connection(TCPServer):
    """Hypercorn's connection, which would outlive a client that left by its keep-alive timeout.

    Its reader waits while there is a request behind the one that is being answered, and would do so for ever where the
    client has left or the server is closing.
    """

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, state: LifespanState, stream: "_GuardedStream"
    ) -> None:
        super().__init__(app, config, context, state, stream)  # type: ignore[arg-type]  # what it uses is there
        self._guarded = stream
        self._reading = trio.CancelScope()

    async def protocol_send(self, event: Event) -> None:
        await super().protocol_send(event)
        if self._guarded.is_over:
            self._reading.cancel()

    async def _read_data(self) -> None:
        with self._reading:
            await super()._read_data()
        await self.idle_task.stop()


class _GuardedStream:
    """A socket stream whose writes have a deadline, even inside hypercorn's shield."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self.is_over = False
        """Nothing can be written any more: closed, or broken."""

    async def send_all(self, data: bytes) -> None:
        try:
            with trio.move_on_after(WRITE_S):
                await self._stream.send_all(data)
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.is_over = True
            raise
        self.is_over = True
        await trio.aclose_forcefully(self._stream)
        raise trio.BrokenResourceError(f"the client read nothing for {WRITE_S:g} s")

    async def aclose(self) -> None:
        self.is_over = True
        await self._stream.aclose()


async def _refuse(stream: trio.SocketStream) -> None:
    try:
        with trio.move_on_after(1):
            await stream.send_all(_FULL)
    except trio.BrokenResourceError:
        _log.debug("client left before it was refused")
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def _listening(what: str, port: int) -> AsyncIterator[tuple[Served, trio.SocketListener]]:
    """A bound listener. SO_REUSEADDR lets a restarted node have its port back at once."""
    raw = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await raw.bind((HOST, port))
        raw.listen(CONNECTIONS)
    except OSError as error:
        raw.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(what, HOST, port) from error
        if error.errno == errno.EACCES:
            raise AddressInUse(what, HOST, port, "may not be used by this user") from error
        raise
    async with trio.SocketListener(raw) as listener:
        yield Served(HOST, raw.getsockname()[1]), listener


def _config() -> Config:
    config = Config()
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    config.accesslog = None
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.ssl_handshake_timeout = 1
    return config


__all__ = ["Served", "serve"]
