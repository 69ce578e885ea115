"""Listing orders on their way into a batch, at one member: who gives which, its own operator's included (S8)."""

from collections.abc import Iterator

from consensus.market.errors import ListingInvalid
from consensus.market.ledger_state import Ledger
from consensus.market.listing import assemble_order, check_order
from consensus.member.events import Effect, OrderHeard, Tell
from consensus.params import NetworkParams
from contracts.typed_data import Address, Digest, Signature
from gossip.messages.base import Signed
from gossip.messages.listing import MAX_ORDERS, ListingFrame, ListingOrder, ListModel

MAX_GIVEN = 64
"""Orders of one member that are held; past that its oldest go, and nobody else's."""


class Orders:
    """One member's collection of orders whose signatures hold."""

    def __init__(self, address: Address, params: NetworkParams) -> None:
        self._address = address
        self._params = params
        self._given: dict[Address, dict[ListModel, Signature]] = {}

    def take(self, heard: OrderHeard, ledger: Ledger, slot: int) -> list[Effect]:
        """Keep an order by a member; this member's own is told to the committee, now and until it is taken."""
        order, member = heard.vote.payload, heard.member
        given = self._given.setdefault(member, {}) if ledger.is_recent_member(member) else {}
        if order in given or not self._may_fit(order, ledger, slot):
            return []
        given[order] = heard.vote.signature
        while len(given) > MAX_GIVEN:
            del given[next(iter(given))]
        return [Tell(ListingFrame(heard.vote))] if member == self._address else []

    def say(self) -> list[Effect]:
        """This member's own orders, for who missed them."""
        own = self._given.get(self._address, {})
        return [Tell(ListingFrame(Signed(order, signature))) for order, signature in own.items()]

    def fit(self, ledger: Ledger, slot: int) -> tuple[ListingOrder, ...]:
        """Those that a batch closing ``slot`` would take, each by itself: enough members give them."""
        found = (order for order in self._all() if self._fits(order, ledger, slot))
        whole = (assemble_order(order, ledger.committee, self.signatures(order)) for order in found)
        return tuple(told for told in whole if told is not None)[:MAX_ORDERS]

    def open(self, ledger: Ledger, slot: int) -> dict[ListModel, tuple[Address, ...]]:
        """The orders that may still be taken, and which of the running committee's members give each."""
        return {
            order: tuple(member for member in sorted(self.signatures(order)) if ledger.committee.weight(member))
            for order in self._all()
            if self._may_fit(order, ledger, slot)
        }

    def choose(self, model_id: Digest, ledger: Ledger, slot: int, *, is_listed: bool) -> ListModel:
        """What a member signs whose operator says so: the order that most of the power has given, else a new one."""
        weight = ledger.committee.weight
        given = {order: sum(map(weight, who)) for order, who in self.open(ledger, slot).items()}
        today = self._params.day_of(slot)
        known = [one for one in given if (one.model_id, one.is_listed) == (model_id, is_listed) and one.day <= today]
        return max(known, key=lambda one: (given[one], one.day), default=ListModel(model_id, is_listed, today))

    def signatures(self, order: ListModel) -> dict[Address, Signature]:
        """An order's signatures by member."""
        return {member: given[order] for member, given in self._given.items() if order in given}

    def prune(self, ledger: Ledger, slot: int) -> None:
        """Forget orders that were taken, overtaken or not taken in time, and those of who is no member any more."""
        kept = {order for order in self._all() if self._may_fit(order, ledger, slot)}
        self._given = {
            member: {order: signature for order, signature in given.items() if order in kept}
            for member, given in self._given.items()
            if ledger.is_recent_member(member)
        }

    def _all(self) -> Iterator[ListModel]:
        return iter(sorted({order for given in self._given.values() for order in given}, key=_place))

    def _may_fit(self, order: ListModel, ledger: Ledger, slot: int) -> bool:
        try:
            check_order(order, ledger.listing, slot, self._params)
        except ListingInvalid as error:
            return error.retry
        return True

    def _fits(self, order: ListModel, ledger: Ledger, slot: int) -> bool:
        try:
            check_order(order, ledger.listing, slot, self._params)
        except ListingInvalid:
            return False
        return True


def _place(order: ListModel) -> tuple[int, bytes, bool]:
    """The older first, so that a later order for the same model is never overtaken by it."""
    return order.day, order.model_id, order.is_listed
