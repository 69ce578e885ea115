"""Model identity (S42): a canonical manifest of a model's files and of the engine that runs them. Pure.

A model id is the SHA-256 of the manifest's canonical JSON. The file hashes equal those that model hubs publish; the
Merkle roots let a provider be asked for single leaves. Who reads files is :mod:`inference.model_store`.
"""

import hashlib
import itertools

import msgspec

from contracts.typed_data import Digest
from inference.errors import ModelError

LEAF_BYTES = 1 << 20
"""Size of a Merkle leaf; the last one of a file may be shorter."""

GGUF_PATH = "model.gguf"
"""What a GGUF is called in its manifest, so that a file's own name does not change the model's identity."""


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model; ``size`` in bytes, both hashes in lower-case hex."""

    path: str
    size: int
    sha256: str
    merkle_root: str


class ModelManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model is: its files, sorted by path, and the engine family and build that turn them into tokens."""

    files: tuple[ModelFile, ...]
    engine: str
    build: str

    def encode(self) -> bytes:
        """Canonical JSON: keys sorted, no white space."""
        return msgspec.json.encode(self, order="sorted")

    def model_id(self) -> Digest:
        """The model's identity everywhere in the market."""
        return Digest(hashlib.sha256(self.encode()).digest())


def build_manifest(files: tuple[ModelFile, ...], engine: str, build: str) -> ModelManifest:
    """The manifest of ``files`` in canonical order. Raises :class:`ModelError` for none, or two with one path."""
    paths = sorted(file.path for file in files)
    if not paths:
        raise ModelError("a model has at least one file")
    for first, second in itertools.pairwise(paths):
        if first == second:
            raise ModelError(f"two files of one model are called {first!r}")
    return ModelManifest(tuple(sorted(files, key=lambda file: file.path)), engine, build)


class FileHasher:
    """Hashes a file's bytes as they are fed: SHA-256 over all of it and over each 1 MiB leaf."""

    __slots__ = ("_leaf", "_leaf_bytes", "_leaves", "_size", "_whole")

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._leaves: list[bytes] = []
        self._leaf = hashlib.sha256(b"\0")
        self._leaf_bytes = 0
        self._size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the file's next bytes, in pieces of any size."""
        self._whole.update(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            part = view[: LEAF_BYTES - self._leaf_bytes]
            self._leaf.update(part)
            self._leaf_bytes += len(part)
            view = view[len(part) :]
            if self._leaf_bytes == LEAF_BYTES:
                self._close_leaf()

    def file(self, path: str) -> ModelFile:
        """The entry of the file whose bytes were fed."""
        leaves = [*self._leaves, self._leaf.digest()] if self._leaf_bytes or not self._leaves else self._leaves
        return ModelFile(path, self._size, self._whole.hexdigest(), compute_merkle_root(leaves).hex())

    def _close_leaf(self) -> None:
        self._leaves.append(self._leaf.digest())
        self._leaf = hashlib.sha256(b"\0")
        self._leaf_bytes = 0


def compute_merkle_root(leaves: list[bytes]) -> bytes:
    """The root over leaf hashes: leaves are prefixed 0, nodes 1; an odd one is lifted (RFC 6962's prefixes)."""
    level = leaves
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs if len(level) % 2 == 0 else [*pairs, level[-1]]
    return level[0]
