"""``yellowstone apikey``: keys of the gateway for several local users, each with a share of the allowance."""

import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", "-c", help="The user's node.toml.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    config: Config = Path("node.toml"),
    percent: Annotated[int | None, typer.Option(help="Percent of the day's UserMax.")] = None,
    tokens: Annotated[int | None, typer.Option(help="T a day.")] = None,
) -> None:
    """Make a key and print it, this once. From the first one on the gateway wants a key with every request."""
    from node.api.api_keys import add_key  # noqa: PLC0415  # loads what only this command needs

    text = add_key(_path(config), name, time.time_ns() // 1_000_000, percent=percent, tokens=tokens)
    typer.echo(text)


@app.command("list")
def list_(config: Config = Path("node.toml")) -> None:
    """Print every key's name and share."""
    from node.api.api_keys import read_keys  # noqa: PLC0415  # as above

    keys = read_keys(_path(config))
    if keys is None:
        typer.echo("no keys: the gateway answers every program on this machine")
        return
    for key in keys:
        share = f"{key.percent} %" if key.percent is not None else f"{key.tokens} T a day" if key.tokens else "all"
        typer.echo(f"{key.name}\t{share}\t{key.sha256[:12]}")


@app.command()
def revoke(name: str, config: Config = Path("node.toml")) -> None:
    """Take a key back at once; a running gateway notices."""
    from node.api.api_keys import revoke_key  # noqa: PLC0415  # as above

    revoke_key(_path(config), name)


def _path(config: Path) -> Path:
    from node.api.api_keys import KEYS_FILE  # noqa: PLC0415  # as above
    from node.config import load_node  # noqa: PLC0415  # as above

    return load_node(config).data_dir / KEYS_FILE
