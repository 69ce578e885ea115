"""One provider's cumulative credit, provable to anybody who knows the committee. Pure.

The proof is what the provider hands to the Compute Contract (S12, S32): a certified header and a Merkle path. Whoever
holds it needs no node, no chain and no earlier batch to check it.
"""

from typing import Annotated

import msgspec

from consensus.committee import Committee
from consensus.market.errors import ProofInvalid
from consensus.tendermint.certificate import verify_certificate
from contracts.merkle import merkle_verify
from contracts.typed_data import Address, Digest, Domain, Uint256
from gossip.messages.committee import BatchHeader, CommitCertificate

MAX_SIBLINGS = 64
"""The longest Merkle path that is read: a tree of 2^64 providers."""


class CreditProof(msgspec.Struct, frozen=True):
    """``provider`` had been credited ``cumulative`` wei since genesis when the batch of ``header`` was certified."""

    provider: Address
    cumulative: Uint256
    proof: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=MAX_SIBLINGS)]
    """The siblings from the provider's leaf to the header's ``credit_root``."""
    header: BatchHeader
    certificate: CommitCertificate


def verify_credit(proof: CreditProof, committee: Committee, domain: Domain, provider: Address | None = None) -> None:
    """Return where ``committee`` has certified what ``proof`` says: the certificate is checked first, then the path.

    ``provider`` is whom the credit must be of, anybody's where it is None. Raises
    :class:`~consensus.errors.CertificateInvalid`, and :class:`ProofInvalid` whose reason is ``merkle_proof`` (the path
    does not lead from provider and amount to the certified root), ``cumulative`` (one provider's credit above all
    providers' together) or ``provider``.
    """
    verify_certificate(proof.certificate, proof.header, committee, domain)
    if not merkle_verify(proof.header.credit_root, proof.provider, proof.cumulative, proof.proof):
        told = f"0x{proof.provider.hex()} with {int(proof.cumulative)} wei over {len(proof.proof)} siblings"
        raise ProofInvalid("merkle_proof", proof.header.credit_root, f"is not reached from {told}")
    if proof.cumulative > proof.header.total_credited:
        everybody = int(proof.header.total_credited)
        raise ProofInvalid("cumulative", int(proof.cumulative), f"wei is more than all providers' {everybody}")
    if provider is not None and proof.provider != provider:
        raise ProofInvalid("provider", proof.provider, f"was credited, not 0x{provider.hex()}")
