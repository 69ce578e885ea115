"""What all commands share: the options that name a node, and how a running node is asked."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[Path, typer.Option("--config", "-c", help="The node's node.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of node.toml, as in listen.control_port=8900.")
]


def print_control(config: Path, overrides: list[str] | None, path: str) -> None:
    """Print what a running node's control API answers."""
    typer.echo(json.dumps(ask_control(config, overrides, path), indent=2))


def ask_control(config: Path, overrides: list[str] | None, path: str, method: str = "GET") -> Any:
    """A running node's control API, found through its ready file. Raises :class:`~node.errors.NodeError`."""
    from node.api.control_client import ask  # noqa: PLC0415  # httpx loads slowly
    from node.config import load_node  # noqa: PLC0415  # as above

    return ask(load_node(config, pairs(overrides)).data_dir, path, method)


def pairs(overrides: list[str] | None) -> dict[str, str]:
    """``KEY=VALUE`` texts by key."""
    found = {}
    for text in overrides or []:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
        found[key] = value
    return found
