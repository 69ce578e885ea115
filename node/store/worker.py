"""The only thread that touches the database, and what SQLite's errors mean to an operator.

Not here: any knowledge of tables beyond their version (:mod:`node.store.schema`).
"""

import os
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import trio

from node.errors import StoreCorrupt, StoreError, StoreInUse, StoreTooNew, StoreUnwritable
from node.store.schema import MIGRATIONS, UNBOUNDED, VERSION

T = TypeVar("T")

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
}


TOGETHER = 256
"""Changes in one transaction at most."""


class _Job:
    """A change that waits for its turn, and how it ended."""

    __slots__ = ("change", "done", "durable", "failure", "result", "withdrawn")

    def __init__(self, change: Callable[[sqlite3.Connection], Any], durable: bool) -> None:
        self.change = change
        self.durable = durable
        self.result: Any = None
        self.failure: BaseException | None = None
        self.withdrawn = False
        self.done = False

    def take(self) -> Any:
        """What the change returned. Raises what it raised."""
        if self.failure is not None:
            raise self.failure
        return self.result


class Worker:
    """Runs functions on the connection, one at a time, each in a transaction of its own.

    A call that has begun is finished even when its task is cancelled, so what was written is never in doubt.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the database at ``path`` (blocking). Raises :class:`~node.errors.StoreError`."""
        self.path = path
        self._limiter = trio.CapacityLimiter(1)
        self._turn = trio.Lock()
        self._waiting: deque[_Job] = deque()
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = _connect(path)
            _migrate(path, self._connection)
        except sqlite3.Error as error:
            self.close()
            raise explain(path, error) from error
        except StoreError:
            self.close()
            raise

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """The result of ``query``, which must not write. Raises :class:`~node.errors.StoreError`."""
        return await trio.to_thread.run_sync(self._run, query, limiter=self._limiter)

    async def write(self, change: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """The result of ``change``, committed; ``durable`` also waits for the disk. All or nothing.

        Changes that wait at the same time are committed together, so that many sessions share one wait for the disk.
        Raises :class:`~node.errors.StoreError`, with the database as it was.
        """
        job = _Job(change, durable)
        self._waiting.append(job)
        try:
            async with self._turn:
                if not job.done:  # by whoever wrote before
                    await trio.to_thread.run_sync(self._run_waiting, limiter=self._limiter)
        except trio.Cancelled:
            job.withdrawn = True  # if its turn has not come yet
            raise
        result: T = job.take()
        return result

    def close(self) -> None:
        """Close the database (blocking); idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def aclose(self) -> None:
        """Close behind whatever is still queued, even when cancelled."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.close, limiter=self._limiter)

    def _run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return query(self._open_connection())
        except sqlite3.Error as error:
            raise explain(self.path, error) from error

    def _run_waiting(self) -> None:
        """Changes that wait now, in one transaction; each is told its own end. What is left has a turn of its own."""
        jobs: list[_Job] = []
        while self._waiting and len(jobs) < TOGETHER:
            if not (job := self._waiting.popleft()).withdrawn:
                jobs.append(job)
        try:
            self._run_together(jobs)
        except BaseException as error:  # noqa: BLE001  # nothing is swallowed: every caller raises it
            for job in jobs:
                job.failure = self._told(error)
        for job in jobs:
            job.done = True

    def _run_together(self, jobs: list["_Job"]) -> None:
        """All of ``jobs``, in their order. One that fails leaves no trace and does not harm the others."""
        if not jobs:
            return
        connection = self._open_connection()
        connection.execute(f"PRAGMA synchronous = {'FULL' if any(job.durable for job in jobs) else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for job in jobs:
                self._run_one(connection, job)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _run_one(self, connection: sqlite3.Connection, job: "_Job") -> None:
        connection.execute("SAVEPOINT one")
        try:
            job.result = job.change(connection)
        except BaseException as error:
            if not connection.in_transaction:
                raise  # SQLite gave up the whole transaction, as it does for a full disk
            connection.execute("ROLLBACK TO one")
            job.failure = self._told(error)
        connection.execute("RELEASE one")

    def _told(self, error: BaseException) -> BaseException:
        """What the caller of a change is to raise: SQLite's words in the node's, bugs as they are."""
        if not isinstance(error, sqlite3.Error):
            return error
        try:
            return explain(self.path, error)
        except sqlite3.Error as bug:
            return bug

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(self.path, "is closed")
        return self._connection


def explain(path: Path, error: sqlite3.Error) -> StoreError:
    """SQLite's error in the node's words. Programming errors stay what they are: bugs, raised again."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in _DAMAGED:
        return StoreCorrupt(path, str(error))
    if primary in _BUSY:
        return StoreInUse(path)
    if primary in _UNWRITABLE:
        return StoreUnwritable(path, f"cannot be written: {error}")
    raise error


def _connect(path: Path) -> sqlite3.Connection:
    """An exclusive connection: a second process is refused rather than let in on the same keys."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreUnwritable(path, f"cannot be opened: {error.strerror}") from error
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        damage = _damage(connection)
    except BaseException:
        connection.close()
        raise
    if damage != "ok":
        connection.close()
        raise StoreCorrupt(path, damage)
    return connection


def _damage(connection: sqlite3.Connection) -> str:
    """What is wrong with the tables that are read through at every start, "ok" where nothing is."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for name in names:
        if name not in UNBOUNDED:
            found = connection.execute(f'PRAGMA quick_check("{name}")').fetchone()[0]
            if found != "ok":
                return str(found)
    return "ok"


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Bring the schema to this program's version; a newer one is refused untouched."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreTooNew(path, version, VERSION)
    connection.execute("BEGIN EXCLUSIVE")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
