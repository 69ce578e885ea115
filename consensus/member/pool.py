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
        self._own: dict[Digest, int] = {}
        """This member's own, with the slot in which each came."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, ticket_id: Digest, settlement: Settlement, *, own: bool, slot: int = 0) -> bool:
        """Take the settlement of ``ticket_id``, which came in ``slot``; False where it is held already.

        ``own`` ones, filed with this member's desk, are told to the committee again until they are settled. Raises
        :class:`~consensus.market.errors.SettlementInvalid` where there is no room.
        """
        if own:
            self._own.setdefault(ticket_id, slot)
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

    def own(self, before: int | None = None) -> tuple[Settlement, ...]:
        """Those of this member's own desk; only those that came before a slot, where it is given."""
        held = (ticket_id for ticket_id, slot in self._own.items() if before is None or slot < before)
        return tuple(self._waiting[ticket_id] for ticket_id in sorted(held) if ticket_id in self._waiting)

    def forget(self, tickets: Iterable[Digest]) -> int:
        """These were settled, or can't be; how many of them were held."""
        before = len(self._waiting)
        for ticket_id in tickets:
            self._waiting.pop(ticket_id, None)
            self._own.pop(ticket_id, None)
        return before - len(self._waiting)
