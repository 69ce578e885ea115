"""TCP: a listener that shares its port with nobody, and buffered reading.

Faults: the stock listener binds with SO_REUSEPORT, so that two nodes told the same port both start and each gets half
of the connections; it lives in a system task, where an exception is fatal. The stock stream reads a frame in two
system calls under a lock of its own. May go when the library can listen exclusively and reads buffered.
"""

import errno
import logging

import trio
from libp2p.abc import IListener, IRawConnection
from libp2p.custom_types import THandler
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from gossip.errors import AddressInUse
from gossip.hardening.supervisor import Supervisor

_log = logging.getLogger(__name__)

_READ_SIZE = 65_536
_BACKLOG = 128
_ACCEPT_PAUSE = 0.1
"""Seconds to wait where the system is out of file descriptors."""


_RESOLVE_S = 5.0
_FAMILIES = {"dns": trio.socket.AF_UNSPEC, "dns4": trio.socket.AF_INET, "dns6": trio.socket.AF_INET6}


def _names(maddr: Multiaddr) -> set[str]:
    return {protocol.name for protocol in maddr.protocols()}


class BufferedTcp(ReadWriteCloser):
    """A TCP stream: one system call fills the buffer for many small reads."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        try:
            host, port = stream.socket.getpeername()[:2]
            self._remote: tuple[str, int] | None = (host, port)
        except OSError:
            self._remote = None

    async def read(self, n: int | None = None) -> bytes:
        """Exactly ``n`` bytes, fewer only at the end (None: what there is). May be cancelled: nothing is lost.

        Exactly, because the library's readers give up when a message comes in more than a hundred pieces.
        """
        while len(self._buffer) < (1 if n is None else n):
            try:
                received = await self._stream.receive_some(_READ_SIZE)
            except trio.BrokenResourceError as error:
                raise ConnectionClosedError(f"reset by peer: {error}", transport="tcp") from error
            except trio.ClosedResourceError:
                break
            if not received:
                break
            self._buffer += received
        taken = bytes(self._buffer[:n])
        del self._buffer[:n]
        return taken

    async def write(self, data: bytes) -> None:
        """All of ``data``."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"closed: {error}", transport="tcp") from error

    async def close(self) -> None:
        """Idempotent."""
        await self._stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        """(host, port)."""
        return self._remote


class ExclusiveListener(IListener):
    """Accepts connections on addresses that nobody else listens on; its tasks belong to ``owner``."""

    def __init__(self, handler: THandler, owner: Supervisor) -> None:
        self._handler = handler
        self._owner = owner
        self._listeners: list[trio.SocketListener] = []

    async def listen(self, maddr: Multiaddr) -> None:
        """Raises :class:`AddressInUse` where the address is taken or not this machine's."""
        names = _names(maddr)
        if not names & {"ip4", "ip6"}:
            raise AddressInUse(str(maddr), "only IP addresses can be listened on")
        host = maddr.value_for_protocol("ip6" if "ip6" in names else "ip4")
        port = int(maddr.value_for_protocol("tcp") or 0)
        try:
            opened = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "")
            raise AddressInUse(str(maddr), f"{name} {error.strerror or error}".strip()) from error
        self._listeners += opened
        for listener in opened:
            self._owner.run_task(self._accept, listener)

    async def _accept(self, listener: trio.SocketListener) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                _log.warning("cannot accept connections: %r", error)
                await trio.sleep(_ACCEPT_PAUSE)
            else:
                self._owner.run_task(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            await self._handler(BufferedTcp(stream))

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """Where it really listens: port 0 has become a port."""
        found = []
        for listener in self._listeners:
            host, port = listener.socket.getsockname()[:2]
            found.append(Multiaddr(f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}"))
        return tuple(found)

    async def close(self) -> None:
        """Stop accepting."""
        for listener in self._listeners:
            await listener.aclose()
        self._listeners.clear()


class Tcp(TCP):
    """The TCP transport with both."""

    def __init__(self, owner: Supervisor) -> None:
        super().__init__()
        self._owner = owner

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Connect; a DNS name is resolved anew at each dial, by the system's own resolver and its hosts file."""
        kind = next((kind for kind in _FAMILIES if kind in _names(maddr)), None)
        if kind is None:
            return await self._dial_resolved(maddr)
        name = str(maddr.value_for_protocol(kind))
        port = int(maddr.value_for_protocol("tcp"))
        failure: Exception | None = None
        try:
            with trio.fail_after(_RESOLVE_S):
                found = await trio.socket.getaddrinfo(name, port, _FAMILIES[kind], trio.socket.SOCK_STREAM)
        except trio.TooSlowError as error:
            raise OpenConnectionError(f"{name} was not resolved within {_RESOLVE_S:g} s") from error
        except OSError as error:
            raise OpenConnectionError(f"{name} cannot be resolved: {error.strerror or error}") from error
        for host in dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found):
            try:
                return await self._dial_resolved(Multiaddr(f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}"))
            except OpenConnectionError as error:
                failure = error
        raise OpenConnectionError(f"{name}: {failure or 'has no address'}") from failure

    async def _dial_resolved(self, maddr: Multiaddr, source: tuple[str, int] | None = None) -> IRawConnection:
        raw = await super()._dial_resolved(maddr, source)
        if not isinstance(raw, RawConnection):
            raise OpenConnectionError(f"unexpected connection type {type(raw).__name__}")
        raw.stream = BufferedTcp(raw.stream.stream)  # type: ignore[attr-defined]  # the stock stream's socket
        return raw

    def create_listener(self, handler_function: THandler) -> IListener:  # type: ignore[override]  # stock names its own
        """A listener for one of this host's addresses."""
        return ExclusiveListener(handler_function, self._owner)
