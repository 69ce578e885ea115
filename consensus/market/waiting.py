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


def standing(waiting: Waiting, now_ms: int, age_boost_ms: int) -> int:
    """What a queue is ordered by: the pass's priority, one step more for every ``age_boost_ms`` of waiting."""
    return waiting.priority + max(0, now_ms - waiting.admitted_ms) // age_boost_ms


class WaitingRoom:
    """Admitted RFCs, waiting or being matched, at most :data:`MAX_WAITING`."""

    def __init__(self, age_boost_ms: int) -> None:
        self._age_boost_ms = age_boost_ms
        self._admitted: dict[Digest, Waiting] = {}
        self._queue: set[Digest] = set()
        self._floor = 0
        """While the room is full nobody in the queue stands below this."""

    def __len__(self) -> int:
        return len(self._admitted)

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many."""
        return len(self._admitted) >= MAX_WAITING

    def queue(self) -> tuple[Waiting, ...]:
        """Those that wait for their turn, in no order."""
        return tuple(self._admitted[rfc_id] for rfc_id in self._queue)

    def get(self, rfc_id: Digest) -> Waiting | None:
        """An RFC that waits or is being matched."""
        return self._admitted.get(rfc_id)

    def add(self, waiting: Waiting) -> None:
        """Admit an RFC, or put one back that could not be matched yet; it keeps its age."""
        if waiting.rfc_id not in self._admitted and not self.is_full:
            self._floor = 0
        self._admitted[waiting.rfc_id] = waiting
        self._queue.add(waiting.rfc_id)

    def remove(self, rfc_id: Digest) -> Waiting | None:
        """Take an RFC out for good; None where it is not here."""
        self._queue.discard(rfc_id)
        return self._admitted.pop(rfc_id, None)

    def next(self, now_ms: int) -> Waiting | None:
        """Whose turn it is: from now on it is being matched, and not offered again unless it is put back.

        The highest priority first; every ``age_boost_ms`` of waiting count as one step of priority, so that small
        holders don't starve: whoever comes (:data:`consensus.market.access.MAX_PRIORITY` + 1) × ``age_boost_ms`` later
        or more is served later, however rich. Among equals the oldest.
        """
        queue = [self._admitted[rfc_id] for rfc_id in self._queue]
        if not queue:
            return None
        chosen = max(
            queue,
            key=lambda waiting: (standing(waiting, now_ms, self._age_boost_ms), -waiting.admitted_ms, waiting.rfc_id),
        )
        self._queue.discard(chosen.rfc_id)
        return chosen

    def last(self, now_ms: int, *, stands_below: int) -> Waiting | None:
        """Who would be served last, where it stands below a priority; None where everybody stands as high or higher.

        Standing only grows while one waits, so that a full queue is not searched for each newcomer in vain.
        """
        if stands_below <= self._floor:
            return None
        boost = self._age_boost_ms
        last = min(
            self.queue(), key=lambda one: (standing(one, now_ms, boost), -one.admitted_ms, one.rfc_id), default=None
        )
        if last is None:
            return None
        self._floor = standing(last, now_ms, boost)
        return last if self._floor < stands_below else None

    def expired(self, now_ms: int) -> tuple[Waiting, ...]:
        """Those in the queue whose deadline has passed."""
        queue = [self._admitted[rfc_id] for rfc_id in self._queue]
        return tuple(waiting for waiting in queue if waiting.rfc.payload.deadline_ms <= now_ms)
