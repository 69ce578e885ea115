"""``yellowstone committee``: join and leave, list models, what a member does, and what it has signed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli_options import Config, Overrides, ask_control, pairs, print_control

if TYPE_CHECKING:
    from node.staking import HandOverCall, Staking

app = typer.Typer(
    no_args_is_help=True, help="Join and leave the committee, list models, what a member does and signed."
)

ModelId = Annotated[
    str, typer.Argument(help="The model's id, as 0x hex: `yellowstone model list -c` prints those on offer.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask before signing.")]


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

    Export where the member ran, and it doesn't start there any more; import where it is to run. Without the history a
    member could sign against what it has signed before, and lose its stake.
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
        typer.echo("from now on   this member doesn't start here, unless a history is imported here again")
    if restore is not None:
        count, watermark = trio.run(import_history, node, restore)
        typer.echo(f"taken over    {restore}: {count} signatures, up to {watermark}")


@app.command("list")
def list_(
    model_id: ModelId, config: Config = Path("node.toml"), overrides: Overrides = None, *, yes: Yes = False
) -> None:
    """Order that a model be payable, with this member's voting power; prints who bids for it before it signs.

    It is, from a later day on, once more than 2/3 of the committee's voting power has given the order.
    """
    _order(model_id, config, overrides, is_listed=True, is_sure=yes)


@app.command()
def unlist(
    model_id: ModelId, config: Config = Path("node.toml"), overrides: Overrides = None, *, yes: Yes = False
) -> None:
    """Order that a model be payable no longer; prints who bids for it before it signs."""
    _order(model_id, config, overrides, is_listed=False, is_sure=yes)


@app.command()
def models(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print the list of payable models and, at a member, the orders that wait for other members or for a batch."""
    print_control(config, overrides, "/committee/listing")


def _order(model_id: str, config: Path, overrides: list[str] | None, *, is_listed: bool, is_sure: bool) -> None:
    seen = ask_control(config, overrides, f"/committee/listing/{model_id}")
    for line in _shown(seen):
        typer.echo(line)
    verb = "list" if is_listed else "unlist"
    if not is_sure:
        typer.confirm(f"sign the order to {verb} this model?", abort=True)
    given = ask_control(config, overrides, f"/committee/{verb}/{model_id}", "POST")
    typer.echo(f"signed        the order to {verb} {given['model_id']}, of day {given['day']}")
    typer.echo(f"in force      from day {given['in_force']} on, if enough members give it now")


def _shown(seen: dict[str, Any]) -> Iterator[str]:
    """A model and its bidders, for whoever has to judge whether they are independent of one another."""
    yield f"model         {seen['model_id']}"
    yield f"name          {seen['name'] or 'nobody serves it now'}"
    yield f"listed        {'yes' if seen['is_listed'] else 'no'}"
    for bid in seen["bids"]:
        wei = bid["balance_wei"]
        held = "MOR unknown" if wei is None else f"{wei / 10**18:,.2f} MOR"
        traits = "scores" if bid["scores"] else "does not score", "proven" if bid["has_proven"] else "not proven here"
        yield f"bid           {bid['provider']}  {bid['price_wei']} wei per T  {held}  {', '.join(traits)}"
    yield f"in all        {len(seen['bids'])} addresses: who has two is no second party, so ask who stands behind each"
    for order in seen["orders"]:
        verb = "list" if order["is_listed"] else "unlist"
        yield f"order         to {verb}, of day {order['day']}: {order['stake_percent']} % of voting power"


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
