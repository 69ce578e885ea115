"""What goes into a member's core and what comes out, as data.

Inputs are tagged structs, so that a shell can write each to its log before it carries out what follows from it, and
play them again after a crash. Every signature in an input was checked before: see :mod:`consensus.member.admission`.
"""

import msgspec

from consensus.membership import Term
from consensus.tendermint.evidence import Equivocation
from consensus.tendermint.types import Step
from contracts.typed_data import Address, Digest
from gossip.messages.base import Signed
from gossip.messages.committee import (
    CertifiedBatch,
    DayOpening,
    HandOver,
    LinkFrame,
    Precommit,
    Prevote,
    Proposal,
    ProposalFrame,
)
from gossip.messages.listing import ListModel
from gossip.messages.opinions import Opinion
from gossip.messages.records import BeaconCommitment
from gossip.messages.session import Settlement

# Inputs


class SlotBegan(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The clock: ``slot`` has begun, those before it have ended."""

    slot: int


class TimerElapsed(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A timer that :class:`SetTimer` asked for ran out."""

    step: Step
    height: int
    round: int


class ProposalHeard(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Another member's proposal with its batch."""

    frame: ProposalFrame


class ReproposalHeard(msgspec.Struct, frozen=True, array_like=True, tag=31):
    """Another member's proposal of a batch that the core holds already: the log keeps a body once."""

    proposal: Signed[Proposal]


class PrevoteHeard(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A member's prevote; ``member`` is who signed."""

    vote: Signed[Prevote]
    member: Address


class PrecommitHeard(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A member's precommit; ``member`` is who signed."""

    vote: Signed[Precommit]
    member: Address


class PolkaHeard(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Prevotes of more than 2/3 of stake for one batch, counted as a unit."""

    height: int
    round: int
    batch_hash: Digest
    members: tuple[Address, ...]


class StatusHeard(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Where another member stands."""

    member: Address
    height: int
    round: int


class SettlementHeard(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A finished session; ``own`` where it was filed with this member's desk."""

    settlement: Settlement
    own: bool


class SettlementsHeard(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """Finished sessions that other members told of: what came together goes in together."""

    settlements: tuple[Settlement, ...]


class CommitmentHeard(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A member's beacon commitment for a day to come."""

    commitment: Signed[BeaconCommitment]


class ProposalSigned(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """This member's own proposal, signed: the answer to :class:`SignProposal`."""

    frame: ProposalFrame


class PrevoteSigned(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """This member's own prevote, signed: the answer to :class:`SignPrevote`."""

    vote: Signed[Prevote]


class PrecommitSigned(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """This member's own precommit, signed: the answer to :class:`SignPrecommit`."""

    vote: Signed[Precommit]


class OpeningMade(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The answer to :class:`MakeOpening`."""

    opening: DayOpening


class OpeningJudged(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """The answer to :class:`JudgeOpening`."""

    batch_hash: Digest
    is_fair: bool


class BatchAdopted(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """A certified batch, decided here or elsewhere, was verified and stored: the next height may begin."""

    batch: CertifiedBatch


class HandOverHeard(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """A member's signature under the hand-over to who was drawn; ``member`` is who signed."""

    vote: Signed[HandOver]
    member: Address


class HandOverSigned(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """This member's own hand-over, signed: the answer to :class:`SignHandOver`."""

    vote: Signed[HandOver]


class OpinionHeard(msgspec.Struct, frozen=True, array_like=True, tag=29):
    """A scorer's verdict on what was picked; ``own`` where it was filed with this member."""

    opinion: Signed[Opinion]
    own: bool


class OrderHeard(msgspec.Struct, frozen=True, array_like=True, tag=30):
    """A member's order to list a model or not; ``member`` is who signed, this member too where its operator says so."""

    vote: Signed[ListModel]
    member: Address


class Rescued(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """The registry has put another committee in the place of the running one, as this node reads the chain."""

    term: Term


Input = (
    SlotBegan
    | TimerElapsed
    | ProposalHeard
    | ReproposalHeard
    | PrevoteHeard
    | PrecommitHeard
    | PolkaHeard
    | StatusHeard
    | SettlementHeard
    | SettlementsHeard
    | CommitmentHeard
    | ProposalSigned
    | PrevoteSigned
    | PrecommitSigned
    | OpeningMade
    | OpeningJudged
    | BatchAdopted
    | HandOverHeard
    | HandOverSigned
    | OpinionHeard
    | OrderHeard
    | Rescued
)


# Effects


class SignProposal(msgspec.Struct, frozen=True):
    """Sign, if the guard allows, and answer with :class:`ProposalSigned`; the frame lacks only the signature."""

    payload: Proposal


class SignPrevote(msgspec.Struct, frozen=True):
    """Sign, if the guard allows, and answer with :class:`PrevoteSigned`."""

    payload: Prevote


class SignPrecommit(msgspec.Struct, frozen=True):
    """Sign, if the guard allows, and answer with :class:`PrecommitSigned`."""

    payload: Precommit


class SignHandOver(msgspec.Struct, frozen=True):
    """Sign and answer with :class:`HandOverSigned`. A batch says who was drawn: there is nothing else to sign for."""

    payload: HandOver


class Tell(msgspec.Struct, frozen=True):
    """Send a frame to one member, or to all others where ``to`` is None."""

    frame: LinkFrame
    to: Address | None = None


class SendDecision(msgspec.Struct, frozen=True):
    """Send the stored batch of ``height`` to a member that is behind."""

    to: Address
    height: int


class SetTimer(msgspec.Struct, frozen=True):
    """Answer with :class:`TimerElapsed` after ``delay_ms``."""

    step: Step
    height: int
    round: int
    delay_ms: int


class Certified(msgspec.Struct, frozen=True):
    """This member saw the decision: store the batch, answer with :class:`BatchAdopted`, and publish it."""

    batch: CertifiedBatch


class MakeOpening(msgspec.Struct, frozen=True):
    """Read what ``day`` opens with and answer with :class:`OpeningMade`."""

    day: int


class JudgeOpening(msgspec.Struct, frozen=True):
    """Check an opening against the chain and answer with :class:`OpeningJudged`."""

    batch_hash: Digest
    opening: DayOpening


class CatchUp(msgspec.Struct, frozen=True):
    """Another member is at ``height``, beyond this one: fetch what is missing."""

    height: int


class Dropped(msgspec.Struct, frozen=True):
    """A settlement that no batch will take."""

    ticket_id: Digest
    reason: str


class OpinionDropped(msgspec.Struct, frozen=True):
    """A second opinion that no batch will take."""

    ticket_id: Digest
    reason: str


class Refused(msgspec.Struct, frozen=True):
    """A proposal that this member votes nil on, and why."""

    batch_hash: Digest
    reason: str


class Accused(msgspec.Struct, frozen=True):
    """A member signed two different messages for one place; the evidence convinces anybody."""

    evidence: Equivocation


Effect = (
    SignProposal
    | SignPrevote
    | SignPrecommit
    | SignHandOver
    | Tell
    | SendDecision
    | SetTimer
    | Certified
    | MakeOpening
    | JudgeOpening
    | CatchUp
    | Dropped
    | OpinionDropped
    | Refused
    | Accused
)
