"""Routers that cheat in the draw are exposed by `explain`, providers learn why they lost, the dead cost once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from msgspec.structs import replace

from consensus.market.matching import pick
from consensus.market.ranking import Band, Ranking
from consensus.market.rests import Rests
from contracts.typed_data import Address, Digest
from gossip.messages import sign
from gossip.messages.market import Why
from node.context import now_ms
from node.errors import Unanswerable
from node.roles import drawing
from node.roles.matching import Matcher
from node.roles.secrets import SlotSecrets
from tests.consensus.builders import key
from tests.node.roles.fakes import WEI
from tests.node.roles.harness import PRICE, SHORT, Lab, Running, ask, chat, eventually, open_lab
from tests.node.roles.test_roles_matching import messages, never


async def explained(running: Running, rfc_id: Digest) -> dict[str, Any]:
    """What a node says of an RFC once the router's secret of the slot is out."""

    async def look() -> dict[str, Any] | None:
        told = await running.parts.status.explain_rfc(rfc_id)
        return told if told is not None and told.get("revealed") else None

    found: dict[str, Any] = await eventually(look, "the explanation with the secret")
    return found


async def market(lab: Lab, **prices: int) -> tuple[Running, Running, dict[str, Running]]:
    """A user, a full node that watches, and providers with these prices in percent of the reference price."""
    await lab.start_committee()
    sellers = {
        name: await lab.start_provider(name, follow_rfcs=name == "one", slots=50, price_wei=PRICE * percent // 100)
        for name, percent in prices.items()
    }
    user = await lab.start_user("user", 500 * WEI)
    watcher = await lab.start("watcher", ("full",))
    await lab.market(providers=len(prices))
    await lab.knows(watcher, providers=len(prices))
    slot = watcher.node.slot()
    await watcher.node.next_slot(slot + 2)  # what was heard a slot before it counts is held against a router
    return user, watcher, sellers


async def test_anybody_can_ask_why_and_losers_learn_why_they_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        lab.chain.balances[key("poor").address] = 0
        user, watcher, sellers = await market(lab, one=100, other=103, dear=120, over=201, poor=90)
        answer, _ = await ask(user, chat(max_tokens=2))
        rfc_id = answer.rfc_id
        for reader in (user, watcher, *sellers.values()):
            told = await explained(reader, rfc_id)
            assert "verdict: the match holds" in told["explanation"], reader.name
            assert told["hidden"] == []
            assert told["winner"] == answer.provider
        assert told["router"] == lab.home_of(user.address).address
        last = {name: (await explained(seller, rfc_id))["explanation"][-1] for name, seller in sellers.items()}
        winner = next(name for name, seller in sellers.items() if seller.address == answer.provider)
        loser = {"one": "other", "other": "one"}[winner]
        assert last[winner].strip() == "won"
        assert "not drawn" in last[loser]
        assert "too dear" in last["dear"]
        assert "above the day's ceiling" in last["over"]
        assert "held no MOR" in last["poor"]
        left_out = messages(user, rfc_id)[1].match.payload.left_out
        assert [(one.provider, one.why) for one in left_out] == [(sellers["poor"].address, Why.NO_MOR)]
        for listener in (sellers["one"], lab.home_of(user.address)):
            assert any(heard["rfc_id"] == rfc_id for heard in await listener.parts.status.rfcs()), listener.name
        for deaf in (watcher, sellers["other"], user):
            with pytest.raises(Unanswerable, match="follow_rfcs"):
                await deaf.parts.status.rfcs()
        # Nothing of the account names the user (S34), and nobody makes up an RFC.
        assert bytes(user.address) not in repr(told).encode()
        assert user.address.hex() not in str(told["explanation"])
        assert await watcher.parts.status.explain_rfc(Digest(bytes(32))) is None


def give_to(friend: Address) -> Callable[..., Any]:
    """A router whose draws always point at a friend."""

    def cheat(band: Any, unlive: Any, drawn: Digest) -> Any:
        return next((one for one in band if one.bid.provider == friend), None) or pick(band, unlive, drawn)

    return cheat


class ChosenSecrets:
    """Secrets of a router's own choice; what it reveals later has to be the committed one."""

    def of_slot(self, slot: int) -> Digest:
        return Digest(slot.to_bytes(32, "big"))


async def test_routers_that_cheat_in_the_draw_are_exposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By any node that looks: here a full node that took no part, the user, and the provider that was cheated."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        user, watcher, sellers = await market(lab, one=100, friend=101)
        matcher = lab.home_of(user.address).matcher()
        await _another_winner(user, watcher, sellers["friend"].address, monkeypatch)
        await _another_secret(user, watcher, matcher, monkeypatch)
        await _another_candidate_set(lab, user, watcher, sellers["one"], monkeypatch)


async def _another_winner(user: Running, watcher: Running, friend: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draw points elsewhere for half the RFCs, and each such match is signed by the router."""
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "pick", give_to(friend))
        for _ in range(40):
            answer, _ = await ask(user, chat(max_tokens=1))
            assert answer.provider == friend
            lines = (await explained(watcher, answer.rfc_id))["explanation"]
            if any("does NOT hold: winner" in line for line in lines):
                return
            assert "verdict: the match holds" in lines
    pytest.fail("forty draws that all pointed at the friend")


async def _another_secret(user: Running, watcher: Running, matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, secrets = Matcher._begin, matcher._secrets

    def begin_with_chosen(self: Matcher, waiting: Any, nursery: trio.Nursery) -> bool:
        self._secrets = cast("SlotSecrets", ChosenSecrets())
        try:
            return begin(self, waiting, nursery)
        finally:
            self._secrets = secrets

    with monkeypatch.context() as patch:
        patch.setattr(Matcher, "_begin", begin_with_chosen)
        answer, _ = await ask(user, chat(max_tokens=1))
        lines = (await explained(watcher, answer.rfc_id))["explanation"]
        assert any("does NOT hold: draw" in line for line in lines)


async def _another_candidate_set(
    lab: Lab, user: Running, watcher: Running, cheated: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draw itself holds, and whoever heard the hidden bid sees that it is missing."""

    def without(self: Ranking, *args: Any) -> Band:
        band = draw(self, *args)
        return replace(band, bids=tuple(one for one in band.bids if one.bid.provider != cheated.address))

    draw = Ranking.draw
    with monkeypatch.context() as patch:
        patch.setattr(Ranking, "draw", without)
        for _ in range(10):
            answer, _ = await ask(user, chat(max_tokens=1))
            if (await explained(watcher, answer.rfc_id))["hidden"]:
                break
            # a bid that was renewed within the last two slots is held against nobody
            await user.node.next_slot(user.node.slot())
    for reader in (watcher, user, cheated):
        told = await explained(reader, answer.rfc_id)
        assert "verdict: the match holds" in told["explanation"]
        assert told["hidden"] == [cheated.address]
    assert "may be hiding it" in told["explanation"][-1]

    # A failure that never was is no way out: the draw would have had to point there.
    rfc, matched = messages(user, answer.rfc_id)
    bid_id = matched.match.payload.candidates[0].id(lab.terms.domain)
    lie = replace(matched.match.payload, unlive=(Digest(bytes(32)),), attempt=1)
    signed = sign(lie, lab.home_of(user.address).node.key, lab.terms.domain)
    told = watcher.parts.status._explainer.told(rfc, replace(matched, match=signed))
    assert bid_id != Digest(bytes(32))
    assert any("does NOT hold: unlive" in line for line in told["explanation"])


async def test_dead_providers_cost_their_deadline_once_and_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cheap dead providers in one band: the third is asked while they are silent, and then they are not asked."""
    params = replace(SHORT, liveness_ms=1_000)
    monkeypatch.setattr("node.roles.matching.PREPARE_PERCENT", 5)
    async with open_lab(tmp_path, monkeypatch, params) as lab:
        user, watcher, sellers = await market(lab, dead=100, silent=101, alive=102)
        names = {one.address: name for name, one in sellers.items()}
        asked: list[tuple[str, int]] = []
        under_way = 0
        liveness = lab.home_of(user.address).matcher()._liveness
        check = liveness.check

        async def note(record: Any, rfc_id: Digest, bid_id: Digest) -> bool:
            nonlocal under_way
            asked.append((names[record.payload.address], under_way))
            under_way += 1
            try:
                return bool(await check(record, rfc_id, bid_id))
            finally:
                under_way -= 1

        monkeypatch.setattr(liveness, "check", note)
        for name in ("dead", "silent"):
            provider = sellers[name].parts.provider
            assert provider is not None
            monkeypatch.setattr(provider, "_free_slots", never)
        for _ in range(60):
            asked.clear()
            answer, _ = await ask(user, chat(max_tokens=1))
            assert answer.provider == sellers["alive"].address
            told = messages(user, answer.rfc_id)[1].match.payload
            # a provider that is still busy with the draw before is not asked in vain for a whole deadline: draw again
            if len(told.unlive) == 2 and [waited_for for _, waited_for in asked] == [0, 1, 2]:
                break
            lab.home_of(user.address).matcher()._rests = Rests()
        else:
            pytest.fail("no draw began with the two dead ones")
        assert [waited_for for _, waited_for in asked] == [0, 1, 2], "each while those before it were still silent"
        assert "verdict: the match holds" in (await explained(watcher, answer.rfc_id))["explanation"]
        # Both rest now: the next RFC asks the living one alone, and its match says so.
        asked.clear()
        lab.home_of(user.address).matcher()._rests = rests = Rests()
        for name in ("dead", "silent"):
            rests.fail((sellers[name].address, told.candidates[0].payload.model_id), now_ms() + 60_000)
        answer, _ = await ask(user, chat(max_tokens=1))
        told = messages(user, answer.rfc_id)[1].match.payload
        assert {(names[one.provider], one.why) for one in told.left_out} == {
            ("dead", Why.RESTING),
            ("silent", Why.RESTING),
        }
        assert asked == [("alive", 0)]
        checked = await explained(watcher, answer.rfc_id)
        assert "verdict: the match holds" in checked["explanation"]
        assert checked["hidden"] == []
