"""Keystores: made once, private, compatible with wallets, and silent about what they hold."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from eth_account import Account

from contracts.signing import Key
from node import keys
from node.errors import (
    KeystoreExists,
    KeystoreExposed,
    KeystoreInvalid,
    KeystoreMissing,
    PasswordMissing,
    WrongPassword,
)

PASSWORD = "corrécte horse"


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "ROUNDS", 10)
    monkeypatch.delenv(keys.PASSWORD_VARIABLE, raising=False)


def test_mor_key_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "mor.json"
    key = keys.create_mor_key(path, PASSWORD)
    assert keys.load_mor_key(path, PASSWORD).reveal() == key.reveal()
    assert keys.read_address(path) == key.address
    assert path.stat().st_mode & 0o777 == 0o600


def test_node_seed_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    seed = keys.create_node_seed(path, PASSWORD)
    assert len(seed) == 32
    assert keys.load_node_seed(path, PASSWORD) == seed


def test_a_wallet_opens_our_file(tmp_path: Path) -> None:
    path = tmp_path / "mor.json"
    key = keys.create_mor_key(path, PASSWORD)
    assert bytes(Account.decrypt(json.loads(path.read_text()), PASSWORD)) == key.reveal()


@pytest.mark.parametrize(("kdf", "rounds"), [("scrypt", 2), ("pbkdf2", 3)])
def test_we_open_a_wallets_file(tmp_path: Path, kdf: Literal["scrypt", "pbkdf2"], rounds: int) -> None:
    key = Key.generate()
    path = tmp_path / "wallet.json"
    path.write_text(json.dumps(Account.encrypt(key.reveal(), PASSWORD, kdf=kdf, iterations=rounds)))
    path.chmod(0o600)
    assert keys.load_mor_key(path, PASSWORD).address == key.address


def test_wrong_password_names_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mor.json"
    keys.create_mor_key(path, PASSWORD)
    with pytest.raises(WrongPassword, match=str(path)) as caught:
        keys.load_mor_key(path, "guess-1234")
    assert "guess-1234" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mor.json"
    keys.create_mor_key(path, PASSWORD)
    before = path.read_bytes()
    with pytest.raises(KeystoreExists, match=str(path)):
        keys.create_mor_key(path, PASSWORD)
    assert path.read_bytes() == before


def test_exposed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mor.json"
    keys.create_mor_key(path, PASSWORD)
    path.chmod(0o640)
    with pytest.raises(KeystoreExposed, match="chmod 600"):
        keys.load_mor_key(path, PASSWORD)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KeystoreMissing):
        keys.load_mor_key(tmp_path / "none.json", PASSWORD)


def test_the_two_keys_cannot_be_mixed_up(tmp_path: Path) -> None:
    mor, node = tmp_path / "mor.json", tmp_path / "node.json"
    keys.create_mor_key(mor, PASSWORD)
    keys.create_node_seed(node, PASSWORD)
    with pytest.raises(KeystoreInvalid, match="holds a node key"):
        keys.load_mor_key(node, PASSWORD)
    with pytest.raises(KeystoreInvalid, match="holds a mor key"):
        keys.load_node_seed(mor, PASSWORD)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"version": 3}',
        b'{"version": 3, "crypto": {}}',
        b'{"version": 3, "crypto": {"kdfparams": {"c": 1}, "kdf": "pbkdf2"}}',
        b'{"version": 3, "crypto": {"kdfparams": {"c": 1}, "kdf": "none"}}',
        b'{"version": 3, "crypto": {"kdfparams": {"c": "many"}}}',
        b"[" * 100_000,
    ],
)
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mor.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeystoreInvalid, match=str(path)):
        keys.load_mor_key(path, PASSWORD)


@pytest.mark.parametrize("cost", [{"c": 10**12}, {"n": 2**30, "r": 8, "p": 1}, {"n": 2**20, "r": 64, "p": 1}])
def test_a_file_cannot_stall_the_node(tmp_path: Path, cost: dict[str, int]) -> None:
    path = tmp_path / "mor.json"
    keys.create_mor_key(path, PASSWORD)
    document = json.loads(path.read_text())
    document["crypto"]["kdfparams"] |= cost
    path.write_text(json.dumps(document))
    with pytest.raises(KeystoreInvalid, match="asks for"):
        keys.load_mor_key(path, PASSWORD)


def test_importing_the_wallet_library_leaves_the_recursion_limit() -> None:
    code = (
        "import sys; from node import keys; before = sys.getrecursionlimit(); keys._account();"
        "assert 'py_ecc' in sys.modules and sys.getrecursionlimit() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    key = keys.create_mor_key(tmp_path / "mor.json", PASSWORD)
    assert key.reveal().hex() not in repr(key)
    assert key.reveal().hex() not in (tmp_path / "mor.json").read_text()


def test_password_from_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.PASSWORD_VARIABLE, "other")
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o600)
    assert keys.find_password(tmp_path / "mor.json", path) == PASSWORD


def test_exposed_password_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(PASSWORD)
    path.chmod(0o644)
    with pytest.raises(KeystoreExposed, match=str(path)):
        keys.find_password(tmp_path / "mor.json", path)


def test_password_from_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.PASSWORD_VARIABLE, PASSWORD)
    assert keys.find_password(tmp_path / "mor.json", None) == PASSWORD


def test_password_by_asking(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return PASSWORD

    assert keys.find_password(tmp_path / "mor.json", None, ask=ask) == PASSWORD
    assert str(tmp_path / "mor.json") in asked[0]


def test_no_password_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(PasswordMissing, match=keys.PASSWORD_VARIABLE):
        keys.find_password(tmp_path / "mor.json", None)
