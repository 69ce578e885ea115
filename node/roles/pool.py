"""Finished sessions on their way into a batch, at one member."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from consensus.market.errors import SettlementInvalid
from consensus.market.settlement import VerifiedSettlements
from contracts.typed_data import Digest
from gossip.messages.session import Settlement
from node.context import Node

MAX_WAITING = 50_000
"""Settlements held at most; past that new ones are refused until a batch makes room."""


class SettlementPool:
    """Settlements whose signatures were checked, in the order in which they came."""

    def __init__(self, node: Node, verified: VerifiedSettlements) -> None:
        self._node = node
        self._verified = verified
        self._waiting: OrderedDict[Digest, Settlement] = OrderedDict()
        self._own: set[Digest] = set()
        self.on_drop: list[Callable[[Digest], None]] = []
        """Called with tickets that no batch will settle."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, settlement: Settlement, *, own: bool = False) -> bool:
        """Take a settlement; False where it is held already or there is no room.

        ``own`` ones, filed with this member's desk, are told to the committee again until they are settled.
        Raises :class:`~consensus.market.errors.SettlementInvalid` or :class:`~gossip.errors.MessageError`.
        """
        ticket_id = settlement.ticket.id(self._node.terms.domain)
        if ticket_id in self._waiting:
            return False
        if len(self._waiting) >= MAX_WAITING:
            raise SettlementInvalid("pool_full", ticket_id, retry=True)
        self._verified(settlement)
        self._waiting[ticket_id] = settlement
        if own:
            self._own.add(ticket_id)
        return True

    def waiting(self) -> tuple[Settlement, ...]:
        """Everything that waits, oldest first."""
        return tuple(self._waiting.values())

    def own(self) -> tuple[Settlement, ...]:
        """Those of this member's own desk."""
        return tuple(self._waiting[ticket_id] for ticket_id in self._own if ticket_id in self._waiting)

    def settled(self, tickets: Iterable[Digest]) -> None:
        """A batch has settled these."""
        for ticket_id in tickets:
            self._forget(ticket_id)

    def drop(self, ticket_id: Digest) -> None:
        """Forget one that can't be settled."""
        self._forget(ticket_id)
        for callback in self.on_drop:
            callback(ticket_id)

    def _forget(self, ticket_id: Digest) -> None:
        self._waiting.pop(ticket_id, None)
        self._own.discard(ticket_id)
