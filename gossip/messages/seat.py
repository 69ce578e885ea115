"""A home router asks a provider, over a direct stream, whether a session runs on a ticket that has expired.

Not signed: the stream is the provider's own, and its word frees nothing but a slot of its own.
"""

import msgspec

from contracts.typed_data import Digest
from gossip.messages.base import decode

MAX_SEAT_BYTES = 128
"""The largest question or answer that is read."""


class SeatAsk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Does a session run on this ticket?"""

    ticket_id: Digest


class SeatWord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Whether one does. Where none does it is over, or the ticket was not opened; what is owed is filed apart."""

    ticket_id: Digest
    runs: bool


def decode_seat_ask(data: bytes) -> SeatAsk:
    """What a router asks. Raises :class:`~gossip.errors.MessageError`."""
    return decode(SeatAsk, data, MAX_SEAT_BYTES)


def decode_seat_word(data: bytes) -> SeatWord:
    """What a provider answers. Raises :class:`~gossip.errors.MessageError`."""
    return decode(SeatWord, data, MAX_SEAT_BYTES)
