"""The stream multiplexer, yamux 1.0.0, over a Noise connection.

Faults of the stock session, each of which a peer or a cancelled task can bring about:

- a write that is cancelled under back-pressure leaves half a Noise frame behind and breaks every stream: here a frame
  is written whole, under a deadline of its own, and a connection that stalls is closed;
- a frozen peer is never noticed: here a ping that isn't answered in time closes the connection;
- a peer may exceed its window (a warning) and open streams without end: here that closes the connection, or resets
  the stream;
- opening a stream blocks for ever when 256 are open: here it is an error;
- a writer without window polls every 10 ms and gives up after 5 s: here it sleeps until there is window;
- the read loop answers pings and resets inline, so that two busy peers can wait for each other: here control frames
  have a task of their own.

And of its speed: one WINDOW_UPDATE per read (here one per half window) and a dozen log strings per frame.
Specification: https://github.com/hashicorp/yamux/blob/master/spec.md. May go when the stock session passes
tests/gossip/test_yamux.py.
"""

import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from gossip.hardening.yamux_stream import CHUNK, WINDOW, YamuxStream
from gossip.patience import listen, until_stuck

_log = logging.getLogger(__name__)

PROTOCOL = "/yamux/1.0.0"

_HEADER = struct.Struct(">BBHII")
_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_NORMAL, _PROTOCOL_ERROR = 0, 1

_CONTROL_QUEUE = 4096
"""Control frames that may wait to be written; more is a peer that sends and doesn't read."""


_FAREWELL = 0.5
"""Seconds that telling the peer that we leave may take."""


class SessionLimits(msgspec.Struct, frozen=True):
    """Times are seconds."""

    write: float = 10.0
    """A frame that isn't written after so long closes the connection."""
    ping_interval: float = 5.0
    ping: float = 10.0
    """A ping that isn't answered after so long closes the connection."""
    linger: float = 30.0
    """A stream that we closed and the peer didn't is reset after so long."""
    streams_in: int = 256
    streams_out: int = 256


class ProtocolViolation(MuxedConnUnavailable):
    """The peer broke the multiplexer's protocol: the connection ends."""


class YamuxSession(IMuxedConn):
    """One connection's streams."""

    def __init__(
        self,
        conn: ISecureConn,
        peer_id: ID,
        limits: SessionLimits | None = None,
        on_violation: Callable[[ID, str], None] | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.on_close: Callable[[], Awaitable[None]] | None = None
        self.closing = False
        self.rtt_ms = 0.0
        """The last ping's round trip."""
        self._conn = conn
        self._limits = limits or SessionLimits()
        self._on_violation = on_violation
        self._streams: dict[int, YamuxStream] = {}
        self._next_id = 1 if conn.is_initiator else 2
        self._inbound = 0
        self._write_lock = trio.Lock()
        self._writing: trio.CancelScope | None = None
        """The write that is under way."""
        self._control = bytearray()
        self._control_wanted = trio.Event()
        self._accept_send, self._accept_receive = trio.open_memory_channel[YamuxStream](self._limits.streams_in)
        self._pong = trio.Event()
        self._ping_value = 0

    @property
    def is_initiator(self) -> bool:
        """Whether this side dialled."""
        return self._conn.is_initiator

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self.closing

    @property
    def is_closed(self) -> bool:
        """Whether the session has ended."""
        return self.event_closed.is_set()

    @property
    def stream_count(self) -> int:
        """Streams open in either direction."""
        return len(self._streams)

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The peer's address."""
        return self._conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Always direct here."""
        return self._conn.get_connection_type()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's (host, port)."""
        return self._conn.get_remote_address()

    # Life

    async def start(self) -> None:
        """Run the session; returns when it has ended."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_control)
                nursery.start_soon(self._watch_peer)
                nursery.start_soon(self._watch_writes)
                self.event_started.set()
                await self._read_frames()
                nursery.cancel_scope.cancel()
        finally:
            self.event_started.set()
            with trio.CancelScope(shield=True):
                await self.close()

    async def close(self) -> None:
        """End the session: every stream breaks. Idempotent, never raises."""
        if self.closing:
            return
        self.closing = True
        self._accept_send.close()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _FAREWELL):
            await self._say_goodbye(_NORMAL)
        await self._disconnect()

    async def _disconnect(self) -> None:
        for stream in list(self._streams.values()):
            stream.on_reset()
        self._streams.clear()
        if self._writing is not None:
            self._writing.cancel()
        with trio.CancelScope(shield=True):
            try:
                await self._conn.close()
            except (IOException, RawConnError, OSError) as error:
                _log.debug("closing the connection to %s: %r", self.peer_id, error)
            self.event_closed.set()
            if self.on_close is not None:
                await self.on_close()

    async def _say_goodbye(self, code: int) -> None:
        try:
            self._write_lock.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            await self._conn.write(_HEADER.pack(0, _GO_AWAY, 0, 0, code))
        except (IOException, RawConnError, OSError) as error:
            _log.debug("goodbye to %s: %r", self.peer_id, error)
        finally:
            self._write_lock.release()

    # Streams

    async def open_stream(self) -> YamuxStream:
        """A new outbound stream. Raises MuxedStreamError where too many are open or the session has ended."""
        if self.closing:
            raise MuxedStreamError("the connection is closed")
        if len(self._streams) - self._inbound >= self._limits.streams_out:
            raise MuxedStreamError(f"{self._limits.streams_out} streams are open")
        stream = YamuxStream(self._next_id, self)
        self._next_id += 2
        self._streams[stream.stream_id] = stream
        try:
            await self.write_frame(_HEADER.pack(0, _WINDOW_UPDATE, _SYN, stream.stream_id, 0))
        except BaseException:
            self._streams.pop(stream.stream_id, None)
            raise
        return stream

    async def accept_stream(self) -> YamuxStream:
        """The next inbound stream. Raises MuxedConnUnavailable when the session has ended."""
        try:
            return await self._accept_receive.receive()
        except trio.EndOfChannel:
            raise MuxedConnUnavailable("the connection is closed") from None

    def forget(self, stream: YamuxStream) -> None:
        """Drop a stream that both sides are done with."""
        if self._streams.pop(stream.stream_id, None) is not None and self._is_inbound(stream.stream_id):
            self._inbound -= 1

    def _is_inbound(self, stream_id: int) -> bool:
        return (stream_id % 2 == 0) == self.is_initiator

    # Writing

    async def write_data(self, stream_id: int, payload: bytes) -> None:
        """One DATA frame of at most :data:`CHUNK` bytes."""
        await self.write_frame(_HEADER.pack(0, _DATA, 0, stream_id, len(payload)) + payload)

    async def write_credit(self, stream_id: int, amount: int) -> None:
        """One WINDOW_UPDATE frame."""
        await self.write_frame(_HEADER.pack(0, _WINDOW_UPDATE, 0, stream_id, amount))

    async def write_frame(self, frame: bytes) -> None:
        """Write a frame whole: cancellation takes effect before it, or after it, never within."""
        try:
            self._write_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._write_lock.acquire()
        try:
            if self.closing:
                raise MuxedConnUnavailable("the connection is closed")
            with trio.CancelScope(shield=True) as self._writing:  # ended by _watch_writes, or with the session
                await self._conn.write(frame)
                return
        except (IOException, RawConnError, OSError) as error:
            raise MuxedConnUnavailable(f"the connection broke: {error}") from error
        finally:
            self._writing = None
            self._write_lock.release()
        raise MuxedConnUnavailable(f"the session ended, or nothing could be written for {self._limits.write} s")

    async def _abandon(self) -> None:
        """End without a goodbye: the connection holds half a frame, or its peer is gone."""
        if not self.closing:
            self.closing = True
            self._accept_send.close()
            await self._disconnect()

    def send_control(self, kind: int, flags: int, stream_id: int, value: int = 0) -> None:
        """Queue a control frame; never blocks."""
        self._control += _HEADER.pack(0, kind, flags, stream_id, value)
        self._control_wanted.set()

    def send_fin(self, stream_id: int) -> None:
        """Half-close a stream."""
        if not self.closing:
            self.send_control(_WINDOW_UPDATE, _FIN, stream_id)

    def send_rst(self, stream_id: int) -> None:
        """Reset a stream."""
        if not self.closing:
            self.send_control(_WINDOW_UPDATE, _RST, stream_id)

    async def _write_control(self) -> None:
        while True:
            await self._control_wanted.wait()
            self._control_wanted = trio.Event()
            frames = bytes(self._control)
            self._control.clear()
            try:
                for start in range(0, len(frames), CHUNK // _HEADER.size * _HEADER.size):
                    await self.write_frame(frames[start : start + CHUNK // _HEADER.size * _HEADER.size])
            except MuxedConnUnavailable:
                await self._abandon()
                return

    # Watching

    async def _watch_peer(self) -> None:
        """Ping for ever; end the session when an answer is late."""
        while True:
            self._ping_value = (self._ping_value + 1) & 0xFFFFFFFF
            self._pong = trio.Event()
            sent = trio.current_time()
            self.send_control(_PING, _SYN, 0, self._ping_value)
            try:
                await listen(self._limits.ping, self._pong.wait)
            except trio.TooSlowError:
                _log.info("%s is silent: closing its connection", self.peer_id)
                await self._abandon()
                return
            self.rtt_ms = (trio.current_time() - sent) * 1000
            self._reap(trio.current_time() - self._limits.linger)
            await trio.sleep(self._limits.ping_interval)

    async def _watch_writes(self) -> None:
        """End the session when a write is stuck."""
        await until_stuck(lambda: self._writing, self._limits.write)
        _log.info("%s reads nothing: closing its connection", self.peer_id)
        await self._abandon()

    def _reap(self, before: float) -> None:
        for stream in list(self._streams.values()):
            if stream.closed_at is not None and stream.closed_at < before:
                stream.abort()

    # Reading

    async def _read_frames(self) -> None:
        buffer = bytearray()
        try:
            while True:
                chunk = await self._conn.read()
                if not chunk:
                    return
                buffer += chunk
                used = self._consume(buffer)
                del buffer[:used]
        except ProtocolViolation as violation:
            _log.warning("%s broke the multiplexer's protocol: %s", self.peer_id, violation)
            with trio.move_on_after(_FAREWELL):
                await self._say_goodbye(_PROTOCOL_ERROR)
            if self._on_violation is not None:
                self._on_violation(self.peer_id, str(violation))
        except Exception as error:  # noqa: BLE001  # the supervisor of this connection: whatever Noise or TCP raise ends it alone
            _log.debug("connection to %s ended: %r", self.peer_id, error)

    def _consume(self, buffer: bytearray) -> int:
        """Handle the whole frames in ``buffer``; how many bytes they were."""
        start = 0
        while len(buffer) - start >= _HEADER.size:
            version, kind, flags, stream_id, length = _HEADER.unpack_from(buffer, start)
            if len(self._control) > _CONTROL_QUEUE * _HEADER.size:
                raise ProtocolViolation("asks, but doesn't read the answers")
            if version != 0 or kind > _GO_AWAY:
                raise ProtocolViolation(f"frame of version {version}, type {kind}")
            body = start + _HEADER.size
            if kind == _DATA:
                if length > WINDOW:
                    raise ProtocolViolation(f"frame of {length} bytes")
                if len(buffer) - body < length:
                    return start
                self._on_stream_frame(stream_id, flags, buffer[body : body + length], 0)
                start = body + length
                continue
            start = body
            if kind == _WINDOW_UPDATE:
                self._on_stream_frame(stream_id, flags, b"", length)
            elif kind == _PING:
                self._on_ping(flags, length)
            else:
                raise MuxedConnUnavailable(f"the peer leaves, code {length}")
        return start

    def _on_ping(self, flags: int, value: int) -> None:
        if flags & _SYN:
            self.send_control(_PING, _ACK, 0, value)
        elif value == self._ping_value:
            self._pong.set()

    def _on_stream_frame(self, stream_id: int, flags: int, data: Any, credit: int) -> None:
        if flags & _SYN:
            self._on_new_stream(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            return  # of a stream that we have reset
        if credit:
            stream.on_credit(credit)
        if data and not stream.on_data(data):
            raise ProtocolViolation(f"more than its window on stream {stream_id}")
        if flags & _RST:
            stream.on_reset()
        elif flags & _FIN:
            stream.on_fin()

    def _on_new_stream(self, stream_id: int) -> None:
        if stream_id == 0 or not self._is_inbound(stream_id) or stream_id in self._streams:
            raise ProtocolViolation(f"opened stream {stream_id}")
        if self._inbound >= self._limits.streams_in:
            self.send_rst(stream_id)
            return
        stream = YamuxStream(stream_id, self)
        try:
            self._accept_send.send_nowait(stream)
        except (trio.WouldBlock, trio.ClosedResourceError):
            self.send_rst(stream_id)
            return
        self._streams[stream_id] = stream
        self._inbound += 1
        self.send_control(_WINDOW_UPDATE, _ACK, stream_id)
