"""What this node said lately, for peers that are only now heard to be subscribed.

Fault: a message that finds no subscriber is gone. The stock router replays its message cache to a new subscriber, but
that forgets by heartbeats: three beats later, a peer that was still dialling, or slow to announce its subscription,
gets nothing, and the author isn't told. May go when the library's ``publish`` waits for, or reports, its receivers.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import trio
from libp2p.pubsub.pb import rpc_pb2

SECONDS = 30.0
"""For so long a message is given to new subscribers of its topic."""
MESSAGES, BYTES = 1_024, 1 << 20
"""Kept at most; the oldest go first."""


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    size: int
    message: rpc_pb2.Message


class OwnMessages:
    """A bounded memory of our own messages."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()
        self._bytes = 0

    def add(self, message: rpc_pb2.Message) -> None:
        """Remember it."""
        size = message.ByteSize()
        self._kept.append(_Kept(trio.current_time() + SECONDS, size, message))
        self._bytes += size
        while len(self._kept) > MESSAGES or self._bytes > BYTES:
            self._forget_oldest()

    def of(self, topic: str) -> Iterator[rpc_pb2.Message]:
        """Those of ``topic``, oldest first."""
        now = trio.current_time()
        while self._kept and self._kept[0].until < now:
            self._forget_oldest()
        return (kept.message for kept in tuple(self._kept) if kept.message.topicIDs[0] == topic)

    def _forget_oldest(self) -> None:
        self._bytes -= self._kept.popleft().size
