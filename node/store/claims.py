"""A provider's claims on chain, one a height: what was asked for, and what came of it."""

import msgspec

from node.store.worker import Worker


class Claim(msgspec.Struct, frozen=True):
    """A claim. ``amount_wei`` is what it paid, ``gas`` what it used.

    ``status`` begins with ``pending``, ``sent``, ``paid`` or ``reverted``; what follows is for people.
    """

    height: int
    cumulative_wei: int
    amount_wei: int
    tx_hash: bytes | None
    gas: int
    status: str


class ClaimRoom:
    """Claims by height; on the disk when the call returns."""

    _worker: Worker

    async def put_claim(
        self,
        height: int,
        cumulative_wei: int,
        *,
        amount_wei: int = 0,
        tx_hash: bytes | None = None,
        gas: int = 0,
        status: str = "pending",
    ) -> None:
        """Insert or replace the claim of ``height``."""
        row = (height, str(cumulative_wei), str(amount_wei), tx_hash, gas, status)
        await self._worker.write(
            lambda db: db.execute("INSERT OR REPLACE INTO claim VALUES (?, ?, ?, ?, ?, ?)", row), durable=True
        )

    async def claims(self, limit: int = 1_000) -> list[Claim]:
        """The newest claims, in order of height."""
        rows = await self._worker.read(
            lambda db: db.execute("SELECT * FROM claim ORDER BY height DESC LIMIT ?", (limit,)).fetchall()
        )
        return [_claim(row) for row in reversed(rows)]

    async def open_claims(self) -> list[Claim]:
        """Claims whose end isn't known: ``pending`` or ``sent``. A restart looks for these on chain."""
        rows = await self._worker.read(
            lambda db: db.execute("SELECT * FROM claim WHERE status IN ('pending', 'sent') ORDER BY height").fetchall()
        )
        return [_claim(row) for row in rows]


def _claim(row: tuple[int, str, str, bytes | None, int, str]) -> Claim:
    height, cumulative, amount, tx_hash, gas, status = row
    return Claim(height, int(cumulative), int(amount), tx_hash, gas, status)
