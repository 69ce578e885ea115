"""Evidence on the disk: once an offence, in order, with what became of it; an older database gets the table."""

import sqlite3
from pathlib import Path

from contracts.typed_data import Digest
from node.store import Fate, FateWord, StoredEvidence, open_store
from node.store.schema import MIGRATIONS

ONE, TWO = Digest(b"\x01" * 32), Digest(b"\x02" * 32)


async def test_evidence_survives_a_restart_with_its_fate(tmp_path: Path) -> None:
    async with open_store(tmp_path / "node.sqlite") as store:
        assert await store.evidence() == []
        await store.put_evidence(TWO, b"two", 5)
        await store.put_evidence(ONE, b"one", 6)
        await store.put_evidence(TWO, b"other halves", 7)
        fate = Fate(FateWord.SLASHED, "at last", b"\x09" * 32, 2**90)
        await store.put_fate(TWO, fate)
        await store.put_fate(Digest(bytes(32)), fate)
    async with open_store(tmp_path / "node.sqlite") as store:
        assert await store.evidence() == [StoredEvidence(TWO, b"two", 5, fate), StoredEvidence(ONE, b"one", 6, Fate())]
        await store.drop_evidence(TWO)
        assert [row.offence_id for row in await store.evidence()] == [ONE]


async def test_a_database_from_before_gets_the_table(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    db = sqlite3.connect(path)
    for statement in MIGRATIONS[0]:
        db.execute(statement)
    db.execute("INSERT INTO setting VALUES ('kept', x'01')")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    async with open_store(path) as store:
        assert await store.get_value("kept") == b"\x01"
        await store.put_evidence(ONE, b"one", 6)
        assert len(await store.evidence()) == 1
        await store.put_snapshot(1, b"data", b"seal", keep=1)
