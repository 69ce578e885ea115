"""Peers that send what they shouldn't: every host stays up and goes on serving the others."""

import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.pubsub.pb import rpc_pb2

from gossip import topics
from gossip.errors import PeerUnreachable, StreamBroken
from gossip.hardening import pubsub
from gossip.hardening.outbox import frame
from gossip.hardening.router import MESHSUB
from gossip.hardening.yamux import YamuxSession
from gossip.hardening.yamux_stream import WINDOW
from gossip.network import Network, NetworkConfig, open_network
from gossip.streams import FrameStream
from tests.gossip.nets import FAST, accept_all, open_nets, seed, until

TOPIC = "t"
OURS = [topics.COMMITTEE, topics.ROUTER, topics.LIVENESS, topics.SESSION, topics.SYNC]
LENIENT = NetworkConfig(heartbeat=0.1, ban_points=100_000)
"""Bans nobody, so that every attack is tried on a host that still listens."""


async def echo(stream: FrameStream) -> None:
    while (data := await stream.receive(limit=8192, timeout=30)) is not None:
        await stream.send(data)
    await stream.end()


@asynccontextmanager
async def victim_and_others(config: NetworkConfig = LENIENT) -> AsyncIterator[tuple[Network, Network, Network]]:
    """An attacker and an honest peer, both connected to a victim; the last two are in a topic."""
    async with open_nets(3, config) as (attacker, victim, honest):
        for net in (victim, honest):
            await net.subscribe(TOPIC, accept_all, max_bytes=1000)
            for protocol in OURS:
                net.serve(protocol, echo)
        await attacker.connect(victim.multiaddrs, timeout=5)
        await honest.connect(victim.multiaddrs, timeout=5)
        await honest.wait_for_mesh(TOPIC, 1, timeout=5)
        yield attacker, victim, honest


async def still_serves(victim: Network, honest: Network) -> None:
    """The victim answers on every protocol, pings and gossips."""
    for protocol in OURS:
        stream = await honest.open_stream(victim.peer_id, protocol, timeout=5)
        await stream.send(b"still there?")
        assert await stream.receive(limit=100, timeout=5) == b"still there?"
        await stream.end()
        await stream.aclose()
    await honest.ping(victim.peer_id, timeout=5)
    before = victim.statistics().delivered
    await honest.publish(TOPIC, b"news")
    await until(lambda: victim.statistics().delivered > before)
    assert victim.statistics().drops.get("task_failed", 0) == 0


async def send_raw(attacker: Network, victim: Network, protocol: str, data: bytes) -> None:
    pipe = await attacker._engine.open_stream(victim.peer_id, protocol)
    try:
        await pipe.write(data)
        pipe.finish()
        with trio.move_on_after(0.2):
            while True:
                await pipe.read()
    except StreamBroken:
        pass
    finally:
        pipe.abort()


@pytest.mark.seed(1)
async def test_random_bytes_on_every_protocol(chance: random.Random) -> None:
    async with victim_and_others() as (attacker, victim, honest):
        async with trio.open_nursery() as nursery:
            for protocol in (*OURS, str(MESHSUB), "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"):
                nursery.start_soon(send_raw, attacker, victim, protocol, chance.randbytes(4096))
        await still_serves(victim, honest)


@pytest.mark.seed(2)
@pytest.mark.parametrize("polite", [False, True], ids=["raw", "after-hello"])
async def test_random_bytes_on_the_socket(chance: random.Random, polite: bool) -> None:
    async with victim_and_others() as (_, victim, honest):
        for _ in range(2):
            async with await trio.open_tcp_stream("127.0.0.1", port_of(victim)) as stream:
                hello = b"\x13/multistream/1.0.0\n\x07/noise\n" if polite else b""
                await stream.send_all(hello + chance.randbytes(4096))
                with trio.move_on_after(0.2):
                    while await read_some(stream):
                        pass
        await still_serves(victim, honest)
        await until(lambda: victim.statistics().inbound_slots == 2)


@pytest.mark.seed(3)
async def test_random_bytes_where_frames_should_be(chance: random.Random) -> None:
    async with victim_and_others() as (attacker, victim, honest):
        session = session_of(attacker)
        await session.write_frame(chance.randbytes(4096))
        await until(lambda: not victim.is_connected(attacker.peer_id))
        await still_serves(victim, honest)


@pytest.mark.seed(4)
async def test_random_bytes_where_a_protocol_name_should_be(chance: random.Random) -> None:
    async with victim_and_others() as (attacker, victim, honest):
        for _ in range(10):
            stream = await session_of(attacker).open_stream()
            await stream.write(chance.randbytes(512))
            await stream.close()
        await still_serves(victim, honest)


async def test_plaintext_and_other_muxers_are_not_spoken() -> None:
    async with open_network(FAST, seed(1)) as network:
        for offer in (b"/plaintext/2.0.0", b"/secio/1.0.0", b"/tls/1.0.0", b"/mplex/6.7.0", b"/yamux/1.0.0"):
            async with await trio.open_tcp_stream("127.0.0.1", port_of(network)) as stream:
                await stream.send_all(b"\x13/multistream/1.0.0\n" + bytes([len(offer) + 1]) + offer + b"\n")
                answer = b""
                with trio.fail_after(5):
                    while len(answer) < 24:
                        answer += await stream.receive_some()
                assert answer[20:] == b"\x03na\n"


def rpc_attacks() -> dict[str, bytes]:
    def message(**fields: object) -> rpc_pb2.Message:
        values = {"data": b"x", "topicIDs": [TOPIC], "from_id": b"\0$\x08\1\x12 " + bytes(32), "seqno": bytes(8)}
        return rpc_pb2.Message(**(values | fields))  # type: ignore[arg-type]  # fields of any type

    graft = [rpc_pb2.ControlGraft(topicID="unknown")] * 10
    prune = [rpc_pb2.ControlPrune(topicID=TOPIC, backoff=2**63, peers=[rpc_pb2.PeerInfo(peerID=b"?")])]
    many = rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[bytes([i % 256, i // 256]) for i in range(6000)])
    return {
        "not-protobuf": b"\x05\xff\xff\xff\xff\xff",
        "endless-varint": b"\xff" * 20,
        "too-long": b"\xff\xff\xff\xff\x0f",
        "topic-not-text": b"\x06\x0a\x04\x12\x02\xff\xfe",
        "garbage-key": frame(rpc_pb2.RPC(publish=[message(key=b"\xff" * 40, signature=b"s" * 64)])),
        "garbage-author": frame(rpc_pb2.RPC(publish=[message(from_id=b"\xff\xff", signature=b"s" * 64)])),
        "no-signature": frame(rpc_pb2.RPC(publish=[message()])),
        "no-topic": frame(rpc_pb2.RPC(publish=[message(topicIDs=[])])),
        "two-topics": frame(rpc_pb2.RPC(publish=[message(topicIDs=[TOPIC, "u"])])),
        "unknown-graft": frame(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(graft=graft))),
        "prune-for-ever": frame(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(prune=prune))),
        "many-ids": frame(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(ihave=[many]))),
        "long-topic": frame(rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="x" * 1000)])),
        "many-topics": frame(
            rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=str(i)) for i in range(1001)])
        ),
        "empty-message": frame(rpc_pb2.RPC(publish=[rpc_pb2.Message()])),
        "many-messages": frame(rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=["elsewhere"])] * 1001)),
        "many-grafts": frame(
            rpc_pb2.RPC(control=rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID="unknown")] * 1001))
        ),
        "many-topics-in-a-message": frame(rpc_pb2.RPC(publish=[message(topicIDs=["t"] * 10_000)])),
        "many-peers-in-a-prune": frame(
            rpc_pb2.RPC(
                control=rpc_pb2.ControlMessage(
                    prune=[rpc_pb2.ControlPrune(topicID=TOPIC, peers=[rpc_pb2.PeerInfo()] * 10_000)]
                )
            )
        ),
        "many-wanted": frame(
            rpc_pb2.RPC(control=rpc_pb2.ControlMessage(iwant=[rpc_pb2.ControlIWant(messageIDs=[b""] * 6000)]))
        ),
        "many-unwanted": frame(
            rpc_pb2.RPC(control=rpc_pb2.ControlMessage(idontwant=[rpc_pb2.ControlIDontWant(messageIDs=[b""] * 6000)]))
        ),
        "false-record": frame(rpc_pb2.RPC(senderRecord=b"\xff" * 100)),
    }


@pytest.mark.parametrize("name", rpc_attacks())
async def test_bad_pubsub_rpcs(name: str) -> None:
    async with victim_and_others() as (attacker, victim, honest):
        await send_raw(attacker, victim, str(MESHSUB), rpc_attacks()[name])
        await still_serves(victim, honest)
        harmless = {"unknown-graft", "prune-for-ever", "false-record"}
        if name.startswith("many-"):
            assert victim.statistics().drops["malformed_rpc"] == 1, "it is refused before it is parsed"
        assert bool(victim.statistics().drops.get("penalties")) == (name not in harmless)
        router = victim._engine.router
        assert "unknown" not in router.back_off
        assert all(till < 2**40 for peers in router.back_off.values() for till in peers.values())


async def test_a_message_in_anothers_name_is_not_believed() -> None:
    async with victim_and_others() as (attacker, victim, honest):
        author = attacker._engine.pubsub
        message = rpc_pb2.Message(
            data=b"forged", topicIDs=[TOPIC], from_id=honest._engine.host.get_id().to_bytes(), seqno=bytes(8)
        )
        message.signature = author.host.get_private_key().sign(b"libp2p-pubsub:" + message.SerializeToString())
        message.key = author.host.get_public_key().serialize()
        await send_raw(attacker, victim, str(MESHSUB), frame(rpc_pb2.RPC(publish=[message])))
        assert victim.statistics().drops["bad_signature"] == 1
        assert victim.statistics().delivered == 0
        await still_serves(victim, honest)


async def test_whoever_goes_on_is_banned() -> None:
    async with victim_and_others(NetworkConfig(heartbeat=0.1, ban=3600)) as (attacker, victim, honest):
        for _ in range(15):
            with contextlib.suppress(PeerUnreachable):
                await send_raw(attacker, victim, str(MESHSUB), b"\x01\xff")
        await until(lambda: not victim.is_connected(attacker.peer_id))
        assert victim.statistics().drops["bans"] == 1
        await still_serves(victim, honest)


@asynccontextmanager
async def peer_that_reads_no_gossip(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Network, Callable[[], bool], trio.Event]]:
    """A host that writes gossip to a peer, whether that write waits, and an event that has the peer read it all."""
    monkeypatch.setattr(pubsub, "_WRITE_DEADLINE", 1.0)
    reads = trio.Event()
    async with open_nets(2) as (peer, host):
        await host.subscribe(TOPIC, accept_all, max_bytes=1000)
        read = peer._engine.pubsub.stream_handler

        async def read_late(stream: INetStream) -> None:
            await reads.wait()
            await read(stream)

        peer._engine.host.set_stream_handler(MESHSUB, read_late)
        await peer.connect(host.multiaddrs, timeout=5)
        await peer.subscribe(TOPIC, accept_all, max_bytes=1000)
        await until(lambda: host.subscribers(TOPIC))
        for _ in range(2 * WINDOW // 1000):
            await host.publish(TOPIC, bytes(1000))

        def is_waiting() -> bool:
            streams = session_of(host)._streams.values()
            return any(stream._sendable <= 0 for stream in streams)

        yield host, is_waiting, reads


async def test_a_peer_that_reads_no_gossip_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer_that_reads_no_gossip(monkeypatch) as (host, _, __):
        await until(lambda: host.statistics().drops.get("penalties"))


async def test_a_peer_that_reads_once_this_node_goes_on_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer_that_reads_no_gossip(monkeypatch) as (host, is_waiting, reads):
        await until(is_waiting)
        time.sleep(1.5)  # the fault itself: the loop stands still
        reads.set()
        await until(lambda: host.statistics().bytes_out > 2 * WINDOW)
        assert not host.statistics().drops.get("penalties")


async def test_inbound_slots_are_freed() -> None:
    """The stock swarm keeps the slot of a connection that has ended: here the sixth would be refused."""
    async with open_network(NetworkConfig(max_connections=5), seed(1)) as host:
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(connect_and_leave, host, number, 5)
        await until(lambda: host.statistics().inbound_slots == 0)
        async with open_network(FAST, seed(99)) as last:
            await last.connect(host.multiaddrs, timeout=5)
            await last.ping(host.peer_id, timeout=5)


async def connect_and_leave(host: Network, number: int, times: int) -> None:
    async with open_network(FAST, seed(1000 + number)) as visitor:
        for _ in range(times):
            await visitor.connect(host.multiaddrs, timeout=5)
            await visitor.disconnect(host.peer_id)


async def test_a_full_host_refuses_and_recovers() -> None:
    async with open_network(NetworkConfig(max_connections=2), seed(100)) as host, open_nets(3) as (one, other, third):
        await one.connect(host.multiaddrs, timeout=5)
        await other.connect(host.multiaddrs, timeout=5)
        with pytest.raises(PeerUnreachable):
            await third.connect(host.multiaddrs, timeout=5)
        await one.disconnect(host.peer_id)
        await until(lambda: host.statistics().inbound_slots == 1)
        await third.connect(host.multiaddrs, timeout=5)


async def test_dialling_a_host_that_speaks_garbage_is_one_clear_error() -> None:
    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"\x13/multistream/1.0.0\n\x07/noise\n" + random.randbytes(4096))
        await stream.receive_some()

    async with trio.open_nursery() as nursery, open_nets(2) as (one, other):
        listener, *_ = await nursery.start(trio.serve_tcp, babble, 0)
        port = listener.socket.getsockname()[1]
        with pytest.raises(PeerUnreachable):
            await one.connect([f"/ip4/127.0.0.1/tcp/{port}/p2p/{other.peer_id}"], timeout=5)
        nursery.cancel_scope.cancel()


async def test_a_connection_that_never_speaks_costs_a_slot_for_a_while_only() -> None:
    async with open_network(FAST, seed(1)) as host:
        async with await trio.open_tcp_stream("127.0.0.1", port_of(host)):
            await until(lambda: host.statistics().inbound_slots == 1)
        await until(lambda: host.statistics().inbound_slots == 0)


def port_of(network: Network) -> int:
    return int(network.multiaddrs[0].split("/tcp/")[1].split("/")[0])


def session_of(network: Network) -> YamuxSession:
    (connections,) = network._engine.swarm.connections.values()
    session = connections[0].muxed_conn
    assert isinstance(session, YamuxSession)
    return session


async def read_some(stream: trio.SocketStream) -> bytes | bytearray:
    try:
        return await stream.receive_some()
    except trio.BrokenResourceError:
        return b""
