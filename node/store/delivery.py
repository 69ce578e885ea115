"""A provider's sessions: which tickets it accepted, what it is owed, and what it still has to file.

Everything here is on the disk when the call returns: it is what a provider is paid for.
"""

import sqlite3

import msgspec

from contracts.typed_data import Digest
from gossip.messages import Signed, decode, encode
from gossip.messages.market import Ticket
from gossip.messages.session import Cosigned, Voucher
from inference.errors import SessionError
from node.store.worker import Worker

_TICKET_LIMIT = 16_384
"""Bytes of a stored ticket or receipt; they were bounded when they came in."""


class Delivery(msgspec.Struct, frozen=True):
    """One accepted ticket with the highest voucher and the receipt, where there are any."""

    ticket_id: Digest
    ticket: Signed[Ticket]
    tokens: int
    """T of the highest voucher."""
    voucher: Signed[Voucher] | None
    receipt: Cosigned | None
    filed: bool
    """Whether the home router has it."""
    sent: int = 0
    """T that were sent, where the session ended without a receipt and they are more than were vouched for."""


class DeliveryRoom:
    """Accepted tickets, vouchers and receipts, by ticket id."""

    _worker: Worker

    async def accept_ticket(self, ticket_id: Digest, ticket: Signed[Ticket]) -> None:
        """Note a ticket as used. Of two callers at once one succeeds.

        Raises :class:`~inference.errors.SessionError` (``ticket_used``) where it was accepted before, so that nobody
        can forget to look.
        """
        row = (ticket_id, encode(ticket), ticket.payload.expires_ms)

        def change(db: sqlite3.Connection) -> bool:
            found = db.execute(
                "INSERT OR IGNORE INTO delivery (ticket_id, ticket, expires_ms) VALUES (?, ?, ?)", row
            ).rowcount
            return found == 1

        if not await self._worker.write(change, durable=True):
            raise SessionError("ticket_used", f"ticket 0x{ticket_id.hex()} opened a session before")

    async def put_voucher(self, ticket_id: Digest, voucher: Signed[Voucher]) -> bool:
        """Keep the highest voucher of an accepted ticket; False for a lower one or an unknown ticket."""
        tokens, data = voucher.payload.tokens, encode(voucher)

        def change(db: sqlite3.Connection) -> bool:
            found = db.execute(
                "UPDATE delivery SET tokens = ?, voucher = ? WHERE ticket_id = ? AND (voucher IS NULL OR tokens < ?)",
                (tokens, data, ticket_id, tokens),
            ).rowcount
            return found == 1

        return await self._worker.write(change, durable=True)

    async def put_receipt(self, ticket_id: Digest, receipt: Cosigned) -> bool:
        """Keep the receipt of an accepted ticket; False for an unknown ticket or a second receipt."""
        data = encode(receipt)

        def change(db: sqlite3.Connection) -> bool:
            found = db.execute(
                "UPDATE delivery SET receipt = ? WHERE ticket_id = ? AND receipt IS NULL", (data, ticket_id)
            ).rowcount
            return found == 1

        return await self._worker.write(change, durable=True)

    async def put_sent(self, ticket_id: Digest, sent: int) -> bool:
        """Keep how many T were sent in a session that ended without a receipt; False for an unknown ticket."""
        return await self._worker.write(
            lambda db: db.execute("UPDATE delivery SET sent = ? WHERE ticket_id = ?", (sent, ticket_id)).rowcount == 1,
            durable=True,
        )

    async def mark_filed(self, ticket_id: Digest) -> None:
        """The home router has this delivery: it is no longer among :meth:`unfiled_deliveries`."""
        await self._worker.write(
            lambda db: db.execute("UPDATE delivery SET filed = 1 WHERE ticket_id = ?", (ticket_id,)), durable=True
        )

    async def delivery(self, ticket_id: Digest) -> Delivery | None:
        """One accepted ticket, None where it was never accepted."""
        row = await self._worker.read(lambda db: db.execute(f"{_SELECT} WHERE ticket_id = ?", (ticket_id,)).fetchone())
        return None if row is None else _delivery(row)

    async def unfiled_deliveries(self, limit: int = 1_000) -> list[Delivery]:
        """Accepted tickets whose end no router has confirmed, oldest first: those of running sessions among them."""
        rows = await self._worker.read(
            lambda db: db.execute(
                f"{_SELECT} WHERE filed = 0 ORDER BY expires_ms LIMIT ?",
                (limit,),
            ).fetchall()
        )
        return [_delivery(row) for row in rows]

    async def forget_deliveries(self, before_ms: int, *, limit: int = 1_000) -> tuple[int, int]:
        """Drop tickets that expired before ``before_ms`` (Unix ms), the oldest ``limit`` at most.

        How many, and how many of them were worth filing and no router has confirmed.
        """

        def change(db: sqlite3.Connection) -> tuple[int, int]:
            old = db.execute(
                "SELECT ticket_id, filed = 0 AND (tokens + sent > 0 OR receipt IS NOT NULL)"
                " FROM delivery WHERE expires_ms < ? ORDER BY expires_ms LIMIT ?",
                (before_ms, limit),
            ).fetchall()
            db.executemany("DELETE FROM delivery WHERE ticket_id = ?", [(ticket_id,) for ticket_id, _ in old])
            return len(old), sum(unfiled for _, unfiled in old)

        return await self._worker.write(change)


_SELECT = "SELECT ticket_id, ticket, tokens, voucher, receipt, filed, sent FROM delivery"


def _delivery(row: tuple[bytes, bytes, int, bytes | None, bytes | None, int, int]) -> Delivery:
    ticket_id, ticket, tokens, voucher, receipt, filed, sent = row
    return Delivery(
        Digest(ticket_id),
        decode(Signed[Ticket], ticket, _TICKET_LIMIT),
        tokens,
        None if voucher is None else decode(Signed[Voucher], voucher),
        None if receipt is None else decode(Cosigned, receipt, _TICKET_LIMIT),
        bool(filed),
        sent,
    )
