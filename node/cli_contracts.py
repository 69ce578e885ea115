"""``yellowstone contracts``: deploy a network's contracts, open its first epoch, verify and simulate them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.recursion import kept_recursion_limit

if TYPE_CHECKING:
    from node.contracts_file import ContractsFile
    from node.contracts_setup import Operator

app = typer.Typer(no_args_is_help=True)

Parameters = Annotated[Path, typer.Argument(help="contracts.toml: what the contracts are deployed with.")]
Rpc = Annotated[str, typer.Option(help="The chain's JSON-RPC endpoint.")]
Addresses = Annotated[Path, typer.Option(help="The address file: written by deploy, read by the others.")]
KeyFile = Annotated[Path, typer.Option(help="Keystore of the MOR key that deploys and pays for gas.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="A file (0600) with the password; else YELLOWSTONE_PASSWORD, else a prompt.")
]

LOCAL = "http://127.0.0.1:8545"
ADDRESSES = Path("addresses.json")


@app.command()
def deploy(
    parameters: Parameters,
    rpc: Rpc = LOCAL,
    addresses: Addresses = ADDRESSES,
    key: KeyFile = Path("mor.json"),
    password_file: PasswordFile = None,
) -> None:
    """Deploy what isn't there yet, and write the address file after every step: an interrupted run goes on."""
    wanted, operator = _opened(parameters, rpc, addresses, key, password_file)
    made = operator.deploy(wanted)
    for name in ("mor", "registry", "compute", "emission_source"):
        if name in made.contracts or name == "mor":
            typer.echo(f"{name:16} 0x{made.address_of(name).hex()}")
    typer.echo(f"written: {addresses}; slot 0 begins at Unix second {made.genesis_s}.")
    typer.echo("Next: members stake; then `yellowstone contracts open` writes network.toml.")


@app.command("open")
def open_(  # noqa: PLR0917  # typer reads options from the signature
    parameters: Parameters,
    rpc: Rpc = LOCAL,
    addresses: Addresses = ADDRESSES,
    key: KeyFile = Path("mor.json"),
    password_file: PasswordFile = None,
    network: Annotated[Path, typer.Option(help="Where to write it.")] = Path("network.toml"),
) -> None:
    """Open the first epoch with everybody who has staked, and write the network.toml that all nodes start from."""
    wanted, operator = _opened(parameters, rpc, addresses, key, password_file)
    made = operator.open(wanted, network)
    typer.echo(f"committee    epoch {made.epoch}, {len(made.members)} members, 0x{made.committee().root.hex()}")
    typer.echo(f"written: {network}")


@app.command()
def verify(
    rpc: Rpc = LOCAL,
    addresses: Addresses = ADDRESSES,
    parameters: Annotated[
        Path | None, typer.Option(help="Also hold the constructors' arguments against this contracts.toml.")
    ] = None,
) -> None:
    """Recompile the sources and compare with the chain's code to the byte, constructor arguments included."""
    from contracts.client import ChainClient  # noqa: PLC0415  # web3 loads slowly
    from node.contracts_file import load_contracts  # noqa: PLC0415  # as above
    from node.contracts_setup import check  # noqa: PLC0415  # as above

    wanted = None if parameters is None else load_contracts(parameters)
    findings = check(ChainClient(rpc), addresses, wanted)
    for finding in findings:
        typer.echo(f"{'ok ' if finding.is_good else 'BAD'}  {finding.what:26} {finding.detail}")
    if not all(finding.is_good for finding in findings):
        raise typer.Exit(1)


@app.command()
def simulate(  # noqa: PLR0917  # as above
    parameters: Annotated[Path | None, typer.Argument(help="contracts.toml; Morpheus's own emission without.")] = None,
    days: Annotated[int, typer.Option(help="How many days from genesis.")] = 730,
    tokens: Annotated[int, typer.Option(help="T asked for on day 0.")] = 20_000_000_000,
    growth: Annotated[float, typer.Option(help="Percent by which that grows in a day.")] = 0.3,
    price: Annotated[int, typer.Option(help="Wei per T that is bid on day 0.")] = 10**11,
    price_drift: Annotated[float, typer.Option(help="Percent by which bids move in a day.")] = -0.1,
    claim_days: Annotated[int, typer.Option(help="Providers claim once in so many days.")] = 7,
    supply: Annotated[int, typer.Option(help="MOR in existence on day 0.")] = 10_000_000,
    png: Annotated[Path | None, typer.Option(help="Plot it there (pip install 'yellowstone-router[plot]').")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write every day there, in wei and T.")] = None,
    rows: Annotated[int, typer.Option(help="Print so many lines of the table.", min=2)] = 25,
) -> None:
    """Print and plot pool, budget, payouts and AccessRate over time, if demand were as given."""
    from node.contracts_simulation import simulate as run  # noqa: PLC0415  # loads what only this command needs

    run(
        parameters,
        days=days,
        tokens=tokens,
        growth_percent=growth,
        price_wei=price,
        drift_percent=price_drift,
        claim_days=claim_days,
        supply_mor=supply,
        png=png,
        csv=csv,
        rows=rows,
        say=typer.echo,
    )


def _opened(
    parameters: Path, rpc: str, addresses: Path, key: Path, password_file: Path | None
) -> tuple["ContractsFile", "Operator"]:
    """Parameters first: a mistake there shows before anybody is asked for a password."""
    with kept_recursion_limit():
        from contracts.client import ChainClient  # noqa: PLC0415  # web3 loads slowly
    from node import keys  # noqa: PLC0415  # as above
    from node.contracts_file import load_contracts  # noqa: PLC0415  # as above
    from node.contracts_setup import Operator  # noqa: PLC0415  # as above

    wanted = load_contracts(parameters)
    opened = keys.load_mor_key(key, keys.find_password(key, password_file))
    return wanted, Operator(ChainClient(rpc), opened, addresses, typer.echo)
