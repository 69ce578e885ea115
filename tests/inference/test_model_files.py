"""Hashing what lies on a disk: GGUFs, folders, the cache, and files that change."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import model_files
from inference.errors import ModelChanged, ModelError
from inference.merkle import BLOCK_BYTES, SPAN_BYTES
from inference.model_files import DescribedModel, HashCache, HashedFile, hash_file, identify, manifest_of, open_model
from inference.models import Part, part_of
from inference.possession import check_blocks

WEIGHTS = b"GGUF" + bytes(range(256)) * 100


def make_folder(folder: Path) -> Path:
    """An EXL2 model's files, in two shards."""
    folder.mkdir()
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    texts = {
        "config.json": '{"quantization_config": {"bits": 4}}',
        "tokenizer.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "model.safetensors.index.json": json.dumps(index),
        "README.md": "of no consequence",
        "measurement.json": "{}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "one.safetensors").write_bytes(random.Random(1).randbytes(3 * BLOCK_BYTES + 7))
    (folder / "two.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that were really read."""
    names: list[str] = []
    real = model_files.hash_file

    def counting(path: Path, *rest: object) -> HashedFile:
        names.append(path.name)
        return real(path, *rest)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(model_files, "hash_file", counting)
    return names


def test_a_files_own_name_is_not_part_of_the_model(tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).write_bytes(WEIGHTS)
    assert manifest_of(tmp_path / "one.gguf", "e", "b") == manifest_of(tmp_path / "two.gguf", "e", "b")


def test_a_folder_is_what_engines_read_of_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    manifest = manifest_of(folder, "exllamav2", "0.3.2")
    assert [file.path for file in manifest.files] == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors.index.json",
        "one.safetensors",
        "tokenizer.json",
        "two.safetensors",
    ]
    assert {part_of(file.path) for file in manifest.files} == {
        Part.WEIGHTS,
        Part.CONFIG,
        Part.TOKENIZER,
        Part.TEMPLATE,
    }
    (folder / "README.md").write_text("changed")
    assert manifest_of(folder, "exllamav2", "0.3.2") == manifest
    for name in [file.path for file in manifest.files if not file.path.endswith("index.json")]:
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b" ")
        assert manifest_of(folder, "exllamav2", "0.3.2").model_id() != manifest.model_id(), name
        (folder / name).write_bytes(before)
    assert manifest_of(folder, "exllamav2", "0.3.2").model_id() == manifest.model_id()


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "neither tokenizer.json nor tokenizer.model"),
        ("two.safetensors", "lacks 'two.safetensors'"),
    ],
)
def test_a_folder_with_something_missing_is_named(tmp_path: Path, gone: str, reason: str) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / gone).unlink()
    with pytest.raises(ModelError, match=reason):
        open_model(folder, "e", "b")


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        open_model(tmp_path, "e", "b")
    folder = make_folder(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text("[")
    with pytest.raises(ModelError, match="cannot be read"):
        open_model(folder, "e", "b")


def test_cache_hashes_again_only_what_changed(tmp_path: Path, hashed: list[str]) -> None:
    path, cache = tmp_path / "w.gguf", HashCache(tmp_path / "sub" / "hashes")
    path.write_bytes(b"one")
    first = cache.hash_file(path)
    assert HashCache(tmp_path / "sub" / "hashes").hash_file(path) == first == hash_file(path)
    assert len(hashed) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert cache.hash_file(path).entry.sha256 != first.entry.sha256
    # the same size and time in another inode: a file that was moved into place
    other = tmp_path / "other"
    other.write_bytes(b"six")
    os.utime(other, ns=(1, 1))
    other.replace(path)
    assert cache.hash_file(path).entry == hash_file(path).entry
    assert len(hashed) == 3


def test_damaged_cache_is_computed_again(tmp_path: Path, hashed: list[str]) -> None:
    path, folder = tmp_path / "w.gguf", tmp_path / "hashes"
    path.write_bytes(b"one")
    good = HashCache(folder).hash_file(path)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    for number, damage in enumerate((b"", whole[:-1], b"\x84", b"\xff", whole.replace(b"w.gguf", b"v.gguf"))):
        entry.write_bytes(damage)
        assert HashCache(folder).hash_file(path) == good
        assert len(hashed) == number + 2


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.gguf"):
        hash_file(tmp_path / "gone.gguf")
    with pytest.raises(ModelError, match=r"gone\.gguf"):
        HashCache(tmp_path / "c").hash_file(tmp_path / "gone.gguf")


def test_a_file_that_grows_while_it_is_hashed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.gguf"
    path.write_bytes(WEIGHTS)

    def grow(_what: str, done: int, _total: int) -> None:
        if done:
            with path.open("ab") as file:
                file.write(b"more")
            os.utime(path, ns=(1, 1))

    with pytest.raises(ModelChanged, match=r"w\.gguf changed"):
        hash_file(path, "w", grow)


def rewrite(path: Path) -> None:
    """Other bytes of the same length, at another time."""
    path.write_bytes(bytes(len(path.read_bytes())))
    os.utime(path, ns=(5, 5))


def touch(path: Path) -> None:
    os.utime(path, ns=(5, 5))


def swap(path: Path) -> None:
    """The same bytes and time in another inode."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, touch, swap, Path.unlink])
def test_a_changed_model_is_neither_served_nor_proven(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = make_folder(tmp_path / "model")
    model = open_model(folder, "e", "b")
    model.check()
    check_blocks(model.manifest, range(3), model.prove(range(3)))
    change(folder / "one.safetensors")
    with pytest.raises(ModelChanged, match=r"one\.safetensors changed"):
        model.check()
    with pytest.raises(ModelChanged, match=r"one\.safetensors changed"):
        model.prove([0])


def test_bytes_that_changed_behind_their_status_are_not_proven(tmp_path: Path) -> None:
    path = tmp_path / "w.gguf"
    path.write_bytes(bytes(3 * SPAN_BYTES))
    model = open_model(path, "e", "b")
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(SPAN_BYTES + 5)
        file.write(b"\1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    model.check()
    check_blocks(model.manifest, [0], model.prove([0]))
    with pytest.raises(ModelChanged, match=f"the bytes from {SPAN_BYTES} on"):
        model.prove([64])


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 2 * SPAN_BYTES), min_size=1, max_size=3))
def test_every_block_can_be_proven(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder = make_folder(tmp_path_factory.mktemp("models") / "model")
    for number, size in enumerate(sizes):
        (folder / f"more{number}.safetensors").write_bytes(b"\xc3" * size)
    model = open_model(folder, "e", "b")
    indexes = range(0, model.manifest.blocks, 7)
    check_blocks(model.manifest, indexes, model.prove(indexes))


def test_a_described_model_proves_its_description() -> None:
    model = DescribedModel("an upstream" * 5_000, "openai", "1")
    model.check()
    indexes = range(model.manifest.blocks)
    check_blocks(model.manifest, indexes, model.prove(indexes))
    assert part_of(model.manifest.files[0].path) is Part.DESCRIPTION
    assert DescribedModel("another", "openai", "1").manifest.model_id() != model.manifest.model_id()


async def test_hashing_tells_how_far_it_is_and_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "w.gguf"
    path.write_bytes(bytes(9 << 20))
    told: list[tuple[int, int]] = []
    model = await identify(path, "e", "b", report=lambda _, done, total: told.append((done, total)))
    assert told == [(done << 20, 9 << 20) for done in (0, 4, 8, 9)]
    assert model.manifest == manifest_of(path, "e", "b")
    told.clear()
    with trio.CancelScope() as scope:

        def stop(_what: str, done: int, total: int) -> None:
            told.append((done, total))
            trio.from_thread.run_sync(scope.cancel)

        await identify(path, "e", "b", report=stop)
    assert scope.cancelled_caught
    assert len(told) == 1


def test_a_stamp_names_what_the_cache_is_keyed_by(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"abc")
    status = path.stat()
    stamp = hash_file(path).stamp
    assert msgspec.structs.astuple(stamp) == (3, status.st_mtime_ns, status.st_ino)
