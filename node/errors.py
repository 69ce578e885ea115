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
    │   ├── StoreConflict      what is to be written contradicts what is stored
    │   └── GuardError         the signing guard's database
    │       ├── GuardInUse     a second guard on one key or one file
    │       ├── GuardCorrupt   damaged; the message says how to recover
    │       ├── GuardMissing   it was there once: never started empty again
    │       ├── GuardMoved     its history was exported: another machine signs now
    │       └── GuardMismatch  it belongs to another key or network
    ├── HistoryInvalid         an exported signing history cannot be taken over; names file and line
    ├── SigningRefused         the signing guard does not sign this
    ├── WalError               the member's input log; names the file
    │   ├── WalInUse           another process has it open
    │   ├── WalCorrupt         damaged before its end; names the offset
    │   ├── WalUnreadable      whole, but of another version
    │   └── WalFull            an entry or the file outgrew its bound
    ├── ProofUnreadable        a file is no proof of a credit; names file and key
    ├── ProofRejected          a proof does not hold, or is of a committee that nobody vouches for
    ├── ReplayFailed           stored batches do not lead to what was certified; names height and field
    ├── SnapshotInvalid        a stored snapshot cannot be trusted; names height and field
    ├── AmountInvalid          an amount of MOR that can't be staked or unstaked
    ├── PlotUnavailable        a picture needs a package that isn't installed
    ├── ChainMismatch          the chain endpoint is another chain than the network's
    ├── NodeUnreachable        no running node answers for a data folder
    ├── Unanswerable           a running node has no answer to a question; the message says why
    └── AddressInUse           a port is taken
"""

from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path

from contracts.errors import public_endpoint


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


class ProofUnreadable(NodeError):
    """``key`` (dotted, empty for the whole) of the proof at ``path`` cannot be read."""

    def __init__(self, path: Path, key: str, reason: str) -> None:
        self.path = path
        self.key = key
        self.reason = reason
        super().__init__(f"{path}: {key}: {reason}" if key else f"{path}: {reason}")


class ProofRejected(NodeError):
    """The proof at ``path`` proves nothing; ``reason`` says what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: not proven: {reason}")


class ReplayFailed(NodeError):
    """The stored batch of ``height`` is not what the rules and the certificate make it; ``field`` is what differs."""

    def __init__(self, height: int, field: str, reason: str) -> None:
        self.height = height
        self.field = field
        self.reason = reason
        super().__init__(f"height {height}: {field}: {reason}")


class SnapshotInvalid(NodeError):
    """The snapshot of ``height`` is not believed; ``field`` is what differs."""

    def __init__(self, height: int, field: str, reason: str) -> None:
        self.height = height
        self.field = field
        self.reason = reason
        super().__init__(f"snapshot of height {height}: {field}: {reason}")


class GuardError(StoreError):
    """The signing guard at ``path`` cannot be used: nothing is signed without it."""


_RESTORE = (
    "restore an exported signing history, or name a height above all that this member can have voted on, "
    "through which nothing is signed"
)


class GuardInUse(GuardError):
    """A member refuses to start twice on one key. ``reason`` says where it runs already."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(path, f"refuses to start twice on one key: {reason}")


class GuardCorrupt(GuardError):
    """The guard's database is damaged; ``reason`` is what was found."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(path, f"the signing guard is damaged ({reason}). Move it to {path}.damaged, then {_RESTORE}")


class GuardMissing(GuardError):
    """The guard's database existed (``marker`` says so) and is gone or empty: it is not started afresh."""

    def __init__(self, path: Path, marker: Path) -> None:
        self.marker = marker
        super().__init__(path, f"the signing guard is gone, but {marker} knows that there was one: {_RESTORE}")


class GuardMoved(GuardError):
    """The guard's history was exported at ``moved_ms`` (Unix ms): whoever took it over signs, this guard doesn't."""

    def __init__(self, path: Path, moved_ms: int) -> None:
        self.moved_ms = moved_ms
        when = datetime.fromtimestamp(moved_ms / 1_000, UTC).isoformat(timespec="seconds")
        super().__init__(
            path,
            f"signs no more: its history was exported at {when}, and two machines that sign with one key lose its "
            "stake. To go on here, stop the other machine for good, export there, and import that history here; or "
            "import the one that was exported here, where no other machine has ever taken it over",
        )


class GuardMismatch(GuardError):
    """The guard belongs to another ``what`` (key, chain, contract): ``found``, not ``expected``."""

    def __init__(self, path: Path, what: str, found: str, expected: str) -> None:
        self.what = what
        self.found = found
        self.expected = expected
        super().__init__(path, f"is the signing guard of {what} {found}, not of {expected}")


class HistoryInvalid(NodeError):
    """Line ``line`` (from 1, 0 for the whole) of the signing history at ``path`` cannot be taken over."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        self.path = path
        self.line = line
        self.reason = reason
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}")


class SigningRefused(NodeError):
    """A message was not signed: ``reason``.

    ``place`` is (height, round, step), ``wanted`` the digest that was to be signed, ``held`` the one that was signed
    there, None where nothing is known of it.
    """

    def __init__(self, place: tuple[int, int, IntEnum], reason: str, wanted: bytes, held: bytes | None) -> None:
        self.place = place
        self.reason = reason
        self.wanted = wanted
        self.held = held
        height, round_, step = place
        known = "" if held is None else f", 0x{held.hex()} is signed there"
        super().__init__(
            f"not signing 0x{wanted.hex()} at height {height}, round {round_}, {step.name.lower()}: {reason}{known}"
        )


class WalError(NodeError):
    """The input log at ``path`` cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class WalInUse(WalError):
    """Another process, or this one, has the log open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "is open already: does this node run twice?")


class WalCorrupt(WalError):
    """The log is damaged at byte ``offset``, before entries that were on the disk. ``height`` is None where unknown."""

    def __init__(self, path: Path, offset: int, height: int | None, what: str) -> None:
        self.offset = offset
        self.height = height
        where = "the height in progress" if height is None else f"height {height}"
        super().__init__(
            path,
            f"the input log is damaged at byte {offset} ({what}). Move it to {path}.damaged and sign nothing more at "
            f"{where}, for what this member is locked on is lost; it takes part again from the next height",
        )


class WalUnreadable(WalError):
    """Entry ``number`` (from 0) of the log is whole but none that this program knows."""

    def __init__(self, path: Path, number: int, what: str) -> None:
        self.number = number
        super().__init__(path, f"entry {number} cannot be read ({what}): written by another version? Run that one")


class WalFull(WalError):
    """``size`` bytes would exceed the ``limit`` of an entry or of the file; nothing was added."""

    def __init__(self, path: Path, what: str, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(path, f"{what} would be {size} bytes long, the limit is {limit}")


class AmountInvalid(NodeError):
    """``amount``, as it was given, is no amount of MOR or more than there is."""

    def __init__(self, amount: str, reason: str) -> None:
        self.amount = amount
        self.reason = reason
        super().__init__(f"{amount}: {reason}")


class PlotUnavailable(NodeError):
    """``package``, which draws pictures, isn't installed; it comes with an extra."""

    def __init__(self, package: str) -> None:
        self.package = package
        super().__init__(
            f"a picture needs {package}: pip install 'yellowstone-router[plot]', or leave it out (--no-plot)"
        )


class ChainMismatch(NodeError):
    """The endpoint serves chain ``found``, the network lives on chain ``expected``.

    ``url`` is the endpoint's scheme, host and port.
    """

    def __init__(self, url: str, found: int, expected: int) -> None:
        self.url = public_endpoint(url)
        self.found = found
        self.expected = expected
        super().__init__(f"chain at {self.url} has chain id {found}, this network is on {expected}")


class NodeUnreachable(NodeError):
    """No node runs for ``data_dir``, or it does not answer the question."""

    def __init__(self, data_dir: Path, reason: str) -> None:
        self.data_dir = data_dir
        super().__init__(f"the node of {data_dir} does not answer: {reason}")


class Unanswerable(NodeError):
    """What was asked of a running node has no answer; ``reason`` says why, in a line."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class AddressInUse(NodeError):
    """``host``:``port`` is taken by another program or not for this user. ``what`` was to listen there."""

    def __init__(self, what: str, host: str, port: int, reason: str = "is in use") -> None:
        self.what = what
        self.host = host
        self.port = port
        super().__init__(f"{what}: {host}:{port} {reason}; choose another port, or 0 for any free one")
