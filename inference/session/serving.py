"""One admitted session at the provider: three tasks — engine in, tokens out, vouchers in — under one deadline."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from consensus.params import Terms
from contracts.signing import Key
from contracts.typed_data import Digest
from gossip.errors import MessageError, TransportError
from gossip.messages.base import Signed, encode
from gossip.messages.market import Ticket
from gossip.messages.session import (
    Cosigned,
    DetailFrame,
    Receipt,
    ReceiptFrame,
    SessionEnd,
    TokenFrame,
    Voucher,
    VoucherFrame,
    decode_session_frame,
)
from inference.engine import Finish, Generation, Piece, join_pieces
from inference.errors import EngineError, InferenceError, SessionError
from inference.metering import Transcript
from inference.session.pace import READ_AHEAD_S, AnswerPace, FramePace
from inference.session.padding import Ticks, pad
from inference.session.scoring import AnswerSource
from inference.session.stream import Code, SessionStream

VOUCHER_SECONDS = 10.0
"""How long a provider waits for the next voucher once the window is full."""

RECEIPT_SECONDS = 10.0
"""How long a provider waits for the countersigned receipt; without one the last voucher counts."""

DRAIN_SECONDS = 1.0
"""How long a provider listens for a last voucher once it can send no more."""

_USER_FRAME_BYTES = 8192
_PIECES_AHEAD = 64
_DETAILS = 16
"""Details, and parts of calls, that one frame holds."""


@dataclass(frozen=True, slots=True)
class Order:
    """A ticket and its query, checked."""

    ticket: Signed[Ticket]
    ticket_id: Digest
    body: bytes
    prompt_tokens: int
    generation: Generation
    padded: bool = False


class Serving:
    """The streaming part of a session. :meth:`run` ends when the receipt is in, or raises why there is none."""

    def __init__(
        self,
        stream: SessionStream,
        order: Order,
        engine: AnswerSource,
        key: Key,
        terms: Terms,
        *,
        pace: FramePace,
        on_voucher: Callable[[Signed[Ticket], Signed[Voucher]], Awaitable[None]],
        on_receipt: Callable[[Signed[Ticket], Cosigned], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._order = order
        self._engine = engine
        self._key = key
        self._terms = terms
        self._on_voucher = on_voucher
        self._on_receipt = on_receipt
        self._window = max(1, terms.params.voucher_window)
        self._ticks = Ticks() if order.padded else None
        self._pace = AnswerPace(pace)
        self._batch = max(1, self._window // (2 if order.padded else 4))
        """T in a frame at most, but where pacing has held them up."""
        self._transcript = Transcript(order.body)
        self._token_ids: list[int] = []
        self._sent = 0
        self._vouched = 0
        self._vouched_for = self._transcript.copy()
        """The transcript of the T that have been vouched for."""
        self._heard = trio.Event()
        self._receipt: Receipt | None = None
        self._user_done = trio.Event()
        self._failure: InferenceError | MessageError | TransportError | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The T sent so far."""
        return tuple(self._token_ids)

    async def run(self) -> None:
        """Serve. Raises what ended the session early: :class:`SessionError`, engine, message or transport errors."""
        session_s = self._terms.params.session_max_ms / 1000
        with trio.move_on_after(session_s) as deadline:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._guard, nursery.cancel_scope, lambda: self._listen(session_s))
                await self._talk()
                if isinstance(self._failure, TransportError):
                    # the user may have vouched before it left: hear that out
                    with trio.move_on_after(DRAIN_SECONDS):
                        await self._user_done.wait()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        if deadline.cancelled_caught:
            raise SessionError(Code.SESSION_TIMEOUT, f"a session lasts at most {session_s:g} s")

    async def _talk(self) -> None:
        """Engine in, tokens and receipt out."""
        pieces_in, pieces_out = trio.open_memory_channel[Piece](_PIECES_AHEAD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, nursery.cancel_scope, pieces_in)
            await self._guard(nursery.cancel_scope, lambda: self._answer(pieces_out))
            nursery.cancel_scope.cancel()

    async def _guard(self, scope: trio.CancelScope, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the session; the first to fail as can be expected ends the others and says why."""
        try:
            await part()
        except (InferenceError, MessageError, TransportError) as error:
            if self._failure is None:
                self._failure = error
            scope.cancel()

    async def _pump(self, scope: trio.CancelScope, pieces: trio.MemorySendChannel[Piece]) -> None:
        """Engine to channel. Why the engine failed is noted before the channel's end can be: that says less."""
        async with pieces:
            await self._guard(scope, lambda: self._generate(pieces))

    async def _generate(self, pieces: trio.MemorySendChannel[Piece]) -> None:
        """Take the answer's pieces: the engine computes on while a frame is being sent."""
        async with self._engine.generate(self._order.generation) as answer:
            try:
                async for piece in answer:
                    try:
                        pieces.send_nowait(piece)  # taking the next is a checkpoint
                    except trio.WouldBlock:
                        await pieces.send(piece)
                    if trio.current_time() < (begin := self._pace.due - READ_AHEAD_S):
                        await trio.sleep_until(begin)
            except trio.BrokenResourceError:
                return  # the answer ended early; its own task says why

    async def _answer(self, pieces: trio.MemoryReceiveChannel[Piece]) -> None:
        """Channel to user, then the receipt."""
        finish: Finish | None = None
        try:
            async with pieces:
                while finish is None:
                    piece = await self._take(pieces)
                    if piece is not None:
                        finish = piece.finish
                        await self._send_details(piece)
                        await self._send_tokens(piece)
        finally:
            self._pace.end()
        await self._send_receipt(finish)

    async def _take(self, pieces: trio.MemoryReceiveChannel[Piece]) -> Piece | None:
        """The next of the answer; in a padded session what the tick finds, and a frame also where that is nothing."""
        if self._ticks is None:
            return await self._take_paced(pieces)
        piece = await self._ticks.take(pieces, self._batch)
        if piece is None:
            await self._stream.send(pad())
        return piece

    async def _take_paced(self, pieces: trio.MemoryReceiveChannel[Piece]) -> Piece:
        """The next of the answer; where the process sends enough frames already, what has come when one is due."""
        is_held = trio.current_time() < self._pace.due
        if is_held:
            await trio.sleep_until(self._pace.due)
        piece = await _receive(pieces)
        # what is joined goes in one frame: with more T than there is room for, it would wait for the next voucher
        most = self._room if is_held else min(self._batch, self._room)
        return _joined(piece, pieces, most or self._batch)

    @property
    def _room(self) -> int:
        """T that the voucher window has room for."""
        return self._window - (self._sent - self._vouched)

    async def _send(self, frame: DetailFrame | TokenFrame | SessionEnd) -> None:
        data = encode(frame)
        await self._stream.send(data if self._ticks is None else pad(data))

    async def _send_details(self, piece: Piece) -> None:
        """What was asked for beside text: before the T that it is about, which is the first of it that is paid for."""
        tokens, calls = piece.details, piece.calls
        while tokens or calls:
            await self._send(DetailFrame(tokens[:_DETAILS], calls[:_DETAILS]))
            tokens, calls = tokens[_DETAILS:], calls[_DETAILS:]

    async def _send_tokens(self, piece: Piece) -> None:
        """Frames of at most a batch of T, or of what there is room for, once the voucher window has room for it."""
        if self._sent + len(piece.token_ids) > self._order.generation.max_tokens:
            raise EngineError(f"the engine gave more than the {self._order.generation.max_tokens} T asked for")
        text, left = piece.text, piece.token_ids
        while text or left:
            most = self._batch if self._ticks is not None else max(self._batch, self._room)
            ids, left = left[:most], left[most:]
            await self._wait_for_window(len(ids))
            self._pace.sent(trio.current_time())
            self._sent += len(ids)
            self._token_ids += ids
            self._transcript.add(ids)
            await self._send(TokenFrame(text, ids, self._sent))
            text = ""

    async def _wait_for_window(self, tokens: int) -> None:
        with trio.move_on_after(VOUCHER_SECONDS) as deadline:
            while self._sent + tokens - self._vouched > self._window:
                self._heard = trio.Event()
                await self._heard.wait()
        if deadline.cancelled_caught:
            detail = f"{self._sent} T sent, {self._vouched} vouched for, after {VOUCHER_SECONDS:g} s"
            raise SessionError(Code.VOUCHER_TIMEOUT, detail)

    async def _send_receipt(self, finish: Finish) -> None:
        order = self._order
        receipt = Receipt(order.ticket_id, self._sent, order.prompt_tokens, self._transcript.digest(), finish)
        self._receipt = receipt
        signature = self._key.sign(receipt, self._terms.domain)
        await self._send(SessionEnd(receipt, signature))
        with trio.move_on_after(RECEIPT_SECONDS):
            await self._user_done.wait()
        await self._stream.end()

    async def _listen(self, session_s: float) -> None:
        """Vouchers and the receipt, until the user has ended."""
        while not self._user_done.is_set():
            data = await self._stream.receive(limit=_USER_FRAME_BYTES, timeout=session_s)
            if data is None:
                if self._receipt is None:
                    raise SessionError(Code.CANCELLED, "the user ended before the answer did")
                self._user_done.set()
                return
            match decode_session_frame(data):
                case VoucherFrame(voucher):
                    await self._take_voucher(voucher)
                case ReceiptFrame(receipt):
                    await self._take_receipt(receipt)
                    self._user_done.set()
                case frame:
                    raise SessionError(Code.PROTOCOL_ERROR, f"{type(frame).__name__} is not the user's to send")

    async def _take_voucher(self, voucher: Signed[Voucher]) -> None:
        payload, ticket = voucher.payload, self._order.ticket
        if payload.ticket_id != self._order.ticket_id or payload.session_key != ticket.payload.session_key:
            raise SessionError(Code.PROTOCOL_ERROR, "a voucher of another session")
        if not self._vouched < payload.tokens <= self._sent:
            detail = f"a voucher for {payload.tokens} T after one for {self._vouched}, of {self._sent} sent"
            raise SessionError(Code.PROTOCOL_ERROR, detail)
        vouched_for = self._vouched_for.copy()
        vouched_for.add(tuple(self._token_ids[self._vouched : payload.tokens]))
        if payload.transcript != vouched_for.digest():
            raise SessionError(Code.PROTOCOL_ERROR, f"a voucher for {payload.tokens} T of another transcript")
        voucher.signer(self._terms.domain)
        with trio.CancelScope(shield=True):  # what is owed is kept even if the session ends meanwhile
            await self._on_voucher(ticket, voucher)
        self._vouched, self._vouched_for = payload.tokens, vouched_for
        self._heard.set()

    async def _take_receipt(self, receipt: Cosigned) -> None:
        if self._receipt is None or receipt.receipt != self._receipt:
            raise SessionError(Code.PROTOCOL_ERROR, "a receipt for something else than was delivered")
        receipt.check(self._order.ticket.payload, self._terms.domain)
        with trio.CancelScope(shield=True):
            await self._on_receipt(self._order.ticket, receipt)


async def _receive(pieces: trio.MemoryReceiveChannel[Piece]) -> Piece:
    try:
        return await pieces.receive()
    except trio.EndOfChannel as error:
        raise EngineError("the engine's answer has no end") from error


def _joined(piece: Piece, pieces: trio.MemoryReceiveChannel[Piece], batch: int) -> Piece:
    """``piece`` and those that wait already, up to about ``batch`` T."""
    try:
        while piece.finish is None and len(piece.token_ids) < batch:
            piece = join_pieces(piece, pieces.receive_nowait())
    except (trio.WouldBlock, trio.EndOfChannel):
        return piece  # an end without a finish is told when more is asked for
    return piece
