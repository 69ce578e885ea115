"""What waits to be written to one pubsub peer.

Fault: the stock queue holds 32 messages, drops the rest without a word, copies each for each peer and writes them one
by one. This one holds frames that were serialised once, is bounded in messages and bytes, counts what it drops, and
hands over as much as fits one write. May go when the stock queue's size can be set and its drops can be counted.
"""

from collections import deque

import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint

_WRITE_SIZE = 60_000
"""Bytes that are put into one write: one Noise message."""


def frame(rpc: rpc_pb2.RPC) -> bytes:
    """An RPC as it goes over the wire."""
    data = rpc.SerializeToString()
    return encode_uvarint(len(data)) + data


class Outbox:
    """A bounded queue of frames; control frames go first."""

    def __init__(self, max_frames: int, max_bytes: int, max_message_size: int) -> None:
        self.max_message_size = max_message_size
        """Where the library would split an RPC."""
        self.closed = False
        self.dropped = 0
        """Frames refused because the queue was full."""
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._control: deque[bytes] = deque()
        self._data: deque[bytes] = deque()
        self._bytes = 0
        self._filled = trio.Event()

    def __len__(self) -> int:
        return len(self._control) + len(self._data)

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        """Queue an RPC; False where there is no room."""
        return self.push_frame(frame(rpc), priority)

    def push_frame(self, data: bytes, priority: bool = False) -> bool:
        """Queue a frame; False where there is no room."""
        if self.closed or len(self) >= self._max_frames or self._bytes + len(data) > self._max_bytes:
            self.dropped += 1
            return False
        (self._control if priority else self._data).append(data)
        self._bytes += len(data)
        self._filled.set()
        return True

    async def pop(self) -> bytes | None:
        """Frames for one write; None when the queue is closed."""
        while not self._bytes:
            if self.closed:
                return None
            self._filled = trio.Event()
            await self._filled.wait()
        taken: list[bytes] = []
        size = 0
        while self._bytes and (not taken or size < _WRITE_SIZE):
            data = (self._control or self._data).popleft()
            self._bytes -= len(data)
            size += len(data)
            taken.append(data)
        return b"".join(taken)

    def close(self) -> None:
        """Let the writer go; what is still queued is written first."""
        self.closed = True
        self._filled.set()
