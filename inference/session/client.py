"""The user's half of the session protocol: ask, check every frame, vouch for what arrived, countersign the receipt.

No task of its own runs here: frames are read and vouchers sent while the caller iterates.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from consensus.params import Terms
from contracts.signing import Key
from contracts.typed_data import Digest
from gossip.errors import MessageError, RemoteError, TransportError
from gossip.messages.base import Signed, encode, sign
from gossip.messages.market import Ticket
from gossip.messages.session import (
    Cosigned,
    DetailFrame,
    PaddedFrame,
    Query,
    ReceiptFrame,
    SessionEnd,
    SessionFrame,
    SessionOpen,
    TokenDetail,
    TokenFrame,
    Voucher,
    VoucherFrame,
    decode_session_frame,
)
from inference.engine import Finish, Piece
from inference.errors import InferenceError, SessionError
from inference.metering import compute_delivered
from inference.session.delivery import Delivery
from inference.session.padding import unpad
from inference.session.query import QueryBody, encode_body
from inference.session.stream import Code, SessionStream
from inference.vocabulary import TextCheck, Vocabulary

__all__ = ["ClientSession", "Code", "Pieces", "QueryBody", "Recount", "SessionOutcome", "open_session"]

FRAME_SECONDS = 60.0
"""How long a user waits for the next frame, the first one with its prompt included."""

RECOUNT_SECONDS = 10.0
"""How long a user's own count of an answer may take."""

_FRAME_BYTES = 64 << 10
_LEAVE_SECONDS = 2.0
_CONFIRM_SECONDS = 5.0
_log = structlog.get_logger(__name__)

Recount = Callable[[str], Awaitable[int]]
"""T of a text by the model's registered tokenizer, for a user who has it."""


@dataclass(frozen=True, slots=True)
class SessionOutcome:
    """What a session came to, as the user saw it: the ground for its report (S30)."""

    ticket_id: Digest
    tokens: int
    """T delivered: the least of the user's count, the provider's, and TokenMax."""
    prompt_tokens: int
    first_ms: int
    """ms from sending the query to the first T; 0 where none came."""
    last_ms: int
    finish: Finish | None
    """None where the session did not reach its end."""
    receipt: Cosigned | None
    voucher: Signed[Voucher] | None
    """The highest voucher signed; it covers every T received, also when it could no longer be sent."""
    text: str
    interrupted: str | None
    """The :class:`Code` that ended the session early; None after a regular end."""
    recounted: bool = False
    """Whether the user counted T itself."""


class ClientSession:
    """One session, made by :func:`open_session`; iterate over :meth:`pieces`, then read :attr:`outcome`."""

    def __init__(  # noqa: PLR0917  the order of open_session, which alone calls it
        self,
        stream: SessionStream,
        ticket: Signed[Ticket],
        body: QueryBody,
        session_key: Key,
        terms: Terms,
        clock: Callable[[], int],
        recount: Recount | None,
        vocabulary: Vocabulary | None,
    ) -> None:
        self._stream = stream
        self._ticket = ticket
        self._body = encode_body(body)
        self._is_padded = body.padded
        self._waiting: tuple[TokenDetail, ...] = ()
        """Details whose T has not come yet."""
        self._key = session_key
        self._domain = terms.domain
        self._clock = clock
        self._recount = recount
        self._check = None if vocabulary is None else TextCheck(vocabulary)
        self._voucher_step = max(1, terms.params.voucher_window // 4)
        self._deadline = trio.current_time() + terms.params.session_max_ms / 1000
        token_limit = body.token_limit(ticket.payload.token_max)
        self._delivery = Delivery(
            ticket,
            self._body,
            token_limit,
            session_key,
            terms.domain,
            top=body.logprobs,
            may_call=body.tools is not None,
        )
        self._recounted: int | None = None
        self._receipt: Cosigned | None = None
        self._finish: Finish | None = None
        self._interrupted: str | None = None

    @property
    def outcome(self) -> SessionOutcome:
        """The state so far; final once the iteration has ended, early or not."""
        meter = self._delivery.meter
        counted = meter.tokens if self._recounted is None else self._recounted
        return SessionOutcome(
            ticket_id=self._delivery.ticket_id,
            tokens=compute_delivered(counted, meter.tokens, self._ticket.payload.token_max),
            prompt_tokens=0 if self._receipt is None else self._receipt.receipt.prompt_tokens,
            first_ms=meter.first_ms,
            last_ms=meter.last_ms,
            finish=self._finish,
            receipt=self._receipt,
            voucher=self._delivery.voucher,
            text=self._delivery.text,
            interrupted=self._interrupted,
            recounted=self._recounted is not None,
        )

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The T received so far: what an audit scores."""
        return self._delivery.token_ids

    @property
    def body(self) -> bytes:
        """The query's body as it was signed; the receipt's transcript begins with it."""
        return self._body

    def pieces(self) -> "Pieces":
        """The answer as it arrives, from where an earlier iteration stopped.

        Raises :class:`SessionError` when the answer ends early; see :attr:`outcome` for what came before.
        """
        return Pieces(self._next_piece)

    async def start(self) -> None:
        """Send ticket and query; the measured time starts here."""
        query = sign(Query(self._delivery.ticket_id, self._key.address, self._body), self._key, self._domain)
        opening = encode(SessionOpen(self._ticket, query))
        self._delivery.begin(self._clock())
        try:
            await self._stream.send(opening)
        except TransportError as error:
            raise self._interrupt(Code.PROVIDER_VANISHED, str(error)) from error

    async def leave(self) -> None:
        """Close the stream; before the end, vouch for what was received and say that the session is cancelled.

        After the end, hand over the receipt: whoever reads the answer need not wait for that.
        """
        with trio.CancelScope(shield=True):
            if not self._is_over():
                await self._break_off(Code.CANCELLED, "the user left")
            if self._receipt is not None:
                await self._send_receipt(self._receipt)
            await self._stream.aclose()

    def _is_over(self) -> bool:
        return self._finish is not None or self._interrupted is not None

    async def _next_piece(self) -> Piece | None:
        """The next piece that has text, None at the end."""
        while not self._is_over():
            try:
                piece = await self._take_frame()
            except RemoteError as error:
                raise self._interrupt(error.code, error.detail) from error
            except TransportError as error:
                raise self._interrupt(Code.PROVIDER_VANISHED, str(error)) from error
            except MessageError as error:
                raise await self._break_off(Code.PROTOCOL_ERROR, str(error)) from error
            except SessionError as error:
                raise await self._break_off(error.code, error.detail) from error
            if piece is None:
                self._recounted = await self._count_again()
            if piece is not None and (piece.text or piece.calls):
                return piece
        return None

    def _check_text(self, frame: TokenFrame) -> None:
        """Raise :class:`SessionError` where the ids say other text than came with them."""
        if self._check is not None and (reason := self._check.take(frame.text, frame.token_ids)) is not None:
            raise SessionError(Code.PROTOCOL_ERROR, reason)

    async def _count_again(self) -> int | None:
        """The user's own count of the answer; None where it has no means to, and the provider's counts."""
        if self._recount is None:
            return None if self._check is None else self._check.count()
        try:
            with trio.move_on_after(RECOUNT_SECONDS):
                return await self._recount(self._delivery.text)
        except InferenceError as error:
            _log.info("answer not recounted", peer=self._stream.remote_peer, error=str(error))
        return None

    async def _take_frame(self) -> Piece | None:
        """Process one frame; its piece, None for the last."""
        frame = await self._receive_frame()
        match frame:
            case TokenFrame():
                now_ms = self._clock()
                self._check_text(frame)
                self._delivery.take_tokens(frame, now_ms)
                if self._delivery.unvouched >= self._voucher_step:
                    await self._send_voucher()
                details, self._waiting = (self._waiting, ()) if frame.text else ((), self._waiting)
                return Piece(frame.text, frame.token_ids, details=details)
            case DetailFrame():
                self._delivery.take_details(frame)
                self._waiting += frame.tokens
                return Piece("", (), calls=frame.calls)
            case SessionEnd():
                self._receipt, self._finish = self._delivery.countersign(frame)
                return None
            case _:
                raise SessionError(Code.PROTOCOL_ERROR, f"{type(frame).__name__} is not the provider's to send")

    async def _receive_frame(self) -> SessionFrame:
        """The next frame that says something, within the time for one."""
        started = trio.current_time()
        while True:
            now = trio.current_time()
            remaining = min(self._deadline - now, started + FRAME_SECONDS - now)
            if self._deadline <= now:
                raise SessionError(Code.SESSION_TIMEOUT, "the session took too long")
            data = await self._stream.receive(limit=_FRAME_BYTES, timeout=max(0.0, remaining))
            if data is None:
                raise SessionError(Code.PROVIDER_VANISHED, "the provider ended without a receipt")
            frame = decode_session_frame(data)
            if isinstance(frame, PaddedFrame) is not self._is_padded:
                what = "padded, though it was not to be" if not self._is_padded else "not padded, though it was to be"
                raise SessionError(Code.PROTOCOL_ERROR, f"a frame that is {what}")
            if not isinstance(frame, PaddedFrame):
                return frame
            if inner := unpad(frame):
                return decode_session_frame(inner)

    async def _send_receipt(self, receipt: Cosigned) -> None:
        """Send the last voucher and the receipt, and wait until the provider has them.

        The answer is complete whether or not sending succeeds; the user's report carries the same counts.
        """
        with trio.move_on_after(_CONFIRM_SECONDS) as deadline:
            try:
                if self._delivery.unvouched:
                    await self._send_voucher()
                await self._stream.send(encode(ReceiptFrame(receipt)))
                await self._stream.end()
                await self._stream.receive(limit=_FRAME_BYTES, timeout=_CONFIRM_SECONDS)
            except (TransportError, MessageError) as error:
                _log.info("provider did not confirm the receipt", peer=self._stream.remote_peer, error=str(error))
        if deadline.cancelled_caught:
            _log.info("provider did not confirm the receipt in time", peer=self._stream.remote_peer)

    async def _send_voucher(self) -> None:
        """Vouch for all that was received. Where that cannot be sent, reading on tells why."""
        try:
            await self._stream.send(encode(VoucherFrame(self._delivery.vouch())))
        except TransportError as error:
            _log.debug("voucher not sent", peer=self._stream.remote_peer, error=str(error))

    def _interrupt(self, code: str, detail: str) -> SessionError:
        """Record why the session ended early; vouch for what came before, for whoever files it."""
        self._interrupted = str(code)
        if self._delivery.unvouched:
            self._delivery.vouch()
        return SessionError(str(code), detail)

    async def _break_off(self, code: str, detail: str) -> SessionError:
        """End the session from this side: the last voucher and the reason, to a provider that may be gone."""
        with trio.move_on_after(_LEAVE_SECONDS):
            if self._delivery.unvouched:
                await self._send_voucher()
            try:
                await self._stream.fail(str(code), detail[:500])
            except TransportError as error:
                _log.debug("provider did not hear the end", peer=self._stream.remote_peer, error=str(error))
        return self._interrupt(code, detail)


class Pieces:
    """An iterator of :class:`~inference.engine.Piece`, not a generator: it may be left at any point."""

    def __init__(self, next_piece: Callable[[], Awaitable[Piece | None]]) -> None:
        self._next_piece = next_piece

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> Piece:
        piece = await self._next_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Nothing to close: leaving the session does that. There for ``contextlib.aclosing``."""


@asynccontextmanager
async def open_session(  # noqa: PLR0917  in the order of the protocol: over what, by what right, what, as whom
    stream: SessionStream,
    ticket: Signed[Ticket],
    body: QueryBody,
    session_key: Key,
    terms: Terms,
    clock: Callable[[], int],
    *,
    recount: Recount | None = None,
    vocabulary: Vocabulary | None = None,
) -> AsyncIterator[ClientSession]:
    """Ask ``body`` under ``ticket`` over ``stream``, which the session owns from now on.

    ``clock`` gives ms of any steady origin. The answer's T are the user's own where it has a tokenizer to ``recount``
    with, or the model's ``vocabulary``, against which every frame is checked too. Leaving before the end cancels at
    the provider. Raises :class:`SessionError`.
    """
    session = ClientSession(stream, ticket, body, session_key, terms, clock, recount, vocabulary)
    try:
        await session.start()
        yield session
    finally:
        await session.leave()
