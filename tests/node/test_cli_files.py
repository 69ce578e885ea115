"""Every command with files that are missing, foreign, or no files: one sentence, never a traceback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from node import cli, keys
from node.config import KeyFiles, NodeFile, write_network, write_node
from tests.node.test_replay import NETWORK

GARBAGE = bytes(range(256)) * 8
"""No text in any encoding that is read here."""

VALUES = {
    "name": "someone",
    "height": "7",
    "provider": "0x" + "11" * 20,
    "model_id": "0x" + "22" * 32,
    "amount": "5",
    "to": "0x" + "33" * 20,
    "holders": "0x" + "33" * 20,
    "stake": "100",
    "what": "day",
}
"""An argument that makes sense, by its name."""

FILES = {
    "config",
    "file",
    "addresses",
    "key",
    "password_file",
    "export",
    "restore",
    "network",
    "folder",
    "path",
    "store",
}
FILES |= {"manifest", "directory", "plot"}
"""Arguments and options that name files or folders."""

NEEDS_NO_FILE = {("model", "pull"), ("testnet", "up"), ("testnet", "chaos"), ("testnet", "days"), ("testnet", "trials")}
"""Commands that begin their work whatever is there; the testnet's have tests of their own."""

STATES = ("missing", "folder", "garbage", "foreign", "empty")


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    cli._add_groups()

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if not hasattr(command, "commands"):
            yield path, command
            return
        for name, inner in sorted(command.commands.items()):
            yield from walk(inner, (*path, name))

    yield from walk(get_command(cli.app), ())


ALL = dict(commands())


def make(state: str, path: Path) -> Path:
    match state:
        case "folder":
            path.mkdir()
        case "garbage":
            path.write_bytes(GARBAGE)
        case "foreign":
            path.write_text('[{"of": "another program"}]\n', encoding="utf-8")
        case "empty":
            path.touch()
    return path


def arguments_of(path: tuple[str, ...], files: dict[str, Path]) -> list[str]:
    """A call of a command with values that make sense, and ``files`` for the parameters of these names."""
    named, placed = [*path], list[str]()
    for parameter in ALL[path].params:
        if parameter.name in files:
            value = str(files[parameter.name])
        elif parameter.required and parameter.name in VALUES:
            value = VALUES[parameter.name]
        else:
            continue
        if type(parameter).__name__.endswith("Argument"):
            placed.append(value)
        else:
            named += [parameter.opts[0], value]
    return [*named, "--", *placed] if placed else named


def call(arguments: list[str]) -> int:
    """The exit status; anything but an exit is a traceback for the user."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    code = ended.value.code
    assert isinstance(code, int)
    return code


def file_parameters(path: tuple[str, ...]) -> list[str]:
    return [parameter.name for parameter in ALL[path].params if parameter.name in FILES]


CASES = [
    pytest.param((path, name, state), id=f"{' '.join(path)} {name} {state}")
    for path in ALL
    if path not in NEEDS_NO_FILE
    for name in file_parameters(path)
    for state in STATES
]


@pytest.mark.parametrize("case", CASES)
def test_no_file_makes_a_traceback(
    case: tuple[tuple[str, ...], str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, name, state = case
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YELLOWSTONE_PASSWORD", "a password")
    required = {p.name: tmp_path / p.name for p in ALL[path].params if p.required and p.name in FILES}
    files = required | {name: make(state, tmp_path / "given")}
    code = call(arguments_of(path, files))
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if code:
        assert said.err.strip()
        assert len(said.err.strip().splitlines()) <= 12, said.err


# A node's own folder.


def node_folder(folder: Path, data: Path) -> Path:
    """node.toml, network.toml and keys that are all in order."""
    (folder / "password").write_text("a password", encoding="utf-8")
    (folder / "password").chmod(0o600)
    keys.create_mor_key(folder / "mor.json", "a password")
    keys.create_node_seed(folder / "node.json", "a password")
    write_network(folder / "network.toml", NETWORK)
    files = KeyFiles(folder / "mor.json", folder / "node.json", folder / "password")
    node = NodeFile(network=folder / "network.toml", data_dir=data, keys=files)
    write_node(folder / "node.toml", node)
    return folder / "node.toml"


COMMANDS_ON_DATA = {
    "run": ("run",),
    "replay": ("replay", "--processes", "0"),
    "log": ("committee", "log"),
    "export": ("committee", "log", "--export", "out.json"),
    "import": ("committee", "log", "--import", "in.json"),
    "apikey": ("apikey", "new", "somebody"),
    "apikey list": ("apikey", "list"),
    "status": ("status",),
}


@pytest.mark.parametrize(
    "case", [(name, state) for name in COMMANDS_ON_DATA for state in ("in the way", "below a file", "garbage inside")]
)
def test_a_data_folder_that_cannot_be_used_is_one_sentence(
    case: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, state = case
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keys, "ROUNDS", 1_000)
    (tmp_path / "in.json").write_bytes(GARBAGE)
    data = tmp_path / "data"
    match state:
        case "in the way":
            data.write_text("a file", encoding="utf-8")
        case "below a file":
            (tmp_path / "file").write_text("a file", encoding="utf-8")
            data = tmp_path / "file" / "data"
        case _:
            data.mkdir()
            for file in ("node.sqlite", "guard.sqlite", "member.wal", "ready.json", "api_keys.json", "token"):
                (data / file).write_bytes(GARBAGE)
    config = node_folder(tmp_path, data)
    code = call([*COMMANDS_ON_DATA[name], "--config", str(config)])
    said = capsys.readouterr()
    assert code in (0, 1)
    assert "Traceback" not in said.err
    if code:
        assert len(said.err.strip().splitlines()) == 1, said.err
