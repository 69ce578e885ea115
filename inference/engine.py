"""The engine protocol: what any inference engine must offer so that a provider can sell it.

Engines live in worker processes of their own; this module only says what is asked of them. Sampling parameters are
floats because engines take floats; nothing that nodes agree on depends on them.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, runtime_checkable

import msgspec

from contracts.typed_data import Digest
from inference.audit import TokenScore

Finish = Literal["stop", "length"]


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


SYSTEM_MESSAGE = ChatMessage("system", "You are a helpful assistant.")
"""Put before a conversation that has no system message: small models answer nonsense without one."""


def with_system(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """``messages`` after :data:`SYSTEM_MESSAGE`, unless they have a system message of their own."""
    return messages if any(message.role == "system" for message in messages) else (SYSTEM_MESSAGE, *messages)


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to choose tokens; the defaults are greedy and therefore repeatable."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request to an engine."""

    messages: tuple[ChatMessage, ...]
    max_tokens: int
    sampling: Sampling = Sampling()


class Piece(msgspec.Struct, frozen=True):
    """Part of an answer. ``finish`` is set on the last piece only, which may carry no text."""

    text: str
    token_ids: tuple[int, ...]
    finish: Finish | None = None


class EngineHealth(msgspec.Struct, frozen=True):
    """``slots`` sessions at once, ``busy`` of them taken; ``context`` is the T of prompt and answer together."""

    slots: int
    busy: int
    context: int


class Engine(Protocol):
    """A loaded model. Raises :class:`inference.errors.EngineError` and nothing else of its own."""

    @property
    def model_id(self) -> Digest:
        """The model's identity (S42)."""

    @property
    def name(self) -> str:
        """The model's name for people, as in an OpenAI request."""

    @property
    def family(self) -> str:
        """Engine family and build; part of what a provider states about itself."""

    async def health(self) -> EngineHealth:
        """How much it could take on now."""

    async def count_prompt(self, messages: tuple[ChatMessage, ...]) -> int:
        """T of the prompt after the chat template."""

    async def count_text(self, text: str) -> int:
        """T of a piece of plain text by the model's own tokenizer."""

    def generate(self, request: Generation) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """Stream an answer; leaving the context cancels what is still running."""


@runtime_checkable
class Scorer(Protocol):
    """An engine that can also give a second opinion; what it comes to is :mod:`inference.audit`'s matter."""

    def score(
        self, messages: tuple[ChatMessage, ...], token_ids: tuple[int, ...]
    ) -> AbstractAsyncContextManager[AsyncIterator[TokenScore]]:
        """How likely each T of an answer is after the prompt and the T before it, in order, by teacher forcing.

        Leaving the context cancels what is still running. Raises :class:`inference.errors.EngineError`.
        """
