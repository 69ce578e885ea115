"""An answer on its way to the client, of one session or of several: where a provider vanishes another goes on."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from contracts.typed_data import Address, Digest
from gossip.errors import GossipError
from inference.engine import Piece
from inference.errors import SessionError
from inference.session.client import ClientSession, SessionOutcome
from node.api.backend import QueuePlace, RateLimit
from node.roles import refusals
from node.roles.asking import Opened


@dataclass(frozen=True, slots=True)
class Leg:
    """One session of an answer, and its first piece."""

    rfc_id: Digest
    opened: Opened
    session: ClientSession
    first: Piece | None

    @property
    def provider(self) -> Address:
        """Who serves it."""
        return self.opened.matched.ticket.payload.bid.payload.provider


GoOn = Callable[["UserAnswer", SessionError | GossipError], Awaitable[Leg | None]]
"""The next leg of an answer that broke off; None where TokenMax is reached. Raises what ends the answer."""


class UserAnswer:
    """What :class:`node.api.backend.Answer` asks for. ``limit`` is the day's, None where nobody here knows."""

    def __init__(self, leg: Leg, limit: RateLimit | None, go_on: GoOn) -> None:
        self.rfc_id = leg.rfc_id
        self.provider: Address = leg.provider
        self._ticket = leg.opened.matched.ticket.payload
        self._opened = leg.opened
        self._legs = [leg]
        self._limit = limit
        self._go_on = go_on
        self._is_full = False
        self._text: list[str] = []
        self._has_calls = False

    @property
    def outcome(self) -> SessionOutcome:
        """T, times and receipt of the last session, once the pieces have ended."""
        return self._legs[-1].session.outcome

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The sessions so far, in order."""
        return tuple(self._legs)

    @property
    def text(self) -> str:
        """All that the client has got."""
        return "".join(self._text)

    @property
    def has_calls(self) -> bool:
        """Whether there were tool calls among it: half a call can't be continued."""
        return self._has_calls

    @property
    def tokens(self) -> int:
        """T delivered so far, by all providers together."""
        return sum(leg.session.outcome.tokens for leg in self._legs)

    @property
    def prompt_tokens(self) -> int:
        """T of the prompt, 0 until the end; what others had answered before the last provider is no part of it."""
        earlier = sum(leg.session.outcome.tokens for leg in self._legs[:-1])
        return max(0, self.outcome.prompt_tokens - earlier)

    @property
    def finish(self) -> str | None:
        """``stop``, ``length`` or ``tool_calls``, None until the end."""
        return "length" if self._is_full else self.outcome.finish

    def headers(self) -> dict[str, str]:
        """What the gateway tells the client beside the answer."""
        headers = {
            "x-yellowstone-rfc": "0x" + self.rfc_id.hex(),
            "x-yellowstone-provider": "0x" + self.provider.hex(),
            "x-yellowstone-price-wei": str(self._ticket.bid.payload.price_wei),
            "x-yellowstone-pass-left": str(self._opened.wallet.left),
        }
        if (queued := self._opened.queued) is not None:
            headers |= QueuePlace(queued.position, queued.waiting, queued.expected_ms).headers()
            headers["x-yellowstone-queue-waited-ms"] = str(self._opened.match_ms)
        return headers if self._limit is None else headers | self._limit.headers()

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer. Raises :class:`BackendError` where it breaks off and nobody can go on."""
        leg: Leg | None = self._legs[-1]
        while leg is not None:
            if leg.first is not None:
                yield self._note(leg.first)
            try:
                async for piece in leg.session.pieces():
                    yield self._note(piece)
                return
            except (SessionError, GossipError) as error:
                leg = await self._continue(error)
        self._is_full = True

    async def _continue(self, error: SessionError | GossipError) -> Leg | None:
        leg = await self._go_on(self, error)
        if leg is not None:
            self._legs.append(leg)
        return leg

    def _note(self, piece: Piece) -> Piece:
        self._text.append(piece.text)
        self._has_calls = self._has_calls or bool(piece.calls)
        return piece


def broke_off(error: SessionError | GossipError) -> bool:
    """Whether another provider may go on after this end of a session."""
    return isinstance(error, GossipError) or error.code in refusals.ANOTHER_MAY_GO_ON
