"""A ticket while both sides may file for it, and what it costs its user whatever they say (S30, S36).

A provider sends ``voucher_window`` T before the first voucher. A user that takes them and vouches for nothing, or for
less than it got, would have them for nothing: so the quota pays for what the user signed, for what its provider says to
have sent beyond that, and for a window's T where nobody says anything. The provider is paid by other counts.
"""

from dataclasses import dataclass

from consensus.market.errors import SettlementInvalid
from consensus.params import NetworkParams
from contracts.typed_data import Digest, Domain
from gossip.errors import SignerMismatch
from gossip.messages.base import Signed
from gossip.messages.market import Rfc, Ticket
from gossip.messages.router import DeliveryFiling
from gossip.messages.session import Cosigned, Report, Settlement, Voucher


def is_bare(filing: DeliveryFiling) -> bool:
    """Whether a provider says no more than that its session is over, or that there was none: nothing is owed by it."""
    return filing.voucher is None and filing.receipt is None and not filing.sent and not filing.runs


def unfiled_charge(token_max: int, params: NetworkParams) -> int:
    """T off the allowance for a ticket of ``token_max`` T that nobody files anything for."""
    return min(token_max, params.voucher_window)


def least_charge(token_max: int, signed: int, sent: int, params: NetworkParams) -> int:
    """T off the allowance at least, where ``signed`` is the highest count that the user has signed to its provider and
    ``sent`` what the provider says to have sent: it can't have sent more than a window beyond."""
    return min(token_max, max(signed, min(sent, signed + params.voucher_window)))


@dataclass(slots=True)
class OpenTicket:
    """A placed ticket. ``filed_slot`` is when the first filing came, ``ends_slot`` when none can come any more."""

    rfc: Signed[Rfc]
    ticket: Signed[Ticket]
    ends_slot: int
    report: Signed[Report] | None = None
    voucher: Signed[Voucher] | None = None
    receipt: Cosigned | None = None
    sent: int = 0
    """T that the provider says to have sent."""
    runs: bool = False
    """The provider's last word was that the session goes on."""
    filed_slot: int | None = None
    has_seat: bool = False
    """It fills a slot of its provider's."""
    is_over: bool = False
    """Its provider has said that the session is over, or that there was none: that word stands."""

    is_withdrawn: bool = False
    """Its user has taken the RFC back after the match."""

    def check_signed(
        self, name: str, signed: Signed[Report] | Signed[Voucher], ticket_id: Digest, domain: Domain
    ) -> None:
        """Raise :class:`SettlementInvalid` unless this ticket's session key signed it for this ticket."""
        if signed.payload.ticket_id != ticket_id:
            raise SettlementInvalid(f"{name}_ticket", signed.payload.ticket_id)
        if signed.payload.session_key != self.ticket.payload.session_key:
            raise SettlementInvalid(f"{name}_session_key", signed.payload.session_key)
        try:
            signed.signer(domain)
        except SignerMismatch as error:
            raise SettlementInvalid("signature", str(error)) from error

    def check_receipt(self, receipt: Cosigned | None, ticket_id: Digest, domain: Domain) -> None:
        """Raise :class:`SettlementInvalid` unless there is none, or both sides signed it for this ticket."""
        if receipt is None:
            return
        if receipt.receipt.ticket_id != ticket_id:
            raise SettlementInvalid("receipt_ticket", receipt.receipt.ticket_id)
        try:
            receipt.check(self.ticket.payload, domain)
        except SignerMismatch as error:
            raise SettlementInvalid("signature", str(error)) from error

    @property
    def is_complete(self) -> bool:
        """Both sides have spoken. A voucher alone never completes: a user could file an early one of its own."""
        return self.report is not None and self.receipt is not None

    @property
    def is_filed(self) -> bool:
        """Whether either side has said anything."""
        return self.runs or self.filed_slot is not None

    def is_due(self, slot: int, patience: int) -> bool:
        """Whether the other side has had ``patience`` slots; one that says that the session runs has until its end."""
        if self.filed_slot is None or self.runs:
            return slot >= self.ends_slot
        return slot >= self.filed_slot + patience

    def take_delivery(self, filing: DeliveryFiling) -> None:
        """Take what a provider files; the highest voucher counts."""
        self.receipt = self.receipt or filing.receipt
        self.sent = max(self.sent, filing.sent)
        self.is_over = self.is_over or not filing.runs or self.receipt is not None
        self.runs = not self.is_over
        voucher = filing.voucher
        if voucher is not None and (self.voucher is None or voucher.payload.tokens > self.voucher.payload.tokens):
            self.voucher = voucher

    def settlement(self) -> Settlement | None:
        """What is settled; None where there is nothing that a batch would take."""
        voucher = self.voucher if self.receipt is None else None  # a receipt's count stands for it
        if voucher is None and self.receipt is None and self.report is None:
            return None
        return Settlement(self.rfc, self.ticket, voucher, self.receipt, self.report)

    def least_charge(self, params: NetworkParams) -> int:
        """T off the allowance at least; 0 where the batch alone says it."""
        if not self.is_filed:
            return unfiled_charge(self.ticket.payload.token_max, params)
        signed = 0 if self.voucher is None else self.voucher.payload.tokens
        sent = self.sent
        if self.receipt is not None:
            signed = sent = self.receipt.receipt.tokens
        least = least_charge(self.ticket.payload.token_max, signed, sent, params)
        return max(least, unfiled_charge(self.ticket.payload.token_max, params)) if self.is_withdrawn else least
