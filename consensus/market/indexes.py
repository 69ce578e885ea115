"""Sets of RFC indexes as ranges: a session counts up, so that thousands of RFCs are a handful of ranges.

A set is a tuple of (first, last) pairs, ascending and with at least one index missing between any two.
"""

from bisect import bisect_right

Ranges = tuple[tuple[int, int], ...]

_END = float("inf")


def holds(ranges: Ranges, index: int) -> bool:
    """Whether ``index`` is in the set."""
    place = bisect_right(ranges, (index, _END))
    return place > 0 and ranges[place - 1][1] >= index


def with_index(ranges: Ranges, index: int) -> Ranges:
    """The set and ``index``, which is not in it."""
    place = bisect_right(ranges, (index, _END))
    first = last = index
    start = end = place
    if place > 0 and ranges[place - 1][1] == index - 1:
        first, start = ranges[place - 1][0], place - 1
    if place < len(ranges) and ranges[place][0] == index + 1:
        last, end = ranges[place][1], place + 1
    return (*ranges[:start], (first, last), *ranges[end:])
