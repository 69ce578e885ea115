"""The provider's half of the session protocol: admit a ticket, serve its query, collect vouchers and the receipt."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from consensus.params import Terms
from contracts.signing import Key
from contracts.typed_data import Digest
from gossip.errors import MessageError, TransportError
from gossip.messages.base import Signed
from gossip.messages.market import Ticket
from gossip.messages.session import (
    MAX_QUERY_BYTES,
    Cosigned,
    SessionOpen,
    Voucher,
    decode_session_frame,
)
from inference.engine import Engine, Featured, Generation, Scorer
from inference.errors import (
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineMisconfigured,
    EngineUnavailable,
    PromptRefused,
    PromptTooLong,
    RequestRefused,
    SessionError,
)
from inference.session.admission import check_query, check_ticket
from inference.session.pace import FramePace
from inference.session.query import QueryBody, decode_body
from inference.session.scoring import AnswerSource, SecondOpinion
from inference.session.serving import Order, Serving
from inference.session.stream import Code, SessionStream

OnVoucher = Callable[[Signed[Ticket], Signed[Voucher]], Awaitable[None]]
"""Keeps a checked voucher durably; only then do more T flow."""

OnReceipt = Callable[[Signed[Ticket], Cosigned], Awaitable[None]]
"""Keeps a checked receipt durably."""

AcceptTicket = Callable[[Signed[Ticket]], Awaitable[None]]
"""Marks a ticket used, durably and at once. Raises :class:`SessionError` where it was, or its router is no member."""

LetIn = Callable[[Signed[Ticket]], None]
"""Called once a ticket and its query are checked, before any work for them. Raises :class:`SessionError` to refuse."""

OnServed = Callable[[Digest, bytes, tuple[int, ...]], None]
"""Told of every session that has ended: ticket id, query body and the T sent, for whoever asks for a second opinion."""

_OPEN_SECONDS = 10.0
_FAIL_SECONDS = 2.0
_log = structlog.get_logger(__name__)


class SessionServer:
    """Serves sessions, each on a stream of its own, as many at once as the bid and the engine have slots."""

    def __init__(
        self,
        engine_for: Callable[[Digest], Engine | None],
        key: Key,
        terms: Terms,
        *,
        on_voucher: OnVoucher,
        on_receipt: OnReceipt,
        now_ms: Callable[[], int],
        accept_ticket: AcceptTicket,
        on_served: OnServed | None = None,
        pace: FramePace | None = None,
    ) -> None:
        self._engine_for = engine_for
        self._key = key
        self._terms = terms
        self._on_voucher = on_voucher
        self._on_receipt = on_receipt
        self._now_ms = now_ms
        self._accept_ticket = accept_ticket
        self._on_served = on_served
        self._pace = FramePace() if pace is None else pace
        self._running: Counter[Digest] = Counter()

    def running(self, model_id: Digest) -> int:
        """Sessions of ``model_id`` being served now."""
        return self._running[model_id]

    async def serve(self, stream: SessionStream, let_in: LetIn | None = None) -> None:
        """Serve one session to its end and close the stream; ``let_in`` gives it its place.

        A refusal, a user who leaves and a failing engine end quietly, with an ERROR frame where the user still
        listens. Raises :class:`~gossip.errors.MessageError` for bytes that no honest peer sends, so that the caller
        scores it; anything else that is raised is a bug or a failing store.
        """
        try:
            await self._serve(stream, let_in)
        except SessionError as error:
            _log.info("session ended", peer=stream.remote_peer, code=str(error.code), detail=error.detail)
            await _fail(stream, error.code, error.detail)
        except PromptTooLong as error:
            await _fail(stream, Code.PROMPT_OVER_LIMIT, str(error))
        except (PromptRefused, RequestRefused) as error:
            await _fail(stream, Code.BAD_QUERY, str(error))
        except EngineError as error:
            _log.warning("engine failed in a session", peer=stream.remote_peer, error=str(error))
            await _fail(stream, *_engine_failure(error))
        except TransportError as error:
            _log.info("user left a session", peer=stream.remote_peer, error=str(error))
        except MessageError as error:
            await _fail(stream, Code.PROTOCOL_ERROR, str(error))
            raise
        except Exception:
            await _fail(stream, Code.INTERNAL, "the provider failed")
            raise
        finally:
            await stream.aclose()

    async def _serve(self, stream: SessionStream, let_in: LetIn | None) -> None:
        opened = await _receive_open(stream)
        if opened is None:
            return
        ticket, domain = opened.ticket, self._terms.domain
        check_ticket(ticket, self._key.address, domain, self._now_ms())
        check_query(opened.query, ticket, domain)
        body = decode_body(opened.query.payload.body, ticket.payload.prompt_bound)
        engine = self._engine_for(ticket.payload.bid.payload.model_id)
        if engine is None:
            raise SessionError(Code.ENGINE_FAILED, "the provider does not run this model now")
        if let_in is not None:
            let_in(ticket)
        async with self._slot(ticket, engine):
            generation = body.generation(ticket.payload.token_max)
            await _check_features(engine, generation)
            prompt_tokens = await engine.count_prompt(generation.messages, generation.tools)
            if generation.prefix:
                prompt_tokens += await engine.count_text(generation.prefix)
            if prompt_tokens > ticket.payload.prompt_bound:
                raise PromptTooLong(prompt_tokens, ticket.payload.prompt_bound)
            source = _source(engine, body, ticket.payload.token_max)
            await self._accept_ticket(ticket)
            order = Order(ticket, ticket.id(domain), opened.query.payload.body, prompt_tokens, generation, body.padded)
            serving = Serving(
                stream,
                order,
                source,
                self._key,
                self._terms,
                pace=self._pace,
                on_voucher=self._on_voucher,
                on_receipt=self._on_receipt,
            )
            try:
                await serving.run()
            finally:
                if self._on_served is not None:
                    self._on_served(order.ticket_id, order.body, serving.token_ids)

    @asynccontextmanager
    async def _slot(self, ticket: Signed[Ticket], engine: Engine) -> AsyncIterator[None]:
        """One of the slots that the bid and the engine have for a model."""
        bid = ticket.payload.bid.payload
        slots = min(bid.slots, (await engine.health()).slots)
        if self._running[bid.model_id] >= slots:
            raise SessionError(Code.BUSY, f"all {slots} slots are taken")
        self._running[bid.model_id] += 1
        try:
            yield
        finally:
            self._running[bid.model_id] -= 1


async def _check_features(engine: Engine, generation: Generation) -> None:
    """Raise :class:`SessionError` (``unsupported``, naming what) where the engine lacks what the query needs."""
    if not generation.needs:
        return
    has = await engine.features() if isinstance(engine, Featured) else frozenset()
    missing = generation.needs - has
    for feature in sorted(missing - {"tool_choice"} or missing):
        raise SessionError(Code.UNSUPPORTED, f"{feature}: engine {engine.family} has none for this model")


def _source(engine: Engine, body: QueryBody, token_max: int) -> AnswerSource:
    """What answers the query. Raises :class:`SessionError` for scores that cannot be had or were not paid for."""
    if body.score is None:
        return engine
    if len(body.score) > token_max:
        raise SessionError(Code.BAD_QUERY, f"{len(body.score)} T to score, TokenMax is {token_max}")
    if not isinstance(engine, Scorer):
        raise SessionError(Code.BAD_QUERY, f"engine {engine.family} gives no scores")
    return SecondOpinion(engine, body.score)


async def _receive_open(stream: SessionStream) -> SessionOpen | None:
    data = await stream.receive(limit=MAX_QUERY_BYTES + 4096, timeout=_OPEN_SECONDS)
    if data is None:
        return None
    frame = decode_session_frame(data)
    if not isinstance(frame, SessionOpen):
        raise SessionError(Code.PROTOCOL_ERROR, f"a session starts with SessionOpen, not {type(frame).__name__}")
    return frame


def _engine_failure(error: EngineError) -> tuple[Code, str]:
    """What a user is told of its provider's engine: whether to try the next one, and no more."""
    match error:
        case EngineBusy():
            return Code.BUSY, "the provider's engine has no free slot"
        case EngineCrashed():
            return Code.ENGINE_CRASHED, "the provider's engine crashed, perhaps over this very prompt"
        case EngineUnavailable() | EngineMisconfigured():
            return Code.ENGINE_UNAVAILABLE, "the provider's engine is not available"
        case _:
            return Code.ENGINE_FAILED, "the provider's engine failed"


async def _fail(stream: SessionStream, code: str, detail: str) -> None:
    """Tell the user why, if it still listens."""
    with trio.move_on_after(_FAIL_SECONDS):
        try:
            await stream.fail(str(code), detail[:500])
        except TransportError as error:
            _log.debug("user did not hear why its session ended", peer=stream.remote_peer, error=str(error))
