"""``python -m testnet.scale``: constants measured here, checks on real runs, large networks by the model."""

from dataclasses import fields
from typing import Annotated

import trio
import typer
from rich.console import Console
from rich.table import Table

from gossip.topics import RFC_SHARDS
from testnet.bench.gossip import Load, measure_gossip
from testnet.errors import TestnetError
from testnet.progress import Progress
from testnet.scale.constants import Constants, frames_of, measure_constants
from testnet.scale.model import MAX_MEMBERS, Design, ceiling_rate, costs
from testnet.scale.nodes import Spent, measure_nodes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

NODES, RATES = (100, 1_000, 10_000), (1, 10, 700)
DESIGNS = {
    "as it was: every topic, a frame for each T, batches of 1,000, ids of tickets kept": Design(
        followers=MAX_MEMBERS,
        node_shards=RFC_SHARDS,
        provider_shards=RFC_SHARDS,
        batch_settlements=1_000,
        paced=False,
        keeps_tickets=True,
    ),
    "as it is": Design(),
    "as it could be: certificates trusted": Design(checks_batches=False),
}
CORE = 1.0


@app.command()
def main(
    *,
    hosts: Annotated[int, typer.Option(min=11, help="Hosts of the real run.")] = 20,
    rate: Annotated[int, typer.Option(min=1, help="RFCs a second in it.")] = 10,
    seconds: Annotated[int, typer.Option(min=1, help="For so long.")] = 10,
    tolerance: Annotated[
        float, typer.Option(min=1.0, help="Measured CPU may be so many times the model's, or less.")
    ] = 1.5,
    nodes: Annotated[int, typer.Option(min=11, help="Nodes of the real network of all roles.")] = 20,
    node_rate: Annotated[float, typer.Option(min=0.1, help="RFCs a second in it, of 500 T each.")] = 2.0,
    node_seconds: Annotated[float, typer.Option(min=1.0, help="For so long, idle and under load.")] = 30.0,
    node_tolerance: Annotated[
        float, typer.Option(min=1.0, help="What load adds to a role may be so many times the model's.")
    ] = 5.0,
) -> None:
    """Fails where the design as it is needs more than a core for a role at 700 RFC/s, or the model is off."""
    console, progress = Console(), Progress(Console(stderr=True))
    try:
        of = measure_constants(progress)
        is_right = _check(console, of, Load(hosts, rate, seconds, rfcs=True), tolerance, progress)
        seen = trio.run(measure_nodes, nodes, node_rate, node_seconds, progress)
        is_right &= _check_nodes(console, of, seen, nodes=nodes, rate=node_rate, tolerance=node_tolerance)
    except TestnetError as error:
        typer.secho(f"scale failed: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None
    _print_constants(console, of)
    fits = [_print_design(console, title, of, design) for title, design in DESIGNS.items()]
    if not (is_right and all(fits[1:])):
        raise typer.Exit(1)


def _check(console: Console, of: Constants, load: Load, tolerance: float, progress: Progress) -> bool:
    """A real network with RFC traffic beside what the model says of it."""
    seen = measure_gossip(load, progress)
    frames, heard = frames_of(seen), len(seen.received)
    said = load.hosts * load.seconds * of.host + heard * (of.rfc_check + (1 + of.repeats) * of.frame)
    said_bytes = heard * (1 + of.repeats) * (of.rfc_bytes + of.overhead_bytes)
    table = Table("", "measured", "model", "ratio", title=f"{load.hosts} hosts, {load.rate} RFC/s", box=None)
    ratios = []
    for what, measured, model in (
        ("CPU (s)", seen.cpu_seconds, said),
        ("MB read", seen.bytes_in / 1e6, said_bytes / 1e6),
        ("frames read", float(frames), heard * (1 + of.repeats)),
    ):
        ratios.append(measured / model)
        table.add_row(what, f"{measured:,.2f}", f"{model:,.2f}", f"{ratios[-1]:.2f}")
    console.print(table)
    console.print(f"delivered {heard} of {load.deliveries}")
    return heard == load.deliveries and all(1 / tolerance <= ratio <= tolerance for ratio in ratios)


def _check_nodes(
    console: Console, of: Constants, seen: dict[str, Spent], *, nodes: int, rate: float, tolerance: float
) -> bool:
    """What load adds to whole nodes beside what the model adds up from single steps."""
    heads = ("role", "idle", "model", "under load", "load adds", "model", "ratio", "MB")
    table = Table(*heads, title=f"{nodes} nodes at {rate:g} RFC/s, cores of each", box=None)
    idle, busy = ({cost.role: cost.cpu for cost in costs(nodes, r, of, Design())} for r in (0.0, rate))
    is_right = True
    for role, spent in seen.items():
        added, said = spent.busy - spent.idle, busy[role] - idle[role]
        is_right &= added <= tolerance * said
        figures = (spent.idle, idle[role], spent.busy, added, said)
        table.add_row(role, *(f"{each:.4f}" for each in figures), f"{added / said:.2f}", f"{spent.resident / 1e6:.0f}")
    console.print(table)
    return is_right


def _print_constants(console: Console, of: Constants) -> None:
    table = Table("constant", "", title="measured here", box=None)
    for name in (field.name for field in fields(of)):
        value = getattr(of, name)
        is_count = name.endswith("bytes") or name == "repeats"
        table.add_row(name, f"{value:,.2f}" if is_count else f"{value * 1e6:,.1f} µs")
    console.print(table)


def _print_design(console: Console, title: str, of: Constants, design: Design) -> bool:
    """The table of a design; whether no role needs more than a core, and batches settle what is asked for."""
    table = Table(title=f"{title} (batches settle {ceiling_rate(design):.0f} RFC/s)", title_justify="left", box=None)
    for head in ("nodes", "RFC/s", "role", "messages/s", "kB/s", "cores", "GB", "most of it"):
        table.add_column(head, justify="left" if head in {"role", "most of it"} else "right")
    fits = ceiling_rate(design) >= max(RATES)
    for nodes in NODES:
        for rate in RATES:
            for cost in costs(nodes, rate, of, design):
                over = cost.cpu > CORE
                fits = fits and not over
                name, most = max(cost.parts, key=lambda part: part[1])
                table.add_row(
                    f"{nodes:,}",
                    f"{rate}",
                    cost.role,
                    f"{cost.messages:,.0f}",
                    f"{cost.bytes / 1e3:,.0f}",
                    f"[red]{cost.cpu:.2f}[/red]" if over else f"{cost.cpu:.2f}",
                    f"{cost.memory / 1e9:.2f}",
                    f"{name} {most:.2f}",
                )
    console.print(table)
    return fits


if __name__ == "__main__":
    app(prog_name="python -m testnet.scale")
