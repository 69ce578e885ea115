"""A node's simulated disk: log of inputs, signing guard, decided batches. It survives crashes, with torn writes."""

import zlib
from collections.abc import Callable
from random import Random

from contracts.typed_data import Digest
from gossip.messages.committee import CertifiedBatch
from testnet.simulator.errors import Unreadable

_HEAD = 8
"""Bytes before a record: its length and its CRC-32."""

Operation = Callable[[], None]
"""Called before every operation; raises :class:`~testnet.simulator.errors.PowerLost` where the plan says so."""


class Log:
    """Records that are there after a crash once :meth:`flush` has returned, and in part before that."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._flushed = bytearray()
        self._written = bytearray()

    def append(self, record: bytes) -> None:
        """Write; nothing is promised until the next flush."""
        self._operation()
        self._written += len(record).to_bytes(4, "big") + zlib.crc32(record).to_bytes(4, "big") + record

    def flush(self) -> None:
        """Everything written so far is on the disk when this returns."""
        self._operation()
        self._flushed += self._written
        self._written.clear()

    def clear(self) -> None:
        """Start anew, at once: a new file takes the old one's place."""
        self._operation()
        self._flushed.clear()
        self._written.clear()

    def lose_power(self, chance: Random) -> None:
        """A crash: of what was not flushed a prefix of any length survives."""
        self._flushed += self._written[: chance.randint(0, len(self._written))]
        self._written.clear()

    def read(self) -> list[bytes]:
        """The whole records; a torn one at the end is cut off. Raises :class:`Unreadable` for a broken one before."""
        data, records, offset = bytes(self._flushed), [], 0
        while offset < len(data):
            length = int.from_bytes(data[offset : offset + 4], "big")
            end = offset + _HEAD + length
            record = data[offset + _HEAD : end]
            if offset + _HEAD > len(data) or end > len(data):
                break
            if zlib.crc32(record) != int.from_bytes(data[offset + 4 : offset + _HEAD], "big"):
                if end < len(data):
                    raise Unreadable(offset)
                break
            records.append(record)
            offset = end
        del self._flushed[offset:]
        return records


Place = tuple[int, int, int]
"""Height, round and step (0 proposal, 1 prevote, 2 precommit), in the order in which a member goes through them."""


class Guard:
    """The signing guard: a watermark that only rises, on the disk before a signature leaves."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._last: Place = (0, -1, -1)
        self._digest = Digest(bytes(32))

    def allows(self, place: Place, digest: Digest) -> bool:
        """Whether ``digest`` may be signed at ``place``: above the watermark, or the same once more."""
        if place == self._last:
            return digest == self._digest
        if place < self._last:
            return False
        self._operation()
        self._last, self._digest = place, digest
        self._operation()
        return True


class Disk:
    """All that a node finds again after a crash. Writes to the store are atomic, as those of a database are."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self.log = Log(operation)
        self.guard = Guard(operation)
        self.batches: list[CertifiedBatch] = []

    def store(self, batch: CertifiedBatch) -> None:
        """Keep the next decided batch."""
        self._operation()
        self.batches.append(batch)
