"""Framed streams between two peers: one write a frame, a deadline for everything, and an end that is said aloud.

A frame is a 4-byte big-endian payload length, a 1-byte kind and the payload. A killed peer's connection looks to the
library like one that was closed in order; so a stream ends well only with an END frame, and fails with a reason only
with an ERROR frame. Everything else is :class:`~gossip.errors.StreamBroken`.
"""

import enum
import struct
from typing import Protocol

import msgspec
import trio

from gossip.doorway import Entry
from gossip.errors import GossipError, MalformedMessage, MessageTooLarge, RemoteError, StreamBroken, StreamTimeout
from gossip.patience import listen

_HEADER = struct.Struct(">IB")

FRAME_LIMIT = 16 << 20
"""The largest payload in bytes that is sent, whatever the receiver would take."""
_ERROR_LIMIT = 4096
_CODE_LIMIT = 64
_DETAIL_LIMIT = 1024
_FAREWELL = 5.0
"""Seconds in which an ERROR frame must be written."""


class FrameKind(enum.IntEnum):
    """What a frame carries."""

    DATA = 0
    END = 1
    ERROR = 2


class Opening(enum.Enum):
    """What became of a stream's first frame."""

    AWAITED = enum.auto()
    HEARD = enum.auto()
    LATE = enum.auto()
    """The time for it ran out."""
    MISSED = enum.auto()
    """The peer ended or reset the stream before it."""


class _Failure(msgspec.Struct, frozen=True, array_like=True):
    code: str
    detail: str


_encode = msgspec.msgpack.Encoder().encode
_decode_failure = msgspec.msgpack.Decoder(_Failure).decode


class Pipe(Protocol):
    """The byte stream below: what :class:`FrameStream` needs of it."""

    async def read(self) -> bytes:
        """What there is, at least a byte; may be cancelled without loss. Raises StreamBroken."""

    async def write(self, data: bytes) -> None:
        """All of ``data``; a part, where cancelled. Raises StreamBroken."""

    def finish(self) -> None:
        """Send nothing more."""

    def abort(self) -> None:
        """Reset: the peer sees a broken stream."""


class FrameStream:
    """A stream of frames with one peer. Any task may send; one task receives."""

    def __init__(
        self, pipe: Pipe, remote_peer: str, entry: Entry | None = None, *, admits_itself: bool = False
    ) -> None:
        self.remote_peer = remote_peer
        """The peer id at the other end, proven by the connection's handshake."""
        self.opening = Opening.AWAITED
        self._entry = entry
        self._admits_itself = admits_itself
        self._pipe = pipe
        self._buffer = bytearray()
        self._send_lock = trio.Lock()
        self._ended = False
        self._closed = False
        self._received_end = False
        self._failure: GossipError | None = None

    async def send(self, data: bytes, *, timeout: float = 10) -> None:
        """Send one frame within ``timeout`` s.

        Raises StreamBroken, StreamTimeout, and MessageTooLarge above :data:`FRAME_LIMIT`. A frame that is cancelled or
        times out half-way resets the stream, and never harms others on the same connection.
        """
        await self._send(FrameKind.DATA, data, timeout)

    async def end(self) -> None:
        """Say that nothing more comes. Raises StreamBroken, StreamTimeout; nothing where that was said already."""
        if not self._ended:
            await self._send(FrameKind.END, b"", _FAREWELL)

    async def fail(self, code: str, detail: str) -> None:
        """Tell the peer that it went wrong, with a stable word and a text for people; never raises."""
        if self._ended or self._closed:
            return
        try:
            await self._send(FrameKind.ERROR, _encode(_Failure(code[:_CODE_LIMIT], detail[:_DETAIL_LIMIT])), _FAREWELL)
        except (StreamBroken, StreamTimeout):
            return  # a peer that is gone needs no reason

    def admit(self) -> None:
        """Take a place among those served: for the handler of an inbound stream, once it has checked what it must.

        Raises :class:`~gossip.errors.NoPlace`. Nothing where the stream has its place.
        """
        if self._entry is not None:
            self._entry.admit()

    async def receive(self, *, limit: int, timeout: float) -> bytes | None:
        """The next frame of at most ``limit`` bytes, within ``timeout`` s; None once the peer has ended the stream.

        Raises StreamTimeout (the frame isn't lost: receive again), StreamBroken, RemoteError, and MessageTooLarge or
        MalformedMessage, which reset the stream: the length is looked at before anything is read. The first frame of an
        inbound stream has no longer than its doorway gives, and raises NoPlace where no place is left for the stream.
        """
        if self._received_end:
            return None
        if self._failure is not None:
            raise self._failure
        if self.opening is Opening.AWAITED and self._entry is not None:
            return await self._receive_first(self._entry, limit, timeout)
        return await self._receive_within(limit, timeout)

    async def _receive_first(self, entry: Entry, limit: int, timeout: float) -> bytes | None:
        limits, started = entry.limits, trio.current_time()
        try:
            size = await self._receive_size(min(limits.first_frame_s, timeout))
            patience = limits.first_frame_s + min(size, limit) / limits.slowest_bytes_per_s
            left = min(patience, timeout) - (trio.current_time() - started)
            data = await self._receive_within(limit, max(0.0, left))
        except StreamTimeout:
            self.opening = Opening.LATE
            raise
        except (StreamBroken, RemoteError):
            self.opening = Opening.MISSED
            raise
        self.opening = Opening.MISSED if data is None else Opening.HEARD
        if data is not None and not self._admits_itself:
            entry.admit()
        return data

    async def _receive_size(self, timeout: float) -> int:
        """The length that the next frame's header names; the header stays."""
        try:
            with trio.fail_after(timeout):
                await self._fill(_HEADER.size)
        except trio.TooSlowError:
            raise StreamTimeout(f"{self.remote_peer} began no frame within {timeout} s") from None
        return int(_HEADER.unpack_from(self._buffer)[0])

    async def _receive_within(self, limit: int, timeout: float) -> bytes | None:
        try:
            return await listen(timeout, self._receive, limit)
        except trio.TooSlowError:
            raise StreamTimeout(f"{self.remote_peer} sent no whole frame within {timeout} s") from None
        except (StreamBroken, MessageTooLarge, MalformedMessage, RemoteError) as error:
            self._failure = error
            if not isinstance(error, RemoteError):
                self._pipe.abort()
            raise

    async def aclose(self) -> None:
        """Leave: in order where :meth:`end` or :meth:`fail` was said, else with a reset. Idempotent, never raises."""
        self.close_nowait()

    def close_nowait(self) -> None:
        """:meth:`aclose`, which waits for nothing anyway."""
        if self._closed:
            return
        self._closed = True
        if self._ended:
            self._pipe.finish()
        else:
            self._pipe.abort()

    async def _send(self, kind: FrameKind, payload: bytes, timeout: float) -> None:
        if len(payload) > FRAME_LIMIT:
            raise MessageTooLarge("frame", len(payload), FRAME_LIMIT)
        try:
            with trio.fail_after(timeout):
                async with self._send_lock:
                    if self._ended or self._closed:
                        raise StreamBroken("this side of the stream has ended")
                    await self._write(kind, payload)
        except trio.TooSlowError:
            raise StreamTimeout(f"{self.remote_peer} took no whole frame within {timeout} s") from None

    async def _write(self, kind: FrameKind, payload: bytes) -> None:
        try:
            await self._pipe.write(_HEADER.pack(len(payload), kind) + payload)
        except BaseException:
            # perhaps half a frame is out: the stream is of no use any more, the connection is
            self._closed = True
            self._pipe.abort()
            raise
        if kind is not FrameKind.DATA:
            self._ended = True

    async def _receive(self, limit: int) -> bytes | None:
        await self._fill(_HEADER.size)
        length, code = _HEADER.unpack_from(self._buffer)
        if code > FrameKind.ERROR:
            raise MalformedMessage("frame", f"kind {code}")
        kind = FrameKind(code)
        allowed = {FrameKind.DATA: limit, FrameKind.END: 0, FrameKind.ERROR: _ERROR_LIMIT}[kind]
        if length > allowed:
            raise MessageTooLarge(f"{kind.name} frame", length, allowed)
        await self._fill(_HEADER.size + length)
        payload = bytes(self._buffer[_HEADER.size : _HEADER.size + length])
        del self._buffer[: _HEADER.size + length]
        match kind:
            case FrameKind.DATA:
                return payload
            case FrameKind.END:
                self._received_end = True
                return None
            case FrameKind.ERROR:
                raise self._remote_error(payload)

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            chunk = await self._pipe.read()
            if not chunk:
                raise StreamBroken("the stream stopped without END")
            self._buffer += chunk

    def _remote_error(self, payload: bytes) -> GossipError:
        try:
            failure = _decode_failure(payload)
        except msgspec.MsgspecError as error:
            return MalformedMessage("ERROR frame", str(error))
        return RemoteError(failure.code, failure.detail)
