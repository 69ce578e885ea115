"""What a node's shell does about short proposals: :mod:`node.roles.exchange` without queues and threads."""

from collections import OrderedDict

from consensus.market.settlement import settlement_digest
from consensus.member.short import Answers, ShortProposals
from contracts.typed_data import Address, Digest, Domain
from gossip.errors import MalformedMessage
from gossip.messages.committee import (
    BatchBody,
    ProposalFrame,
    SettlementsFrame,
    ShortProposalFrame,
    WantFrame,
    batch_hash,
)
from gossip.messages.session import Settlement

_HELD = 512
"""Settlements that a node remembers beside those that wait in its core."""


class Exchange:
    """One node's, for as long as it has power."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._held: OrderedDict[Digest, Settlement] = OrderedDict()
        self._proposals = ShortProposals(self._held.get)
        self._answers = Answers()

    def begin(self, member: Address, frame: ShortProposalFrame) -> ProposalFrame | WantFrame:
        """The whole proposal, or what to ask ``member`` for. Raises :class:`~gossip.errors.MessageError`."""
        if frame.proposal.signer(self._domain) != member:
            raise MalformedMessage("ShortProposalFrame", "its proposer is not the member that sent it")
        if frame.proposal.payload.batch_hash != batch_hash(frame.header):
            raise MalformedMessage("ShortProposalFrame", "the batch is another than the proposal names")
        return self._proposals.begin(member, frame)

    def answer(self, member: Address, want: WantFrame, body: BatchBody) -> tuple[SettlementsFrame, ...]:
        """What ``member`` lacks of a batch."""
        return tuple(self._answers.answer(member, want, body))

    def note(self, settlement: Settlement) -> list[tuple[Address, ProposalFrame]]:
        """A settlement that was found good; the proposals that are whole with it, and who sent them."""
        self._held[settlement_digest(settlement)] = settlement
        if len(self._held) > _HELD:
            self._held.popitem(last=False)
        return list(self._proposals.take(settlement))

    def clear(self) -> None:
        """The height was decided."""
        self._proposals.clear()
        self._answers.clear()
