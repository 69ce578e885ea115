"""``yellowstone committee``: join and leave, what a member does, and what it has signed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli_options import Config, Overrides, ask_control, pairs, print_control

if TYPE_CHECKING:
    from node.staking import HandOverCall, Staking

app = typer.Typer(no_args_is_help=True, help="Join and leave the committee, what a member does, and what it signed.")


@app.command()
def join(
    stake: Annotated[str, typer.Option(help="MOR to stake, as in 1000 or 0.5.")],
    config: Config = Path("node.toml"),
    overrides: Overrides = None,
) -> None:
    """Stake MOR, to be drawn into the committee at the next day's opening; run the node with the role member."""
    from node.staking import parse_mor  # noqa: PLC0415  # loads what only this command needs

    amount = parse_mor(stake)
    _staking(config, overrides).join(amount)


@app.command()
def leave(
    amount: Annotated[str | None, typer.Option(help="MOR to take out; all of it where this is left out.")] = None,
    config: Config = Path("node.toml"),
    overrides: Overrides = None,
) -> None:
    """Unstake MOR, to be out of the committee from the next draw on; `committee withdraw` pays it out later."""
    from node.staking import parse_mor  # noqa: PLC0415  # loads what only this command needs

    wanted = None if amount is None else parse_mor(amount)
    _staking(config, overrides).leave(wanted)


@app.command()
def withdraw(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Pay out what was unstaked, once the wait is over."""
    _staking(config, overrides).withdraw()


@app.command("hand-over")
def hand_over(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Bring the registry the hand-overs that a running node knows and it lacks; providers do so before they claim."""
    staking = _staking(config, overrides)
    answer = ask_control(config, overrides, f"/committee/hand-overs/{staking.epoch}")
    staking.hand_over([_call(entry) for entry in answer])


@app.command()
def rescue(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Announce that the committee is lost or, when the notice is over, put all who have staked in its place."""
    _staking(config, overrides).rescue()


@app.command()
def status(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print this member's stake, height and round, who is late, and who has signed twice."""
    print_control(config, overrides, "/committee")


@app.command()
def log(
    config: Config = Path("node.toml"),
    overrides: Overrides = None,
    export: Annotated[
        Path | None, typer.Option(help="Write all that a stopped member has signed to this file.")
    ] = None,
    restore: Annotated[
        Path | None, typer.Option("--import", help="Take over what was signed elsewhere, on a stopped member.")
    ] = None,
) -> None:
    """Print what this member signed last, and why; or move its signing history to another machine.

    Export where the member ran, never start it there again, import where it is to run: without the history a member
    could sign against what it has signed before, and lose its stake.
    """
    if export is None and restore is None:
        typer.echo(json.dumps(ask_control(config, overrides, "/committee/log"), indent=2))
        return
    if export is not None and restore is not None:
        raise typer.BadParameter("either --export or --import", param_hint="--export")
    import trio  # noqa: PLC0415  # loads what only this command needs

    from node.config import load_node  # noqa: PLC0415  # as above
    from node.signing_move import export_history, import_history  # noqa: PLC0415  # as above

    node = load_node(config, pairs(overrides))
    if export is not None:
        count, watermark = trio.run(export_history, node, export)
        typer.echo(f"written       {export}: {count} signatures, up to {watermark}")
        typer.echo("from now on   don't start this member here any more")
    if restore is not None:
        count, watermark = trio.run(import_history, node, restore)
        typer.echo(f"taken over    {restore}: {count} signatures, up to {watermark}")


def _staking(config: Path, overrides: list[str] | None) -> "Staking":
    from node.staking import open_staking  # noqa: PLC0415  # loads what only these commands need

    return open_staking(config, pairs(overrides), typer.echo)


def _call(entry: dict[str, Any]) -> "HandOverCall":
    """One entry of the control API's answer."""
    from contracts.typed_data import Address, Signature  # noqa: PLC0415  # loads what only this command needs
    from node.staking import HandOverCall  # noqa: PLC0415  # as above

    members = tuple((Address(_raw(one["address"])), int(one["stake_wei"])) for one in entry["members"])
    signatures = tuple(Signature(_raw(one)) for one in entry["signatures"])
    return HandOverCall(int(entry["epoch"]), int(entry["day"]), members, signatures)


def _raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
