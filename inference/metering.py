"""Counting what was delivered: T, milliseconds, and a commitment to the transcript. Pure: time comes in as ms."""

import hashlib
from dataclasses import dataclass, replace

from contracts.typed_data import Digest

TOKEN_ID_LIMIT = 1 << 32
"""Token ids are below this; larger ones are no ids of any vocabulary."""


class Transcript:
    """The running commitment of one session, kept by both sides (receipts sign it).

    SHA-256 over a tag, the SHA-256 of the query body, and every token id as 4 big-endian bytes, in order. How the ids
    were cut into frames does not matter.
    """

    __slots__ = ("_hash",)

    def __init__(self, body: bytes) -> None:
        self._hash = hashlib.sha256(b"yellowstone transcript 1\0" + hashlib.sha256(body).digest())

    def add(self, token_ids: tuple[int, ...]) -> None:
        """Take the next ids; each must lie in [0, ``TOKEN_ID_LIMIT``), which the caller has checked."""
        self._hash.update(b"".join(token.to_bytes(4, "big") for token in token_ids))

    def copy(self) -> "Transcript":
        """One that goes on by itself from here."""
        made = Transcript.__new__(Transcript)
        made._hash = self._hash.copy()
        return made

    def digest(self) -> Digest:
        """The commitment to all that was added so far."""
        return Digest(self._hash.digest())


def find_committed(body: bytes, token_ids: tuple[int, ...], commitment: Digest) -> tuple[int, ...] | None:
    """The first of ``token_ids`` that ``commitment`` is about; None where it is about something else.

    A session that broke off is paid by its last voucher, which commits to fewer T than may have been said.
    """
    transcript = Transcript(body)
    if transcript.digest() == commitment:
        return ()
    for count, token in enumerate(token_ids, 1):
        transcript.add((token,))
        if transcript.digest() == commitment:
            return token_ids[:count]
    return None


@dataclass(frozen=True, slots=True)
class TokenMeter:
    """One side's measurement of one session: T so far, and ms from sending the query (S30)."""

    started_ms: int
    tokens: int = 0
    first_ms: int = 0
    """ms from start to the first T; 0 while there is none."""
    last_ms: int = 0
    """ms from start to the latest T; 0 while there is none."""

    def after(self, now_ms: int, tokens: int) -> "TokenMeter":
        """The meter once ``tokens`` more T have arrived at ``now_ms``; none changes nothing."""
        if tokens <= 0:
            return self
        elapsed = max(0, now_ms - self.started_ms)
        first = self.first_ms if self.tokens else elapsed
        return replace(self, tokens=self.tokens + tokens, first_ms=first, last_ms=max(elapsed, first))


def compute_delivered(user_tokens: int, provider_tokens: int, token_max: int) -> int:
    """The T that count: never more than either side counted, nor than TokenMax (S21)."""
    return max(0, min(user_tokens, provider_tokens, token_max))
