# pragma version 0.4.3
"""
@title How much MOR a pool receives
@license MIT
@notice Emission falls by a fixed amount each interval and is linear in seconds inside one: interval i emits
        max(0, initial - i * decrease). contracts/emission.py is its twin.
@dev A module: compute.vy and emission_source.vy import it.
"""

# What a pool's emission depends on. Wei, Unix seconds, seconds.
struct Schedule:
    initial: uint256
    decrease: uint256
    payout_start_s: uint256
    interval_s: uint256


@internal
@pure
def _check(schedule: Schedule):
    """
    @notice Refuse a schedule that never ends or whose sums might not fit.
    @param schedule The schedule.
    """
    assert schedule.decrease > 0 and schedule.decrease < 2**96, "emission: bad decrease"
    assert schedule.interval_s > 0 and schedule.interval_s < 2**40, "emission: bad interval"
    assert schedule.initial < 2**96, "emission: bad initial"
    assert schedule.payout_start_s < 2**40, "emission: bad payout start"


@internal
@pure
def _emitted(schedule: Schedule, until_s: uint256) -> uint256:
    """
    @notice What has been emitted from the beginning until a time.
    @param schedule The schedule.
    @param until_s Unix seconds.
    @return Wei; the whole intervals exactly, the broken last one rounded down.
    """
    if until_s <= schedule.payout_start_s:
        return 0
    intervals: uint256 = (schedule.initial + schedule.decrease - 1) // schedule.decrease
    elapsed: uint256 = min(until_s - schedule.payout_start_s, intervals * schedule.interval_s)
    whole: uint256 = elapsed // schedule.interval_s
    emitted: uint256 = 0
    if whole > 0:
        emitted = whole * schedule.initial - schedule.decrease * (whole * (whole - 1) // 2)
    rest: uint256 = elapsed % schedule.interval_s
    if rest > 0:
        emitted += (schedule.initial - whole * schedule.decrease) * rest // schedule.interval_s
    return emitted


@internal
@pure
def _period_reward(schedule: Schedule, start_s: uint256, end_s: uint256) -> uint256:
    """
    @notice What is emitted in a period; a broken first and a broken last interval are each rounded down.
    @param schedule The schedule.
    @param start_s Unix seconds.
    @param end_s Unix seconds.
    @return Wei; nothing before the payout start, nothing once a day's is zero, nothing for a period that runs back.
    """
    intervals: uint256 = (schedule.initial + schedule.decrease - 1) // schedule.decrease
    start: uint256 = 0
    if start_s > schedule.payout_start_s:
        start = start_s - schedule.payout_start_s
    end: uint256 = 0
    if end_s > schedule.payout_start_s:
        end = min(end_s - schedule.payout_start_s, intervals * schedule.interval_s)
    if start >= end:
        return 0
    first: uint256 = start // schedule.interval_s
    last: uint256 = end // schedule.interval_s
    if first == last:
        return (schedule.initial - first * schedule.decrease) * (end - start) // schedule.interval_s
    opening: uint256 = (schedule.initial - first * schedule.decrease) * (
        schedule.interval_s - start % schedule.interval_s
    ) // schedule.interval_s
    # the interval after the last one emits nothing, and no second of it is asked for
    closing: uint256 = 0
    if end % schedule.interval_s > 0:
        closing = (schedule.initial - last * schedule.decrease) * (end % schedule.interval_s) // schedule.interval_s
    whole: uint256 = last - first - 1
    middle: uint256 = whole * schedule.initial
    if whole > 0:
        middle -= schedule.decrease * (whole * (first + last) // 2)
    return opening + middle + closing
