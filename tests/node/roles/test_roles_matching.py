"""The draw that anyone can check, providers that don't answer, and the order in which users are served."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from consensus.market.errors import MatchInvalid
from consensus.market.matching import MatchContext, check_match
from consensus.market.waiting import Waiting
from contracts.typed_data import Digest
from gossip.messages import Signed
from gossip.messages.market import Rfc
from gossip.messages.router import Matched
from node.roles.access import AccessRefused
from tests.consensus.builders import key
from tests.node.roles.fakes import WEI, GatedEngine
from tests.node.roles.harness import PRICE, SHORT, Running, ask, ask_match, ask_pass, chat, make_rfc, open_lab, until
from tests.node.roles.test_roles_access import same_home


def context_of(running: Running, matched: Matched) -> MatchContext:
    """The public data of any full node."""
    public, terms = running.parts.public, running.node.terms
    told = matched.match.payload
    day = terms.params.day_of(told.slot)
    return MatchContext(
        terms=terms,
        committee=public.ledger.routers(day),
        tip=public.ledger.commitments[day][told.router],
        ceiling_wei=public.ledger.account.ceiling_wei(terms.params),
        beacons=public.beacons,
        listing=public.ledger.listing,
    )


async def revealed(running: Running, matched: Matched) -> Digest:
    place = matched.match.payload.router, matched.match.payload.slot
    await until(lambda: place in running.parts.public.reveals, "the reveal")
    return running.parts.public.reveals[place].payload.secret


def messages(user: Running, rfc_id: Digest) -> tuple[Signed[Rfc], Matched]:
    found = user.parts.sessions.messages(rfc_id)
    assert found is not None
    return found


async def never(_: Any) -> int:
    await trio.sleep_forever()
    return 0


async def test_draws_hold_and_the_silent_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        one = await lab.start_provider("one", slots=50)
        other = await lab.start_provider("other", slots=50, price_wei=PRICE * 103 // 100)
        await lab.start_provider("dear", slots=50, price_wei=PRICE * 110 // 100)
        await lab.start_provider("over the ceiling", slots=50, price_wei=PRICE * 2 + 1)
        lab.chain.balances[key("penniless").address] = 0
        await lab.start_provider("penniless", slots=50, price_wei=PRICE // 2)
        user = await lab.start_user("user", 500 * WEI)
        watcher = await lab.start("watcher", ("full",))
        await lab.market(providers=5)
        assert other.parts.provider is not None
        monkeypatch.setattr(other.parts.provider, "_free_slots", never)

        band = {one.address, other.address}
        for _ in range(40):
            answer, _text = await ask(user, chat(max_tokens=4))
            rfc, matched = messages(user, answer.rfc_id)
            told = matched.match.payload
            assert {bid.payload.provider for bid in told.candidates} == band
            assert answer.provider == one.address
            if told.unlive:
                break
        assert [bid.payload.provider for bid in told.candidates if bid.id(lab.terms.domain) in told.unlive] == [
            other.address
        ]
        assert told.attempt == 1

        # Anyone can check it once the slot is over; another secret or a hidden failure doesn't hold.
        secret = await revealed(watcher, matched)
        context = context_of(watcher, matched)
        check_match(matched.match, matched.ticket, rfc, secret, context)
        with pytest.raises(MatchInvalid, match="secret"):
            check_match(matched.match, matched.ticket, rfc, Digest(bytes(32)), context)
        session = await user.parts.status.session(answer.rfc_id)
        assert session is not None
        await until(lambda: (told.router, told.slot) in user.parts.public.reveals, "the reveal at the user")
        session = await user.parts.status.session(answer.rfc_id)
        assert session is not None
        assert session["explanation"][-1] == "verdict: the match holds"


async def test_users_wait_for_a_slot_in_the_order_of_their_mor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        engine = GatedEngine(open_for=4, slots=1)
        await lab.start_provider("provider", engine, slots=1)
        user = await lab.start_user("user", 500 * WEI)
        asker = await lab.start("asker", ("full",))
        small, large = same_home(lab, key("user"), "small"), same_home(lab, key("user"), "large")
        lab.chain.balances |= {small.address: WEI, large.address: 1_000_000 * WEI}
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        home = lab.home_of(user.address)
        served: list[str] = []

        async def wait_for(name: str, who: Any) -> None:
            granted = await ask_pass(asker, home, who, key(f"session {name}"))
            rfc = make_rfc(key(f"session {name}"), granted)
            rfcs[name] = rfc.id(lab.terms.domain)
            await ask_match(asker, home, rfc)
            served.append(name)

        rfcs: dict[str, Digest] = {}

        def waits(name: str) -> bool:
            return name in rfcs and isinstance(home.desk().outcome(rfcs[name]), Waiting)

        assert user.parts.agent is not None
        async with trio.open_nursery() as nursery:
            async with user.parts.agent.chat(chat(max_tokens=8)) as answer:
                # Every slot is taken: whoever comes now waits.
                pieces = answer.pieces()
                await anext(pieces)
                for name, who in (("small", small), ("large", large)):
                    nursery.start_soon(wait_for, name, who)
                    await until(partial(waits, name), f"{name} to wait")
                engine.release()
                _ = [piece async for piece in pieces]
            await until(lambda: served, "one of them to be served")
            assert served == ["large"]
            assert waits("small")
            nursery.cancel_scope.cancel()


async def test_one_slot_is_sold_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFCs at the same moment: as many matches as there are slots, though every liveness check would have passed."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", slots=2)
        asker = await lab.start("asker", ("full",))
        who = key("user")
        lab.chain.balances[who.address] = 100 * WEI
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        home = lab.home_of(who.address)
        rfcs = []
        for number in range(6):
            session = key(f"session {number}")
            rfcs.append(make_rfc(session, await ask_pass(asker, home, who, session)))
        matched: list[Matched] = []

        async def wait_for(rfc: Signed[Rfc]) -> None:
            matched.append(await ask_match(asker, home, rfc))

        async with trio.open_nursery() as nursery:
            for rfc in rfcs:
                nursery.start_soon(wait_for, rfc)
            await until(lambda: len(matched) == 2, "two matches")
            begun = home.node.slot()
            await until(lambda: home.node.slot() >= begun + 3, "three slots")
            assert len(matched) == 2
            nursery.cancel_scope.cancel()


async def test_nobody_is_matched_over_midnight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ticket of one day on a pass of another could never be settled: the RFC is refused."""
    params = replace(SHORT, day_slots=8)
    async with open_lab(tmp_path, monkeypatch, params) as lab:
        await lab.start_committee()
        provider = await lab.start_provider("provider", GatedEngine(slots=1), slots=1)
        asker = await lab.start("asker", ("full",))
        lab.chain.balances[key("user").address] = 100 * WEI
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        assert provider.parts.provider is not None
        monkeypatch.setattr(provider.parts.provider, "_free_slots", never)
        await until(lambda: asker.node.slot() % 8 == 1, "the day to have most of its time left")
        home = lab.home_of(key("user").address, day=params.day_of(asker.node.slot()))
        granted = await ask_pass(asker, home, key("user"), key("session"))
        with pytest.raises(AccessRefused) as refused:
            await ask_match(asker, home, make_rfc(key("session"), granted))
        assert refused.value.code == "wrong_day"
