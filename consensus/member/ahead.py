"""The secrets of days ahead: a member's own commitments, and those that it has heard and no batch holds yet."""

from consensus.market.ledger_state import Ledger
from consensus.member.events import Effect, Tell
from consensus.member.secrets import Secrets
from contracts.typed_data import Address
from gossip.messages.base import Signed
from gossip.messages.committee import CommitmentFrame
from gossip.messages.records import BeaconCommitment

COMMIT_AHEAD_DAYS = 2
"""A member commits to the secrets of so many days ahead, so that a missed batch costs no day its beacon."""


class Commitments:
    """One member's collection, for days that are near."""

    def __init__(self, address: Address, secrets: Secrets) -> None:
        self._address = address
        self._secrets = secrets
        self._held: dict[tuple[Address, int], Signed[BeaconCommitment]] = {}

    def note(self, commitment: Signed[BeaconCommitment], ledger: Ledger, day: int) -> None:
        """Keep a member's where it is for a day that is near, as seen from ``day``."""
        payload = commitment.payload
        if ledger.is_recent_member(payload.member) and day < payload.day <= day + COMMIT_AHEAD_DAYS:
            self._held[payload.member, payload.day] = commitment

    def say(self, ledger: Ledger, day: int) -> list[Effect]:
        """Commit to the days ahead; say it again until a batch has it."""
        if not ledger.is_recent_member(self._address):
            return []
        told: list[Effect] = []
        for ahead in range(day + 1, day + 1 + COMMIT_AHEAD_DAYS):
            if self._address not in ledger.commitments.get(ahead, {}):
                commitment = self._held.get((self._address, ahead)) or self._secrets.commitment(ahead)
                self.note(commitment, ledger, day)
                told.append(Tell(CommitmentFrame(commitment)))
        return told

    def fresh(self, ledger: Ledger, day: int) -> tuple[Signed[BeaconCommitment], ...]:
        """Those for days after ``day`` that no batch holds."""
        self._held = {key: made for key, made in self._held.items() if key[1] > day}
        new = {key: made for key, made in self._held.items() if key[0] not in ledger.commitments.get(key[1], {})}
        return tuple(new[key] for key in sorted(new))
