"""The ledger's two large parts against plain dicts, and that a root depends on the contents alone."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market.ledger_state import SessionUse
from consensus.market.shards import KeyShards, SlotTickets
from contracts.typed_data import Address, Digest

# few first bytes, so that keys meet in one part
KEYS = st.builds(lambda head, tail: Address(bytes([head, 0, tail]) + bytes(17)), st.integers(0, 3), st.integers(0, 9))
USES = st.builds(SessionUse, st.integers(0, 3), st.just(100), st.integers(0, 50), st.just((1,)))
TICKETS = st.builds(lambda number: Digest(number.to_bytes(32, "big")), st.integers(0, 200))


@settings(max_examples=60)
@given(st.lists(st.dictionaries(KEYS, USES, max_size=8), max_size=5), st.integers(0, 3))
def test_sessions_are_a_sorted_dict_whose_root_tells_its_contents(
    steps: list[dict[Address, SessionUse]], day: int
) -> None:
    expected: dict[Address, SessionUse] = {}
    held = KeyShards[SessionUse].of({})
    for step in steps:
        before, old = dict(held), held
        expected |= step
        held = held.with_items(step)
        assert dict(old) == before, "the old one is as it was"
    assert dict(held) == expected
    assert list(held) == sorted(expected)
    assert len(held) == len(expected)
    assert held.root == KeyShards.of(expected).root
    kept = held.where(lambda use: use.day >= day)
    left = {key: use for key, use in expected.items() if use.day >= day}
    assert (dict(kept), len(kept), kept.root) == (left, len(left), KeyShards.of(left).root)
    assert (kept.root == held.root) == (left == expected)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.dictionaries(TICKETS, st.integers(0, 30), max_size=8), st.integers(0, 30)), max_size=6))
def test_tickets_are_a_dict_that_forgets_old_slots(steps: list[tuple[dict[Digest, int], int]]) -> None:
    expected: dict[Digest, int] = {}
    held = SlotTickets.of({})
    first = 0
    for step, moved in steps:
        first = max(first, moved)
        added = {ticket: slot for ticket, slot in step.items() if ticket not in expected}
        before, old = dict(held), held
        expected = {ticket: slot for ticket, slot in (expected | added).items() if slot >= first}
        held = held.moved_on(added, first)
        assert dict(old) == before, "the old one is as it was"
        assert dict(held) == expected
        assert len(held) == len(expected)
        assert all(held.holds(ticket, slot) for ticket, slot in expected.items())
        assert held.root == SlotTickets.of(expected).root
    assert all(a <= b for a, b in pairwise(held.values())), "slots ascend"
    shuffled = list(expected.items())
    random.Random(1).shuffle(shuffled)
    assert SlotTickets.of(dict(shuffled)).root == held.root


def test_a_ticket_is_found_under_its_own_slot_only() -> None:
    ticket = Digest(bytes(32))
    held = SlotTickets.of({ticket: 5})
    assert held.holds(ticket, 5)
    assert not held.holds(ticket, 6)
    assert ticket in held
    assert Digest(b"\x01" * 32) not in held
    assert SlotTickets.of({ticket: 6}).root != held.root


def test_what_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        KeyShards[SessionUse].of({})[Address(bytes(20))]
    with pytest.raises(KeyError):
        SlotTickets.of({})[Digest(bytes(32))]


def test_what_is_in_parts_already_is_taken_as_it_is() -> None:
    sessions, tickets = KeyShards[SessionUse].of({}), SlotTickets.of({})
    assert KeyShards.of(sessions) is sessions
    assert SlotTickets.of(tickets) is tickets
