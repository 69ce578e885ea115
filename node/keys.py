"""A node's two keys at rest: keystore files in the Ethereum wallet format (Web3 Secret Storage, version 3).

Any Ethereum wallet opens the MOR key's file, and a wallet's file serves as one. New files use PBKDF2-HMAC-SHA256 with
600,000 rounds (0.12 s and no memory to speak of), because scrypt's usual setting takes 256 MB; wallets' files that use
scrypt are read all the same. eth_account does the sealing; nothing here shows a secret in a repr, an error or a log.
"""

import getpass
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from contracts.signing import Key
from contracts.typed_data import Address
from node.errors import KeystoreExists, KeystoreInvalid, PasswordMissing, WrongPassword
from node.files import read_private, write_atomic
from node.recursion import kept_recursion_limit

Kind = Literal["mor", "node"]
"""What a file holds: the MOR key, or the libp2p host's seed. Mixing them up is refused."""

PASSWORD_VARIABLE = "YELLOWSTONE_PASSWORD"  # noqa: S105  # the name of a variable, not a password

ROUNDS = 600_000
"""PBKDF2 rounds of new files."""

_FILE_MAX = 8_192
"""A keystore has about 600 bytes."""

_ROUNDS_MAX = 20_000_000
_SCRYPT_MAX = 1 << 22
"""n × r: 512 MB. A file that asks for more is refused rather than obeyed."""


def create_mor_key(path: Path, password: str) -> Key:
    """A new MOR key at ``path`` (0600). Raises :class:`KeystoreExists`; a key is never overwritten."""
    key = Key.generate()
    store_secret(path, key.reveal(), password, "mor")
    return key


def load_mor_key(path: Path, password: str) -> Key:
    """The MOR key at ``path``. Raises :class:`~node.errors.KeystoreError`."""
    return Key(load_secret(path, password, "mor"))


def create_node_seed(path: Path, password: str) -> bytes:
    """A new seed of 32 bytes for the libp2p host, at ``path`` (0600). Raises :class:`KeystoreExists`."""
    seed = Key.generate().reveal()
    store_secret(path, seed, password, "node")
    return seed


def load_node_seed(path: Path, password: str) -> bytes:
    """The host's seed at ``path``: 32 secret bytes. Raises :class:`~node.errors.KeystoreError`."""
    return load_secret(path, password, "node")


def store_secret(path: Path, secret: bytes, password: str, kind: Kind) -> None:
    """Seal 32 bytes under ``password`` into a new file. Raises :class:`KeystoreExists`."""
    if path.exists():
        raise KeystoreExists(path)
    document = _account().encrypt(secret, password, kdf="pbkdf2", iterations=ROUNDS)
    document["yellowstone"] = kind
    try:
        write_atomic(path, json.dumps(document, indent=1).encode(), overwrite=False)
    except FileExistsError as error:
        raise KeystoreExists(path) from error


def load_secret(path: Path, password: str, kind: Kind) -> bytes:
    """The 32 bytes sealed at ``path``.

    Raises :class:`KeystoreMissing`, :class:`KeystoreExposed`, :class:`KeystoreInvalid` or :class:`WrongPassword`.
    """
    document = _read_document(path, kind)
    try:
        secret = bytes(_account().decrypt(document, password))
    except ValueError as error:
        if "MAC mismatch" in str(error):
            raise WrongPassword(path) from None
        raise KeystoreInvalid(path, f"is damaged: {error}") from None
    except (KeyError, TypeError, NotImplementedError) as error:
        raise KeystoreInvalid(path, f"is damaged: {error!r}") from None
    if len(secret) != 32:
        raise KeystoreInvalid(path, f"holds {len(secret)} bytes, a key has 32")
    return secret


def read_address(path: Path) -> Address:
    """The address that a MOR keystore states in the clear; needs no password. Raises :class:`KeystoreInvalid`."""
    text = str(_read_document(path, "mor").get("address", ""))
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 20:
        raise KeystoreInvalid(path, f"states no address: {text!r}")
    return Address(raw)


def find_password(
    path: Path,
    password_file: Path | None,
    *,
    ask: Callable[[str], str] | None = None,
    variable: str = PASSWORD_VARIABLE,
) -> str:
    """The password for the key at ``path``: from ``password_file`` (0600), else the variable, else by asking.

    ``ask`` defaults to a prompt where standard input is a terminal. Raises :class:`PasswordMissing`, and
    :class:`KeystoreExposed` or :class:`KeystoreMissing` for the password file itself.
    """
    if password_file is not None:
        try:
            return read_private(password_file).decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise KeystoreInvalid(password_file, "is not text") from None
    if (given := os.environ.get(variable)) is not None:
        return given
    if ask is None and sys.stdin.isatty():
        ask = getpass.getpass
    if ask is None:
        raise PasswordMissing(path, variable)
    return ask(f"Password for {path}: ")


def _read_document(path: Path, kind: Kind) -> dict[str, Any]:
    raw = read_private(path)
    if len(raw) > _FILE_MAX:
        raise KeystoreInvalid(path, f"is not a keystore: it has {len(raw)} bytes")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise KeystoreInvalid(path, "is not a keystore: no JSON") from None
    if not isinstance(document, dict) or document.get("version") != 3:
        raise KeystoreInvalid(path, "is not a version 3 keystore")
    found = document.pop("yellowstone", kind)
    if found != kind:
        raise KeystoreInvalid(path, f"holds a {found} key, not a {kind} key")
    _check_cost(path, document)
    return document


def _check_cost(path: Path, document: dict[str, Any]) -> None:
    """A file decides how much work opening it takes; refuse what would stall the node."""
    sealed = document.get("crypto", document.get("Crypto"))
    parameters = sealed.get("kdfparams") if isinstance(sealed, dict) else None
    if not isinstance(parameters, dict):
        raise KeystoreInvalid(path, "is damaged: it has no kdfparams")
    for name, limit in (("c", _ROUNDS_MAX), ("n", _SCRYPT_MAX), ("r", 64), ("p", 16)):
        value = parameters.get(name, 1)
        if not isinstance(value, int) or not 1 <= value <= limit:
            raise KeystoreInvalid(path, f"asks for {name} = {value!r}, at most {limit} is accepted")
    if parameters.get("n", 1) * parameters.get("r", 1) > _SCRYPT_MAX:
        raise KeystoreInvalid(path, "asks for more than 512 MB of memory")


def _account() -> Any:
    """eth_account takes half a second to import: only where a key file is read or written."""
    with kept_recursion_limit():
        from eth_account import Account  # noqa: PLC0415  # see above

    return Account
