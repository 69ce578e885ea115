"""Errors of the node's shell.

::

    NodeError
    ├── ConfigInvalid          a configuration file or override; names file and key
    ├── KeystoreError          a key file or its password; names the file
    │   ├── KeystoreMissing    there is no such file
    │   ├── KeystoreExists     it would overwrite a key
    │   ├── KeystoreExposed    others may read the file
    │   ├── KeystoreInvalid    not a keystore, or of another kind
    │   ├── WrongPassword      the password does not open it
    │   └── PasswordMissing    no password file, no variable, nobody to ask
    ├── StoreError             the database; names the file
    │   ├── StoreCorrupt       damaged; the message says how to recover
    │   ├── StoreInUse         another process has it open
    │   ├── StoreTooNew        written by a later version
    │   ├── StoreUnwritable    full disk or no permission
    │   └── StoreConflict      what is to be written contradicts what is stored
    ├── ChainMismatch          the chain endpoint is another chain than the network's
    ├── NodeUnreachable        no running node answers for a data folder
    └── AddressInUse           a port is taken
"""

from pathlib import Path


class NodeError(Exception):
    """Root of this folder's errors: what an operator did, or can mend."""


class ConfigInvalid(NodeError):
    """``key`` (dotted, empty for the whole) of the configuration at ``source`` cannot be used."""

    def __init__(self, source: Path | str, key: str, reason: str) -> None:
        self.source = str(source)
        self.key = key
        self.reason = reason
        super().__init__(f"{source}: {key}: {reason}" if key else f"{source}: {reason}")


class KeystoreError(NodeError):
    """The key file at ``path`` cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"{path}: {reason}")


class KeystoreMissing(KeystoreError):
    """There is no file at ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "there is no such file; `yellowstone keys new` makes one")


class KeystoreExists(KeystoreError):
    """``path`` exists and a key is never overwritten."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "exists already and is not overwritten: move it away or choose another name")


class KeystoreExposed(KeystoreError):
    """``path`` may be read by others. ``mode`` is its permission bits."""

    def __init__(self, path: Path, mode: int) -> None:
        self.mode = mode
        super().__init__(path, f"is readable by others (mode {mode:04o}); type: chmod 600 {path}")


class KeystoreInvalid(KeystoreError):
    """``path`` is no keystore, is damaged, or holds another kind of key."""


class WrongPassword(KeystoreError):
    """The password does not open ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "the password does not open this key file")


class PasswordMissing(KeystoreError):
    """No password for ``path`` could be had."""

    def __init__(self, path: Path, variable: str) -> None:
        super().__init__(path, f"needs a password: set keys.password_file or the variable {variable}")


class StoreError(NodeError):
    """The database at ``path`` cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"{path}: {reason}")


class StoreCorrupt(StoreError):
    """The database is damaged; ``reason`` is what SQLite says."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(
            path,
            f"the database is damaged ({reason}). Stop the node and rescue what can be read: "
            f"sqlite3 {path} .recover | sqlite3 {path}.rescued && mv {path} {path}.damaged "
            f"&& mv {path}.rescued {path}. "
            "Batches and the book come back from peers without it; unclaimed vouchers and receipts do not",
        )


class StoreInUse(StoreError):
    """Another process has the database open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "is open in another process: does this node run already?")


class StoreTooNew(StoreError):
    """The database has schema ``version``, this program knows at most ``known``."""

    def __init__(self, path: Path, version: int, known: int) -> None:
        self.version = version
        self.known = known
        super().__init__(path, f"has schema version {version}, this program knows at most {known}: run the newer one")


class StoreUnwritable(StoreError):
    """The disk is full, or the file may not be written."""


class StoreConflict(StoreError):
    """``what`` is stored already with other contents."""

    def __init__(self, path: Path, what: str) -> None:
        self.what = what
        super().__init__(path, f"{what} is stored already with other contents")


class ChainMismatch(NodeError):
    """The endpoint at ``url`` serves chain ``found``, the network lives on chain ``expected``."""

    def __init__(self, url: str, found: int, expected: int) -> None:
        self.url = url
        self.found = found
        self.expected = expected
        super().__init__(f"chain at {url} has chain id {found}, this network is on {expected}")


class NodeUnreachable(NodeError):
    """No node runs for ``data_dir``, or it does not answer the question."""

    def __init__(self, data_dir: Path, reason: str) -> None:
        self.data_dir = data_dir
        super().__init__(f"the node of {data_dir} does not answer: {reason}")


class AddressInUse(NodeError):
    """``host``:``port`` is taken by another program or not for this user. ``what`` was to listen there."""

    def __init__(self, what: str, host: str, port: int, reason: str = "is in use") -> None:
        self.what = what
        self.host = host
        self.port = port
        super().__init__(f"{what}: {host}:{port} {reason}; choose another port, or 0 for any free one")
