"""Frames of one size at even times, for users who ask for them: who watches the line learns little of an answer.

Token frames otherwise show, by size and time, how long each word is, from which words can be guessed. In a padded
session the provider says one frame every :data:`TICK_S`, whether or not there are T, and every frame is a multiple of
:data:`FRAME_BYTES` long, nearly always one. What still shows: how long the answer took, its beginning and end, the
query's size to the KiB, and the user's vouchers, whose number tells the T to about a quarter of a voucher window. Pure
but for the clock in :class:`Ticks`.
"""

import trio

from gossip.messages.base import encode
from gossip.messages.session import PaddedFrame
from inference.engine import Piece, join_pieces
from inference.errors import EngineError, SessionError
from inference.session.stream import Code

FRAME_BYTES = 512
"""Bytes that a padded frame holds, or a multiple where a frame is longer."""

TICK_S = 0.1
"""Seconds from frame to frame: a T waits half of it on average."""

_LENGTH_BYTES = 4


def pad(frame: bytes = b"") -> bytes:
    """A frame as it is sent, one that says nothing where ``frame`` is empty."""
    data = len(frame).to_bytes(_LENGTH_BYTES, "big") + frame
    return encode(PaddedFrame(data + bytes(-len(data) % FRAME_BYTES)))


def unpad(frame: PaddedFrame) -> bytes:
    """What is inside; empty where it says nothing. Raises :class:`SessionError` for a frame of another make."""
    size = int.from_bytes(frame.data[:_LENGTH_BYTES], "big")
    if len(frame.data) < _LENGTH_BYTES or size > len(frame.data) - _LENGTH_BYTES or len(frame.data) % FRAME_BYTES:
        raise SessionError(Code.PROTOCOL_ERROR, f"a padded frame of {len(frame.data)} bytes that says it holds {size}")
    return frame.data[_LENGTH_BYTES:][:size]


class Ticks:
    """When a padded session's frames go; a late one does not bring the next closer."""

    def __init__(self) -> None:
        self._due = trio.current_time() + TICK_S

    async def next(self) -> None:
        """Wait for the next tick."""
        await trio.sleep_until(self._due)
        self._due = max(self._due + TICK_S, trio.current_time())

    async def take(self, pieces: trio.MemoryReceiveChannel[Piece], batch: int) -> Piece | None:
        """At the next tick, what has come since the last, up to about ``batch`` T; None where nothing has."""
        await self.next()
        joined: Piece | None = None
        try:
            while joined is None or (joined.finish is None and len(joined.token_ids) < batch):
                piece = pieces.receive_nowait()
                joined = piece if joined is None else join_pieces(joined, piece)
        except trio.WouldBlock:
            return joined
        except trio.EndOfChannel as error:
            raise EngineError("the engine's answer has no end") from error
        return joined
