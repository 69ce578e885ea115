"""The input log: what was flushed is replayed, what was torn is cut off, what was lost is noticed."""

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node import wal as wal_module
from node.errors import WalCorrupt, WalError, WalFull, WalInUse
from node.wal import open_wal
from node.wal_format import (
    FRAME_BYTES,
    HEADING_BYTES,
    Contents,
    Heading,
    TornTail,
    decode,
    encode_frames,
    encode_heading,
)

ROOT = Path(__file__).parents[2]
HEADING = Heading(7, b"\x01" * 16)
PATH = Path("inputs.wal")
ENTRIES = st.lists(st.binary(max_size=40), min_size=1, max_size=4)


def log_of(groups: list[list[bytes]]) -> tuple[bytes, list[int]]:
    """A log of groups, and the offset at which each begins."""
    data, starts = encode_heading(HEADING), []
    for group in groups:
        starts.append(len(data))
        data += encode_frames(HEADING, len(data), group)
    return data, starts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "inputs.wal"


async def entries_of(path: Path) -> list[bytes]:
    async with open_wal(path) as wal:
        return list(wal.replay())


# The format.


@given(st.lists(ENTRIES, max_size=4))
@settings(max_examples=60)
def test_what_is_encoded_is_decoded(groups: list[list[bytes]]) -> None:
    data, _ = log_of(groups)
    assert decode(PATH, data) == Contents(HEADING, tuple(chain(*groups)), len(data), None)


@given(st.lists(ENTRIES, min_size=1, max_size=4))
@settings(max_examples=40)
def test_a_log_cut_anywhere_keeps_its_whole_frames(groups: list[list[bytes]]) -> None:
    data, _ = log_of(groups)
    entries = list(chain(*groups))
    ends = [HEADING_BYTES]
    for entry in entries:
        ends.append(ends[-1] + FRAME_BYTES + len(entry))
    for length in range(HEADING_BYTES, len(data)):
        whole = max(number for number, end in enumerate(ends) if end <= length)
        found = decode(PATH, data[:length])
        assert list(found.entries) == entries[:whole]
        torn = None if ends[whole] == length else TornTail(ends[whole], length - ends[whole])
        assert found.torn == torn
        assert found.end == ends[whole]


def test_every_flipped_byte_is_found() -> None:
    groups = [[b"one", b""], [b"two" * 9], [b"three", b"four"]]
    data, starts = log_of(groups)
    entries = list(chain(*groups))
    for offset in range(len(data)):
        damaged = data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :]
        if offset < starts[-1]:
            with pytest.raises(WalCorrupt, match="damaged at byte") as caught:
                decode(PATH, damaged)
            assert caught.value.offset <= offset
            assert caught.value.height == (None if offset < HEADING_BYTES else 7)
        else:  # nothing later vouches for the last group
            found = decode(PATH, damaged)
            assert found.torn is not None
            assert starts[-1] <= found.torn.offset <= offset
            assert list(found.entries) == entries[: len(found.entries)]
            assert len(found.entries) >= 3


def test_a_group_whose_pages_came_to_the_disk_out_of_order_is_torn() -> None:
    data, starts = log_of([[b"safe"], [b"lost" * 50, b"there"]])
    damaged = data[: starts[1]] + bytes(100) + data[starts[1] + 100 :]
    found = decode(PATH, damaged)
    assert found.entries == (b"safe",)
    assert found.torn == TornTail(starts[1], len(data) - starts[1])


def test_bytes_that_a_peer_chose_are_no_frame() -> None:
    guessed = Heading(7, b"\x02" * 16)
    forged = encode_frames(guessed, 10_000, [b"x"])
    data, starts = log_of([[b"safe"], [b"long" * 9 + forged * 3]])
    found = decode(PATH, data[: starts[1] + 5] + b"\xff" + data[starts[1] + 6 :])
    assert found.entries == (b"safe",)


def test_frames_count_only_where_they_were_written() -> None:
    first = encode_frames(HEADING, HEADING_BYTES, [b"one"])
    found = decode(PATH, encode_heading(HEADING) + first + first)
    assert found.entries == (b"one",)
    assert found.torn is not None
    other_height = encode_heading(Heading(8, HEADING.nonce)) + first
    assert decode(PATH, other_height).entries == (b"one",)  # the nonce, new for every file, is what binds


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_noise_is_no_log(noise: bytes) -> None:
    with pytest.raises(WalCorrupt) as caught:
        decode(PATH, noise)
    assert caught.value.offset == 0
    assert str(PATH) in str(caught.value)


# The log.


async def test_flushed_entries_are_replayed_in_order(path: Path) -> None:
    async with open_wal(path) as wal:
        assert wal.height == 0
        assert list(wal.replay()) == []
        wal.append(b"one")
        wal.append(b"")
        await wal.flush()
        wal.append(b"two")
        await wal.flush()
        assert wal.size == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    async with open_wal(path) as wal:
        assert wal.torn is None
        assert list(wal.replay()) == [b"one", b"", b"two"]
        wal.append(b"three")
        await wal.flush()
    assert await entries_of(path) == [b"one", b"", b"two", b"three"]


async def test_what_was_not_flushed_is_not_there(path: Path) -> None:
    async with open_wal(path) as wal:
        wal.append(b"one")
        await wal.flush()
        wal.append(b"two")
    assert await entries_of(path) == [b"one"]


async def test_a_torn_tail_is_reported_once_and_written_over(path: Path) -> None:
    async with open_wal(path) as wal:
        for entry in (b"one", b"two" * 10):
            wal.append(entry)
            await wal.flush()
    whole = path.read_bytes()
    start = HEADING_BYTES + FRAME_BYTES + 3
    for length in range(start, len(whole)):
        path.write_bytes(whole[:length])
        async with open_wal(path) as wal:
            assert list(wal.replay()) == [b"one"]
            assert wal.torn == (TornTail(start, length - start) if length > start else None)
            wal.append(b"again")
            await wal.flush()
        async with open_wal(path) as wal:
            assert wal.torn is None
            assert list(wal.replay()) == [b"one", b"again"]


async def test_damage_in_the_middle_names_offset_height_and_the_way_out(path: Path) -> None:
    async with open_wal(path) as wal:
        await wal.reset(12)
        for entry in (b"one", b"two", b"three"):
            wal.append(entry)
            await wal.flush()
    raw = bytearray(path.read_bytes())
    offset = HEADING_BYTES + FRAME_BYTES + 3
    raw[offset + FRAME_BYTES] ^= 1
    path.write_bytes(raw)
    with pytest.raises(
        WalCorrupt, match=r"Move it to .*inputs\.wal\.damaged and sign nothing more at height 12"
    ) as caught:
        await entries_of(path)
    assert (caught.value.offset, caught.value.height) == (offset, 12)
    assert path.read_bytes() == raw, "the evidence is left alone"


async def test_a_new_height_begins_empty(path: Path) -> None:
    async with open_wal(path) as wal:
        await wal.reset(1)
        wal.append(b"one")
        await wal.flush()
        wal.append(b"unflushed")
        await wal.reset(2)
        assert wal.height == 2
        assert list(wal.replay()) == []
        wal.append(b"two")
        await wal.flush()
    async with open_wal(path) as wal:
        assert wal.height == 2
        assert list(wal.replay()) == [b"two"]
        for height in (1, 2):
            with pytest.raises(ValueError, match="height 2"):
                await wal.reset(height)
        await wal.reset(3)
        assert list(wal.replay()) == []
    assert sorted(each.name for each in path.parent.iterdir()) == ["inputs.wal", "inputs.wal.lock"]


async def test_what_a_crash_in_a_reset_left_behind_does_no_harm(path: Path) -> None:
    async with open_wal(path) as wal:
        await wal.reset(1)
        wal.append(b"one")
        await wal.flush()
    path.with_name("inputs.wal.new").write_bytes(b"half a heading" * 100)
    async with open_wal(path) as wal:
        assert list(wal.replay()) == [b"one"]
        await wal.reset(2)
    async with open_wal(path) as wal:
        assert wal.height == 2
        assert list(wal.replay()) == []


async def test_a_second_owner_is_refused(path: Path) -> None:
    async with open_wal(path) as wal:
        await wal.reset(1)  # another file, the same lock
        with pytest.raises(WalInUse):
            await entries_of(path)
        wal.append(b"one")
        await wal.flush()
    assert await entries_of(path) == [b"one"]


async def test_entry_and_log_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "MAX_ENTRY_BYTES", 100)
    room = HEADING_BYTES + 3 * (FRAME_BYTES + 10)
    async with open_wal(path, max_bytes=room) as wal:
        with pytest.raises(WalFull, match="the entry would be 101 bytes"):
            wal.append(bytes(101))
        wal.append(bytes(10))
        await wal.flush()
        wal.append(bytes(10))
        wal.append(bytes(10))
        with pytest.raises(WalFull, match="the log") as caught:
            wal.append(b"")
        assert caught.value.limit == room
        await wal.flush()
        assert wal.size == room
        await wal.reset(1)
        wal.append(bytes(10))
        await wal.flush()
    with pytest.raises(WalFull):
        async with open_wal(path, max_bytes=HEADING_BYTES):
            pass


class Disk:
    """Counts fdatasync calls, and fails or holds them when told."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: OSError | None = None

    def __call__(self, handle: int) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        os.fdatasync(handle)


async def test_concurrent_flushes_share_a_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    monkeypatch.setattr(wal_module, "_sync_data", disk)
    async with open_wal(path) as wal:

        async def add(number: int) -> None:
            wal.append(bytes([number]))
            await wal.flush()
            assert number in path.read_bytes()

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(add, number)
        assert disk.calls <= 2
        await wal.flush()
        assert disk.calls <= 2
    assert sorted(await entries_of(path)) == [bytes([number]) for number in range(50)]


async def test_a_cancelled_flush_loses_nothing(path: Path) -> None:
    async with open_wal(path) as wal:
        wal.append(b"one")
        with trio.CancelScope() as scope:
            scope.cancel()
            await wal.flush()
        wal.append(b"two")
        await wal.flush()
    assert await entries_of(path) == [b"one", b"two"]


async def test_a_failed_write_is_final(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    monkeypatch.setattr(wal_module, "_sync_data", disk)
    async with open_wal(path) as wal:
        wal.append(b"one")
        await wal.flush()
        disk.error = OSError(5, "Input/output error")
        wal.append(b"two")
        with pytest.raises(WalError, match="Input/output error"):
            await wal.flush()
        disk.error = None
        with pytest.raises(WalError, match="Input/output error"):
            wal.append(b"three")
        with pytest.raises(WalError, match="Input/output error"):
            await wal.flush()
        with pytest.raises(WalError, match="Input/output error"):
            await wal.reset(9)
    assert (await entries_of(path))[0] == b"one"
    with pytest.raises(WalError, match="is closed"):
        wal.append(b"four")


async def test_a_folder_in_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "inputs.wal"
    folder.mkdir()
    with pytest.raises(WalError, match="cannot be opened") as caught:
        await entries_of(folder)
    assert caught.value.path == folder


# Killed processes.

APPEND_AND_WAIT = """
import sys, trio
from pathlib import Path
from node.wal import open_wal

async def main():
    async with open_wal(Path(sys.argv[1])) as wal:
        await wal.reset(3)
        for number in range(int(sys.argv[2])):
            wal.append(b"flushed %d" % number)
            await wal.flush()
        wal.append(b"not flushed")
        print("ready", flush=True)
        sys.stdin.read()

trio.run(main)
"""

APPEND_FOR_EVER = """
import sys, trio
from pathlib import Path
from node.wal import open_wal

async def main():
    async with open_wal(Path(sys.argv[1])) as wal:
        for number in range(1_000_000):
            wal.append(b"%d:" % number + bytes(number % 7_000))
            if number % 3 == 0:
                await wal.flush()
                print(number, flush=True)

trio.run(main)
"""


@pytest.mark.parametrize("flushed", [0, 1, 5])
async def test_killed_between_append_and_flush(path: Path, flushed: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", APPEND_AND_WAIT, str(path), str(flushed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(WalInUse):
            await entries_of(path)
        child.kill()
    async with open_wal(path) as wal:
        assert wal.height == 3
        assert wal.torn is None
        assert list(wal.replay()) == [b"flushed %d" % number for number in range(flushed)]


async def test_killed_at_any_moment_what_was_acknowledged_is_replayed(path: Path) -> None:
    expected: list[bytes] = []
    for _ in range(3):
        path.unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-c", APPEND_FOR_EVER, str(path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        ) as child:
            assert child.stdout is not None
            acknowledged = [int(child.stdout.readline()) for _ in range(30)]
            child.kill()
            acknowledged += [int(line) for line in child.stdout if line.endswith("\n")]
        found = await entries_of(path)
        assert len(found) >= acknowledged[-1] + 1
        expected = [b"%d:" % number + bytes(number % 7_000) for number in range(len(found))]
        assert found == expected
