"""A model's files on this disk: hashed once with progress, remembered, and watched for change.

A model is one GGUF, or a folder (EXL2, GPTQ, plain safetensors) of which the files that an engine reads belong to the
identity: weights, config with quantisation, tokenizer, chat template. A README does not.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec
import trio

from contracts.typed_data import Digest
from gossip.messages.challenge import BlockProof
from inference.errors import ModelChanged, ModelError
from inference.merkle import (
    BLOCK_BYTES,
    SPAN_BLOCKS,
    SPAN_BYTES,
    block_size,
    compute_merkle_root,
    compute_path,
    hash_block,
)
from inference.models import GGUF_PATH, FileHasher, ModelFile, ModelManifest, Part, build_manifest, part_of
from inference.progress import Report, silent

_READ_BYTES = 4 << 20
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


class ModelIdentity(Protocol):
    """A model's manifest, and its bytes behind it."""

    @property
    def manifest(self) -> ModelManifest:
        """What the model is."""

    def check(self) -> None:
        """Raise :class:`ModelChanged` where a file is not what was hashed; costs a look at each file's status."""

    def prove(self, indexes: Sequence[int]) -> tuple[BlockProof, ...]:
        """The model's blocks ``indexes`` with their Merkle paths. Raises :class:`ModelError`. Reads the disk."""


@runtime_checkable
class Identified(Protocol):
    """An engine that can show which model it runs; one that cannot is not matched where routers challenge."""

    @property
    def identity(self) -> ModelIdentity:
        """The model's identity; its manifest's id is the engine's ``model_id``."""


class FileStamp(msgspec.Struct, frozen=True):
    """What tells a changed file from an unchanged one without reading it."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStamp":
        """The stamp in a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file as it was when it was hashed; ``spans`` are the Merkle roots over each MiB."""

    path: Path
    stamp: FileStamp
    entry: ModelFile
    spans: tuple[bytes, ...]

    def check(self, status: os.stat_result | None = None) -> None:
        """Raise :class:`ModelChanged` where size, time of change or inode differ now."""
        try:
            found = FileStamp.of(self.path.stat() if status is None else status)
        except OSError as error:
            raise ModelChanged(self.path, str(error)) from error
        for name in FileStamp.__struct_fields__:
            was, now = getattr(self.stamp, name), getattr(found, name)
            if was != now:
                raise ModelChanged(self.path, f"its {name} was {was} and is {now}")

    def prove(self, block: int) -> BlockProof:
        """One block and its path. Raises :class:`ModelChanged` where the bytes are not those that were hashed."""
        span = block // SPAN_BLOCKS
        try:
            with self.path.open("rb") as file:
                self.check(os.fstat(file.fileno()))
                file.seek(span * SPAN_BYTES)
                data = file.read(SPAN_BYTES)
        except OSError as error:
            raise ModelChanged(self.path, str(error)) from error
        return prove_block(self.path, self.spans, self.entry.size, block, data)


def prove_block(path: object, spans: Sequence[bytes], size: int, block: int, span_data: bytes) -> BlockProof:
    """The proof of ``block`` from its whole span's bytes. Raises :class:`ModelChanged`."""
    span, inner = divmod(block, SPAN_BLOCKS)
    starts = range(0, max(1, len(span_data)), BLOCK_BYTES)
    leaves = [hash_block(span_data[start : start + BLOCK_BYTES]) for start in starts]
    if compute_merkle_root(leaves) != spans[span]:
        raise ModelChanged(path, f"the bytes from {span * SPAN_BYTES} on are not those that were hashed")
    data = span_data[inner * BLOCK_BYTES :][: block_size(size, block)]
    nodes = (*compute_path(leaves, inner), *compute_path(spans, span))
    return BlockProof(data, tuple(map(Digest, nodes)))


class ModelFiles:
    """A :class:`ModelIdentity` over files that were hashed."""

    def __init__(self, files: Sequence[HashedFile], engine: str, build: str) -> None:
        self._files = {file.entry.path: file for file in files}
        self._manifest = build_manifest(tuple(file.entry for file in files), engine, build)

    @property
    def manifest(self) -> ModelManifest:
        """What the model is."""
        return self._manifest

    def check(self) -> None:
        """Raise :class:`ModelChanged` where any file's status differs."""
        for file in self._files.values():
            file.check()

    def prove(self, indexes: Sequence[int]) -> tuple[BlockProof, ...]:
        """Blocks with their paths; a file with another status anywhere in the model refuses all of them."""
        self.check()
        found = [self._manifest.locate(index) for index in indexes]
        return tuple(self._files[file.path].prove(block) for file, block in found)


class DescribedModel:
    """A :class:`ModelIdentity` for what has no files here: a text stands for the model, and anybody may have it.

    It says honestly that nothing is proven: a synthetic engine, or an upstream that somebody else runs.
    """

    def __init__(self, text: str, engine: str, build: str) -> None:
        self._data = text.encode()
        hasher = FileHasher()
        hasher.update(self._data)
        self._spans = hasher.spans()
        self._manifest = build_manifest((hasher.file("model.description"),), engine, build)

    @property
    def manifest(self) -> ModelManifest:
        """One file, the description."""
        return self._manifest

    def check(self) -> None:
        """Never changes."""

    def prove(self, indexes: Sequence[int]) -> tuple[BlockProof, ...]:
        """Blocks of the description."""
        blocks = [self._manifest.locate(index)[1] for index in indexes]
        spans = [self._data[block // SPAN_BLOCKS * SPAN_BYTES :][:SPAN_BYTES] for block in blocks]
        size = len(self._data)
        return tuple(
            prove_block("description", self._spans, size, block, span)
            for block, span in zip(blocks, spans, strict=True)
        )


class _Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    stamp: FileStamp
    sha256: str
    spans: bytes


class HashCache:
    """Hashes of files that have not changed since: a folder with one small file for each.

    Keyed by path, size, time of change and inode. A missing or damaged entry is computed again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hash_file(self, path: Path, name: str = GGUF_PATH, report: Report = silent) -> HashedFile:
        """``path`` as the file ``name`` of a model, hashed now unless it was before. Raises :class:`ModelError`."""
        known = self._load(path)
        if known is not None and known.stamp == FileStamp.of(_status(path)):
            spans = tuple(known.spans[i : i + 32] for i in range(0, len(known.spans), 32))
            root = compute_merkle_root(spans).hex()
            return HashedFile(path, known.stamp, ModelFile(name, known.stamp.size, known.sha256, root), spans)
        found = hash_file(path, name, report)
        self._save(found)
        return found

    def _place(self, path: Path) -> Path:
        return self._folder / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]

    def _load(self, path: Path) -> _Remembered | None:
        try:
            found = msgspec.msgpack.decode(self._place(path).read_bytes(), type=_Remembered)
        except (OSError, msgspec.DecodeError):
            return None  # a cache: what is missing or damaged is computed again
        is_whole = found.spans and len(found.spans) == 32 * max(1, -(-found.stamp.size // SPAN_BYTES))
        return found if is_whole and found.path == str(path.resolve()) else None

    def _save(self, file: HashedFile) -> None:
        """Replace an entry atomically."""
        entry = _Remembered(str(file.path.resolve()), file.stamp, file.entry.sha256, b"".join(file.spans))
        target = self._place(file.path)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", delete=False) as scratch:
                scratch.write(msgspec.msgpack.encode(entry))
            Path(scratch.name).replace(target)
        except OSError as error:
            raise ModelError(f"cannot write the hash cache {target}: {error}") from error


def hash_file(path: Path, name: str = GGUF_PATH, report: Report = silent) -> HashedFile:
    """Read ``path`` once (about 1 GB/s) and hash it.

    Raises :class:`ModelError` if it cannot be read, :class:`ModelChanged` if it changes meanwhile.
    """
    hasher, done = FileHasher(), 0
    try:
        with path.open("rb") as file:
            stamp = FileStamp.of(os.fstat(file.fileno()))
            report(f"hashing {path.name}", 0, stamp.size)
            while done <= stamp.size and (data := file.read(_READ_BYTES)):
                hasher.update(data)
                done += len(data)
                report(f"hashing {path.name}", done, stamp.size)
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error}") from error
    hashed = HashedFile(path, stamp, hasher.file(name), hasher.spans())
    if hashed.entry.size != stamp.size:
        raise ModelChanged(path, f"it had {stamp.size} bytes when hashing began, {hashed.entry.size} were read")
    hashed.check()
    return hashed


def open_model(
    path: Path, engine: str, build: str, cache: HashCache | None = None, report: Report = silent
) -> ModelFiles:
    """The identity of the GGUF or model folder ``path`` under an engine family and build. Raises :class:`ModelError`.

    Blocks while files are hashed; see :func:`identify`.
    """
    hashing = hash_file if cache is None else cache.hash_file
    if path.is_dir():
        return ModelFiles([hashing(path / name, name, report) for name in list_folder(path)], engine, build)
    return ModelFiles([hashing(path, GGUF_PATH, report)], engine, build)


async def identify(
    path: Path, engine: str, build: str, cache: HashCache | None = None, report: Report = silent
) -> ModelFiles:
    """:func:`open_model` in a thread, which a cancellation ends."""

    def checked(what: str, done: int, total: int) -> None:
        trio.from_thread.check_cancelled()
        report(what, done, total)

    return await trio.to_thread.run_sync(partial(open_model, path, engine, build, cache, checked))


def list_folder(folder: Path) -> list[str]:
    """The files of a model folder that belong to its identity, sorted.

    Raises :class:`ModelError` where weights, config or tokenizer are not there, or an index names weights that aren't.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise ModelError(f"cannot read the model folder {folder}: {error}") from error
    names = [name for name in names if part_of(name) not in {None, Part.WHOLE, Part.DESCRIPTION}]
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelError(f"the model folder {folder} has no .safetensors weights")
    if "config.json" not in names:
        raise ModelError(f"the model folder {folder} has no config.json")
    if not any(name in names for name in _TOKENIZERS):
        raise ModelError(f"the model folder {folder} has neither {' nor '.join(_TOKENIZERS)}")
    for index in (name for name in names if name.endswith(".index.json")):
        _check_index(folder / index, names)
    return names


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _check_index(path: Path, names: list[str]) -> None:
    try:
        wanted = set(msgspec.json.decode(path.read_bytes(), type=_Index).weight_map.values())
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"the index {path} cannot be read: {error}") from error
    if missing := sorted(wanted - set(names)):
        raise ModelError(f"the model folder {path.parent} lacks {missing[0]!r}, which {path.name} names")


def manifest_of(path: Path, engine: str, build: str, cache: HashCache | None = None) -> ModelManifest:
    """The manifest alone. Raises :class:`ModelError`."""
    return open_model(path, engine, build, cache).manifest


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error}") from error
