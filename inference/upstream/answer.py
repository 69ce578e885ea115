"""One streamed answer of an upstream, turned into pieces whose ids are what may be charged for."""

import structlog
import trio
from msgspec.structs import replace

from inference.engine import Finish, Piece
from inference.errors import AnswerInvalid, EngineCrashed, EngineError, EngineUnavailable
from inference.upstream.counting import TextCounter, Tokenize
from inference.upstream.dialects import Dialect, Event
from inference.upstream.events import DONE, EventReader

SURPLUS = 2
"""An answer counted by its text may have so many times the T asked for before it is one without end."""

LAST_WORDS_S = 2.0
"""How long the usage may take to follow the end of the text."""

_BYTES_PER_TOKEN = 1024
_log = structlog.get_logger(__name__)


class UpstreamAnswer:
    """An iterator of pieces over an open response; :meth:`aclose` hangs up.

    Ids without text wait for the next text and are dropped where none follows (an end-of-answer token has none). Never
    more ids come out than ``max_tokens``. A server that names no ids is counted by its text.
    """

    def __init__(
        self,
        events: EventReader,
        dialect: Dialect,
        tokenize: Tokenize,
        max_tokens: int,
        token_seconds: float,
        *,
        top: int | None = None,
    ) -> None:
        self._events = events
        self._dialect = dialect
        self._tokenize = tokenize
        self._counter = TextCounter(tokenize)
        self._max_tokens = max_tokens
        self._token_seconds = token_seconds
        self._top = top
        self._waiting: tuple[int, ...] = ()
        self._given = 0
        self._counted = 0
        self._seen = 0
        self._bytes = 0
        self._usage: int | None = None
        self._by_text = False
        self._finish: Finish | None = None
        self._done = False

    def __aiter__(self) -> "UpstreamAnswer":
        return self

    async def __anext__(self) -> Piece:
        if self._done:
            raise StopAsyncIteration
        with trio.move_on_after(self._token_seconds):
            while self._finish is None:
                event = await self._next_event()
                if (piece := await self._take(event)) is not None:
                    return piece
            return await self._last()
        raise EngineUnavailable(f"the upstream gave no token for {self._token_seconds:g} s")

    async def aclose(self) -> None:
        """Hang up: the upstream stops generating for a client that has gone."""
        self._done = True
        await self._events.aclose()

    async def _next_event(self) -> Event:
        data = await self._events.next()
        if data is None or data == DONE:
            raise EngineCrashed("the upstream's answer ended before its last piece")
        event = self._dialect.read(data)
        if event.failed is not None:
            raise EngineError(f"the upstream failed within an answer: {event.failed}")
        return event

    async def _take(self, event: Event) -> Piece | None:
        """The piece that an event makes, None where it makes none yet."""
        self._finish = event.finish
        if event.total is not None and event.ids is None:
            self._usage = event.total
        self._bytes += len(event.text.encode())
        if self._bytes > (self._max_tokens + 8) * _BYTES_PER_TOKEN:
            raise AnswerInvalid(f"the upstream sent {self._bytes} bytes where {self._max_tokens} T were asked for")
        if event.calls:
            self._bytes += sum(len(call.arguments.encode()) for call in event.calls)
        ids = await self._ids(event, event.text + "".join(call.name + call.arguments for call in event.calls))
        top = self._top
        details = () if top is None else tuple(replace(one, top=one.top[:top]) for one in event.details)
        if not event.text and not ids and not event.calls:
            return None
        return Piece(event.text, ids, details=details, calls=event.calls)

    async def _ids(self, event: Event, said: str) -> tuple[int, ...]:
        """T of what an event ``said``, in text or in calls."""
        if event.ids is None or self._by_text:
            if not said:
                return ()
            self._by_text = True
            return self._clamp(await self._counter.add(said))
        ids = await self._completed(event, event.ids)
        if not said:
            self._waiting += ids
            return ()
        ids, self._waiting = self._waiting + ids, ()
        if self._given + len(ids) > self._max_tokens:
            raise AnswerInvalid(f"the upstream gave more than the {self._max_tokens} T asked for")
        self._given += len(ids)
        return ids

    async def _completed(self, event: Event, ids: tuple[int, ...]) -> tuple[int, ...]:
        """An event's ids with those that the stream left out: some servers name none that completes no character."""
        if event.total is None:
            return ids
        missing, self._seen = event.total - self._seen - len(ids), event.total
        if missing <= 0 or not event.text:
            return ids
        found = tuple(await self._tokenize(event.text))
        return found if len(ids) <= len(found) <= len(ids) + missing else ids

    def _clamp(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Count by text, and charge for no more than was asked for."""
        self._counted += len(ids)
        if self._counted > SURPLUS * self._max_tokens + 16:
            raise AnswerInvalid(f"the upstream's text has {self._counted} T where {self._max_tokens} were asked for")
        ids = ids[: self._max_tokens - self._given]
        self._given += len(ids)
        return ids

    async def _last(self) -> Piece:
        """The end: what still waits to be counted, and whether the server's own count agrees."""
        self._done = True
        ids: tuple[int, ...] = ()
        if self._by_text:
            await self._hear_usage()
            ids = self._clamp(await self._counter.rest())
            if self._usage is not None and self._given > self._usage:
                surplus = self._given - self._usage
                ids = ids[: max(0, len(ids) - surplus)]
                self._given = max(self._usage, self._given - surplus)
                _log.warning("text has more T than the upstream generated", by_text=self._counted, usage=self._usage)
        return Piece("", ids, self._finish)

    async def _hear_usage(self) -> None:
        """What follows the end of the text; a server that says no more says nothing wrong."""
        with trio.move_on_after(LAST_WORDS_S):
            while self._usage is None:
                data = await self._events.next()
                if data is None or data == DONE:
                    return
                self._usage = self._dialect.read(data).total
