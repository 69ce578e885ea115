"""One streamed answer of a llama.cpp server, turned into pieces with every token id."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx
import msgspec
import trio

from gossip.messages.session import TokenDetail
from inference.engine import Finish, Piece
from inference.errors import EngineCrashed, EngineError
from inference.likely import Position, to_detail

Tokenize = Callable[[str], Awaitable[list[int]]]
"""Plain text to token ids."""


class _Frame(msgspec.Struct, frozen=True):
    """The fields of a server-sent completion event that are read; others are ignored."""

    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    prompt_progress: msgspec.Raw = msgspec.Raw()
    """There while the prompt is read; such an event names a token that is none."""
    completion_probabilities: list[Position] = []


_DECODER = msgspec.json.Decoder(_Frame)


class Answer:
    """An iterator of pieces over an open response; :meth:`aclose` cancels what is still running.

    The server streams no id for a token that completes no character (an emoji is two to four), only its running total
    tells of it: the missing ids are those of the piece's text by the tokenizer. Ids without text wait for the next
    text, and are dropped where none follows.
    """

    def __init__(self, response: httpx.Response, tokenize: Tokenize, top: int | None = None) -> None:
        self._response = response
        self._lines = response.aiter_lines()
        self._tokenize = tokenize
        self._top = top
        self._seen = 0
        self._waiting: tuple[int, ...] = ()
        self._done = False

    def __aiter__(self) -> "Answer":
        return self

    async def __anext__(self) -> Piece:
        if self._done:
            raise StopAsyncIteration
        while True:
            frame = await self._next_frame()
            if bytes(frame.prompt_progress):
                continue
            if frame.stop:
                self._done = True
                return Piece("", (), _finish(frame))
            ids = await self._complete(frame)
            if frame.content:
                ids, self._waiting = self._waiting + ids, ()
                return Piece(frame.content, ids, details=self._details(frame))
            self._waiting += ids

    async def aclose(self) -> None:
        """Close the connection. Reading on under a cancelled scope unwinds the response's own generators."""
        self._done = True
        with trio.CancelScope(shield=True) as scope:
            scope.cancel()
            # an error here means that the worker has gone: then there is nothing left to cancel
            with suppress(httpx.HTTPError):
                async for _ in self._lines:
                    pass
        with trio.CancelScope(shield=True):
            await self._response.aclose()

    async def _next_frame(self) -> _Frame:
        try:
            async for line in self._lines:
                if line.startswith("error:"):
                    raise EngineError(f"the engine failed: {line[:300]}")
                if line.startswith("data: {"):
                    return _decode(line.removeprefix("data: "))
        except httpx.HTTPError as error:
            raise EngineCrashed(f"the engine's worker ended during an answer: {error!r}") from error
        raise EngineCrashed("the engine's answer ended before its last piece")

    def _details(self, frame: _Frame) -> tuple[TokenDetail, ...]:
        top = self._top
        return () if top is None else tuple(to_detail(position, top) for position in frame.completion_probabilities)

    async def _complete(self, frame: _Frame) -> tuple[int, ...]:
        """The frame's ids with those that the stream left out."""
        missing = frame.tokens_predicted - self._seen - len(frame.tokens)
        self._seen = frame.tokens_predicted
        if missing <= 0 or not frame.content:
            return tuple(frame.tokens)
        ids = await self._tokenize(frame.content)
        return tuple(ids if len(frame.tokens) <= len(ids) <= missing + len(frame.tokens) else frame.tokens)


def _decode(data: str) -> _Frame:
    try:
        if data.startswith('{"error"'):
            raise EngineError(f"the engine failed: {data[:300]}")
        return _DECODER.decode(data)
    except msgspec.MsgspecError as error:
        raise EngineError(f"the engine sent no completion event: {data[:300]}") from error


def _finish(frame: _Frame) -> Finish:
    return "length" if frame.stop_type == "limit" else "stop"
