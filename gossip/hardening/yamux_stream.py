"""One yamux stream; see :mod:`gossip.hardening.yamux` for the faults of the stock one.

Reads may be cancelled at any time and lose nothing. A write that is cancelled may have sent a part: whoever frames
messages on top gives the stream up then (:class:`gossip.streams.FrameStream` does).
"""

from types import TracebackType
from typing import Protocol

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset

WINDOW = 256 * 1024
"""Bytes that may be in flight to a reader: the protocol's initial window, never grown."""

CHUNK = 65_535 - 16 - 12
"""The largest payload of a frame that fits one Noise message: its limit less authenticator and yamux header."""

_CREDIT_AT = WINDOW // 2


class Session(Protocol):
    """What a stream needs of its connection."""

    async def write_data(self, stream_id: int, payload: bytes) -> None:
        """Write one frame."""

    async def write_credit(self, stream_id: int, amount: int) -> None:
        """Give window back."""

    def send_fin(self, stream_id: int) -> None:
        """Half-close."""

    def send_rst(self, stream_id: int) -> None:
        """Reset."""

    def forget(self, stream: "YamuxStream") -> None:
        """The stream is done."""

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's (host, port)."""


class YamuxStream(IMuxedStream):
    """A byte stream in both directions."""

    def __init__(self, stream_id: int, session: Session) -> None:
        self.stream_id = stream_id
        self.muxed_conn: IMuxedConn = session  # type: ignore[assignment]  # the session is one, tests use less
        self.closed_at: float | None = None
        """When this side was closed, in trio's time; None while it is open."""
        self._session = session
        self._buffer = bytearray()
        self._receivable = WINDOW
        self._consumed = 0
        self._sendable = WINDOW
        self._eof = False
        self._reset = False
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()

    async def read(self, n: int | None = None) -> bytes:
        """At most ``n`` bytes (None or negative: what there is). Raises MuxedStreamEOF, MuxedStreamReset."""
        if self._consumed >= _CREDIT_AT and not self._eof and not self._reset:
            await self._give_credit()
        while not self._buffer:
            if self._reset:
                raise MuxedStreamReset("the stream was reset")
            if self._eof:
                raise MuxedStreamEOF("the peer closed the stream")
            await self._readers.park()
        if n is None or n < 0 or n >= len(self._buffer):
            taken = bytes(self._buffer)
            self._buffer.clear()
        else:
            taken = bytes(self._buffer[:n])
            del self._buffer[:n]
        self._consumed += len(taken)
        return taken

    async def _give_credit(self) -> None:
        amount, self._consumed = self._consumed, 0
        self._receivable += amount
        try:
            await self._session.write_credit(self.stream_id, amount)
        except trio.Cancelled:
            # cancelled while it waited for its turn: nothing was written
            self._receivable -= amount
            self._consumed += amount
            raise

    async def write(self, data: bytes) -> None:
        """All of ``data``, waiting for window. Raises MuxedStreamReset."""
        start = 0
        while start < len(data):
            while self._sendable <= 0 and not self._reset and self.closed_at is None:
                await self._writers.park()
            if self._reset or self.closed_at is not None:
                raise MuxedStreamReset("the stream is closed")
            size = min(self._sendable, CHUNK, len(data) - start)
            self._sendable -= size
            await self._session.write_data(self.stream_id, data[start : start + size])
            start += size

    async def close(self) -> None:
        """Close this side; what the peer still sends can be read. Idempotent."""
        self.finish()

    async def reset(self) -> None:
        """Give up both sides. Idempotent."""
        self.abort()

    def finish(self) -> None:
        """:meth:`close`, without waiting for anything."""
        if self._reset or self.closed_at is not None:
            return
        self.closed_at = trio.current_time()
        self._session.send_fin(self.stream_id)
        self._writers.unpark_all()
        if self._eof:
            self._session.forget(self)

    def abort(self) -> None:
        """:meth:`reset`, without waiting for anything."""
        if self._reset:
            return
        if not (self._eof and self.closed_at is not None):
            self._session.send_rst(self.stream_id)
        self.on_reset()

    # What the peer does

    def on_data(self, data: bytes | bytearray) -> bool:
        """Bytes arrived; False where they exceed the window."""
        self._receivable -= len(data)
        if self._receivable < 0:
            return False
        if not self._eof and not self._reset:
            self._buffer += data
            self._readers.unpark_all()
        return True

    def on_credit(self, amount: int) -> None:
        """The peer has read so much."""
        self._sendable += amount
        self._writers.unpark_all()

    def on_fin(self) -> None:
        """The peer sends nothing more."""
        self._eof = True
        self._readers.unpark_all()
        if self.closed_at is not None:
            self._session.forget(self)

    def on_reset(self) -> None:
        """The stream or its connection is gone. What was received can still be read."""
        self._reset = True
        self._session.forget(self)
        self._readers.unpark_all()
        self._writers.unpark_all()

    # The library's interface

    def set_deadline(self, ttl: int) -> None:
        """Not supported: deadlines are cancel scopes."""
        raise NotImplementedError("use a trio cancel scope")

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's (host, port)."""
        return self._session.get_remote_address()

    async def __aenter__(self) -> "YamuxStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
