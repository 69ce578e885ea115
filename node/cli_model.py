"""``yellowstone model``: fetch the default model, and show a model file's identity."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.command()
def pull(store: Annotated[Path, typer.Option(help="The model store's folder.")] = Path("models")) -> None:
    """Fetch the default model into the store and check its hash."""
    import trio  # noqa: PLC0415  # loads what only this command needs

    from inference import model_store  # noqa: PLC0415  # as above

    typer.echo(str(trio.run(model_store.pull, store, typer.echo)))


@app.command("hash")
def hash_(path: Path) -> None:
    """Print the model id that providers sign for a GGUF under this machine's engine build."""
    from inference.llamacpp.engine import FAMILY, engine_build  # noqa: PLC0415  # as above
    from inference.model_store import manifest_of  # noqa: PLC0415  # as above

    typer.echo("0x" + manifest_of(path, FAMILY, engine_build()).model_id().hex())
