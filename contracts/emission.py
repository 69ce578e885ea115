"""How much MOR the compute pool receives, second by second and day by day (S7, S37). Pure.

Emission falls by a fixed amount each interval and is linear in seconds inside one: interval i emits
``max(0, initial - i * decrease)``. A period is its broken first interval, its whole intervals and its broken last
interval, and the two broken ones are rounded down each on its own, as the chain does it.

Source: the token's emission rule (``getPeriodReward``), MISSION S7. All amounts are wei, all times Unix seconds.
"""

from contracts.errors import ContractsError
from contracts.typed_data import Uint256

DAY_S = 86_400
"""An emission interval, in seconds."""

PAYOUT_START_S = 1_707_393_600
"""When emission began: 2024-02-08 12:00 UTC."""

COMPUTE_INITIAL_WEI = 3_456 * 10**18
"""The compute pool's first day: 24 % of 14,400 MOR."""

COMPUTE_DECREASE_WEI = 592_558_728_240_000_000
"""By how much each of its days falls short of the day before."""

TOTAL_INITIAL_WEI = 14_400 * 10**18
"""The first day of all pools together."""

TOTAL_DECREASE_WEI = 2_468_994_701_000_000_000
"""The daily decrease of all pools together."""


def compute_period_reward(
    initial: int, decrease: int, *, payout_start_s: int, interval_s: int, start_s: int, end_s: int
) -> int:
    """Wei emitted from ``start_s`` to ``end_s``; nothing before ``payout_start_s``, nothing once a day's is zero."""
    if interval_s <= 0 or decrease <= 0 or initial < 0:
        raise ContractsError(f"no emission with initial {initial}, decrease {decrease}, interval {interval_s}")
    intervals = -(-initial // decrease)
    start = max(start_s - payout_start_s, 0)
    end = min(end_s - payout_start_s, intervals * interval_s)
    if start >= end:
        return 0
    first, start_rest = divmod(start, interval_s)
    last, end_rest = divmod(end, interval_s)
    if first == last:
        return _interval(initial, decrease, first) * (end - start) // interval_s
    opening = _interval(initial, decrease, first) * (interval_s - start_rest) // interval_s
    closing = _interval(initial, decrease, last) * end_rest // interval_s
    whole = last - first - 1
    middle = whole * initial - decrease * (whole * (first + 1 + last - 1) // 2)
    return opening + middle + closing


def compute_emission(start_s: int, end_s: int) -> int:
    """Wei that the compute pool receives between two Unix times."""
    return compute_period_reward(
        COMPUTE_INITIAL_WEI,
        COMPUTE_DECREASE_WEI,
        payout_start_s=PAYOUT_START_S,
        interval_s=DAY_S,
        start_s=start_s,
        end_s=end_s,
    )


def daily_budget(day_index: int) -> Uint256:
    """Wei that the compute pool receives on emission day ``day_index``; 0 is the first day, which gets 3,456 MOR.

    Raises :class:`ContractsError` for a day before the first.
    """
    if day_index < 0:
        raise ContractsError(f"emission day {day_index} is before the first")
    return Uint256(_interval(COMPUTE_INITIAL_WEI, COMPUTE_DECREASE_WEI, day_index))


def _interval(initial: int, decrease: int, index: int) -> int:
    return max(0, initial - index * decrease)
