"""The engine protocol: what any inference engine must offer so that a provider can sell it.

Engines live in worker processes of their own; this module only says what is asked of them. Sampling parameters are
floats because engines take floats; nothing that nodes agree on depends on them.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Literal, Protocol, runtime_checkable

import msgspec

from contracts.typed_data import Digest
from gossip.messages.session import TokenDetail, ToolDelta
from inference.audit import TokenScore
from inference.tools import TOOLS_MAX, ToolCall, ToolUse, call_texts, tool_texts

Finish = Literal["stop", "length", "tool_calls"]
"""Why an answer ended; ``tool_calls``: the model waits for what its calls give."""

Feature = Literal["tools", "tool_choice", "logprobs", "continue"]
"""What not every engine can do: ``tool_choice`` is to have a tool called for certain, ``continue`` to go on with an
answer that another engine began."""

TOP_LOGPROBS_MAX = 20
"""Alternatives of a T that may be asked for."""


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One turn of a conversation; an assistant's may hold calls, and one of role ``tool`` answers a call."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: Annotated[tuple[ToolCall, ...], msgspec.Meta(max_length=TOOLS_MAX)] = ()
    tool_call_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None

    @property
    def text(self) -> str:
        """All of it that reaches a prompt."""
        if not self.tool_calls and self.tool_call_id is None:
            return self.content
        return "\n".join((self.content, *call_texts(self.tool_calls), self.tool_call_id or ""))


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
    tools: ToolUse | None = None
    logprobs: int | None = None
    """How many of the likeliest T to name with each T; 0: its own logarithm alone, None: nothing."""
    prefix: str = ""
    """How the answer begins: what follows it is asked for. Stop strings are looked for in what follows alone."""

    @property
    def prompt(self) -> "Prompt":
        """What the chat template is given."""
        return Prompt(self.messages, self.tools)

    @property
    def needs(self) -> frozenset[Feature]:
        """What its engine must have for it."""
        has_tools = self.tools is not None or any(turn.role == "tool" or turn.tool_calls for turn in self.messages)
        wanted: tuple[tuple[Feature, bool], ...] = (
            ("tools", has_tools),
            ("tool_choice", self.tools is not None and self.tools.choice == "required"),
            ("logprobs", self.logprobs is not None),
            ("continue", bool(self.prefix)),
        )
        return frozenset(feature for feature, is_wanted in wanted if is_wanted)


class Prompt(msgspec.Struct, frozen=True):
    """A conversation and the tools that its next turn may call."""

    messages: tuple[ChatMessage, ...]
    tools: ToolUse | None = None

    def texts(self) -> tuple[str, ...]:
        """Every text that reaches the model: each message's, then that of the tools."""
        return (*(message.text for message in self.messages), "\n".join(tool_texts(self.tools)))


class Piece(msgspec.Struct, frozen=True):
    """Part of an answer. ``finish`` is set on the last piece only, which may carry no text."""

    text: str
    token_ids: tuple[int, ...]
    finish: Finish | None = None
    details: tuple[TokenDetail, ...] = ()
    """How likely T were, where that was asked for; T whose text is held back may be left out."""
    calls: tuple[ToolDelta, ...] = ()
    """What came of tool calls."""


def join_pieces(first: Piece, second: Piece) -> Piece:
    """Two pieces that follow one another, as one."""
    return Piece(
        first.text + second.text,
        first.token_ids + second.token_ids,
        second.finish,
        first.details + second.details,
        first.calls + second.calls,
    )


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

    async def count_prompt(self, messages: tuple[ChatMessage, ...], tools: ToolUse | None = None) -> int:
        """T of the prompt after the chat template, tools included."""

    async def count_text(self, text: str) -> int:
        """T of a piece of plain text by the model's own tokenizer."""

    def generate(self, request: Generation) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """Stream an answer; leaving the context cancels what is still running."""


@runtime_checkable
class Featured(Protocol):
    """An engine that can do more than answer in text; one that is not has no :data:`Feature`."""

    async def features(self) -> frozenset[Feature]:
        """What it can do now. Raises :class:`inference.errors.EngineError`."""


@runtime_checkable
class Scorer(Protocol):
    """An engine that can also give a second opinion; what it comes to is :mod:`inference.audit`'s matter."""

    def score(
        self, messages: tuple[ChatMessage, ...], token_ids: tuple[int, ...], tools: ToolUse | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[TokenScore]]:
        """How likely each T of an answer is after the prompt and the T before it, in order, by teacher forcing.

        Leaving the context cancels what is still running. Raises :class:`inference.errors.EngineError`.
        """
