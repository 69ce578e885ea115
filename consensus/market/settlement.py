"""What a settlement says of itself: every signature, and that its parts belong together.

This is the dear half of settling (five recoveries and more) and needs no ledger, so a settlement is checked once when
it arrives and :class:`VerifiedSettlements` remembers it. What depends on the ledger is
:mod:`consensus.market.ledger`'s.
"""

from collections import OrderedDict

import msgspec

from consensus.market.errors import SettlementInvalid
from consensus.market.rivals import find_fault
from consensus.params import Terms
from contracts.typed_data import Address, Digest, Domain
from gossip.errors import SignerMismatch
from gossip.messages.base import Signed, Unit
from gossip.messages.market import AccessPass, Rfc, Ticket
from gossip.messages.records import Bid
from gossip.messages.session import FailMark, Settlement

MAX_REMEMBERED = 60_000
"""Settlements whose signatures are remembered as checked."""


class VerifiedIds(msgspec.Struct, frozen=True):
    """The ids of a settlement whose signatures hold."""

    ticket_id: Digest
    rfc_id: Digest
    bid_id: Digest
    session_key: Address
    provider: Address


def verify_settlement(settlement: Settlement, terms: Terms, standing: "Standing | None" = None) -> VerifiedIds:
    """Check all that needs no ledger; raise :class:`SettlementInvalid` naming the first thing that is wrong.

    The pass is by the issuer that it names, RFC, voucher and report by the session key, the bid by its provider, the
    ticket by the pass's issuer, the receipt by both sides; ids, keys and limits agree from part to part. Whether the
    issuer was a router of that day is the ledger's to say. ``standing`` remembers the passes and bids that were found
    good.
    """
    try:
        ids = _check_signatures(settlement, terms.domain, standing if standing is not None else Standing())
        _check_parts(settlement, ids, terms)
        if settlement.receipt is not None:
            settlement.receipt.check(settlement.ticket.payload, terms.domain)
    except SignerMismatch as error:
        raise SettlementInvalid("signature", str(error)) from error
    return ids


def certified_ids(settlement: Settlement, terms: Terms) -> VerifiedIds:
    """As :func:`verify_settlement` without its signatures: for a batch whose certificate says that they were checked.

    Only more than 2/3 of a committee's stake could have certified a bad one. Raises :class:`SettlementInvalid`.
    """
    ids = _ids(settlement, settlement.ticket.payload.bid.id(terms.domain), terms.domain)
    _check_parts(settlement, ids, terms)
    return ids


class Standing:
    """Passes and bids whose signature holds: they come again and again, each time with another settlement.

    Of one domain: an instance is for one network.
    """

    def __init__(self) -> None:
        self._good: dict[Signed[AccessPass] | Signed[Bid], Digest] = {}

    def check(self, signed: Signed[AccessPass] | Signed[Bid], domain: Domain) -> Digest:
        """The message's id. Raises :class:`~gossip.errors.SignerMismatch` unless who it names signed."""
        known = self._good.get(signed)
        if known is not None:
            return known
        value = signed.id(domain)
        signed.signer_of(value)
        if len(self._good) >= MAX_REMEMBERED:
            self._good.clear()
        self._good[signed] = value
        return value


class VerifiedSettlements:
    """:func:`verify_settlement` that remembers what it has found good."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._known: OrderedDict[Digest, tuple[Settlement, VerifiedIds]] = OrderedDict()
        self._standing = Standing()

    def __call__(self, settlement: Settlement) -> VerifiedIds:
        """The settlement's ids. Raises :class:`SettlementInvalid`."""
        found = self._known.get(settlement.digest)
        if found is not None:
            return found[1]
        ids = self.check(settlement)
        self.note(settlement, ids)
        return ids

    def __contains__(self, settlement: Settlement) -> bool:
        return settlement.digest in self._known

    def check(self, settlement: Settlement) -> VerifiedIds:
        """As a call, but nothing is remembered of the settlement: any thread may do it. Raises as a call does."""
        return verify_settlement(settlement, self._terms, self._standing)

    def find(self, digest: Digest) -> Settlement | None:
        """The settlement whose encoding hashes to ``digest``, where it was found good."""
        found = self._known.get(digest)
        return None if found is None else found[0]

    def ticket_id(self, settlement: Settlement) -> Digest:
        """The id of a settlement's ticket: what was found when it was checked, else worked out."""
        found = self._known.get(settlement.digest)
        return settlement.ticket.id(self._terms.domain) if found is None else found[1].ticket_id

    def note(self, settlement: Settlement, ids: VerifiedIds) -> None:
        """Take the caller's word that ``settlement`` was verified elsewhere, under the same terms."""
        if len(self._known) >= MAX_REMEMBERED:
            self._known.popitem(last=False)
        self._known[settlement.digest] = settlement, ids

    def forget(self, settlement: Settlement) -> None:
        """Drop a settlement that a batch has settled."""
        self._known.pop(settlement.digest, None)


def _ids(settlement: Settlement, bid_id: Digest, domain: Domain) -> VerifiedIds:
    ticket = settlement.ticket.payload
    return VerifiedIds(
        ticket_id=settlement.ticket.id(domain),
        rfc_id=settlement.rfc.id(domain),
        bid_id=bid_id,
        session_key=ticket.session_key,
        provider=ticket.bid.payload.provider,
    )


def _check_signatures(settlement: Settlement, domain: Domain, standing: Standing) -> VerifiedIds:
    """Every signature but the receipt's. Raises :class:`~gossip.errors.SignerMismatch`."""
    standing.check(settlement.rfc.payload.access_pass, domain)
    ids = _ids(settlement, standing.check(settlement.ticket.payload.bid, domain), domain)
    settlement.rfc.signer_of(ids.rfc_id)
    settlement.ticket.signer_of(ids.ticket_id)
    for rival in settlement.ticket.payload.rivals:
        standing.check(rival, domain)
    for filing in (settlement.voucher, settlement.report, settlement.fail_mark):
        if filing is not None:
            filing.signer(domain)
    return ids


def _check_parts(settlement: Settlement, ids: VerifiedIds, terms: Terms) -> None:
    """That the parts belong together, whoever signed them."""
    rfc = settlement.rfc.payload
    access_pass = rfc.access_pass.payload
    if access_pass.session_key != rfc.session_key:
        raise SettlementInvalid("pass_session_key", access_pass.session_key)
    _check_ticket(settlement.ticket.payload, rfc, ids.rfc_id, terms)
    _check_filings(settlement, ids)


def _check_ticket(ticket: Ticket, rfc: Rfc, rfc_id: Digest, terms: Terms) -> None:
    bid = ticket.bid.payload
    slot_start = terms.genesis_ms + ticket.slot * terms.params.slot_ms
    wrong: tuple[tuple[str, bool, object], ...] = (
        ("ticket_router", ticket.router != rfc.access_pass.payload.issuer, ticket.router),
        ("ticket_rfc", ticket.rfc_id != rfc_id, ticket.rfc_id),
        ("ticket_session_key", ticket.session_key != rfc.session_key, ticket.session_key),
        ("ticket_token_max", not 0 < ticket.token_max <= rfc.token_max, ticket.token_max),
        ("ticket_prompt_bound", ticket.prompt_bound != rfc.prompt_bound, ticket.prompt_bound),
        ("unit_unsupported", rfc.unit is not Unit.TEXT_TOKEN, rfc.unit.name),
        ("bid_unit", bid.unit is not rfc.unit, bid.unit.name),
        ("bid_model", bid.model_id != rfc.model_id, bid.model_id),
        ("bid_price", bid.price_wei == 0, bid.price_wei),
        ("bid_slots", bid.slots == 0, bid.slots),
        ("bid_prompt_max", bid.prompt_max < rfc.prompt_bound, bid.prompt_max),
        ("bid_expired", bid.expires_ms <= slot_start, bid.expires_ms),
    )
    for reason, is_wrong, value in wrong:
        if is_wrong:
            raise SettlementInvalid(reason, value)
    if (fault := find_fault(ticket, terms)) is not None:
        raise SettlementInvalid(*fault)


def _check_filings(settlement: Settlement, ids: VerifiedIds) -> None:
    voucher, report, receipt = settlement.voucher, settlement.report, settlement.receipt
    if voucher is None and report is None and receipt is None:
        raise SettlementInvalid("nothing_filed", ids.ticket_id)
    for name, filing in (("voucher", voucher), ("report", report)):
        if filing is None:
            continue
        if filing.payload.ticket_id != ids.ticket_id:
            raise SettlementInvalid(f"{name}_ticket", filing.payload.ticket_id)
        if filing.payload.session_key != ids.session_key:
            raise SettlementInvalid(f"{name}_session_key", filing.payload.session_key)
    if settlement.fail_mark is not None:
        _check_fail_mark(settlement.fail_mark.payload, settlement, ids)
    if report is not None and report.payload.unit is not settlement.rfc.payload.unit:
        raise SettlementInvalid("report_unit", report.payload.unit.name)
    if receipt is not None and receipt.receipt.ticket_id != ids.ticket_id:
        raise SettlementInvalid("receipt_ticket", receipt.receipt.ticket_id)


def _check_fail_mark(told: FailMark, settlement: Settlement, ids: VerifiedIds) -> None:
    if settlement.report is None or settlement.report.payload.passed:
        raise SettlementInvalid("mark_without_fail", ids.ticket_id)
    if told.ticket_id != ids.ticket_id:
        raise SettlementInvalid("mark_ticket", told.ticket_id)
    if told.router != settlement.ticket.payload.router:
        raise SettlementInvalid("mark_router", told.router)
