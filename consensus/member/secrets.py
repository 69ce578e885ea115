"""A member's slot secrets, as its core sees them."""

from typing import Protocol

from contracts.typed_data import Digest
from gossip.messages.base import Signed
from gossip.messages.records import BeaconCommitment


class Secrets(Protocol):
    """A member's slot secrets; a pure function of its key."""

    def of_slot(self, slot: int) -> Digest:
        """The secret of ``slot``."""

    def commitment(self, day: int) -> Signed[BeaconCommitment]:
        """The signed commitment to the secrets of ``day``."""
