"""The speed test of S31: microseconds per T against the mean of a model's last queries, in integers."""

from collections.abc import Sequence

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
    total = sum(sample.us_per_t for sample in samples)
    return value * len(samples) * 100 <= total * (100 + params.speed_percent)


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
