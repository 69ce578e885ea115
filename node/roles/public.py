"""What every full node holds of what is public: the book, slot secrets, and the replayed ledger."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeVar

import trio

from consensus.market.book import Book
from consensus.market.ledger_state import Ledger
from consensus.market.settlement import VerifiedSettlements
from consensus.member.following import Following, check_body
from consensus.tendermint.certificate import verify_certificate
from contracts.merkle import CreditTree
from contracts.typed_data import Address, Digest
from gossip.messages import Payload, Signed
from gossip.messages.committee import BatchBody, BatchHeader, CertifiedBatch, batch_hash
from gossip.messages.records import Bid, ModelProof, NodeRecord, SlotReveal
from node.context import Node, now_ms
from node.store.batches import Outcome

P = TypeVar("P", bound=Payload)

BEACONS = 1_000
"""Beacons remembered."""

MAX_REVEALS = 10_000
"""Slot secrets kept in memory; the oldest go first."""


class PublicState:
    """The order book and the ledger of one node. Changes only by messages that were checked before."""

    def __init__(self, node: Node, genesis: Ledger) -> None:
        self._node = node
        self.book = Book()
        self.ledger = genesis
        self.reveals: dict[tuple[Address, int], Signed[SlotReveal]] = {}
        self.on_batch: list[Callable[[CertifiedBatch], None]] = []
        """Called after a batch was applied and stored, in the order of registration; must not block."""
        self.heard_height = 0
        """The highest batch that came by gossip."""
        self.following = Following(node.terms, node.committee)
        self._adopting = trio.Lock()
        self.beacons: OrderedDict[Digest, Mapping[Address, int]] = OrderedDict()
        """The last beacons and the penalty points that went with each: what a match is checked against."""
        self._note_beacon()

    # What gossip and sync bring; signatures and expiry are checked by the caller.

    def add(self, message: Signed[P]) -> None:
        """Take one public message. Raises :class:`~consensus.market.errors.MarketError` where the book refuses."""
        match message:
            case Signed(payload=NodeRecord()) as record:
                self.book.add_record(record, now_ms())
            case Signed(payload=Bid()) as bid:
                self.book.add_bid(bid, bid.id(self._node.terms.domain), self._node.slot(), now_ms())
            case Signed(payload=ModelProof()) as proof:
                self.book.add_proof(proof, now_ms())
            case Signed(payload=SlotReveal()) as reveal:
                self._add_reveal(reveal)

    def _add_reveal(self, reveal: Signed[SlotReveal]) -> None:
        """Whether the secret leads to the commitment is checked where it is used."""
        if self._node.committee.weight(reveal.payload.member) == 0:
            return
        self.reveals[reveal.payload.member, reveal.payload.slot] = reveal
        while len(self.reveals) > MAX_REVEALS:
            del self.reveals[next(iter(self.reveals))]

    # The chain of certified batches.

    @property
    def verified(self) -> VerifiedSettlements:
        """Settlements whose signatures were found good."""
        return self.following.verified

    def check_certificate(self, batch: CertifiedBatch) -> Digest:
        """The batch's hash. Raises :class:`~consensus.errors.CertificateInvalid`, and
        :class:`~consensus.market.errors.BatchInvalid` for another body than was certified."""
        verify_certificate(batch.certificate, batch.header, self._node.committee, self._node.terms.domain)
        check_body(batch.header, batch.body)
        return batch_hash(batch.header)

    def follow(self, header: BatchHeader, body: BatchBody) -> Ledger:
        """The ledger that a batch would leave behind. Raises :class:`~consensus.market.errors.BatchInvalid`."""
        return self.following(self.ledger, header, body)

    async def adopt(self, batch: CertifiedBatch) -> bool:
        """Apply and store the next batch; False where it isn't the next one.

        Raises :class:`~consensus.errors.CertificateInvalid` or :class:`~consensus.market.errors.BatchInvalid`.
        """
        async with self._adopting:
            if batch.header.height != self.ledger.height + 1:
                return False
            self.check_certificate(batch)
            following = self.follow(batch.header, batch.body)
            await self._node.store.put_batch(batch)
            await self._node.store.put_outcomes(
                Outcome(o.ticket_id, following.height, o.provider, o.tokens, o.credited_wei, o.reason)
                for o in following.outcomes
            )
            changed = CreditTree.of(following.credits).changed_since(CreditTree.of(self.ledger.credits))
            await self._node.store.put_credits(following.height, changed)
            self._advance(batch, following)
        return True

    def _advance(self, batch: CertifiedBatch, following: Ledger) -> None:
        self.ledger = following
        self._note_beacon()
        for settlement in batch.body.settlements:
            self.following.verified.forget(settlement)
        self._node.log.info(
            "batch adopted",
            height=batch.header.height,
            slot=batch.header.slot,
            settlements=len(batch.body.settlements),
            signers=len(batch.certificate.signatures),
        )
        for callback in self.on_batch:
            callback(batch)

    def _note_beacon(self) -> None:
        self.beacons[self.ledger.beacon] = self.ledger.penalties
        while len(self.beacons) > BEACONS:
            self.beacons.popitem(last=False)

    def hear(self, height: int) -> None:
        """A certified batch of ``height`` came by gossip."""
        self.heard_height = max(self.heard_height, height)

    async def replay(self) -> None:
        """Rebuild the ledger from stored batches; each was verified before it was stored."""
        async for batch in self._node.store.batches(self.ledger.height + 1):
            self.ledger = self.follow(batch.header, batch.body)
            self._note_beacon()
