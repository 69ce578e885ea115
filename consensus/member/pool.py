"""Finished sessions on their way into a batch, at one member."""

from collections import OrderedDict
from collections.abc import Iterable

from consensus.market.errors import SettlementInvalid
from contracts.typed_data import Digest
from gossip.messages.session import Settlement

MAX_WAITING = 50_000
"""Settlements held at most; past that new ones are refused until a batch makes room."""


class SettlementPool:
    """Settlements whose signatures were checked, in the order in which they came."""

    def __init__(self) -> None:
        self.arrivals = 0
        """Settlements taken so far."""
        self._waiting: OrderedDict[Digest, Settlement] = OrderedDict()
        self._own: set[Digest] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, ticket_id: Digest, settlement: Settlement, *, own: bool) -> bool:
        """Take the settlement of ``ticket_id``; False where it is held already.

        ``own`` ones, filed with this member's desk, are told to the committee again until they are settled. Raises
        :class:`~consensus.market.errors.SettlementInvalid` where there is no room.
        """
        if own:
            self._own.add(ticket_id)
        if ticket_id in self._waiting:
            return False
        if len(self._waiting) >= MAX_WAITING:
            raise SettlementInvalid("pool_full", ticket_id, retry=True)
        self._waiting[ticket_id] = settlement
        self.arrivals += 1
        return True

    def waiting(self) -> tuple[Settlement, ...]:
        """Everything that waits, oldest first."""
        return tuple(self._waiting.values())

    def own(self) -> tuple[Settlement, ...]:
        """Those of this member's own desk."""
        return tuple(self._waiting[ticket_id] for ticket_id in sorted(self._own) if ticket_id in self._waiting)

    def forget(self, tickets: Iterable[Digest]) -> int:
        """These were settled, or can't be; how many of them were held."""
        before = len(self._waiting)
        for ticket_id in tickets:
            self._waiting.pop(ticket_id, None)
            self._own.discard(ticket_id)
        return before - len(self._waiting)
