"""Penalty points by provider (S44): the percent of a day's T that Fails were told of, and half of what was before.

Nobody touches them to forgive: they halve by the calendar.
"""

from collections.abc import Iterator, Mapping

import msgspec
from eth_hash.auto import keccak

from consensus.market.trie import Trie
from contracts.typed_data import Address, Digest
from gossip.messages.session import Settlement

OPINION_POINTS = 1
"""For a failed second opinion, and for a scorer that others contradicted (S8); once for a session key and day."""


def fail_mark(secret: bytes, user: Address, provider: Address, day: int) -> Digest:
    """What a home router puts beside a Fail: without ``secret``, which is the router's alone, it tells nothing."""
    return Digest(keccak(secret + user + provider + day.to_bytes(8, "big")))


def counted_as(settlement: Settlement) -> bytes:
    """20 bytes that stand for the user of a Fail: its router's mark, else the session key."""
    if settlement.fail_mark is None:
        return settlement.rfc.payload.session_key
    return settlement.fail_mark.payload.mark[:20]


def share_points(failed_t: int, told_t: int) -> int:
    """Points for Fails of ``failed_t`` T among ``told_t`` T: whole percent, rounded up."""
    return -(-100 * failed_t // told_t) if failed_t else 0


class Penalty(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A provider's points as they stood on ``day``, the day's share of Fails beside them."""

    points: int
    """Of earlier days, and for second opinions."""
    day: int
    failed_t: int = 0
    """T of the Fails that counted on ``day``."""
    told_t: int = 0
    """T of all its sessions that were settled on ``day``, less those of Fails that did not count."""

    @property
    def sum(self) -> int:
        """Points on ``day``."""
        return self.points + share_points(self.failed_t, self.told_t)


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

    def today(self, provider: Address) -> Penalty:
        """What stands for a provider on :attr:`day`, its T of the day included."""
        written = self._written.get(provider)
        if written is None:
            return Penalty(0, self.day)
        return written if written.day == self.day else Penalty(self._left(written), self.day)

    def with_written(self, changed: Mapping[Address, Penalty]) -> "Penalties":
        """These and ``changed``, which replace what the same providers had."""
        return Penalties(self._written.with_items(changed), self.day)

    def with_points(self, points: Mapping[Address, int]) -> "Penalties":
        """These and ``points`` of today, which replace what the same providers had."""
        return self.with_written({who: Penalty(held, self.day) for who, held in points.items()})

    @property
    def written(self) -> Mapping[Address, Penalty]:
        """What was written last of everybody who ever served."""
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
        return penalty.sum >> (self.day - penalty.day)


class PenaltyDraft:
    """The next :class:`Penalties` in the making, beside the old ones, which stay as they are.

    ``counted`` holds provider ‖ user for all that has counted today; each user's Fails against a provider count once.
    """

    def __init__(self, held: Penalties, counted: Trie[bytes, bool]) -> None:
        self._held = held
        self._held_counted = counted
        self._changed: dict[Address, Penalty] = {}
        self._counted: dict[bytes, bool] = {}

    def serve(self, provider: Address, tokens: int) -> None:
        """A session of ``tokens`` T was settled that no Fail was told of."""
        held = self._today(provider)
        self._changed[provider] = Penalty(held.points, held.day, held.failed_t, held.told_t + tokens)

    def fail(self, provider: Address, user: bytes, tokens: int) -> None:
        """A Fail of ``tokens`` T, as much as it cost its user; a user's second one of a day counts for nothing."""
        if self._counts(provider + user):
            held = self._today(provider)
            failed_t, told_t = held.failed_t + tokens, held.told_t + tokens
            self._changed[provider] = Penalty(held.points, held.day, failed_t, told_t)

    def accuse(self, provider: Address, session_key: Address) -> None:
        """A second opinion went against a provider or scorer, over a session of ``session_key``."""
        if self._counts(provider + session_key):
            held = self._today(provider)
            self._changed[provider] = Penalty(held.points + OPINION_POINTS, held.day, held.failed_t, held.told_t)

    def finish(self) -> tuple[Penalties, Trie[bytes, bool]]:
        """The next penalties, and who has counted today."""
        return self._held.with_written(self._changed), self._held_counted.with_items(self._counted)

    def _today(self, provider: Address) -> Penalty:
        changed = self._changed.get(provider)
        return self._held.today(provider) if changed is None else changed

    def _counts(self, key: bytes) -> bool:
        if key in self._counted or key in self._held_counted:
            return False
        self._counted[key] = True
        return True
