"""Bits in pages against the plain set of what was settled."""

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market import indexes
from consensus.market.errors import SettlementInvalid
from consensus.market.ledger import Draft
from consensus.market.ledger_state import decode_ledger, encode_ledger, state_root
from consensus.market.settlement import verify_settlement
from contracts.typed_data import ZERO_DIGEST
from tests.consensus.builders import World, address

INDEXES = st.one_of(st.integers(0, 12), st.sampled_from((1_022, 1_023, 1_024, 1_025, 2**40, 2**63)))


@settings(max_examples=100)
@given(st.lists(INDEXES))
def test_pages_are_a_set(numbers: list[int]) -> None:
    pages: dict[bytes, bytes] = {}
    naive: set[int] = set()
    for number in numbers:
        key = indexes.page_key(address("session"), number)
        page = pages.get(key, indexes.EMPTY)
        assert indexes.holds(page, number) is (number in naive)
        pages[key] = indexes.with_index(page, number)
        naive.add(number)
        assert len(pages[key]) <= indexes.PAGE // 8
        assert pages[key][-1]  # one way to write a page
    assert sum(page.bit_count() for page in map(int.from_bytes, pages.values())) == len(naive)
    assert len({len(key) for key in pages}) <= 1


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("a", "b")), INDEXES, st.integers(0, 1)), max_size=14), st.data())
def test_the_ledger_settles_what_the_set_of_settled_lets_through(
    asked: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """In batches of any size, late ones of the day before among them; a snapshot in between changes nothing."""
    world = World()
    ledger, naive, slot = world.ledger(), set[tuple[str, int, int]](), 100  # day 1; tickets of day 0 are settled too
    day_slots = world.terms.params.day_slots
    while asked:
        count = data.draw(st.integers(1, len(asked)))
        batch, asked = asked[:count], asked[count:]
        draft = Draft(ledger, world.terms, slot)
        for session, index, day in batch:
            settlement = world.settlement(session=session, index=index, slot=day_slots - 1 if day == 0 else day_slots)
            try:
                draft.settle(settlement, verify_settlement(settlement, world.terms))
                refused = ""
            except SettlementInvalid as error:
                refused = error.reason
            assert refused == ("index_used" if (session, index, day) in naive else "")
            naive.add((session, index, day))
        ledger = draft.close(ZERO_DIGEST)
        copied = decode_ledger(encode_ledger(ledger))
        assert state_root(copied) == state_root(ledger)
        ledger, slot = copied, slot + 1
    for session, index, day in naive:
        settlement = world.settlement(session=session, index=index, slot=day_slots - 1 if day == 0 else day_slots)
        assert ledger.is_settled(settlement.rfc.payload)
    assert sum(held.used for uses in ledger.sessions.values() for held in uses.values()) == 100 * len(naive)


def test_a_days_settlements_take_bits() -> None:
    """Of 5,000 RFCs of one pass in order, five pages of 128 bytes are kept."""
    pages: dict[bytes, bytes] = {}
    for index in range(5_000):
        key = indexes.page_key(address("session"), index)
        pages[key] = indexes.with_index(pages.get(key, indexes.EMPTY), index)
    assert (len(pages), sum(map(len, pages.values()))) == (5, 625)
