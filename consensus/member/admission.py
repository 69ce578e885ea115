"""From a frame on the committee link to an input of the core: every signature is checked here, once.

Pure, and the dear part of listening: a shell may run it wherever it likes before the core sees anything.
"""

from consensus.committee import Committee
from consensus.errors import CertificateFault, CertificateInvalid
from consensus.market.settlement import VerifiedSettlements
from consensus.member.events import (
    CommitmentHeard,
    HandOverHeard,
    Input,
    OpinionHeard,
    OrderHeard,
    PolkaHeard,
    PrecommitHeard,
    PrevoteHeard,
    ProposalHeard,
    SettlementHeard,
    StatusHeard,
)
from consensus.member.following import check_body
from consensus.params import Terms
from contracts.typed_data import ZERO_DIGEST, Address
from gossip.errors import MalformedMessage
from gossip.messages.base import Signed
from gossip.messages.committee import (
    CommitmentFrame,
    HandOverFrame,
    LinkFrame,
    OpinionFrame,
    PolkaFrame,
    Precommit,
    PrecommitFrame,
    Prevote,
    PrevoteFrame,
    ProposalFrame,
    SettlementFrame,
    StatusFrame,
    batch_hash,
)
from gossip.messages.listing import ListingFrame


def height_of(frame: LinkFrame) -> int | None:
    """The height that a vote or a proposal is for, whose committee alone may cast it; None for other frames."""
    match frame:
        case ProposalFrame(message) | PrevoteFrame(message) | PrecommitFrame(message):
            return message.payload.height
        case PolkaFrame(votes):
            return votes[0].payload.height
        case _:
            return None


def admit(
    member: Address, frame: LinkFrame, terms: Terms, committee: Committee, verified: VerifiedSettlements
) -> Input | None:
    """The input that a frame from ``member`` is; None for a frame that is no business of the core's.

    ``committee`` decides the height that the frame is for: see :func:`height_of`.

    Raises :class:`~gossip.errors.MessageError` for a signature that does not hold or a frame that contradicts itself,
    :class:`~consensus.errors.CertificateInvalid` for a polka that is none,
    :class:`~consensus.market.errors.BatchInvalid` for a proposal with another batch's body, and
    :class:`~consensus.market.errors.SettlementInvalid`.
    """
    match frame:
        case ProposalFrame() | PrevoteFrame() | PrecommitFrame() | PolkaFrame():
            return _admit_vote(frame, terms, committee)
        case StatusFrame(height, round_):
            return StatusHeard(member, height, round_)
        case SettlementFrame(settlement):
            verified(settlement)
            return SettlementHeard(settlement, own=False)
        case CommitmentFrame(commitment):
            commitment.signer(terms.domain)
            return CommitmentHeard(commitment)
        case OpinionFrame(opinion):
            opinion.signer(terms.domain)
            return OpinionHeard(opinion, own=False)
        case HandOverFrame(vote):
            return HandOverHeard(vote, vote.signer(terms.domain))
        case ListingFrame(order):
            return OrderHeard(order, order.signer(terms.domain))
        case _:
            return None


def _admit_vote(
    frame: ProposalFrame | PrevoteFrame | PrecommitFrame | PolkaFrame, terms: Terms, committee: Committee
) -> Input:
    match frame:
        case ProposalFrame(proposal, header):
            proposal.signer(terms.domain)
            if proposal.payload.batch_hash != batch_hash(header):
                raise MalformedMessage("ProposalFrame", "the batch is another than the proposal names")
            check_body(header, frame.body)
            return ProposalHeard(frame)
        case PolkaFrame():
            return _polka(frame, terms, committee)
        case PrevoteFrame(vote):
            return PrevoteHeard(vote, _member_of(vote, terms, committee))
        case PrecommitFrame(vote):
            if vote.payload.committee_root != committee.root:
                raise MalformedMessage("Precommit", "of another committee")
            return PrecommitHeard(vote, _member_of(vote, terms, committee))


def _member_of(vote: Signed[Prevote] | Signed[Precommit], terms: Terms, committee: Committee) -> Address:
    signer = vote.signer(terms.domain)
    if committee.weight(signer) == 0:
        raise MalformedMessage(type(vote.payload).__name__, f"0x{signer.hex()} is not a member")
    return signer


def _polka(frame: PolkaFrame, terms: Terms, committee: Committee) -> PolkaHeard:
    first = frame.votes[0].payload
    place = first.height, first.round, first.batch_hash
    if first.batch_hash == ZERO_DIGEST:
        raise CertificateInvalid(CertificateFault.NIL, first.batch_hash)
    members: list[Address] = []
    for vote in frame.votes:
        if (vote.payload.height, vote.payload.round, vote.payload.batch_hash) != place:
            raise MalformedMessage("PolkaFrame", "its votes are for different batches or rounds")
        signer = _member_of(vote, terms, committee)
        if signer in members:
            raise CertificateInvalid(CertificateFault.DUPLICATE_SIGNER, signer)
        members.append(signer)
    if not committee.is_quorum(sum(committee.weight(signer) for signer in members)):
        raise CertificateInvalid(CertificateFault.NO_QUORUM, len(members))
    return PolkaHeard(*place, tuple(sorted(members)))
