"""The desk's journal: what a home router did, appended in order and replayed after a crash."""

import sqlite3
from collections.abc import Iterable

import msgspec

from node.store.worker import Worker


class JournalEvent(msgspec.Struct, frozen=True):
    """One event. ``seq`` counts up and is never used twice, not even after :meth:`JournalRoom.trim_journal`."""

    seq: int
    kind: str
    data: bytes


class JournalRoom:
    """Append-only events."""

    _worker: Worker

    async def append(self, kind: str, data: bytes, *, durable: bool = False) -> int:
        """Append one event; its ``seq``."""
        return (await self.append_all([(kind, data)], durable=durable))[0]

    async def append_all(self, events: Iterable[tuple[str, bytes]], *, durable: bool = False) -> list[int]:
        """Append several events (kind, data), all or none; their ``seq`` in order."""
        rows = list(events)

        def change(db: sqlite3.Connection) -> list[int]:
            return [
                int(db.execute("INSERT INTO journal (kind, data) VALUES (?, ?)", row).lastrowid or 0) for row in rows
            ]

        return await self._worker.write(change, durable=durable)

    async def journal(self, after: int = 0, limit: int = 10_000) -> list[JournalEvent]:
        """Events with a ``seq`` above ``after``, in order, at most ``limit``."""
        rows = await self._worker.read(
            lambda db: db.execute(
                "SELECT seq, kind, data FROM journal WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
            ).fetchall()
        )
        return [JournalEvent(*row) for row in rows]

    async def trim_journal(self, through: int) -> int:
        """Drop events up to ``through``, once a snapshot holds them; how many."""
        return await self._worker.write(
            lambda db: db.execute("DELETE FROM journal WHERE seq <= ?", (through,)).rowcount
        )
