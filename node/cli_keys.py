"""``yellowstone keys``: make key files and show what they say in the clear."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Where mor.json and node.json are, or are to be.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="A file (0600) with the password; else YELLOWSTONE_PASSWORD, else a prompt.")
]


@app.command()
def new(folder: Folder = Path(), password_file: PasswordFile = None) -> None:
    """Make a MOR key and a node key; existing files are never overwritten."""
    from node import keys  # noqa: PLC0415  # loads what only this command needs
    from node.errors import KeystoreExists  # noqa: PLC0415  # as above

    mor, node = folder / "mor.json", folder / "node.json"
    for path in (mor, node):
        if path.exists():
            raise KeystoreExists(path)
    password = keys.find_password(mor, password_file, ask=_ask_twice)
    key = keys.create_mor_key(mor, password)
    keys.create_node_seed(node, password)
    typer.echo(f"MOR address 0x{key.address.hex()}")
    typer.echo(f"written: {mor}, {node}. Whoever has them and the password is you; keep a copy.")


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A MOR keystore.")]) -> None:
    """Print the address of a MOR key file; needs no password."""
    from node import keys  # noqa: PLC0415  # loads what only this command needs

    typer.echo("0x" + keys.read_address(file).hex())


def _ask_twice(prompt: str) -> str:
    return str(typer.prompt(prompt.rstrip(": "), hide_input=True, confirmation_prompt=True))
