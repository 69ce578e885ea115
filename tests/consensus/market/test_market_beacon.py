from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market.beacon import chain_tip, day_seed, next_beacon, slot_secret, verify_reveal
from consensus.market.errors import BeaconInvalid
from consensus.market.matching import draw
from contracts.typed_data import Digest
from tests.consensus.builders import named_digest

SLOTS = 50


@given(st.binary(min_size=1, max_size=32), st.integers(0, 10**6), st.integers(0, SLOTS - 1))
@settings(max_examples=60)
def test_every_slots_secret_proves_itself(material: bytes, day: int, slot: int) -> None:
    seed = day_seed(material, day)
    verify_reveal(chain_tip(seed, SLOTS), slot, slot_secret(seed, slot, SLOTS), SLOTS)


def test_a_secret_gives_the_earlier_ones_and_not_the_later() -> None:
    """Hashing leads back in time: a revealed secret's hash is the secret of the slot before."""
    seed = day_seed(b"material", 0)
    secrets = [slot_secret(seed, slot, SLOTS) for slot in range(SLOTS)]
    assert len(set(secrets)) == SLOTS
    for earlier, later in pairwise(secrets):
        assert sha256(later).digest() == earlier
    assert sha256(secrets[0]).digest() == chain_tip(seed, SLOTS)
    assert secrets[-1] == seed


@pytest.mark.parametrize("claimed", [0, 6, 8, SLOTS - 1])
def test_a_secret_of_another_slot_is_refused(claimed: int) -> None:
    seed = day_seed(b"material", 0)
    with pytest.raises(BeaconInvalid) as refused:
        verify_reveal(chain_tip(seed, SLOTS), claimed, slot_secret(seed, 7, SLOTS), SLOTS)
    assert refused.value.slot_in_day == claimed


@pytest.mark.parametrize("slot", [-1, SLOTS, 10**9])
def test_a_slot_outside_the_day_is_refused_at_once(slot: int) -> None:
    seed = day_seed(b"material", 0)
    with pytest.raises(BeaconInvalid):
        slot_secret(seed, slot, SLOTS)
    with pytest.raises(BeaconInvalid):
        verify_reveal(chain_tip(seed, SLOTS), slot, seed, SLOTS)


def test_days_and_members_have_unrelated_chains() -> None:
    assert len({day_seed(material, day) for material in (b"a", b"b") for day in (0, 1)}) == 4


def test_the_beacon_depends_on_all_that_goes_in() -> None:
    parts = [named_digest(name) for name in ("previous", "reveal", "parent")]
    reference = next_beacon(*parts)
    for number in range(3):
        changed: list[Digest] = list(parts)
        changed[number] = named_digest("changed")
        assert next_beacon(*changed) != reference


def test_the_bytes_are_the_same_for_every_implementation() -> None:
    seed = day_seed(b"material", 300)
    assert seed.hex() == "14f512ae3127eb454576cb925150ac55c8d8807edc10fddf5897c1b8ba28ca56"
    assert chain_tip(seed, SLOTS).hex() == "4893bbe9eca1c00b881d78b4195ef8ee14f1a97e499f4a2d3e89435b47539486"
    assert draw(seed, named_digest("secret"), named_digest("rfc"), 300).hex() == (
        "444ff0c925c536b0b1998b3f05c8887ea1ae2289e3649d1dc4b3eea228aed315"
    )
