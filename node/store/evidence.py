"""Proven offences, by id, and what the chain made of them."""

import enum

import msgspec

from contracts.typed_data import Digest
from node.store.worker import Worker


class FateWord(enum.StrEnum):
    """What has become of the offender's stake, as far as this node knows. The words are stable."""

    OPEN = "open"
    """Nothing yet; for evidence that the registry doesn't punish, for ever."""
    SLASHED = "slashed"
    """By this node's transaction."""
    PUNISHED = "punished"
    """By somebody else's."""
    NOTHING_TO_SLASH = "nothing_to_slash"
    """The registry holds no stake of the offender."""
    REFUSED = "refused"
    """The registry refuses the evidence for another reason."""


class Fate(msgspec.Struct, frozen=True):
    """A word, and of a slashing by this node the transaction and the finder's reward in wei."""

    word: FateWord = FateWord.OPEN
    detail: str = ""
    tx_hash: bytes | None = None
    reward_wei: int = 0


class StoredEvidence(msgspec.Struct, frozen=True):
    """One row. ``data`` is the encoded evidence, ``first_seen_ms`` Unix ms."""

    offence_id: Digest
    data: bytes
    first_seen_ms: int
    fate: Fate


class EvidenceRoom:
    """Evidence by offence; on the disk when a call returns."""

    _worker: Worker

    async def put_evidence(self, offence_id: Digest, data: bytes, first_seen_ms: int) -> None:
        """Keep evidence of an offence; what there is of the same offence stays as it is."""
        row = (offence_id, data, first_seen_ms, FateWord.OPEN.value, "", None, "0")
        await self._worker.write(
            lambda db: db.execute(
                "INSERT OR IGNORE INTO evidence (offence_id, data, first_seen_ms, fate, detail, tx_hash, reward_wei)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            ),
            durable=True,
        )

    async def put_fate(self, offence_id: Digest, fate: Fate) -> None:
        """What became of a stored offence."""
        row = (fate.word.value, fate.detail, fate.tx_hash, str(fate.reward_wei), offence_id)
        await self._worker.write(
            lambda db: db.execute(
                "UPDATE evidence SET fate = ?, detail = ?, tx_hash = ?, reward_wei = ? WHERE offence_id = ?", row
            ),
            durable=True,
        )

    async def evidence(self) -> list[StoredEvidence]:
        """All of it, oldest first."""
        rows = await self._worker.read(
            lambda db: db.execute(
                "SELECT offence_id, data, first_seen_ms, fate, detail, tx_hash, reward_wei FROM evidence ORDER BY seq"
            ).fetchall()
        )
        return [
            StoredEvidence(Digest(row[0]), row[1], row[2], Fate(FateWord(row[3]), row[4], row[5], int(row[6])))
            for row in rows
        ]

    async def drop_evidence(self, offence_id: Digest) -> None:
        """Forget one offence."""
        await self._worker.write(lambda db: db.execute("DELETE FROM evidence WHERE offence_id = ?", (offence_id,)))
