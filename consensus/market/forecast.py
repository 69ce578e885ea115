"""What a network's economics come to, day by day, under a demand that is given. Pure.

Each day's budget, MaxT, AccessRate, reference price and bootstrap come from the very functions that ledger and contract
use; what is assumed is only what people do: how many T they ask for, and what providers bid for them.
"""

from collections.abc import Iterator

import msgspec

from consensus.market.access import access_rate, max_t
from consensus.market.bootstrap import bootstrap_reserve
from consensus.market.day_account import moved_price
from consensus.market.errors import AccessInvalid
from consensus.params import Terms
from contracts.typed_data import Uint256

PERCENT = 100


class Demand(msgspec.Struct, frozen=True):
    """What people are taken to do. T are served while the day's budget lasts, at the mean of the bids that win."""

    first_t: int
    """T asked for on day 0."""
    growth_ppm: int = 0
    """How much more is asked for every day, in millionths; negative: less."""
    bid_percent: int = 100
    """The mean winning bid, in percent of the day's reference price; never above the ceiling."""
    claim_days: int = 1
    """Providers claim so many days after they were credited."""


class Day(msgspec.Struct, frozen=True):
    """One day. Amounts are wei; ``access_rate`` is T per MOR."""

    day: int
    emission_wei: int
    budget_wei: int
    reference_price_wei: int
    max_t: int
    access_rate: int
    demand_t: int
    served_t: int
    credited_wei: int
    bootstrap_wei: int
    paid_wei: int
    pool_wei: int
    """Received, the bootstrap's part included, and not paid by the end of the day."""
    unused_wei: int
    """The unused pool of S23 when the day begins."""


def forecast(terms: Terms, demand: Demand, *, days: int, supply_wei: int, reference_price_wei: int) -> Iterator[Day]:
    """The first ``days`` days of a network with a constant ``supply_wei`` of MOR.

    Raises :class:`~consensus.market.errors.AccessInvalid` for demand, supply or price that make no day.
    """
    _check(demand, supply_wei=supply_wei, reference_price_wei=reference_price_wei)
    economics, params = terms.economics, terms.params
    asked, price, market, owed, paid = demand.first_t, reference_price_wei, 0, [0] * demand.claim_days, 0
    for day in range(days):
        budget = economics.budget(day, market)
        worth = max_t(budget, price)
        bid = max(1, price * min(demand.bid_percent, params.ceiling_percent) // PERCENT)
        served = min(asked, worth, budget // bid)
        credited = served * bid
        bootstrap = int(bootstrap_reserve(day, terms)) if credited else 0
        owed.append(credited + bootstrap)
        paying = owed.pop(0)
        unused = economics.unused(day, market)
        market += credited
        paid += paying
        received = economics.endowment_wei + economics.schedule.emitted(economics.day_start_s(day + 1))
        yield Day(
            day=day,
            emission_wei=economics.emission(day),
            budget_wei=budget,
            reference_price_wei=price,
            max_t=worth,
            access_rate=access_rate(worth, supply_wei),
            demand_t=asked,
            served_t=served,
            credited_wei=credited,
            bootstrap_wei=bootstrap,
            paid_wei=paying,
            pool_wei=received - paid,
            unused_wei=unused,
        )
        price = moved_price(price, Uint256(served), Uint256(credited), params)
        asked = max(0, asked + asked * demand.growth_ppm // 10**6)


def _check(demand: Demand, **positive: int) -> None:
    for name, value in positive.items():
        if value <= 0:
            raise AccessInvalid(name, value)
    if demand.first_t < 0:
        raise AccessInvalid("first_t", demand.first_t)
    if demand.bid_percent <= 0:
        raise AccessInvalid("bid_percent", demand.bid_percent)
    if demand.claim_days < 0:
        raise AccessInvalid("claim_days", demand.claim_days)
