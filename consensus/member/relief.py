"""How a member lets itself be relieved: the signatures under the hand-over to who was drawn, its own and others'."""

from consensus.market.ledger_state import Ledger
from consensus.member.events import Effect, SignHandOver, Tell
from consensus.membership import assemble_hand_over, hand_over_to
from contracts.typed_data import Address, Signature
from gossip.messages.base import Signed
from gossip.messages.committee import HandOver, HandOverCertificate, HandOverFrame


class Relief:
    """One member's collection; forgets what is not for the hand-over that its ledger waits for."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._wanted: HandOver | None = None
        self._signatures: dict[Address, Signature] = {}

    def note(self, vote: Signed[HandOver], member: Address, ledger: Ledger) -> None:
        """Keep ``member``'s signature, which was checked, where it is for what ``ledger`` waits for."""
        self._turn_to(ledger)
        if vote.payload == self._wanted and ledger.committee.weight(member):
            self._signatures[member] = vote.signature

    def say(self, ledger: Ledger) -> list[Effect]:
        """Sign the hand-over that ``ledger`` waits for; say it again while it is waited for."""
        self._turn_to(ledger)
        if self._wanted is None or ledger.committee.weight(self._address) == 0:
            return []
        if (own := self._signatures.get(self._address)) is None:
            return [SignHandOver(self._wanted)]
        return [Tell(HandOverFrame(Signed(self._wanted, own)))]

    def certificate(self, ledger: Ledger) -> HandOverCertificate | None:
        """The certificate of the hand-over, once more than 2/3 of stake has signed."""
        self._turn_to(ledger)
        return None if self._wanted is None else assemble_hand_over(self._wanted, ledger.running, self._signatures)

    def _turn_to(self, ledger: Ledger) -> None:
        wanted = None if ledger.drawn is None else hand_over_to(ledger.drawn, ledger.running)
        if wanted != self._wanted:
            self._wanted, self._signatures = wanted, {}
