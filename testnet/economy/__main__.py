"""``python -m testnet.economy``: what each attack earns beside honest work, for months of days."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from testnet.economy.attacks import STRATEGIES
from testnet.economy.bounds import PROPOSED, TODAY, Outcome, play, variations
from testnet.economy.plot import draw
from testnet.economy.rules import Rules
from testnet.economy.simulation import Setup
from testnet.errors import OptionInvalid

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

RULES: dict[str, Rules] = {"today": TODAY, "proposed": PROPOSED}


@app.command()
def main(  # noqa: PLR0917  # typer hands them over by name
    days: Annotated[int, typer.Option(min=2, help="Days to play.")] = 120,
    users: Annotated[int, typer.Option(min=1, help="Honest users.")] = 2_000,
    providers: Annotated[int, typer.Option(min=20, help="Honest providers.")] = 200,
    seed: Annotated[int, typer.Option(help="A run is its seed.")] = 1,
    attack: Annotated[str, typer.Option(help="One attack by name, or each.")] = "each",
    attack_percent: Annotated[int, typer.Option(min=1, max=50, help="Of the supply, in the attacker's hands.")] = 2,
    rules: Annotated[Literal["today", "proposed", "both"], typer.Option(help="What the network plays by.")] = "today",
    plot: Annotated[Path | None, typer.Option(help="Also a PNG; needs matplotlib.")] = None,
    ablate: Annotated[bool, typer.Option("--ablate", help="Also other rules, one change at a time.")] = False,
) -> None:
    """Play every attack on the same market; fails where a bound does not hold under one of the rules played by."""
    names = _named(attack)
    console, chosen = Console(), list(RULES) if rules == "both" else [rules]
    sets = {word: RULES[word] for word in chosen}
    began, played = time.process_time(), dict[str, list[Outcome]]()
    for word, of in sets.items():
        played[word] = play(Setup(days, users, providers, seed, attack_percent, of), names)
        console.print(_table(f"rules of {word}", played[word]))
    console.print(
        f"{days} days, {users} users, {providers} providers, seed {seed}: {time.process_time() - began:.1f} s CPU"
    )
    if ablate:
        _ablate(console, Setup(days, users, providers, seed, attack_percent), names)
    if plot is not None:
        draw(played, plot)
    if any(outcome.broken for outcomes in played.values() for outcome in outcomes):
        raise typer.Exit(1)


def _named(attack: str) -> tuple[str, ...]:
    if attack == "each":
        return tuple(STRATEGIES)
    if attack not in STRATEGIES:
        raise typer.BadParameter(str(OptionInvalid("attack", attack, f"known are {', '.join(STRATEGIES)}, each")))
    return (attack,)


def _table(title: str, outcomes: list[Outcome]) -> Table:
    """MOR a million MOR earns a day: the numbers are small."""
    table = Table(title=f"{title}: MOR per million MOR and day", title_justify="left", box=None)
    for head in (
        "",
        "profit",
        "on capital",
        "honest",
        "share of budget",
        "honest users served",
        "others' profit",
        "bounds",
    ):
        table.add_column(head, justify="left" if head in {"", "bounds"} else "right", no_wrap=head == "")
    for one in outcomes:
        table.add_row(
            one.name,
            f"{one.per_mor * 1e6:.1f}",
            f"{one.per_capital * 1e6:.1f}",
            f"{one.honest_per_mor * 1e6:.1f}",
            f"{one.share_per_mor * 1e6:.1f}",
            f"{one.served * 100:.1f} %",
            f"{one.others_percent:.0f} %",
            "; ".join(one.broken) or "hold",
        )
    return table


def _ablate(console: Console, setup: Setup, names: tuple[str, ...]) -> None:
    table = Table(title="one change at a time", title_justify="left", box=None)
    table.add_column("rules")
    table.add_column("what breaks a bound (profit, MOR per million MOR and day)")
    for title, rules in variations():
        bad = [
            one
            for one in play(
                Setup(setup.days, setup.users, setup.providers, setup.seed, setup.attack_percent, rules), names
            )
            if one.broken
        ]
        table.add_row(title, ", ".join(f"{one.name} {one.per_mor * 1e6:.0f}" for one in bad) or "nothing")
    console.print(table)


if __name__ == "__main__":
    app(prog_name="python -m testnet.economy")
