"""The speed test of S31: microseconds per T against the mean of a model's last queries, in integers."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from consensus.params import NetworkParams
from contracts.typed_data import Address

_MAX_US_PER_T = 2**63 - 1


class SpeedSample(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How long one passed query took: ``us_per_t`` is µs from sending it to its last T, divided by T."""

    session_key: Address
    provider: Address
    us_per_t: int


def us_per_t(last_ms: int, tokens: int) -> int:
    """µs per T, rounded down; ``tokens`` is above 0."""
    return min(_MAX_US_PER_T, last_ms * 1000 // tokens)


def is_fast_enough(samples: Sequence[SpeedSample], value: int, params: NetworkParams) -> bool:
    """Whether ``value`` µs per T is at most ``speed_percent`` above the mean of ``samples``.

    With fewer than ``speed_samples_min`` samples there is no test: the answer is yes.
    """
    if len(samples) < params.speed_samples_min:
        return True
    return _is_within(value, len(samples), sum(sample.us_per_t for sample in samples), params)


def with_sample(samples: Sequence[SpeedSample], sample: SpeedSample, params: NetworkParams) -> tuple[SpeedSample, ...]:
    """``samples`` and one more, oldest first, at most ``speed_samples``.

    One session key, and one provider, gives at most 1 in ``speed_share`` of them: its oldest makes room.
    """
    kept = list(samples)
    share = max(1, params.speed_samples // params.speed_share)
    for giver in ("session_key", "provider"):
        own = [held for held in kept if getattr(held, giver) == getattr(sample, giver)]
        if len(own) >= share:
            kept.remove(own[0])
    kept.append(sample)
    return tuple(kept[-params.speed_samples :])


class SpeedWindow:
    """A model's last queries while a batch adds to them, as :func:`with_sample` would keep them one by one.

    What a sum and counts say needs no look at a hundred samples, thousands of times a batch.
    """

    __slots__ = ("_held", "_params", "_providers", "_session_keys", "_total")

    def __init__(self, samples: Iterable[SpeedSample], params: NetworkParams) -> None:
        self._params = params
        self._held = list(samples)
        self._total = sum(sample.us_per_t for sample in self._held)
        self._session_keys = Counter(sample.session_key for sample in self._held)
        self._providers = Counter(sample.provider for sample in self._held)

    @property
    def samples(self) -> tuple[SpeedSample, ...]:
        """Oldest first."""
        return tuple(self._held)

    def is_fast_enough(self, value: int) -> bool:
        """:func:`is_fast_enough` among these samples."""
        if len(self._held) < self._params.speed_samples_min:
            return True
        return _is_within(value, len(self._held), self._total, self._params)

    def add(self, sample: SpeedSample) -> None:
        """:func:`with_sample`."""
        share = max(1, self._params.speed_samples // self._params.speed_share)
        if self._session_keys[sample.session_key] >= share:
            self._drop(next(n for n, held in enumerate(self._held) if held.session_key == sample.session_key))
        if self._providers[sample.provider] >= share:
            self._drop(next(n for n, held in enumerate(self._held) if held.provider == sample.provider))
        self._held.append(sample)
        self._total += sample.us_per_t
        self._session_keys[sample.session_key] += 1
        self._providers[sample.provider] += 1
        while len(self._held) > self._params.speed_samples:
            self._drop(0)

    def _drop(self, place: int) -> None:
        dropped = self._held.pop(place)
        self._total -= dropped.us_per_t
        self._session_keys[dropped.session_key] -= 1
        self._providers[dropped.provider] -= 1


def _is_within(value: int, count: int, total: int, params: NetworkParams) -> bool:
    return value * count * 100 <= total * (100 + params.speed_percent)
