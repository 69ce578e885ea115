"""``yellowstone contracts simulate``: the forecast of :mod:`consensus.market.forecast` as table, file and picture."""

import csv as csv_format
import math
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import msgspec

from consensus.market.forecast import MILLION, Demand, ForecastDay, ForecastInvalid, forecast
from consensus.params import NetworkParams, economics_of
from contracts.budget import Economics
from contracts.emission import DAY_S, PAYOUT_START_S
from node.contracts_file import load_contracts
from node.errors import ConfigInvalid

WEI = 10**18
HEAD = (
    "day",
    "emission",
    "budget",
    "credited",
    "bootstrap",
    "pool",
    "reserve",
    "owed",
    "served bn T",
    "MaxT bn",
    "T/MOR",
)


def simulate(
    parameters: Path | None,
    *,
    days: int,
    tokens: int,
    growth_percent: float,
    price_wei: int,
    drift_percent: float,
    claim_days: int,
    supply_mor: int,
    png: Path | None,
    csv: Path | None,
    rows: int,
    say: Callable[[str], object],
) -> None:
    """Forecast and show it. Raises :class:`ConfigInvalid`, naming the value that makes no forecast."""
    economics, params = _network(parameters)
    demand = Demand(
        tokens=tokens,
        growth_ppm=_ppm("growth", growth_percent),
        price_wei=price_wei,
        price_drift_ppm=_ppm("price-drift", drift_percent),
        claim_days=claim_days,
        supply_wei=supply_mor * WEI,
    )
    try:
        found = list(forecast(economics, params, demand, days))
    except ForecastInvalid as error:
        raise ConfigInvalid("demand", error.name, str(error)) from error
    for line in table(found, rows):
        say(line)
    if csv is not None:
        write_csv(csv, found)
        say(f"written: {csv}, {len(found)} days in wei and T")
    if png is not None:
        from node.contracts_plot import plot  # noqa: PLC0415  # matplotlib is an extra

        plot(png, found, title=_title(economics, demand))
        say(f"written: {png}")


def table(found: Sequence[ForecastDay], rows: int) -> list[str]:
    """Evenly spaced days, the first and the last among them. Amounts in MOR."""
    count = min(rows, len(found))
    chosen = [found[place * (len(found) - 1) // max(1, count - 1)] for place in range(count)]
    lines = [" ".join(f"{name:>11}" for name in HEAD)]
    for one in chosen:
        amounts = (one.emission_wei, one.budget_wei, one.credited_wei, one.bootstrap_wei, one.pool_wei, one.reserve_wei)
        mor = [f"{wei / WEI:,.1f}" for wei in (*amounts, one.owed_wei)]
        tokens = (f"{one.served_t / 1e9:,.2f}", f"{one.max_t / 1e9:,.2f}", f"{one.access_rate:,}")
        lines.append(" ".join(f"{text:>11}" for text in (str(one.day), *mor, *tokens)))
    total = sum(one.credited_wei + one.bootstrap_wei for one in found)
    unserved = sum(one.asked_t - one.served_t for one in found)
    lines.append(
        f"In all: {sum(one.emission_wei for one in found) / WEI:,.1f} MOR emitted, {total / WEI:,.1f} credited,"
        f" {sum(one.paid_wei for one in found) / WEI:,.1f} paid; {unserved / 1e9:,.1f} bn T asked for, not served."
    )
    return lines


def write_csv(path: Path, found: Sequence[ForecastDay]) -> None:
    """Every day, unrounded."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv_format.writer(file)
        writer.writerow(ForecastDay.__struct_fields__)
        writer.writerows(msgspec.structs.astuple(one) for one in found)


def _ppm(name: str, percent: float) -> int:
    if not math.isfinite(percent):
        raise ConfigInvalid("demand", name, f"{percent} is no percentage")
    return round(Fraction(str(percent)) * MILLION / 100)


def _network(parameters: Path | None) -> tuple[Economics, NetworkParams]:
    if parameters is not None:
        file = load_contracts(parameters)
        return file.economics(file.genesis_s or int(time.time())), file.params
    params = NetworkParams(emission_start_s=PAYOUT_START_S, emission_interval_s=DAY_S)
    return economics_of(params, PAYOUT_START_S), params


def _title(economics: Economics, demand: Demand) -> str:
    policy = "the day's emission" if economics.policy == 0 else "1 % of the unused pool"
    return (
        f"Budget by {policy}; demand from {demand.tokens / 1e9:,.1f} bn T a day, {demand.growth_ppm / 1e4:+g} % a day;"
        f" bids from {demand.price_wei / 1e9:,.0f} gwei a T, {demand.price_drift_ppm / 1e4:+g} % a day"
    )
