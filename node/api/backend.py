"""The seam between the gateway and the user agent behind it. Types only."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from contracts.typed_data import Address, Digest
from inference.engine import ChatMessage, Piece, Sampling
from inference.tools import ToolUse


class ModelCard(msgspec.Struct, frozen=True):
    """A model that can be asked now: ``providers`` have live bids, the lowest at ``lowest_price_wei`` per T."""

    name: str
    model_id: Digest
    providers: int
    lowest_price_wei: int
    is_listed: bool = True
    """Whether an RFC for it would be taken today: nobody is paid for a model that the committee hasn't listed (S8)."""
    us_per_t: int | None = None
    """Mean µs per T of the last settled queries, the wait for the first T included; None where there are none."""


class ChatRequest(msgspec.Struct, frozen=True):
    """One checked request. ``max_tokens`` is the TokenMax of its RFC, in T (S21)."""

    model: str
    """A model's name, or its id as 0x hex."""
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    sampling: Sampling
    tools: ToolUse | None = None
    logprobs: int | None = None
    """How many alternatives to name with each T; None: no logarithms."""
    prefix: str = ""
    """What has been answered already by a provider that vanished: to be continued, not repeated."""


class RateLimit(msgspec.Struct, frozen=True):
    """What is left of the day's UserMax, in T; ``reset_s`` seconds until the next day."""

    limit_tokens: int
    remaining_tokens: int
    """Neither used nor set aside for an answer that has not ended."""
    reset_s: int

    def headers(self) -> dict[str, str]:
        """OpenAI's ``x-ratelimit-*`` headers, and this gateway's own."""
        return {
            "x-ratelimit-limit-tokens": str(self.limit_tokens),
            "x-ratelimit-remaining-tokens": str(self.remaining_tokens),
            "x-ratelimit-reset-tokens": f"{self.reset_s}s",
            "x-yellowstone-tokens-left": str(self.remaining_tokens),
        }


class Allowance(msgspec.Struct, frozen=True):
    """What the node's own user may use on ``day``; None where its balance is not known."""

    day: int
    reset_s: int
    """Seconds until the next day."""
    limit_tokens: int | None = None
    """UserMax, in T."""
    remaining_tokens: int | None = None


class QueuePlace(msgspec.Struct, frozen=True):
    """Where a request stood in its router's queue: ``position`` 0 is next, of ``waiting``; 0 ms: nobody can tell."""

    position: int
    waiting: int
    expected_ms: int

    def headers(self) -> dict[str, str]:
        """``x-yellowstone-queue-*``."""
        headers = {
            "x-yellowstone-queue-position": str(self.position),
            "x-yellowstone-queue-waiting": str(self.waiting),
        }
        return headers | ({"x-yellowstone-queue-expected-ms": str(self.expected_ms)} if self.expected_ms else {})


class BackendError(Exception):
    """The request cannot be answered, or its answer broke off.

    ``status`` is the HTTP status, ``code`` a stable word, ``kind`` OpenAI's ``type``, ``retry_after`` seconds. ``paid``
    says that T have been delivered already, ``final`` that asking again would do the same harm: in both cases a client
    must not repeat the request by itself.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = "server_error",
        param: str | None = None,
        retry_after: int | None = None,
        limit: RateLimit | None = None,
        queue: QueuePlace | None = None,
        paid: bool = False,
        final: bool = False,
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.kind = kind
        self.param = param
        self.retry_after = retry_after
        self.limit = limit
        self.queue = queue
        self.paid = paid
        self.final = final
        super().__init__(f"{code}: {message}")


class Answer(Protocol):
    """An answer whose first token is there. The counts are final once :meth:`pieces` has ended."""

    @property
    def rfc_id(self) -> Digest:
        """Names the session in the control API."""

    @property
    def provider(self) -> Address:
        """Who answers."""

    @property
    def prompt_tokens(self) -> int:
        """T of the prompt."""

    @property
    def tokens(self) -> int:
        """T of the answer."""

    @property
    def finish(self) -> str | None:
        """``stop``, ``length`` or ``tool_calls``; None before the end."""

    def pieces(self) -> AsyncIterator[Piece]:
        """Text, calls and logarithms as they arrive, once. Raises :class:`BackendError` where it breaks off."""

    def headers(self) -> dict[str, str]:
        """``x-yellowstone-*`` and ``x-ratelimit-*`` headers for the response."""


class ChatBackend(Protocol):
    """What answers the gateway's requests."""

    async def models(self) -> tuple[ModelCard, ...]:
        """Every model with a live bid."""

    async def allowance(self) -> Allowance:
        """What the user may use today."""

    def chat(self, request: ChatRequest) -> AbstractAsyncContextManager[Answer]:
        """Entering matches, opens the session and waits for the first token; leaving cancels what still runs.

        Raises :class:`BackendError` on entering.
        """
