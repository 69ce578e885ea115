"""The speed test of S31: microseconds per T against the mean of a model's last queries, in integers.

Users time themselves, and addresses are free, so who is sampled must cost what an address does not: T. Of the T that a
batch passes, laid end to end, every :data:`STEP_T`-th makes its session a sample, from a place that nobody can foresee;
and no sample counts as far from the median. Whoever wants to move the mean needs half of a model's T.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec
from eth_hash.auto import keccak

from consensus.params import NetworkParams
from contracts.typed_data import Address, Digest

_MAX_US_PER_T = 2**63 - 1

STEP_T = 256
"""Every so many T of a model's passed sessions make a sample; more where a batch would give too many."""

BATCHES = 10
"""One batch gives at most one in so many of the Z samples."""

LEAST, MOST = 2, 4
"""A sample counts as the median ÷ 2 at least and as the median × 4 at most."""


class SpeedSample(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How long one passed query took: ``us_per_t`` is µs from sending it to its last T, divided by T."""

    session_key: Address
    provider: Address
    us_per_t: int
    number: int = 0
    """Counts the model's samples since genesis."""


class Timed(msgspec.Struct, frozen=True):
    """A passed session that may become a sample."""

    session_key: Address
    provider: Address
    us_per_t: int
    tokens: int


def us_per_t(last_ms: int, tokens: int) -> int:
    """µs per T, rounded down; ``tokens`` is above 0."""
    return min(_MAX_US_PER_T, last_ms * 1000 // tokens)


def compute_mean(samples: Sequence[SpeedSample]) -> int:
    """µs per T: the mean of ``samples``, none of which counts as far from their (lower) median; rounded down.

    0 for none.
    """
    return _sum(samples) // len(samples) if samples else 0


def compute_limit(samples: Sequence[SpeedSample], params: NetworkParams) -> int | None:
    """µs per T that are just fast enough: ``speed_percent`` above the mean of ``samples`` (S31), rounded down.

    None with fewer than ``speed_samples_min`` samples: then there is no test.
    """
    if len(samples) < params.speed_samples_min:
        return None
    return _sum(samples) * (100 + params.speed_percent) // (100 * len(samples))


def _sum(samples: Sequence[SpeedSample]) -> int:
    values = sorted(sample.us_per_t for sample in samples)
    median = values[(len(values) - 1) // 2]
    least, most = -(-median // LEAST), median * MOST
    return sum(min(most, max(least, value)) for value in values)


def is_fast_enough(samples: Sequence[SpeedSample], value: int, params: NetworkParams) -> bool:
    """Whether ``value`` µs per T is within :func:`compute_limit`."""
    limit = compute_limit(samples, params)
    return limit is None or value <= limit


def draw_timed(passed: Sequence[Timed], beacon: Digest, model_id: Digest, params: NetworkParams) -> tuple[Timed, ...]:
    """Which of a batch's passed sessions of a model become samples, in their order.

    Every :data:`STEP_T`-th of their T does, or every n-th where that would be more than ``speed_samples`` ÷
    :data:`BATCHES`, from where ``beacon``, the batch's own, points; a session is a sample once.
    """
    most = max(1, params.speed_samples // BATCHES)
    total = sum(one.tokens for one in passed)
    step = max(STEP_T, -(-total // most))
    first = int.from_bytes(keccak(beacon + model_id), "big") % step
    ends = accumulate(one.tokens for one in passed)
    # a session holds T from its end less its own to its end: how many marks lie below either says whether one is in it
    return tuple(
        one
        for one, end in zip(passed, ends, strict=True)
        if _marks(end, first, step) > _marks(end - one.tokens, first, step)
    )


def _marks(end: int, first: int, step: int) -> int:
    """How many of first, first + step, first + 2 step … are below ``end``."""
    return 0 if end <= first else (end - first - 1) // step + 1


def with_samples(
    samples: Sequence[SpeedSample], drawn: Iterable[Timed], params: NetworkParams
) -> tuple[SpeedSample, ...]:
    """``samples`` and those of ``drawn``, oldest first: of the last ``speed_samples`` that there were.

    One session key, and one provider, gives at most 1 in ``speed_share`` of them: its oldest makes room, and nobody
    older takes its place.
    """
    kept = list(samples)
    share = max(1, params.speed_samples // params.speed_share)
    for one in drawn:
        number = kept[-1].number + 1 if kept else 1
        for giver in ("session_key", "provider"):
            own = [held for held in kept if getattr(held, giver) == getattr(one, giver)]
            if len(own) >= share:
                kept.remove(own[0])
        kept.append(SpeedSample(one.session_key, one.provider, one.us_per_t, number))
        kept = [held for held in kept if held.number > number - params.speed_samples]
    return tuple(kept)


class SpeedDraft:
    """One model's speed test while a batch is drafted: the limit is that of the batches before."""

    __slots__ = ("_held", "_limit", "_params", "_passed")

    def __init__(self, samples: tuple[SpeedSample, ...], params: NetworkParams) -> None:
        self._held = samples
        self._params = params
        self._limit = compute_limit(samples, params)
        self._passed: list[Timed] = []

    def is_fast_enough(self, value: int) -> bool:
        """:func:`is_fast_enough` among the samples of the batches before."""
        return self._limit is None or value <= self._limit

    def add(self, passed: Timed) -> None:
        """A session that its user passed, whatever became of its credit."""
        self._passed.append(passed)

    def finish(self, beacon: Digest, model_id: Digest) -> tuple[SpeedSample, ...]:
        """The samples after the batch."""
        return with_samples(self._held, draw_timed(self._passed, beacon, model_id, self._params), self._params)
