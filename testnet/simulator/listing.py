"""Listing orders in a run: what operators say and when, and what the list must be by all that was decided (S8)."""

from hashlib import sha256
from random import Random

import msgspec

from consensus.committee import Committee
from consensus.market.listing import ORDER_DAYS
from consensus.params import Terms
from contracts.errors import SignatureInvalid
from contracts.signing import recover
from contracts.typed_data import Address, Digest, digest
from gossip.messages.committee import CertifiedBatch
from gossip.messages.listing import ListModel
from testnet.simulator.errors import Violation

MODELS = tuple(Digest(sha256(b"simulated model %d" % number).digest()) for number in range(2))
"""What operators speak of; the model that is asked for they leave alone."""

SPREAD_SLOTS = 4
"""Operators who agree speak within so many slots."""


class Operator(msgspec.Struct, frozen=True):
    """Who runs key number ``key`` says in ``slot`` that model number ``model`` should be listed or not."""

    key: int
    slot: int
    model: int
    is_listed: bool


def draw_operators(chance: Random, keys: int, slots: int) -> tuple[Operator, ...]:
    """Rounds of orders, each given by most of all keys: to list each model, and to unlist it again."""
    said = []
    for model in range(len(MODELS)):
        begins = sorted(chance.sample(range(slots), 2)) if slots > 1 else []
        for is_listed, begin in zip((True, False), begins, strict=False):
            willing = chance.choice((50, 80, 100))
            said += [
                Operator(key, begin + chance.randrange(SPREAD_SLOTS), model, is_listed)
                for key in range(keys)
                if chance.randrange(100) < willing
            ]
    return tuple(said)


class ListingOracle:
    """Follows the decided orders with a history of its own, which forgets nothing."""

    def __init__(self, terms: Terms, listed: frozenset[Digest], faulty: frozenset[Address]) -> None:
        self._terms = terms
        self._genesis = listed
        self._faulty = faulty
        self._given: set[tuple[Address, ListModel]] = set()
        self._taken: list[tuple[ListModel, int]] = []
        """Orders and the first day that each counts on."""

    @property
    def taken(self) -> int:
        """How many orders were decided."""
        return len(self._taken)

    def on_given(self, member: Address, order: ListModel) -> None:
        """An honest member's operator has said so."""
        self._given.add((member, order))

    def on_decided(self, batch: CertifiedBatch, committee: Committee) -> None:
        """Each order of a decided batch is new, and more than 2/3 of ``committee`` gave it."""
        params, slot = self._terms.params, batch.header.slot
        day, counts = params.day_of(slot), params.day_of(slot + params.day_slots // 8) + 1
        for told in batch.body.listings:
            order, named = told.order, f"the order of day {told.order.day} for 0x{told.order.model_id.hex()}"
            if not day - ORDER_DAYS < order.day <= day:
                raise Violation("listing", f"{named} was taken on day {day}")
            if any(one.model_id == order.model_id and one.day >= order.day for one, _ in self._taken):
                raise Violation("listing", f"{named} was taken after a later one")
            try:
                signers = {recover(digest(self._terms.domain, order), one) for one in told.signatures}
            except SignatureInvalid as error:
                raise Violation("listing", f"{named}: {error}") from error
            if 3 * sum(map(committee.weight, signers)) <= 2 * committee.total:
                raise Violation("listing", f"{named} was given by {len(signers)} signers, too few")
            for signer in signers - self._faulty:
                if committee.weight(signer) and (signer, order) not in self._given:
                    raise Violation(
                        "listing", f"{named} was signed by 0x{signer.hex()}, whose operator said no such thing"
                    )
            self._taken.append((order, counts))

    def listed(self, day: int) -> frozenset[Digest]:
        """The list of ``day``, by all that was decided."""
        found = set(self._genesis)
        for order, counts in self._taken:
            if counts <= day:
                (found.add if order.is_listed else found.discard)(order.model_id)
        return frozenset(found)
