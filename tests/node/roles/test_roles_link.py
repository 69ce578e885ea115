"""The committee link: who may talk on it, what becomes of garbage, and links that come back."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from contracts.signing import Key
from contracts.typed_data import Address
from gossip.errors import RemoteError
from gossip.messages import Signed, encode, sign
from gossip.messages.committee import HelloFrame, LinkFrame, PassFrame, StatusFrame
from gossip.messages.market import PassIssued
from gossip.messages.records import NodeRecord
from gossip.network import Network
from gossip.streams import FrameStream
from gossip.topics import COMMITTEE
from node.context import Node, now_ms
from node.roles import link
from node.roles.link import CommitteeLink
from node.roles.public import PublicState
from tests.consensus.builders import key
from tests.node.roles.fakes import MEMBERS
from tests.node.roles.harness import Lab, open_lab, until


def record_of(node: Node, who: Key, peer_id: str = "") -> Signed[NodeRecord]:
    network = node.network
    made = NodeRecord(who.address, peer_id or network.peer_id, ("member",), network.multiaddrs, 1, now_ms() + 60_000)
    return sign(made, who, node.terms.domain)


@dataclass
class End:
    """One member with nothing but its link."""

    node: Node
    link: CommitteeLink
    known: dict[Address, Signed[NodeRecord]]
    heard: list[tuple[Address, LinkFrame]] = field(default_factory=list)

    def knows(self, other: "End") -> None:
        self.known[other.node.address] = record_of(other.node, other.node.key)


@asynccontextmanager
async def open_end(lab: Lab, number: int, name: str = "end") -> AsyncIterator[End]:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(lab.bare(f"{name}{number}", ("member",), MEMBERS[number]))
        known: dict[Address, Signed[NodeRecord]] = {}
        heard: list[tuple[Address, LinkFrame]] = []

        async def hear(member: Address, frame: LinkFrame) -> None:
            heard.append((member, frame))

        link = CommitteeLink(node, PublicState(node, lab.genesis()), lambda: record_of(node, node.key), known.get, hear)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        await nursery.start(link.run)
        yield End(node, link, known, heard)


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path, monkeypatch) as opened:
        yield opened


@asynccontextmanager
async def dial(caller: Network, end: End) -> AsyncIterator[FrameStream]:
    await caller.connect(end.node.network.multiaddrs, timeout=5)
    stream = await caller.open_stream(end.node.network.peer_id, COMMITTEE, timeout=5)
    yield stream
    await stream.aclose()


async def test_frames_go_both_ways_and_name_their_sender(lab: Lab) -> None:
    async with open_end(lab, 0) as one, open_end(lab, 1) as other:
        one.knows(other)
        other.knows(one)
        await until(lambda: one.link.linked and other.link.linked, "both links")
        one.link.broadcast(StatusFrame(1, 2))
        other.link.send(one.node.address, StatusFrame(3, 4))
        await until(lambda: one.heard and other.heard, "both frames")
        assert other.heard == [(MEMBERS[0].address, StatusFrame(1, 2))]
        assert one.heard == [(MEMBERS[1].address, StatusFrame(3, 4))]


async def test_a_link_goes_to_the_machine_that_a_member_has_moved_to(lab: Lab) -> None:
    """Though the old one is still there: what others hold of a member's votes must reach the one that listens."""
    async with open_end(lab, 0) as one, open_end(lab, 1) as old, open_end(lab, 1, "new") as new:
        one.knows(old)
        old.knows(one)
        await until(lambda: one.link.linked and old.link.linked, "both links")
        one.link.broadcast(StatusFrame(1, 0))
        await until(lambda: old.heard, "a frame at the old machine")
        new.knows(one)
        await until(lambda: new.link.linked, "the new machine's link")
        one.knows(new)

        def hears() -> bool:
            new.link.broadcast(StatusFrame(2, 0))
            one.link.broadcast(StatusFrame(3, 0))
            return bool(new.heard)

        await until(hears, "a frame at the new machine")
        old.link.broadcast(StatusFrame(4, 0))
        await until(lambda: (MEMBERS[1].address, StatusFrame(4, 0)) in one.heard, "the old machine's frame")
        heard = len(new.heard)
        one.link.broadcast(StatusFrame(5, 0))
        await until(lambda: len(new.heard) > heard, "the link stays")


async def test_a_link_outlasts_a_while_in_which_this_node_stood_still(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "IDLE_S", 1.0)
    async with open_end(lab, 0) as end, lab.bare("caller") as caller, dial(caller.network, end) as stream:
        await stream.send(encode(HelloFrame(record_of(caller, MEMBERS[1]))))
        await stream.send(encode(StatusFrame(1, 0)))
        await until(lambda: end.heard, "the frame before")
        time.sleep(1.5)  # the fault itself: the loop stands still
        await stream.send(encode(StatusFrame(2, 0)))
        await until(lambda: len(end.heard) == 2, "the frame after")


async def test_only_a_member_on_its_own_peer_is_let_in(lab: Lab) -> None:
    async with open_end(lab, 0) as end, lab.bare("caller") as caller:
        forged = record_of(caller, MEMBERS[1])
        stranger = key("stranger")
        hellos = {
            "is not a member": record_of(caller, stranger),
            "signed by another key": Signed(forged.payload, record_of(caller, MEMBERS[2]).signature),
            "names peer": record_of(end.node, MEMBERS[1]),
        }
        for complaint, record in hellos.items():
            async with dial(caller.network, end) as stream:
                await stream.send(encode(HelloFrame(record)))
                with pytest.raises(RemoteError, match=complaint) as refused:
                    await stream.receive(limit=100, timeout=10)
                # a stranger may be a member that this one has not heard of yet
                assert refused.value.code == ("not_a_member" if "member" in complaint else "bad_message")
        async with dial(caller.network, end) as stream:
            await stream.send(encode(StatusFrame(1, 0)))
            with pytest.raises(RemoteError, match="not a HelloFrame"):
                await stream.receive(limit=100, timeout=10)
        assert end.node.network.statistics().drops["bad_message"] == 3
        assert not end.heard


async def test_garbage_of_a_member_is_dropped_and_scored(lab: Lab) -> None:
    async with (
        open_end(lab, 0) as end,
        lab.bare("caller", ("member",), MEMBERS[1]) as caller,
        dial(caller.network, end) as stream,
    ):
        await stream.send(encode(HelloFrame(record_of(caller, MEMBERS[1]))))
        for garbage in (b"", b"\xc1" * 30, encode(StatusFrame(1, 0)) + b"x"):
            await stream.send(garbage)
        await stream.send(encode(StatusFrame(7, 0)))
        await until(lambda: end.heard, "the frame after the garbage")
        assert end.heard == [(MEMBERS[1].address, StatusFrame(7, 0))]
        assert end.node.network.statistics().drops["penalties"] == 3
        for _ in range(8):  # 11 of 10 points each: the first have faded a little
            await stream.send(b"\xc1")
        await until(lambda: not end.node.network.is_connected(caller.network.peer_id), "a ban")


async def test_a_link_comes_back_with_the_other_side(lab: Lab) -> None:
    world = lab.world()
    passes = [
        sign(
            world.pass_issued(world.access_pass(issuer=MEMBERS[0]), world.pass_request()), MEMBERS[0], lab.terms.domain
        )
    ]
    async with open_end(lab, 0) as one:
        async with open_end(lab, 1) as other:
            one.knows(other)
            await until(lambda: one.link.linked, "the link")
        await until(lambda: not one.link.linked, "the end of the link, although nothing was sent")
        one.link.broadcast(StatusFrame(1, 0))
        for issued in passes:
            one.link.broadcast(PassFrame(issued))
        async with open_end(lab, 1) as other:
            one.knows(other)
            await until(lambda: one.link.linked, "the link again")
            one.link.broadcast(StatusFrame(2, 0))
            await until(lambda: len(other.heard) >= 2, "what was said since, and the pass that waited")
            # A status of yesterday is worth nothing; a pass that a member missed would let its user ask twice.
            assert [frame for _, frame in other.heard] == [PassFrame(passes[0]), StatusFrame(2, 0)]
            assert isinstance(passes[0].payload, PassIssued)


async def test_a_refused_link_is_not_taken_for_one(lab: Lab) -> None:
    """The other side may refuse the hello: whoever dialled must notice and try again, not write into the void."""
    async with open_end(lab, 0) as one, lab.bare("other", ("member",), MEMBERS[1]) as other:
        served = 0

        async def refuse(stream: FrameStream) -> None:
            nonlocal served
            served += 1
            await stream.receive(limit=10_000, timeout=5)
            await stream.fail("busy", "come back later")

        other.network.serve(COMMITTEE, refuse)
        one.known[MEMBERS[1].address] = record_of(other, MEMBERS[1])
        await until(lambda: served >= 3, "further tries")
        await until(lambda: not one.link.linked, "no link")


async def test_a_full_queue_drops_and_counts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.roles.link.QUEUE_FRAMES", 2)
    world = lab.world()
    issued = sign(
        world.pass_issued(world.access_pass(issuer=MEMBERS[0]), world.pass_request()), MEMBERS[0], lab.terms.domain
    )
    async with open_end(lab, 0) as end:
        for _ in range(3):
            end.link.broadcast(PassFrame(issued))
        assert end.link.dropped == 3, "one each for three members that are away"
