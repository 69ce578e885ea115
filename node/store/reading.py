"""Stored batches read from outside the node: for tools, on a node that does not run.

A running node holds its database exclusively, so that no second process can work with the same keys; a reader is
refused then, and a node that starts while a reader reads is refused too. Nothing is ever written here.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from node.errors import StoreError, StoreTooNew
from node.store.schema import VERSION
from node.store.worker import explain


def count_batches(path: Path) -> int:
    """How many batches are stored. Raises :class:`~node.errors.StoreError`."""
    try:
        with closing(_open(path)) as db:
            return int(db.execute("SELECT COUNT(*) FROM batch").fetchone()[0])
    except sqlite3.Error as error:
        raise explain(path, error) from error


@contextmanager
def read_batches(path: Path) -> Iterator[Iterator[tuple[int, bytes]]]:
    """Height and bytes of every stored batch, ascending, to be read before the context is left.

    Raises :class:`~node.errors.StoreError`.
    """
    try:
        with closing(_open(path)) as db:
            yield db.execute("SELECT height, data FROM batch ORDER BY height")
    except sqlite3.Error as error:
        raise explain(path, error) from error


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise StoreError(path, "there is no such database: this node has never run")
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0, isolation_level=None)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
    except BaseException:
        db.close()
        raise
    if version != VERSION:
        db.close()
        if version > VERSION:
            raise StoreTooNew(path, version, VERSION)
        raise StoreError(path, f"has schema version {version}, this program reads {VERSION}: start the node once")
    return db
