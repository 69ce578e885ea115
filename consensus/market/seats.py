"""Providers' slots as one desk has filled them: which ticket holds a seat, and why it still does."""

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from consensus.market.filings import OpenTicket
from contracts.typed_data import Address, Digest
from gossip.messages.records import Bid

Seat = tuple[Address, Digest]
"""A provider and a model: what slots are counted by."""


class Held(enum.StrEnum):
    """Why a ticket holds its provider's slot."""

    MATCHED = "matched"
    """Its user may open it, or has just done so."""
    RUNNING = "running"
    """Its provider says that the session goes on."""
    REPORTED = "reported"
    """Its user says that the session is over, its provider has said nothing yet."""
    SILENT = "silent"
    """It has expired, and nobody has said anything."""


def why_held(held: OpenTicket, now_ms: int) -> Held:
    """Why a ticket that holds a seat still does."""
    if held.runs:
        return Held.RUNNING
    if held.report is not None:
        return Held.REPORTED
    return Held.MATCHED if now_ms < held.ticket.payload.expires_ms else Held.SILENT


def seat_of(bid: Bid) -> Seat:
    """What the slots of a bid are counted by."""
    return bid.provider, bid.model_id


class Seats:
    """Slots filled, by provider and model."""

    def __init__(self) -> None:
        self._filled: dict[Seat, int] = {}
        self.on_seat: Callable[[Seat], None] = lambda _: None
        """Called with each seat whose number of filled slots has changed."""

    def filled(self, seat: Seat) -> int:
        """Slots of a provider's model that are filled."""
        return self._filled.get(seat, 0)

    def take(self, held: OpenTicket) -> None:
        """A match fills a slot."""
        seat = seat_of(held.ticket.payload.bid.payload)
        held.has_seat = True
        self._filled[seat] = self._filled.get(seat, 0) + 1
        self.on_seat(seat)

    def free(self, held: OpenTicket) -> None:
        """A ticket's slot is free again; nothing changes where it was so already."""
        if not held.has_seat:
            return
        held.has_seat = False
        seat = seat_of(held.ticket.payload.bid.payload)
        self._filled[seat] -= 1
        if not self._filled[seat]:
            del self._filled[seat]
        self.on_seat(seat)


def count_held(tickets: Iterable[OpenTicket], now_ms: int) -> Counter[Held]:
    """How many seats are held, by reason."""
    return Counter(why_held(held, now_ms) for held in tickets if held.has_seat)


def find_silent(tickets: Mapping[Digest, OpenTicket], now_ms: int) -> tuple[tuple[Digest, Address], ...]:
    """Those that expired before ``now_ms`` and hold a seat, though no provider says that a session runs; and whose."""
    return tuple(
        (ticket_id, held.ticket.payload.bid.payload.provider)
        for ticket_id, held in tickets.items()
        if held.has_seat and not held.runs and held.ticket.payload.expires_ms < now_ms
    )
