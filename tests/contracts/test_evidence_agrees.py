"""What Python calls an offence is what the registry punishes: the same pairs, the same offender, once an offence."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus.errors import EvidenceInvalid
from consensus.evidence import examine
from consensus.tendermint.evidence import accuse
from contracts.bindings import evidence as arguments_of
from contracts.errors import EvidenceMismatch
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Digest, Domain
from gossip.messages.base import Signed, sign
from gossip.messages.committee import Precommit, Prevote, Proposal
from testnet.evm import Refused
from tests.contracts.local_chain import World

VALUES = (ZERO_DIGEST, Digest(b"\x01" * 32), Digest(b"\x02" * 32))
PLACES = st.tuples(
    st.sampled_from(["proposal", "prevote", "precommit"]),
    st.sampled_from([0, 7, 2**63 - 1]),
    st.sampled_from([0, 2]),
    st.integers(0, 1),
)
"""Kind, height, round, and which of two members signs."""
SAID = st.tuples(st.sampled_from([(one, other) for one in VALUES for other in VALUES]), st.integers(0, 2))
"""Two batches, and the valid round of the second half."""
FAULTS = st.sampled_from(["", "", "", "", "place", "root", "abroad", "both abroad", "signature"])
"""What else may be wrong with the second half."""


def half(
    world: World, place: tuple[str, int, int, int], value: Digest, valid_round: int = 0, fault: str = ""
) -> Signed[Any]:
    kind, height, round_, signer = place
    key: Key = world.keys[signer]
    domain = Domain(1, world.domain.contract) if "abroad" in fault else world.domain
    if kind == "proposal":
        return sign(Proposal(height, round_, valid_round, value, key.address), key, domain)
    if kind == "prevote":
        return sign(Prevote(height, round_, valid_round, value), key, domain)
    return sign(Precommit(height, round_, value, ZERO_DIGEST if fault == "root" else world.root), key, domain)


def test_python_and_the_registry_agree_on_every_pair(world: World) -> None:
    """One chain for all examples, rewound after each; every pair is shown to the registry against either member."""
    seen = {True: 0, False: 0}

    @settings(
        max_examples=100,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(place=PLACES, other=PLACES, said=SAID, fault=FAULTS)
    def agree(place: Any, other: Any, said: Any, fault: str) -> None:
        (value, rival), valid_round = said
        first = half(world, place, value, fault=fault if fault == "both abroad" else "")
        second = half(world, other if fault == "place" else place, rival, valid_round, fault)
        if fault == "signature":
            second = Signed(second.payload, first.signature)
        try:
            found = accuse(first, second, world.committee, world.domain)
            offender = examine(found, world.domain).offender
        except EvidenceInvalid:
            offender = None
        with world.chain.env.anchor():
            punished = [key.address for key in world.keys[:2] if slashes(world, key, first, second)]
        assert punished == ([] if offender is None else [offender])
        seen[offender is not None] += 1

    agree()
    assert all(seen.values()), f"both answers must come up: {seen}"


def slashes(world: World, key: Key, first: Signed[Any], second: Signed[Any]) -> bool:
    try:
        world.registry("slash", *arguments_of(key.address, first, second))
    except (Refused, EvidenceMismatch):
        return False
    return world.registry("is_slashed", key.address) is True


def test_an_offences_id_is_the_word_that_the_registry_punishes_once(world: World) -> None:
    """Two pieces of evidence with one id: the second is refused as the same offence."""
    key = world.keys[1]
    votes = [sign(Prevote(7, 2, 0, Digest(bytes([number]) * 32)), key, world.domain) for number in range(3)]
    one, two = (accuse(votes[0], other, world.committee, world.domain) for other in votes[1:])
    assert one != two
    assert examine(one, world.domain).id == examine(two, world.domain).id
    world.registry("slash", *arguments_of(key.address, one.first, one.second))
    with pytest.raises(Refused, match="already punished"):
        world.registry("slash", *arguments_of(key.address, two.first, two.second))
