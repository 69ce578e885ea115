"""Changes that wait together are committed together, and each keeps its own end."""

import sqlite3
from pathlib import Path

import pytest
import trio

from node.store.worker import Worker


async def test_writers_at_once_share_a_commit_and_fail_alone(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "node.sqlite")
    begun: list[str] = []
    worker._open_connection().set_trace_callback(lambda line: begun.append(line) if line.startswith("BEGIN") else None)
    ends: dict[int, object] = {}

    async def write(number: int) -> None:
        def change(db: sqlite3.Connection) -> int:
            db.execute("INSERT INTO setting (name, value) VALUES (?, ?)", (f"n{number}", b"x"))
            if number == 3:
                raise ZeroDivisionError("a bug")
            if number == 4:
                db.execute("INSERT INTO nowhere VALUES (1)")
            return number

        try:
            ends[number] = await worker.write(change, durable=True)
        except (ZeroDivisionError, sqlite3.OperationalError) as error:
            ends[number] = type(error)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(write, number)
    assert ends == {n: n for n in range(40)} | {3: ZeroDivisionError, 4: sqlite3.OperationalError}
    assert len(begun) <= 5, "a commit each would wait for the disk forty times"
    kept = await worker.read(lambda db: {row[0] for row in db.execute("SELECT name FROM setting")})
    assert kept == {f"n{n}" for n in range(40) if n not in (3, 4)}
    await worker.aclose()


async def test_a_writer_that_is_cancelled_before_its_turn_writes_nothing(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "node.sqlite")
    async with worker._limiter:
        with trio.move_on_after(0.01) as scope:
            await worker.write(lambda db: db.execute("INSERT INTO setting (name, value) VALUES ('late', x'00')"))
        assert scope.cancelled_caught
    await worker.write(lambda db: db.execute("INSERT INTO setting (name, value) VALUES ('next', x'00')"))
    assert await worker.read(lambda db: db.execute("SELECT name FROM setting").fetchall()) == [("next",)]
    await worker.aclose()


async def test_a_closed_database_is_told_to_everybody(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "node.sqlite")
    await worker.aclose()
    with pytest.raises(Exception, match="is closed"):
        await worker.write(lambda db: db.execute("SELECT 1"))
