"""Attacks on commit certificates, as vectors: each names what was done to a good certificate and whether it stands."""

import pytest

from consensus.errors import CertificateFault, CertificateInvalid
from consensus.tendermint.certificate import as_unit, assemble_certificate, signers_of, verify_certificate
from consensus.tendermint.types import Certificate, VoteType
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Digest
from gossip.messages.committee import Precommit, batch_hash
from tests.conformance.certificate_vectors import DOMAIN, KEYS, OTHER, STRANGERS, VECTORS, Json, build, committee_of


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
        (OTHER, [*KEYS, STRANGERS[0]], CertificateFault.UNKNOWN_MEMBER),
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
