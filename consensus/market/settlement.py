"""What a settlement says of itself: every signature, and that its parts belong together.

This is the dear half of settling (eight recoveries) and needs no ledger, so a settlement is checked once when it
arrives and :class:`VerifiedSettlements` remembers it. What depends on the ledger is :mod:`consensus.market.ledger`'s.
"""

from collections import OrderedDict

import msgspec
from eth_hash.auto import keccak

from consensus.market.errors import SettlementInvalid
from consensus.market.rivals import find_fault
from consensus.params import Terms
from contracts.typed_data import Address, Digest, Domain, Signature
from gossip.errors import SignerMismatch
from gossip.messages.base import Signed, Unit, encode
from gossip.messages.market import AccessPass, Rfc, Ticket
from gossip.messages.records import Bid
from gossip.messages.session import Cosigned, FailMark, Settlement

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
    ids = _ids(settlement, terms)
    _check_signatures(settlement, ids, terms.domain, standing if standing is not None else Standing())
    _check_parts(settlement, ids, terms)
    if settlement.receipt is not None:
        _check_receipt(settlement.receipt, settlement.ticket.payload, terms.domain)
    return ids


def certified_ids(settlement: Settlement, terms: Terms) -> VerifiedIds:
    """As :func:`verify_settlement` without its signatures: for a batch whose certificate says that they were checked.

    Only more than 2/3 of a committee's stake could have certified a bad one. Raises :class:`SettlementInvalid`.
    """
    ids = _ids(settlement, terms)
    _check_parts(settlement, ids, terms)
    return ids


class Standing:
    """Passes and bids whose signature holds: they come again and again, each time with another settlement."""

    def __init__(self) -> None:
        self._good: set[tuple[Digest, Signature]] = set()

    def check(self, signed: Signed[AccessPass] | Signed[Bid], value: Digest) -> None:
        """Raise :class:`~gossip.errors.SignerMismatch` unless who it names signed; ``value`` is the message's id."""
        known = (value, signed.signature)
        if known in self._good:
            return
        signed.signer_of(value)
        if len(self._good) >= MAX_REMEMBERED:
            self._good.clear()
        self._good.add(known)


class VerifiedSettlements:
    """:func:`verify_settlement` that remembers what it has found good."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._known: OrderedDict[Settlement, VerifiedIds] = OrderedDict()
        self._by_digest: dict[Digest, Settlement] = {}
        self._standing = Standing()

    def __call__(self, settlement: Settlement) -> VerifiedIds:
        """The settlement's ids. Raises :class:`SettlementInvalid`."""
        found = self._known.get(settlement)
        if found is None:
            found = self.check(settlement)
            self.note(settlement, found)
        return found

    def __contains__(self, settlement: Settlement) -> bool:
        return settlement in self._known

    def check(self, settlement: Settlement) -> VerifiedIds:
        """As a call, but nothing is remembered of the settlement: any thread may do it. Raises as a call does."""
        return verify_settlement(settlement, self._terms, self._standing)

    def find(self, digest: Digest) -> Settlement | None:
        """The settlement whose encoding hashes to ``digest``, where it was found good."""
        return self._by_digest.get(digest)

    def ticket_id(self, settlement: Settlement) -> Digest:
        """The id of a settlement's ticket: what was found when it was checked, else worked out."""
        found = self._known.get(settlement)
        return settlement.ticket.id(self._terms.domain) if found is None else found.ticket_id

    def note(self, settlement: Settlement, ids: VerifiedIds) -> None:
        """Take the caller's word that ``settlement`` was verified elsewhere, under the same terms."""
        if len(self._known) >= MAX_REMEMBERED:
            oldest, _ = self._known.popitem(last=False)
            self._by_digest.pop(settlement_digest(oldest), None)
        self._known[settlement] = ids
        self._by_digest[settlement_digest(settlement)] = settlement

    def forget(self, settlement: Settlement) -> None:
        """Drop a settlement that a batch has settled."""
        if self._known.pop(settlement, None) is not None:
            self._by_digest.pop(settlement_digest(settlement), None)


def settlement_digest(settlement: Settlement) -> Digest:
    """keccak of the canonical encoding: names these very bytes, where a ticket may be settled in several ways."""
    return Digest(keccak(encode(settlement)))


def _ids(settlement: Settlement, terms: Terms) -> VerifiedIds:
    bid = settlement.ticket.payload.bid
    return VerifiedIds(
        ticket_id=settlement.ticket.id(terms.domain),
        rfc_id=settlement.rfc.id(terms.domain),
        bid_id=bid.id(terms.domain),
        session_key=settlement.ticket.payload.session_key,
        provider=bid.payload.provider,
    )


def _check_signatures(settlement: Settlement, ids: VerifiedIds, domain: Domain, standing: Standing) -> None:
    """Every signature but the receipt's."""
    access_pass = settlement.rfc.payload.access_pass
    try:
        standing.check(access_pass, access_pass.id(domain))
        settlement.rfc.signer_of(ids.rfc_id)
        settlement.ticket.signer_of(ids.ticket_id)
        standing.check(settlement.ticket.payload.bid, ids.bid_id)
        for rival in settlement.ticket.payload.rivals:
            standing.check(rival, rival.id(domain))
        for filing in (settlement.voucher, settlement.report, settlement.fail_mark):
            if filing is not None:
                filing.signer(domain)
    except SignerMismatch as error:
        raise SettlementInvalid("signature", str(error)) from error


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


def _check_receipt(receipt: Cosigned, ticket: Ticket, domain: Domain) -> None:
    try:
        receipt.check(ticket, domain)
    except SignerMismatch as error:
        raise SettlementInvalid("signature", str(error)) from error
