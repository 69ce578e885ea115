"""A synthetic engine: it computes nothing and says so. For benchmarks and tests of everything but inference.

It answers any prompt with words ``t0 t1 t2 …``, one T each, at once or one every ``interval_s`` seconds, so that what
the router adds can be told from what inference takes. Where a tool must be called, it calls that one, or the first.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from contracts.typed_data import Digest
from gossip.messages.session import LikelyToken, TokenDetail, ToolDelta
from inference.audit import TokenScore
from inference.engine import ChatMessage, EngineHealth, Feature, Generation, Piece
from inference.errors import EngineError, PromptTooLong
from inference.model_files import DescribedModel
from inference.tools import ToolUse, tool_texts

_IMPOSSIBLE = -100.0
"""The logarithm that stands for a probability of 0."""

CATCH_UP_S = 1.0
"""T that are so late are said at once; what is later still is not made up for."""

_TURN_TOKENS = 4
"""T that the template of this engine adds to each message."""


class SyntheticEngine:
    """An :class:`~inference.engine.Engine` without a model.

    ``answer_tokens`` T are said unless TokenMax is lower; ``fail_after`` T an :class:`EngineError` is raised.
    """

    def __init__(
        self,
        name: str = "synthetic",
        *,
        answer_tokens: int = 32,
        interval_s: float = 0.0,
        slots: int = 4,
        context: int = 4096,
        fail_after: int | None = None,
    ) -> None:
        self._name = name
        self._answer_tokens = answer_tokens
        self.interval_s = interval_s
        self._health = EngineHealth(slots, 0, context)
        self._fail_after = fail_after
        self.identity = DescribedModel(f"synthetic engine {name}: there is no model", "synthetic", "1")
        """The engine's name stands for a model."""
        self._model_id = self.identity.manifest.model_id()
        self.running = 0
        """Answers being generated now."""

    @property
    def model_id(self) -> Digest:
        """The id of a manifest that holds the engine's name alone."""
        return self._model_id

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._name

    @property
    def family(self) -> str:
        """Says plainly that nothing is inferred."""
        return "synthetic (no model)"

    async def health(self) -> EngineHealth:
        """Its fixed slots and context."""
        return EngineHealth(self._health.slots, self.running, self._health.context)

    async def features(self) -> frozenset[Feature]:
        """Everything, since nothing is computed."""
        return frozenset(("tools", "tool_choice", "logprobs", "continue"))

    async def count_prompt(self, messages: tuple[ChatMessage, ...], tools: ToolUse | None = None) -> int:
        """Words, and four T for each message."""
        words = sum(len(text.split()) for text in tool_texts(tools))
        return words + sum(len(message.text.split()) + _TURN_TOKENS for message in messages)

    async def count_text(self, text: str) -> int:
        """Words."""
        return len(text.split())

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:
        """Stream the words."""
        prompt = await self.count_prompt(request.messages, request.tools)
        prompt += await self.count_text(request.prefix)
        room = self._health.context - prompt
        if room < 1:
            raise PromptTooLong(prompt, self._health.context - 1)
        self.running += 1
        try:
            said = len(request.prefix.split())
            tokens = min(max(0, self._answer_tokens - said), request.max_tokens, room)
            if request.tools is not None and (request.tools.choice == "required" or request.tools.only is not None):
                yield _Call(request.tools, self)
            else:
                yield _Words(tokens, self, request.logprobs, said=said, wanted=self._answer_tokens)
        finally:
            self.running -= 1

    @asynccontextmanager
    async def score(
        self, messages: tuple[ChatMessage, ...], token_ids: tuple[int, ...], tools: ToolUse | None = None
    ) -> AsyncIterator[AsyncIterator[TokenScore]]:
        """Exact: after i T this engine says T i and nothing else."""
        room = self._health.context - await self.count_prompt(messages, tools)
        if len(token_ids) > room:
            raise PromptTooLong(len(token_ids), room)
        self.running += 1
        try:
            yield _Scores(token_ids, self)
        finally:
            self.running -= 1

    async def pause(self, index: int) -> None:
        """Before each T. Raises the scripted :class:`EngineError`."""
        if self._fail_after is not None and index >= self._fail_after:
            raise EngineError(f"scripted failure after {self._fail_after} T")
        await trio.lowlevel.checkpoint()


class _Call:
    """One call without arguments, of one T."""

    def __init__(self, use: ToolUse, engine: SyntheticEngine) -> None:
        name = use.only or use.tools[0].name
        call = Piece("", (0,), calls=(ToolDelta(0, "call_0", name), ToolDelta(0, arguments="{}")))
        self._left = [Piece("", (), "tool_calls"), call]
        self._engine = engine

    def __aiter__(self) -> "_Call":
        return self

    async def __anext__(self) -> Piece:
        if not self._left:
            raise StopAsyncIteration
        await self._engine.pause(2 - len(self._left))
        return self._left.pop()


class _Words:
    def __init__(self, tokens: int, engine: SyntheticEngine, top: int | None, *, said: int, wanted: int) -> None:
        self._top = top
        self._last = said + tokens
        self._wanted = wanted
        self._engine = engine
        self._index = said
        self._due = trio.current_time()

    def __aiter__(self) -> "_Words":
        return self

    async def __anext__(self) -> Piece:
        index = self._index
        if index > self._last:
            raise StopAsyncIteration
        self._index += 1
        if index == self._last:
            return Piece("", (), "stop" if self._last == self._wanted else "length")
        self._due = max(self._due + self._engine.interval_s, trio.current_time() - CATCH_UP_S)
        await trio.sleep_until(self._due)
        await self._engine.pause(index)
        word = f"t{index} "
        if self._top is None:
            return Piece(word, (index,))
        likely = (LikelyToken(word.encode(), 0),)[: self._top]
        return Piece(word, (index,), details=(TokenDetail(word.encode(), 0, likely),))


class _Scores:
    def __init__(self, token_ids: tuple[int, ...], engine: SyntheticEngine) -> None:
        self._left = list(enumerate(token_ids))[::-1]
        self._engine = engine

    def __aiter__(self) -> "_Scores":
        return self

    async def __anext__(self) -> TokenScore:
        if not self._left:
            raise StopAsyncIteration
        index, token = self._left.pop()
        await self._engine.pause(index)
        return TokenScore(0.0 if token == index else _IMPOSSIBLE, 0.0)
