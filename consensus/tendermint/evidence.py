"""Equivocation: two signed messages of one member that an honest member never signs both.

The core only finds equivocation (:class:`~consensus.tendermint.events.EquivocationFound`); evidence is what convinces
somebody else, so it carries both signatures. It is an offence exactly where ``contracts/registry.vy`` punishes it: two
batches for one kind, height and round. Votes for one batch that differ in their valid round, and precommits under two
committee roots, are none.
"""

from consensus.committee import Committee
from consensus.errors import EvidenceInvalid
from contracts.typed_data import Address, Domain
from gossip.errors import SignerMismatch
from gossip.messages.base import Signed
from gossip.messages.committee import Precommit, Prevote, Proposal
from gossip.messages.evidence import DoublePrecommit, DoublePrevote, DoubleProposal, Equivocation
from gossip.messages.market import AccessPass, Rfc

__all__ = [
    "DoublePrecommit",
    "DoublePrevote",
    "DoubleProposal",
    "Equivocation",
    "accuse",
    "common_signer",
    "equivocator",
    "verify_evidence",
]

SignedStep = Signed[Proposal] | Signed[Prevote] | Signed[Precommit]
Half = SignedStep | Signed[AccessPass] | Signed[Rfc]


def accuse(first: SignedStep, second: SignedStep, committee: Committee, domain: Domain) -> Equivocation:
    """Evidence of two messages, in an order that does not depend on who came first.

    Raises :class:`EvidenceInvalid` where they do not accuse a member; see :func:`verify_evidence`.
    """
    low, high = sorted((first, second), key=lambda message: message.id(domain))
    evidence: Equivocation
    match low.payload, high.payload:
        case Proposal() as one, Proposal() as other:
            evidence = DoubleProposal(Signed(one, low.signature), Signed(other, high.signature))
        case Prevote() as one, Prevote() as other:
            evidence = DoublePrevote(Signed(one, low.signature), Signed(other, high.signature))
        case Precommit() as one, Precommit() as other:
            evidence = DoublePrecommit(Signed(one, low.signature), Signed(other, high.signature))
        case one, other:
            raise EvidenceInvalid("messages of two types", f"{type(one).__name__} and {type(other).__name__}")
    verify_evidence(evidence, committee, domain)
    return evidence


def verify_evidence(evidence: Equivocation, committee: Committee, domain: Domain) -> Address:
    """The member of ``committee`` whom ``evidence`` convicts.

    Raises :class:`EvidenceInvalid` as :func:`equivocator` does, and for somebody who is no member.
    """
    signer = equivocator(evidence, domain)
    if committee.weight(signer) == 0:
        raise EvidenceInvalid("no member", signer)
    return signer


def equivocator(evidence: Equivocation, domain: Domain) -> Address:
    """Whose two signatures ``evidence`` shows; whether it is a member's is for the caller to look up.

    Raises :class:`EvidenceInvalid` unless both halves are of one height and round, for two batches (nil is one),
    precommits under one committee root, in canonical order, and signed by one key.
    """
    first, second = evidence.first, evidence.second
    if first.payload.height != second.payload.height:
        raise EvidenceInvalid("two heights", (first.payload.height, second.payload.height))
    if first.payload.round != second.payload.round:
        raise EvidenceInvalid("two rounds", (first.payload.round, second.payload.round))
    if first.payload == second.payload:
        raise EvidenceInvalid("the same message twice", first.id(domain))
    if first.payload.batch_hash == second.payload.batch_hash:
        raise EvidenceInvalid("the same batch twice", first.payload.batch_hash)
    if isinstance(evidence, DoublePrecommit):
        roots = evidence.first.payload.committee_root, evidence.second.payload.committee_root
        if roots[0] != roots[1]:
            raise EvidenceInvalid("two committee roots", roots[1])
    return common_signer(first, second, domain)


def common_signer(first: Half, second: Half, domain: Domain) -> Address:
    """Who signed both halves. Raises :class:`EvidenceInvalid` for two signers, none, or halves out of order."""
    ids = first.id(domain), second.id(domain)
    if ids[0] >= ids[1]:
        raise EvidenceInvalid("halves out of order", ids[0])
    try:
        signer, other = first.signer_of(ids[0]), second.signer_of(ids[1])
    except SignerMismatch as error:
        raise EvidenceInvalid(str(error), error.what) from error
    if signer != other:
        raise EvidenceInvalid("two signers", other)
    return signer
