"""What evidence of any kind proves: which offence, by whom, and who answers for it.

Verification needs the network's domain and nothing else. Whether the one who answers for it is, or was, a committee
member is the caller's to look up: without that anybody could make up any number of offenders.
"""

import enum
from typing import assert_never

import msgspec
from eth_abi.abi import encode as abi_encode
from eth_hash.auto import keccak

from consensus.errors import EvidenceInvalid
from consensus.tendermint.evidence import common_signer, equivocator
from contracts.typed_data import Address, Digest, Domain
from gossip.errors import SignerMismatch
from gossip.messages.base import Signed
from gossip.messages.evidence import (
    DoubleIndex,
    DoublePass,
    DoublePrecommit,
    DoublePrevote,
    DoubleProposal,
    Equivocation,
    Evidence,
)
from gossip.messages.market import AccessPass, Rfc

__all__ = [
    "DoubleIndex",
    "DoublePass",
    "Equivocation",
    "Evidence",
    "Offence",
    "OffenceKind",
    "accuse_index",
    "accuse_pass",
    "examine",
]


class OffenceKind(enum.IntEnum):
    """What was signed twice. The first three are the kinds of ``contracts/registry.vy``, which slashes them."""

    PROPOSAL = 1
    PREVOTE = 2
    PRECOMMIT = 3
    ACCESS_PASS = 4
    """By a router: dilutes everybody's access."""
    RFC_INDEX = 5
    """By a session key: spends its allowance twice."""


class Offence(msgspec.Struct, frozen=True):
    """One proven offence. Two pieces of evidence with one ``id`` prove one offence."""

    id: Digest
    """keccak(abi.encode(offender, kind, …)); for an equivocation the word that the registry punishes once."""
    kind: OffenceKind
    offender: Address
    answerable: Address
    """The committee member behind it: the offender itself, or who issued the pass that was abused."""
    height: int = 0
    """Of an equivocation; ``round`` as well."""
    round: int = 0
    day: int = 0
    """Of a pass, given or abused."""
    session_key: Address | None = None
    """Of a pass, given or abused."""


def examine(evidence: Evidence, domain: Domain) -> Offence:
    """The offence that ``evidence`` proves. Raises :class:`EvidenceInvalid` where it proves none."""
    match evidence:
        case DoubleProposal() | DoublePrevote() | DoublePrecommit():
            return _examine_equivocation(evidence, domain)
        case DoublePass():
            return _examine_pass(evidence, domain)
        case DoubleIndex():
            return _examine_index(evidence, domain)
        case _:
            assert_never(evidence)


def accuse_pass(first: Signed[AccessPass], second: Signed[AccessPass], domain: Domain) -> DoublePass:
    """Evidence of two passes, in canonical order. Raises :class:`EvidenceInvalid` where they accuse nobody."""
    low, high = sorted((first, second), key=lambda message: message.id(domain))
    evidence = DoublePass(low, high)
    _examine_pass(evidence, domain)
    return evidence


def accuse_index(first: Signed[Rfc], second: Signed[Rfc], domain: Domain) -> DoubleIndex:
    """Evidence of two RFCs, in canonical order. Raises :class:`EvidenceInvalid` where they accuse nobody."""
    low, high = sorted((first, second), key=lambda message: message.id(domain))
    evidence = DoubleIndex(low, high)
    _examine_index(evidence, domain)
    return evidence


def _examine_equivocation(evidence: Equivocation, domain: Domain) -> Offence:
    match evidence:
        case DoubleProposal():
            kind = OffenceKind.PROPOSAL
        case DoublePrevote():
            kind = OffenceKind.PREVOTE
        case _:
            kind = OffenceKind.PRECOMMIT
    member = equivocator(evidence, domain)
    place = evidence.first.payload.height, evidence.first.payload.round
    value = abi_encode(["address", "uint8", "uint64", "uint64"], [member, kind, *place])
    return Offence(Digest(keccak(value)), kind, member, member, height=place[0], round=place[1])


def _examine_pass(evidence: DoublePass, domain: Domain) -> Offence:
    first, second = evidence.first.payload, evidence.second.payload
    _check_same("session keys", first.session_key, second.session_key)
    _check_same("days", first.day, second.day)
    if first == second:
        raise EvidenceInvalid("the same message twice", evidence.first.id(domain))
    issuer = common_signer(evidence.first, evidence.second, domain)
    return Offence(
        _id_of(issuer, OffenceKind.ACCESS_PASS, first.day, first.session_key),
        OffenceKind.ACCESS_PASS,
        issuer,
        issuer,
        day=first.day,
        session_key=first.session_key,
    )


def _examine_index(evidence: DoubleIndex, domain: Domain) -> Offence:
    """One offence a pass: once is enough to end it, and a second proves nothing new."""
    first, second = evidence.first.payload, evidence.second.payload
    _check_same("indexes", first.index, second.index)
    used = first.access_pass.payload
    if used != second.access_pass.payload:
        raise EvidenceInvalid("two passes", second.session_key)
    if used.session_key != first.session_key:
        raise EvidenceInvalid("a pass of another session key", used.session_key)
    if first == second:
        raise EvidenceInvalid("the same message twice", evidence.first.id(domain))
    offender = common_signer(evidence.first, evidence.second, domain)
    try:
        for half in (first, second):
            half.access_pass.signer(domain)
    except SignerMismatch as error:
        raise EvidenceInvalid(str(error), error.what) from error
    return Offence(
        _id_of(offender, OffenceKind.RFC_INDEX, used.day, used.issuer),
        OffenceKind.RFC_INDEX,
        offender,
        used.issuer,
        day=used.day,
        session_key=offender,
    )


def _check_same(what: str, first: object, second: object) -> None:
    if first != second:
        raise EvidenceInvalid(f"two {what}", second)


def _id_of(offender: Address, kind: OffenceKind, day: int, other: Address) -> Digest:
    """``other`` is the session key of a pass, or the issuer of the one that an index was used twice under."""
    return Digest(keccak(abi_encode(["address", "uint8", "uint64", "address"], [offender, kind, day, other])))
