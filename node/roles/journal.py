"""The desk's memory on disk: passes, matches and filings, so that a restarted home router still knows its tickets.

Without it a restart between a match and its batch would cost the provider its pay and the user its pass.
"""

from collections.abc import Callable

import msgspec

from consensus.market.desk import Desk
from consensus.market.errors import MarketError, SettlementInvalid
from consensus.market.ledger_state import Ledger
from contracts.typed_data import Digest
from gossip.messages import Signed, decode, encode
from gossip.messages.market import PassIssued, Rfc, Ticket
from gossip.messages.router import DeliveryFiling, ReportFiling, decode_router_ask
from gossip.messages.session import Settlement
from node.context import Node

PASS = "access-pass"  # noqa: S105  # a kind of event, not a password
"""A pass that some router issued."""
MATCH = "match"
"""A match of this desk."""
FILING = "filing"
"""What a user or provider filed for one of them."""
WITHDRAWAL = "withdrawal"
"""An RFC that was taken back after a provider had been drawn, and what that cost."""

_MATCH_BYTES = 32_768


class _Placed(msgspec.Struct, frozen=True, array_like=True):
    rfc: Signed[Rfc]
    ticket: Signed[Ticket]


class _Withdrawn(msgspec.Struct, frozen=True, array_like=True):
    rfc: Signed[Rfc]
    cost: int


class DeskJournal:
    """Appends what a desk did, and does it again after a restart."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last_seq = 0
        self._yesterday = 0
        """The last event before the present day."""
        self.on_pass: Callable[[Signed[PassIssued]], None] = lambda _: None
        """Called with every pass that is restored."""
        self._filings: dict[tuple[Digest, type], bytes] = {}
        """The last filing of either side for each open ticket: those who repeat themselves write nothing."""

    async def note_pass(self, issued: Signed[PassIssued], *, own: bool) -> None:
        """A pass; an ``own`` one is on the disk before its user gets it."""
        await self._append(PASS, encode(issued), durable=own)

    async def note_match(self, rfc: Signed[Rfc], ticket: Signed[Ticket]) -> None:
        """A match; on the disk with the first filing at the latest."""
        await self._append(MATCH, encode(_Placed(rfc, ticket)), durable=False)

    async def note_withdrawal(self, rfc: Signed[Rfc], cost: int) -> None:
        """An RFC was taken back at ``cost`` T; on the disk with the next pass or filing at the latest."""
        await self._append(WITHDRAWAL, encode(_Withdrawn(rfc, cost)), durable=False)

    async def note_filing(self, filing: ReportFiling | DeliveryFiling) -> None:
        """A filing that the desk took; on the disk before the other side is told so."""
        place, data = (filing.ticket_id, type(filing)), encode(filing)
        if self._filings.get(place) != data:
            self._filings[place] = data
            await self._append(FILING, data, durable=True)

    def forget_filings(self, ticket_id: Digest) -> None:
        """A batch has settled a ticket."""
        self._filings.pop((ticket_id, ReportFiling), None)
        self._filings.pop((ticket_id, DeliveryFiling), None)

    async def begin_day(self) -> None:
        """Drop what is older than yesterday: passes have ended, tickets can't be settled any more."""
        await self._node.store.trim_journal(self._yesterday)
        self._yesterday = self._last_seq

    async def restore(self, desk: Desk, ledger: Ledger, slot: int) -> tuple[Settlement, ...]:
        """Bring ``desk`` to where it stood; the settlements that were complete and are in no batch."""
        settlements = []
        while events := await self._node.store.journal(self._last_seq):
            for event in events:
                self._last_seq = event.seq
                if event.kind == PASS:
                    self._restore_pass(desk, ledger, decode(Signed[PassIssued], event.data))
                elif event.kind == MATCH:
                    await self._restore_match(desk, ledger, slot, decode(_Placed, event.data, _MATCH_BYTES))
                elif event.kind == WITHDRAWAL:
                    withdrawn = decode(_Withdrawn, event.data, _MATCH_BYTES)
                    desk.allowances.restore(withdrawn.rfc.payload, 0)
                    desk.allowances.release(withdrawn.rfc.payload.session_key, 0, withdrawn.cost)
                elif event.kind == FILING and (settlement := self._restore_filing(desk, slot, event.data)):
                    settlements.append(settlement)
        desk.restored()
        desk.allowances.forget_before(self._node.terms.params.day_of(slot))
        return tuple(settlements)

    async def _append(self, kind: str, data: bytes, *, durable: bool) -> None:
        self._last_seq = await self._node.store.append(kind, data, durable=durable)

    def _restore_pass(self, desk: Desk, ledger: Ledger, issued: Signed[PassIssued]) -> None:
        access_pass = issued.payload.access_pass.payload
        use = ledger.sessions.get(access_pass.day, {}).get(access_pass.session_key)
        try:
            desk.allowances.note_issued(issued.payload, used=0 if use is None else use.used)
            self.on_pass(issued)
        except MarketError as error:
            self._node.log.warning("stored pass does not hold", reason=str(error))

    async def _restore_match(self, desk: Desk, ledger: Ledger, slot: int, placed: _Placed) -> None:
        ticket_id = placed.ticket.id(self._node.terms.domain)
        matched = placed.ticket.payload.slot
        is_over = slot - matched > self._node.terms.params.settle_window_slots
        outcome = await self._node.store.outcome(ticket_id)
        desk.restore(
            placed.rfc,
            placed.ticket,
            is_settled=ledger.is_settled(placed.rfc.payload),
            is_over=is_over,
            credited_wei=0 if outcome is None else outcome.credited_wei,
        )

    def _restore_filing(self, desk: Desk, slot: int, data: bytes) -> Settlement | None:
        filing = decode_router_ask(data)
        try:
            if isinstance(filing, ReportFiling):
                return desk.file_report(filing, slot)
            if isinstance(filing, DeliveryFiling):
                return desk.file_delivery(filing, slot)
        except SettlementInvalid as error:
            self._node.log.warning("stored filing does not hold", reason=str(error))
        return None
