"""The command line: ``yellowstone run``, ``keys``, ``status`` and friends.

Heavy modules load inside the command that needs them.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.errors import ContractsError
from gossip.errors import GossipError
from inference.errors import InferenceError
from node.errors import NodeError

app = typer.Typer(name="yellowstone", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Config = Annotated[Path, typer.Option("--config", "-c", help="The node's node.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of node.toml, as in listen.control_port=8900.")
]

EXPECTED = (NodeError, GossipError, ContractsError, InferenceError)
"""Errors that an operator can mend: one line, no traceback."""


@app.command()
def run(
    config: Config = Path("node.toml"),
    overrides: Overrides = None,
    exit_with_stdin: Annotated[
        bool, typer.Option("--exit-with-stdin", help="Stop when standard input ends: the parent is gone.")
    ] = False,
    audit: Annotated[
        float | None, typer.Option(help="Share of this user's greedy answers that another provider scores, as in 0.02.")
    ] = None,
) -> None:
    """Run a node with the roles of its configuration until it is told to stop."""
    if audit is not None:
        overrides = [*(overrides or []), f"user.audit_share={audit}"]
    import trio  # noqa: PLC0415  # loads what only this command needs

    from node.app import run_node  # noqa: PLC0415  # as above
    from node.config import load_node  # noqa: PLC0415  # as above

    trio.run(run_node, load_node(config, _pairs(overrides)), exit_with_stdin)


@app.command()
def status(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print where a running node stands."""
    _print_control(config, overrides, "/status")


@app.command()
def book(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print the live bids that a running node knows."""
    _print_control(config, overrides, "/book")


@app.command()
def sessions(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print a user agent's sessions: what was asked of whom, and what it cost."""
    _print_control(config, overrides, "/sessions")


@app.command()
def claims(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print a provider's claims and their transactions."""
    _print_control(config, overrides, "/claims")


committee_app = typer.Typer(no_args_is_help=True, help="What a committee member does, and what it signed.")
app.add_typer(committee_app, name="committee")


@committee_app.command("status")
def committee_status(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print this member's stake, height and round, who is late, and who has signed twice."""
    _print_control(config, overrides, "/committee")


@committee_app.command("log")
def committee_log(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print what this member signed last, and why."""
    _print_control(config, overrides, "/committee/log")


@app.command()
def batch(height: int, config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print one certified batch and who signed it."""
    _print_control(config, overrides, f"/batches/{height}")


@app.command()
def explain(rfc_id: str, config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print why an RFC of this user went to its provider: the bids, the beacon, the draw."""
    entry = _ask_control(config, overrides, f"/sessions/{rfc_id}")
    for line in entry.get("explanation", []):
        typer.echo(line)


@app.command()
def proof(height: int, provider: str, config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print a provider's credit at a height with all that an outsider needs to check it."""
    _print_control(config, overrides, f"/proof/{height}/{provider}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="What /proof or `yellowstone proof` answered.")],
    network: Annotated[Path | None, typer.Option(help="The network.toml whose committee is trusted.")] = None,
    committee_root: Annotated[str | None, typer.Option(help="Or the root of the committee that is trusted.")] = None,
    provider: Annotated[str | None, typer.Option(help="The provider that the credit must be of.")] = None,
) -> None:
    """Check one credit offline, with nothing but the committee's keys."""
    from node.cli_verify import verify_file  # noqa: PLC0415  # loads what only this command needs

    verify_file(file, network=network, committee_root=committee_root, provider=provider, say=typer.echo)


@app.command()
def replay(
    config: Config = Path("node.toml"),
    overrides: Overrides = None,
    from_height: Annotated[
        int, typer.Option(min=1, help="Check settlements' signatures from this height on; below, the certificate's.")
    ] = 1,
    trust_certificates: Annotated[
        bool, typer.Option("--trust-certificates", help="Believe certificates that settlements' signatures hold.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=0, max=256, help="Processes that check signatures; 0: none beside this one.")
    ] = None,
) -> None:
    """Replay every batch that a stopped node has stored, from genesis, and print the state that they lead to."""
    from node.cli_replay import replay_store  # noqa: PLC0415  # loads what only this command needs

    replay_store(
        config,
        _pairs(overrides),
        from_height=from_height,
        trust_certificates=trust_certificates,
        processes=processes,
    )


def _print_control(config: Path, overrides: list[str] | None, path: str) -> None:
    typer.echo(json.dumps(_ask_control(config, overrides, path), indent=2))


def _ask_control(config: Path, overrides: list[str] | None, path: str) -> Any:
    """A running node's control API, found through its ready file. Raises :class:`NodeError`."""
    from node.api.control_client import ask  # noqa: PLC0415  # httpx loads slowly
    from node.config import load_node  # noqa: PLC0415  # as above

    return ask(load_node(config, _pairs(overrides)).data_dir, path)


def _pairs(overrides: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in overrides or []:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
        pairs[key] = value
    return pairs


def _add_groups() -> None:
    """Command groups of other rooms; each loads its heavy parts inside its commands."""
    from node.cli_keys import app as keys_app  # noqa: PLC0415  # a group is optional to the rest
    from node.cli_model import app as model_app  # noqa: PLC0415  # as above
    from testnet.cli import app as testnet_app  # noqa: PLC0415  # node must not need testnet to be imported

    app.add_typer(keys_app, name="keys", help="Make and show key files.")
    app.add_typer(model_app, name="model", help="Fetch and identify models.")
    app.add_typer(testnet_app, name="testnet", help="Run a whole network on this machine.")


def main() -> None:
    """The console script."""
    _add_groups()
    try:
        app()
    except* EXPECTED as group:
        for error in _leaves(group):
            typer.secho(f"yellowstone: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    main()
