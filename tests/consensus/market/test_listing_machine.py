"""Whatever orders are told, and whenever: the list is what a plain history of all orders makes of them (S8)."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consensus.market.ledger_state import decode_ledger, encode_ledger, state_root
from consensus.market.listing import ORDER_DAYS
from contracts.typed_data import Digest
from gossip.messages.listing import ListingOrder, ListModel
from gossip.messages.session import Settlement
from tests.consensus.builders import MODEL, World, make_terms, named_digest
from tests.consensus.market.ordering import order_of

MODELS = (MODEL, *(named_digest(f"model {number}") for number in range(2)))
DAY = 16


orders = st.tuples(
    st.sampled_from(MODELS),
    st.booleans(),
    st.sampled_from([-1, 0, 0, 0, 1, 2, ORDER_DAYS - 1, ORDER_DAYS]),
    st.sampled_from([2, 3, 4, 4, 4]),
)
"""Model, whether it is to be listed, days ago, and how many members sign."""


@dataclass(frozen=True)
class Taken:
    """An order that the history has seen taken."""

    order: ListModel
    in_force: int


class Lists(RuleBasedStateMachine):
    """Days of 16 slots, four members, orders of any day, by anybody, again and again."""

    @initialize(listed=st.sets(st.sampled_from(MODELS)))
    def start(self, listed: set[Digest]) -> None:
        terms = make_terms(day_slots=DAY, settle_window_slots=40)
        self.world = World(terms, committed_days=0, listed=[model for model in MODELS if model in listed])
        self.ledger = self.world.ledger()
        self.history: list[Taken] = []
        self.said: list[tuple[ListingOrder, int]] = []

    def listed(self, model: Digest, day: int) -> bool:
        """By all that was ever taken."""
        last = [one for one in self.history if one.order.model_id == model and one.in_force <= day]
        return last[-1].order.is_listed if last else model in self.world.listed

    @rule(
        slots=st.sampled_from([1, 1, 2, 5, 13, DAY, 3 * DAY, (ORDER_DAYS - 1) * DAY]),
        fresh=st.lists(orders, max_size=4),
        repeated=st.lists(st.integers(0, 100), max_size=2),
        ends=st.lists(st.integers(0, 30), max_size=2),
    )
    def close_batch(
        self, slots: int, fresh: list[tuple[Digest, bool, int, int]], repeated: list[int], ends: list[int]
    ) -> None:
        told = [self._told(*one) for one in fresh]
        told += [self.said[which % len(self.said)] for which in repeated if self.said]
        self.said += told
        pending = [self._session(max(0, self.ledger.slot + slots - back)) for back in ends]
        before, slot = self.ledger, self.ledger.slot + slots
        day = slot // DAY
        opening = self.world.opening(day) if day > before.day else None
        given = [one for one, _ in told]
        header, body, _ = self.world.propose(before, pending, slot=slot, opening=opening, listings=given)
        assert list(body.listings) == [one for one, signers in told if self._takes(one.order, signers, slot)]
        assert list(body.settlements) == [one for one in pending if self._settles(one, slot)]
        self.ledger = self.world.apply(before, header, body)
        assert self.world.apply(decode_ledger(encode_ledger(before)), header, body) == self.ledger

    def _told(self, model: Digest, is_listed: bool, ago: int, signers: int) -> tuple[ListingOrder, int]:
        day, who = max(0, self.ledger.day - ago), self.world.members[:signers]
        return order_of(self.world, model, day, is_listed=is_listed, members=who), signers

    def _session(self, slot: int) -> Settlement:
        return self.world.settlement(session=f"of day {slot // DAY}", slot=slot, tokens=1, token_max=1)

    def _takes(self, order: ListModel, signers: int, slot: int) -> bool:
        day, first = slot // DAY, (slot + DAY // 8) // DAY + 1
        overtaken = any(one.order.model_id == order.model_id and one.order.day >= order.day for one in self.history)
        if signers < 3 or not day - ORDER_DAYS < order.day <= day or overtaken:
            return False
        if self.listed(order.model_id, first) == order.is_listed:
            return False
        self.history.append(Taken(order, first))
        return True

    def _settles(self, settlement: Settlement, slot: int) -> bool:
        opened = settlement.ticket.payload.slot
        return opened <= slot <= opened + 40 and self.listed(MODEL, opened // DAY)

    @invariant()
    def the_list_is_what_the_history_says(self) -> None:
        for day in range(max(0, (self.ledger.slot - 40) // DAY), self.ledger.day + 4):
            expected = {model for model in MODELS if self.listed(model, day)}
            assert set(self.ledger.listing.on(day)) == expected, day

    @invariant()
    def a_snapshot_reads_back(self) -> None:
        assert state_root(decode_ledger(encode_ledger(self.ledger))) == state_root(self.ledger)


TestLists = Lists.TestCase
TestLists.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
