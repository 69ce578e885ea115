"""What every full node holds of what is public: the book, slot secrets, and the replayed ledger."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

import trio

from consensus.committee import Committee
from consensus.errors import CertificateInvalid
from consensus.market.beacons import Beacons
from consensus.market.book import Book, StandingBid
from consensus.market.errors import BatchInvalid
from consensus.market.history import History
from consensus.market.ledger_state import Ledger, rescue
from consensus.market.omissions import BidHistory
from consensus.market.settlement import VerifiedSettlements
from consensus.member.following import Following
from consensus.membership import Term
from consensus.tendermint.certificate import verify_certificate
from contracts.merkle import CreditTree
from contracts.typed_data import Address, Digest
from gossip.errors import MessageError
from gossip.messages import Payload, Signed
from gossip.messages.batch_notice import BatchNotice
from gossip.messages.committee import (
    BatchBody,
    BatchHeader,
    CertifiedBatch,
    HandOverCertificate,
    SealedBatch,
    batch_hash,
)
from gossip.messages.records import Bid, ModelProof, NodeRecord, SlotReveal
from node.context import Node, now_ms
from node.errors import ReplayFailed
from node.roles.turns import MUCH, check_in_turns
from node.snapshot import Followed
from node.store.batches import Outcome

P = TypeVar("P", bound=Payload)

MAX_REVEALS = 10_000
"""Slot secrets kept in memory; the oldest go first."""


class PublicState:
    """The order book and the ledger of one node. Changes only by messages that were checked before."""

    def __init__(self, node: Node, genesis: Ledger) -> None:
        self._node = node
        self.book = Book()
        self.bids = BidHistory()
        """Who bid what lately: what explanations of matches are held against."""
        self.ledger = genesis
        self.reveals: dict[tuple[Address, int], Signed[SlotReveal]] = {}
        self.on_batch: list[Callable[[CertifiedBatch], None]] = []
        """Called after a batch was applied and stored, in the order of registration; must not block."""
        self.heard_height = 0
        """The highest batch that came by gossip."""
        self.following = Following(node.terms)
        self._adopting = trio.Lock()
        self.history = History(genesis)
        """The days since genesis, those that the ledger has forgotten included."""
        self.beacons = Beacons()
        """The last beacons and the penalty points that went with each: what a match is checked against."""
        self.epochs: dict[int, Term] = {genesis.running.epoch: genesis.running}
        """Every committee since genesis."""
        self.hand_overs: dict[int, HandOverCertificate] = {}
        """By the epoch that ended: what opens the next one in the registry, and lets a reader trust its members."""
        self.rescues: dict[int, int] = {}
        """Epoch of a rescued committee to the height of the batch that told of it."""
        self.rescued: Committee | None = None
        """The committee of a rescue that this node has read from the chain and no batch has shown yet."""
        self.beacons.note(genesis)

    # Who decides.

    @property
    def committee(self) -> Committee:
        """Who decides the next height."""
        return self.ledger.committee

    def recent_members(self) -> tuple[Address, ...]:
        """Whoever decides, routes today, has tickets that are not settled, or was drawn; sorted."""
        terms = (*self.ledger.committees, *([] if self.ledger.drawn is None else [self.ledger.drawn.term]))
        rescued = () if self.rescued is None else tuple(one.address for one in self.rescued.members)
        return tuple(sorted({*(one.address for term in terms for one in term.members), *rescued}))

    def routers(self, day: int) -> tuple[Address, ...]:
        """The home routers of ``day``."""
        return tuple(member.address for member in self.ledger.routers(day).members)

    def is_router(self, address: Address, day: int) -> bool:
        """Whether ``address`` may issue passes and tickets of ``day``."""
        return self.ledger.routers(day).weight(address) > 0

    def note_rescue(self, committee: Committee) -> bool:
        """The chain says that ``committee`` is in the place of the running one; whether that is news."""
        if committee.epoch <= self.ledger.running.epoch or committee == self.rescued:
            return False
        self.rescued = committee
        return True

    def bidders(self) -> frozenset[Address]:
        """The providers whose bids are live now."""
        return frozenset(bid.payload.provider for bid in self.book.all_live(now_ms()).bids)

    # What gossip and sync bring; signatures and expiry are checked by the caller.

    def add(self, message: Signed[P]) -> None:
        """Take one public message. Raises :class:`~consensus.market.errors.MarketError` where the book refuses."""
        match message:
            case Signed(payload=NodeRecord()) as record:
                self.book.add_record(record, now_ms())
            case Signed(payload=Bid()) as bid:
                bid_id, slot = bid.id(self._node.terms.domain), self._node.slot()
                if self.book.add_bid(bid, bid_id, slot, now_ms()):
                    self.bids.note(StandingBid(bid_id, bid, slot))
            case Signed(payload=ModelProof()) as proof:
                self.book.add_proof(proof, now_ms())
            case Signed(payload=SlotReveal()) as reveal:
                self._add_reveal(reveal)

    def _add_reveal(self, reveal: Signed[SlotReveal]) -> None:
        """Whether the secret leads to the commitment is checked where it is used."""
        if not self.ledger.is_recent_member(reveal.payload.member):
            return
        self.reveals[reveal.payload.member, reveal.payload.slot] = reveal
        while len(self.reveals) > MAX_REVEALS:
            del self.reveals[next(iter(self.reveals))]

    # The chain of certified batches.

    @property
    def verified(self) -> VerifiedSettlements:
        """Settlements whose signatures were found good."""
        return self.following.verified

    def check_certificate(self, batch: CertifiedBatch | SealedBatch | BatchNotice) -> Digest:
        """The batch's hash. Raises :class:`~consensus.errors.CertificateInvalid`, and
        :class:`~consensus.market.errors.BatchInvalid` for another body than was certified."""
        verify_certificate(batch.certificate, batch.header, self._deciding(batch), self._node.terms.domain)
        if not isinstance(batch, BatchNotice) and batch.body_root != batch.header.body_root:
            raise BatchInvalid("body_root", batch.header.body_root)
        return batch_hash(batch.header)

    def _deciding(self, batch: CertifiedBatch | SealedBatch | BatchNotice) -> Committee:
        """The known committee that ``batch`` names; where it names none, the one that would have to decide."""
        drawn = [] if self.ledger.drawn is None else [self.ledger.drawn.term.committee]
        known = [*drawn, *([] if self.rescued is None else [self.rescued])]
        found = self.find_committee(batch.header.committee_root)
        return found or next((one for one in known if one.root == batch.header.committee_root), self.committee)

    def find_committee(self, root: Digest) -> Committee | None:
        """The committee with ``root``, of any epoch up to now; None where there was none."""
        return next((term.committee for term in reversed(self.epochs.values()) if term.committee.root == root), None)

    def is_beyond(self, batch: CertifiedBatch | SealedBatch | BatchNotice) -> bool:
        """Whether ``batch`` is by a committee that this node, being behind, may not have heard of yet.

        At the next height too: a rescue is read from the chain, by some nodes earlier than by others.
        """
        return self._deciding(batch).root != batch.header.committee_root

    def follow(self, header: BatchHeader, body: BatchBody) -> Ledger:
        """The ledger that a batch would leave behind. Raises :class:`~consensus.market.errors.BatchInvalid`."""
        return self.following(self._before(body), header, body)

    def _before(self, body: BatchBody) -> Ledger:
        """The ledger that ``body`` builds on: a rescue counts where this node has read of it on the chain."""
        if body.rescue is None:
            return self.ledger
        committee = Term(body.rescue.epoch, body.rescue.members).committee
        if committee != self.rescued:
            raise BatchInvalid("rescue_unknown", committee.root)
        return rescue(self.ledger, committee)

    async def adopt(self, batch: CertifiedBatch) -> bool:
        """Apply and store the next batch; False where it isn't the next one.

        Of a large one that is new to this node, signatures are checked in turns and the ledger follows in a thread.
        Raises :class:`~consensus.errors.CertificateInvalid` or :class:`~consensus.market.errors.BatchInvalid`.
        """
        async with self._adopting:
            if batch.header.height != self.ledger.height + 1:
                return False
            self.check_certificate(batch)
            following = await self._follow(batch)
            if batch.header.committee_root != self._before(batch.body).committee.root:
                raise BatchInvalid("committee_root", batch.header.committee_root)
            outcomes = [
                Outcome(o.ticket_id, following.height, o.provider, o.tokens, o.credited_wei, o.reason)
                for o in following.outcomes
            ]
            changed = CreditTree.of(following.credits).changed_since(CreditTree.of(self.ledger.credits))
            await self._node.store.put_batch(batch, outcomes, changed)
            self._advance(batch, following)
        return True

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """No batch is adopted within: for what has to be read together with the ledger."""
        async with self._adopting:
            yield

    async def _follow(self, batch: CertifiedBatch) -> Ledger:
        """:meth:`follow` without holding the event loop for long."""
        if len(batch.body.settlements) < MUCH:
            return self.follow(batch.header, batch.body)
        async for _, error in check_in_turns(self.verified, batch.body.settlements):
            if error is not None:
                break  # what follows names it, and raises
        return await trio.to_thread.run_sync(self.follow, batch.header, batch.body)

    def _advance(self, batch: CertifiedBatch, following: Ledger) -> None:
        self._go_on(batch.body, following)
        self._node.log.info(
            "batch adopted",
            height=batch.header.height,
            slot=batch.header.slot,
            settlements=len(batch.body.settlements),
            signers=len(batch.certificate.signatures),
        )
        for callback in self.on_batch:
            callback(batch)

    def _go_on(self, body: BatchBody, following: Ledger) -> None:
        """``following`` came out of the batch of ``body``: all that a node knows from following batches, snapshots
        keep (:class:`~node.snapshot.Followed`)."""
        if body.hand_over is not None:
            self.hand_overs[body.hand_over.hand_over.epoch] = body.hand_over
        if body.rescue is not None:
            self.rescues[body.rescue.epoch] = following.height
            self.rescued = None
        for term in following.committees:
            self.epochs.setdefault(term.epoch, term)
        self.history.note(self.ledger, following)
        self.ledger = following
        self.beacons.note(following)
        for settlement in body.settlements:
            self.verified.forget(settlement)

    def hear(self, height: int) -> None:
        """A certified batch of ``height`` came by gossip."""
        self.heard_height = max(self.heard_height, height)

    # Starts.

    def followed(self) -> Followed:
        """What following batches has led to, for a snapshot; it stays as it is while this node goes on."""
        return Followed(
            ledger=self.ledger,
            days=dict(self.history.days),
            beacons=self.beacons.copy(),
            epochs=dict(self.epochs),
            hand_overs=dict(self.hand_overs),
            rescues=dict(self.rescues),
        )

    def begin_from(self, followed: Followed) -> None:
        """Begin where a snapshot that is believed stands, rather than at genesis."""
        self.ledger = followed.ledger
        self.history = History.of(followed.days)
        self.beacons = followed.beacons.copy()
        self.epochs, self.hand_overs = dict(followed.epochs), dict(followed.hand_overs)
        self.rescues = dict(followed.rescues)

    async def replay(self, after: Callable[[CertifiedBatch], Awaitable[None]] | None = None) -> None:
        """Follow the stored batches beyond the ledger, and call ``after`` with each.

        Each was verified before it was stored, and is again. One that is no certified batch ends the log there: it and
        those after it are dropped, and come back from peers. Raises :class:`~node.errors.ReplayFailed` for one that is
        certified and does not follow, and where the first of all isn't certified: that is another network's log.
        """
        try:
            async with aclosing(self._node.store.batches(self.ledger.height + 1)) as batches:
                async for batch in batches:
                    self._check_stored(batch)
                    self._replay_one(batch)
                    if after is not None:
                        await after(batch)
        except (CertificateInvalid, BatchInvalid, MessageError) as error:
            height, self.rescued = self.ledger.height + 1, None
            if height == 1:
                raise ReplayFailed(height, "certificate", f"{error}; is the network file another network's?") from error
            self._node.log.error(
                "stored batch is not certified: dropped with what follows", height=height, why=str(error)
            )
            await self._node.store.drop_batches(height)

    def _check_stored(self, batch: CertifiedBatch) -> None:
        """Raise as :meth:`check_certificate`, also for another committee than the one that decides.

        That there was a rescue is why the batch that tells of it is stored.
        """
        if batch.header.height != self.ledger.height + 1:
            raise BatchInvalid("height", batch.header.height)
        if (told := batch.body.rescue) is not None:
            self.rescued = Term(told.epoch, told.members).committee
        self.check_certificate(batch)
        if batch.header.committee_root != self._before(batch.body).committee.root:
            raise BatchInvalid("committee_root", batch.header.committee_root)

    def _replay_one(self, batch: CertifiedBatch) -> None:
        try:
            self._go_on(batch.body, self.follow(batch.header, batch.body))
        except BatchInvalid as error:
            raise ReplayFailed(self.ledger.height + 1, error.reason, str(error)) from error
