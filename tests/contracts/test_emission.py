from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.emission import (
    COMPUTE_DECREASE_WEI,
    COMPUTE_INITIAL_WEI,
    DAY_S,
    PAYOUT_START_S,
    TOTAL_DECREASE_WEI,
    TOTAL_INITIAL_WEI,
    compute_emission,
    compute_period_reward,
    daily_budget,
)
from contracts.errors import ContractsError


def wei(mor: str) -> int:
    return int(Decimal(mor) * 10**18)


@pytest.mark.parametrize(
    ("days", "mor"),
    [
        (0, "0"),
        (1, "3456"),
        (2, "6911.40744127176"),
        (365, "1222076.3236830168"),
        (5_833, "10079999.99972144928"),
        (20_000, "10079999.99972144928"),
    ],
)
def test_the_compute_pools_emission_since_the_start(days: int, mor: str) -> None:
    assert compute_emission(PAYOUT_START_S, PAYOUT_START_S + days * DAY_S) == wei(mor)


def test_the_first_midnight_sees_half_a_day() -> None:
    assert compute_emission(0, PAYOUT_START_S + DAY_S // 2) == wei("1728")


def test_all_pools_together_come_to_42_million() -> None:
    total = compute_period_reward(
        TOTAL_INITIAL_WEI,
        TOTAL_DECREASE_WEI,
        payout_start_s=PAYOUT_START_S,
        interval_s=DAY_S,
        start_s=0,
        end_s=PAYOUT_START_S + 6_000 * DAY_S,
    )
    assert total == wei("41999999.998839372")


def test_compute_is_24_percent_of_all_pools() -> None:
    assert COMPUTE_INITIAL_WEI * 100 == TOTAL_INITIAL_WEI * 24
    assert abs(COMPUTE_DECREASE_WEI * 100 - TOTAL_DECREASE_WEI * 24) < 100


def test_the_daily_budget_falls_to_zero() -> None:
    assert daily_budget(0) == wei("3456")
    assert daily_budget(1) == wei("3455.40744127176")
    assert daily_budget(5_832) > 0
    assert daily_budget(5_833) == 0
    assert sum(map(daily_budget, range(6_000))) == wei("10079999.99972144928")


def test_no_day_before_the_first() -> None:
    with pytest.raises(ContractsError, match="-1"):
        daily_budget(-1)


SECONDS = st.integers(PAYOUT_START_S - 3 * DAY_S, PAYOUT_START_S + 40 * DAY_S)


@given(SECONDS, SECONDS, SECONDS)
@settings(max_examples=100, deadline=None)
def test_splitting_a_period_loses_at_most_the_rounding(a: int, b: int, c: int) -> None:
    start, middle, end = sorted((a, b, c))
    whole = compute_emission(start, end)
    parts = compute_emission(start, middle) + compute_emission(middle, end)
    assert 0 <= whole - parts <= 2


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 12), st.integers(-20, 200), st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_against_the_sum_over_seconds(initial: int, decrease: int, interval: int, start: int, length: int) -> None:
    # scaled so that no second's share is broken: then there is no rounding, and the plain sum is exact
    found = compute_period_reward(
        initial * interval,
        decrease * interval,
        payout_start_s=10,
        interval_s=interval,
        start_s=start,
        end_s=start + length,
    )
    seconds = range(max(start, 10) - 10, max(start + length - 10, 0))
    assert found == sum(max(0, initial - second // interval * decrease) for second in seconds)


@pytest.mark.parametrize(("initial", "decrease", "interval"), [(1, 1, 0), (1, 0, 1), (-1, 1, 1)])
def test_an_emission_that_never_ends_is_refused(initial: int, decrease: int, interval: int) -> None:
    with pytest.raises(ContractsError):
        compute_period_reward(initial, decrease, payout_start_s=0, interval_s=interval, start_s=0, end_s=1)
