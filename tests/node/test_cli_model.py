"""``yellowstone model``: hash, verify and list, on small files."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inference.errors import ModelError
from inference.llamacpp.engine import engine_build
from inference.model_files import manifest_of
from node.cli_model import app
from tests.inference.file_server import serve_file
from tests.inference.test_model_files import make_folder

RUN = CliRunner()


def test_hash_and_verify_agree(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    model_id = RUN.invoke(app, ["hash", str(path)], catch_exceptions=False).stdout.strip()
    assert model_id == "0x" + manifest_of(path, "llama.cpp", engine_build()).model_id().hex()
    said = RUN.invoke(app, ["verify", str(path), model_id], catch_exceptions=False).stdout
    assert hashlib.sha256(b"GGUF").hexdigest() in said
    assert said.splitlines()[-1].startswith("ok: ")
    shown = json.loads(RUN.invoke(app, ["hash", str(path), "--manifest"], catch_exceptions=False).stdout)
    assert shown["files"][0]["path"] == "model.gguf"
    path.write_bytes(b"GGUX")
    with pytest.raises(ModelError, match=f"not {model_id}"):
        RUN.invoke(app, ["verify", str(path), model_id], catch_exceptions=False)


def test_a_folder_under_a_build_that_is_not_installed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    options = [str(folder), "--engine", "no-such-engine"]
    refused = RUN.invoke(app, ["hash", *options])
    assert refused.exit_code == 2
    assert "no-such-engine is not" in refused.output
    found = RUN.invoke(app, ["hash", *options, "--build", "1"], catch_exceptions=False).stdout.strip()
    assert found == "0x" + manifest_of(folder, "no-such-engine", "1").model_id().hex()


def test_list_shows_what_the_store_holds(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "m.gguf").write_bytes(b"GGUF")
    said = RUN.invoke(app, ["list", "--store", str(tmp_path)], catch_exceptions=False).stdout
    make_folder(tmp_path / "two")
    also = RUN.invoke(app, ["list", "--store", str(tmp_path)], catch_exceptions=False).stdout.splitlines()
    assert len(also) == 2
    assert str(tmp_path / "two") in also[1]
    assert manifest_of(tmp_path / "one" / "m.gguf", "llama.cpp", engine_build()).model_id().hex() in said
    assert RUN.invoke(app, ["list", "--store", str(tmp_path / "none")], catch_exceptions=False).stdout == ""


def test_pull_by_address(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"GGUF").hexdigest()
    with serve_file(b"GGUF") as server:
        options = ["pull", "--store", str(tmp_path), "--url", server.url, "--sha256", digest]
        assert RUN.invoke(app, options).exit_code == 2
        assert RUN.invoke(app, [*options, "--name", "../x"]).exit_code == 2
        said = RUN.invoke(app, [*options, "--name", "mine"], catch_exceptions=False).stdout
    assert said.strip() == str(tmp_path / "mine" / "mine.gguf")
