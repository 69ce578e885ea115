"""Evidence of equivocation: two signed messages of one member that an honest member never signs both.

The core only finds equivocation (:class:`~consensus.tendermint.events.EquivocationFound`); evidence is what convinces
somebody else, so it carries both signatures.
"""

import msgspec

from consensus.committee import Committee
from consensus.errors import EvidenceInvalid
from contracts.typed_data import Address, Domain
from gossip.errors import SignerMismatch
from gossip.messages.base import Signed
from gossip.messages.committee import Precommit, Prevote, Proposal


class DoubleProposal(msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True):
    """Two proposals for one round."""

    first: Signed[Proposal]
    second: Signed[Proposal]


class DoublePrevote(msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True):
    """Two prevotes in one round."""

    first: Signed[Prevote]
    second: Signed[Prevote]


class DoublePrecommit(msgspec.Struct, frozen=True, array_like=True, tag=3, forbid_unknown_fields=True):
    """Two precommits in one round."""

    first: Signed[Precommit]
    second: Signed[Precommit]


Evidence = DoubleProposal | DoublePrevote | DoublePrecommit


def accuse(
    first: Signed[Proposal] | Signed[Prevote] | Signed[Precommit],
    second: Signed[Proposal] | Signed[Prevote] | Signed[Precommit],
    committee: Committee,
    domain: Domain,
) -> Evidence:
    """Evidence of two messages, in an order that does not depend on who came first.

    Raises :class:`EvidenceInvalid` where they do not accuse a member; see :func:`verify_evidence`.
    """
    low, high = sorted((first, second), key=lambda message: message.id(domain))
    evidence: Evidence
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


def verify_evidence(evidence: Evidence, committee: Committee, domain: Domain) -> Address:
    """The member whom ``evidence`` convicts.

    Raises :class:`EvidenceInvalid` unless both messages are of one height and round, say different things, and are
    signed by the same member of ``committee``. A second signature over the same message is no offence.
    """
    first, second = evidence.first, evidence.second
    if first.payload.height != second.payload.height:
        raise EvidenceInvalid("two heights", (first.payload.height, second.payload.height))
    if first.payload.round != second.payload.round:
        raise EvidenceInvalid("two rounds", (first.payload.round, second.payload.round))
    if first.payload == second.payload:
        raise EvidenceInvalid("the same message twice", first.id(domain))
    try:
        signer, other = first.signer(domain), second.signer(domain)
    except SignerMismatch as error:
        raise EvidenceInvalid(str(error), error.what) from error
    if signer != other:
        raise EvidenceInvalid("two signers", other)
    if committee.weight(signer) == 0:
        raise EvidenceInvalid("no member", signer)
    return signer
