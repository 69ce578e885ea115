"""``python -m testnet.bench NAME``: what the network costs and how fast it is, on the machine it runs on."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import trio
import typer
from rich.console import Console
from rich.table import Table

from consensus.params import NetworkParams
from inference.session.pace import FRAMES_PER_S
from node.replay import Checks
from testnet.bench.cancel import measure_cancel
from testnet.bench.capacity import UNPACED, measure_capacity, measure_together
from testnet.bench.figures import Figures
from testnet.bench.inference import measure_inference
from testnet.bench.padding import measure_padding
from testnet.bench.runs import measure_match, measure_memory, measure_pressed, measure_ttft, rows
from testnet.errors import TestnetError
from testnet.files import CACHE
from testnet.launch import EXPECTED, leaves
from testnet.plan import TestnetOptions
from testnet.progress import Progress

T = TypeVar("T")

app = typer.Typer(name="bench", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Queries = Annotated[int, typer.Option(min=1, help="How many queries count.")]
Members = Annotated[int, typer.Option(help="Committee members.")]
Providers = Annotated[int, typer.Option(help="Providers.")]
Folder = Annotated[Path, typer.Option("--dir", help="The network's folder.")]

DISTANT_SLOTS = 3
"""Slots with work of the simulated committee; what it takes is the same in each."""

FOLDER = CACHE / "bench-testnet"
PLOT = CACHE / "bench-inference.png"


@app.command()
def match(
    queries: Queries = 100,
    members: Members = 4,
    providers: Providers = 2,
    rate: Annotated[float, typer.Option(min=0, help="Queries a second; 0: one after the other.")] = 0.0,
    folder: Folder = FOLDER,
) -> None:
    """Time from RFC to match and to the provider's open stream, without inference. Fails where a query is lost."""
    options = TestnetOptions(members=members, providers=providers, directory=folder, max_tokens=4)
    if rate:
        _print_figures(_run_plain(measure_pressed, options, queries, rate, Progress(Console(stderr=True))))
    else:
        _print_figures(_run(measure_match, options, queries))


@app.command()
def ttft(queries: Queries = 20, members: Members = 4, providers: Providers = 1, folder: Folder = FOLDER) -> None:
    """Time to first token that the network adds to the engine's own."""
    options = TestnetOptions(members=members, providers=providers, directory=folder, max_tokens=8)
    _print_figures(_run(measure_ttft, options, queries))


@app.command()
def inference(  # noqa: PLR0917  # typer hands them over by name
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds of each kind, direct and through the network by turns.")
    ] = 10,
    engine: Annotated[Literal["llamacpp", "synthetic"], typer.Option(help="What answers.")] = "llamacpp",
    tokens: Annotated[int, typer.Option(min=8, max=512, help="T of an answer at most.")] = 256,
    token_ms: Annotated[int, typer.Option(min=0, help="Engine synthetic: ms a token.")] = 10,
    members: Members = 4,
    folder: Folder = FOLDER,
    plot: Annotated[Path, typer.Option(help="Where the plot goes, a PNG; needs matplotlib.")] = PLOT,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="The table alone.")] = False,
) -> None:
    """The same engine directly and through the network, at 1 and 4 requests at once, side by side."""
    options = TestnetOptions(
        members=members, providers=1, directory=folder, max_tokens=tokens, engine=engine, slots=4, token_ms=token_ms
    )
    measured = _run(measure_inference, options, rounds)
    _print_rows(("", "direct", "network", "compared", "target"), measured.rows())
    if no_plot:
        return
    try:
        measured.plot(plot)
    except TestnetError as error:
        typer.secho(f"no plot: {error}", fg=typer.colors.YELLOW, err=True)
    else:
        print(f"plot: {plot}")


@app.command()
def streams(
    count: Annotated[int, typer.Option(min=1, max=1_000, help="Streams at once.")] = 64,
    rate: Annotated[float, typer.Option(min=1, help="T a second of each.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=1, help="For about so long.")] = 10.0,
    compare: Annotated[bool, typer.Option("--compare", help="A frame for each T beside paced frames.")] = False,
) -> None:
    """One provider process on one core, with many users at once: synthetic engine, real streams, vouchers and store."""
    if not compare:
        _print_rows(("", "measured", "target"), _run_plain(measure_capacity, count, rate, seconds).rows())
        return
    rows = [
        (name, *_run_plain(measure_together, count, rate, seconds, frames_per_s).cells())
        for name, frames_per_s in (("a frame for each T", UNPACED), ("paced frames", FRAMES_PER_S))
    ]
    _print_rows(("", "streams", "T/s", "T a piece", "CPU a T (µs)", "user's CPU a T (µs)"), rows)


@app.command()
def cancel(times: Annotated[int, typer.Option(min=1, help="Cancellations of each kind.")] = 10) -> None:
    """How soon a real engine's slot is free once a user has left its session."""
    figures = _run_plain(measure_cancel, times, Progress(Console(stderr=True)))
    _print_figures(figures)


@app.command()
def padding(
    times: Annotated[int, typer.Option(min=1, help="Answers of each kind.")] = 5,
    rate: Annotated[float, typer.Option(min=1, help="T a second of the engine.")] = 50.0,
    tokens: Annotated[int, typer.Option(min=8, max=1_000, help="T of an answer.")] = 100,
) -> None:
    """What frames of one size at even times cost, against plain ones: synthetic engine, real streams."""
    ways = _run_plain(measure_padding, times, rate, tokens)
    rows = [(name, *way.cells()) for name, way in ways.items()]
    _print_rows(("", "first T (ms)", "T/s", "bytes a T", "sizes of frames"), rows)


@app.command()
def memory(queries: Queries = 5, members: Members = 4, providers: Providers = 2, folder: Folder = FOLDER) -> None:
    """Resident memory of each node's processes (Linux)."""
    options = TestnetOptions(members=members, providers=providers, directory=folder, max_tokens=16)
    table = Table("node", "process", "RSS (MiB)", box=None)
    for name, processes in _run(measure_memory, options, queries).items():
        for process in processes:
            table.add_row(name, short_command(process.command), f"{process.rss_kib / 1_024:.0f}")
    Console().print(table)


@app.command()
def replay(
    batches: Annotated[int, typer.Option(min=2, help="Batches of the made-up log.")] = 500,
    reports: Annotated[int, typer.Option(min=1, max=1_000, help="Settlements in each.")] = 100,
    processes: Annotated[int, typer.Option(min=0, help="Processes that check signatures; 0: one for everything.")] = 2,
    trust_certificates: Annotated[bool, typer.Option("--trust-certificates", help="Skip inner signatures.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where the log is kept while it is measured.")] = CACHE,
) -> None:
    """Replay a made-up log of certified batches: the whole, and its first half to show that time grows linearly."""
    from testnet.bench.replay import DAY, measure_replay  # noqa: PLC0415  # loads what only this command needs

    table = Table("batches", "settlements", "s", "CPU s", "batches/s", "settlements/s", "a day takes", box=None)
    checks = Checks(trust_certificates=trust_certificates, processes=processes)
    for run in measure_replay(batches, reports, checks, folder, Progress(Console(stderr=True))):
        speed = run.batches / run.seconds
        row = (f"{run.batches}", f"{run.settlements}", f"{run.seconds:.1f}", f"{run.cpu_seconds:.1f}", f"{speed:.1f}")
        table.add_row(*row, f"{run.settlements / run.seconds:.0f}", f"{DAY / speed:.0f} s")
    Console().print(table)


@app.command()
def start(
    batches: Annotated[int, typer.Option(min=2, help="Batches of the made-up log.")] = 600,
    reports: Annotated[int, typer.Option(min=1, max=1_000, help="Settlements in each.")] = 100,
    beyond: Annotated[int, typer.Option(min=0, help="Batches after the snapshot.")] = 200,
    folder: Annotated[Path, typer.Option("--dir", help="Where the log is kept while it is measured.")] = CACHE,
) -> None:
    """Start a node on a made-up log: from its snapshot, and from genesis. CPU time, not wall time."""
    from testnet.bench.start import measure_start  # noqa: PLC0415  # loads what only this command needs

    table = Table("batches", "settlements", "begins at", "opening (s)", "following (s)", "snapshot (KiB)", box=None)
    try:
        for run in measure_start(batches, reports, min(beyond, batches - 1), folder, Progress(Console(stderr=True))):
            row = (f"{run.batches}", f"{run.settlements}", f"{run.begins_at}", f"{run.open_s:.2f}")
            table.add_row(*row, f"{run.follow_s:.1f}", f"{run.snapshot_bytes / 1_024:.0f}")
    except TestnetError as error:
        typer.secho(f"bench failed: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error
    Console().print(table)


@app.command()
def gossip(
    nodes: Annotated[int, typer.Option(help="Hosts, each connected to six others.")] = 20,
    rate: Annotated[int, typer.Option(min=1, help="Bids a second, of all hosts together.")] = 20,
    seconds: Annotated[int, typer.Option(min=1, help="For how long.")] = 30,
    processes: Annotated[int, typer.Option(min=1, help="Processes that the hosts share.")] = 2,
) -> None:
    """Share of bids that reach every host, and the time they take. Fails where one is lost."""
    from testnet.bench.gossip import Load, measure_gossip  # noqa: PLC0415  # loads what only this command needs

    load = Load(nodes, rate, seconds, processes)
    try:
        outcome = measure_gossip(load, Progress(Console(stderr=True)))
    except TestnetError as error:
        typer.secho(f"bench failed: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None
    _print_figures({"publish to delivery (ms)": outcome.latencies()})
    each = outcome.cpu_seconds * 1_000 / len(outcome.received)
    share = 100 * len(outcome.received) / load.deliveries
    print(f"delivered {len(outcome.received)} of {load.deliveries} ({share:.2f} %), {each:.2f} ms of CPU a delivery")
    print(f"dropped: {outcome.drops}")
    if len(outcome.received) < load.deliveries:
        raise typer.Exit(1)


@app.command()
def ledger() -> None:
    """CPU that the ledger takes for a report and a batch among 100 to 100,000 accounts, and for the credit tree."""
    from testnet.bench import ledger as measured  # noqa: PLC0415  # loads what only this command needs

    table = Table("", "n", "each", box=None)
    for row in measured.rows():
        table.add_row(*row)
    Console().print(table)


@app.command()
def matching(
    rfcs: Annotated[int, typer.Option(min=1, help="RFCs that count.")] = 20_480,
    providers: Annotated[int, typer.Option(min=2, max=4_000, help="Providers with bids.")] = 1_000,
    models: Annotated[int, typer.Option(min=1, help="Models.")] = 100,
    bids: Annotated[int, typer.Option(min=1, max=20, help="Models that each provider bids for.")] = 5,
) -> None:
    """RFCs a second on one core: the matching core alone, and with a router's signatures. CPU time, not wall time."""
    from testnet.bench import matching as measured  # noqa: PLC0415  # loads what only this command needs

    table = Table("", "RFCs", "µs of CPU", "a second", "target", box=None)
    for row in measured.rows(measured.BookSize(providers, models, bids), rfcs):
        table.add_row(*row)
    Console().print(table)


@app.command()
def committee(  # noqa: PLR0917  # a command's options
    members: Annotated[list[int] | None, typer.Option(min=1, max=64, help="Committee sizes; 4 and 16.")] = None,
    slots: Annotated[int, typer.Option(min=1, help="Batches to decide.")] = 10,
    reports: Annotated[int, typer.Option(min=1, max=10_000, help="Sessions in each batch.")] = 1,
    slot_ms: Annotated[int, typer.Option(min=200, help="A slot, in ms.")] = 2_000,
    delay_ms: Annotated[int, typer.Option(min=0, help="One-way delay of the simulated committee.")] = 100,
    distant: Annotated[int, typer.Option(min=0, max=64, help="Members of the simulated committee; 0: none.")] = 64,
) -> None:
    """Time from a proposal to its decision: a process a member on loopback, and a distant committee in virtual time."""
    from testnet.bench.committee import measure_committee  # noqa: PLC0415  # loads what only this command needs
    from testnet.bench.distance import measure_distance  # noqa: PLC0415  # as above

    progress = Progress(Console(stderr=True))
    most = max(reports, NetworkParams().batch_settlements)
    params = NetworkParams(slot_ms=slot_ms, batch_settlements=most, min_providers=1, pair_percent=100, audit_slots=0)
    table = Table("members", "what", "n", "p50", "p90", "p99", "worst", box=None)
    notes = []
    try:
        for size in members or [4, 16]:
            run = measure_committee(size, slots, reports, params, progress)
            _add_figures(table, size, "proposal to decision (ms)", run.decided_ms)
            _add_figures(table, size, "end of slot to decision (ms)", run.within_ms)
            cpu_ms = run.cpu_s * 1_000 / max(1, run.heights) / size
            session_us = run.cpu_s * 1_000_000 / max(1, run.settlements) / size
            notes.append(
                f"{size} members, 1 process each: {run.heights} batches, {run.settlements} sessions, {run.rounds} in "
                f"more than one round; {cpu_ms:.0f} ms of CPU a member and batch, {session_us:.0f} µs a session; "
                f"longest stall {run.stall_ms:.0f} ms"
            )
        if distant:
            with progress.step(f"deciding among {distant} members, {delay_ms} ms apart"):
                far = measure_distance(distant, delay_ms, DISTANT_SLOTS)
            _add_figures(table, distant, f"the same, {delay_ms} ms apart, virtual (ms)", far.decided_ms)
            notes.append(
                f"{distant} members, simulated: {far.cpu_ms:.0f} ms of CPU a member and batch, of {far.frames} frames"
            )
    except TestnetError as error:
        typer.secho(f"bench failed: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error
    Console().print(table)
    Console().print("\n".join(notes))


def _add_figures(table: Table, members: int, what: str, sample: Sequence[float]) -> None:
    f = Figures.of(list(sample))
    table.add_row(f"{members}", what, f"{f.count}", *(f"{value:.0f}" for value in (f.p50, f.p90, f.p99, f.worst)))


def short_command(command: str) -> str:
    """The module that a Python process runs, or the beginning of any other command."""
    words = command.split()
    return words[words.index("-m") + 1] if "-m" in words[:-1] else command[:40]


def _run(measure: Callable[[TestnetOptions, int, Progress], Awaitable[T]], options: TestnetOptions, queries: int) -> T:
    return _run_plain(measure, options, queries, Progress(Console(stderr=True)))


def _run_plain(measure: Callable[..., Awaitable[T]], *arguments: object) -> T:
    result: list[T] = []

    async def run() -> None:
        result.append(await measure(*arguments))

    try:
        trio.run(run)
    except* EXPECTED as group:
        for error in leaves(group):
            typer.secho(f"bench failed: {error}", fg=typer.colors.RED, err=True)
    if not result:
        raise typer.Exit(1)
    return result[0]


def _print_rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(*head, box=None)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _print_figures(figures: dict[str, Figures]) -> None:
    table = Table("", "n", "p50", "p90", "p99", "worst", box=None)
    for row in rows(figures):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    app(prog_name="python -m testnet.bench")
