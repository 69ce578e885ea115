"""The queue of RFCs at a home router: by MOR balance, and by patience (S26)."""

import msgspec

from contracts.typed_data import Digest
from gossip.messages.base import Signed
from gossip.messages.market import Rfc

MAX_WAITING = 4_096
"""RFCs that wait or are being matched at once."""


class Waiting(msgspec.Struct, frozen=True):
    """An admitted RFC without a match yet. ``priority`` is its pass's, ``admitted_ms`` Unix ms."""

    rfc: Signed[Rfc]
    rfc_id: Digest
    priority: int
    admitted_ms: int


class WaitingRoom:
    """Admitted RFCs, waiting or being matched, at most :data:`MAX_WAITING`."""

    def __init__(self, age_boost_ms: int) -> None:
        self._age_boost_ms = age_boost_ms
        self._admitted: dict[Digest, Waiting] = {}
        self._queue: set[Digest] = set()

    def __len__(self) -> int:
        return len(self._admitted)

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many."""
        return len(self._admitted) >= MAX_WAITING

    def get(self, rfc_id: Digest) -> Waiting | None:
        """An RFC that waits or is being matched."""
        return self._admitted.get(rfc_id)

    def add(self, waiting: Waiting) -> None:
        """Admit an RFC, or put one back that could not be matched yet; it keeps its age."""
        self._admitted[waiting.rfc_id] = waiting
        self._queue.add(waiting.rfc_id)

    def remove(self, rfc_id: Digest) -> Waiting | None:
        """Take an RFC out for good; None where it is not here."""
        self._queue.discard(rfc_id)
        return self._admitted.pop(rfc_id, None)

    def next(self, now_ms: int) -> Waiting | None:
        """Whose turn it is: from now on it is being matched, and not offered again unless it is put back.

        The highest priority first; every ``age_boost_ms`` of waiting count as one step of priority, so that small
        holders don't starve. Among equals the oldest.
        """
        queue = [self._admitted[rfc_id] for rfc_id in self._queue]
        if not queue:
            return None
        chosen = max(queue, key=lambda waiting: (self._standing(waiting, now_ms), -waiting.admitted_ms, waiting.rfc_id))
        self._queue.discard(chosen.rfc_id)
        return chosen

    def expired(self, now_ms: int) -> tuple[Waiting, ...]:
        """Those in the queue whose deadline has passed."""
        queue = [self._admitted[rfc_id] for rfc_id in self._queue]
        return tuple(waiting for waiting in queue if waiting.rfc.payload.deadline_ms <= now_ms)

    def _standing(self, waiting: Waiting, now_ms: int) -> int:
        return waiting.priority + max(0, now_ms - waiting.admitted_ms) // self._age_boost_ms
