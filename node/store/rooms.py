"""The small rooms: the book as last seen, a user's sessions, settings and counters."""

import json
import sqlite3
from typing import Any, Literal

from contracts.typed_data import Digest
from node.store.worker import Worker

MarketKind = Literal["record", "bid", "proof", "reveal"]


class MarketRoom:
    """Encoded public messages by kind and key; a cache that lets a restarted node offer its book at once."""

    _worker: Worker

    async def put_market(self, kind: MarketKind, key: bytes, data: bytes, expires_ms: int) -> None:
        """Keep ``data`` under ``key`` until ``expires_ms`` (Unix ms), in place of what was there."""
        await self._worker.write(
            lambda db: db.execute("INSERT OR REPLACE INTO market VALUES (?, ?, ?, ?)", (kind, key, expires_ms, data))
        )

    async def market(self, kind: MarketKind, now_ms: int) -> list[bytes]:
        """What of ``kind`` hasn't expired, by key."""
        rows = await self._worker.read(
            lambda db: db.execute(
                "SELECT data FROM market WHERE kind = ? AND expires_ms > ? ORDER BY key", (kind, now_ms)
            ).fetchall()
        )
        return [row[0] for row in rows]

    async def prune_market(self, now_ms: int) -> int:
        """Drop what has expired; how many."""
        return await self._worker.write(
            lambda db: db.execute("DELETE FROM market WHERE expires_ms <= ?", (now_ms,)).rowcount
        )


class SessionRoom:
    """A user's sessions as JSON, by RFC id."""

    _worker: Worker

    async def put_session(self, rfc_id: Digest, session: dict[str, Any]) -> None:
        """Keep or replace what is known of a session; raises TypeError for what JSON cannot hold."""
        text = json.dumps(session)
        await self._worker.write(
            lambda db: db.execute(
                "INSERT INTO session (rfc_id, data) VALUES (?, ?)"
                " ON CONFLICT (rfc_id) DO UPDATE SET data = excluded.data",
                (rfc_id, text),
            )
        )

    async def session(self, rfc_id: Digest) -> dict[str, Any] | None:
        """One session, None where there is none."""
        row = await self._worker.read(
            lambda db: db.execute("SELECT data FROM session WHERE rfc_id = ?", (rfc_id,)).fetchone()
        )
        return None if row is None else json.loads(row[0])

    async def sessions(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest sessions, newest first."""
        rows = await self._worker.read(
            lambda db: db.execute("SELECT data FROM session ORDER BY seq DESC LIMIT ?", (limit,)).fetchall()
        )
        return [json.loads(row[0]) for row in rows]

    async def forget_sessions(self, keep: int) -> int:
        """Drop all but the newest ``keep``; how many."""
        return await self._worker.write(
            lambda db: (
                db.execute(
                    "DELETE FROM session WHERE seq NOT IN (SELECT seq FROM session ORDER BY seq DESC LIMIT ?)", (keep,)
                ).rowcount
            )
        )


class SettingRoom:
    """Named values, and counters that never repeat a number."""

    _worker: Worker

    async def put_value(self, name: str, value: bytes) -> None:
        """Keep ``value`` under ``name``; on the disk when the call returns."""
        await self._worker.write(
            lambda db: db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value)), durable=True
        )

    async def get_value(self, name: str) -> bytes | None:
        """The value of ``name``, None where there is none."""
        row = await self._worker.read(
            lambda db: db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        )
        return None if row is None else bytes(row[0])

    async def count(self, name: str, *, at_least: int = 0) -> int:
        """The next number of ``name``: higher than any it gave before, and at least ``at_least``.

        For sequences and RFC indexes, where using a number twice would be taken for fraud: the number is on the disk
        before anybody sees it.
        """

        def change(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
            value = max(at_least, 0 if row is None else row[0] + 1)
            db.execute("INSERT OR REPLACE INTO counter VALUES (?, ?)", (name, value))
            return value

        return await self._worker.write(change, durable=True)
