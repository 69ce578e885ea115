"""Commit certificates: made of precommit signatures, checked as the Compute Contract checks them.

A certificate is the Router's instruction to the contract (S12): more than 2/3 of a committee's stake has signed one
``Precommit{height, round, batchHash, committeeRoot}``. All signatures are of one round; signatures of several rounds
together would let a second certificate be forged.
"""

from collections.abc import Mapping

from consensus.committee import Committee
from consensus.errors import CertificateFault, CertificateInvalid
from consensus.tendermint.types import Certificate, VoteType
from contracts.errors import SignatureInvalid
from contracts.signing import recover
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest, Domain, Signature, digest
from gossip.messages.committee import BatchHeader, CommitCertificate, Precommit, batch_hash


def verify_certificate(
    certificate: CommitCertificate, header: BatchHeader, committee: Committee, domain: Domain
) -> None:
    """Raise :class:`CertificateInvalid` unless ``certificate`` makes ``header`` the decision of ``committee``.

    ``header`` must name the same committee. What the header says of batch and parent is the ledger's to check.
    """
    check_subject(certificate, header)
    root = committee.root
    for named in (certificate.committee_root, header.committee_root):
        if named != root:
            raise CertificateInvalid(CertificateFault.COMMITTEE_ROOT, named)
    check_signers(signers_of(certificate, domain), committee)


def check_subject(certificate: CommitCertificate, header: BatchHeader) -> None:
    """Raise :class:`CertificateInvalid` unless ``certificate`` is for the batch of ``header``, whoever signed."""
    if certificate.batch_hash == ZERO_DIGEST:
        raise CertificateInvalid(CertificateFault.NIL, certificate.batch_hash)
    if certificate.batch_hash != batch_hash(header):
        raise CertificateInvalid(CertificateFault.BATCH_HASH, certificate.batch_hash)
    if certificate.height != header.height:
        raise CertificateInvalid(CertificateFault.HEIGHT, certificate.height)


def signers_of(certificate: CommitCertificate, domain: Domain) -> tuple[Address, ...]:
    """Who signed, in the order of the signatures.

    Raises :class:`CertificateInvalid` for a signature that does not recover (malformed, high s) or gives the zero
    address. Says nothing about membership or stake.
    """
    signed = digest(domain, _precommit(certificate))
    return tuple(_recover(signed, signature) for signature in certificate.signatures)


def as_unit(certificate: CommitCertificate, domain: Domain) -> Certificate:
    """The core's view of a certificate that :func:`verify_certificate` has accepted. Raises as :func:`signers_of`."""
    members = frozenset(signers_of(certificate, domain))
    return Certificate(VoteType.PRECOMMIT, certificate.height, certificate.round, certificate.batch_hash, members)


def assemble_certificate(
    height: int, round_: int, batch_hash: Digest, committee: Committee, signatures: Mapping[Address, Signature]
) -> CommitCertificate:
    """The certificate of precommit signatures by member, sorted by address; the caller has checked each signature.

    Raises :class:`CertificateInvalid` for nil, for a signer who is no member, and for 2/3 of stake or less.
    """
    if batch_hash == ZERO_DIGEST:
        raise CertificateInvalid(CertificateFault.NIL, batch_hash)
    signers = tuple(sorted(signatures))
    check_signers(signers, committee)
    ordered = tuple(signatures[signer] for signer in signers)
    return CommitCertificate(height, round_, batch_hash, committee.root, ordered)


def _precommit(certificate: CommitCertificate) -> Precommit:
    return Precommit(certificate.height, certificate.round, certificate.batch_hash, certificate.committee_root)


def _recover(signed: Digest, signature: Signature) -> Address:
    try:
        signer = recover(signed, signature)
    except SignatureInvalid as error:
        raise CertificateInvalid(CertificateFault.SIGNATURE, signature) from error
    if signer == ZERO_ADDRESS:
        raise CertificateInvalid(CertificateFault.SIGNATURE, signer)
    return signer


def check_signers(signers: tuple[Address, ...], committee: Committee) -> None:
    """Raise :class:`CertificateInvalid` unless these are members, ascending, each once, and more than 2/3 of stake."""
    previous = ZERO_ADDRESS
    weight = 0
    for signer in signers:
        stake = committee.weight(signer)
        if stake == 0:
            raise CertificateInvalid(CertificateFault.UNKNOWN_MEMBER, signer)
        if signer == previous:
            raise CertificateInvalid(CertificateFault.DUPLICATE_SIGNER, signer)
        if signer < previous:
            raise CertificateInvalid(CertificateFault.UNSORTED, signer)
        previous = signer
        weight += stake
    if not committee.is_quorum(weight):
        raise CertificateInvalid(CertificateFault.NO_QUORUM, weight)
