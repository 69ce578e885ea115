"""The ledger's growing parts against plain dicts, and that a root depends on the contents alone."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market.ledger_state import SessionUse
from consensus.market.penalties import Penalties
from consensus.market.trie import Trie
from contracts.typed_data import ZERO_DIGEST, Address, Uint256
from tests.consensus.builders import address, named_digest

# few different bytes at both ends, so that keys meet in one bucket and part late
KEYS = st.builds(
    lambda head, middle, tail: Address(bytes([head, 0, middle]) + bytes(16) + bytes([tail])),
    st.sampled_from([0, 1, 16, 255]),
    st.integers(0, 3),
    st.integers(0, 40),
)
USES = st.builds(SessionUse, st.integers(0, 3), st.just(100), st.integers(0, 50))


@settings(max_examples=100)
@given(st.lists(st.dictionaries(KEYS, USES, max_size=30), max_size=5), st.sampled_from([1, 3, 8]))
def test_a_trie_is_a_sorted_dict_whose_root_tells_its_contents(
    steps: list[dict[Address, SessionUse]], bucket: int
) -> None:
    expected: dict[Address, SessionUse] = {}
    held: Trie[Address, SessionUse] = Trie(bucket=bucket)
    for step in steps:
        before, old, root = dict(held), held, held.root
        expected |= step
        held = held.with_items(step)
        assert dict(old) == before, "the old one is as it was"
        assert old.root == root
        assert (held.root == root) == (before == expected)
    assert dict(held) == expected
    assert list(held) == sorted(expected)
    assert len(held) == len(expected)
    assert all(key in held for key in expected)
    assert held.root == Trie.of(expected, bucket).root


@settings(max_examples=100)
@given(
    st.dictionaries(KEYS, USES, max_size=40),
    st.lists(st.dictionaries(KEYS, USES, max_size=10), max_size=3),
    st.booleans(),
)
def test_what_has_changed_since_an_older_trie(
    first: dict[Address, SessionUse], steps: list[dict[Address, SessionUse]], is_rebuilt: bool
) -> None:
    old = held = Trie.of(first)
    for step in steps:
        held = held.with_items(step)
    if is_rebuilt:  # as after a start: the same contents, nothing shared
        held = Trie.of(dict(held))
    assert held.changed_since(old) == {key: use for key, use in held.items() if first.get(key) != use}


@pytest.mark.seed(1)
def test_a_root_does_not_depend_on_the_order(chance: random.Random) -> None:
    items = [(named_digest(str(number)), Uint256(number)) for number in range(500)]
    whole = Trie.of(dict(items))
    chance.shuffle(items)
    one_by_one: Trie[bytes, Uint256] = Trie()
    for key, value in items:
        one_by_one = one_by_one.with_items({key: value})
    assert one_by_one.root == whole.root
    assert one_by_one == whole


def test_what_is_not_there_is_a_key_error_and_has_no_root() -> None:
    empty: Trie[Address, int] = Trie()
    assert (empty.root, len(empty), empty.get(address("nobody"))) == (ZERO_DIGEST, 0, None)
    for trie in (empty, empty.with_items({address("somebody"): 1})):
        with pytest.raises(KeyError):
            trie[address("nobody")]
        assert address("nobody") not in trie


def test_what_is_a_trie_already_is_taken_as_it_is() -> None:
    trie = Trie.of({address("somebody"): 1})
    assert Trie.of(trie) is trie
    assert trie.with_items({}) is trie


def test_amounts_beyond_64_bits_have_roots() -> None:
    roots = {Trie.of({address("p"): Uint256(wei)}).root for wei in (2**63, 2**64, 2**200)}
    assert len(roots) == 3


@settings(max_examples=100)
@given(st.sets(st.binary(min_size=3, max_size=3), max_size=60), st.binary(max_size=3), st.integers(1, 8))
def test_what_begins_alike_is_found_together(keys: set[bytes], prefix: bytes, bucket: int) -> None:
    held = Trie[bytes, int](bucket=bucket).with_items(dict.fromkeys(keys, 1))
    assert set(held.with_prefix(prefix)) == {key for key in keys if key.startswith(prefix)}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.sampled_from([0, 0, 1, 2, 70])), max_size=12))
def test_s44_half_of_the_points_are_gone_every_day_without_touching_them(steps: list[tuple[int, int, int]]) -> None:
    points: Mapping[Address, int] = {}
    held = Penalties({}, 0)
    for provider, gained, days in steps:
        for _ in range(days):
            points = {who: left // 2 for who, left in points.items() if left // 2}
        held = held.on(held.day + days)
        who = address(f"p{provider}")
        points = {**points, who: points.get(who, 0) + gained}
        held = held.with_points({who: held.get(who, 0) + gained})
        assert held == points
        assert len(held) == len(points)
    assert Penalties(held.written, held.day).root == held.root
