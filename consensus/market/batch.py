"""Batches: what the committee agrees on every slot, and the one path that makes and checks them (S12, S17).

A proposer drafts the next ledger from the pending settlements, a checker drafts it from the body that it was sent;
header and ledger come out of the same draft, so a header is valid exactly where the checker computes the same.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from consensus.committee import Committee
from consensus.market.beacon import verify_reveal
from consensus.market.errors import BatchInvalid, BeaconInvalid, ListingInvalid, OpinionInvalid, SettlementInvalid
from consensus.market.ledger import Draft
from consensus.market.ledger_state import Ledger, Outcome, state_root
from consensus.market.settlement import VerifiedSettlements
from consensus.params import Terms
from contracts.merkle import merkle_root
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Uint256
from gossip.messages.base import Signed, encode
from gossip.messages.committee import (
    MAX_BATCH_BYTES,
    MAX_OPINIONS,
    BatchBody,
    BatchHeader,
    DayOpening,
    HandOverCertificate,
    Rescue,
    batch_hash,
)
from gossip.messages.listing import MAX_ORDERS, ListingOrder
from gossip.messages.opinions import Opinion
from gossip.messages.records import BeaconCommitment
from gossip.messages.session import Settlement

MAX_SETTLED_BYTES = MAX_BATCH_BYTES - (2 << 20)
"""A proposer puts no more into a batch: what else is in a proposal takes less than 2 MiB."""

MAX_BODY_BYTES = MAX_BATCH_BYTES - (1 << 20)
"""A larger body is no valid batch. With header and certificate it stays below what gossip, store and sync read: a batch
that was decided and can't be read would end the network."""

MAX_COMMITMENTS = 64
"""Commitments in one batch at most."""


class Rejected(msgspec.Struct, frozen=True):
    """A pending settlement that a proposer left out. ``retry``: it may do in a later batch, so keep it."""

    settlement: Settlement
    reason: str
    retry: bool


def propose_batch(
    ledger: Ledger,
    terms: Terms,
    *,
    proposer: Address,
    slot: int,
    reveal: Digest,
    opening: DayOpening | None,
    commitments: Sequence[Signed[BeaconCommitment]],
    pending: Sequence[Settlement],
    hand_over: HandOverCertificate | None = None,
    opinions: Sequence[Signed[Opinion]] = (),
    listings: Sequence[ListingOrder] = (),
    verified: VerifiedSettlements | None = None,
) -> tuple[BatchHeader, BatchBody, tuple[Rejected, ...]]:
    """The batch that closes ``slot``, from what can be settled of ``pending`` in the order given.

    Settlements over the batch's limit are neither in it nor rejected: they stay pending. Commitments, opinions
    and listing orders that can't be taken are left out. Raises :class:`BatchInvalid` where proposer, slot, reveal or
    opening would make none valid.
    """
    chosen = Selection(
        ledger,
        terms,
        slot=slot,
        opening=opening,
        pending=pending,
        hand_over=hand_over,
        verified=verified,
    )
    chosen.fill(terms.params.batch_settlements)
    header, body, _ = propose_selection(
        chosen, proposer=proposer, reveal=reveal, commitments=commitments, opinions=opinions, listings=listings
    )
    return header, body, chosen.rejected


class Selection:
    """What of the pending settlements a batch that closes ``slot`` would settle, in the order given.

    Looks at no more of them than it is asked for. Raises :class:`BatchInvalid` for a bad slot, opening or hand-over.
    """

    def __init__(
        self,
        ledger: Ledger,
        terms: Terms,
        *,
        slot: int,
        opening: DayOpening | None,
        pending: Sequence[Settlement],
        hand_over: HandOverCertificate | None = None,
        verified: VerifiedSettlements | None = None,
    ) -> None:
        self.ledger = ledger
        self.terms = terms
        self.slot = slot
        self.opening = opening
        self.hand_over = hand_over
        self.draft = Draft(ledger, terms, slot, opening)
        if hand_over is not None:
            self.draft.hand_over(hand_over)
        self.settled: list[Settlement] = []
        self._bytes = 0
        self._rejected: list[Rejected] = []
        self._pending = iter(pending)
        self._check = verified or VerifiedSettlements(terms)

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Those that were looked at and can't be settled in this batch."""
        return tuple(self._rejected)

    def fill(self, count: int) -> int:
        """Settle on, until there are ``count``, or no more, or as many bytes as a batch holds; how many there are."""
        while len(self.settled) < count and self._bytes < MAX_SETTLED_BYTES:
            settlement = next(self._pending, None)
            if settlement is None:
                break
            try:
                self.draft.settle(settlement, self._check(settlement))
            except SettlementInvalid as error:
                self._rejected.append(Rejected(settlement, str(error), error.retry))
            else:
                self.settled.append(settlement)
                self._bytes += len(encode(settlement))
        return len(self.settled)


def propose_selection(
    chosen: Selection,
    *,
    proposer: Address,
    reveal: Digest,
    commitments: Sequence[Signed[BeaconCommitment]],
    opinions: Sequence[Signed[Opinion]] = (),
    listings: Sequence[ListingOrder] = (),
) -> tuple[BatchHeader, BatchBody, Ledger]:
    """The batch of what was chosen, and the ledger after it; the selection is used up by that.

    Raises as :func:`propose_batch`.
    """
    _check_proposer(chosen.ledger, chosen.terms, (proposer, chosen.slot, reveal))
    taken = [signed for signed in commitments if _takes(chosen.draft, signed)][:MAX_COMMITMENTS]
    ledger = chosen.ledger
    heard: list[Signed[Opinion]] = []
    for opinion in opinions:
        if len(heard) < MAX_OPINIONS and _hears(chosen.draft, opinion):
            heard.append(opinion)
    orders: list[ListingOrder] = []
    for told in listings:
        if len(orders) < MAX_ORDERS and _lists(chosen.draft, told, ledger.committee):
            orders.append(told)
    settled = tuple(chosen.settled)
    rest = chosen.hand_over, _rescue(ledger), tuple(heard), tuple(orders)
    body = BatchBody(chosen.opening, tuple(taken), settled, *rest)
    header, after = _finish(chosen.draft, body, ledger.committee, proposer, reveal)
    return header, body, after


def apply_batch(
    ledger: Ledger,
    terms: Terms,
    header: BatchHeader,
    body: BatchBody,
    *,
    verified: VerifiedSettlements | None = None,
) -> Ledger:
    """The ledger after a batch. Raises :class:`BatchInvalid`; the given ledger is unchanged either way.

    Everything in the header is recomputed. Whose turn it was, whether the slot has ended and whether the opening's
    numbers are the chain's are not rules of the ledger: members check them before they vote.
    """
    if body.size > MAX_BODY_BYTES:
        raise BatchInvalid("body", f"{body.size} bytes, {MAX_BODY_BYTES} at most")
    _check_position(ledger, terms, header, body)
    check = verified or VerifiedSettlements(terms)
    draft = Draft(ledger, terms, header.slot, body.opening)
    _check_proposer(ledger, terms, (header.proposer, header.slot, header.reveal))
    if body.hand_over is not None:
        draft.hand_over(body.hand_over)
    for signed in body.commitments:
        draft.commit(signed)
    for number, opinion in enumerate(body.opinions):
        try:
            draft.opine(opinion)
        except OpinionInvalid as error:
            raise BatchInvalid("opinion", f"number {number}: {error}") from error
    for number, told in enumerate(body.listings):
        try:
            draft.listing.take(told, ledger.committee)
        except ListingInvalid as error:
            raise BatchInvalid("listing", f"number {number}: {error}") from error
    for number, settlement in enumerate(body.settlements):
        try:
            draft.settle(settlement, check(settlement))
        except SettlementInvalid as error:
            raise BatchInvalid("settlement", f"number {number}: {error}") from error
    expected, after = _finish(draft, body, ledger.committee, header.proposer, header.reveal)
    for name in header.__struct_fields__:
        if getattr(header, name) != getattr(expected, name):
            raise BatchInvalid(name, getattr(header, name))
    return after


def body_root(body: BatchBody) -> Digest:
    """keccak of the body's canonical encoding."""
    return body.root


def credits(ledger: Ledger) -> Mapping[Address, int]:
    """Cumulative wei by provider: the leaves of the credit tree, for proofs to the contract (S32)."""
    return ledger.credits


def settlement_outcome(ledger: Ledger, ticket_id: Digest) -> Outcome | None:
    """What the ledger's last batch made of a ticket; None where it did not settle it."""
    return next((outcome for outcome in ledger.outcomes if outcome.ticket_id == ticket_id), None)


def _check_position(ledger: Ledger, terms: Terms, header: BatchHeader, body: BatchBody) -> None:
    """What is cheap to check, before any signature is."""
    expected = {
        "height": ledger.height + 1,
        "parent": ledger.parent,
        "day": terms.params.day_of(header.slot),
        "committee_root": ledger.committee.root,
        "body_root": body_root(body),
    }
    for name, value in expected.items():
        if getattr(header, name) != value:
            raise BatchInvalid(name, getattr(header, name))
    if len(body.settlements) > terms.params.batch_settlements:
        raise BatchInvalid("too_many_settlements", len(body.settlements))
    if body.rescue != _rescue(ledger):
        raise BatchInvalid("rescue", None if body.rescue is None else body.rescue.epoch)


def _rescue(ledger: Ledger) -> Rescue | None:
    """The first batch after a rescue says who decides from there on: a replay can't know it from anything before."""
    return Rescue(ledger.running.epoch, ledger.running.members) if ledger.is_rescued else None


def _check_proposer(ledger: Ledger, terms: Terms, turn: tuple[Address, int, Digest]) -> None:
    """(proposer, slot, reveal): a member's secret that it has committed to, or zero where it has committed to none."""
    (proposer, slot, reveal), params = turn, terms.params
    if ledger.committee.weight(proposer) == 0:
        raise BatchInvalid("proposer", proposer)
    tip = ledger.commitments.get(params.day_of(slot), {}).get(proposer)
    if tip is None:
        if reveal != ZERO_DIGEST:
            raise BatchInvalid("reveal", reveal)
        return
    try:
        verify_reveal(tip, slot % params.day_slots, reveal, params.day_slots)
    except BeaconInvalid as error:
        raise BatchInvalid("reveal", reveal) from error


def _takes(draft: Draft, signed: Signed[BeaconCommitment]) -> bool:
    try:
        draft.commit(signed)
    except BatchInvalid:
        return False
    return True


def _hears(draft: Draft, opinion: Signed[Opinion]) -> bool:
    try:
        draft.opine(opinion)
    except OpinionInvalid:
        return False
    return True


def _lists(draft: Draft, told: ListingOrder, committee: Committee) -> bool:
    try:
        draft.listing.take(told, committee)
    except ListingInvalid:
        return False
    return True


def _finish(
    draft: Draft, body: BatchBody, committee: Committee, proposer: Address, reveal: Digest
) -> tuple[BatchHeader, Ledger]:
    after = draft.close(reveal)
    header = BatchHeader(
        height=after.height,
        slot=after.slot,
        day=after.day,
        parent=after.parent,
        body_root=body_root(body),
        credit_root=merkle_root(after.credits),
        total_credited=Uint256(after.total_credited),
        bootstrap_credited=Uint256(after.bootstrap_credited),
        state_root=state_root(after),
        committee_root=committee.root,
        beacon=after.beacon,
        reveal=reveal,
        proposer=proposer,
    )
    return header, replace(after, parent=batch_hash(header))
