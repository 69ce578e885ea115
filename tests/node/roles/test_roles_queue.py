"""What a user hears while its RFC waits, and what a peer or key that asks too much hears."""

from pathlib import Path
from typing import Any

import pytest
import trio

from gossip.errors import RemoteError
from gossip.messages.market import Rfc
from gossip.messages.router import Queued
from node.api.backend import BackendError
from node.api.openai_answers import error_headers
from node.roles import asking, router
from node.roles.user import UserAnswer
from tests.consensus.builders import key
from tests.node.roles.fakes import WEI, GatedEngine
from tests.node.roles.harness import Running, ask, ask_match, ask_pass, chat, make_rfc, open_lab, until


async def test_users_hear_their_place_and_what_to_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "FIRST_PLACE_S", 0.05)
    monkeypatch.setattr(router, "PLACE_EVERY_S", 0.05)
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        engine = GatedEngine(open_for=4, slots=1)
        await lab.start_provider("provider", engine, slots=1)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        matcher = lab.home_of(user.address).matcher()
        await ask(user, chat(max_tokens=1))  # the bid counts by now
        heard: list[Queued] = []
        note = asking.Asking._note_place

        def listen(self: Any, rfc: Any, queued: list[Queued], place: Queued) -> None:
            heard.append(place)
            note(self, rfc, queued, place)

        monkeypatch.setattr(asking.Asking, "_note_place", listen)
        agent = user.parts.agent
        assert agent is not None
        headers: list[dict[str, str]] = []

        async def wait_in_line() -> None:
            assert agent is not None
            async with agent.chat(chat(max_tokens=8)) as answer:
                headers.append(answer.headers())
                _ = [piece async for piece in answer.pieces()]

        async with trio.open_nursery() as nursery:
            async with agent.chat(chat(max_tokens=8)) as first:
                pieces = first.pieces()
                await anext(pieces)
                assert "x-yellowstone-queue-position" not in first.headers(), "it did not wait"
                nursery.start_soon(wait_in_line)
                await until(lambda: heard, "the first to hear its place")
                nursery.start_soon(wait_in_line)
                await until(lambda: {place.position for place in heard} == {0, 1}, "both to hear their places")
                assert {place.waiting for place in heard} == {1, 2}
                engine.release()
                _ = [piece async for piece in pieces]
            await until(lambda: len(headers) == 2, "both to be served")
        assert sorted(told["x-yellowstone-queue-position"] for told in headers) == ["0", "1"]
        assert all(int(told["x-yellowstone-queue-waited-ms"]) > 0 for told in headers)

        # Sessions have taken some time by now: whoever waits in vain is told for how long it would have had to.
        assert matcher._pace._mean_ms
        monkeypatch.setattr(matcher._pace, "expected_ms", lambda *_: 7_300)
        engine._open_for = 4
        monkeypatch.setattr(asking, "RFC_DEADLINE_MS", 600)
        async with agent.chat(chat(max_tokens=8)):
            with pytest.raises(BackendError) as refused:
                await _one(agent)
        error = refused.value
        assert (error.status, error.code, error.retry_after) == (503, "expired", 8)
        assert error_headers(error) == {
            "retry-after": "8",
            "x-yellowstone-queue-position": "0",
            "x-yellowstone-queue-waiting": "1",
            "x-yellowstone-queue-expected-ms": "7300",
        }
        assert "number 1 of 1 in the queue" in error.message


async def _one(agent: Any) -> UserAnswer:
    async with agent.chat(chat(max_tokens=8)) as answer:
        return answer  # type: ignore[no-any-return]  # a test's shorthand


async def test_a_peer_that_asks_without_end_is_told_to_slow_down_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "ASKS_PER_S", 1)
    monkeypatch.setattr(router, "ASKS_AT_ONCE", 3)
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee(3)
        spammer, other = await lab.start("spammer", ("full",)), await lab.start("other", ("full",))
        here = {member.address for member in members}
        names = (f"user {number}" for number in range(99))
        user = next(key(name) for name in names if lab.rank_of(key(name).address, 0) in here)
        home = lab.home_of(user.address)
        lab.chain.balances[user.address] = 100 * WEI
        await until(lambda: all(_knows(one, home) for one in (spammer, other)), "the member's record")
        penalties: list[str] = []
        network = home.node.network
        penalise = network.penalise

        def note(peer: str, points: int, reason: str) -> None:
            penalties.append(peer)
            penalise(peer, points, reason)

        monkeypatch.setattr(network, "penalise", note)
        for number in range(3):
            await ask_pass(spammer, home, user, key(f"s{number}"), tokens=1)
        with pytest.raises(RemoteError, match="slow_down"):
            await ask_pass(spammer, home, user, key("s3"), tokens=1)
        assert set(penalties) == {spammer.node.network.peer_id}
        await ask_pass(other, home, user, key("s4"), tokens=1)


def _knows(asker: Running, member: Running) -> bool:
    return asker.node.network.is_connected(member.node.network.peer_id) and (
        asker.parts.public.book.record(member.address, 0) is not None
    )


async def test_a_session_key_that_floods_is_neither_served_nor_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rate follows the priority on its pass: the router refuses, gossip drops, others are not held up."""
    monkeypatch.setattr("consensus.market.desk.rfc_rate", lambda _: (1, 3))
    monkeypatch.setattr("node.roles.demand.rfc_rate", lambda _: (1, 3))
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", slots=16)
        asker = await lab.start("asker", ("full",))
        user, other = key("user"), key("another user")
        lab.chain.balances |= {user.address: 100 * WEI, other.address: WEI}
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        home = lab.home_of(user.address)
        granted = await ask_pass(asker, home, user, key("s"))
        for index in range(3):
            await ask_match(asker, home, make_rfc(key("s"), granted, index=index, token_max=1))
        with pytest.raises(Exception, match="more than 1 RFCs a second by this user") as refused:
            await ask_match(asker, home, make_rfc(key("s"), granted, index=3, token_max=1))
        assert getattr(refused.value, "code", "") == "busy"
        home_of_other = lab.home_of(other.address)
        theirs = await ask_pass(asker, home_of_other, other, key("o"), tokens=8)
        await ask_match(asker, home_of_other, make_rfc(key("o"), theirs, token_max=1))

        demand = home.parts.demand  # its own RFCs do not come back to it by gossip
        assert demand is not None
        flood: list[Rfc] = [make_rfc(key("s"), granted, index=number).payload for number in range(10)]
        assert sum(demand.has_room(rfc) for rfc in flood) == 3
        assert demand.throttled >= 7
        assert demand.has_room(make_rfc(key("o"), theirs, index=1).payload)
