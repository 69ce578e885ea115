"""The user's log of its own sessions, for the control API: what was asked of whom, who won and why, what it cost.

Prompts and answers are not in it.
"""

from collections import OrderedDict
from typing import Any

from contracts.typed_data import Digest, Domain
from gossip.messages import Signed
from gossip.messages.market import Rfc
from gossip.messages.router import Matched
from inference.session.client import SessionOutcome
from node.api.backend import ModelCard

KEPT = 1_000
"""Sessions remembered; the oldest go first."""


class SessionLog:
    """Bounded, in memory."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._entries: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._messages: dict[str, tuple[Signed[Rfc], Matched]] = {}

    def begin(self, rfc: Signed[Rfc], card: ModelCard, matched: Matched, match_ms: int, open_ms: int) -> None:
        """A session's stream is open; ``match_ms`` and ``open_ms`` count from the request."""
        rfc_id = rfc.id(self._domain)
        self._messages[rfc_id.hex()] = rfc, matched
        ticket, match = matched.ticket.payload, matched.match.payload
        self._entries[rfc_id.hex()] = {
            "rfc_id": _hex(rfc_id),
            "ticket_id": _hex(match.ticket_id),
            "model": card.name,
            "model_id": _hex(card.model_id),
            "router": _hex(match.router),
            "provider": _hex(ticket.bid.payload.provider),
            "price_wei": ticket.bid.payload.price_wei,
            "token_max": ticket.token_max,
            "match_ms": match_ms,
            "stream_open_ms": open_ms,
            "match": {
                "slot": match.slot,
                "attempt": match.attempt,
                "beacon": _hex(match.beacon),
                "draw": _hex(match.draw),
                "candidates": [
                    {
                        "provider": _hex(bid.payload.provider),
                        "price_wei": bid.payload.price_wei,
                        "bid_id": _hex(bid.id(self._domain)),
                    }
                    for bid in match.candidates
                ],
                "winner": _hex(ticket.bid.id(self._domain)),
                "unlive": [_hex(bid_id) for bid_id in match.unlive],
            },
            "state": "open",
        }
        while len(self._entries) > KEPT:
            oldest, _ = self._entries.popitem(last=False)
            del self._messages[oldest]

    def finish(self, rfc_id: Digest, outcome: SessionOutcome | None, *, passed: bool, broken: bool) -> None:
        """A session has ended."""
        entry = self._entries.get(rfc_id.hex())
        if entry is None:
            return
        entry |= {"state": "broken" if broken else "finished", "passed": passed}
        if outcome is None:
            return
        entry |= {
            "interrupted": outcome.interrupted,
            "tokens": outcome.tokens,
            "prompt_tokens": outcome.prompt_tokens,
            "first_ms": outcome.first_ms,
            "last_ms": outcome.last_ms,
            "finish": outcome.finish,
            "recounted": outcome.recounted,
            "receipt": outcome.receipt is not None,
        }

    def note_audit(self, rfc_id: Digest, shown: dict[str, Any], *, passed: bool) -> None:
        """What an answer's audit came to, and what was reported after it."""
        entry = self._entries.get(rfc_id.hex())
        if entry is not None:
            entry |= {"audit": shown, "passed": passed}

    def all(self) -> list[dict[str, Any]]:
        """Every session remembered, oldest first."""
        return list(self._entries.values())

    def get(self, rfc_id: Digest) -> dict[str, Any] | None:
        """One session by its RFC id."""
        return self._entries.get(rfc_id.hex())

    def messages(self, rfc_id: Digest) -> tuple[Signed[Rfc], Matched] | None:
        """The signed messages behind a session's match."""
        return self._messages.get(rfc_id.hex())


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
