"""The session between user and provider, and what both tell the router afterwards (S29, S30).

Token frames are not signed one by one: the stream is authenticated and encrypted, and the receipt, signed by both
sides, commits to the whole transcript.
"""

from functools import cached_property
from typing import Annotated, ClassVar

import msgspec
from eth_hash.auto import keccak

from contracts.errors import SignatureInvalid
from contracts.signing import recover
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Domain, Signature, digest
from gossip.errors import SignerMismatch
from gossip.messages.base import U64, Payload, Signed, Text, Unit, decode_union, encode
from gossip.messages.market import Rfc, Ticket

MAX_QUERY_BYTES = 1 << 20
"""The largest query body that is read; the ticket's prompt bound is checked before anything is tokenised."""


class Query(Payload, frozen=True):
    """The prompt, for the provider's eyes only. ``body`` is JSON: messages and sampling parameters."""

    SIGNER: ClassVar[str | None] = "session_key"
    MAX_BYTES: ClassVar[int] = MAX_QUERY_BYTES + 512

    ticket_id: Digest
    session_key: Address
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_QUERY_BYTES)]


class Voucher(Payload, frozen=True):
    """A running tab: the user owes for the first ``tokens`` T of the ticket's session. The highest counts."""

    SIGNER: ClassVar[str | None] = "session_key"

    ticket_id: Digest
    session_key: Address
    tokens: U64
    transcript: Digest = ZERO_DIGEST
    """Commits to query body and the first ``tokens`` token ids, as a receipt does to all (S8)."""


class Receipt(Payload, frozen=True):
    """The end of a session, signed by both sides."""

    ticket_id: Digest
    tokens: U64
    prompt_tokens: U64
    transcript: Digest
    """Commits to query body and token ids; see :mod:`inference.metering`."""
    finish: Text
    """``stop``, ``length`` or ``tool_calls``."""


class Cosigned(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A receipt with both signatures."""

    receipt: Receipt
    session_signature: Signature
    provider_signature: Signature

    def check(self, ticket: Ticket, domain: Domain) -> None:
        """Raise :class:`SignerMismatch` unless the ticket's session key and provider both signed."""
        value = digest(domain, self.receipt)
        parties = ((self.session_signature, ticket.session_key), (self.provider_signature, ticket.bid.payload.provider))
        for signature, expected in parties:
            try:
                recovered = recover(value, signature)
            except SignatureInvalid as error:
                raise SignerMismatch("Receipt", error) from error
            if recovered != expected:
                raise SignerMismatch("Receipt", SignatureInvalid("signed by another key", expected, recovered))


class Report(Payload, frozen=True):
    """What the user says of the session (S30): T delivered, ms to the first and last token, Pass or Fail.

    ``unit`` is what one T is (S15, S16): the RFC's, or the report counts nothing.
    """

    SIGNER: ClassVar[str | None] = "session_key"

    ticket_id: Digest
    session_key: Address
    tokens: U64
    first_ms: U64
    """ms from sending the query to the first token received."""
    last_ms: U64
    """ms from sending the query to the last token received."""
    passed: bool
    unit: Unit = Unit.TEXT_TOKEN


class FailMark(Payload, frozen=True):
    """A home router's word on which Fails come from one user, without a word on who that is (S34, S44).

    ``mark`` is the same for all session keys of one user towards one provider on one day, and tells nothing else.
    """

    SIGNER: ClassVar[str | None] = "router"

    ticket_id: Digest
    mark: Digest
    router: Address


class Settlement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, cache_hash=True, dict=True):
    """Everything about one finished session that the committee settles; each part carries its own signature.

    At least one of voucher, receipt and report is present; beside a receipt a voucher says nothing.
    """

    rfc: Signed[Rfc]
    ticket: Signed[Ticket]
    voucher: Signed[Voucher] | None
    receipt: Cosigned | None
    report: Signed[Report] | None
    fail_mark: Signed[FailMark] | None = None
    """Only beside a report of Fail."""

    @cached_property
    def digest(self) -> Digest:
        """keccak of the canonical encoding: names these very bytes, where a ticket may be settled in several ways."""
        return Digest(keccak(encode(self)))


class SessionOpen(msgspec.Struct, frozen=True, array_like=True, tag=20, forbid_unknown_fields=True):
    """User to provider, first frame."""

    ticket: Signed[Ticket]
    query: Signed[Query]


class TokenFrame(msgspec.Struct, frozen=True, array_like=True, tag=21, forbid_unknown_fields=True):
    """Provider to user: some text and the token ids it came from. ``tokens`` is the running total of T."""

    text: str
    token_ids: tuple[int, ...]
    tokens: U64


class SessionEnd(msgspec.Struct, frozen=True, array_like=True, tag=22, forbid_unknown_fields=True):
    """Provider to user, last frame: its signature on the receipt."""

    receipt: Receipt
    provider_signature: Signature


class VoucherFrame(msgspec.Struct, frozen=True, array_like=True, tag=23, forbid_unknown_fields=True):
    """User to provider, as tokens arrive."""

    voucher: Signed[Voucher]


class ReceiptFrame(msgspec.Struct, frozen=True, array_like=True, tag=24, forbid_unknown_fields=True):
    """User to provider: the countersigned receipt."""

    receipt: Cosigned


_TokenBytes = Annotated[bytes, msgspec.Meta(max_length=1024)]


class LikelyToken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A T that might have come: its bytes, and minus the natural logarithm of its probability in millionths."""

    data: _TokenBytes
    cost: U64


class TokenDetail(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A T that came, as :class:`LikelyToken`, and the likeliest in its place."""

    data: _TokenBytes
    cost: U64
    top: Annotated[tuple[LikelyToken, ...], msgspec.Meta(max_length=20)] = ()


class ToolDelta(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A part of the tool call number ``index``: its first has ``call_id`` and ``name``, arguments follow in pieces."""

    index: Annotated[int, msgspec.Meta(ge=0, lt=128)]
    call_id: Annotated[str, msgspec.Meta(max_length=128)] = ""
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    arguments: Annotated[str, msgspec.Meta(max_length=16_384)] = ""


class DetailFrame(msgspec.Struct, frozen=True, array_like=True, tag=25, forbid_unknown_fields=True):
    """Provider to user, before the token frame that it is about, and only where the query asked for it.

    A frame of its own, so that nodes which know nothing of it never meet it. Not part of the signed transcript.
    """

    tokens: Annotated[tuple[TokenDetail, ...], msgspec.Meta(max_length=64)] = ()
    calls: Annotated[tuple[ToolDelta, ...], msgspec.Meta(max_length=128)] = ()


class PaddedFrame(msgspec.Struct, frozen=True, array_like=True, tag=26, forbid_unknown_fields=True):
    """Provider to user, in a padded session: the length of another frame, 0 for none, the frame, and zeros."""

    data: bytes


SessionFrame = SessionOpen | TokenFrame | SessionEnd | VoucherFrame | ReceiptFrame | DetailFrame | PaddedFrame


def decode_session_frame(data: bytes) -> SessionFrame:
    """One frame of a session. Raises :class:`~gossip.errors.MessageError`."""
    frame: SessionFrame = decode_union(SessionFrame, data, MAX_QUERY_BYTES + 4096)
    return frame
