"""Nodes that hear no gossip, what they hold all the same, and what is forgotten: drops are only delays."""

from pathlib import Path
from typing import Any

import pytest
import trio

from gossip.messages import encode
from gossip.network import Network, Verdict
from node.context import now_ms
from node.roles import feed
from tests.consensus.builders import key
from tests.node.roles.fakes import WEI
from tests.node.roles.harness import Running, ask, chat, open_lab, until


def book_of(running: Running) -> tuple[set[bytes], ...]:
    """Records, bids and proofs, as bytes."""
    live = running.parts.public.book.all_live(now_ms())
    return tuple({encode(one) for one in part} for part in (live.records, live.bids, live.proofs))


def deafen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gossip message for nodes that are started from now on is lost."""
    subscribe = Network.subscribe

    async def lose_all(network: Network, topic: str, judge: Any, **options: Any) -> Any:
        await subscribe(network, topic, lambda *_: Verdict.IGNORE, **options)
        _, nothing = trio.open_memory_channel[Any](0)
        _KEPT.append(_)
        return nothing

    monkeypatch.setattr(Network, "subscribe", lose_all)


_KEPT: list[Any] = []
"""Sending ends, so that the receivers wait for ever."""


async def test_a_node_that_hears_no_gossip_has_the_whole_book_and_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        sellers = [await lab.start_provider(f"provider{number}") for number in range(2)]
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=2)
        for _ in range(3):
            await ask(user, chat(max_tokens=2))
        await until(lambda: user.parts.public.ledger.total_credited > 0, "a batch")
        everybody = {one.address for one in (*lab.members, *sellers)}

        with monkeypatch.context() as patch:
            deafen(patch)
            deaf = await lab.start("deaf", ("full",))

        def is_complete() -> bool:
            public = deaf.parts.public
            return (
                book_of(deaf)[1:] == book_of(user)[1:]
                and {one for one in everybody if public.book.record(one, now_ms())} == everybody
                and public.ledger.height >= 1
            )

        await until(is_complete, "the whole book and the batches")
        # and what comes later: batches, another provider's bid, the secret of the slot behind a match
        late = await lab.start_provider("late provider")
        answer, _ = await ask(user, chat(max_tokens=2))
        height = user.height
        await until(lambda: user.height > height, "another batch")
        await until(lambda: deaf.height >= user.height, "the batch at the deaf one")
        await until(lambda: deaf.parts.public.book.record(late.address, now_ms()) is not None, "the newcomer")
        matched = user.parts.sessions.messages(answer.rfc_id)
        assert matched is not None
        told = matched[1].match.payload
        await until(lambda: (told.router, told.slot) in deaf.parts.public.reveals, "the secret")
        explained = await deaf.parts.status.explain_rfc(answer.rfc_id)
        assert explained is not None
        assert "verdict: the match holds" in explained["explanation"]
        assert deaf.parts.public.ledger.credits == user.parts.public.ledger.credits


async def test_what_has_expired_is_forgotten_and_who_says_too_much_is_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "PRUNE_EVERY_S", 0.05)
    monkeypatch.setattr(feed, "SAID_PER_S", 1)
    monkeypatch.setattr(feed, "SAID_AT_ONCE", 5)
    async with open_lab(tmp_path, monkeypatch) as lab:
        listener, talker = await lab.start("listener", ("full",)), await lab.start("talker", ("full",))
        await until(listener.node.network.peers, "a connection")
        world, book = lab.world(), listener.parts.public.book
        soon = now_ms() + 1_500
        listener.parts.feed.take(world.record(expires_ms=soon))
        listener.parts.feed.take(world.proof(expires_ms=soon))
        listener.parts.feed.take(world.bid(expires_ms=soon))
        listener.parts.feed.take(world.record("other", expires_ms=now_ms() + 600_000))
        assert len(book.all_live(now_ms()).bids) == 1
        await until(lambda: not book._bids and not book._proofs, "the expired to be forgotten")
        assert key("provider").address not in book._records
        assert key("other").address in book._records

        # One provider renews its bid without end; another is heard all the same.
        topic, network = talker.node.topics.bids, talker.node.network
        for number in range(40):
            bid = world.bid("flood", sequence=number + 1, expires_ms=now_ms() + 600_000)
            await network.publish(topic, encode(bid))
        quiet = world.bid("quiet", expires_ms=now_ms() + 600_000)
        await until(lambda: listener.parts.feed.throttled > 0, "the flood to be held")
        await network.publish(topic, encode(quiet))
        await until(
            lambda: key("quiet").address in {provider for provider, _ in book._bids}, "the quiet one to be heard"
        )
        passed = [
            standing.newest.bid.sequence for (who, _), standing in book._bids.items() if who == key("flood").address
        ]
        assert passed[0] < 40
        metrics = await listener.parts.status.metrics()
        assert f"yellowstone_feed_throttled {float(listener.parts.feed.throttled)}" in metrics
        assert "yellowstone_network_drops" in metrics
