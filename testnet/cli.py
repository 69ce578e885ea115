"""``yellowstone testnet``: the command line of the launcher. What is heavy loads in the command."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(name="testnet", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def testnet() -> None:
    """Run a whole network on this machine."""


@app.command()
def up(  # noqa: PLR0917  # typer makes an option of each
    prompt: Annotated[
        str | None, typer.Option(help="What to ask.", show_default="What is the capital of France?")
    ] = None,
    members: Annotated[int, typer.Option(help="Committee members.")] = 4,
    providers: Annotated[int, typer.Option(help="Providers; each asks 3 % more than the one before.")] = 2,
    block: Annotated[int, typer.Option(help="Seconds of an inference block.")] = 4,
    day: Annotated[
        int | None, typer.Option(help="Seconds of a day, a multiple of --block.", show_default="7,200 blocks")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="TokenMax: the longest answer that is paid for.")] = 64,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up until Ctrl-C, and say how to use the network.")] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The network's folder.", show_default=".cache/testnet")
    ] = None,
) -> None:
    """Start a chain and a network, ask a prompt, and see that its provider is paid exactly T × its bid."""
    import trio  # noqa: PLC0415  # loads what only this command needs

    from testnet.launch import up as launch  # noqa: PLC0415  # as above
    from testnet.plan import DEFAULT_PROMPT, TestnetOptions  # noqa: PLC0415  # as above

    options = TestnetOptions(
        prompt=DEFAULT_PROMPT if prompt is None else prompt,
        members=members,
        providers=providers,
        block_s=block,
        day_s=day,
        max_tokens=max_tokens,
        keep=keep,
        directory=directory,
    )
    raise typer.Exit(trio.run(launch, options))


@app.command()
def chaos(
    minutes: Annotated[float, typer.Option(help="How long members are killed and restarted.")] = 5.0,
    members: Annotated[int, typer.Option(help="Committee members.")] = 7,
    block: Annotated[int, typer.Option(help="Seconds of an inference block.")] = 2,
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices.", show_default="at random")] = None,
    directory: Annotated[Path | None, typer.Option("--dir", help="The network's folder.")] = None,
) -> None:
    """Kill and restart committee members at random under load, and see that nothing is lost and nobody signs twice."""
    import secrets  # noqa: PLC0415  # loads what only this command needs

    import trio  # noqa: PLC0415  # as above
    from rich.console import Console  # noqa: PLC0415  # as above

    from testnet.chaos import run_chaos  # noqa: PLC0415  # as above
    from testnet.plan import TestnetOptions  # noqa: PLC0415  # as above
    from testnet.progress import Progress  # noqa: PLC0415  # as above

    console = Console()
    chosen = secrets.randbelow(2**32) if seed is None else seed
    console.print(f"seed {chosen}")
    options = TestnetOptions(members=members, block_s=block, directory=directory)
    tally = trio.run(run_chaos, options, minutes * 60, chosen, Progress(console))
    console.print(
        f"{tally.kills} kills, {len(tally.answered)} answers all settled to {tally.credited_wei} wei "
        f"({tally.slow} too slow to be credited), "
        f"refused by status {tally.refused}, longest without a batch {tally.longest_still_s:.1f} s"
    )


@app.command()
def trials(  # noqa: PLR0917  # typer makes an option of each
    minutes: Annotated[float, typer.Option(help="How long the network is under fire.")] = 15.0,
    members: Annotated[int, typer.Option(help="Committee members.")] = 6,
    providers: Annotated[int, typer.Option(help="Providers, the first of which cheats.")] = 3,
    block: Annotated[int, typer.Option(help="Seconds of an inference block.")] = 2,
    delay: Annotated[int, typer.Option(help="ms that a packet is under way.")] = 50,
    loss: Annotated[float, typer.Option(help="Percent of packets that are lost.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices.", show_default="at random")] = None,
    directory: Annotated[Path | None, typer.Option("--dir", help="The network's folder.")] = None,
) -> None:
    """Run nodes in network namespaces over slow, lossy wires; kill every role, cut the network, let a router, a
    provider and a user cheat; see that all is paid to the wei and each is named. Needs root, iproute2 and TUN."""
    import secrets  # noqa: PLC0415  # loads what only this command needs

    import trio  # noqa: PLC0415  # as above
    from rich.console import Console  # noqa: PLC0415  # as above

    from testnet.plan import TestnetOptions  # noqa: PLC0415  # as above
    from testnet.progress import Progress  # noqa: PLC0415  # as above
    from testnet.trials import run_trials  # noqa: PLC0415  # as above

    console = Console()
    chosen = secrets.randbelow(2**32) if seed is None else seed
    console.print(f"seed {chosen}")
    options = TestnetOptions(members=members, providers=providers, block_s=block, directory=directory, slots=4)
    run = partial(run_trials, delay_ms=delay, loss_percent=loss)
    report = trio.run(run, options, minutes * 60, chosen, Progress(console))
    for line in report.lines():
        console.print(line)


@app.command()
def days(  # noqa: PLR0917  # typer makes an option of each
    count: Annotated[
        int, typer.Option("--days", min=2, help="Whole days of traffic, after what is left of day 0.")
    ] = 5,
    day: Annotated[int, typer.Option(help="Seconds of a day, a multiple of --block.")] = 60,
    members: Annotated[int, typer.Option(help="Committee members.")] = 4,
    block: Annotated[int, typer.Option(help="Seconds of an inference block.")] = 4,
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices.", show_default="at random")] = None,
    directory: Annotated[Path | None, typer.Option("--dir", help="The network's folder.")] = None,
) -> None:
    """Run days of traffic and hold the ledger against the contract's views at every batch; exit 1 where they differ.

    Then claim under an old root what a provider had left unclaimed since day 1, and have a lying committee refused.
    """
    import secrets  # noqa: PLC0415  # loads what only this command needs

    import trio  # noqa: PLC0415  # as above
    from rich.console import Console  # noqa: PLC0415  # as above

    from testnet.days import run_days  # noqa: PLC0415  # as above
    from testnet.days_table import render  # noqa: PLC0415  # as above
    from testnet.launch import EXPECTED, leaves  # noqa: PLC0415  # as above
    from testnet.plan import TestnetOptions  # noqa: PLC0415  # as above
    from testnet.progress import Progress  # noqa: PLC0415  # as above

    console = Console()
    chosen = secrets.randbelow(2**32) if seed is None else seed
    console.print(f"seed {chosen}")
    options = TestnetOptions(members=members, block_s=block, day_s=day, directory=directory)
    failed: list[str] = []
    try:
        console.print(render(trio.run(run_days, options, count, chosen, Progress(console))))
    except* EXPECTED as group:
        failed += [str(leaf) for leaf in leaves(group)]
    for line in failed:
        console.print(f"[bold red]testnet days failed:[/bold red] {line}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if failed else 0)
