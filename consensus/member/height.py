"""What a member holds of the height in progress: batches proposed, votes heard, and what it said itself."""

from dataclasses import dataclass, field

from consensus.committee import Committee
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Signature
from gossip.messages.base import Signed
from gossip.messages.committee import (
    BatchBody,
    BatchHeader,
    LinkFrame,
    PolkaFrame,
    Precommit,
    PrecommitFrame,
    Prevote,
    PrevoteFrame,
    Proposal,
    ProposalFrame,
)

MAX_VALUES = 16
"""Batches of one proposer that are kept at one height."""

MAX_VOTES = 512
"""Signed messages of one member that are kept at one height: enough for a hundred rounds, too few to fill a memory."""

MAX_ECHO = 4
"""Votes of a member that it is told again at once."""

MAX_ROUNDS_AHEAD = 64
"""A proposal for a round so far ahead of this member's is not kept."""

SignedVote = Signed[Prevote] | Signed[Precommit]
_Said = tuple[str, int, Digest]
"""Type, round and batch hash of a signed message."""


@dataclass(slots=True)
class Height:
    """Forgotten when the height is decided."""

    number: int
    started: bool = False
    round: int = 0
    values: dict[Digest, tuple[BatchHeader, BatchBody]] = field(default_factory=dict)
    own_frames: list[LinkFrame] = field(default_factory=list)
    """What this member said at this height, to be said again to whoever missed it."""
    wants_opening: tuple[int, int] | None = None
    """Height and round of a proposal that waits for the day's opening."""
    unjudged: dict[Digest, list[Proposal]] = field(default_factory=dict)
    """Proposals that wait for their opening to be judged, by batch hash."""
    early: ProposalFrame | None = None
    """A proposal for the slot that is just ending by this member's clock."""
    heard: dict[Address, dict[_Said, Signed[Proposal] | SignedVote]] = field(default_factory=dict)
    """By member, so that nobody's flood costs another member's votes."""
    proposed_by: dict[Digest, Address] = field(default_factory=dict)
    """Who brought each of the batches first."""

    def keep_value(self, value: Digest, header: BatchHeader, body: BatchBody, proposer: Address) -> bool:
        """Remember a proposed batch; False where its proposer has used up its room.

        To make room a proposer's oldest batch goes that no other member has voted for.
        """
        if value not in self.values:
            own = [known for known, who in self.proposed_by.items() if who == proposer]
            if len(own) >= MAX_VALUES:
                voted = {of for who, said in self.heard.items() if who != proposer for _, _, of in said}
                idle = next((known for known in own if known not in voted), None)
                if idle is None:
                    return False
                del self.values[idle], self.proposed_by[idle]
            self.proposed_by[value] = proposer
        self.values[value] = header, body
        return True

    def keep(self, message: Signed[Proposal] | SignedVote, member: Address) -> None:
        """Remember a signed message: for certificates, for polkas, and for evidence."""
        payload = message.payload
        said = self.heard.setdefault(member, {})
        said[type(payload).__name__, payload.round, payload.batch_hash] = message
        if len(said) > MAX_VOTES:
            del said[next(iter(said))]

    def said(self, kind: str, round_: int, member: Address, value: Digest) -> Signed[Proposal] | SignedVote | None:
        """A message that was heard."""
        return self.heard.get(member, {}).get((kind, round_, value))

    def voters(self) -> set[Address]:
        """Who has voted at this height."""
        return {member for member, said in self.heard.items() if any(kind != "Proposal" for kind, _, _ in said)}

    def precommits(self, round_: int, value: Digest) -> dict[Address, Signature]:
        """The precommit signatures for a batch in one round, by member."""
        place = "Precommit", round_, value
        return {member: said[place].signature for member, said in self.heard.items() if place in said}

    def polka(self, committee: Committee) -> PolkaFrame | None:
        """The newest polka for a batch that this member can show."""
        votes: dict[tuple[int, Digest], dict[Address, Signed[Prevote]]] = {}
        for member, said in self.heard.items():
            for (_, round_, value), message in said.items():
                if isinstance(message.payload, Prevote) and value != ZERO_DIGEST:
                    votes.setdefault((round_, value), {})[member] = Signed(message.payload, message.signature)
        shown = [place for place, of in votes.items() if committee.is_quorum(sum(map(committee.weight, of)))]
        return PolkaFrame(tuple(votes[max(shown)].values())) if shown else None

    def frames_for(self, round_: int) -> list[LinkFrame]:
        """What this member said that a member in ``round_`` may still need: that round's, later ones', and every
        precommit for a batch, which can decide whenever it is heard."""
        return [frame for frame in self.own_frames if _is_needed(frame, round_)]

    def votes_of(self, member: Address, round_: int) -> list[LinkFrame]:
        """The newest votes of ``member`` that it would be told were they this member's; a few, whatever it said."""
        said = self.heard.get(member, {}).values()
        frames = [_frame_of(message) for message in said if not isinstance(message.payload, Proposal)]
        return [frame for frame in frames if _is_needed(frame, round_)][-MAX_ECHO:]


def _frame_of(vote: SignedVote) -> LinkFrame:
    if isinstance(vote.payload, Prevote):
        return PrevoteFrame(Signed(vote.payload, vote.signature))
    return PrecommitFrame(Signed(vote.payload, vote.signature))


def _is_needed(frame: LinkFrame, round_: int) -> bool:
    match frame:
        case ProposalFrame(proposal):
            return proposal.payload.round >= round_
        case PrevoteFrame(vote):
            return vote.payload.round >= round_
        case PrecommitFrame(vote):
            return vote.payload.round >= round_ or vote.payload.batch_hash != ZERO_DIGEST
        case _:
            return False
