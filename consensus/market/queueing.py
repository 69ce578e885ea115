"""Where an RFC stands in its router's queue and how long it may wait: what its user is told meanwhile (S26)."""

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from consensus.market.waiting import Waiting, standing
from contracts.typed_data import Digest

KEPT_TICKETS = 20_000
KEPT_MODELS = 1_000
WEIGHT = 8
"""A session counts for an eighth of the mean."""


class Place(msgspec.Struct, frozen=True):
    """Of an RFC among those of its model: ``position`` 0 is served next, ``waiting`` of them wait."""

    position: int
    waiting: int


def compute_places(queue: Iterable[Waiting], now_ms: int, age_boost_ms: int) -> dict[Digest, Place]:
    """Everybody's place, by RFC id; the order is that of :meth:`consensus.market.waiting.WaitingRoom.next`."""
    by_model: dict[Digest, list[Waiting]] = {}
    for waiting in queue:
        by_model.setdefault(waiting.rfc.payload.model_id, []).append(waiting)
    places: dict[Digest, Place] = {}
    for line in by_model.values():
        line.sort(key=lambda one: (standing(one, now_ms, age_boost_ms), -one.admitted_ms, one.rfc_id), reverse=True)
        places |= {waiting.rfc_id: Place(number, len(line)) for number, waiting in enumerate(line)}
    return places


class Pace:
    """How long sessions of each model take, from their match to their first filing. Bounded; times are ms."""

    def __init__(self) -> None:
        self._begun: OrderedDict[Digest, tuple[Digest, int]] = OrderedDict()
        self._mean_ms: OrderedDict[Digest, int] = OrderedDict()

    def begin(self, ticket_id: Digest, model_id: Digest, now_ms: int) -> None:
        """A session was matched."""
        self._begun[ticket_id] = model_id, now_ms
        while len(self._begun) > KEPT_TICKETS:
            self._begun.popitem(last=False)

    def end(self, ticket_id: Digest, now_ms: int) -> None:
        """Somebody filed that it is over; only the first to say so counts."""
        begun = self._begun.pop(ticket_id, None)
        if begun is None:
            return
        model_id, at_ms = begun
        took = max(1, now_ms - at_ms)
        mean = self._mean_ms.pop(model_id, took)
        self._mean_ms[model_id] = mean + (took - mean) // WEIGHT
        while len(self._mean_ms) > KEPT_MODELS:
            self._mean_ms.popitem(last=False)

    def expected_ms(self, model_id: Digest, position: int, slots: int) -> int:
        """The wait at ``position`` where ``slots`` sessions of the model run at once; 0: nothing to tell from yet."""
        return (position + 1) * self._mean_ms.get(model_id, 0) // max(1, slots)
