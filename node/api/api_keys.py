"""Keys for several local users of one gateway, each with a share of the day's allowance, in one file (0600).

The file holds hashes: a key is 256 random bits, shown once when it is made, so a plain SHA-256 tells nothing about it.
While there is no file the gateway asks for no key; with one, even an empty one, it does.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Annotated

import msgspec

from node.errors import ConfigInvalid, KeystoreMissing
from node.files import read_private, write_atomic

KEYS_FILE = "gateway-keys.json"
"""The file's name in a node's data folder."""

KEYS_MOST = 1_000
PREFIX = "ysk-"

Percent = Annotated[int, msgspec.Meta(ge=1, le=100)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One local user's key. At most one of ``percent`` and ``tokens`` is set; neither: no share of its own."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    created_ms: int
    percent: Percent | None = None
    """Percent of UserMax."""
    tokens: Tokens | None = None
    """T a day."""

    def limit(self, user_max: int | None) -> int | None:
        """T a day for this key; None where it has no limit of its own, or a share of a UserMax that is not known."""
        if self.tokens is not None:
            return self.tokens
        if self.percent is None or user_max is None:
            return None
        return user_max * self.percent // 100


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[ApiKey]


def hash_key(text: str) -> str:
    """How a key stands in the file."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def read_keys(path: Path) -> tuple[ApiKey, ...] | None:
    """Every key, None where there is no file. Raises KeystoreExposed, and ConfigInvalid naming what is wrong."""
    try:
        raw = read_private(path)
    except KeystoreMissing:
        return None
    try:
        keys = msgspec.json.decode(raw, type=_File).keys
    except msgspec.MsgspecError as error:
        raise ConfigInvalid(path, "keys", str(error)) from error
    _check(path, keys)
    return tuple(keys)


def add_key(path: Path, name: str, now_ms: int, *, percent: int | None = None, tokens: int | None = None) -> str:
    """Make a key for ``name`` and return it: it is kept nowhere. Raises ConfigInvalid."""
    text = PREFIX + secrets.token_urlsafe(32)
    keys = [*(read_keys(path) or ()), ApiKey(name, hash_key(text), now_ms, percent, tokens)]
    _check(path, keys)
    _write(path, keys)
    return text


def revoke_key(path: Path, name: str) -> None:
    """Take a key back; the file stays, so that the gateway goes on asking for keys. Raises ConfigInvalid."""
    keys = read_keys(path) or ()
    kept = [key for key in keys if key.name != name]
    if len(kept) == len(keys):
        raise ConfigInvalid(path, "name", f"there is no key {name!r}")
    _write(path, kept)


def _check(path: Path, keys: list[ApiKey]) -> None:
    if len(keys) > KEYS_MOST:
        raise ConfigInvalid(path, "keys", f"{len(keys)} keys; at most {KEYS_MOST} are possible")
    names = [key.name for key in keys]
    for key in keys:
        if names.count(key.name) > 1:
            raise ConfigInvalid(path, "name", f"{key.name!r} is there twice")
        if not 1 <= len(key.name) <= 64 or not key.name.isprintable():
            raise ConfigInvalid(path, "name", f"{key.name!r} is not 1 to 64 printable characters")
        if key.percent is not None and key.tokens is not None:
            raise ConfigInvalid(path, key.name, "has both a percentage and a number of T")
        if key.percent is not None and not 1 <= key.percent <= 100:
            raise ConfigInvalid(path, "percent", f"{key.percent} is not 1 to 100")
        if key.tokens is not None and not 1 <= key.tokens < 2**63:
            raise ConfigInvalid(path, "tokens", f"{key.tokens} is not 1 to {2**63 - 1}")
    shared = sum(key.percent or 0 for key in keys)
    if shared > 100:
        raise ConfigInvalid(path, "percent", f"the shares add up to {shared} percent")


def _write(path: Path, keys: list[ApiKey]) -> None:
    write_atomic(path, msgspec.json.format(msgspec.json.encode(_File(keys))) + b"\n")
