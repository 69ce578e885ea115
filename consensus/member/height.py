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
    Prevote,
    Proposal,
    ProposalFrame,
)

MAX_VALUES = 64
"""Batches proposed at one height that are kept; a proposer that equivocates can't fill the memory."""

MAX_VOTES = 8_192
"""Signed votes of one height that are kept."""

SignedVote = Signed[Prevote] | Signed[Precommit]
_Said = tuple[str, int, Address, Digest]
"""Type, round, member and batch hash of a signed message."""


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
    heard: dict[_Said, Signed[Proposal] | SignedVote] = field(default_factory=dict)

    def keep_value(self, value: Digest, header: BatchHeader, body: BatchBody) -> bool:
        """Remember a proposed batch; False where there is no room."""
        if value not in self.values and len(self.values) >= MAX_VALUES:
            return False
        self.values[value] = header, body
        return True

    def keep(self, message: Signed[Proposal] | SignedVote, member: Address) -> None:
        """Remember a signed message: for certificates, for polkas, and for evidence."""
        payload = message.payload
        said = type(payload).__name__, payload.round, member, payload.batch_hash
        if said in self.heard or len(self.heard) < MAX_VOTES:
            self.heard[said] = message

    def said(self, kind: str, round_: int, member: Address, value: Digest) -> Signed[Proposal] | SignedVote | None:
        """A message that was heard."""
        return self.heard.get((kind, round_, member, value))

    def voters(self) -> set[Address]:
        """Who has voted at this height."""
        return {member for kind, _, member, _ in self.heard if kind != "Proposal"}

    def precommits(self, round_: int, value: Digest) -> dict[Address, Signature]:
        """The precommit signatures for a batch in one round, by member."""
        return {
            member: message.signature
            for (kind, of_round, member, of_value), message in self.heard.items()
            if kind == "Precommit" and of_round == round_ and of_value == value
        }

    def polka(self, committee: Committee) -> PolkaFrame | None:
        """The newest polka for a batch that this member can show."""
        rounds: dict[tuple[int, Digest], list[Signed[Prevote]]] = {}
        for (_, round_, _, value), message in self.heard.items():
            if isinstance(message.payload, Prevote) and value != ZERO_DIGEST:
                rounds.setdefault((round_, value), []).append(Signed(message.payload, message.signature))
        weights = dict.fromkeys(rounds, 0)
        for kind, round_, member, value in self.heard:
            if kind == "Prevote" and (round_, value) in weights:
                weights[round_, value] += committee.weight(member)
        shown = [place for place, weight in weights.items() if committee.is_quorum(weight)]
        return PolkaFrame(tuple(rounds[max(shown)])) if shown else None
