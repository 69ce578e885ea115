"""Strangers on the protocols of members: they get few streams and little time, and keep no member out."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from contracts.typed_data import Digest
from gossip.errors import StreamBroken
from gossip.network import Network, NetworkConfig, open_network
from gossip.streams import FrameStream
from gossip.topics import COMMITTEE, LIVENESS
from inference.synthetic import SyntheticEngine
from node.context import now_ms
from node.roles import link, provider
from node.roles.liveness import Liveness
from node.roles.public import PublicState
from node.roles.strangers import PER_PEER, PLACES, Strangers
from tests.node.roles.fakes import MEMBERS
from tests.node.roles.harness import Running, open_lab, until
from tests.node.roles.test_roles_link import open_end, record_of


@asynccontextmanager
async def crowd(target: Network, protocol: str) -> AsyncIterator[list[FrameStream]]:
    """As many silent streams of strangers as there are places."""
    async with AsyncExitStack() as stack:
        held: list[FrameStream] = []
        for number in range(PLACES // PER_PEER):
            seed = b"stranger" * 3 + number.to_bytes(8, "big")
            stranger = await stack.enter_async_context(open_network(NetworkConfig(), seed))
            await stranger.connect(target.multiaddrs, timeout=10)
            held += [await stranger.open_stream(target.peer_id, protocol, timeout=10) for _ in range(PER_PEER)]
        yield held


def bid_of(running: Running) -> Digest:
    """The one bid that a node knows."""
    (bid,) = running.parts.public.book.all_live(now_ms()).bids
    return bid.id(running.node.terms.domain)


async def test_strangers_share_a_few_places_and_members_need_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab, lab.bare("node") as node:
        record = record_of(node, MEMBERS[0])
        places = Strangers(PublicState(node, lab.genesis()), {MEMBERS[0].address: record}.get)
        with ExitStack() as stack:
            for _ in range(PLACES):
                stack.enter_context(places.place("stranger"))
            with pytest.raises(StreamBroken, match="no place for stranger"), places.place("stranger"):
                pass
            with places.place(record.payload.peer_id):
                assert places.held == PLACES
        assert places.held == 0


async def test_a_crowd_of_strangers_keeps_no_member_off_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HELLO_S", 30.0)
    async with (
        open_lab(tmp_path, monkeypatch) as lab,
        open_end(lab, 0) as one,
        open_end(lab, 1) as other,
        crowd(one.node.network, COMMITTEE),
    ):
        await until(lambda: one.link._strangers.held == PLACES, "every place taken")
        one.knows(other)
        other.knows(one)
        await until(lambda: one.link.linked and other.link.linked, "both links")
        assert one.link._strangers.held == PLACES


async def test_a_silent_stranger_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "HELLO_S", 0.2)
    async with (
        open_lab(tmp_path, monkeypatch) as lab,
        open_end(lab, 0) as one,
        crowd(one.node.network, COMMITTEE) as held,
    ):
        for stream in held:
            with pytest.raises(StreamBroken):
                await stream.receive(limit=100, timeout=10)
        await until(lambda: not one.link._strangers.held, "every place free")


async def test_routers_reach_a_provider_that_strangers_crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        member = await lab.start_member(0)
        serving = await lab.start_provider("provider", SyntheticEngine("synthetic", slots=2))
        await lab.knows(member, providers=1)
        found = member.parts.public.book.record(serving.address, now_ms())
        assert found is not None
        book = serving.parts.public.book
        await until(lambda: book.record(member.address, now_ms()), "the provider to know the member")
        assert serving.parts.provider is not None
        strangers = serving.parts.provider._strangers
        async with crowd(serving.node.network, LIVENESS):
            await until(lambda: strangers.held == PLACES, "every place taken")
            assert await Liveness(member.node).check(found, Digest(bytes(32)), bid_of(member))
            assert strangers.held == PLACES


async def test_a_router_asks_again_where_its_warm_stream_was_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "STRANGER_S", 0.1)
    monkeypatch.setattr(provider, "WARM_S", 0.1)
    async with open_lab(tmp_path, monkeypatch) as lab:
        member = await lab.start_member(0)
        serving = await lab.start_provider("provider", SyntheticEngine("synthetic", slots=2))
        await lab.knows(member, providers=1)
        found = member.parts.public.book.record(serving.address, now_ms())
        assert found is not None
        liveness = Liveness(member.node)
        await liveness.warm([found])
        stream = liveness._line(found).stream
        assert stream is not None
        with pytest.raises(StreamBroken):
            await stream.receive(limit=100, timeout=10)
        assert await liveness.check(found, Digest(bytes(32)), bid_of(member))
        assert liveness._line(found).stream is not stream


async def test_an_answer_that_came_while_the_router_stood_still_is_not_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        member = await lab.start_member(0)
        serving = await lab.start_provider("provider", SyntheticEngine("synthetic", slots=2))
        await lab.knows(member, providers=1)
        found = member.parts.public.book.record(serving.address, now_ms())
        assert found is not None
        liveness = Liveness(member.node)
        await liveness.warm([found])
        stream = liveness._line(found).stream
        assert stream is not None
        receive = stream.receive

        async def receive_late(*, limit: int, timeout: float) -> bytes | None:
            time.sleep(lab.terms.params.liveness_ms / 1_000 + 0.3)  # the fault itself: the loop stands still
            return await receive(limit=limit, timeout=timeout)

        monkeypatch.setattr(stream, "receive", receive_late)
        assert await liveness.check(found, Digest(bytes(32)), bid_of(member))
        assert liveness._line(found).stream is stream
