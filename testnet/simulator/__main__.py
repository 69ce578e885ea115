"""``python -m testnet.simulator --seeds 1..100 --members 4 --faults all``."""

import gc
import re
import time
import traceback
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from testnet.errors import OptionInvalid
from testnet.simulator.errors import PlanUnknown
from testnet.simulator.faults import PLANS
from testnet.simulator.setting import make_setting
from testnet.simulator.simulation import Result, simulate

app = typer.Typer(name="simulator", add_completion=False, pretty_exceptions_enable=False)

COLLECT = 50_000, 20, 20
"""Collect garbage rarely: messages are many, small and in no cycles, and a run is short."""

SEEDS = re.compile(r"(\d+)(?:\.\.(\d+))?")


def seeds_of(text: str) -> range:
    """``7`` or ``1..100``, both ends included. Raises :class:`OptionInvalid`."""
    found = SEEDS.fullmatch(text)
    if found is None:
        raise OptionInvalid("seeds", text, "give one number, or two as in 1..100")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise OptionInvalid("seeds", text, "the last is below the first")
    return range(first, last + 1)


def command_of(plan: str, seed: int, members: int, slots: int) -> str:
    """What reproduces one run."""
    return f"python -m testnet.simulator --seeds {seed} --members {members} --faults {plan} --slots {slots}"


@app.command()
def simulator(
    seeds: Annotated[str, typer.Option(help="Seeds to run, as in 1..100.")] = "1..20",
    members: Annotated[int, typer.Option(min=1, max=64, help="Committee members.")] = 4,
    faults: Annotated[
        str, typer.Option(help=f"Fault plan: {', '.join(PLANS)}, or 'each' for one after another.")
    ] = "all",
    slots: Annotated[int, typer.Option(min=2, help="Slots with work in each run.")] = 20,
    contract: Annotated[
        int, typer.Option(min=0, help="Let the contracts judge the decisions of every so many-th seed; 0: of none.")
    ] = 20,
) -> None:
    """Run a committee under faults in virtual time; exit 1 where the oracle objects."""
    gc.set_threshold(*COLLECT)
    try:
        chosen = seeds_of(seeds)
        if contract and find_spec("boa") is None:
            raise OptionInvalid("contract", str(contract), "the EVM comes with the extra 'dev'; 0 goes without")
        plans = PLANS if faults == "each" else (faults,)
        make_setting(members).workload.sign(slots)
        table = Table(
            "plan", "seeds", "heights", "heights/s", "rounds/decision", "refused", "restarts", "epochs", box=None
        )
        failed = [result for plan in plans for result in _run(plan, chosen, (members, slots, contract), table)]
    except (OptionInvalid, PlanUnknown) as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from error
    Console().print(table)
    for result in failed:
        _show(result, members, slots)
    if failed:
        raise typer.Exit(1)


def _run(plan: str, seeds: range, size: tuple[int, int, int], table: Table) -> list[Result]:
    """Run the seeds of a plan, add its row, and give back what went wrong.

    ``size`` is members, slots, and how many seeds share a look by the contracts.
    """
    members, slots, every = size
    began = time.perf_counter()
    results = [simulate(plan, seed, members, slots, with_contract=bool(every) and seed % every == 0) for seed in seeds]
    seconds = time.perf_counter() - began
    heights = sum(result.heights for result in results)
    rounds = sum(round_ + 1 for result in results for round_ in result.rounds)
    table.add_row(
        plan,
        str(len(results)),
        str(heights),
        f"{heights / seconds:.0f}",
        f"{rounds / max(1, heights):.2f}",
        str(sum(result.refused for result in results)),
        str(sum(result.restarts for result in results)),
        str(sum(result.epochs for result in results)),
    )
    return [result for result in results if result.violation is not None]


def _show(result: Result, members: int, slots: int) -> None:
    typer.echo("\n".join(result.trace))
    typer.echo(f"plan: {result.plan}")
    if result.violation is not None and result.violation.__cause__ is not None:
        typer.echo("".join(traceback.format_exception(result.violation.__cause__)))
    typer.secho(f"seed {result.seed}: {result.violation}", fg=typer.colors.RED, err=True)
    typer.secho(f"again: {command_of(result.plan.name, result.seed, members, slots)}", err=True)


if __name__ == "__main__":
    app(prog_name="python -m testnet.simulator")
