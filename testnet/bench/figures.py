"""Percentiles of measured times. Floats: nothing that nodes agree on is computed here."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """A sample's size, middle and tail, in the sample's own unit."""

    count: int
    p50: float
    p90: float
    p99: float
    worst: float

    @classmethod
    def of(cls, sample: Sequence[float]) -> "Figures":
        """The figures of ``sample``. Raises ValueError for an empty one."""
        if not sample:
            raise ValueError("there is nothing to take figures of")
        ordered = sorted(sample)
        p50, p90, p99 = (percentile(ordered, percent) for percent in (50, 90, 99))
        return cls(len(ordered), p50, p90, p99, ordered[-1])


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that ``percent`` percent of the sorted sample don't exceed (nearest rank)."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1]
