"""The library's faults, shown on its own classes: when one of these fails, a fix of ours may go."""

import contextlib
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from google.protobuf.message import DecodeError
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from gossip.hardening.router import MESHSUB
from gossip.network import open_network
from gossip.streams import FrameStream
from tests.gossip.nets import FAST, MemoryConn, accept_all, open_nets, seed, until

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")


@asynccontextmanager
async def stock_host(number: int) -> AsyncIterator[IHost]:
    host = new_host(key_pair=create_new_key_pair(seed(number)), listen_addrs=[LOOPBACK])
    async with host.run([LOOPBACK]):
        try:
            yield host
        finally:
            with trio.CancelScope(shield=True):
                await host.close()


def address_of(host: IHost) -> str:
    port = host.get_addrs()[0].value_for_protocol("tcp")
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{host.get_id()}"


async def provoke_handler() -> None:
    async def fail(_: INetStream) -> None:
        raise ZeroDivisionError

    async with open_network(FAST, seed(1)) as network, stock_host(2) as host:
        host.set_stream_handler(TProtocol("/test/fail"), fail)
        await network.connect([address_of(host)], timeout=5)
        await network.open_stream(str(host.get_id()), "/test/fail", timeout=5)
        await still_up_after(5)


async def provoke_pubsub() -> None:
    async with open_network(FAST, seed(1)) as network, stock_host(2) as host:
        router = GossipSub([MESHSUB], 6, 4, 12)
        pubsub = Pubsub(host, router)
        try:
            async with background_trio_service(pubsub), background_trio_service(router):
                await network.connect([address_of(host)], timeout=5)
                pipe = await network._engine.open_stream(str(host.get_id()), str(MESHSUB))
                await pipe.write(b"\x05\xff\xff\xff\xff\xff")
                await still_up_after(5)
        finally:
            pubsub.seen_messages.stop()


async def still_up_after(seconds: float) -> None:
    with trio.fail_after(seconds):
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("provoke", "kind"), [(provoke_handler, ZeroDivisionError), (provoke_pubsub, DecodeError)], ids=["handler", "rpc"]
)
async def test_a_stock_host_goes_down_with_one_stream(
    provoke: Callable[[], Awaitable[None]], kind: type[Exception]
) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await provoke()
    assert caught.value.split(kind)[0] is not None
    assert caught.value.split(trio.TooSlowError)[0] is None


async def test_a_stock_swarm_keeps_the_slot_of_a_connection_that_ended() -> None:
    async with open_network(FAST, seed(1)) as network, stock_host(2) as host:
        swarm = cast(Swarm, host.get_network())
        await network.connect([address_of(host)], timeout=5)
        await until(lambda: swarm.connections)
        await network.disconnect(str(host.get_id()))
        await until(lambda: not swarm.connections)
        assert swarm._inbound_limiter.borrowed_tokens == 1


async def test_a_stock_write_that_is_cancelled_leaves_half_a_frame(autojump_clock: object) -> None:
    class SlowConn(MemoryConn):
        async def write(self, data: bytes) -> None:
            self.written.append(data[: len(data) // 2])
            await trio.sleep(1)
            self.written.append(data[len(data) // 2 :])

    _, incoming = trio.open_memory_channel[bytes](1)
    conn = SlowConn(True, incoming)
    session = Yamux(cast(Any, conn), ID(b"peer"), is_initiator=True)
    frame = struct.pack(">BBHII", 0, 2, 1, 0, 1)
    with trio.move_on_after(0.5):
        await session._write_frame(frame)
    assert b"".join(conn.written) == frame[:6]


async def test_stock_message_numbers_start_in_the_past_of_a_restarted_node() -> None:
    async with stock_host(1) as host, open_network(FAST, seed(2)) as network:
        pubsub = Pubsub(host, GossipSub([MESHSUB], 6, 4, 12))
        pubsub.seen_messages.stop()
        assert pubsub.counter <= int(time.time())
        assert network._engine.pubsub.counter > time.time() * 1e9 - 60e9


async def test_we_speak_with_a_stock_host_in_both_directions() -> None:
    """Ours are replaced parts, not another protocol: streams, ping, identify and signed gossip interoperate."""

    async def shout(stream: INetStream) -> None:
        await stream.write((await stream.read(100)).upper())
        await stream.close()

    async def echo(stream: FrameStream) -> None:
        assert await stream.receive(limit=100, timeout=5) == b"framed"
        await stream.send(b"answer")
        await stream.end()

    async with open_network(FAST, seed(1)) as network, stock_host(2) as host:
        router = GossipSub([MESHSUB], 6, 4, 12, heartbeat_interval=1)
        pubsub = Pubsub(host, router)
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            try:
                await host.connect(info_from_p2p_addr(Multiaddr(network.multiaddrs[0])))
                await until(lambda: network.is_connected(str(host.get_id())))
                await network.ping(str(host.get_id()), timeout=5)

                host.set_stream_handler(TProtocol("/test/shout"), shout)
                pipe = await network._engine.open_stream(str(host.get_id()), "/test/shout")
                await pipe.write(b"hello")
                assert await pipe.read() == b"HELLO"
                pipe.abort()

                network.serve("/test/echo", echo)
                raw = await host.new_stream(ID.from_base58(network.peer_id), [TProtocol("/test/echo")])
                await raw.write(struct.pack(">IB", 6, 0) + b"framed")
                answer = b""
                with trio.fail_after(5):
                    while len(answer) < 16:
                        answer += await raw.read(16 - len(answer))
                assert answer == struct.pack(">IB", 6, 0) + b"answer" + struct.pack(">IB", 0, 1)

                ours = await network.subscribe("t", accept_all, max_bytes=100)
                theirs = await pubsub.subscribe("t")
                await network.wait_for_mesh("t", 1, timeout=5)
                await network.publish("t", b"from ours")
                with trio.fail_after(5):
                    assert (await theirs.get()).data == b"from ours"
                await pubsub.publish("t", b"from theirs")
                with trio.fail_after(5):
                    message = await ours.receive()
                assert (message.data, message.origin) == (b"from theirs", str(host.get_id()))
                assert not set(network.statistics().drops) & {"task_failed", "penalties", "bad_signature"}
            finally:
                pubsub.seen_messages.stop()


async def test_the_version_is_checked_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import importlib.metadata

    import gossip.hardening

    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.9.0")
    with pytest.raises(ImportError, match=r"needs libp2p 0\.8\.1, found 0\.9\.0"):
        importlib.reload(gossip.hardening)


async def test_leaving_closes_what_a_burst_of_streams_left_open() -> None:
    async def hang(_: FrameStream) -> None:
        await trio.sleep_forever()

    async with open_nets(2) as (one, other):
        other.serve("/test/hang", hang)
        await one.connect(other.multiaddrs, timeout=5)
        for _ in range(20):
            with contextlib.suppress(ExceptionGroup):
                await one.open_stream(other.peer_id, "/test/hang", timeout=5)
        assert other.statistics().streams >= 20
