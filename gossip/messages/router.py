"""What users and providers ask a home router over a direct stream, and what it answers."""

import msgspec

from contracts.typed_data import Digest
from gossip.messages.base import U64, Signed, decode_union
from gossip.messages.market import AccessPass, Match, PassRequest, Refusal, Rfc, Ticket, Withdrawal
from gossip.messages.opinions import Opinion
from gossip.messages.records import NodeRecord
from gossip.messages.session import Cosigned, Report, Voucher


class Matched(msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True):
    """A router's answer to an RFC: the match, the ticket, and where the provider is."""

    match: Signed[Match]
    ticket: Signed[Ticket]
    provider: Signed[NodeRecord]


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True):
    """A signed refusal on the wire."""

    refusal: Signed[Refusal]


class Granted(msgspec.Struct, frozen=True, array_like=True, tag=3, forbid_unknown_fields=True):
    """A router's answer to a pass request."""

    access_pass: Signed[AccessPass]
    used: U64
    """T of this pass that are already reserved or spent."""
    next_index: U64
    """The lowest RFC index not used yet."""


class ReportFiling(msgspec.Struct, frozen=True, array_like=True, tag=4, forbid_unknown_fields=True):
    """The user's report on its way to the home router, with the receipt where there is one."""

    ticket_id: Digest
    report: Signed[Report]
    receipt: Cosigned | None


class DeliveryFiling(msgspec.Struct, frozen=True, array_like=True, tag=5, forbid_unknown_fields=True):
    """The provider's side: the last voucher and, where the session ended well, the receipt."""

    ticket_id: Digest
    voucher: Signed[Voucher] | None
    receipt: Cosigned | None
    sent: U64 = 0
    """T that it has sent, where the session ended without a receipt: those that nobody vouched for cost quota too."""
    runs: bool = False
    """The session goes on: what its user reports meanwhile is not the last word."""


class Filed(msgspec.Struct, frozen=True, array_like=True, tag=6, forbid_unknown_fields=True):
    """The router has a filing."""

    ticket_id: Digest


class PassAsk(msgspec.Struct, frozen=True, array_like=True, tag=7, forbid_unknown_fields=True):
    """To a router: grant an access pass."""

    request: Signed[PassRequest]


class RfcAsk(msgspec.Struct, frozen=True, array_like=True, tag=8, forbid_unknown_fields=True):
    """To a router: match this RFC."""

    rfc: Signed[Rfc]


class MatchAsk(msgspec.Struct, frozen=True, array_like=True, tag=9, forbid_unknown_fields=True):
    """To a router, by anybody who has heard an RFC: why did it go where it went (S27, S34)?

    Answered as its user was, less what is left of the pass.
    """

    rfc_id: Digest


class Queued(msgspec.Struct, frozen=True, array_like=True, tag=10, forbid_unknown_fields=True):
    """To a user whose RFC waits (S26), again whenever that has changed; the answer follows on the same stream."""

    rfc_id: Digest
    position: U64
    """RFCs of the same model that would be served before it, were all to stay as it is: 0 is next."""
    waiting: U64
    """RFCs of the same model that wait, this one included."""
    expected_ms: U64
    """How long it would then wait; 0 where this router has no experience to tell from."""


class Account(msgspec.Struct, frozen=True, array_like=True, tag=11, forbid_unknown_fields=True):
    """A router's answer to :class:`MatchAsk`: the RFC and what its user was told."""

    rfc: Signed[Rfc]
    matched: Matched


class OpinionFiling(msgspec.Struct, frozen=True, array_like=True, tag=19, forbid_unknown_fields=True):
    """A scorer's verdict on its way into a batch, to any committee member (S8)."""

    opinion: Signed[Opinion]


class WithdrawAsk(msgspec.Struct, frozen=True, array_like=True, tag=12, forbid_unknown_fields=True):
    """To the router that an RFC was put to: take it back. Answered with :class:`Withdrawn`, with :class:`Matched` where
    it comes too late, or with a refusal."""

    withdrawal: Signed[Withdrawal]


class Withdrawn(msgspec.Struct, frozen=True, array_like=True, tag=13, forbid_unknown_fields=True):
    """An RFC is taken back."""

    rfc_id: Digest
    cost: U64
    """T off the pass: 0 unless a provider had been drawn already."""


RouterAsk = PassAsk | RfcAsk | ReportFiling | DeliveryFiling | OpinionFiling | MatchAsk | WithdrawAsk
RouterAnswer = Matched | Refused | Granted | Filed | Queued | Account | Withdrawn


def decode_router_ask(data: bytes) -> RouterAsk:
    """What a router is asked. Raises :class:`~gossip.errors.MessageError`."""
    ask: RouterAsk = decode_union(RouterAsk, data, 16_384)
    return ask


def decode_router_answer(data: bytes) -> RouterAnswer:
    """What a router answers. Raises :class:`~gossip.errors.MessageError`."""
    answer: RouterAnswer = decode_union(RouterAnswer, data, 131_072)
    return answer
