"""``yellowstone contracts``: deploy a network's contracts, compare them with their sources, see what they lead to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contracts.typed_data import Address

if TYPE_CHECKING:
    from node.contracts_on_chain import OnChain

app = typer.Typer(no_args_is_help=True, help="Deploy and verify a network's contracts, and simulate their economics.")

File = Annotated[Path, typer.Option("--file", "-f", help="The deployment's parameters: deploy.toml.")]
Addresses = Annotated[Path | None, typer.Option(help="The address file; beside deploy.toml where this is left out.")]


@app.command()
def deploy(file: File = Path("deploy.toml"), addresses: Addresses = None) -> None:
    """Put the contracts on a chain and write the address file; goes on where an earlier try was interrupted."""
    _on_chain(file, addresses).deploy()


@app.command()
def stake(
    amount: Annotated[str, typer.Argument(help="MOR to stake, as in 1000 or 0.5.")],
    key: Annotated[Path, typer.Option(help="The member's MOR key file.")],
    password_file: Annotated[Path | None, typer.Option(help="The file with its password.")] = None,
    file: File = Path("deploy.toml"),
    addresses: Addresses = None,
) -> None:
    """Stake for epoch 1; once the network runs, `yellowstone committee join` does that."""
    from node.staking import parse_mor  # noqa: PLC0415  # loads what only this command needs

    wei = parse_mor(amount)
    _on_chain(file, addresses).stake(key, password_file, wei)


@app.command()
def genesis(
    file: File = Path("deploy.toml"),
    addresses: Addresses = None,
    network: Annotated[Path, typer.Option(help="The network file to write.")] = Path("network.toml"),
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(help="A multiaddr with /p2p/<peer id> to start from; again for more."),
    ] = None,
) -> None:
    """Open epoch 1 with all who have staked, and write the network.toml that every node starts from."""
    _on_chain(file, addresses).genesis(network, bootstrap or ())


@app.command()
def balance(
    holders: Annotated[list[str], typer.Argument(help="Addresses, 0x….", metavar="ADDRESS...")],
    file: File = Path("deploy.toml"),
    addresses: Addresses = None,
) -> None:
    """Show what addresses hold of MOR, and of the chain's coin for gas."""
    found = [_address(holder) for holder in holders]
    _on_chain(file, addresses).balances(found)


@app.command()
def mint(
    to: Annotated[str, typer.Argument(help="Who gets it, 0x….")],
    amount: Annotated[str, typer.Argument(help="MOR, as in 1000 or 0.5.")],
    file: File = Path("deploy.toml"),
    addresses: Addresses = None,
) -> None:
    """Create MOR of a test network, with the deployer's key; no other token lets itself be minted."""
    from node.staking import parse_mor  # noqa: PLC0415  # loads what only this command needs

    receiver, wei = _address(to), parse_mor(amount)
    _on_chain(file, addresses).mint(receiver, wei)


@app.command()
def transfer(
    to: Annotated[str, typer.Argument(help="Who gets it, 0x…: the Compute Contract for an endowment.")],
    amount: Annotated[str, typer.Argument(help="MOR, as in 1000 or 0.5.")],
    *,
    key: Annotated[Path | None, typer.Option(help="Whose MOR; the deployer's where this is left out.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="The file with the key's password.")] = None,
    file: File = Path("deploy.toml"),
    addresses: Addresses = None,
) -> None:
    """Send MOR from the deployer's address, or from another key's."""
    from node.staking import parse_mor  # noqa: PLC0415  # as above

    receiver, wei = _address(to), parse_mor(amount)
    _on_chain(file, addresses).transfer(receiver, wei, key, password_file)


@app.command()
def verify(file: File = Path("deploy.toml"), addresses: Addresses = None) -> None:
    """Recompile the sources and compare them, with the arguments of the constructors, with what is on the chain."""
    _on_chain(file, addresses).verify()


@app.command()
def simulate(
    days: Annotated[int, typer.Option(min=1, max=20_000, help="Days from genesis on.")] = 730,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A deploy.toml; Morpheus's emission without one.")
    ] = None,
    supply: Annotated[str, typer.Option(help="MOR in existence.")] = "10000000",
    demand: Annotated[int, typer.Option(min=0, help="T asked for on day 0.")] = 5_000_000_000,
    growth: Annotated[float, typer.Option(min=-100, max=1_000, help="Percent more every day.")] = 0.5,
    bid: Annotated[int, typer.Option(min=1, help="Mean winning bid, in percent of the reference price.")] = 100,
    claim_days: Annotated[int, typer.Option(min=0, max=10_000, help="Days until providers claim.")] = 1,
    price: Annotated[int, typer.Option(min=1, help="Reference price of day 0, in wei per T.")] = 90_000_000_000,
    every: Annotated[int, typer.Option(min=1, help="Print every so many days.")] = 30,
    plot: Annotated[Path, typer.Option(help="The picture to write.")] = Path("economics.png"),
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Only the table.")] = False,
) -> None:
    """Show pool, budget, payouts and AccessRate over time under a given demand, by the rules of ledger and contract."""
    from rich.console import Console  # noqa: PLC0415  # loads what only this command needs

    from consensus.market.forecast import Demand, forecast  # noqa: PLC0415  # as above
    from node.contracts_on_chain import terms_of  # noqa: PLC0415  # as above
    from node.forecast_plot import plot as draw  # noqa: PLC0415  # as above
    from node.forecast_plot import table_of  # noqa: PLC0415  # as above
    from node.staking import parse_mor  # noqa: PLC0415  # as above

    asked = Demand(demand, round(growth * 10_000), bid, claim_days)
    found = list(forecast(terms_of(file), asked, days=days, supply_wei=parse_mor(supply), reference_price_wei=price))
    Console(width=160, highlight=False).print(table_of(found, every))
    typer.echo("amounts in MOR, T in billions, T per MOR is the AccessRate of a day")
    if not no_plot:
        draw(found, plot)
        typer.echo(f"written: {plot}")


def _address(text: str) -> Address:
    """Raises :class:`typer.BadParameter` for what is no address."""
    raw = text.removeprefix("0x")
    try:
        found = bytes.fromhex(raw)
    except ValueError:
        found = b""
    if len(found) != 20 or not text.startswith("0x"):
        raise typer.BadParameter(f"{text!r} is no address: 0x and 40 hexadecimal digits")
    return Address(found)


def _on_chain(file: Path, addresses: Path | None) -> "OnChain":
    from node.contracts_on_chain import open_deployment  # noqa: PLC0415  # web3 loads slowly

    return open_deployment(file, addresses or file.with_name("contracts.json"), typer.echo)
