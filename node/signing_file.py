"""The signing guard's database: one file, one owner, and nothing in it is taken on trust.

Every row carries a checksum, for SQLite notices a damaged page but not a changed digest. A rollback journal and not a
write-ahead one: between transactions the one file is the whole guard. Beside it lies a marker, so that a file that
vanished is told from one that never was. All calls block; :mod:`node.signing_guard` decides what is signed.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from consensus.tendermint.types import Step
from contracts.typed_data import Address, Digest, Domain, Signature
from node.errors import (
    GuardCorrupt,
    GuardError,
    GuardInUse,
    GuardMismatch,
    GuardMissing,
    StoreCorrupt,
    StoreError,
    StoreInUse,
    StoreTooNew,
    StoreUnwritable,
)
from node.files import write_atomic
from node.signing_history import NOWHERE, History, Place, SignedRecord
from node.store.worker import explain

VERSION = 2

_MOVED_SCHEMA = (
    "CREATE TABLE moved (id INTEGER PRIMARY KEY CHECK (id = 1), moved_ms INTEGER NOT NULL, seal BLOB NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
)
"""What version 2 added: the tombstone of a guard whose history was exported."""

_SCHEMA = (
    """CREATE TABLE guard (
        id INTEGER PRIMARY KEY CHECK (id = 1), address BLOB NOT NULL, chain_id TEXT NOT NULL, contract BLOB NOT NULL,
        height INTEGER NOT NULL, round INTEGER NOT NULL, step INTEGER NOT NULL, seal BLOB NOT NULL
    )""",
    """CREATE TABLE signed (
        height INTEGER NOT NULL, round INTEGER NOT NULL, step INTEGER NOT NULL, digest BLOB NOT NULL,
        signature BLOB NOT NULL, signed_ms INTEGER NOT NULL, why TEXT NOT NULL, seal BLOB NOT NULL,
        PRIMARY KEY (height, round, step)
    ) WITHOUT ROWID""",
    *_MOVED_SCHEMA,
)
_COLUMNS = "height, round, step, digest, signature, signed_ms, why, seal"


class _Marker(msgspec.Struct, frozen=True):
    """What the marker says: whose guard there was."""

    address: str
    chain_id: int
    contract: str


class SigningFile:
    """The open database of one key on one network; it is locked until it is closed.

    Any failure of the database closes it: what is on the disk is then in doubt until it is read again.
    """

    def __init__(self, path: Path, address: Address, domain: Domain, floor: Place | None = None) -> None:
        """Open, lock and check the file at ``path``.

        It is made where there is none, with ``floor`` as its watermark; where the marker says that there was one, a
        floor must be given. Raises :class:`~node.errors.GuardError`, :class:`~node.errors.StoreTooNew`
        or :class:`~node.errors.StoreUnwritable`.
        """
        self.path = path
        self.marker = path.with_name(path.name + ".known")
        self._address = address
        self._domain = domain
        self._connection: sqlite3.Connection | None = None
        try:
            self._open(floor)
        except sqlite3.Error as error:
            self._fail(error)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file; idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done inside is on the disk when this is left, or none of it and the caller hears why."""
        connection = self._open_connection()
        try:
            connection.execute("BEGIN EXCLUSIVE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self._fail(error)

    def get_watermark(self) -> Place:
        """The highest place that was signed or given up."""
        row = self._open_connection().execute("SELECT * FROM guard").fetchone()
        if row is None:
            raise GuardCorrupt(self.path, "the watermark is missing")
        _, *values, seal = row
        if seal != _seal(values):
            raise GuardCorrupt(self.path, "the watermark's checksum does not hold")
        return Place(values[3], values[4], Step(values[5]))

    def find(self, place: Place) -> SignedRecord | None:
        """What was signed for ``place``."""
        query = f"SELECT {_COLUMNS} FROM signed WHERE height = ? AND round = ? AND step = ?"  # noqa: S608  # a constant
        row = self._open_connection().execute(query, place).fetchone()
        return None if row is None else self._record(row)

    def get_records(self, limit: int = -1) -> tuple[SignedRecord, ...]:
        """What was signed, in order; only the last ``limit`` where that is not negative."""
        query = f"SELECT {_COLUMNS} FROM signed ORDER BY height DESC, round DESC, step DESC LIMIT ?"  # noqa: S608  # a constant
        rows = self._open_connection().execute(query, (limit,)).fetchall()
        return tuple(self._record(row) for row in reversed(rows))

    def get_history(self) -> History:
        """All of it, for another machine."""
        return History(self._address, self._domain, self.get_watermark(), self.get_records())

    def put(self, record: SignedRecord) -> None:
        """Keep ``record``, inside a transaction; its place must be free."""
        values = (*record.place, record.digest, record.signature, record.signed_ms, record.why)
        self._open_connection().execute(
            f"INSERT INTO signed ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # a constant
            (*values, _seal(values)),
        )

    def put_watermark(self, place: Place) -> None:
        """Set the watermark, inside a transaction."""
        values = (*self._owner(), *place)
        self._open_connection().execute(
            "INSERT OR REPLACE INTO guard VALUES (1, ?, ?, ?, ?, ?, ?, ?)", (*values, _seal(values))
        )

    def get_moved_ms(self) -> int | None:
        """When the history was last exported (Unix ms); None where it wasn't, or was taken over here since."""
        row = self._open_connection().execute("SELECT moved_ms, seal FROM moved").fetchone()
        if row is None:
            return None
        moved_ms, seal = row
        if seal != _seal((moved_ms,)):
            raise GuardCorrupt(self.path, "the checksum of its export does not hold")
        return int(moved_ms)

    def put_moved_ms(self, moved_ms: int | None) -> None:
        """Set the tombstone, or lift it with None; inside a transaction."""
        connection = self._open_connection()
        if moved_ms is None:
            connection.execute("DELETE FROM moved")
        else:
            connection.execute("INSERT OR REPLACE INTO moved VALUES (1, ?, ?)", (moved_ms, _seal((moved_ms,))))

    def forget_below(self, height: int) -> None:
        """Drop the records of lower heights, inside a transaction; the watermark stays."""
        self._open_connection().execute("DELETE FROM signed WHERE height < ?", (height,))

    def _open(self, floor: Place | None) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StoreUnwritable(self.path, f"cannot be opened: {error.strerror}") from error
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        connection.text_factory = _decode_text
        self._connection = connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = FULL")
        with self.transaction():
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StoreTooNew(self.path, version, VERSION)
            if version == 0:
                self._create(floor)
            elif version < VERSION:
                for statement in _MOVED_SCHEMA:
                    connection.execute(statement)
        self._check()
        self._mark()

    def _create(self, floor: Place | None) -> None:
        connection = self._open_connection()
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
            raise GuardCorrupt(self.path, "it is another database")
        if floor is None and self.marker.exists():
            raise GuardMissing(self.path, self.marker)
        for statement in _SCHEMA:
            connection.execute(statement)
        self.put_watermark(NOWHERE if floor is None else floor)

    def _mark(self) -> None:
        """Make it known that this guard exists: from here on it is not started empty again."""
        document = _Marker(self._address.hex(), self._domain.chain_id, self._domain.contract.hex())
        if not self.marker.exists():
            try:
                write_atomic(self.marker, msgspec.json.encode(document) + b"\n")
            except OSError as error:
                raise StoreUnwritable(self.marker, f"cannot be written: {error.strerror}") from error

    def _check(self) -> None:
        """Read everything once, so that damage is found before it matters."""
        connection = self._open_connection()
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise GuardCorrupt(self.path, found)
        try:
            watermark = self.get_watermark()
            records = self.get_records()
            self.get_moved_ms()
        except (ValueError, TypeError) as error:
            raise GuardCorrupt(self.path, f"a row cannot be read: {error}") from error
        if records and records[-1].place > watermark:
            raise GuardCorrupt(self.path, f"{records[-1].place} was signed above the watermark ({watermark})")
        found_owner = connection.execute("SELECT address, chain_id, contract FROM guard").fetchone()
        for what, own, expected in zip(("key", "chain", "contract"), found_owner, self._owner(), strict=True):
            if own != expected:
                raise GuardMismatch(self.path, what, _text(own), _text(expected))

    def _owner(self) -> tuple[bytes, str, bytes]:
        return self._address, str(self._domain.chain_id), self._domain.contract

    def _record(self, row: tuple[Any, ...]) -> SignedRecord:
        *values, seal = row
        if seal != _seal(values):
            raise GuardCorrupt(self.path, f"the checksum at height {values[0]} does not hold")
        height, round_, step, digest, signature, signed_ms, why = values
        place = Place(height, round_, Step(step))
        return SignedRecord(place, Digest(digest), Signature(signature), signed_ms, why)

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise GuardError(self.path, "is closed")
        return self._connection

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        self.close()
        raise _explain(self.path, error) from error


def _explain(path: Path, error: sqlite3.Error) -> StoreError:
    """SQLite's error in the guard's words. What it can't put a name to is damage: a changed schema, for one."""
    try:
        known = explain(path, error)
    except sqlite3.Error:
        return GuardCorrupt(path, str(error))
    match known:
        case StoreCorrupt(reason=reason):
            return GuardCorrupt(path, reason)
        case StoreInUse():
            return GuardInUse(path, "another process has it open")
        case other:
            return other


def _seal(values: Any) -> bytes:
    """A checksum over a row's values."""
    return hashlib.blake2b(msgspec.msgpack.encode(values), digest_size=16).digest()


def _decode_text(raw: bytes) -> str:
    """Damaged text is for the checksum to find, not for the codec."""
    return raw.decode(errors="replace")


def _text(value: Any) -> str:
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)
