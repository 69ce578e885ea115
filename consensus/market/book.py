"""The order book: which providers serve which models at what price, as far as this node has heard.

Signatures are checked before a message gets here. A bid counts from the slot after the one in which it was seen, and
the one that it replaces counts until then, so that nobody undercuts with an RFC in view.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Container

import msgspec

from consensus.market.errors import BidRefused
from contracts.typed_data import Address, Digest
from gossip.messages.base import Signed, Unit
from gossip.messages.records import Bid, ModelProof, NodeRecord

MAX_RECORDS = 20_000
MAX_BIDS = 20_000
MAX_PROOFS = 20_000
MAX_MODELS_PER_PROVIDER = 64
"""Bids, and model proofs, that one provider may have standing."""


MAX_FOUND = 64
"""Answers that are remembered for one model and slot."""

_FAR_MS = 2**63


class StandingBid(msgspec.Struct, frozen=True):
    """A bid in the book; ``bid_id`` is its EIP-712 digest, ``seen_slot`` when it arrived here."""

    bid_id: Digest
    signed: Signed[Bid]
    seen_slot: int

    @property
    def bid(self) -> Bid:
        """The payload."""
        return self.signed.payload


class ModelListing(msgspec.Struct, frozen=True):
    """A model that can be had now. ``lowest_price_wei`` is wei per T."""

    model_id: Digest
    name: str
    engine: str
    providers: int
    lowest_price_wei: int


class LiveBook(msgspec.Struct, frozen=True):
    """Everything live, for a node that has just joined."""

    records: tuple[Signed[NodeRecord], ...]
    bids: tuple[Signed[Bid], ...]
    proofs: tuple[Signed[ModelProof], ...]


class _Standing(msgspec.Struct, frozen=True):
    """The newest bid of a provider for a model, and the one it replaced, which counts until the slot ends."""

    newest: StandingBid
    replaced: StandingBid | None

    def at(self, slot: int) -> StandingBid | None:
        return self.newest if self.newest.seen_slot < slot else self.replaced


_Key = tuple[Address, Digest]


class _Shelf:
    """A model's live bids in one slot, until a bid, proof or record changes or expires; those for one size of prompt
    and one ceiling are put together once."""

    __slots__ = ("_found", "_sizes", "_standing", "slot", "until_ms")

    def __init__(self, slot: int, until_ms: int, standing: list[StandingBid]) -> None:
        self.slot = slot
        self.until_ms = until_ms
        self._standing = sorted(standing, key=lambda one: one.bid_id)
        self._sizes = sorted({one.bid.prompt_max for one in standing})
        self._found: dict[tuple[int, int], tuple[StandingBid, ...]] = {}

    def find(self, prompt_bound: int, ceiling_wei: int) -> tuple[StandingBid, ...]:
        """The same tuple each time for the same answer."""
        key = bisect_left(self._sizes, prompt_bound), ceiling_wei
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= MAX_FOUND:
                self._found.clear()
            found = tuple(
                one
                for one in self._standing
                if (bid := one.bid).price_wei <= ceiling_wei and bid.prompt_max >= prompt_bound
            )
            self._found[key] = found
        return found


class Book:
    """Records, bids and model proofs that are live, bounded in number."""

    def __init__(self) -> None:
        self._records: dict[Address, Signed[NodeRecord]] = {}
        self._bids: dict[_Key, _Standing] = {}
        self._bidders: dict[Digest, set[Address]] = {}
        """Who bids for a model: the index that keeps :meth:`live` from walking the whole book."""
        self._proofs: dict[_Key, Signed[ModelProof]] = {}
        self._offered: dict[Address, set[Digest]] = {}
        """The models that a provider bids for."""
        self._proof_counts: Counter[Address] = Counter()
        self._shelves: dict[Digest, _Shelf] = {}
        """What :meth:`live` has put together; dropped with every change to it."""

    def add_record(self, signed: Signed[NodeRecord], now_ms: int) -> bool:
        """Take a node record; False where one with the same or a higher sequence is held.

        Raises :class:`BidRefused` where it has expired or the book is full.
        """
        record = signed.payload
        _check_expiry(record.expires_ms, now_ms)
        held = self._records.get(record.address)
        if held is not None and held.payload.sequence >= record.sequence:
            return False
        if held is None:
            self._make_room(len(self._records), MAX_RECORDS, now_ms)
        self._records[record.address] = signed
        for model_id in self._offered.get(record.address, ()):
            self._shelves.pop(model_id, None)
        return True

    def add_bid(self, signed: Signed[Bid], bid_id: Digest, slot: int, now_ms: int) -> bool:
        """Take a bid seen in ``slot``; False where one with the same or a higher sequence is held.

        The provider's record and proof may arrive later: they are asked for in :meth:`live`. Raises
        :class:`BidRefused` for a unit other than text tokens (S16), a price of 0, an expired or one bid too many.
        """
        bid = signed.payload
        if bid.unit is not Unit.TEXT_TOKEN:
            raise BidRefused("unit_unsupported", bid.unit.name)
        if bid.price_wei == 0:
            raise BidRefused("price_zero", bid_id)
        _check_expiry(bid.expires_ms, now_ms)
        key = (bid.provider, bid.model_id)
        held = self._bids.get(key)
        if held is None:
            _check_share(bid.provider, len(self._offered.get(bid.provider, ())))
            self._make_room(len(self._bids), MAX_BIDS, now_ms)
            replaced = None
        elif held.newest.bid.sequence >= bid.sequence:
            return False
        else:
            replaced = held.at(slot)
        self._bids[key] = _Standing(StandingBid(bid_id, signed, slot), replaced)
        self._bidders.setdefault(bid.model_id, set()).add(bid.provider)
        self._offered.setdefault(bid.provider, set()).add(bid.model_id)
        self._shelves.pop(bid.model_id, None)
        return True

    def add_proof(self, signed: Signed[ModelProof], now_ms: int) -> bool:
        """Take a model proof (S42); False where one that expires no earlier is held. Raises :class:`BidRefused`."""
        proof = signed.payload
        _check_expiry(proof.expires_ms, now_ms)
        key = (proof.provider, proof.model_id)
        held = self._proofs.get(key)
        if held is not None and held.payload.expires_ms >= proof.expires_ms:
            return False
        if held is None:
            _check_share(proof.provider, self._proof_counts[proof.provider])
            self._make_room(len(self._proofs), MAX_PROOFS, now_ms)
            self._proof_counts[proof.provider] += 1
        self._proofs[key] = signed
        self._shelves.pop(proof.model_id, None)
        return True

    def live(
        self,
        model_id: Digest,
        slot: int,
        now_ms: int,
        *,
        prompt_bound: int,
        ceiling_wei: int,
        holders: Container[Address] | None = None,
    ) -> tuple[StandingBid, ...]:
        """The bids that an RFC of ``slot`` may be matched with, by bid id.

        Seen before ``slot``, not expired, with slots to sell, at most ``ceiling_wei`` per T, taking a prompt of
        ``prompt_bound`` T, from a provider with a record and a model proof (S42), and, where ``holders`` is given,
        among those that hold MOR (S43).
        """
        if model_id not in self._bidders:
            return ()
        shelf = self._shelves.get(model_id)
        if shelf is None or shelf.slot != slot or now_ms >= shelf.until_ms:
            shelf = self._shelves[model_id] = self._shelf(model_id, slot, now_ms)
        found = shelf.find(prompt_bound, ceiling_wei)
        return found if holders is None else tuple(one for one in found if one.bid.provider in holders)

    def _shelf(self, model_id: Digest, slot: int, now_ms: int) -> _Shelf:
        standing, until_ms = [], _FAR_MS
        for provider in self._bidders.get(model_id, ()):
            key = provider, model_id
            if (found := self._standing(key, slot, now_ms)) is not None:
                standing.append(found)
                ends = (found.bid, self._proofs[key].payload, self._records[provider].payload)
                until_ms = min(until_ms, *(one.expires_ms for one in ends))
        return _Shelf(slot, until_ms, standing)

    def is_offered(self, model_id: Digest, now_ms: int) -> bool:
        """Whether :meth:`models` would list the model now."""
        bidders = self._bidders.get(model_id, ())
        return any(self._standing((provider, model_id), None, now_ms) is not None for provider in bidders)

    def record(self, address: Address, now_ms: int) -> Signed[NodeRecord] | None:
        """Where ``address`` can be reached, as it said itself."""
        signed = self._records.get(address)
        return signed if signed is not None and signed.payload.expires_ms > now_ms else None

    def models(self, now_ms: int) -> tuple[ModelListing, ...]:
        """What is on offer now, by name; a bid of this very slot is counted already."""
        offers: dict[Digest, list[StandingBid]] = {}
        for key in self._bids:
            if (standing := self._standing(key, None, now_ms)) is not None:
                offers.setdefault(standing.bid.model_id, []).append(standing)
        listings = [self._listing(bids) for bids in offers.values()]
        return tuple(sorted(listings, key=lambda listing: (listing.name, listing.model_id)))

    def offers(self, now_ms: int) -> tuple[tuple[Address, Digest], ...]:
        """Who has what on offer now: provider and model id of every bid that :meth:`models` counts."""
        return tuple(key for key in self._bids if self._standing(key, None, now_ms) is not None)

    def all_live(self, now_ms: int) -> LiveBook:
        """Everything that has not expired."""
        return LiveBook(
            tuple(record for record in self._records.values() if record.payload.expires_ms > now_ms),
            tuple(held.newest.signed for held in self._bids.values() if held.newest.bid.expires_ms > now_ms),
            tuple(proof for proof in self._proofs.values() if proof.payload.expires_ms > now_ms),
        )

    def prune(self, now_ms: int) -> int:
        """Forget what has expired; returns how much that was."""
        records = [key for key, record in self._records.items() if record.payload.expires_ms <= now_ms]
        bids = [key for key, held in self._bids.items() if held.newest.bid.expires_ms <= now_ms]
        proofs = [key for key, proof in self._proofs.items() if proof.payload.expires_ms <= now_ms]
        if records or bids or proofs:
            self._shelves.clear()
        for address in records:
            del self._records[address]
        for key in bids:
            del self._bids[key]
            self._offered[key[0]].discard(key[1])
            if not self._offered[key[0]]:
                del self._offered[key[0]]
            self._bidders[key[1]].discard(key[0])
            if not self._bidders[key[1]]:
                del self._bidders[key[1]]
        for key in proofs:
            del self._proofs[key]
            self._proof_counts[key[0]] -= 1
            if not self._proof_counts[key[0]]:
                del self._proof_counts[key[0]]
        return len(records) + len(bids) + len(proofs)

    def _standing(self, key: _Key, slot: int | None, now_ms: int) -> StandingBid | None:
        """The bid that counts in ``slot`` (None: the newest), where it and all that it needs is live."""
        held = self._bids[key]
        standing = held.newest if slot is None else held.at(slot)
        if standing is None or standing.bid.slots == 0 or standing.bid.expires_ms <= now_ms:
            return None
        proof = self._proofs.get(key)
        if proof is None or proof.payload.expires_ms <= now_ms or self.record(key[0], now_ms) is None:
            return None
        return standing

    def _listing(self, bids: list[StandingBid]) -> ModelListing:
        cheapest = min(bids, key=lambda standing: (standing.bid.price_wei, standing.bid_id)).bid
        proof = self._proofs[(cheapest.provider, cheapest.model_id)].payload
        return ModelListing(cheapest.model_id, proof.name, proof.engine, len(bids), cheapest.price_wei)

    def _make_room(self, held: int, limit: int, now_ms: int) -> None:
        if held >= limit and self.prune(now_ms) == 0:
            raise BidRefused("book_full", limit)


def _check_share(provider: Address, held: int) -> None:
    if held >= MAX_MODELS_PER_PROVIDER:
        raise BidRefused("too_many", provider)


def _check_expiry(expires_ms: int, now_ms: int) -> None:
    if expires_ms <= now_ms:
        raise BidRefused("expired", expires_ms)
