"""The stream that a session runs over, as a structural type, and the codes that it may fail with."""

import enum
from typing import Protocol


class SessionStream(Protocol):
    """Framed, ordered, authenticated and encrypted. Raises :class:`gossip.errors.TransportError` and its kinds."""

    remote_peer: str

    async def send(self, data: bytes, *, timeout: float = 10) -> None:
        """Send one frame within ``timeout`` seconds."""

    async def receive(self, *, limit: int, timeout: float) -> bytes | None:
        """The next frame of at most ``limit`` bytes, or None once the other side has ended."""

    async def end(self) -> None:
        """Say that nothing more comes."""

    async def fail(self, code: str, detail: str) -> None:
        """Say that the session failed; the other side gets a :class:`gossip.errors.RemoteError`."""

    async def aclose(self) -> None:
        """Close for good. Idempotent; never raises."""


class Code(enum.StrEnum):
    """Why a session was refused or ended early: stable words, on the wire and in :class:`SessionError`."""

    BAD_TICKET = "bad_ticket"
    """Not signed by its router, not for this provider, or outside the bid that it names."""
    TICKET_USED = "ticket_used"
    TICKET_EXPIRED = "ticket_expired"
    PROMPT_OVER_LIMIT = "prompt_over_limit"
    """More T than the ticket's prompt bound or the engine's context."""
    BAD_QUERY = "bad_query"
    """Signed by another key, for another ticket, or its body is not a query."""
    UNSUPPORTED = "unsupported"
    """The engine cannot do what the query asks for; the detail begins with its name and a colon."""
    ENGINE_FAILED = "engine_failed"
    ENGINE_CRASHED = "engine_crashed"
    """The engine's process ended while it computed this answer: asking the next provider may cost that one too."""
    ENGINE_UNAVAILABLE = "engine_unavailable"
    """The engine is starting, unreachable or out of order; this query has done nothing to it."""
    VOUCHER_TIMEOUT = "voucher_timeout"
    """The user fell behind with its vouchers."""
    SESSION_TIMEOUT = "session_timeout"
    BUSY = "busy"
    INTERNAL = "internal"
    """The provider's own fault; its log says what."""
    PROTOCOL_ERROR = "protocol_error"
    """A frame that is none, out of turn, or untrue."""
    CANCELLED = "cancelled"
    """The user left before the end."""
    PROVIDER_VANISHED = "provider_vanished"
    """The stream broke or fell silent; never on the wire."""
