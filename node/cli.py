"""The command line: ``yellowstone run``, ``keys``, ``status`` and friends.

Heavy modules load inside the command that needs them.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import ContractsError
from gossip.errors import GossipError
from inference.errors import InferenceError
from node.cli_options import Config, Overrides, ask_control, pairs, print_control
from node.errors import NodeError

app = typer.Typer(name="yellowstone", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

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
    padded: Annotated[
        bool, typer.Option("--padded", help="This user's answers in frames of one size, at even times.")
    ] = False,
) -> None:
    """Run a node with the roles of its configuration until it is told to stop."""
    if audit is not None:
        overrides = [*(overrides or []), f"user.audit_share={audit}"]
    if padded:
        overrides = [*(overrides or []), "user.padded=true"]
    import trio  # noqa: PLC0415  # loads what only this command needs

    from node.app import run_node  # noqa: PLC0415  # as above
    from node.config import load_node  # noqa: PLC0415  # as above

    trio.run(run_node, load_node(config, pairs(overrides)), exit_with_stdin)


@app.command()
def status(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print where a running node stands."""
    print_control(config, overrides, "/status")


@app.command()
def book(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print the live bids that a running node knows."""
    print_control(config, overrides, "/book")


@app.command()
def sessions(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print a user agent's sessions: what was asked of whom, and what it cost."""
    print_control(config, overrides, "/sessions")


@app.command()
def rfcs(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print the RFCs that a member, or a node with follow_rfcs, heard last: `explain` says what became of them."""
    print_control(config, overrides, "/rfcs")


@app.command()
def claims(config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print a provider's claims and their transactions."""
    print_control(config, overrides, "/claims")


@app.command()
def evidence(
    config: Config = Path("node.toml"),
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON, the evidence itself included.")] = False,
) -> None:
    """Print who was caught signing two things that exclude each other, and whether it cost stake."""
    from node.cli_evidence import lines_of  # noqa: PLC0415  # loads what only this command needs

    found = ask_control(config, overrides, "/evidence")
    for line in [json.dumps(found, indent=2)] if as_json else lines_of(found):
        typer.echo(line)


@app.command()
def batch(height: int, config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print one certified batch and who signed it."""
    print_control(config, overrides, f"/batches/{height}")


@app.command()
def explain(
    what: Annotated[str, typer.Argument(help="An RFC id, `day`, `allowance` or `earnings`.")],
    subject: Annotated[
        str | None, typer.Argument(help="DAY after `day` (today's without), ADDRESS after the others.")
    ] = None,
    config: Config = Path("node.toml"),
    overrides: Overrides = None,
) -> None:
    """Print why an RFC went to its provider, where its pay stands and, at a provider, why this one lost; or how a day's
    numbers, an address's allowance or a provider's pay come about."""
    from node.cli_explain import path_of  # noqa: PLC0415  # loads what only this command needs

    answer = ask_control(config, overrides, path_of(what, subject))
    for line in (*answer.get("explanation", []), *answer.get("credit", [])):
        typer.echo(line)


@app.command()
def proof(height: int, provider: str, config: Config = Path("node.toml"), overrides: Overrides = None) -> None:
    """Print a provider's credit at a height with all that an outsider needs to check it."""
    print_control(config, overrides, f"/proof/{height}/{provider}")


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
    *,
    from_height: Annotated[
        int, typer.Option(min=1, help="Check settlements' signatures from this height on; below, the certificate's.")
    ] = 1,
    trust_certificates: Annotated[
        bool, typer.Option("--trust-certificates", help="Believe certificates that settlements' signatures hold.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=0, max=256, help="Processes that check signatures; 0: none beside this one.")
    ] = None,
    trust_rescue: Annotated[
        list[str] | None, typer.Option(help="The root of a committee that came by a rescue, as the registry has it.")
    ] = None,
) -> None:
    """Replay every batch that a stopped node has stored, from genesis, and print the state that they lead to."""
    from node.cli_replay import replay_store  # noqa: PLC0415  # loads what only this command needs

    replay_store(
        config,
        pairs(overrides),
        from_height=from_height,
        trust_certificates=trust_certificates,
        processes=processes,
        rescues=trust_rescue or [],
    )


def _add_groups() -> None:
    """Command groups of other rooms; each loads its heavy parts inside its commands."""
    from node.cli_apikey import app as apikey_app  # noqa: PLC0415  # a group is optional to the rest
    from node.cli_committee import app as committee_app  # noqa: PLC0415  # as above
    from node.cli_contracts import app as contracts_app  # noqa: PLC0415  # as above
    from node.cli_keys import app as keys_app  # noqa: PLC0415  # as above
    from node.cli_model import app as model_app  # noqa: PLC0415  # as above
    from testnet.cli import app as testnet_app  # noqa: PLC0415  # node must not need testnet to be imported

    app.registered_groups.clear()
    app.add_typer(committee_app, name="committee")
    app.add_typer(apikey_app, name="apikey", help="Keys of the gateway for several local users.")
    app.add_typer(contracts_app, name="contracts")
    app.add_typer(keys_app, name="keys", help="Make and show key files.")
    app.add_typer(model_app, name="model", help="Fetch and identify models.")
    app.add_typer(testnet_app, name="testnet", help="Run a whole network on this machine.")


def main(arguments: list[str] | None = None) -> None:
    """The console script; ``arguments`` are the process's where none are given."""
    _add_groups()
    try:
        app(arguments)
    except* (*EXPECTED, OSError) as group:
        for error in _leaves(group):
            typer.secho(f"yellowstone: {_sentence(error)}", fg=typer.colors.RED, err=True)
        sys.exit(1)


def _sentence(error: BaseException) -> str:
    """What an operator reads. Files and disks fail in ways that no command foresees: the system's words say which."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    main()
