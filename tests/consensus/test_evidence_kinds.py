"""Evidence of every kind proves one offence, whatever came first, and proves nothing once a byte of it is changed."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.errors import EvidenceInvalid
from consensus.evidence import OffenceKind, accuse_index, accuse_pass, examine
from consensus.tendermint.evidence import accuse
from contracts.typed_data import Address, Digest, Domain, Signature
from gossip.errors import MalformedMessage, MessageError, MessageTooLarge
from gossip.messages.base import Signed, encode, sign
from gossip.messages.committee import Precommit, Prevote, Proposal
from gossip.messages.evidence import (
    MAX_EVIDENCE_BYTES,
    DoubleIndex,
    DoublePass,
    DoublePrecommit,
    Evidence,
    decode_evidence,
)
from gossip.messages.market import AccessPass, Rfc
from tests.consensus.builders import World, key

WORLD = World()
DOMAIN = WORLD.domain
MEMBER = WORLD.members[1]
A, B = Digest(b"a" * 32), Digest(b"b" * 32)


def access_pass(issuer: Any = None, **changes: Any) -> Signed[AccessPass]:
    issuer = issuer or MEMBER
    return sign(replace(WORLD.access_pass().payload, issuer=issuer.address, **changes), issuer, DOMAIN)


def rfc(session: str = "session", **changes: Any) -> Signed[Rfc]:
    made = WORLD.rfc().payload
    return sign(replace(made, session_key=key(session).address, **changes), key(session), DOMAIN)


def proposals() -> Evidence:
    one, two = (sign(Proposal(7, 2, 0, value, MEMBER.address), MEMBER, DOMAIN) for value in (A, B))
    return accuse(two, one, WORLD.committee, DOMAIN)


def prevotes() -> Evidence:
    one, two = (sign(Prevote(7, 2, number, value), MEMBER, DOMAIN) for number, value in enumerate((A, B)))
    return accuse(one, two, WORLD.committee, DOMAIN)


def precommits() -> Evidence:
    one, two = (sign(Precommit(7, 2, value, WORLD.committee.root), MEMBER, DOMAIN) for value in (A, B))
    return accuse(one, two, WORLD.committee, DOMAIN)


def passes() -> Evidence:
    return accuse_pass(access_pass(allowance=64), access_pass(allowance=128), DOMAIN)


def indexes() -> Evidence:
    return accuse_index(rfc(token_max=1), rfc(token_max=2), DOMAIN)


EVERY_KIND: list[Callable[[], Evidence]] = [proposals, prevotes, precommits, passes, indexes]
every_kind = pytest.mark.parametrize("make", EVERY_KIND)


@every_kind
def test_every_kind_proves_one_offence_and_survives_the_wire(make: Callable[[], Evidence]) -> None:
    evidence = make()
    offence = examine(evidence, DOMAIN)
    assert offence.kind == EVERY_KIND.index(make) + 1
    data = encode(evidence)
    assert len(data) < MAX_EVIDENCE_BYTES
    assert decode_evidence(data) == evidence
    assert encode(decode_evidence(data)) == data
    assert examine(decode_evidence(data), DOMAIN) == offence


def test_who_did_it_and_who_answers_for_it() -> None:
    voted = examine(precommits(), DOMAIN)
    assert (voted.offender, voted.answerable, voted.height, voted.round) == (MEMBER.address, MEMBER.address, 7, 2)
    issued = examine(passes(), DOMAIN)
    assert (issued.offender, issued.answerable) == (MEMBER.address, MEMBER.address)
    used = examine(indexes(), DOMAIN)
    router = WORLD.rfc().payload.access_pass.payload.issuer
    assert (used.offender, used.answerable, used.session_key) == (
        key("session").address,
        router,
        key("session").address,
    )


def test_offences_have_ids_of_their_own_and_one_offence_has_one() -> None:
    assert len({examine(make(), DOMAIN).id for make in EVERY_KIND}) == len(EVERY_KIND)
    other = accuse_index(rfc(token_max=3), rfc(token_max=2, index=0), DOMAIN)
    assert other != indexes()
    assert examine(other, DOMAIN).id == examine(indexes(), DOMAIN).id


@every_kind
@pytest.mark.parametrize("stranger", [Domain(1, DOMAIN.contract), Domain(DOMAIN.chain_id, Address(b"\x01" * 20))])
def test_evidence_of_another_network_proves_nothing_about_the_same_offender(
    make: Callable[[], Evidence], stranger: Domain
) -> None:
    with pytest.raises(EvidenceInvalid):
        examine(make(), stranger)


@every_kind
def test_halves_swapped_doubled_or_mixed_prove_nothing(make: Callable[[], Evidence]) -> None:
    evidence: Any = make()
    kind = type(evidence)
    for first, second in (
        (evidence.second, evidence.first),
        (evidence.first, evidence.first),
        (evidence.first, Signed(evidence.second.payload, evidence.first.signature)),
        (evidence.first, Signed(evidence.second.payload, Signature(bytes(65)))),
    ):
        with pytest.raises(EvidenceInvalid):
            examine(kind(first, second), DOMAIN)


def test_halves_of_two_kinds_are_no_evidence() -> None:
    made: list[Any] = [make() for make in EVERY_KIND]
    for one in made:
        for other in made:
            if one is not other:
                with pytest.raises(MalformedMessage):
                    decode_evidence(encode(type(one)(one.first, other.first)))


@settings(max_examples=60, deadline=None)
@given(make=st.sampled_from(EVERY_KIND), place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_no_changed_byte_convicts_somebody_else_or_makes_a_second_offence(
    make: Callable[[], Evidence], place: int, change: int
) -> None:
    """Either it doesn't decode, or proves nothing, or it is the same offence of the same offender."""
    data = bytearray(encode(make()))
    data[place % len(data)] ^= change
    try:
        found = examine(decode_evidence(bytes(data)), DOMAIN)
    except (MessageError, EvidenceInvalid):
        return
    assert found.id == examine(make(), DOMAIN).id


def test_what_is_too_large_or_no_evidence_is_refused_before_it_is_examined() -> None:
    with pytest.raises(MessageTooLarge):
        decode_evidence(encode(indexes()) + bytes(MAX_EVIDENCE_BYTES))
    for junk in (b"", b"\x93\x06\x01\x01", encode(precommits())[:-1], encode(rfc())):
        with pytest.raises(MalformedMessage):
            decode_evidence(junk)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (access_pass(day=0), access_pass(day=1), "two days"),
        (access_pass(), access_pass(session_key=key("other").address), "two session keys"),
        (access_pass(), access_pass(), "the same message twice"),
        (access_pass(), access_pass(WORLD.members[2]), "two signers"),
    ],
)
def test_two_passes_that_accuse_nobody(first: Signed[AccessPass], second: Signed[AccessPass], reason: str) -> None:
    with pytest.raises(EvidenceInvalid, match=reason):
        accuse_pass(first, second, DOMAIN)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (rfc(index=0), rfc(index=1), "two indexes"),
        (rfc(), rfc(), "the same message twice"),
        (rfc(), rfc(access_pass=access_pass(allowance=2)), "two passes"),
        (rfc(), rfc("thief", token_max=2), "a pass of another session key|two signers"),
        (rfc("thief"), rfc("thief", token_max=2), "a pass of another session key"),
    ],
)
def test_two_rfcs_that_accuse_nobody(first: Signed[Rfc], second: Signed[Rfc], reason: str) -> None:
    with pytest.raises(EvidenceInvalid, match=reason):
        accuse_index(first, second, DOMAIN)


def test_an_index_used_twice_under_a_forged_pass_accuses_nobody() -> None:
    forged = Signed(WORLD.access_pass().payload, sign(WORLD.access_pass().payload, key("x"), DOMAIN).signature)
    with pytest.raises(EvidenceInvalid, match="AccessPass"):
        accuse_index(rfc(access_pass=forged), rfc(access_pass=forged, token_max=2), DOMAIN)


def test_precommits_of_two_committees_are_no_offence() -> None:
    one, two = (sign(Precommit(7, 2, value, value), MEMBER, DOMAIN) for value in (A, B))
    low, high = sorted((one, two), key=lambda message: message.id(DOMAIN))
    with pytest.raises(EvidenceInvalid, match="two committee roots"):
        examine(DoublePrecommit(low, high), DOMAIN)


def test_the_kinds_are_the_registrys() -> None:
    assert [kind.value for kind in OffenceKind] == [1, 2, 3, 4, 5]
    assert isinstance(passes(), DoublePass)
    assert isinstance(indexes(), DoubleIndex)
