"""The queue to one pubsub peer."""

import trio
import trio.testing
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue

from gossip.hardening.outbox import Outbox, frame


def make(max_frames: int = 100, max_bytes: int = 1 << 20) -> Outbox:
    return Outbox(max_frames, max_bytes, max_message_size=1 << 20)


def rpc(text: bytes) -> rpc_pb2.RPC:
    return rpc_pb2.RPC(publish=[rpc_pb2.Message(data=text)])


async def test_a_burst_of_two_hundred_waits_where_the_stock_queue_drops_it() -> None:
    stock, ours = RpcQueue(), make(4096)
    assert sum(stock.push(rpc(bytes([number]))) for number in range(200)) == 32
    assert sum(ours.push(rpc(bytes([number]))) for number in range(200)) == 200
    assert ours.dropped == 0


async def test_waiting_frames_go_out_in_one_write_control_first() -> None:
    outbox = make()
    outbox.push_frame(b"data1")
    outbox.push_frame(b"data2")
    outbox.push_frame(b"control", priority=True)
    assert await outbox.pop() == b"controldata1data2"
    assert len(outbox) == 0


async def test_a_write_is_bounded_but_never_empty() -> None:
    outbox = make()
    outbox.push_frame(bytes(100_000))
    outbox.push_frame(b"next")
    first = await outbox.pop()
    assert first is not None
    assert len(first) == 100_000
    assert await outbox.pop() == b"next"


async def test_what_does_not_fit_is_counted() -> None:
    outbox = make(max_frames=2, max_bytes=10)
    assert outbox.push_frame(bytes(10))
    assert not outbox.push_frame(b"x")
    await outbox.pop()
    assert outbox.push_frame(b"x")
    assert outbox.push_frame(b"y")
    assert not outbox.push_frame(b"z")
    assert outbox.dropped == 2


async def test_a_waiting_writer_wakes_for_a_frame_and_for_the_end() -> None:
    outbox = make()
    received: list[bytes | None] = []

    async def write() -> None:
        while (data := await outbox.pop()) is not None:
            received.append(data)
        received.append(None)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            outbox.push_frame(b"one")
            await trio.testing.wait_all_tasks_blocked()
            outbox.close()
    assert received == [b"one", None]
    assert not outbox.push_frame(b"late")


def test_a_frame_is_an_rpc_with_its_length() -> None:
    data = frame(rpc(b"x" * 200))
    assert data[:2] == bytes([0x80 | len(data) - 2 & 0x7F, len(data) - 2 >> 7])
    assert rpc_pb2.RPC.FromString(data[2:]).publish[0].data == b"x" * 200
