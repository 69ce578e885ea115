"""What llama.cpp's and OpenAI's protocols say of probabilities, as details of T. Pure."""

import math

import msgspec

from gossip.messages.session import LikelyToken, TokenDetail
from inference.engine import TOP_LOGPROBS_MAX

MICRO = 1_000_000
IMPOSSIBLE = 10**9
"""Stands for a probability of 0: a thousand nats."""


class Likely(msgspec.Struct, frozen=True):
    """A T and its logarithm; ``bytes`` says what ``token`` cannot, half a character."""

    token: str = ""
    bytes: list[int] | None = None
    logprob: float | None = None


class Position(Likely, frozen=True):
    """The T that came and the likeliest in its place."""

    top_logprobs: list[Likely] = []


def compute_cost(logprob: float | None) -> int:
    """A logarithm as :class:`~gossip.messages.session.LikelyToken` has it; none, or minus infinity, is impossible."""
    if logprob is None or not math.isfinite(logprob):
        return IMPOSSIBLE
    return min(IMPOSSIBLE, max(0, round(-logprob * MICRO)))


def to_detail(position: Position, top: int = TOP_LOGPROBS_MAX) -> TokenDetail:
    """The detail of one T with ``top`` alternatives at most."""
    likely = tuple(LikelyToken(_data(one), compute_cost(one.logprob)) for one in position.top_logprobs[:top])
    return TokenDetail(_data(position), compute_cost(position.logprob), likely)


def _data(one: Likely) -> bytes:
    return one.token.encode() if one.bytes is None else bytes(value & 0xFF for value in one.bytes)
