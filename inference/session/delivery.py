"""What a user has received in one session, every frame checked against all before it. Pure: ms come in."""

from contracts.errors import SignatureInvalid
from contracts.signing import Key, recover
from contracts.typed_data import Digest, Domain, digest
from gossip.messages.base import Signed, sign
from gossip.messages.market import Ticket
from gossip.messages.session import Cosigned, DetailFrame, Receipt, SessionEnd, TokenFrame, Voucher
from inference.engine import Finish
from inference.errors import SessionError
from inference.metering import TOKEN_ID_LIMIT, TokenMeter, Transcript
from inference.session.stream import Code

_TEXT_SLACK = 8
"""T that may be ahead of the text's bytes: some tokenizers begin with a T that shows nothing."""

_BYTES_PER_TOKEN = 1024
"""Text of more bytes a T than any vocabulary has is a flood."""

_CALL_BYTES = 64
"""Bytes that a call may have taken beside its name and arguments: marks, keys, white space."""

_DETAILS_AHEAD = 64
"""Details that may be ahead of the T that they are about."""

_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class Delivery:
    """The user's own count, transcript and vouchers. A refused frame raises and changes nothing."""

    def __init__(
        self,
        ticket: Signed[Ticket],
        body: bytes,
        token_limit: int,
        key: Key,
        domain: Domain,
        *,
        top: int | None = None,
        may_call: bool = False,
    ) -> None:
        self.ticket_id: Digest = ticket.id(domain)
        self.meter = TokenMeter(0)
        self.voucher: Signed[Voucher] | None = None
        self._ticket = ticket.payload
        self._token_limit = token_limit
        self._key = key
        self._domain = domain
        self._transcript = Transcript(body)
        self._token_ids: list[int] = []
        self._text: list[str] = []
        self._text_bytes = 0
        self._top = top
        self._may_call = may_call
        self._details = 0
        self._calls: set[int] = set()
        self._call_bytes = 0

    def begin(self, now_ms: int) -> None:
        """The query is about to be sent."""
        self.meter = TokenMeter(now_ms)

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._text)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Every T so far."""
        return tuple(self._token_ids)

    @property
    def unvouched(self) -> int:
        """T received since the last voucher."""
        return self.meter.tokens - (0 if self.voucher is None else self.voucher.payload.tokens)

    def vouch(self) -> Signed[Voucher]:
        """Sign a voucher for all T received."""
        payload = Voucher(self.ticket_id, self._key.address, self.meter.tokens, self._transcript.digest())
        self.voucher = sign(payload, self._key, self._domain)
        return self.voucher

    def take_tokens(self, frame: TokenFrame, now_ms: int) -> None:
        """Count a token frame. Raises :class:`SessionError` (``protocol_error``) where it cannot be true."""
        tokens = self.meter.tokens + len(frame.token_ids)
        text_bytes = self._text_bytes + len(frame.text.encode())
        if not frame.text and not frame.token_ids:
            raise _untrue("a token frame with nothing in it")
        if frame.tokens != tokens:
            raise _untrue(f"the provider counts {frame.tokens} T, its token ids are {tokens}")
        if tokens > self._token_limit:
            raise _untrue(f"{tokens} T where {self._token_limit} were asked for")
        if wrong := [token for token in frame.token_ids if not 0 <= token < TOKEN_ID_LIMIT]:
            raise _untrue(f"{wrong[0]} is no token id")
        if tokens > text_bytes + self._call_bytes + _TEXT_SLACK:
            raise _untrue(f"{tokens} T for {text_bytes} bytes of text and {self._call_bytes} of calls")
        if text_bytes > (tokens + _TEXT_SLACK) * _BYTES_PER_TOKEN:
            raise _untrue(f"{text_bytes} bytes of text for {tokens} T")
        self._transcript.add(frame.token_ids)
        self._token_ids += frame.token_ids
        self.meter = self.meter.after(now_ms, len(frame.token_ids))
        self._text.append(frame.text)
        self._text_bytes = text_bytes

    def take_details(self, frame: DetailFrame) -> None:
        """Look at what comes beside the text. Raises :class:`SessionError` for what was not asked for, or too much."""
        if frame.tokens and self._top is None:
            raise _untrue("logarithms that were not asked for")
        if wide := [one for one in frame.tokens if len(one.top) > (self._top or 0)]:
            raise _untrue(f"{len(wide[0].top)} alternatives of a T where {self._top} were asked for")
        if self._details + len(frame.tokens) > self.meter.tokens + _DETAILS_AHEAD:
            raise _untrue(f"details of {self._details + len(frame.tokens)} T where {self.meter.tokens} arrived")
        if frame.calls and not self._may_call:
            raise _untrue("a tool call where there are no tools")
        started = self._calls | {delta.index for delta in frame.calls}
        said = sum(len(delta.name.encode()) + len(delta.arguments.encode()) for delta in frame.calls)
        call_bytes = self._call_bytes + said + _CALL_BYTES * (len(started) - len(self._calls))
        if call_bytes > (self._token_limit + _TEXT_SLACK) * _BYTES_PER_TOKEN:
            raise _untrue(f"{call_bytes} bytes of calls where {self._token_limit} T were asked for")
        self._details += len(frame.tokens)
        self._calls = started
        self._call_bytes = call_bytes

    def countersign(self, end: SessionEnd) -> tuple[Cosigned, Finish]:
        """Check the provider's receipt against what arrived and sign it. Raises :class:`SessionError`."""
        receipt = end.receipt
        finish = _FINISHES.get(receipt.finish)
        if finish is None or (finish == "tool_calls" and not self._may_call):
            raise _untrue(f"a receipt that finishes with {receipt.finish!r}")
        if receipt.ticket_id != self.ticket_id:
            raise _untrue(f"a receipt for ticket {receipt.ticket_id.hex()}")
        if receipt.tokens != self.meter.tokens:
            raise _untrue(f"a receipt for {receipt.tokens} T where {self.meter.tokens} arrived")
        if receipt.transcript != self._transcript.digest():
            raise _untrue("a receipt for another transcript")
        if receipt.prompt_tokens > self._ticket.prompt_bound:
            raise _untrue(f"a receipt for a prompt of {receipt.prompt_tokens} T of {self._ticket.prompt_bound}")
        self._check_provider(receipt, end)
        return Cosigned(receipt, self._key.sign(receipt, self._domain), end.provider_signature), finish

    def _check_provider(self, receipt: Receipt, end: SessionEnd) -> None:
        try:
            signer = recover(digest(self._domain, receipt), end.provider_signature)
        except SignatureInvalid as error:
            raise _untrue(f"the receipt's signature: {error}") from error
        if signer != self._ticket.bid.payload.provider:
            raise _untrue(f"the receipt is signed by 0x{signer.hex()}, not by the ticket's provider")


def _untrue(detail: str) -> SessionError:
    return SessionError(Code.PROTOCOL_ERROR, detail)
