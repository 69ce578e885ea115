"""What one node knows of settlements, where proposals name them: it puts proposals together, and asks for the rest.

The rules are consensus.member.short's; this stands for what carries them in a node, without its queues and bundles.
"""

from collections.abc import Iterator

from consensus.member.short import Answers, ShortProposals
from contracts.typed_data import Address, Digest
from gossip.messages.committee import (
    BatchBody,
    LinkFrame,
    ProposalFrame,
    SettlementsFrame,
    ShortProposalFrame,
    WantFrame,
)
from gossip.messages.session import Settlement


class SimulatedExchange:
    """One node's; what it holds is lost with its power."""

    def __init__(self) -> None:
        self._held: dict[Digest, Settlement] = {}
        self._proposals = ShortProposals(self._held.get)
        self._answers = Answers()

    def begin(self, member: Address, frame: ShortProposalFrame) -> ProposalFrame | WantFrame:
        """The whole proposal, or what to ask ``member`` for."""
        return self._proposals.begin(member, frame)

    def note(self, settlement: Settlement) -> Iterator[tuple[Address, ProposalFrame]]:
        """A settlement was found good: the proposals that are whole with it, and who made them."""
        self._held[settlement.digest] = settlement
        return self._proposals.take(settlement)

    def answer(self, member: Address, want: WantFrame, body: BatchBody) -> Iterator[LinkFrame]:
        """What ``member`` lacks of a batch."""
        frames: Iterator[SettlementsFrame] = self._answers.answer(member, want, body)
        return frames

    def clear(self) -> None:
        """The height was decided."""
        self._proposals.clear()
        self._answers.clear()
