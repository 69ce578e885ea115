"""Attacks on commit certificates, as vectors: each names what was done to a good certificate and whether it stands."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from consensus.committee import Committee, Member
from consensus.errors import CertificateFault, CertificateInvalid
from consensus.tendermint.certificate import as_unit, assemble_certificate, signers_of, verify_certificate
from consensus.tendermint.types import Certificate, VoteType
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Domain, Signature, Uint256
from gossip.messages.committee import BatchHeader, CommitCertificate, Precommit, Prevote, batch_hash

Json = dict[str, Any]
VECTORS: list[Json] = json.loads((Path(__file__).parent / "certificates.json").read_text(encoding="utf-8"))

DOMAIN = Domain(4242, Address(b"\xcc" * 20))
KEYS = sorted((Key(bytes([number]) * 32) for number in range(1, 5)), key=lambda key: key.address)
STRANGER = Key(b"\x77" * 32)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
OTHER = Digest(b"\x0f" * 32)
WORDS: dict[str, object] = {"nil": ZERO_DIGEST, "other": OTHER}


def committee_of(stakes: list[int], epoch: int = 1) -> Committee:
    return Committee.of(epoch, [Member(key.address, stake) for key, stake in zip(KEYS, stakes, strict=False)])


def header_of(root: Digest) -> BatchHeader:
    """A batch of height 7; every field holds something else."""
    digests = [Digest(bytes([number]) * 32) for number in range(1, 7)]
    return BatchHeader(
        height=7,
        slot=12,
        day=1,
        parent=digests[0],
        body_root=digests[1],
        credit_root=digests[2],
        total_credited=Uint256(10**21),
        state_root=digests[3],
        committee_root=root,
        beacon=digests[4],
        reveal=digests[5],
        proposer=KEYS[0].address,
    )


def words(fields: Json) -> Json:
    """The fields of a mutation, with the words for hashes replaced."""
    return {name: WORDS.get(value, value) if isinstance(value, str) else value for name, value in fields.items()}


def signed(key: Key, precommit: Precommit, change: Json) -> Signature:
    """``key``'s signature over ``precommit`` after a change, under another domain where that is changed."""
    contract = Address(b"\xdd" * 20) if "contract" in change else DOMAIN.contract
    domain = Domain(change.get("chain_id", DOMAIN.chain_id), contract)
    fields = {name: value for name, value in words(change).items() if name in Precommit.__struct_fields__}
    payload = structs.replace(precommit, **fields)
    if change.get("type") == "prevote":
        return key.sign(Prevote(payload.height, payload.round, 0, payload.batch_hash), domain)
    return key.sign(payload, domain)


def spoiled(signature: Signature, how: str) -> Signature:
    r, s, v = signature[:32], signature[32:64], signature[64]
    match how:
        case "short":
            return Signature(signature[:64])
        case "high_s":
            return Signature(r + (ORDER - int.from_bytes(s, "big")).to_bytes(32, "big") + bytes([55 - v]))
        case "zero":
            return Signature(bytes(64) + b"\x1b")
        case "v_0":
            return Signature(r + s + bytes([v - 27]))
        case "v_29":
            return Signature(r + s + b"\x1d")
        case "v_flipped":
            return Signature(r + s + bytes([55 - v]))
        case "r_order":
            return Signature(ORDER.to_bytes(32, "big") + s + bytes([v]))
        case unknown:
            raise ValueError(f"no way to spoil a signature is called {unknown!r}")


def build(mutation: Json) -> tuple[CommitCertificate, BatchHeader, Committee]:
    """A good certificate with ``mutation`` done to it, and what it is checked against."""
    stakes: list[int] = mutation.get("stakes", [1, 1, 1, 1])
    committee = committee_of(stakes)
    root = OTHER if "header_root" in mutation else committee.root
    header = header_of(root)
    precommit = Precommit(7, mutation.get("round", 0), batch_hash(header), committee.root)
    keys = [KEYS[number] for number in mutation.get("signers", range(len(stakes)))]
    if mutation.get("stranger"):
        keys = sorted([*keys, STRANGER], key=lambda key: key.address)
    changes = [mutation.get("signed", {}) for _ in keys]
    if "mixed" in mutation:
        changes[-1] = mutation["mixed"]
    signatures = [signed(key, precommit, change) for key, change in zip(keys, changes, strict=True)]
    if "signature" in mutation:
        signatures[1] = spoiled(signatures[1], mutation["signature"])
    certificate = CommitCertificate(
        precommit.height, precommit.round, precommit.batch_hash, precommit.committee_root, tuple(signatures)
    )
    certificate = structs.replace(certificate, **words(mutation.get("certificate", {})))
    if "total_credited" in mutation.get("header", {}):
        header = structs.replace(header, total_credited=Uint256(mutation["header"]["total_credited"]))
    now = committee_of(mutation.get("stakes_now") or stakes, mutation.get("epoch", 1))
    return certificate, header, now


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_certificate_stands_or_falls(vector: Json) -> None:
    certificate, header, committee = build(vector["mutation"])
    if vector["accepted"]:
        verify_certificate(certificate, header, committee, DOMAIN)
        return
    with pytest.raises(CertificateInvalid) as caught:
        verify_certificate(certificate, header, committee, DOMAIN)
    assert caught.value.fault == CertificateFault(vector["fault"])


def test_the_vectors_show_every_fault() -> None:
    assert {vector["fault"] for vector in VECTORS} == {None, *CertificateFault}
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)


def test_signatures_assemble_in_the_order_of_their_signers() -> None:
    good, header, committee = build({"round": 2})
    by_member = dict(reversed(list(zip(signers_of(good, DOMAIN), good.signatures, strict=True))))
    assembled = assemble_certificate(7, 2, batch_hash(header), committee, by_member)
    assert assembled == good
    verify_certificate(assembled, header, committee, DOMAIN)
    members = frozenset(key.address for key in KEYS)
    assert as_unit(assembled, DOMAIN) == Certificate(VoteType.PRECOMMIT, 7, 2, batch_hash(header), members)


@pytest.mark.parametrize(
    ("value", "signers", "fault"),
    [
        (ZERO_DIGEST, KEYS, CertificateFault.NIL),
        (OTHER, KEYS[:2], CertificateFault.NO_QUORUM),
        (OTHER, [*KEYS, STRANGER], CertificateFault.UNKNOWN_MEMBER),
    ],
)
def test_what_would_not_stand_is_not_assembled(value: Digest, signers: list[Key], fault: CertificateFault) -> None:
    committee = committee_of([1, 1, 1, 1])
    precommit = Precommit(7, 0, value, committee.root)
    signatures = {key.address: key.sign(precommit, DOMAIN) for key in signers}
    with pytest.raises(CertificateInvalid) as caught:
        assemble_certificate(7, 0, value, committee, signatures)
    assert caught.value.fault == fault
    assert str(caught.value.fault) in str(caught.value)
