"""The queue of RFCs at a home router: by MOR balance, and by patience (S26)."""

from heapq import heapify, heappop, heappush

import msgspec

from contracts.typed_data import Digest
from gossip.messages.base import Signed
from gossip.messages.market import Rfc

MAX_WAITING = 4_096
"""RFCs that wait or are being matched at once."""


SLACK = 256
"""RFCs that have left and are remembered beside those that wait."""


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
        self._ages: dict[int, list[tuple[int, int, Digest]]] = {}
        """By priority a heap of who has waited longest; those that have left the queue go when they come up."""
        self._deadlines: list[tuple[int, Digest]] = []
        """A heap; so here."""
        self._dated: set[Digest] = set()
        """What is in it."""

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
        if waiting.rfc_id not in self._queue:
            self._queue.add(waiting.rfc_id)
            age = waiting.admitted_ms, -int.from_bytes(waiting.rfc_id, "big"), waiting.rfc_id
            heappush(self._ages.setdefault(waiting.priority, []), age)
            self._date(waiting)

    def _date(self, waiting: Waiting) -> None:
        if waiting.rfc_id not in self._dated:
            self._dated.add(waiting.rfc_id)
            heappush(self._deadlines, (waiting.rfc.payload.deadline_ms, waiting.rfc_id))

    def remove(self, rfc_id: Digest) -> Waiting | None:
        """Take an RFC out for good; None where it is not here."""
        self._queue.discard(rfc_id)
        removed = self._admitted.pop(rfc_id, None)
        if len(self._deadlines) > 2 * len(self._admitted) + SLACK:
            self._forget_gone()
        return removed

    def _forget_gone(self) -> None:
        """What has left goes when it comes up, which a deadline far off and a low priority never do by themselves."""
        self._dated &= self._admitted.keys()
        self._deadlines = [one for one in self._deadlines if one[1] in self._dated]
        heapify(self._deadlines)
        for priority, ages in tuple(self._ages.items()):
            self._ages[priority] = [one for one in ages if one[2] in self._queue]
            heapify(self._ages[priority])

    def next(self, now_ms: int) -> Waiting | None:
        """Whose turn it is: from now on it is being matched, and not offered again unless it is put back.

        The highest priority first; every ``age_boost_ms`` of waiting count as one step of priority, so that small
        holders don't starve: whoever comes (:data:`consensus.market.access.MAX_PRIORITY` + 1) × ``age_boost_ms`` later
        or more is served later, however rich. Among equals the oldest.
        """
        best, rfc_id, of = (-1, 0), Digest(b""), -1
        for priority, ages in tuple(self._ages.items()):
            while ages and ages[0][2] not in self._queue:
                heappop(ages)
            if not ages:
                del self._ages[priority]
                continue
            admitted_ms, _, oldest = ages[0]  # of one priority, who waits longest stands highest at any time
            key = priority + max(0, now_ms - admitted_ms) // self._age_boost_ms, -admitted_ms
            if key > best or (key == best and oldest > rfc_id):
                best, rfc_id, of = key, oldest, priority
        if of < 0:
            return None
        self._queue.discard(rfc_id)
        heappop(self._ages[of])
        return self._admitted[rfc_id]

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
        late: list[Waiting] = []
        while self._deadlines and self._deadlines[0][0] <= now_ms:
            _, rfc_id = heappop(self._deadlines)
            self._dated.discard(rfc_id)
            if rfc_id in self._queue:
                late.append(self._admitted[rfc_id])
        for waiting in late:  # they stay in the queue until somebody removes them
            self._date(waiting)
        return tuple(late)
