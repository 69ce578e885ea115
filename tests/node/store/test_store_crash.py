"""The database file under bad luck: killed processes, damage, a second owner, another version."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from node.errors import StoreCorrupt, StoreInUse, StoreTooNew, StoreUnwritable
from node.store import open_store
from node.store.schema import VERSION
from tests.node.builders import DOMAIN, batch, ticket, voucher

ROOT = Path(__file__).parents[3]

ACCEPT_FOR_EVER = """
import sys, trio
from pathlib import Path
from node.store import open_store
from tests.node.builders import DOMAIN, ticket, voucher

async def main():
    async with open_store(Path(sys.argv[1])) as store:
        number = 0
        while True:
            signed = ticket(number)
            ticket_id = signed.id(DOMAIN)
            await store.accept_ticket(ticket_id, signed)
            await store.put_voucher(ticket_id, voucher(ticket_id, number + 1))
            print(number, flush=True)
            number += 1

trio.run(main)
"""


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", ACCEPT_FOR_EVER, str(path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(25)]
        child.kill()
        acknowledged += [int(line) for line in child.stdout if line.endswith("\n")]
    async with open_store(path) as store:
        for number in acknowledged:
            ticket_id = ticket(number).id(DOMAIN)
            delivery = await store.delivery(ticket_id)
            assert delivery is not None
            assert delivery.voucher == voucher(ticket_id, number + 1)


async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "node.sqlite"
    async with open_store(path) as store:
        await store.put_batch(batch(1))
        await store.put_value("name", b"one")
    async with open_store(path) as store:
        assert await store.get_batch(1) == batch(1)
        assert await store.get_value("name") == b"one"
        assert store.path == path
    assert path.stat().st_mode & 0o777 == 0o600


async def test_no_database_at_all(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    path.write_bytes(b"this is not a database, and it is long enough to be looked at" * 100)
    with pytest.raises(StoreCorrupt, match=r"\.recover") as caught:
        async with open_store(path):
            pass
    assert str(path) in str(caught.value)


async def test_damaged_pages_are_found_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    async with open_store(path) as store:
        for height in range(1, 60):
            await store.put_batch(batch(height))
    raw = bytearray(path.read_bytes())
    for offset in range(8_192, len(raw), 4_096):
        raw[offset : offset + 200] = b"\xa5" * 200
    path.write_bytes(raw)
    with pytest.raises(StoreCorrupt, match=r"\.recover"):
        async with open_store(path):
            pass


async def test_the_log_is_not_read_through_on_opening(tmp_path: Path) -> None:
    """It has no bound, and comes back from peers: its damage is named where it is read."""
    path = tmp_path / "node.sqlite"
    async with open_store(path) as store:
        for height in range(1, 400):
            await store.put_batch(batch(height))
    raw = bytearray(path.read_bytes())
    for offset in range(len(raw) - 10 * 4_096, len(raw), 4_096):
        raw[offset : offset + 200] = b"\xa5" * 200
    path.write_bytes(raw)
    async with open_store(path) as store:
        assert await store.get_batch(1) == batch(1)
        with pytest.raises(StoreCorrupt, match=r"\.recover"):
            await store.get_batch(399)


async def test_damage_of_what_no_peer_has_is_found_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    async with open_store(path) as store:
        for number in range(200):
            await store.accept_ticket(ticket(number).id(DOMAIN), ticket(number))
    raw = bytearray(path.read_bytes())
    for offset in range(len(raw) - 10 * 4_096, len(raw), 4_096):
        raw[offset : offset + 200] = b"\xa5" * 200
    path.write_bytes(raw)
    with pytest.raises(StoreCorrupt, match=r"\.recover"):
        async with open_store(path):
            pass


async def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    async with open_store(path) as first:
        with pytest.raises(StoreInUse, match="another process"):
            async with open_store(path):
                pass
        await first.put_batch(batch(1))
    async with open_store(path) as again:
        assert await again.get_batch(1) == batch(1)


async def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    async with open_store(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(StoreTooNew, match=f"version {VERSION + 1}"):
        async with open_store(path):
            pass


async def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(StoreUnwritable, match=str(tmp_path)):
        async with open_store(tmp_path):
            pass
