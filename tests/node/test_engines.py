"""Which engine serves an offer: here the upstream, whose key comes from a private file."""

from pathlib import Path
from typing import Any

import pytest

from inference.errors import EngineMisconfigured
from node.config import ModelOffer, load_node, write_node
from node.engines import open_engine
from node.errors import ConfigInvalid, KeystoreExposed, KeystoreMissing
from tests.inference.upstream_server import KEY, MODEL, Upstream, running
from tests.node.builders import node_file


def offer(**fields: Any) -> ModelOffer:
    given: dict[str, Any] = {"model": "ours", "price_wei": 1, "engine": "openai", "upstream_model": MODEL}
    return ModelOffer(**(given | fields))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "upstream.key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


async def test_an_upstream_is_opened_with_its_key(tmp_path: Path, key_file: Path) -> None:
    async with running(Upstream("vllm")) as upstream:
        url = upstream.url + "/v1"
        async with open_engine(offer(url=url, api_key_file=key_file, slots=7), tmp_path) as engine:
            assert (engine.name, (await engine.health()).slots) == ("ours", 7)
            named = engine.model_id
        assert upstream.keys == {f"Bearer {KEY}"}
        weights = tmp_path / "model.gguf"
        weights.write_bytes(b"GGUF" * 100)
        async with open_engine(offer(url=url, path=weights), tmp_path) as engine:
            assert engine.model_id != named, "the files decide where they are known"
        upstream.status = 401
        with pytest.raises(EngineMisconfigured):
            async with open_engine(offer(url=url), tmp_path):
                pass


async def test_a_key_file_that_is_missing_exposed_or_empty_is_named(tmp_path: Path, key_file: Path) -> None:
    async def fails(kind: type[Exception], path: Path) -> None:
        with pytest.raises(kind, match=path.name) as caught:
            async with open_engine(offer(url="http://127.0.0.1:9", api_key_file=path), tmp_path):
                pass
        assert KEY not in str(caught.value)

    await fails(KeystoreMissing, tmp_path / "nowhere.key")
    key_file.chmod(0o640)
    await fails(KeystoreExposed, key_file)
    key_file.chmod(0o600)
    for bad in (b"", b"two\nlines", b"\xff\xfe"):
        key_file.write_bytes(bad)
        await fails(ConfigInvalid, key_file)


def test_an_upstream_in_a_node_file(tmp_path: Path, key_file: Path) -> None:
    path = tmp_path / "node.toml"
    sold = offer(url="https://gpu.example:8000/v1", upstream="tabbyapi", api_key_file=key_file)
    config = node_file(tmp_path)
    fields = {name: getattr(config, name) for name in config.__struct_fields__} | {"models": (sold,)}
    write_node(path, type(config)(**fields))
    assert load_node(path).models == (sold,)
    for changes, key in (({"url": ""}, "models.0..url"), ({"engine": "llamacpp"}, "models.0..api_key_file")):
        given = {name: getattr(sold, name) for name in sold.__struct_fields__} | changes
        with pytest.raises(ConfigInvalid, match=key):
            write_node(path, type(config)(**(fields | {"models": (ModelOffer(**given),)})))
