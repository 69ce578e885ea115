"""``yellowstone model``: fetch models, and show and check their identity (S42)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from inference.audit import Calibration
    from inference.model_files import HashCache
    from inference.models import ModelManifest
    from inference.progress import Report

app = typer.Typer(no_args_is_help=True)

Store = Annotated[Path, typer.Option(help="The model store's folder.")]
Engine = Annotated[str, typer.Option(help="Engine family; by default llama.cpp for a GGUF, exllamav2 for a folder.")]
Build = Annotated[str, typer.Option(help="The engine's build; by default the one installed here.")]
OutOf = Annotated[Path | None, typer.Option("--cache", help="A model store whose remembered hashes may be used.")]


@app.command()
def pull(
    store: Store = Path("models"),
    url: Annotated[str, typer.Option(help="Fetch this GGUF instead of the default model.")] = "",
    sha256: Annotated[str, typer.Option(help="Its published SHA-256.")] = "",
    name: Annotated[str, typer.Option(help="What to call it in the store.")] = "",
) -> None:
    """Fetch the default model, or a GGUF by address, into the store and check its hash.

    What was fetched before the connection broke is not fetched again.
    """
    import trio  # noqa: PLC0415  # loads what only this command needs

    from inference import model_store  # noqa: PLC0415  # as above

    if any((url, sha256, name)) and not all((url, sha256, name)):
        raise typer.BadParameter("--url, --sha256 and --name go together")
    if name and (Path(name).name != name or name.startswith(".")):
        raise typer.BadParameter(f"{name!r} is not a plain name", param_hint="--name")
    with _progress() as report:
        if url:
            path = trio.run(model_store.fetch_file, store, name, url, sha256.lower(), report)
        else:
            path = trio.run(lambda: model_store.pull(store, typer.echo, report=report))
    typer.echo(str(path))


@app.command("hash")
def hash_(
    path: Path,
    engine: Engine = "",
    build: Build = "",
    cache: OutOf = None,
    manifest: Annotated[bool, typer.Option("--manifest", help="Print the whole manifest as canonical JSON.")] = False,
) -> None:
    """Print the model id that providers sign for a GGUF or a model folder under an engine and its build."""
    found = _identify(path, engine, build, _cache(cache))
    typer.echo(found.encode().decode() if manifest else "0x" + found.model_id().hex())


@app.command()
def verify(
    path: Path,
    model_id: Annotated[str, typer.Argument(help="The id that it must have, as 0x hex.")],
    engine: Engine = "",
    build: Build = "",
) -> None:
    """Read a GGUF or model folder anew and check that it is the model with that id."""
    from inference.errors import ModelError  # noqa: PLC0415  # as above

    found = _identify(path, engine, build, None)
    actual = "0x" + found.model_id().hex()
    if actual != "0x" + model_id.lower().removeprefix("0x"):
        raise ModelError(f"{path} under {found.engine} {found.build} is model {actual}, not {model_id}")
    for file in found.files:
        typer.echo(f"{file.sha256}  {file.path}  {file.size} B")
    typer.echo(f"ok: {path} is model {actual} under {found.engine} {found.build}")


@app.command()
def calibrate(
    path: Path,
    store: Store = Path("models"),
    threads: Annotated[int, typer.Option(min=1, help="Threads to compute with.")] = 1,
) -> None:
    """Measure what honest answers of a GGUF score, and keep the limits that audits judge by in the store."""
    import trio  # noqa: PLC0415  # loads what only this command needs

    from inference.calibration import keep_calibration, measure  # noqa: PLC0415  # as above
    from inference.llamacpp.engine import open_llamacpp  # noqa: PLC0415  # as above

    async def work(report: "Report") -> "Calibration":
        log_path = store / "calibrate.log"
        store.mkdir(parents=True, exist_ok=True)
        async with open_llamacpp(
            path, slots=1, context=1_024, threads=threads, log_path=log_path, hash_cache=_cache(store), report=report
        ) as engine:
            return await measure(engine, report)

    with _progress() as report:
        found = trio.run(work, report)
    typer.echo(
        f"{found.tokens} T of {found.answers} answers: mean gap {found.mean_gap:.4f}, largest {found.max_gap:.3f}; "
        f"limits {found.limits.mean_gap:.4f} and {found.limits.max_gap:.3f}"
    )
    typer.echo(str(keep_calibration(store, found)))


@app.command("list")
def list_(
    store: Store = Path("models"),
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="List what a running node sees on offer instead.")
    ] = None,
) -> None:
    """List the models in the store with their ids; or those on offer, whether each is listed and who has proven it."""
    if config is not None:
        from node.api.control_client import ask  # noqa: PLC0415  # as above
        from node.config import load_node  # noqa: PLC0415  # as above

        typer.echo(json.dumps(ask(load_node(config).data_dir, "/models"), indent=2))
        return
    from inference.model_store import stored_models  # noqa: PLC0415  # as above

    for path in stored_models(store):
        try:
            found = _identify(path, "", "", _cache(store))
        except typer.BadParameter as error:  # one engine that is not here hides no other model
            typer.echo(f"no id: {error.message}  {path}")
            continue
        typer.echo(f"0x{found.model_id().hex()}  {found.size / 1e6:.1f} MB  {found.engine} {found.build}  {path}")


def _identify(path: Path, engine: str, build: str, cache: "HashCache | None") -> "ModelManifest":
    """Hash with progress. Raises :class:`~inference.errors.ModelError`."""
    import trio  # noqa: PLC0415  # as above

    from inference.model_files import identify  # noqa: PLC0415  # as above

    engine = engine or _default_engine(path)
    build = build or _installed_build(engine)
    with _progress() as report:
        return trio.run(identify, path, engine, build, cache, report).manifest


def _default_engine(path: Path) -> str:
    return "exllamav2" if path.is_dir() else "llama.cpp"


def _installed_build(engine: str) -> str:
    """Raises BadParameter where the engine's package is not installed here."""
    import importlib.metadata  # noqa: PLC0415  # as above

    package = {"llama.cpp": "xllamacpp"}.get(engine, engine)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise typer.BadParameter(f"{package} is not installed here: name its build", param_hint="--build") from error


def _cache(store: Path | None) -> "HashCache | None":
    from inference.model_store import open_cache  # noqa: PLC0415  # as above

    return None if store is None else open_cache(store)


@contextmanager
def _progress() -> "Iterator[Report]":
    """Progress goes to stderr: stdout is what the command was asked for."""
    from rich.console import Console  # noqa: PLC0415  # as above

    from node.progress import on_console  # noqa: PLC0415  # as above

    with on_console(Console(stderr=True)) as report:
        yield report
