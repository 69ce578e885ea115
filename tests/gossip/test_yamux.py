"""The multiplexer: two sessions over memory, or one against hand-made frames."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from trio.testing import MockClock

from gossip.hardening.yamux import SessionLimits, YamuxSession
from gossip.hardening.yamux_stream import CHUNK, WINDOW, YamuxStream
from tests.gossip.nets import MemoryConn, memory_conns, until

PEER = ID(b"peer")
QUIET = SessionLimits(ping_interval=1000)


def make(conn: MemoryConn, limits: SessionLimits = QUIET, faults: list[str] | None = None) -> YamuxSession:
    noted = [] if faults is None else faults
    return YamuxSession(cast(Any, conn), PEER, limits, lambda _, reason: noted.append(reason))


@asynccontextmanager
async def sessions(limits: SessionLimits = QUIET) -> AsyncIterator[tuple[YamuxSession, YamuxSession]]:
    conns = memory_conns()
    one, other = (make(conn, limits) for conn in conns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.start)
        nursery.start_soon(other.start)
        await one.event_started.wait()
        await other.event_started.wait()
        yield one, other
        await one.close()
        await other.close()


@asynccontextmanager
async def against_frames(
    limits: SessionLimits = QUIET,
) -> AsyncIterator[tuple[YamuxSession, MemoryConn, list[str]]]:
    """A session that accepted; the test plays the dialling peer."""
    me, conn = memory_conns()
    faults: list[str] = []
    session = make(conn, limits, faults)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.start)
        await session.event_started.wait()
        yield session, me, faults
        await session.close()


def frame(kind: int, flags: int, stream: int, value: int, body: bytes = b"", *, version: int = 0) -> bytes:
    return struct.pack(">BBHII", version, kind, flags, stream, value) + body


async def write_until_reset(stream: YamuxStream, size: int) -> None:
    with pytest.raises(MuxedStreamReset):
        await stream.write(bytes(size))


async def hold(lock: trio.Lock) -> None:
    async with lock:
        await trio.sleep_forever()


async def test_streams_carry_bytes_both_ways() -> None:
    async with sessions() as (one, other):
        mine = await one.open_stream()
        theirs = await other.accept_stream()
        await mine.write(b"question")
        assert await theirs.read() == b"question"
        await theirs.write(b"answer")
        assert await mine.read(3) == b"ans"
        assert await mine.read(100) == b"wer"


async def test_ids_are_odd_for_the_dialler_and_even_for_the_listener() -> None:
    async with sessions() as (one, other):
        assert [(await one.open_stream()).stream_id for _ in range(2)] == [1, 3]
        assert [(await other.open_stream()).stream_id for _ in range(2)] == [2, 4]


async def test_more_than_the_window_goes_through_while_somebody_reads() -> None:
    data = bytes(range(256)) * (WINDOW // 64)
    async with sessions() as (one, other), trio.open_nursery() as nursery:
        mine = await one.open_stream()
        theirs = await other.accept_stream()
        nursery.start_soon(mine.write, data)
        received = bytearray()
        with trio.fail_after(10):
            while len(received) < len(data):
                received += await theirs.read(10_000)
        assert received == data


async def test_a_window_update_goes_out_once_per_half_window_not_once_per_read() -> None:
    async with against_frames() as (session, me, _):
        assert me.outgoing is not None
        await me.outgoing.send(frame(1, 1, 1, 0))
        stream = await session.accept_stream()
        for _ in range(WINDOW // 1024 - 1):
            await me.outgoing.send(frame(0, 0, 1, 1024, bytes(1024)))
            await stream.read()
        credits = []
        while me.incoming.statistics().current_buffer_used:
            sent = me.incoming.receive_nowait()
            credits += [sent] if sent[1] == 1 and sent[2:4] == b"\0\0" else []
        assert len(credits) == 1
        assert struct.unpack(">I", credits[0][8:])[0] == WINDOW // 2


async def test_a_writer_waits_for_a_stalled_reader_and_others_go_on() -> None:
    async with sessions() as (one, other), trio.open_nursery() as nursery:
        stalled, free = await one.open_stream(), await one.open_stream()
        unread = await other.accept_stream()
        read = await other.accept_stream()
        nursery.start_soon(write_until_reset, stalled, 2 * WINDOW)
        with trio.fail_after(5):
            for number in range(50):
                await free.write(bytes([number]))
                assert await read.read() == bytes([number])
        await unread.reset()
        with pytest.raises(MuxedStreamReset):
            await stalled.read()


async def test_a_finished_stream_ends_after_its_last_byte() -> None:
    async with sessions() as (one, other):
        mine = await one.open_stream()
        theirs = await other.accept_stream()
        await mine.write(b"last")
        await mine.close()
        assert await theirs.read() == b"last"
        with pytest.raises(MuxedStreamEOF):
            await theirs.read()
        await theirs.write(b"still open this way")
        assert await mine.read() == b"still open this way"
        await theirs.close()
        await until(lambda: one.stream_count == other.stream_count == 0)


async def test_a_reset_is_seen_by_both_sides() -> None:
    async with sessions() as (one, other):
        mine = await one.open_stream()
        theirs = await other.accept_stream()
        await mine.reset()
        with pytest.raises(MuxedStreamReset):
            await theirs.read()
        with pytest.raises(MuxedStreamReset):
            await mine.write(b"x")
        await until(lambda: one.stream_count == other.stream_count == 0)


async def test_a_cancelled_read_loses_nothing() -> None:
    async with sessions() as (one, other):
        mine = await one.open_stream()
        theirs = await other.accept_stream()
        for size in (10, WINDOW // 2):
            with trio.CancelScope() as scope:
                scope.cancel()
                await theirs.read()
            await mine.write(bytes(size))
            received = 0
            with trio.fail_after(5):
                while received < size:
                    received += len(await theirs.read())
            assert received == size


async def test_a_cancelled_credit_is_given_later() -> None:
    async with sessions() as (one, other), trio.open_nursery() as nursery:
        mine = await one.open_stream()
        theirs = await other.accept_stream()
        await mine.write(bytes(WINDOW))
        received = 0
        while received < WINDOW:
            received += len(await theirs.read())
        async with trio.open_nursery() as holders:
            holders.start_soon(hold, other._write_lock)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.01):
                await theirs.read()
            holders.cancel_scope.cancel()
        nursery.start_soon(mine.write, b"more")
        with trio.fail_after(5):
            assert await theirs.read() == b"more"


async def test_a_write_that_stalls_closes_the_connection_and_a_cancelled_one_does_not(autojump_clock: object) -> None:
    conn, _ = memory_conns()
    session = make(conn, SessionLimits(write=10, ping_interval=1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.start)
        await session.event_started.wait()
        stream = await session.open_stream()
        async with trio.open_nursery() as writers:
            writers.start_soon(stream.write, b"whole")
            writers.cancel_scope.cancel()
        assert not session.closing
        conn.stalled = True
        with pytest.raises(MuxedConnUnavailable):
            await stream.write(b"never")
        assert session.is_closed


async def test_cancellation_never_leaves_half_a_frame(autojump_clock: object) -> None:
    """The stock session passes the cancellation on into the encrypted connection's write."""

    class SlowConn(MemoryConn):
        async def write(self, data: bytes) -> None:
            half = len(data) // 2
            self.written.append(data[:half])
            await trio.sleep(1)
            self.written.append(data[half:])

    _, incoming = trio.open_memory_channel[bytes](1)
    conn = SlowConn(True, incoming)
    session = make(conn)
    with trio.move_on_after(0.5):
        await session.write_frame(b"0123456789")
    assert b"".join(conn.written) == b"0123456789"


async def test_a_silent_peer_is_noticed(autojump_clock: object) -> None:
    async with against_frames(SessionLimits(ping_interval=5, ping=10)) as (session, me, _):
        with trio.fail_after(30):
            await session.event_closed.wait()
        assert me.incoming.receive_nowait()[1] == 2


async def test_a_peer_that_answers_pings_stays(autojump_clock: object) -> None:
    async with sessions(SessionLimits(ping_interval=5, ping=10)) as (one, other):
        await trio.sleep(300)
        assert not one.closing
        assert not other.closing


async def test_an_answer_that_came_while_this_node_stood_still_is_not_late(autojump_clock: MockClock) -> None:
    async with against_frames(SessionLimits(ping_interval=5, ping=10)) as (session, me, _):
        assert me.outgoing is not None
        for _ in range(3):
            sent = await me.incoming.receive()
            assert sent[1] == 2
            autojump_clock.jump(60)
            await me.outgoing.send(frame(2, 2, 0, struct.unpack(">I", sent[8:])[0]))
        await trio.sleep(1)
        assert not session.closing
        with trio.fail_after(30):
            await session.event_closed.wait()


async def test_a_write_that_goes_on_after_this_node_stood_still_has_not_stalled(autojump_clock: MockClock) -> None:
    class HeldConn(MemoryConn):
        released = trio.Event()

        async def write(self, data: bytes) -> None:
            await self.released.wait()
            self.written.append(data)

    _, incoming = trio.open_memory_channel[bytes](1)
    conn = HeldConn(True, incoming)
    session = make(conn, SessionLimits(write=10, ping=1000))

    async def write() -> None:
        await session.write_frame(b"whole")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.start)
        nursery.start_soon(write)
        await trio.sleep(9)
        autojump_clock.jump(60)
        await trio.lowlevel.checkpoint()
        conn.released.set()
        await trio.sleep(100)
        assert not session.closing
        assert b"whole" in conn.written
        await session.close()


async def test_a_write_ends_with_its_session(autojump_clock: MockClock) -> None:
    conn, _ = memory_conns()
    session = make(conn, SessionLimits(write=10, ping_interval=1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.start)
        stream = await session.open_stream()
        conn.stalled = True

        async def write() -> None:
            with pytest.raises(MuxedConnUnavailable):
                await stream.write(b"never")

        nursery.start_soon(write)
        await trio.sleep(1)
        await session.close()


async def test_pings_are_answered() -> None:
    async with against_frames() as (_, me, __):
        assert me.outgoing is not None
        await me.outgoing.send(frame(2, 1, 0, 4711))
        with trio.fail_after(5):
            sent = b""
            while frame(2, 2, 0, 4711) not in sent:
                sent += await me.incoming.receive()


@pytest.mark.parametrize(
    "attack",
    [
        frame(0, 0, 0, 0, version=1),
        frame(4, 0, 0, 0),
        frame(0, 1, 1, WINDOW + 1),
        frame(1, 1, 0, 0),
        frame(1, 1, 2, 0),
        frame(1, 1, 1, 0) * 2,
        frame(1, 1, 1, 0) + frame(0, 0, 1, WINDOW, bytes(WINDOW)) + frame(0, 0, 1, 1, b"x"),
    ],
    ids=["version", "type", "huge", "id-zero", "id-parity", "opened-twice", "beyond-window"],
)
async def test_breaking_the_protocol_ends_the_connection_and_is_blamed(attack: bytes) -> None:
    async with against_frames() as (session, me, faults):
        assert me.outgoing is not None
        await me.outgoing.send(attack)
        with trio.fail_after(5):
            await session.event_closed.wait()
        assert len(faults) == 1


async def test_a_peer_that_asks_and_never_reads_is_cut_off() -> None:
    async with against_frames() as (session, me, faults):
        assert me.outgoing is not None
        async with trio.open_nursery() as holders:
            holders.start_soon(hold, session._write_lock)
            await me.outgoing.send(frame(2, 1, 0, 1) * 20_000)
            with trio.fail_after(5):
                await session.event_closed.wait()
            holders.cancel_scope.cancel()
        assert len(faults) == 1


async def test_streams_beyond_the_limit_are_reset() -> None:
    async with against_frames(SessionLimits(streams_in=3, ping_interval=1000)) as (session, me, _):
        assert me.outgoing is not None
        await me.outgoing.send(b"".join(frame(1, 1, number, 0) for number in (1, 3, 5, 7)))
        await until(lambda: session.stream_count == 3 and not session._control)
        sent = b""
        while frame(1, 8, 7, 0) not in sent:
            with trio.fail_after(5):
                sent += await me.incoming.receive()
        await session.accept_stream()
        await me.outgoing.send(frame(1, 8, 1, 0) + frame(1, 1, 9, 0))
        await until(lambda: 9 in session._streams)


async def test_opening_too_many_streams_is_an_error_not_a_wait() -> None:
    async with sessions(SessionLimits(streams_out=2, ping_interval=1000)) as (one, _):
        first = await one.open_stream()
        await one.open_stream()
        with pytest.raises(MuxedStreamError):
            await one.open_stream()
        await first.reset()
        await one.open_stream()


async def test_a_stream_that_only_we_closed_is_reset_in_the_end(autojump_clock: object) -> None:
    async with sessions(SessionLimits(ping_interval=5, linger=30)) as (one, other):
        mine = await one.open_stream()
        theirs = await other.accept_stream()
        await mine.close()
        with trio.fail_after(60):
            while one.stream_count or other.stream_count:
                await trio.sleep(1)
        with pytest.raises(MuxedStreamReset):
            await theirs.read()


async def test_a_closed_session_breaks_its_streams() -> None:
    async with sessions() as (one, other):
        mine = await one.open_stream()
        theirs = await other.accept_stream()
        await one.close()
        with pytest.raises(MuxedStreamError):
            await mine.write(b"x")
        with trio.fail_after(5), pytest.raises(MuxedStreamReset):
            await theirs.read()
        with pytest.raises(MuxedConnUnavailable):
            await other.accept_stream()
        with pytest.raises(MuxedStreamError):
            await one.open_stream()


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=300))
def test_random_bytes_end_at_most_the_session(garbage: bytes) -> None:
    async def main() -> None:
        async with against_frames() as (session, me, _):
            assert me.outgoing is not None
            await me.outgoing.send(garbage)
            me.outgoing.close()
            with trio.fail_after(5):
                await session.event_closed.wait()

    trio.run(main)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 700), max_size=5), cut=st.integers(1, 1000))
def test_frames_are_found_however_the_bytes_arrive(sizes: list[int], cut: int) -> None:
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]

    async def main() -> bytes:
        async with against_frames() as (session, me, _), trio.open_nursery() as nursery:
            data = frame(1, 1, 1, 0) + b"".join(frame(0, 0, 1, len(body), body) for body in bodies)

            async def feed() -> None:
                assert me.outgoing is not None
                for start in range(0, len(data), cut):
                    await me.outgoing.send(data[start : start + cut])

            nursery.start_soon(feed)
            stream = await session.accept_stream()
            received = b""
            while len(received) < sum(sizes):
                received += await stream.read()
            return received

    assert trio.run(main) == b"".join(bodies)


async def test_a_write_is_cut_into_frames_that_fit_one_noise_message() -> None:
    async with against_frames() as (session, me, _):
        stream = await session.open_stream()
        await stream.write(bytes(CHUNK + 1))
        sizes = []
        while me.incoming.statistics().current_buffer_used:
            sent = me.incoming.receive_nowait()
            sizes += [len(sent)] if sent[1] == 0 else []
        assert sizes == [CHUNK + 12, 1 + 12]
        assert max(sizes) == 65_535 - 16
