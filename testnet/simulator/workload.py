"""The work of a run: finished sessions, properly signed, the same for every seed, so that each is signed only once."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256

from consensus.market.access import pass_commitment
from consensus.params import Terms
from contracts.signing import Key
from contracts.typed_data import Digest, digest
from gossip.messages.base import Unit, sign
from gossip.messages.market import AccessPass, Rfc, Ticket
from gossip.messages.records import Bid
from gossip.messages.session import Cosigned, Receipt, Report, Settlement, Voucher

PRICE_WEI = 10**11
"""The genesis reference price, in wei per T."""

PROVIDERS = 3
SESSIONS = 3
"""Session keys a day: each signs the RFCs of every third slot."""

VARIETY = 8
"""Settlements repeat their kind after so many slots."""

MODEL = Digest(sha256(b"simulated model").digest())
"""What is asked for."""

_SALT = Digest(b"\x5a" * 32)
_FAR_MS = 10**15


class Workload:
    """One settlement for each slot, and in one of :data:`VARIETY` slots a second one that spends the same RFC index."""

    def __init__(self, terms: Terms, issuers: tuple[Key, ...], named_key: Callable[[str], Key]) -> None:
        self._terms = terms
        self._issuers = issuers
        self._named_key = named_key
        self.of_slot = cache(self._of_slot)

    def issuer(self, slot: int) -> int:
        """Which member's desk the sessions of ``slot`` are filed with."""
        return slot % len(self._issuers)

    def sign(self, slots: int) -> None:
        """Sign the sessions of the first ``slots`` slots now, so that no run has to."""
        for slot in range(slots):
            self.of_slot(slot)

    def _of_slot(self, slot: int) -> tuple[Settlement, ...]:
        """The sessions whose tickets are of ``slot``, as they are filed before it ends."""
        kind = slot % VARIETY
        settlement = self._settlement(slot, passed=kind != 3, has_receipt=kind != 5, slow=kind == 6)
        if kind == 4:
            return settlement, self._settlement(slot, token_max=200)
        return (settlement,)

    def _settlement(
        self, slot: int, *, passed: bool = True, has_receipt: bool = True, slow: bool = False, token_max: int = 256
    ) -> Settlement:
        domain, params = self._terms.domain, self._terms.params
        day = params.day_of(slot)
        issuer = self._issuers[self.issuer(slot)]
        session = self._named_key(f"session {day} {slot % SESSIONS}")
        provider = self._named_key(f"provider {slot % PROVIDERS}")
        granted = AccessPass(session.address, day, 1_000_000, 9, issuer.address, pass_commitment(issuer.address, _SALT))
        rfc = sign(
            Rfc(
                sign(granted, issuer, domain),
                session.address,
                slot % params.day_slots,
                MODEL,
                Unit.TEXT_TOKEN,
                256,
                512,
                _FAR_MS,
            ),
            session,
            domain,
        )
        bid = Bid(provider.address, MODEL, Unit.TEXT_TOKEN, PRICE_WEI - slot % PROVIDERS, 4, 2_048, 1, _FAR_MS)
        made = Ticket(
            rfc_id=rfc.id(domain),
            session_key=session.address,
            bid=sign(bid, provider, domain),
            token_max=token_max,
            prompt_bound=512,
            slot=slot,
            expires_ms=_FAR_MS,
            router=issuer.address,
        )
        ticket = sign(made, issuer, domain)
        ticket_id = ticket.id(domain)
        tokens = 50 + slot % 100
        report = Report(ticket_id, session.address, tokens, 200, (90 if slow else 20) * tokens, passed)
        receipt = Receipt(ticket_id, tokens, 12, MODEL, "stop")
        value = digest(domain, receipt)
        return Settlement(
            rfc,
            ticket,
            None if has_receipt else sign(Voucher(ticket_id, session.address, tokens - 1), session, domain),
            Cosigned(receipt, session.sign_digest(value), provider.sign_digest(value)) if has_receipt else None,
            sign(report, session, domain),
        )
