"""What refusing costs (S28): a provider that is drawn and silent, or refuses though its bid has slots, rests a while.

It is one router's own memory, told in each match that it matters to. A rest ends by itself, and nobody rests where
nobody else is left.
"""

from collections import OrderedDict

from contracts.typed_data import Address, Digest

FIRST_REST_MS = 500
"""After one failure; each further one in a row doubles it."""

LONGEST_REST_MS = 8_000

KEPT = 5_000
"""Seats remembered; who failed longest ago is forgotten first."""

Seat = tuple[Address, Digest]
"""A provider and a model."""


class Rests:
    """Failures in a row and the time until which a seat rests, in Unix ms."""

    def __init__(self) -> None:
        self._failed: OrderedDict[Seat, tuple[int, int]] = OrderedDict()
        self._last_ms = 0
        """When the last rest ends."""

    def fail(self, seat: Seat, now_ms: int) -> int:
        """The seat was drawn and failed; until when it rests. Failing again within a rest counts once."""
        failures, until = self._failed.pop(seat, (0, 0))
        if until <= now_ms:
            failures, until = failures + 1, now_ms + min(LONGEST_REST_MS, FIRST_REST_MS << min(failures, 10))
        self._failed[seat] = failures, until
        self._last_ms = max(self._last_ms, until)
        while len(self._failed) > KEPT:
            self._failed.popitem(last=False)
        return until

    def serve(self, seat: Seat) -> None:
        """The seat was drawn and could serve: what was before is forgotten."""
        self._failed.pop(seat, None)

    def is_idle(self, now_ms: int) -> bool:
        """Whether nobody rests now."""
        return now_ms >= self._last_ms

    def is_resting(self, seat: Seat, now_ms: int) -> bool:
        """Whether the seat rests now."""
        failed = self._failed.get(seat)
        return failed is not None and failed[1] > now_ms
