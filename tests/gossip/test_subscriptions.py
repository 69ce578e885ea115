"""Who is known to be subscribed, and that what is published reaches them: whatever streams and connections end."""

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub

from gossip.hardening import recent
from gossip.hardening.engine import parse_peer
from gossip.hardening.host import muxed_of
from gossip.hardening.outbox import frame
from gossip.hardening.pubsub import GuardedPubsub
from gossip.hardening.recent import OwnMessages
from gossip.hardening.router import MESHSUB
from gossip.network import GossipMessage, Network, NetworkConfig
from tests.gossip.nets import accept_all, open_nets, open_pair, until

TOPIC = "t"
Reader = trio.MemoryReceiveChannel[GossipMessage]


def know_each_other(one: Network, other: Network) -> bool:
    return other.peer_id in one.subscribers(TOPIC) and one.peer_id in other.subscribers(TOPIC)


async def subscribe(*nets: Network) -> list[Reader]:
    return [await net.subscribe(TOPIC, accept_all, max_bytes=100) for net in nets]


async def reaches(sender: Network, reader: Reader, data: bytes) -> None:
    assert await sender.publish(TOPIC, data) == 1
    with trio.fail_after(5):
        while (await reader.receive()).data != data:
            pass


async def end_stream_to(net: Network, other: Network) -> None:
    """End the stream that ``net`` writes to ``other``, and wait for the next one. What ``other`` writes goes on."""
    pubsub, peer_id = net._engine.pubsub, parse_peer(other.peer_id)
    stream = pubsub.peers[peer_id]
    muxed_of(stream).abort()
    pubsub.peer_queues[peer_id].close()
    await until(lambda: pubsub.peers.get(peer_id) not in (None, stream))


async def test_subscriptions_outlive_the_stream_in_the_other_direction() -> None:
    async with open_pair() as (one, other):
        readers = await subscribe(one, other)
        await until(lambda: know_each_other(one, other))
        await end_stream_to(one, other)
        assert know_each_other(one, other)
        await reaches(one, readers[1], b"to other")
        await reaches(other, readers[0], b"to one")


async def test_the_stock_class_forgets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardedPubsub, "_forget_all_subscriptions", Pubsub._forget_all_subscriptions)
    async with open_pair() as (one, other):
        await subscribe(one, other)
        await until(lambda: know_each_other(one, other))
        await end_stream_to(one, other)
        assert one.subscribers(TOPIC) == ()
        assert await one.publish(TOPIC, b"to nobody") == 0


async def test_subscriptions_outlive_one_of_two_connections() -> None:
    """Both dial at once, and may each write to a connection of its own: either may then close."""
    for closing in (0, -1):
        async with open_nets(2) as (one, other):
            readers = await subscribe(one, other)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: one.connect(other.multiaddrs, timeout=5))  # run at once
                nursery.start_soon(lambda: other.connect(one.multiaddrs, timeout=5))  # run at once
            connections = one._engine.swarm.connections[parse_peer(other.peer_id)]
            await until(lambda: know_each_other(one, other))
            if len(connections) == 2:
                await connections[closing].close()
            await until(lambda: one.statistics().connections == other.statistics().connections == 1)
            for net, peer in ((one, other), (other, one)):
                streams = net._engine.pubsub.peers
                await until(
                    lambda: (  # run at once
                        (stream := streams.get(parse_peer(peer.peer_id))) is not None  # noqa: B023
                        and not muxed_of(stream).muxed_conn.is_closed
                    )
                )
            assert know_each_other(one, other)
            await reaches(one, readers[1], b"to other")
            await reaches(other, readers[0], b"to one")


async def test_a_new_stream_replaces_what_an_older_one_told() -> None:
    async with open_pair() as (one, other):
        await subscribe(one, other)
        await until(lambda: know_each_other(one, other))
        pubsub = other._engine.pubsub
        pubsub.handle_subscription(parse_peer(one.peer_id), rpc_pb2.RPC.SubOpts(subscribe=True, topicid="left"))
        assert other.subscribers("left") == (one.peer_id,)
        await end_stream_to(one, other)
        await until(lambda: not other.subscribers("left"))
        await until(lambda: know_each_other(one, other))


async def test_a_new_stream_that_begins_without_subscriptions_takes_the_older_ones_over() -> None:
    async with open_pair() as (one, other):
        await subscribe(one, other)
        await until(lambda: know_each_other(one, other))
        pubsub, peer_id = other._engine.pubsub, parse_peer(one.peer_id)
        first = pubsub._speaking[peer_id]
        second = await one._engine.open_stream(other.peer_id, str(MESHSUB))
        await second.write(frame(rpc_pb2.RPC(control=rpc_pb2.ControlMessage())))
        await until(lambda: pubsub._speaking[peer_id] is not first)
        later = pubsub._speaking[peer_id]
        assert know_each_other(one, other)
        second.abort()
        await until(lambda: pubsub._speaking.get(peer_id) is not later)
        assert not other.subscribers(TOPIC)


async def test_a_stream_that_the_reader_lets_go_is_replaced_though_nothing_is_written() -> None:
    async with open_pair(NetworkConfig(heartbeat=1_000)) as (one, other):
        readers = await subscribe(one, other)
        await until(lambda: know_each_other(one, other))
        pubsub, peer_id = other._engine.pubsub, parse_peer(one.peer_id)
        first = pubsub._speaking[peer_id]
        muxed_of(first).abort()
        await until(lambda: pubsub._speaking.get(peer_id) not in (None, first))
        await until(lambda: know_each_other(one, other))
        await reaches(other, readers[0], b"to one")


async def test_subscriptions_of_a_peer_that_left_are_forgotten() -> None:
    async with open_pair() as (one, other):
        await subscribe(one, other)
        await until(lambda: know_each_other(one, other))
        await one.disconnect(other.peer_id)
        await until(lambda: not one.subscribers(TOPIC) and not other.subscribers(TOPIC))
        assert not one._engine.pubsub._speaking
        assert not other._engine.pubsub._speaking


async def test_who_subscribes_late_gets_what_was_published_to_nobody() -> None:
    """Later than the message cache remembers: it is five beats long."""
    async with open_pair() as (one, other):
        assert await one.publish(TOPIC, b"early") == 0
        assert one.statistics().drops["published_to_nobody"] == 1
        for _ in range(6):
            await one._engine.router.beat()
        (reader,) = await subscribe(other)
        with trio.fail_after(5):
            assert (await reader.receive()).data == b"early"
        assert await one.publish(TOPIC, b"late") == 1


async def test_a_publisher_alone_is_heard_by_who_connects_later() -> None:
    async with open_nets(2) as (one, other):
        (reader,) = await subscribe(other)
        assert await one.publish(TOPIC, b"early") == 0
        for _ in range(6):
            await one._engine.router.beat()
        await one.connect(other.multiaddrs, timeout=5)
        with trio.fail_after(5):
            assert (await reader.receive()).data == b"early"


def message(number: int, topic: str = TOPIC, size: int = 1) -> rpc_pb2.Message:
    return rpc_pb2.Message(from_id=b"me", seqno=number.to_bytes(8, "big"), data=bytes(size), topicIDs=[topic])


async def test_own_messages_are_kept_by_topic_for_half_a_minute(autojump_clock: object) -> None:
    own = OwnMessages()
    own.add(message(1))
    own.add(message(2, "other"))
    await trio.sleep(recent.SECONDS - 1)
    own.add(message(3))
    assert list(own.of(TOPIC)) == [message(1), message(3)]
    await trio.sleep(2)
    assert list(own.of(TOPIC)) == [message(3)]
    assert list(own.of("other")) == []


async def test_own_messages_are_bounded_in_number_and_bytes() -> None:
    own = OwnMessages()
    for number in range(recent.MESSAGES + 5):
        own.add(message(number))
    assert [each.seqno for each in own.of(TOPIC)] == [
        number.to_bytes(8, "big") for number in range(5, recent.MESSAGES + 5)
    ]
    for number in range(5):
        own.add(message(number, size=recent.BYTES // 4))
    assert len(list(own.of(TOPIC))) == 3
