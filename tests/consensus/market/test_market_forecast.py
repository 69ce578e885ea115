"""A forecast is the ledger's and the contract's own formulas, day after day."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.market.forecast import Demand, ForecastInvalid, forecast, supply_wei
from consensus.params import NetworkParams, economics_of
from contracts.emission import DAY_S, PAYOUT_START_S

MOR = 10**18
PARAMS = NetworkParams(emission_start_s=PAYOUT_START_S, emission_interval_s=DAY_S, endowment_mor=400_000)
ECONOMICS = economics_of(PARAMS, PAYOUT_START_S)


def test_s39_the_first_day_of_the_sources_example() -> None:
    """3,000 MOR of budget at a price of 10^11 wei, 10 million MOR: 30 billion T, 3,000 T per MOR."""
    schedule = replace(ECONOMICS.schedule, initial_wei=3_000 * MOR, decrease_wei=MOR)
    [day] = forecast(replace(ECONOMICS, schedule=schedule), PARAMS, Demand(tokens=10**12), 1)
    assert (day.budget_wei, day.max_t, day.access_rate) == (3_000 * MOR, 30 * 10**9, 3_000)
    assert (day.served_t, day.credited_wei) == (30 * 10**9, 3_000 * MOR)


@pytest.mark.parametrize("policy", ["emission", "pool"])
@settings(max_examples=10, deadline=None)
@given(
    tokens=st.integers(0, 10**12),
    growth=st.integers(-50_000, 50_000),
    drift=st.integers(-50_000, 50_000),
    claim_days=st.integers(1, 20),
)
def test_s23_s35_hold_on_every_day(policy: str, tokens: int, growth: int, drift: int, claim_days: int) -> None:
    params = NetworkParams(budget_policy=policy, emission_start_s=PAYOUT_START_S, endowment_mor=9_000)  # type: ignore[arg-type]  # one of the two
    economics = economics_of(params, PAYOUT_START_S)
    demand = Demand(tokens, growth, price_drift_ppm=drift, claim_days=claim_days)
    days = list(forecast(economics, params, demand, 60))
    credited = paid = 0
    for today, tomorrow in pairwise(days):
        assert today.credited_wei <= today.budget_wei
        assert tomorrow.pool_wei >= today.pool_wei * 99 // 100, "S23: the pool falls by 1 % at most"
        assert today.served_t <= min(today.asked_t, today.max_t)
        assert today.reserve_wei >= 0
    for day in days:
        credited += day.credited_wei + day.bootstrap_wei
        paid += day.paid_wei
        assert day.owed_wei == credited - paid >= 0
    assert sum(day.bootstrap_wei for day in days) <= economics.bootstrap_ceiling(60)


def test_supply_grows_by_all_pools() -> None:
    grown = supply_wei(ECONOMICS, Demand(1), 1) - supply_wei(ECONOMICS, Demand(1), 0)
    assert grown == 14_400 * MOR


@pytest.mark.parametrize(
    ("change", "days", "words"),
    [
        ({}, 0, "days of 0"),
        ({"tokens": -1}, 1, "tokens of -1"),
        ({"price_wei": 0}, 1, "price_wei of 0"),
        ({"claim_days": 0}, 1, "claim_days of 0"),
        ({"supply_wei": 0}, 1, "supply_wei of 0"),
        ({"growth_ppm": -1_000_001}, 1, "growth_ppm of -1000001"),
    ],
)
def test_what_makes_no_market_is_named(change: dict[str, int], days: int, words: str) -> None:
    with pytest.raises(ForecastInvalid, match=words):
        list(forecast(ECONOMICS, PARAMS, Demand(**({"tokens": 1} | change)), days))
