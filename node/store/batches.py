"""Stored batches, what they did with each ticket, and credits for proofs."""

import sqlite3
from collections.abc import AsyncGenerator, Iterable, Mapping

import msgspec

from contracts.typed_data import Address, Digest
from gossip.messages import decode, encode
from gossip.messages.committee import CertifiedBatch, batch_hash
from node.errors import StoreConflict
from node.store.worker import Worker

_PAGE = 64
"""Batches read at once while iterating."""

NO_CREDITS: Mapping[Address, int] = {}


class Outcome(msgspec.Struct, frozen=True):
    """What a batch did with one ticket: T paid, wei credited, and why so little."""

    ticket_id: Digest
    height: int
    provider: Address
    tokens: int
    credited_wei: int
    reason: str


class BatchRoom:
    """Batches by height. Certificates of one batch may differ from node to node; its hash may not."""

    _worker: Worker

    async def put_batch(
        self,
        batch: CertifiedBatch,
        outcomes: Iterable[Outcome] = (),
        credits: Mapping[Address, int] = NO_CREDITS,
        *,
        keep: int = 1_000,
    ) -> bool:
        """Store a batch, what it did with its tickets, and the cumulative wei of the providers whose credit it changed.

        All or nothing: what a start finds stored is not done again. False where the batch was there. A ticket is
        settled once, so its first outcome stands; a credit that stood more than ``keep`` heights ago and has been
        replaced since is forgotten. Raises :class:`StoreConflict` for another batch at its height.
        """
        height, digest, data = batch.header.height, batch_hash(batch.header), encode(batch)
        done = [(o.ticket_id, o.height, o.provider, o.tokens, str(o.credited_wei), o.reason) for o in outcomes]
        owed = [(height, provider, str(wei)) for provider, wei in credits.items()]
        old = [(provider, provider, height - keep) for provider in credits]

        def change(db: sqlite3.Connection) -> bool:
            row = db.execute("SELECT hash FROM batch WHERE height = ?", (height,)).fetchone()
            if row is not None and row[0] != digest:
                raise StoreConflict(self._worker.path, f"the batch of height {height}")
            if row is None:
                db.execute("INSERT INTO batch VALUES (?, ?, ?)", (height, digest, data))
            db.executemany("INSERT OR IGNORE INTO outcome VALUES (?,?,?,?,?,?)", done)
            db.executemany("INSERT OR REPLACE INTO credit VALUES (?, ?, ?)", owed)
            db.executemany(
                "DELETE FROM credit WHERE provider = ? AND height <"
                " (SELECT MAX(height) FROM credit WHERE provider = ? AND height <= ?)",
                old,
            )
            return row is None

        return await self._worker.write(change)

    async def get_batch(self, height: int) -> CertifiedBatch | None:
        """The batch of ``height``, None where it is missing."""
        row = await self._worker.read(
            lambda db: db.execute("SELECT data FROM batch WHERE height = ?", (height,)).fetchone()
        )
        return None if row is None else decode(CertifiedBatch, row[0])

    async def batches(self, from_height: int, limit: int | None = None) -> AsyncGenerator[CertifiedBatch, None]:
        """Batches of consecutive heights from ``from_height`` on, at most ``limit``; ends at the first gap."""
        height = from_height
        end = None if limit is None else from_height + limit
        while end is None or height < end:
            page = await self._page(height, _PAGE if end is None else min(_PAGE, end - height))
            for found, data in page:
                if found != height:
                    return
                yield decode(CertifiedBatch, data)
                height += 1
            if not page:
                return

    async def drop_batches(self, from_height: int) -> None:
        """Forget the batches of ``from_height`` and above; what they did is written again as they come back."""
        await self._worker.write(lambda db: db.execute("DELETE FROM batch WHERE height >= ?", (from_height,)))

    async def outcome(self, ticket_id: Digest) -> Outcome | None:
        """What became of a ticket, None while it isn't in a batch."""
        row = await self._worker.read(
            lambda db: db.execute("SELECT * FROM outcome WHERE ticket_id = ?", (ticket_id,)).fetchone()
        )
        return None if row is None else _outcome(row)

    async def credits(self, height: int) -> dict[Address, int]:
        """Cumulative wei by provider as of ``height``; not all of them where ``height`` is older than what is kept."""
        rows = await self._worker.read(
            lambda db: db.execute(
                "SELECT provider, cumulative_wei, MAX(height) FROM credit WHERE height <= ? GROUP BY provider",
                (height,),
            ).fetchall()
        )
        return {Address(provider): int(wei) for provider, wei, _ in rows}

    async def _page(self, height: int, limit: int) -> list[tuple[int, bytes]]:
        return await self._worker.read(
            lambda db: db.execute(
                "SELECT height, data FROM batch WHERE height >= ? ORDER BY height LIMIT ?", (height, limit)
            ).fetchall()
        )


def _outcome(row: tuple[bytes, int, bytes, int, str, str]) -> Outcome:
    ticket_id, height, provider, tokens, credited, reason = row
    return Outcome(Digest(ticket_id), height, Address(provider), tokens, int(credited), reason)
