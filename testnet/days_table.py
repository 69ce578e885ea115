"""The table of a run of days: for each day what the ledger says, and under it what the contract's views say."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from consensus.market import access
from contracts.amounts import show_mor
from testnet.days import Account
from testnet.reckoning import Day

COLUMNS = (
    "budget\nMOR",
    "reference price\nwei per T",
    "MaxT\nT",
    "AccessRate\nT per 1 MOR",
    "credited, its\ntickets MOR",
    "credited in all\nMOR",
    "of it bootstrap\nMOR",
    "paid in all\nMOR",
    "pool when it\nbegan MOR",
    "pool's change\n(S23: -1 %)",
)


def render(account: Account) -> RenderableType:
    """The table, and what was tried in the end."""
    title = "Day by day: the ledger, and the contract's views at the day's last batch"
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("day")
    table.add_column("by")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for number, day in sorted(account.days.items()):
        table.add_row(str(number), "ledger", *_of_ledger(day))
        table.add_row("", "contract", *_of_contract(day), end_section=True)
    lines = [
        f"{account.batches} batches were submitted and {account.compared:,} views compared: all agree"
        f" ({account.passed_over} batches were overtaken by a provider's claim on a later one)",
        *account.claimed,
        *account.refusal,
        f"{account.answers} answers; refused by status: {account.refused or 'none'}",
    ]
    return Group(Text(), table, Text(), *(Text(f"- {line}") for line in lines))


def _of_ledger(day: Day) -> tuple[str, ...]:
    account = day.account
    change = "not over" if day.pool_after is None else _percent(day.pool_after - day.pool_before, day.pool_before)
    return (
        _mor(int(account.budget_wei)),
        f"{account.reference_price_wei:,}",
        f"{account.max_t:,}",
        f"{access.access_rate(account.max_t, account.supply_wei):,}",
        _mor(int(account.credited_wei)),
        _mor(day.credited),
        _mor(day.bootstrap),
        "",
        _mor(day.pool_before),
        change,
    )


def _of_contract(day: Day) -> tuple[str, ...]:
    views = day.views
    access_views = f"{views.max_t:,}", f"{views.access_rate:,}"
    amounts = map(_mor, (views.credited, views.bootstrap, views.paid, day.pool_view))
    return _mor(views.budget), "", *access_views, "", *amounts, ""


def _mor(wei: int) -> str:
    return show_mor(wei).removesuffix(" MOR")


def _percent(part: int, whole: int) -> str:
    """Two decimals, cut off towards zero, in integers."""
    hundredths = abs(part) * 10_000 // whole if whole else 0
    return f"{'-' if part < 0 else '+'}{hundredths // 100}.{hundredths % 100:02d} %"
