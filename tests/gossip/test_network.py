"""Two or three real hosts on loopback."""

import socket
import threading

import pytest
import trio

from gossip.errors import (
    AddressInUse,
    MalformedMessage,
    PeerUnreachable,
    RemoteError,
    StreamBroken,
    StreamTimeout,
    TransportError,
)
from gossip.network import Network, NetworkConfig, Verdict, open_network
from gossip.streams import FrameStream
from tests.gossip.nets import FAST, accept_all, open_nets, open_pair, seed, until

ECHO = "/test/echo"


async def echo(stream: FrameStream) -> None:
    while (data := await stream.receive(limit=1 << 20, timeout=30)) is not None:
        await stream.send(data)
    await stream.end()


async def says(network: Network, peer: str, data: bytes = b"hello") -> bytes | None:
    """What the echo at ``peer`` answers."""
    stream = await network.open_stream(peer, ECHO, timeout=5)
    await stream.send(data)
    answer = await stream.receive(limit=1 << 20, timeout=5)
    await stream.end()
    assert await stream.receive(limit=0, timeout=5) is None
    await stream.aclose()
    return answer


async def test_the_peer_id_follows_from_the_seed() -> None:
    async with open_network(FAST, seed(1)) as first:
        peer_id, addresses = first.peer_id, first.multiaddrs
    async with open_network(FAST, seed(1)) as again, open_network(FAST, seed(2)) as other:
        assert again.peer_id == peer_id != other.peer_id
        assert all(address.endswith(f"/p2p/{peer_id}") and "/tcp/0" not in address for address in addresses)
    with pytest.raises(ValueError, match="32 bytes"):
        async with open_network(FAST, b"short"):
            pass


async def test_connect_ping_and_disconnect() -> None:
    async with open_nets(2) as (one, other):
        assert await one.connect(other.multiaddrs, timeout=5) == other.peer_id
        assert await one.connect(other.multiaddrs, timeout=5) == other.peer_id
        await until(lambda: other.is_connected(one.peer_id))
        assert one.peers() == (other.peer_id,)
        assert await one.ping(other.peer_id, timeout=5) >= 0
        assert one.statistics().connections == other.statistics().connections == 1
        await one.disconnect(other.peer_id)
        assert not one.is_connected(other.peer_id)
        await until(lambda: not other.peers())
        with pytest.raises(PeerUnreachable):
            await one.ping(other.peer_id, timeout=5)


async def test_dials_at_once_make_one_connection() -> None:
    async with open_nets(2) as (one, other):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(lambda: one.connect(other.multiaddrs, timeout=5))
        assert one.statistics().connections == 1


async def test_addresses_are_tried_in_turn() -> None:
    async with open_nets(2) as (one, other):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            deaf = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}/p2p/{other.peer_id}"
            assert await one.connect([deaf, *other.multiaddrs], timeout=5) == other.peer_id


@pytest.mark.parametrize(
    "addresses",
    [
        [],
        ["nonsense"],
        ["/ip4/127.0.0.1/tcp/1"],
        ["/ip4/127.0.0.1/tcp/1/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"],
        ["/ip4/300.0.0.1/tcp/1/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"],
    ],
    ids=["none", "nonsense", "no-peer", "nobody-there", "bad-ip"],
)
async def test_an_address_that_does_not_work_is_one_clear_error(addresses: list[str]) -> None:
    async with open_network(FAST, seed(1)) as network:
        with pytest.raises(PeerUnreachable) as caught:
            await network.connect(addresses, timeout=5)
        assert not addresses or "12D3Koo" in str(caught.value) or addresses[0] in str(caught.value)


async def test_another_peer_than_expected_is_refused() -> None:
    async with open_nets(3) as (one, other, third):
        address = other.multiaddrs[0].replace(other.peer_id, third.peer_id)
        with pytest.raises(PeerUnreachable):
            await one.connect([address], timeout=5)
        with pytest.raises(PeerUnreachable, match="this node"):
            await one.connect(one.multiaddrs, timeout=5)
        with pytest.raises(PeerUnreachable, match="2 peers"):
            await one.connect([*other.multiaddrs, *third.multiaddrs], timeout=5)


async def test_a_taken_port_is_one_clear_error() -> None:
    async with open_network(FAST, seed(1)) as first:
        address = first.multiaddrs[0].partition("/p2p/")[0]
        with pytest.raises(AddressInUse) as caught:
            async with open_network(NetworkConfig(listen=(address,)), seed(2)):
                pass
        assert caught.value.address == address
        assert isinstance(caught.value, TransportError)


@pytest.mark.parametrize("address", ["nonsense", "/ip4/127.0.0.1/udp/1/quic-v1", "/dns4/localhost/tcp/0"])
async def test_an_address_that_cannot_be_listened_on_is_one_clear_error(address: str) -> None:
    with pytest.raises(AddressInUse, match="cannot listen"):
        async with open_network(NetworkConfig(listen=(address,)), seed(1)):
            pass


async def test_what_the_caller_raises_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_network(FAST, seed(1)):
            raise ZeroDivisionError


async def test_cancelling_from_outside_closes_it_too() -> None:
    with trio.CancelScope() as scope:
        async with open_pair() as (one, other):
            addresses = one.multiaddrs + other.multiaddrs
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    for address in addresses:
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", int(address.split("/")[4]))


async def test_leaving_frees_the_port_and_every_thread() -> None:
    before = threading.active_count()
    async with open_pair() as (one, other):
        address = other.multiaddrs[0].partition("/p2p/")[0]
        assert one.is_connected(other.peer_id)
    assert threading.active_count() == before
    async with open_network(NetworkConfig(listen=(address,)), seed(2)):
        pass


async def test_announced_addresses_replace_those_listened_on() -> None:
    config = NetworkConfig(announce=("/ip4/192.0.2.1/tcp/4001",))
    async with open_network(config, seed(1)) as network:
        assert network.multiaddrs == (f"/ip4/192.0.2.1/tcp/4001/p2p/{network.peer_id}",)


async def test_streams_carry_frames_both_ways() -> None:
    async with open_pair() as (one, other):
        other.serve(ECHO, echo)
        one.serve(ECHO, echo)
        assert await says(one, other.peer_id) == b"hello"
        await until(lambda: other.is_connected(one.peer_id))
        assert await says(other, one.peer_id, bytes(1 << 20)) == bytes(1 << 20)


async def test_the_handler_knows_who_is_there() -> None:
    seen = []

    async def note(stream: FrameStream) -> None:
        seen.append(stream.remote_peer)
        await stream.end()

    async with open_pair() as (one, other):
        other.serve(ECHO, note)
        stream = await one.open_stream(other.peer_id, ECHO, timeout=5)
        assert await stream.receive(limit=10, timeout=5) is None
        assert seen == [one.peer_id]
        assert stream.remote_peer == other.peer_id


async def test_no_stream_to_who_is_not_there_or_does_not_speak_it() -> None:
    async with open_pair() as (one, other), open_network(FAST, seed(9)) as stranger:
        with pytest.raises(PeerUnreachable, match="/test/unknown"):
            await one.open_stream(other.peer_id, "/test/unknown", timeout=5)
        with pytest.raises(PeerUnreachable, match="not connected"):
            await one.open_stream(stranger.peer_id, ECHO, timeout=5)
        with pytest.raises(PeerUnreachable, match="not a peer id"):
            await one.open_stream("0OIl", ECHO, timeout=5)


async def test_a_handler_that_fails_fails_its_stream_alone() -> None:
    async def fail(stream: FrameStream) -> None:
        data = await stream.receive(limit=100, timeout=5)
        if data == b"bad":
            raise MalformedMessage("Bid", "because")
        if data == b"group":
            async with trio.open_nursery():
                raise MalformedMessage("Rfc", "in a group")
        raise ZeroDivisionError("a bug")

    async with open_pair() as (one, other):
        other.serve("/test/fail", fail)
        other.serve(ECHO, echo)
        for word, code, detail in (
            (b"bad", "bad_message", "not a Bid: because"),
            (b"group", "bad_message", "not a Rfc: in a group"),
            (b"bug", "internal_error", ""),
        ):
            stream = await one.open_stream(other.peer_id, "/test/fail", timeout=5)
            await stream.send(word)
            with pytest.raises(RemoteError) as caught:
                await stream.receive(limit=100, timeout=5)
            assert (caught.value.code, caught.value.detail) == (code, detail)
            await stream.aclose()
        assert await says(one, other.peer_id) == b"hello"
        drops = other.statistics().drops
        assert (drops["bad_message"], drops["handler_failed"], drops["penalties"]) == (2, 1, 3)


async def test_streams_beyond_the_limit_are_told_so() -> None:
    async with open_pair() as (one, other):
        other.serve(ECHO, echo, max_concurrent=2)
        held = [await one.open_stream(other.peer_id, ECHO, timeout=5) for _ in range(2)]
        third = await one.open_stream(other.peer_id, ECHO, timeout=5)
        with pytest.raises(RemoteError, match="busy"):
            await third.receive(limit=10, timeout=5)
        for stream in held:
            await stream.aclose()
        await until(lambda: other.statistics().streams <= 4)
        assert await says(one, other.peer_id) == b"hello"


async def test_one_peer_cannot_hold_every_stream() -> None:
    async with open_nets(3) as (one, other, third):
        other.serve(ECHO, echo, max_concurrent=3, max_per_peer=2)
        for net in (one, third):
            await net.connect(other.multiaddrs, timeout=5)
        held = [await one.open_stream(other.peer_id, ECHO, timeout=5) for _ in range(2)]
        refused = await one.open_stream(other.peer_id, ECHO, timeout=5)
        with pytest.raises(RemoteError, match="are open by you"):
            await refused.receive(limit=10, timeout=5)
        assert await says(third, other.peer_id) == b"hello"
        for stream in (refused, held[0]):
            await stream.aclose()
        await until(lambda: other.statistics().streams <= 5)  # two for gossip with each, one held
        assert await says(one, other.peer_id) == b"hello"


async def test_a_stalled_reader_blocks_nobody_else() -> None:
    stalled = trio.Event()

    async def never_read(stream: FrameStream) -> None:
        await stalled.wait()
        await stream.end()

    async with open_pair() as (one, other):
        other.serve("/test/stall", never_read)
        other.serve(ECHO, echo)
        stream = await one.open_stream(other.peer_id, "/test/stall", timeout=5)
        with pytest.raises(StreamTimeout):
            await stream.send(bytes(1 << 20), timeout=0.2)
        with pytest.raises(StreamBroken):
            await stream.send(b"more")
        assert await says(one, other.peer_id) == b"hello"
        assert one.is_connected(other.peer_id)
        stalled.set()


async def test_a_peer_that_dies_breaks_its_streams_instead_of_ending_them() -> None:
    async with open_network(FAST, seed(1)) as one:
        stream: FrameStream | None = None
        async with open_network(FAST, seed(2)) as other:
            other.serve(ECHO, echo)
            await one.connect(other.multiaddrs, timeout=5)
            stream = await one.open_stream(other.peer_id, ECHO, timeout=5)
            await stream.send(b"hello")
            assert await stream.receive(limit=10, timeout=5) == b"hello"
        with pytest.raises(StreamBroken):
            await stream.receive(limit=10, timeout=5)
        with pytest.raises(StreamBroken):
            await stream.send(b"x")
        await until(lambda: not one.peers())


async def test_a_banned_peer_is_disconnected_and_refused_whoever_dials() -> None:
    config = NetworkConfig(heartbeat=0.1, ban=3600)
    async with open_pair(config) as (one, other):
        await until(lambda: other.is_connected(one.peer_id))
        other.penalise(one.peer_id, 99, "not yet")
        assert other.is_connected(one.peer_id)
        other.penalise(one.peer_id, 50, "that is it")
        await until(lambda: not other.is_connected(one.peer_id) and not one.is_connected(other.peer_id))
        with pytest.raises(PeerUnreachable, match="banned"):
            await other.connect(one.multiaddrs, timeout=5)
        other.serve(ECHO, echo)
        try:
            await one.connect(other.multiaddrs, timeout=5)
            await says(one, other.peer_id)
        except TransportError:
            assert not other.peers()
        else:
            raise AssertionError("a banned peer was served")
        assert other.statistics().drops["bans"] == 1


async def test_a_score_for_nonsense_harms_nobody() -> None:
    async with open_network(FAST, seed(1)) as network:
        network.penalise("not a peer id", 1000, "whoever that is")
        await until(lambda: network.statistics().drops.get("task_failed") == 1)
        assert network.peers() == ()


async def test_a_message_reaches_the_subscriber_and_not_its_author() -> None:
    async with open_pair() as (one, other):
        mine = await one.subscribe("t", accept_all, max_bytes=100)
        theirs = await other.subscribe("t", accept_all, max_bytes=100)
        await one.wait_for_mesh("t", 1, timeout=5)
        await one.publish("t", b"news")
        with trio.fail_after(5):
            message = await theirs.receive()
        assert (message.data, message.origin, message.forwarder) == (b"news", one.peer_id, one.peer_id)
        assert mine.statistics().current_buffer_used == 0


async def test_a_subscriber_that_comes_later_gets_what_is_fresh() -> None:
    async with open_pair(NetworkConfig(heartbeat=5)) as (one, other):
        await one.subscribe("t", accept_all, max_bytes=100)
        await one.publish("t", b"before anybody listened")
        theirs = await other.subscribe("t", accept_all, max_bytes=100)
        with trio.fail_after(5):
            assert (await theirs.receive()).data == b"before anybody listened"


async def test_one_can_publish_without_subscribing() -> None:
    async with open_pair() as (one, other):
        theirs = await other.subscribe("t", accept_all, max_bytes=100)
        await one.publish("t", b"from outside")
        with trio.fail_after(5):
            assert (await theirs.receive()).data == b"from outside"


async def test_waiting_for_a_mesh_has_an_end() -> None:
    async with open_network(FAST, seed(1)) as network:
        await network.subscribe("t", accept_all, max_bytes=100)
        with pytest.raises(PeerUnreachable, match="1 on t"):
            await network.wait_for_mesh("t", 1, timeout=0.1)


async def test_verdicts_decide_what_is_delivered_and_who_is_blamed() -> None:
    def judge(data: bytes, _: str) -> Verdict:
        if data == b"bug":
            raise ZeroDivisionError
        return {b"good": Verdict.ACCEPT, b"old": Verdict.IGNORE}.get(data, Verdict.REJECT)

    async with open_pair() as (one, other):
        theirs = await other.subscribe("t", judge, max_bytes=100)
        for data in (b"old", b"bug", b"forged", bytes(101), b"good"):
            await one.publish("t", data)
        with trio.fail_after(5):
            assert (await theirs.receive()).data == b"good"
        drops = other.statistics().drops
        assert {reason: drops[reason] for reason in ("ignored", "validator_failed", "rejected", "too_large")} == {
            "ignored": 2,  # the validator's failure counts as one
            "validator_failed": 1,
            "rejected": 1,
            "too_large": 1,
        }
        assert drops["penalties"] == 2


async def test_an_unread_topic_drops_and_counts() -> None:
    async with open_pair(NetworkConfig(heartbeat=0.1, subscription_queue=3)) as (one, other):
        theirs = await other.subscribe("t", accept_all, max_bytes=100)
        for number in range(10):
            await one.publish("t", bytes([number]))
        await until(lambda: other.statistics().drops.get("queue_full") == 7)
        assert [theirs.receive_nowait().data for _ in range(3)] == [b"\0", b"\1", b"\2"]


async def test_a_closed_reader_is_no_fault() -> None:
    async with open_pair() as (one, other):
        (await other.subscribe("t", accept_all, max_bytes=100)).close()
        await one.publish("t", b"x")
        await until(lambda: other.statistics().drops.get("no_reader") == 1)


async def test_gossip_survives_a_reconnect_and_an_unsubscribe() -> None:
    async with open_pair() as (one, other):
        theirs = await other.subscribe("t", accept_all, max_bytes=100)
        await one.disconnect(other.peer_id)
        await until(lambda: not other.peers())
        await one.connect(other.multiaddrs, timeout=5)
        await one.publish("t", b"again")
        with trio.fail_after(5):
            assert (await theirs.receive()).data == b"again"
        await other.unsubscribe("t")
        await one.publish("t", b"unheard")
        await one.ping(other.peer_id, timeout=5)
        assert theirs.statistics().current_buffer_used == 0
