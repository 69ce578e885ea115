"""Each model's bids in the order in which this router draws from them, put in order again where something changes."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from consensus.market.book import StandingBid
from consensus.market.day_account import DayAccount
from consensus.market.desk import Desk
from consensus.market.ranking import Ranking
from consensus.market.seats import Seat
from contracts.typed_data import Address, Digest
from gossip.messages.market import Why
from node.context import Node, now_ms
from node.roles.challenges import Challenger
from node.roles.public import PublicState

KEPT = 1_000
"""Models whose order is remembered; the one that was asked for longest ago is forgotten first."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A model's order, and what it was made of: each the same object for as long as it says the same."""

    holders: frozenset[Address]
    changes: int
    ranking: Ranking

    def is_of(
        self,
        bids: tuple[StandingBid, ...],
        penalties: Mapping[Address, int],
        holders: frozenset[Address],
        changes: int,
    ) -> bool:
        made = self.ranking
        is_same = made.bids is bids and made.penalties is penalties and self.holders is holders
        return is_same and self.changes == changes


class Rankings:
    """What this router knows of each provider, and which slots it has filled or holds for a question under way."""

    def __init__(self, node: Node, public: PublicState, desk: Desk, challenger: Challenger) -> None:
        self._node = node
        self._public = public
        self._desk = desk
        self._challenger = challenger
        self._holders: frozenset[Address] = frozenset()
        self._asked: Counter[Seat] = Counter()
        """Slots held for RFCs whose liveness check is under way."""
        self._made: OrderedDict[Digest, _Made] = OrderedDict()
        desk.seats.on_seat = self._note_seat

    def of(self, model_id: Digest, slot: int, account: DayAccount) -> Ranking:
        """The model's bids within the day's price ceiling that count in ``slot``, whatever prompts they take."""
        ceiling = account.ceiling_wei(self._node.terms.params)
        bids = self._public.book.live(model_id, slot, now_ms(), prompt_bound=0, ceiling_wei=ceiling)
        penalties = self._public.ledger.penalties
        holders, changes = self._holders, self._challenger.changes
        made = self._made.get(model_id)
        if made is None or not made.is_of(bids, penalties, holders, changes):
            made = self._made[model_id] = _Made(holders, changes, self._rank(bids, penalties))
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(model_id)
        return made.ranking

    def _rank(self, bids: tuple[StandingBid, ...], penalties: Mapping[Address, int]) -> Ranking:
        barred = {one.bid.provider: why for one in bids if (why := self._bars(one)) is not None}
        ranking = Ranking(bids, self._node.terms.params, penalties, barred)
        for one in bids:
            ranking.note_full(one.bid.provider, is_full=not self.has_slot(one))
        return ranking

    def _bars(self, standing: StandingBid) -> Why | None:
        """Its provider must have shown the model (S42) and hold MOR (S43)."""
        if standing.bid.provider not in self._holders:
            return Why.NO_MOR
        return None if self._challenger.is_proven(*seat_of(standing)) else Why.UNPROVEN

    def note_holders(self, holders: frozenset[Address]) -> None:
        """Who holds MOR, as far as this router knows (S43)."""
        if holders != self._holders:
            self._holders = holders

    def has_slot(self, standing: StandingBid) -> bool:
        """Whether there is a slot that no ticket fills and no question holds."""
        return self._desk.slots_left(standing.bid) > self._asked[seat_of(standing)]

    def hold(self, standing: StandingBid) -> None:
        """Keep a slot for a question, until :meth:`let_go`."""
        self._asked[seat_of(standing)] += 1
        self._note_seat(seat_of(standing))

    def let_go(self, standing: StandingBid) -> None:
        """The question has its answer."""
        seat = seat_of(standing)
        self._asked[seat] -= 1
        if not self._asked[seat]:
            del self._asked[seat]
        self._note_seat(seat)

    def _note_seat(self, seat: Seat) -> None:
        made = self._made.get(seat[1])
        if made is not None and (standing := made.ranking.bid_of(seat[0])) is not None:
            made.ranking.note_full(seat[0], is_full=not self.has_slot(standing))


def seat_of(standing: StandingBid) -> Seat:
    """What its slots are counted by."""
    return standing.bid.provider, standing.bid.model_id
