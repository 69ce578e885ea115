"""``yellowstone replay``: what the command shows while a log is replayed, and in the end."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from consensus.market.ledger_state import Ledger
from contracts.typed_data import Digest
from node.config import load_network, load_node
from node.errors import ReplayFailed
from node.replay import Checks, replay
from node.store.reading import count_batches, read_batches


def replay_store(
    config: Path,
    overrides: dict[str, str],
    *,
    from_height: int,
    trust_certificates: bool,
    processes: int | None,
    rescues: Sequence[str] = (),
) -> None:
    """Replay the batches that the node of ``config`` has stored, and print what they lead to.

    The node must not run. ``processes`` None: as many as there are processors. ``rescues`` are the roots (0x hex) of
    rescued committees that the reader has looked up in the registry. Raises :class:`~node.errors.NodeError`;
    of these :class:`~node.errors.ReplayFailed` names the first batch that does not hold.
    """
    node = load_node(config, overrides)
    network = load_network(node.network)
    store = node.data_dir / "node.sqlite"
    total = count_batches(store)
    count = (os.cpu_count() or 1) if processes is None else processes
    checks = Checks(trust_certificates, from_height, count, tuple(_root(text) for text in rescues))
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("replaying", total=total)

        def advance(_: Ledger) -> None:
            progress.advance(bar)

        try:
            with read_batches(store) as batches:
                end = replay(batches, network, checks, advance)
        except ReplayFailed as error:
            done = error.height - 1
            typer.echo(f"{done} batches hold; the first that does not is of height {error.height}: {error.field}")
            raise
    took = time.monotonic() - started
    typer.echo(f"height          {end.height}")
    typer.echo(f"state root      0x{end.state_root.hex()}")
    typer.echo(f"total credited  {end.total_credited} wei")
    typer.echo(f"replayed        {end.height} batches, {end.settlements} settlements in {took:.1f} s")
    typer.echo(f"                {end.height / took:.1f} batches/s, {end.settlements / took:.0f} settlements/s")
    typer.echo(f"checked         {_checked(checks)}")


def _root(text: str) -> Digest:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise typer.BadParameter(f"{text!r} is not 32 bytes of hex", param_hint="--trust-rescue")
    return Digest(raw)


def _checked(checks: Checks) -> str:
    always = "every certificate, every rule, every header"
    if checks.trust_certificates:
        return f"{always}; settlements' signatures on the certificates' word"
    if checks.signatures_from > 1:
        return f"{always}, every signature from height {checks.signatures_from} on"
    return f"{always}, every signature"
