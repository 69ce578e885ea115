"""Stakes, thirds, and a rotation of proposers that is fair by stake."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.committee import SEATS, Committee, Member, rotation
from contracts.typed_data import Address


def committee_of(*stakes: int) -> Committee:
    return Committee.of(3, [Member(Address(bytes([n]) * 20), stake) for n, stake in enumerate(stakes, 1)])


def turns(committee: Committee, count: int, start: int = 0) -> list[int]:
    return [committee.proposer(start, round_)[0] for round_ in range(count)]


def test_members_are_in_the_order_of_their_addresses() -> None:
    low, high = Member(Address(b"\x01" * 20), 5), Member(Address(b"\x02" * 20), 3)
    assert Committee.of(1, [high, low]) == Committee.of(1, [low, high])
    assert Committee.of(1, [high, low]).root == Committee.of(1, [low, high]).root != Committee.of(2, [low, high]).root


@pytest.mark.parametrize(
    ("weight", "quorum", "third"), [(0, 0, 0), (4, 0, 0), (5, 0, 1), (8, 0, 1), (9, 1, 1), (12, 1, 1)]
)
def test_thirds_are_exact(weight: int, quorum: bool, third: bool) -> None:
    committee = committee_of(5, 3, 2, 2)
    assert (committee.is_quorum(weight), committee.is_third(weight)) == (bool(quorum), bool(third))


@pytest.mark.parametrize("size", [1, 4, 7, 64])
@pytest.mark.parametrize("stake", [1, 10**24])
def test_equal_stakes_take_turns_by_address(size: int, stake: int) -> None:
    committee = committee_of(*[stake] * size)
    assert turns(committee, 2 * size) == [*range(1, size + 1)] * 2


def test_height_and_round_move_the_turn_alike() -> None:
    committee = committee_of(5, 3, 2, 2)
    assert [committee.proposer(height, 0) for height in range(40)] == [committee.proposer(3, r - 3) for r in range(40)]


def test_a_large_stake_is_spread_over_the_rotation() -> None:
    assert turns(committee_of(2, 1, 1), 4) == [1, 2, 3, 1]


@given(st.lists(st.integers(1, 10**24), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_rotation_is_fair_by_stake(stakes: list[int]) -> None:
    committee = committee_of(*stakes)
    order = rotation(committee.members)
    count = Counter(order)
    assert len(order) <= SEATS + len(stakes)
    for member in committee.members:
        assert count[member.address] >= 1, "nobody is left out"
        share = member.stake * len(order) / committee.total
        assert abs(count[member.address] - share) <= 1 + len(stakes) * member.stake / committee.total
        for upto in range(1, len(order)):
            due = upto * count[member.address] / len(order)
            assert abs(order[:upto].count(member.address) - due) < len(stakes), "spread evenly"
