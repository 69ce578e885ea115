"""Streams before their first frame: a pool of their own, few of one peer and of one address, and points for silence."""

import msgspec
import pytest
import trio
import trio.testing

from gossip.doorway import DoorLimits, Doorway, Visit, network_of
from gossip.errors import NoPlace, RemoteError, StreamTimeout, TransportError
from gossip.network import Network
from gossip.streams import FrameStream
from tests.gossip.nets import open_pair, until
from tests.gossip.test_network import ECHO, echo, says

LIMITS = DoorLimits()
BRIEF = msgspec.structs.replace(LIMITS, first_frame_s=0.05)


async def enter(doorway: Doorway, peer: str, address: str | None) -> Visit:
    visit = await doorway.enter(peer, address)
    assert visit is not None
    return visit


async def test_the_doorway_holds_few_of_a_peer_few_of_an_address_and_sixty_four_in_all(autojump_clock: object) -> None:
    doorway = Doorway(LIMITS)
    for _ in range(LIMITS.per_peer):
        await enter(doorway, "peer", "192.0.2.1")
    assert await doorway.enter("peer", "192.0.2.1") is None
    for number in range(LIMITS.per_address - LIMITS.per_peer):
        await enter(doorway, f"neighbour {number}", "192.0.2.1")
    assert await doorway.enter("another neighbour", "192.0.2.1") is None
    for number in range(LIMITS.streams - LIMITS.per_address):
        await enter(doorway, f"stranger {number}", f"198.51.100.{number}")
    assert len(doorway) == LIMITS.streams == 64
    assert await doorway.enter("one more", "203.0.113.1") is None


async def test_room_goes_to_the_peer_with_fewest_inside(autojump_clock: object) -> None:
    doorway = Doorway(msgspec.structs.replace(LIMITS, streams=2))
    first, _ = await enter(doorway, "many", "192.0.2.1"), await enter(doorway, "many", "192.0.2.1")
    came: list[str] = []

    async def wait(peer: str) -> None:
        if await doorway.enter(peer, "192.0.2.1") is not None:
            came.append(peer)

    async with trio.open_nursery() as nursery:
        for peer in ("many", "few"):
            nursery.start_soon(wait, peer)
            await trio.testing.wait_all_tasks_blocked()
        doorway.leave(first)
        doorway.leave(first)
    assert came == ["few"]
    assert len(doorway) == 2


async def test_the_line_is_bounded_and_a_cancelled_wait_leaves_nothing() -> None:
    doorway = Doorway(msgspec.structs.replace(LIMITS, line_per_peer=1))
    held = [await enter(doorway, "peer", None) for _ in range(LIMITS.per_peer)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doorway.enter, "peer", None)
        await trio.testing.wait_all_tasks_blocked()
        assert await doorway.enter("peer", None) is None
        nursery.cancel_scope.cancel()
    for visit in held:
        doorway.leave(visit)
    assert len(doorway) == 0
    await enter(doorway, "peer", None)


def test_an_address_is_what_one_customer_gets() -> None:
    assert network_of("2001:db8:0:1::5") == network_of("2001:db8:0:1:ffff::") != network_of("2001:db8:0:2::5")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"


async def test_silent_streams_take_no_place_and_end_in_a_ban() -> None:
    async with open_pair() as (one, other):
        other.serve(ECHO, echo, max_concurrent=1, door=BRIEF)
        for _ in range(11):  # points fade
            assert one.is_connected(other.peer_id)
            stream = await one.open_stream(other.peer_id, ECHO, timeout=5)
            with pytest.raises(TransportError):
                await stream.receive(limit=10, timeout=5)
        await until(lambda: other.statistics().drops.get("bans") == 1)
        assert other.statistics().drops["silent_stream"] == 11


async def test_half_a_frame_is_silence_too() -> None:
    late: list[Exception] = []

    async def listen(stream: FrameStream) -> None:
        try:
            await stream.receive(limit=1_000, timeout=30)
        except StreamTimeout as error:
            late.append(error)

    async with open_pair() as (one, other):
        other.serve(ECHO, listen, door=BRIEF)
        stream = await one.open_stream(other.peer_id, ECHO, timeout=5)
        await stream._pipe.write(b"\0\0\0\x10\0half")
        await until(lambda: late and other.statistics().drops.get("silent_stream") == 1)


async def test_many_streams_at_once_of_who_speaks_are_all_served() -> None:
    served: list[bytes | None] = []

    async def ask(one: Network, other: Network) -> None:
        served.append(await says(one, other.peer_id))

    async with open_pair() as (one, other):
        other.serve(ECHO, echo, door=LIMITS)
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask, one, other)
        assert served == [b"hello"] * 40
        assert not other.statistics().drops.get("penalties")


async def test_only_whom_the_handler_admits_takes_a_place() -> None:
    refused: list[str] = []

    async def admit(stream: FrameStream) -> None:
        data = await stream.receive(limit=10, timeout=5)
        if data == b"good":
            try:
                stream.admit()
            except NoPlace as error:
                refused.append(str(error))
                raise
        await stream.send(b"seen")
        await stream.receive(limit=10, timeout=30)

    async with open_pair() as (one, other):
        other.serve(ECHO, admit, max_concurrent=1, door=LIMITS, admits_itself=True)

        async def say(data: bytes) -> FrameStream:
            stream = await one.open_stream(other.peer_id, ECHO, timeout=5)
            await stream.send(data)
            return stream

        bad, good = await say(b"bad"), await say(b"good")
        for stream in (bad, good):
            assert await stream.receive(limit=10, timeout=5) == b"seen"
        with pytest.raises(RemoteError, match="busy"):
            await (await say(b"good")).receive(limit=10, timeout=5)
        assert refused == [f"1 streams of {ECHO} are open"]
        for stream in (bad, good):
            await stream.aclose()
        await until(lambda: other.statistics().streams <= 3)
        assert await (await say(b"good")).receive(limit=10, timeout=5) == b"seen"


async def test_an_inbound_stream_counts_for_its_ip_address(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    enter_as_ever = Doorway.enter

    async def note(doorway: Doorway, peer: str, address: str | None) -> Visit | None:
        seen.append(address)
        return await enter_as_ever(doorway, peer, address)

    monkeypatch.setattr(Doorway, "enter", note)
    async with open_pair() as (one, other):
        other.serve(ECHO, echo, door=LIMITS)
        assert await says(one, other.peer_id) == b"hello"
    assert seen == ["127.0.0.1"]
