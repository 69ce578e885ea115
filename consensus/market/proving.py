"""Which providers a router has seen prove their models (S42), and whom it challenges next. Pure.

Every router keeps its own: a provider that fails, or is silent, is not matched by this router until it answers. Who is
challenged in a slot follows from the beacon, so that no router picks on a provider and none foresees its turn.
"""

from collections.abc import Collection
from hashlib import sha256

import msgspec

from contracts.typed_data import Address, Digest

RETRY_MS = (2_000, 5_000, 15_000, 60_000, 300_000)
"""How long after a failure the same model is challenged again; the last from then on."""

ProofKey = tuple[Address, Digest]
"""Provider and model id."""


class Proving(msgspec.Struct, frozen=True):
    """What a router knows of one provider's model."""

    proven_ms: int | None = None
    """When it last answered; None before the first time, and after a failure."""
    failed_ms: int | None = None
    """When it last failed, if that was after its last answer."""
    reason: str = ""
    """Why it failed."""
    in_a_row: int = 0
    """Failures since the last answer."""
    answered: int = 0
    failed: int = 0
    asked_slot: int = -1
    """The slot of the last challenge."""
    is_asked: bool = False
    """Whether a challenge is under way."""


class ProvingLog:
    """The challenges of one router."""

    def __init__(self, router: Address, challenge_slots: int) -> None:
        self._router = router
        self._challenge_slots = challenge_slots
        self._held: dict[ProofKey, Proving] = {}
        self.changes = 0
        """How often :meth:`is_proven` has come to say something else of anybody."""

    def is_proven(self, provider: Address, model_id: Digest) -> bool:
        """Whether the provider's last challenge was answered."""
        held = self._held.get((provider, model_id))
        return held is not None and held.proven_ms is not None

    def state(self, provider: Address, model_id: Digest) -> Proving:
        """What is known of it."""
        return self._held.get((provider, model_id), Proving())

    def due(self, offered: Collection[ProofKey], slot: int, beacon: Digest, now_ms: int) -> tuple[ProofKey, ...]:
        """Whom to challenge now, of those on offer; the others are forgotten. :meth:`asked` takes one off."""
        for gone in [key for key, held in self._held.items() if key not in offered and not held.is_asked]:
            self.changes += self._held.pop(gone).proven_ms is not None
        return tuple(sorted(key for key in offered if self._is_due(key, slot, beacon, now_ms)))

    def asked(self, key: ProofKey, slot: int) -> None:
        """A challenge goes out."""
        self._held[key] = msgspec.structs.replace(self.state(*key), asked_slot=slot, is_asked=True)

    def passed(self, key: ProofKey, now_ms: int) -> Proving:
        """The answer held; what was known before."""
        before = self.state(*key)
        self.changes += before.proven_ms is None
        self._held[key] = msgspec.structs.replace(
            before,
            proven_ms=now_ms,
            failed_ms=None,
            reason="",
            in_a_row=0,
            answered=before.answered + 1,
            is_asked=False,
        )
        return before

    def lost(self, key: ProofKey, reason: str, now_ms: int) -> Proving:
        """No answer, or one that does not hold; what was known before."""
        before = self.state(*key)
        self.changes += before.proven_ms is not None
        self._held[key] = msgspec.structs.replace(
            before,
            proven_ms=None,
            failed_ms=now_ms,
            reason=reason,
            in_a_row=before.in_a_row + 1,
            failed=before.failed + 1,
            is_asked=False,
        )
        return before

    def _is_due(self, key: ProofKey, slot: int, beacon: Digest, now_ms: int) -> bool:
        held = self._held.get(key)
        if held is None:
            return True
        if held.is_asked:
            return False
        if held.failed_ms is not None:
            return now_ms >= held.failed_ms + RETRY_MS[min(held.in_a_row, len(RETRY_MS)) - 1]
        return held.asked_slot < slot and self._is_drawn(key, slot, beacon)

    def _is_drawn(self, key: ProofKey, slot: int, beacon: Digest) -> bool:
        """One slot in ``challenge_slots``, by the beacon."""
        tag = b"yellowstone challenged 1\0"
        drawn = sha256(tag + beacon + slot.to_bytes(8, "big") + self._router + key[0] + key[1]).digest()
        return int.from_bytes(drawn, "big") % self._challenge_slots == 0
