"""Six hosts in one process, and real signed bids."""

import trio
from libp2p.pubsub.pb import rpc_pb2

from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain
from gossip import topics
from gossip.errors import MessageError
from gossip.messages import Signed, Unit, decode, encode, sign
from gossip.messages.records import Bid
from gossip.network import GossipMessage, NetworkConfig, Verdict
from tests.gossip.nets import FAST, open_nets, until

DOMAIN = Domain(31, Address(b"\7" * 20))
TOPIC = topics.bids(topics.network_id(DOMAIN))
HOSTS, MESSAGES = 6, 60


def judge(data: bytes, _: str) -> Verdict:
    try:
        decode(Signed[Bid], data).signer(DOMAIN)
    except MessageError:
        return Verdict.REJECT
    return Verdict.ACCEPT


def bid(number: int) -> bytes:
    key = Key(bytes(30) + (number + 1).to_bytes(2, "big"))
    return encode(
        sign(Bid(key.address, Digest(b"m" * 32), Unit.TEXT_TOKEN, number, 1, 100, number, 10**13), key, DOMAIN)
    )


async def test_every_bid_reaches_every_host_once() -> None:
    async with open_nets(HOSTS) as nets, trio.open_nursery() as nursery:
        readers = [await net.subscribe(TOPIC, judge, max_bytes=1024) for net in nets]
        for index, net in enumerate(nets):  # a ring with one chord each: nobody is next to everybody
            for step in (1, 2):
                nursery.start_soon(
                    lambda one=net, other=nets[(index + step) % HOSTS]: one.connect(  # type: ignore[misc]  # bound now
                        other.multiaddrs, timeout=10
                    )
                )
        for net in nets:
            await net.wait_for_mesh(TOPIC, 3, timeout=10)
        received: list[list[bytes]] = [[] for _ in nets]

        async def collect(index: int, reader: trio.MemoryReceiveChannel[GossipMessage]) -> None:
            async for message in reader:
                received[index].append(message.data)

        for index, reader in enumerate(readers):
            nursery.start_soon(collect, index, reader)
        bids = [bid(number) for number in range(MESSAGES)]
        for number, data in enumerate(bids):
            await nets[number % HOSTS].publish(TOPIC, data)
        expected = MESSAGES - MESSAGES // HOSTS
        await until(lambda: all(len(some) >= expected for some in received), 20)
        for index, some in enumerate(received):
            own = {bids[number] for number in range(index, MESSAGES, HOSTS)}
            assert sorted(some) == sorted(set(bids) - own)
        for net in nets:
            assert not set(net.statistics().drops) & {"rejected", "penalties", "outbox_full", "task_failed"}
        nursery.cancel_scope.cancel()


async def test_a_forged_bid_is_not_passed_on_and_its_author_is_scored() -> None:
    """A line of three: what the first forges reaches the second alone."""
    async with open_nets(3) as (forger, middle, last):
        for net in (middle, last):
            await net.subscribe(TOPIC, judge, max_bytes=1024)
        await forger.connect(middle.multiaddrs, timeout=5)
        await middle.connect(last.multiaddrs, timeout=5)
        await middle.wait_for_mesh(TOPIC, 1, timeout=5)
        good = bid(1)
        await forger.publish(TOPIC, good[:-1] + bytes([good[-1] ^ 1]))
        await forger.publish(TOPIC, good)
        await until(lambda: last.statistics().delivered == 1)
        assert middle.statistics().drops["rejected"] == 1
        assert last.statistics().messages_in == 1
        assert not last.statistics().drops.get("penalties")


async def test_a_message_lost_on_the_way_is_asked_for_again() -> None:
    """IHAVE and IWANT: who isn't in the mesh hears of what it missed at the next beat."""
    config = NetworkConfig(heartbeat=0.1)
    async with open_nets(2, config) as (one, other):
        theirs = await other.subscribe(TOPIC, judge, max_bytes=1024)
        await one.subscribe(TOPIC, judge, max_bytes=1024)
        await one.connect(other.multiaddrs, timeout=5)
        await one.wait_for_mesh(TOPIC, 1, timeout=5)
        router = one._engine.router
        router.degree_low = 0  # neither repairs the mesh nor publishes around it
        router.mesh[TOPIC].clear()
        await one.publish(TOPIC, bid(1))

        def arrived() -> int:
            router.mesh[TOPIC].clear()  # the other's GRAFT may still be on its way
            return theirs.statistics().current_buffer_used

        await until(arrived)
        assert theirs.receive_nowait().data == bid(1)


async def test_a_departed_peer_is_replaced() -> None:
    async with open_nets(3, FAST) as (one, other, third):
        for net in (one, other, third):
            await net.subscribe(TOPIC, judge, max_bytes=1024)
        await one.connect(other.multiaddrs, timeout=5)
        await one.wait_for_mesh(TOPIC, 1, timeout=5)
        await one.disconnect(other.peer_id)
        await one.connect(third.multiaddrs, timeout=5)
        mesh = one._engine.router.mesh[TOPIC]
        await until(lambda: [peer.to_base58() for peer in mesh] == [third.peer_id])


async def test_a_peer_whose_last_words_come_after_it_went_is_forgotten() -> None:
    async with open_nets(2, FAST) as (one, other):
        await one.subscribe(TOPIC, judge, max_bytes=1024)
        router, pubsub = one._engine.router, one._engine.pubsub
        ghost = other._engine.host.get_id()
        pubsub.handle_subscription(ghost, rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC))
        await router.handle_graft(rpc_pb2.ControlGraft(topicID=TOPIC), ghost)
        assert ghost in router.mesh[TOPIC]
        await until(lambda: ghost not in router.mesh[TOPIC] and TOPIC not in pubsub.peer_topics)
