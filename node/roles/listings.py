"""What a member's operator says of the list of models (S8): whom to look at before, and the orders it has given.

Orders that were given stay given: they are on the disk, and told again after a restart until they are taken or too old.
"""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from consensus.market.book import StandingBid
from consensus.market.errors import ListingInvalid, MarketError
from consensus.market.ledger_state import account_of
from consensus.market.listing import check_order, in_force, is_payable
from consensus.member.events import OrderHeard
from consensus.member.orders import MAX_GIVEN, Orders
from contracts.errors import ChainError
from contracts.typed_data import Address, Digest
from gossip.errors import MalformedMessage
from gossip.messages import Signed, decode, encode, sign
from gossip.messages.listing import ListModel
from node.context import Node, now_ms
from node.errors import Unanswerable
from node.roles.balances import Balances
from node.roles.challenges import Challenger
from node.roles.public import PublicState

_KEY = "listing orders"
_MAX_BYTES = 1 << 20


class _Given(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """This member's orders on the disk, the oldest first."""

    votes: Annotated[tuple[Signed[ListModel], ...], msgspec.Meta(max_length=MAX_GIVEN)] = ()


class Listings:
    """One member's part in the list. ``give`` brings an order to the member's core, which holds ``orders``."""

    def __init__(
        self,
        node: Node,
        public: PublicState,
        *,
        orders: Orders,
        balances: Balances,
        challenger: Challenger,
        give: Callable[[OrderHeard], None],
    ) -> None:
        self._node = node
        self._public = public
        self._orders = orders
        self._balances = balances
        self._challenger = challenger
        self._give = give
        self._given: tuple[Signed[ListModel], ...] = ()

    async def load(self) -> None:
        """Give again what was given before this start and may still be taken.

        Raises :class:`~gossip.errors.MessageError` where this is not what an earlier run has stored.
        """
        stored = await self._node.store.get_value(_KEY)
        if stored is None:
            return
        votes = decode(_Given, stored, _MAX_BYTES).votes
        if any(vote.signer(self._node.terms.domain) != self._node.address for vote in votes):
            raise MalformedMessage("ListModel", "an order in the store is another member's")
        self._given = tuple(vote for vote in votes if self._objection(vote.payload) is None)
        for vote in self._given:
            self._give(OrderHeard(vote, self._node.address))

    async def order(self, model_id: Digest, *, is_listed: bool) -> dict[str, Any]:
        """Sign the order to list a model or not, joining the one that most members have given already.

        Raises :class:`Unanswerable` where this member's word would change nothing.
        """
        ledger = self._public.ledger
        if ledger.committee.weight(self._node.address) == 0:
            raise Unanswerable("this node is no member of the running committee")
        order = self._orders.choose(model_id, ledger, self._node.slot(), is_listed=is_listed)
        if (objection := self._objection(order)) is not None:
            raise Unanswerable(f"the order would change nothing: {objection}")
        vote = sign(order, self._node.key, self._node.terms.domain)
        if vote not in self._given:
            kept = [one for one in self._given if self._objection(one.payload) is None]
            self._given = (*kept, vote)[-MAX_GIVEN:]
            await self._node.store.put_value(_KEY, encode(_Given(self._given)))
            self._node.log.info("listing order", model=model_id.hex(), is_listed=is_listed, day=order.day)
        self._give(OrderHeard(vote, self._node.address))
        return {"model_id": model_id, "is_listed": is_listed, "day": order.day, "in_force": self._in_force()}

    async def look(self, model_id: Digest) -> dict[str, Any]:
        """What a member should know of a model before it lists it: who bids for it, and what MOR stands behind each."""
        listing, params, now = self._public.ledger.listing, self._node.terms.params, now_ms()
        slot = self._node.slot()
        ahead = self._public.book.live(model_id, slot + 1, now, prompt_bound=0, ceiling_wei=1 << 256)
        found = next((one for one in self._public.book.models(now) if one.model_id == model_id), None)
        return {
            "model_id": model_id,
            "name": None if found is None else found.name,
            "is_listed": is_payable(listing, model_id, params.day_of(slot), params),
            "bids": [await self._bidder(standing) for standing in ahead],
            "orders": [one for one in self.waiting() if one["model_id"] == model_id],
        }

    async def _bidder(self, standing: StandingBid) -> dict[str, Any]:
        bid, proven = standing.bid, self._challenger.is_proven
        return {
            "provider": bid.provider,
            "price_wei": bid.price_wei,
            "slots": bid.slots,
            "scores": bid.scores,
            "has_proven": proven(bid.provider, bid.model_id),
            "balance_wei": await self._balance(bid.provider),
        }

    async def _balance(self, provider: Address) -> int | None:
        """Wei at the day's snapshot block; None where the chain is out of reach or this node behind."""
        try:
            account = account_of(self._public.ledger, self._node.terms, self._day())
            return await self._balances.of(provider, account.snapshot_block)
        except (ChainError, MarketError) as error:
            self._node.log.info("balance not known", provider=provider.hex(), reason=str(error))
            return None

    def waiting(self) -> list[dict[str, Any]]:
        """The orders that wait for members or for a batch, and how much of the voting power gives each."""
        ledger, total = self._public.ledger, self._public.ledger.committee.total
        return [
            {
                "model_id": order.model_id,
                "is_listed": order.is_listed,
                "day": order.day,
                "members": members,
                "stake_percent": round(100 * self._weight(members) / total, 2),
            }
            for order, members in self._orders.open(ledger, self._node.slot()).items()
        ]

    def _weight(self, members: tuple[Address, ...]) -> int:
        return sum(map(self._public.ledger.committee.weight, members))

    def _objection(self, order: ListModel) -> str | None:
        try:
            check_order(order, self._public.ledger.listing, self._node.slot(), self._node.terms.params)
        except ListingInvalid as error:
            return str(error)
        return None

    def _in_force(self) -> int:
        """The day from which on an order would count that a batch of now carried."""
        return in_force(self._node.slot(), self._node.terms.params)

    def _day(self) -> int:
        return self._node.terms.params.day_of(self._node.slot())
