"""``python -m testnet.simulator --seeds 1..100 --members 4 --faults all``."""

import gc
import re
import time
import traceback
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from testnet.errors import OptionInvalid, TestnetError
from testnet.simulator.contract import simulate_and_judge
from testnet.simulator.errors import PlanUnknown
from testnet.simulator.faults import PLANS
from testnet.simulator.setting import make_setting
from testnet.simulator.simulation import Result, simulate

app = typer.Typer(name="simulator", add_completion=False, pretty_exceptions_enable=False)

COLLECT = 50_000, 20, 20
"""Collect garbage rarely: messages are many, small and in no cycles, and a run is short."""

COLUMNS = (
    "plan",
    "seeds",
    "heights",
    "per s",
    "rounds",
    "refused",
    "restarts",
    "epochs",
    "asked",
    "listed",
    "on chain",
)
"""Of each plan: heights a second, rounds a decision, frames refused, committees that decided in a run, settlements that
a proposal named and a member had to ask for, listing orders that were decided, and batches that the contracts took."""

WIDTH = 100
"""Columns that the table needs."""

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
        int,
        typer.Option(min=0, help="Have the contracts judge every so many runs; 0: none."),
    ] = 0,
) -> None:
    """Run a committee under faults in virtual time; exit 1 where the oracle objects."""
    gc.set_threshold(*COLLECT)
    try:
        chosen = seeds_of(seeds)
        plans = PLANS if faults == "each" else (faults,)
        make_setting(members).workload.sign(slots)
        table = Table(Column(COLUMNS[0], no_wrap=True), *COLUMNS[1:], box=None, padding=(0, 1), pad_edge=False)
        rows = [_run(plan, chosen, members, slots, contract) for plan in plans]
    except (TestnetError, PlanUnknown) as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from error
    for row in rows:
        table.add_row(*row.cells())
    failed = [result for row in rows for result in row.results if result.violation is not None]
    Console(width=max(WIDTH, Console().width)).print(table)
    for result in failed:
        _show(result, members, slots)
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What came of the seeds of one plan, in how many seconds, and how many batches the contracts took."""

    plan: str
    results: tuple[Result, ...]
    seconds: float
    judged: int

    def cells(self) -> tuple[str, ...]:
        """In the order of :data:`COLUMNS`."""
        heights = sum(result.heights for result in self.results)
        rounds = sum(round_ + 1 for result in self.results for round_ in result.rounds)
        return (
            self.plan,
            str(len(self.results)),
            str(heights),
            f"{heights / self.seconds:.0f}",
            f"{rounds / max(1, heights):.2f}",
            str(sum(result.refused for result in self.results)),
            str(sum(result.restarts for result in self.results)),
            f"{sum(result.epochs for result in self.results) / len(self.results):.1f}",
            str(sum(result.asked for result in self.results)),
            str(sum(result.listings for result in self.results)),
            str(self.judged),
        )


def _run(plan: str, seeds: range, members: int, slots: int, contract: int) -> PlanRow:
    """Run the seeds of a plan, every ``contract``-th with the contracts as judges."""
    began = time.perf_counter()
    results, judged = [], 0
    for seed in seeds:
        if contract and seed % contract == 0:
            result, taken = simulate_and_judge(plan, seed, members, slots)
            judged += taken
        else:
            result = simulate(plan, seed, members, slots)
        results.append(result)
    return PlanRow(plan, tuple(results), time.perf_counter() - began, judged)


def _show(result: Result, members: int, slots: int) -> None:
    typer.echo("\n".join(result.trace))
    typer.echo(f"plan: {result.plan}")
    if result.violation is not None and result.violation.__cause__ is not None:
        typer.echo("".join(traceback.format_exception(result.violation.__cause__)))
    typer.secho(f"seed {result.seed}: {result.violation}", fg=typer.colors.RED, err=True)
    typer.secho(f"again: {command_of(result.plan.name, result.seed, members, slots)}", err=True)


if __name__ == "__main__":
    app(prog_name="python -m testnet.simulator")
