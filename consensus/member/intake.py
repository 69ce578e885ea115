"""Which inputs from others a member takes at one height, judged before anything is logged. Pure.

A member's log holds all that its core hears at a height, and ends the member when it is full. So others must not be
able to fill it: what the core would drop anyway is dropped first, and what it would keep has a share of the log, by
sender where a sender can be told. What is refused is not lost: votes and proposals are said again, filings at the next
height.
"""

from collections import Counter
from dataclasses import dataclass, field

from consensus.committee import Committee
from consensus.member import events
from consensus.member.events import Input
from consensus.member.height import MAX_ROUNDS_AHEAD, Height
from contracts.typed_data import Address, Digest
from gossip.messages.base import Signed, encode
from gossip.messages.committee import MAX_BATCH_BYTES, Precommit, Prevote, Proposal

_MIB = 1 << 20

PROPOSALS_PER_ROUND = 2
"""Different proposals of one member for one round: the second is evidence, a third says nothing new."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Bytes of one height's log that inputs of each kind may take; all together leave room for the member's own."""

    proposals: int = 320 * _MIB
    """Others' proposals; a member's are at most an equal part, yet two whole batches."""
    votes_of_member: int = _MIB
    """Votes of one member: some thousand, a hundred rounds have 200."""
    filings: int = 48 * _MIB
    """Settlements, opinions, orders, commitments and hand-overs that others tell."""
    own_filings: int = 48 * _MIB
    """The same from this member's own desk."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An input that isn't taken. ``reason`` is None where it says nothing new.

    ``sender`` is the member at fault, if one is; ``is_own`` says to file it again at the next height.
    """

    reason: str | None
    sender: Address | None = None
    is_own: bool = False


@dataclass(slots=True)
class Intake:
    """What was taken at one height so far."""

    height: int
    shares: Shares = Shares()
    _proposed: dict[tuple[Address, int], set[Digest]] = field(default_factory=dict)
    _polkas: set[tuple[int, Digest]] = field(default_factory=set)
    _bytes: Counter[tuple[str, Address | None]] = field(default_factory=Counter)

    def take(self, event: Input, height: Height, committee: Committee) -> Refused | None:
        """None where ``event`` is to be logged and handled, and then counts; ``committee`` decides ``height``."""
        match event:
            case events.ProposalHeard(frame):
                return self._take_proposal(frame.proposal, frame.body.size, height, committee)
            case events.ReproposalHeard(proposal):
                return self._take_proposal(proposal, None, height, committee)
            case events.PrevoteHeard(vote, member) | events.PrecommitHeard(vote, member):
                return self._take_vote(vote, member, height, committee)
            case events.PolkaHeard(number, round_, value):
                return self._take_polka(number, round_, value, height)
            case events.SettlementHeard(_, True) | events.OpinionHeard(_, True):
                return self._count("own filings", None, len(encode(event)), self.shares.own_filings, is_own=True)
            case (
                events.SettlementHeard()
                | events.SettlementsHeard()
                | events.OpinionHeard()
                | events.OrderHeard()
                | events.CommitmentHeard()
                | events.HandOverHeard()
            ):
                return self._count("filings", None, len(encode(event)), self.shares.filings)
            case _:
                return None

    def _take_proposal(
        self, signed: Signed[Proposal], size: int | None, height: Height, committee: Committee
    ) -> Refused | None:
        """``size`` is the body's; None where the core holds the body, which may judge it otherwise by now."""
        proposal = signed.payload
        if proposal.height != height.number or proposal.round > height.round + MAX_ROUNDS_AHEAD:
            return Refused(None)  # clocks and progress differ
        if proposal.proposer != committee.proposer(proposal.height, proposal.round):
            return Refused("a proposal of a member whose round it isn't", proposal.proposer)
        of_round = self._proposed.setdefault((proposal.proposer, proposal.round), set())
        if size is None:
            of_round.add(proposal.batch_hash)
            return self._count("votes", proposal.proposer, len(encode(signed)), self.shares.votes_of_member)
        if proposal.batch_hash in of_round:
            return Refused(None)
        if len(of_round) >= PROPOSALS_PER_ROUND:
            return Refused("a third proposal for one round", proposal.proposer)
        most = max(PROPOSALS_PER_ROUND * MAX_BATCH_BYTES, self.shares.proposals // max(1, len(committee.members)))
        if (refused := self._count("proposals", proposal.proposer, size, most)) is None:
            of_round.add(proposal.batch_hash)
        return refused

    def _take_vote(
        self, vote: Signed[Prevote] | Signed[Precommit], member: Address, height: Height, committee: Committee
    ) -> Refused | None:
        payload = vote.payload
        if payload.height != height.number or committee.weight(member) == 0:
            return Refused(None)  # it was in time when it was sent
        if height.said(type(payload).__name__, payload.round, member, payload.batch_hash) is not None:
            return Refused(None)
        return self._count("votes", member, len(encode(vote)), self.shares.votes_of_member)

    def _take_polka(self, number: int, round_: int, value: Digest, height: Height) -> Refused | None:
        if number != height.number or (round_, value) in self._polkas:
            return Refused(None)
        self._polkas.add((round_, value))
        return None

    def _count(
        self, kind: str, sender: Address | None, size: int, most: int, *, is_own: bool = False
    ) -> Refused | None:
        if self._bytes[kind, sender] + size > most:
            return Refused(f"{kind} of more than {most} bytes at one height", sender, is_own)
        self._bytes[kind, sender] += size
        return None


def is_others(event: Input) -> bool:
    """Whether others can bring ``event`` about: such an input may be refused without this member losing its place."""
    match event:
        case (
            events.ProposalHeard()
            | events.ReproposalHeard()
            | events.PrevoteHeard()
            | events.PrecommitHeard()
            | events.PolkaHeard()
            | events.SettlementHeard()
            | events.SettlementsHeard()
            | events.OpinionHeard()
            | events.OrderHeard()
            | events.CommitmentHeard()
            | events.HandOverHeard()
        ):
            return True
        case _:
            return False
