"""A desk with everything that its tests need to deal with it."""

from typing import Any

import pytest
from msgspec.structs import replace

from consensus.market.day_account import DayAccount
from consensus.market.desk import Desk
from consensus.market.errors import PassRefused, RfcRefused
from consensus.market.ledger_state import account_of
from contracts.typed_data import Address, Digest, Uint256
from gossip.messages.base import Signed, sign
from gossip.messages.market import AccessPass, Match, Rfc, Ticket
from gossip.messages.router import DeliveryFiling, Matched, ReportFiling
from gossip.messages.session import Settlement
from tests.consensus.builders import GENESIS_MS, PRICE, SALT, WEI, World, make_terms, named_digest

NOW = GENESIS_MS + 12_000
USER_MAX = 3_456 * WEI // 10**11 * 5 // 10_000_000
"""T a day of who holds 5 MOR."""


class Counter:
    """A desk with everything a test needs to deal with it, and helpers that sign."""

    def __init__(self, member_count: int = 1, **params: Any) -> None:
        self.world = World(member_count=member_count)
        if params:
            self.world.terms = make_terms(**params)
        self.desk = Desk(self.world.terms, self.world.router.address, lambda _: [m.address for m in self.world.members])
        ledger = self.world.ledger()
        self.listing = ledger.listing
        self.account: DayAccount = account_of(ledger, self.world.terms, 0)

    def grant(self, balance_mor: int = 5, salt: Digest = SALT, accept_rank: int = 0, **request: Any) -> AccessPass:
        user, session = request.pop("user", "user"), request.pop("session", "session")
        asked = self.world.pass_request(user, session, **request).payload
        return self.desk.allowances.grant(
            asked, balance_wei=balance_mor * WEI, account=self.account, salt=salt, now_ms=NOW, accept_rank=accept_rank
        )

    def rfc(self, granted: AccessPass, session: str = "session", **changes: Any) -> Signed[Rfc]:
        return self.world.rfc(session, sign(granted, self.world.router, self.world.domain), **changes)

    def admit(self, rfc: Signed[Rfc], now_ms: int = NOW, slot: int = 1, spent_wei: int = 0) -> Digest:
        rfc_id = rfc.id(self.world.domain)
        account = replace(self.account, credited_wei=Uint256(spent_wei))
        self.desk.admit(rfc, rfc_id, now_ms=now_ms, slot=slot, account=account, listing=self.listing)
        return rfc_id

    def place(self, rfc_id: Digest, provider: str = "provider", slot: int = 1) -> Digest:
        world = self.world
        ticket = self.open_ticket(rfc_id, provider, slot)
        signed = sign(ticket, world.router, world.domain)
        ticket_id = signed.id(world.domain)
        made = Match(rfc_id, ticket_id, slot, named_digest("b"), named_digest("d"), 0, (), (), world.router.address)
        return self.desk.place(Matched(sign(made, world.router, world.domain), signed, world.record(provider)))

    def open_ticket(self, rfc_id: Digest, provider: str = "provider", slot: int = 1, price_wei: int = PRICE) -> Ticket:
        bid = self.world.bid(provider, price_wei=price_wei)
        return self.desk.open_ticket(rfc_id, bid, slot=slot, now_ms=self.world.slot_ms(slot), account=self.account)

    def session(self, token_max: int = 100, index: int = 0) -> tuple[Digest, Digest, Address]:
        """One RFC of one user, matched: its id, its ticket's, and the session key."""
        granted = self.grant()
        rfc_id = self.admit(self.rfc(granted, token_max=token_max, index=index))
        assert self.desk.next_waiting(NOW) is not None
        return rfc_id, self.place(rfc_id), granted.session_key

    def report(self, ticket_id: Digest, tokens: int = 50, with_receipt: bool = False, **changes: Any) -> ReportFiling:
        receipt = self.world.receipt(ticket_id, tokens) if with_receipt else None
        return ReportFiling(ticket_id, self.world.report(ticket_id, tokens, **changes), receipt)

    def delivery(self, ticket_id: Digest, voucher: int | None = None, receipt: int | None = None) -> DeliveryFiling:
        return DeliveryFiling(
            ticket_id,
            None if voucher is None else self.world.voucher(ticket_id, voucher),
            None if receipt is None else self.world.receipt(ticket_id, receipt),
        )

    def file(self, filing: ReportFiling | DeliveryFiling, slot: int) -> Settlement | None:
        if isinstance(filing, ReportFiling):
            return self.desk.file_report(filing, slot)
        return self.desk.file_delivery(filing, slot)


def pass_code(counter: Counter, **request: Any) -> str:
    with pytest.raises(PassRefused) as refused:
        counter.grant(**request)
    return refused.value.code


def rfc_refused(counter: Counter, rfc: Signed[Rfc], **options: Any) -> RfcRefused:
    with pytest.raises(RfcRefused) as refused:
        counter.admit(rfc, **options)
    return refused.value
