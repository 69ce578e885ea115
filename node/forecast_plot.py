"""A forecast as a table and as a picture. The picture needs matplotlib, the extra ``plot``."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from consensus.market.forecast import Day
from node.errors import PlotUnavailable

WEI = 10**18
BILLION = 10**9

COLUMNS = (
    *("day", "emission", "budget", "credited", "bootstrap", "paid", "pool"),
    *("T asked", "T served", "MaxT", "T per MOR", "wei per T"),
)
"""Amounts in MOR, T in billions; AccessRate is T per MOR a day."""


def table_of(days: Sequence[Day], every: int) -> Table:
    """Each ``every``-th day and the last one."""
    table = Table(*COLUMNS, box=None, padding=(0, 1), pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for day in days:
        if day.day % every == 0 or day is days[-1]:
            table.add_row(*_cells(day))
    return table


def _cells(day: Day) -> tuple[str, ...]:
    amounts = (day.emission_wei, day.budget_wei, day.credited_wei, day.bootstrap_wei, day.paid_wei)
    tokens = (day.demand_t, day.served_t, day.max_t)
    return (
        str(day.day),
        *(f"{wei / WEI:,.1f}" for wei in amounts),
        f"{day.pool_wei / WEI:,.0f}",
        *(f"{count / BILLION:,.2f}" for count in tokens),
        f"{day.access_rate:,}",
        f"{day.reference_price_wei:,}",
    )


def plot(days: Sequence[Day], path: Path) -> None:
    """Pool, budget and payouts, T, and AccessRate over time, as a PNG. Raises :class:`PlotUnavailable`."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise PlotUnavailable("matplotlib") from error
    figure = Figure(figsize=(11, 12), layout="constrained")
    figure.suptitle(f"{len(days)} days under the given demand")
    numbers = [day.day for day in days]
    money, spent, tokens, access = figure.subplots(4, 1, sharex=True)
    money.plot(numbers, [day.pool_wei / WEI for day in days], label="pool: received and not paid", color="tab:blue")
    money.plot(numbers, [day.unused_wei / WEI for day in days], label="unused pool (S23)", color="tab:cyan", ls="--")
    money.set_ylabel("MOR")
    spent.plot(numbers, [day.emission_wei / WEI for day in days], label="compute emission", color="tab:gray", ls=":")
    spent.plot(numbers, [day.budget_wei / WEI for day in days], label="budget (S37)", color="tab:orange")
    spent.plot(numbers, [day.paid_wei / WEI for day in days], label="paid to providers", color="tab:green")
    spent.set_ylabel("MOR a day")
    tokens.plot(numbers, [day.max_t / BILLION for day in days], label="MaxT (S38)", color="tab:orange")
    tokens.plot(numbers, [day.demand_t / BILLION for day in days], label="asked for", color="tab:gray", ls=":")
    tokens.plot(numbers, [day.served_t / BILLION for day in days], label="served", color="tab:green")
    tokens.set_ylabel("billion T a day")
    access.plot(numbers, [day.access_rate for day in days], label="AccessRate (S38), left", color="tab:purple")
    access.set_ylabel("T per 1 MOR a day")
    prices = access.twinx()
    levels = [day.reference_price_wei / BILLION for day in days]
    prices.plot(numbers, levels, label="reference price, right", color="tab:red")
    prices.set_ylabel("billionths of a MOR per T")
    access.set_xlabel("day")
    for axes in (money, spent, tokens):
        axes.legend(loc="best")
    handles = [*access.get_lines(), *prices.get_lines()]
    access.legend(handles, [str(line.get_label()) for line in handles], loc="best")
    for axes in (money, spent, tokens, access):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
