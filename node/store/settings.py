"""Named values."""

from node.store.worker import Worker


class SettingRoom:
    """Values by name."""

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
