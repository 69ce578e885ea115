"""What budget, pool, payouts and AccessRate do over the years under a given demand. Pure.

Nothing here is a formula of its own: budgets are :mod:`contracts.budget`'s, the bootstrap's shares and the reference
price the ledger's, access is :mod:`consensus.market.access`. What is assumed is a market: how many T are asked for in a
day, what they are bid at, and how often providers claim. Every day's credit goes through the contract's own gate.
"""

from collections.abc import Iterator

import msgspec

from consensus.errors import ConsensusError
from consensus.market import access
from consensus.market.ledger_state import moved_price
from consensus.params import NetworkParams
from contracts.budget import BudgetGate, Economics
from contracts.emission import COMPUTE_INITIAL_WEI, TOTAL_INITIAL_WEI

MILLION = 1_000_000


class ForecastInvalid(ConsensusError):
    """An assumption that makes no forecast. ``name`` and ``value`` are its."""

    def __init__(self, name: str, value: int, reason: str) -> None:
        self.name = name
        self.value = value
        super().__init__(f"{name} of {value} {reason}")


class Demand(msgspec.Struct, frozen=True):
    """A market that is assumed."""

    tokens: int
    """T asked for on day 0 by everybody together."""
    growth_ppm: int = 0
    """By how many millionths that grows in a day; negative where it falls."""
    price_wei: int = 10**11
    """What is bid on day 0, in wei per T."""
    price_drift_ppm: int = 0
    """By how many millionths bids move in a day."""
    claim_days: int = 7
    """Providers claim once in so many days."""
    supply_wei: int = 10_000_000 * access.WEI
    """MOR in existence on day 0; from then on it grows by all pools' emission, compute's share of which is 24 %."""


class ForecastDay(msgspec.Struct, frozen=True):
    """A day's numbers: wei and T."""

    day: int
    emission_wei: int
    budget_wei: int
    pool_wei: int
    """The unused compute pool when the day begins (S23)."""
    reserve_wei: int
    """What is left of the bootstrap reserve when the day begins (S24)."""
    reference_price_wei: int
    price_wei: int
    """What the day's T were bid at, within the ceiling."""
    max_t: int
    access_rate: int
    """T per MOR (S38, S40)."""
    asked_t: int
    served_t: int
    credited_wei: int
    """To bids."""
    bootstrap_wei: int
    """To the leaders of the day before."""
    paid_wei: int
    """Claimed on this day."""
    owed_wei: int
    """Credited and not claimed when the day ends."""


def forecast(economics: Economics, params: NetworkParams, demand: Demand, days: int) -> Iterator[ForecastDay]:
    """Day after day from genesis. Raises :class:`ForecastInvalid` for what makes no market."""
    _check(demand, days)
    gate = BudgetGate(economics)
    reference = price = demand.price_wei
    asked, paid, had_credit = demand.tokens, 0, False
    for day in range(days):
        pool, budget = economics.unused(day, gate.market), economics.budget(day, gate.market)
        most = access.max_t(budget, reference)
        rate = access.access_rate(most, supply := supply_wei(economics, demand, day))
        bid = min(price, reference * params.ceiling_percent // 100)
        served = min(asked, access.user_max(most, supply, supply), budget // bid)
        ceiling = economics.bootstrap_ceiling(min(day, params.bootstrap_days))
        bootstrap = ceiling - economics.bootstrap_ceiling(min(max(0, day - 1), params.bootstrap_days))
        bootstrap = bootstrap if had_credit else 0
        reserve = economics.bootstrap_ceiling(day) - gate.bootstrap
        total, after = gate.credited + served * bid + bootstrap, gate.bootstrap + bootstrap
        if (objection := gate.objection(day, total, after)) is not None:
            raise ForecastInvalid("day", day, f"would be refused by the contract: {objection}")
        claimed = gate.credited - paid if day % demand.claim_days == demand.claim_days - 1 else 0
        paid += claimed
        yield ForecastDay(
            day=day,
            emission_wei=economics.emission(day),
            budget_wei=budget,
            pool_wei=pool,
            reserve_wei=reserve,
            reference_price_wei=reference,
            price_wei=bid,
            max_t=most,
            access_rate=rate,
            asked_t=asked,
            served_t=served,
            credited_wei=served * bid,
            bootstrap_wei=bootstrap,
            paid_wei=claimed,
            owed_wei=gate.credited - paid,
        )
        had_credit = served > 0
        reference = moved_price(reference, served, served * bid, params)
        asked = asked * (MILLION + demand.growth_ppm) // MILLION
        price = max(1, price * (MILLION + demand.price_drift_ppm) // MILLION)


def supply_wei(economics: Economics, demand: Demand, day: int) -> int:
    """MOR in existence when ``day`` begins, in wei."""
    emitted = economics.schedule.emitted(economics.day_start_s(day)) - economics.schedule.emitted(economics.genesis_s)
    return demand.supply_wei + emitted * TOTAL_INITIAL_WEI // COMPUTE_INITIAL_WEI


def _check(demand: Demand, days: int) -> None:
    ranges = (
        ("days", days, 1, 36_500),
        ("tokens", demand.tokens, 0, 10**18),
        ("growth_ppm", demand.growth_ppm, -MILLION, MILLION),
        ("price_wei", demand.price_wei, 1, 10**30),
        ("price_drift_ppm", demand.price_drift_ppm, -MILLION, MILLION),
        ("claim_days", demand.claim_days, 1, 36_500),
        ("supply_wei", demand.supply_wei, 1, 2**88),
    )
    for name, value, least, most in ranges:
        if not least <= value <= most:
            raise ForecastInvalid(name, value, f"is not from {least} to {most}")
