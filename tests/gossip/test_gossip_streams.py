"""Frames over a byte stream in memory."""

import struct

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from gossip.errors import (
    GossipError,
    MalformedMessage,
    MessageTooLarge,
    RemoteError,
    StreamBroken,
    StreamTimeout,
)
from gossip.streams import FRAME_LIMIT, FrameStream


class MemoryPipe:
    """One end of a byte stream; ``chunk`` bytes arrive at a time."""

    def __init__(self, chunk: int = 1 << 30) -> None:
        self.peer: MemoryPipe | None = None
        self.buffer = bytearray()
        self.chunk = chunk
        self.arrived = trio.Event()
        self.writable = True
        self.finished = self.aborted = self.gone = False

    async def read(self) -> bytes:
        while not self.buffer:
            if self.gone or self.aborted:
                raise StreamBroken("reset")
            self.arrived = trio.Event()
            await self.arrived.wait()
        await trio.lowlevel.checkpoint()
        taken = bytes(self.buffer[: self.chunk])
        del self.buffer[: self.chunk]
        return taken

    async def write(self, data: bytes) -> None:
        assert self.peer is not None
        for start in range(0, len(data), 7):
            if self.gone:
                raise StreamBroken("reset")
            if not self.writable:
                await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
            self.peer.buffer += data[start : start + 7]
            self.peer.arrived.set()

    def finish(self) -> None:
        self.finished = True

    def abort(self) -> None:
        self.aborted = True
        if self.peer is not None:
            self.peer.gone = True
            self.peer.arrived.set()


def pipes(chunk: int = 1 << 30) -> tuple[MemoryPipe, MemoryPipe]:
    one, other = MemoryPipe(chunk), MemoryPipe(chunk)
    one.peer, other.peer = other, one
    return one, other


def streams(chunk: int = 1 << 30) -> tuple[FrameStream, FrameStream, MemoryPipe, MemoryPipe]:
    one, other = pipes(chunk)
    return FrameStream(one, "other"), FrameStream(other, "one"), one, other


@settings(max_examples=40, deadline=None)
@given(payloads=st.lists(st.binary(max_size=60), max_size=8), chunk=st.integers(1, 64))
def test_frames_arrive_whole_and_in_order_however_they_are_cut(payloads: list[bytes], chunk: int) -> None:
    async def main() -> list[bytes]:
        sender, receiver, *_ = streams(chunk)
        for payload in payloads:
            await sender.send(payload)
        await sender.end()
        received = []
        while (frame := await receiver.receive(limit=60, timeout=5)) is not None:
            received.append(frame)
        assert await receiver.receive(limit=60, timeout=5) is None
        return received

    assert trio.run(main) == payloads


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_gossip_errors(garbage: bytes) -> None:
    async def main() -> None:
        _, other = pipes()
        other.buffer += garbage
        other.gone = True
        stream = FrameStream(other, "one")
        try:
            while await stream.receive(limit=100, timeout=5) is not None:
                pass
        except GossipError:
            return
        assert bytes(5)[:4] + b"\1" in garbage  # it ended only if there was an END frame

    trio.run(main)


async def test_an_oversized_frame_is_refused_before_it_is_read() -> None:
    _, receiver, _, pipe = streams()
    pipe.buffer += struct.pack(">IB", 101, 0)
    with pytest.raises(MessageTooLarge) as caught:
        await receiver.receive(limit=100, timeout=5)
    assert (caught.value.size, caught.value.limit) == (101, 100)
    assert pipe.aborted
    with pytest.raises(MessageTooLarge):
        await receiver.receive(limit=1000, timeout=5)


@pytest.mark.parametrize("header", [struct.pack(">IB", 0, 3), struct.pack(">IB", 5, 255)])
async def test_an_unknown_kind_is_malformed(header: bytes) -> None:
    _, receiver, _, pipe = streams()
    pipe.buffer += header
    with pytest.raises(MalformedMessage):
        await receiver.receive(limit=100, timeout=5)


async def test_an_end_frame_carries_nothing_and_an_error_frame_little() -> None:
    for header in (struct.pack(">IB", 1, 1), struct.pack(">IB", 5000, 2)):
        _, receiver, _, pipe = streams()
        pipe.buffer += header
        with pytest.raises(MessageTooLarge):
            await receiver.receive(limit=1 << 20, timeout=5)


async def test_a_stream_that_stops_is_broken_not_ended() -> None:
    sender, receiver, *_ = streams()
    await sender.send(b"one")
    await sender.aclose()
    assert await receiver.receive(limit=10, timeout=5) == b"one"
    with pytest.raises(StreamBroken):
        await receiver.receive(limit=10, timeout=5)


async def test_an_error_frame_carries_its_reason_cut_to_size() -> None:
    sender, receiver, *_ = streams()
    await sender.fail("busy", "x" * 5000)
    with pytest.raises(RemoteError) as caught:
        await receiver.receive(limit=10, timeout=5)
    assert caught.value.code == "busy"
    assert caught.value.detail == "x" * 1024
    await sender.fail("again", "is too late, and no harm")


async def test_an_error_frame_that_is_garbage_is_malformed() -> None:
    _, receiver, _, pipe = streams()
    pipe.buffer += struct.pack(">IB", 3, 2) + b"\xff\xff\xff"
    with pytest.raises(MalformedMessage):
        await receiver.receive(limit=10, timeout=5)


async def test_nothing_can_be_sent_after_the_end() -> None:
    sender, _, pipe, _ = streams()
    await sender.end()
    await sender.end()
    with pytest.raises(StreamBroken):
        await sender.send(b"late")
    await sender.aclose()
    assert pipe.finished
    assert not pipe.aborted


async def test_closing_without_an_end_resets() -> None:
    sender, _, pipe, _ = streams()
    await sender.aclose()
    await sender.aclose()
    assert pipe.aborted
    assert not pipe.finished


async def test_a_receive_that_times_out_loses_nothing(autojump_clock: object) -> None:
    sender, receiver, _, pipe = streams()
    pipe.buffer += struct.pack(">IB", 4, 0) + b"ha"
    with pytest.raises(StreamTimeout):
        await receiver.receive(limit=10, timeout=1)
    pipe.buffer += b"lf"
    assert await receiver.receive(limit=10, timeout=1) == b"half"
    await sender.send(b"next")
    assert await receiver.receive(limit=10, timeout=1) == b"next"


async def test_a_frame_that_came_while_this_node_stood_still_is_not_late(autojump_clock: MockClock) -> None:
    sender, receiver, _, _ = streams(chunk=3)

    async def stall() -> None:
        await trio.sleep(9.9)
        autojump_clock.jump(60)
        await sender.send(b"a frame of several chunks")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stall)
        assert await receiver.receive(limit=100, timeout=10) == b"a frame of several chunks"


async def test_a_send_that_times_out_half_way_resets_the_stream(autojump_clock: object) -> None:
    sender, receiver, pipe, _ = streams()
    pipe.writable = False
    with pytest.raises(StreamTimeout):
        await sender.send(b"stalled", timeout=1)
    assert pipe.aborted
    with pytest.raises(StreamBroken):
        await sender.send(b"more")
    with pytest.raises(StreamBroken):
        await receiver.receive(limit=10, timeout=1)


async def test_a_send_that_is_cancelled_half_way_resets_the_stream() -> None:
    sender, _, pipe, _ = streams()
    pipe.writable = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, b"stalled")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert pipe.aborted


async def test_a_send_that_waits_for_its_turn_may_be_cancelled_without_harm() -> None:
    sender, receiver, pipe, _ = streams()
    pipe.writable = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, b"first")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await sender.send(b"second")
        assert scope.cancelled_caught
        assert not pipe.aborted
        nursery.cancel_scope.cancel()
    del receiver


async def test_frames_of_many_tasks_do_not_mix() -> None:
    sender, receiver, *_ = streams()
    payloads = [bytes([number]) * 50 for number in range(20)]
    async with trio.open_nursery() as nursery:
        for payload in payloads:
            nursery.start_soon(sender.send, payload)
        received = {await receiver.receive(limit=50, timeout=5) for _ in payloads}
    assert received == set(payloads)


async def test_a_frame_above_the_limit_is_not_sent() -> None:
    sender, *_ = streams()
    with pytest.raises(MessageTooLarge):
        await sender.send(bytes(FRAME_LIMIT + 1))
