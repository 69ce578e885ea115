"""Evidence convicts whoever signed two different messages for one place, and nobody else."""

import pytest

from consensus.committee import Committee, Member
from consensus.errors import EvidenceInvalid
from consensus.tendermint.evidence import (
    DoublePrecommit,
    DoublePrevote,
    DoubleProposal,
    accuse,
    equivocator,
    verify_evidence,
)
from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain
from gossip.messages.base import Payload, Signed, decode, encode, sign
from gossip.messages.committee import Precommit, Prevote, Proposal

DOMAIN = Domain(4242, Address(b"\xaa" * 20))
KEY, OTHER, STRANGER = (Key(bytes([number]) * 32) for number in (1, 2, 3))
COMMITTEE = Committee.of(1, [Member(KEY.address, 1), Member(OTHER.address, 1)])
A, B = Digest(b"a" * 32), Digest(b"b" * 32)


def precommit(value: Digest = A, key: Key = KEY, height: int = 1, round_: int = 0) -> Signed[Precommit]:
    return sign(Precommit(height, round_, value, COMMITTEE.root), key, DOMAIN)


def prevote(value: Digest = A, valid_round: int = 0) -> Signed[Prevote]:
    return sign(Prevote(1, 0, valid_round, value), KEY, DOMAIN)


def proposal(value: Digest = A, valid_round: int = 0, key: Key = KEY) -> Signed[Proposal]:
    return sign(Proposal(1, 0, valid_round, value, KEY.address), key, DOMAIN)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (precommit(A), precommit(B), DoublePrecommit),
        (precommit(A), precommit(Digest(bytes(32))), DoublePrecommit),
        (prevote(A), prevote(B), DoublePrevote),
        (prevote(A, 0), prevote(B, 1), DoublePrevote),
        (proposal(A), proposal(B), DoubleProposal),
    ],
    ids=str,
)
def test_two_things_for_one_place_convict(
    first: Signed[Precommit], second: Signed[Precommit], kind: type[DoublePrecommit]
) -> None:
    evidence = accuse(first, second, COMMITTEE, DOMAIN)
    assert type(evidence) is kind
    assert evidence == accuse(second, first, COMMITTEE, DOMAIN)
    assert verify_evidence(evidence, COMMITTEE, DOMAIN) == KEY.address
    assert decode(kind, encode(evidence), 4096) == evidence


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (precommit(A), precommit(A), "the same message twice"),
        (precommit(A), precommit(A, OTHER), "the same message twice"),
        (prevote(A, 0), prevote(A, 1), "the same batch twice"),
        (proposal(A, 0), proposal(A, 1), "the same batch twice"),
        (precommit(A), sign(Precommit(1, 0, A, B), KEY, DOMAIN), "the same batch twice"),
        (precommit(A), sign(Precommit(1, 0, B, B), KEY, DOMAIN), "two committee roots"),
        (precommit(A), precommit(B, height=2), "two heights"),
        (precommit(A), precommit(B, round_=1), "two rounds"),
        (precommit(A), precommit(B, OTHER), "two signers"),
        (precommit(A, STRANGER), precommit(B, STRANGER), "no member"),
        (precommit(A), prevote(B), "messages of two types"),
        (proposal(A), proposal(B, key=OTHER), "Proposal: signed by another key"),
        (precommit(A), Signed(precommit(B).payload, precommit(A).signature), "two signers|no member"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_accuses_nobody(first: Signed[Precommit], second: Signed[Precommit], reason: str) -> None:
    with pytest.raises(EvidenceInvalid, match=reason):
        accuse(first, second, COMMITTEE, DOMAIN)


def test_evidence_of_another_network_accuses_nobody() -> None:
    evidence = accuse(precommit(A), precommit(B), COMMITTEE, DOMAIN)
    with pytest.raises(EvidenceInvalid):
        verify_evidence(evidence, COMMITTEE, Domain(1, DOMAIN.contract))


def test_halves_have_one_order() -> None:
    evidence = accuse(precommit(A), precommit(B), COMMITTEE, DOMAIN)
    assert isinstance(evidence, DoublePrecommit)
    with pytest.raises(EvidenceInvalid, match="out of order"):
        equivocator(DoublePrecommit(evidence.second, evidence.first), DOMAIN)


def test_a_payload_class_is_what_is_signed() -> None:
    assert all(issubclass(kind, Payload) for kind in (Proposal, Prevote, Precommit))
