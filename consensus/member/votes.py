"""Between signed messages and the core: the zero hash is nil, and rounds that may be -1 travel plus one."""

from consensus.member.height import Height
from consensus.tendermint.events import CastVote, ProposalIn, Propose
from consensus.tendermint.types import Vote, VoteType
from contracts.typed_data import ZERO_DIGEST, Address, Digest
from gossip.messages.base import Signed
from gossip.messages.committee import Precommit, Prevote, Proposal


def vote_of(payload: Prevote | Precommit, member: Address) -> Vote:
    """The core's vote of a message that ``member`` signed."""
    kind = VoteType.PREVOTE if isinstance(payload, Prevote) else VoteType.PRECOMMIT
    value = None if payload.batch_hash == ZERO_DIGEST else payload.batch_hash
    return Vote(kind, payload.height, payload.round, value, member)


def payload_of(cast: CastVote, committee_root: Digest) -> Prevote | Precommit:
    """The message to sign for a vote; ``committee_root`` goes into precommits."""
    vote = cast.vote
    batch_hash = ZERO_DIGEST if vote.value is None else Digest(vote.value)
    if vote.kind is VoteType.PREVOTE:
        return Prevote(vote.height, vote.round, cast.valid_round + 1, batch_hash)
    return Precommit(vote.height, vote.round, batch_hash, committee_root)


def proposal_of(payload: Proposal, *, is_valid: bool) -> ProposalIn:
    """The core's proposal of a message; ``is_valid`` is what the ledger says of the batch."""
    valid_round = payload.valid_round - 1
    return ProposalIn(payload.height, payload.round, payload.batch_hash, valid_round, payload.proposer, is_valid)


def proposal_payload(propose: Propose, proposer: Address) -> Proposal:
    """The message to sign for a proposal."""
    return Proposal(propose.height, propose.round, propose.valid_round + 1, Digest(propose.value), proposer)


def said_by(height: Height, one: Vote | ProposalIn) -> Signed[Proposal] | Signed[Prevote] | Signed[Precommit] | None:
    """The message that ``one`` was made of, where it was kept."""
    if isinstance(one, Vote):
        kind = "Prevote" if one.kind is VoteType.PREVOTE else "Precommit"
        return height.said(kind, one.round, one.member, Digest(one.value) if one.value else ZERO_DIGEST)
    return height.said("Proposal", one.round, one.proposer, Digest(one.value))
