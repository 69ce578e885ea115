"""Penalty points by provider (S44), half of which are forgiven every day without anybody touching them."""

from collections.abc import Iterator, Mapping

import msgspec
from eth_hash.auto import keccak

from consensus.market.trie import Trie
from contracts.typed_data import Address, Digest
from gossip.messages.session import Settlement


def fail_mark(secret: bytes, user: Address, provider: Address, day: int) -> Digest:
    """What a home router puts beside a Fail: without ``secret``, which is the router's alone, it tells nothing."""
    return Digest(keccak(secret + user + provider + day.to_bytes(8, "big")))


def counted_as(settlement: Settlement) -> bytes:
    """20 bytes that stand for the user of a Fail: its router's mark, else the session key."""
    if settlement.fail_mark is None:
        return settlement.rfc.payload.session_key
    return settlement.fail_mark.payload.mark[:20]


class Penalty(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``points`` as they stood on ``day``."""

    points: int
    day: int


class Penalties(Mapping[Address, int]):
    """Points by provider as they stand on ``day``, those without any left out; never changes."""

    __slots__ = ("_written", "day")

    def __init__(self, written: Mapping[Address, Penalty], day: int) -> None:
        self._written = Trie.of(written)
        self.day = day

    @classmethod
    def of(cls, points: Mapping[Address, int], day: int) -> "Penalties":
        """``points`` as they stand on ``day``; penalties are taken as they are."""
        if isinstance(points, cls):
            return points
        return cls({provider: Penalty(held, day) for provider, held in points.items()}, day)

    def on(self, day: int) -> "Penalties":
        """The same a day or more later."""
        return self if day == self.day else Penalties(self._written, day)

    def with_points(self, points: Mapping[Address, int]) -> "Penalties":
        """These and ``points`` of today, which replace what the same providers had."""
        return Penalties(
            self._written.with_items({who: Penalty(held, self.day) for who, held in points.items()}), self.day
        )

    @property
    def written(self) -> Mapping[Address, Penalty]:
        """Points and the day of the last Fail of everybody who ever had one."""
        return self._written

    @property
    def root(self) -> Digest:
        """The hash over what is written."""
        return self._written.root

    def __getitem__(self, provider: Address) -> int:
        if points := self._left(self._written[provider]):
            return points
        raise KeyError(provider)

    def __iter__(self) -> Iterator[Address]:
        return (provider for provider in self._written if self._left(self._written[provider]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _left(self, penalty: Penalty) -> int:
        return penalty.points >> (self.day - penalty.day)
