"""What a member signs in consensus, once it has listened whether another machine signs with its key.

Two machines with one key sign against one another and lose its stake. A member's guard knows all that was signed here,
before it leaves, so a message of its own key above the guard's watermark was signed elsewhere. A member listens for
such messages for a while before it signs anything, and ever after; once it has heard one it says nothing more in this
run. At or below the watermark nothing counts: anybody can replay what was signed here.
"""

from consensus.member import events
from consensus.member.core import MemberCore
from consensus.member.events import Input
from consensus.tendermint.certificate import signers_of
from consensus.tendermint.types import Step
from contracts.typed_data import ZERO_DIGEST, Address
from gossip.messages.base import Signed
from gossip.messages.committee import (
    CertifiedBatch,
    LinkFrame,
    PolkaFrame,
    Precommit,
    PrecommitFrame,
    Prevote,
    PrevoteFrame,
    Proposal,
    ProposalFrame,
    ShortProposalFrame,
)
from node.context import Node
from node.errors import SigningRefused
from node.roles.public import PublicState
from node.signing_guard import SigningGuard
from node.signing_history import Place

LISTEN_SLOTS = 2
"""Slots until the first signature, the one in which the member starts included. Once a second others tell a member what
they hold of its votes."""

Wanted = events.SignProposal | events.SignPrevote | events.SignPrecommit
"""What a core asks to be signed."""


class Voice:
    """The signatures of one run of a member."""

    def __init__(self, node: Node, public: PublicState, core: MemberCore, guard: SigningGuard) -> None:
        self._node = node
        self._public = public
        self._core = core
        self._guard = guard
        self._begun = node.slot()
        self._held: list[Wanted] = []
        self.lost_to: Place | None = None
        """For which place another machine has signed; None where nothing of the kind was heard."""

    @property
    def is_listening(self) -> bool:
        """Whether it is too early to sign."""
        return self._node.slot() < self._begun + LISTEN_SLOTS

    async def sign(self, wanted: Wanted) -> Input | None:
        """The signed message as an input for the core; None where it is held until the listening ends, where the guard
        refuses, and where another machine signs: what isn't signed is left unsaid."""
        if self.is_listening:
            self._held.append(wanted)
            return None
        if self.lost_to is not None:
            return None
        try:
            match wanted:
                case events.SignProposal(proposal):
                    value = self._core.height.values[proposal.batch_hash]
                    return events.ProposalSigned(
                        ProposalFrame(await self._guard.sign(proposal, self._why(proposal)), *value)
                    )
                case events.SignPrevote(prevote):
                    return events.PrevoteSigned(await self._guard.sign(prevote, self._why(prevote)))
                case events.SignPrecommit(precommit):
                    return events.PrecommitSigned(await self._guard.sign(precommit, self._why(precommit)))
        except SigningRefused as error:
            self._node.log.warning("not signed", reason=str(error))
        return None

    def take_held(self) -> list[Wanted]:
        """What was to be signed while it was too early, for the height in progress; nothing before the listening ends.

        Nothing was said in its place, so it is as good as ever: members wait for votes and not for a time.
        """
        if not self._held or self.is_listening:
            return []
        held, self._held = self._held, []
        return [wanted for wanted in held if self._is_open(wanted)]

    def _is_open(self, wanted: Wanted) -> bool:
        """Whether the height is still in progress, and a proposal's batch still known: a rescue begins it anew."""
        height, payload = self._core.height, _payload(wanted)
        is_known = not isinstance(payload, Proposal) or payload.batch_hash in height.values
        return payload.height == height.number and is_known

    async def hear(self, frame: LinkFrame) -> None:
        """Look for this member's own signature in what another brings, whatever height it is for.

        Raises :class:`~gossip.errors.MessageError` for a signature that doesn't hold.
        """
        if self._node.address not in self._public.recent_members():
            return
        for message in _messages(frame):
            place = Place.of(message.payload)
            if place > self._guard.top and message.signer(self._node.terms.domain) == self._node.address:
                self._lose_to(place)
                await self.give_up(place)

    def hear_batch(self, batch: CertifiedBatch) -> Place | None:
        """Look for this member's own signature in a certificate that holds; its place is then to be given up.

        A batch of an earlier slot than this run says nothing of now, and is for a height that is over.
        """
        certificate = batch.certificate
        place = Place(certificate.height, certificate.round, Step.PRECOMMIT)
        if batch.header.slot < self._begun or place <= self._guard.top:
            return None
        if self._node.address not in signers_of(certificate, self._node.terms.domain):
            return None
        self._lose_to(place)
        return place

    async def give_up(self, place: Place) -> None:
        """Sign nothing at ``place``'s height in any later run either: another machine has."""
        await self._guard.skip_through(place.height)

    def _lose_to(self, place: Place) -> None:
        if self.lost_to is None:
            self.lost_to = place
            self._node.log.error(
                "another machine signs with this member's key: nothing more is signed here",
                place=str(place),
                remedy="stop one of the two for good, export its history there, import it here, then start again",
            )

    def _why(self, payload: Proposal | Prevote | Precommit) -> str:
        """For the member's own log: what it is that is being signed."""
        if payload.batch_hash == ZERO_DIGEST:
            return "nil: no valid batch in time"
        proposed = self._core.height.values.get(payload.batch_hash)
        if proposed is None:
            return "a batch that was proposed earlier"
        header, body = proposed
        return f"batch of slot {header.slot} with {len(body.settlements)} settlements"


def is_by(event: Input | None, address: Address) -> bool:
    """Whether an input is a vote or a proposal of ``address``."""
    match event:
        case events.PrevoteHeard(_, member) | events.PrecommitHeard(_, member):
            return member == address
        case events.ProposalHeard(frame):
            return frame.proposal.payload.proposer == address
        case _:
            return False


def _payload(wanted: Wanted) -> Proposal | Prevote | Precommit:
    match wanted:
        case events.SignProposal(payload) | events.SignPrevote(payload) | events.SignPrecommit(payload):
            return payload


def _messages(frame: LinkFrame) -> tuple[Signed[Proposal] | Signed[Prevote] | Signed[Precommit], ...]:
    match frame:
        case ProposalFrame(proposal) | ShortProposalFrame(proposal):
            return (proposal,)
        case PrevoteFrame() | PrecommitFrame():
            return (frame.vote,)
        case PolkaFrame(votes):
            return votes
        case _:
            return ()
