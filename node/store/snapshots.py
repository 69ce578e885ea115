"""Snapshots by height: what a start begins from, so that it need not replay everything."""

import sqlite3

from node.store.worker import Worker


class SnapshotRoom:
    """A few snapshots, as bytes and their seal. Whether one can be trusted is for :mod:`node.snapshot` to say."""

    _worker: Worker

    async def put_snapshot(self, height: int, data: bytes, seal: bytes, *, keep: int) -> None:
        """Keep the snapshot of ``height`` and the newest others, ``keep`` in all."""

        def change(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)", (height, data, seal))
            db.execute(
                "DELETE FROM snapshot WHERE height != ?1 AND height NOT IN"
                " (SELECT height FROM snapshot WHERE height != ?1 ORDER BY height DESC LIMIT ?2)",
                (height, keep - 1),
            )

        await self._worker.write(change)

    async def snapshot_heights(self) -> list[int]:
        """Where there are snapshots, the newest first."""
        rows = await self._worker.read(
            lambda db: db.execute("SELECT height FROM snapshot ORDER BY height DESC").fetchall()
        )
        return [row[0] for row in rows]

    async def snapshot(self, height: int) -> tuple[bytes, bytes] | None:
        """Bytes and seal of the snapshot of ``height``, None where there is none."""
        row = await self._worker.read(
            lambda db: db.execute("SELECT data, seal FROM snapshot WHERE height = ?", (height,)).fetchone()
        )
        return None if row is None else (row[0], row[1])

    async def drop_snapshot(self, height: int) -> None:
        """Forget one that cannot be trusted."""
        await self._worker.write(lambda db: db.execute("DELETE FROM snapshot WHERE height = ?", (height,)))
