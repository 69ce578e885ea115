"""Model identity (S42): a canonical manifest of a model's files and of the engine that runs them. Pure.

A model id is the SHA-256 of the manifest's canonical JSON. The file hashes equal those that model hubs publish; the
Merkle roots let a provider be asked for single blocks (:mod:`inference.possession`). Who reads files is
:mod:`inference.model_files`.
"""

import enum
import hashlib
import itertools
from typing import Annotated

import msgspec

from contracts.typed_data import Digest
from inference.errors import ModelError
from inference.merkle import BLOCK_BYTES, SPAN_BYTES, compute_merkle_root, count_blocks, hash_block

GGUF_PATH = "model.gguf"
"""What a GGUF is called in its manifest, so that a file's own name does not change the model's identity."""

MAX_MANIFEST_BYTES = 64 << 10
"""The largest manifest that is read from another node: some 250 files."""

MAX_MODEL_BYTES = 1 << 50

_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Part(enum.StrEnum):
    """What a file is to its model."""

    WEIGHTS = "weights"
    TOKENIZER = "tokenizer"
    TEMPLATE = "chat template"
    CONFIG = "config"
    """Architecture, generation defaults and quantisation."""
    WHOLE = "weights, tokenizer, config and chat template"
    """A GGUF, which carries all of them."""
    DESCRIPTION = "description"
    """All that there is to a model without files here."""


_PARTS = {
    GGUF_PATH: Part.WHOLE,
    "config.json": Part.CONFIG,
    "generation_config.json": Part.CONFIG,
    "quantize_config.json": Part.CONFIG,
    "quantization_config.json": Part.CONFIG,
    "tokenizer.json": Part.TOKENIZER,
    "tokenizer.model": Part.TOKENIZER,
    "tokenizer_config.json": Part.TOKENIZER,
    "special_tokens_map.json": Part.TOKENIZER,
    "added_tokens.json": Part.TOKENIZER,
    "vocab.json": Part.TOKENIZER,
    "merges.txt": Part.TOKENIZER,
    "chat_template.jinja": Part.TEMPLATE,
    "chat_template.json": Part.TEMPLATE,
}


def part_of(path: str) -> Part | None:
    """What a file of that name is to its model; None for a README, a licence and other files no engine reads."""
    if path.endswith((".safetensors", ".safetensors.index.json")):
        return Part.WEIGHTS
    return _PARTS.get(path, Part.DESCRIPTION if path.endswith(".description") else None)


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model; ``size`` in bytes, both hashes in lower-case hex."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_MODEL_BYTES)]
    sha256: _Sha256
    merkle_root: _Sha256

    @property
    def blocks(self) -> int:
        """Its Merkle leaves, at least one."""
        return count_blocks(self.size)


class ModelManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model is: its files, sorted by path, and the engine family and build that turn them into tokens."""

    files: Annotated[tuple[ModelFile, ...], msgspec.Meta(min_length=1, max_length=1_024)]
    engine: Annotated[str, msgspec.Meta(max_length=128)]
    build: Annotated[str, msgspec.Meta(max_length=128)]

    def encode(self) -> bytes:
        """Canonical JSON: keys sorted, no white space."""
        return msgspec.json.encode(self, order="sorted")

    def model_id(self) -> Digest:
        """The model's identity everywhere in the market."""
        return Digest(hashlib.sha256(self.encode()).digest())

    def content_id(self) -> Digest:
        """The identity of the files alone: equal where two providers run the same files under other builds."""
        return Digest(hashlib.sha256(msgspec.json.encode(self.files, order="sorted")).digest())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def blocks(self) -> int:
        """Merkle leaves of all files, in the order of the files."""
        return sum(file.blocks for file in self.files)

    def locate(self, index: int) -> tuple[ModelFile, int]:
        """The file that the model's block ``index`` lies in, and the block's number there. Raises ModelError."""
        left = index
        for file in self.files:
            if 0 <= left < file.blocks:
                return file, left
            left -= file.blocks
        raise ModelError(f"a model of {self.blocks} blocks has no block {index}")


def build_manifest(files: tuple[ModelFile, ...], engine: str, build: str) -> ModelManifest:
    """The manifest of ``files`` in canonical order. Raises :class:`ModelError` for none, or two with one path."""
    if not files:
        raise ModelError("a model has at least one file")
    manifest = ModelManifest(tuple(sorted(files, key=lambda file: file.path)), engine, build)
    _check_paths(manifest)
    return manifest


def decode_manifest(data: bytes, model_id: Digest) -> ModelManifest:
    """Another node's manifest of the model ``model_id``. Raises :class:`ModelError`.

    Size and hash are looked at before anything is parsed; bytes that are not the canonical encoding are refused.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelError(f"a manifest of {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are read")
    if (found := hashlib.sha256(data).digest()) != model_id:
        raise ModelError(f"a manifest with id 0x{found.hex()} where 0x{model_id.hex()} was asked for")
    try:
        manifest = msgspec.json.decode(data, type=ModelManifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelError(f"the manifest of 0x{model_id.hex()} is none: {error}") from error
    _check_paths(manifest)
    if manifest.encode() != data:
        raise ModelError(f"the manifest of 0x{model_id.hex()} is not in its canonical form")
    return manifest


def _check_paths(manifest: ModelManifest) -> None:
    for first, second in itertools.pairwise(file.path for file in manifest.files):
        if first == second:
            raise ModelError(f"two files of one model are called {first!r}")
        if first > second:
            raise ModelError(f"the files of a manifest are sorted by path, {first!r} comes before {second!r}")
    if manifest.size > MAX_MODEL_BYTES:
        raise ModelError(f"a model of {manifest.size} bytes, at most {MAX_MODEL_BYTES} are believed")


class FileHasher:
    """Hashes a file's bytes as they are fed: SHA-256 over all of it, and the root of each 1 MiB span's blocks."""

    __slots__ = ("_block", "_blocks", "_size", "_spans", "_whole")

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._spans: list[bytes] = []
        self._blocks: list[bytes] = []
        self._block = bytearray()
        self._size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the file's next bytes, in pieces of any size."""
        self._whole.update(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            wanted = BLOCK_BYTES - len(self._block)
            if self._block or len(view) < wanted:
                self._block += view[:wanted]
                if len(self._block) == BLOCK_BYTES:
                    self._add(hash_block(self._block))
                    self._block.clear()
            else:
                self._add(hash_block(view[:wanted]))
            view = view[wanted:]

    def spans(self) -> tuple[bytes, ...]:
        """The roots over each :data:`~inference.merkle.SPAN_BYTES` of what was fed: all that a proof needs kept."""
        blocks = [*self._blocks, hash_block(self._block)] if self._block or not self._size else self._blocks
        return (*self._spans, compute_merkle_root(blocks)) if blocks else tuple(self._spans)

    def file(self, path: str) -> ModelFile:
        """The entry of the file whose bytes were fed."""
        return ModelFile(path, self._size, self._whole.hexdigest(), compute_merkle_root(self.spans()).hex())

    def _add(self, block: bytes) -> None:
        self._blocks.append(block)
        if len(self._blocks) * BLOCK_BYTES == SPAN_BYTES:
            self._spans.append(compute_merkle_root(self._blocks))
            self._blocks.clear()
