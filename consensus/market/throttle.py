"""How many RFCs and questions a key may put in a time: token buckets, bounded in number. Pure: ms come in.

A user's rate follows its MOR balance as coarsely as its pass tells it (S26), so that whoever holds more may ask more, a
spammer is held at what its stake is worth, and the smallest holder always has a few a second.
"""

from collections import OrderedDict
from collections.abc import Hashable

KEPT = 20_000
"""Buckets remembered; the one used longest ago is forgotten first, and is then full again."""

LEAST_PER_S = 4
"""RFCs a second that any holder of MOR may send."""

MOR_PER_RFC_S = 4
"""So much MOR allows one more RFC a second."""

LEAST_BURST = 64

LEAST_WAITING = 4
"""RFCs of one holder that may wait in a queue at once, at least."""

WAITING_PER_PRIORITY = 8
"""So many more for each step of priority."""


class Bucket:
    """Refills with ``per_s`` units a second up to ``burst``."""

    __slots__ = ("_at_ms", "_milli")

    def __init__(self, burst: int, now_ms: int) -> None:
        self._milli = burst * 1_000
        self._at_ms = now_ms

    def take(self, per_s: int, burst: int, now_ms: int) -> int:
        """Take one unit; 0, or the ms until there is one, and then nothing is taken."""
        passed = max(0, now_ms - self._at_ms)
        self._milli = min(burst * 1_000, self._milli + passed * per_s)
        self._at_ms = max(self._at_ms, now_ms)
        if self._milli < 1_000:
            return -(-(1_000 - self._milli) // per_s)
        self._milli -= 1_000
        return 0


class Throttle:
    """A bucket a key, :data:`KEPT` at most."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, per_s: int, burst: int, now_ms: int) -> int:
        """One more of ``key``'s: 0 where it may, else the ms after which it may."""
        bucket = self._buckets.pop(key, None) or Bucket(burst, now_ms)
        self._buckets[key] = bucket
        while len(self._buckets) > self._kept:
            self._buckets.popitem(last=False)
        return bucket.take(per_s, burst, now_ms)


def rfc_rate(priority: int) -> tuple[int, int]:
    """RFCs a second, and at once, for a pass of ``priority`` (:func:`consensus.market.access.rank` of the balance)."""
    least_mor = 1 << (priority - 2) if priority >= 2 else 0
    per_s = LEAST_PER_S + least_mor // MOR_PER_RFC_S
    return per_s, LEAST_BURST + 2 * per_s


def most_waiting(priority: int) -> int:
    """RFCs of one holder that may wait at its router at once."""
    return LEAST_WAITING + WAITING_PER_PRIORITY * priority
