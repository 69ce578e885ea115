"""Forecasts hold what ledger and contract enforce: S23, S35, S37, whatever is asked for."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market.errors import AccessInvalid
from consensus.market.forecast import Demand, forecast
from consensus.params import NetworkParams, Terms
from contracts.budget import BudgetGate
from contracts.emission import PAYOUT_START_S
from contracts.typed_data import ZERO_ADDRESS, Domain

WEI = 10**18
PRICE_WEI = 90 * 10**9
SUPPLY_WEI = 10_000_000 * WEI


def terms(**params: object) -> Terms:
    made = NetworkParams(**{"emission_start_s": PAYOUT_START_S, **params})  # type: ignore[arg-type]  # read by name
    return Terms(Domain(1, ZERO_ADDRESS), PAYOUT_START_S * 1_000, made)


@settings(max_examples=30, deadline=None)
@given(
    demand=st.builds(
        Demand, st.integers(0, 10**12), st.integers(-500_000, 500_000), st.integers(1, 400), st.integers(0, 20)
    ),
    policy=st.sampled_from(["emission", "pool"]),
    endowment=st.sampled_from([0, 1, 50_000]),
)
def test_no_demand_breaks_the_pool(demand: Demand, policy: str, endowment: int) -> None:
    made = terms(budget_policy=policy, endowment_mor=endowment)
    days = list(forecast(made, demand, days=60, supply_wei=SUPPLY_WEI, reference_price_wei=PRICE_WEI))
    gate, total, bootstrap = BudgetGate(made.economics), 0, 0
    for day in days:
        assert 0 <= day.credited_wei <= day.budget_wei, "S37"
        assert day.served_t <= day.max_t, "S38"
        assert day.pool_wei >= 0, "S35"
        total += day.credited_wei
        assert gate.objection(day.day, total + bootstrap, bootstrap) is None, "the contract takes what is forecast"
        bootstrap += day.bootstrap_wei
    for before, after in pairwise(days):
        assert after.unused_wei >= before.unused_wei - before.unused_wei // 100 - 1, "S23"


def test_prices_follow_bids_by_a_tenth_a_day() -> None:
    days = list(
        forecast(terms(), Demand(10**9, bid_percent=150), days=5, supply_wei=SUPPLY_WEI, reference_price_wei=10**10)
    )
    assert [day.reference_price_wei for day in days] == [10**10, 10**10, 11 * 10**9, 121 * 10**8, 1331 * 10**7]
    assert days[0].served_t == 0, "nothing has been emitted before day 0"
    assert all(one.access_rate > other.access_rate for one, other in pairwise(days[2:]))


def test_providers_are_paid_when_they_claim() -> None:
    days = list(
        forecast(terms(), Demand(10**9, claim_days=3), days=8, supply_wei=SUPPLY_WEI, reference_price_wei=PRICE_WEI)
    )
    credited = [day.credited_wei + day.bootstrap_wei for day in days]
    assert [day.paid_wei for day in days] == [0, 0, 0, *credited[:-3]]


@pytest.mark.parametrize(
    ("demand", "numbers", "name"),
    [
        (Demand(-1), {}, "first_t"),
        (Demand(1, bid_percent=0), {}, "bid_percent"),
        (Demand(1, claim_days=-1), {}, "claim_days"),
        (Demand(1), {"supply_wei": 0}, "supply_wei"),
        (Demand(1), {"reference_price_wei": 0}, "reference_price_wei"),
    ],
)
def test_what_makes_no_day_is_named(demand: Demand, numbers: dict[str, int], name: str) -> None:
    given_numbers = {"supply_wei": SUPPLY_WEI, "reference_price_wei": PRICE_WEI} | numbers
    with pytest.raises(AccessInvalid) as caught:
        next(forecast(terms(), demand, days=1, **given_numbers))
    assert caught.value.name == name
