"""A provider's slot is free as soon as the session on it is over, whatever its money waits for."""

from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from gossip.errors import GossipError
from gossip.messages import sign
from gossip.messages.market import Withdrawal
from gossip.messages.router import DeliveryFiling, WithdrawAsk
from node.roles import seats
from node.roles.access import AccessRefused, ask_router
from tests.consensus.builders import key
from tests.node.roles.fakes import WEI, GatedEngine
from tests.node.roles.harness import SHORT, ask, ask_match, ask_pass, chat, make_rfc, open_lab, until

PATIENT = replace(SHORT, report_deadline_slots=1_000)
"""What waits for the other side's filing waits longer than any test."""


async def test_pressing_stop_frees_the_slot_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first T and after it."""
    monkeypatch.setattr("node.roles.provider.FILE_EVERY_S", 0.1)
    async with open_lab(tmp_path, monkeypatch, PATIENT) as lab:
        await lab.start_committee()
        engine = GatedEngine(open_for=4, slots=1)
        provider: Any = await lab.start_provider("provider", engine, slots=1)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        agent, desk = user.parts.agent, lab.home_of(user.address).desk()
        assert agent is not None
        async with agent.chat(chat(max_tokens=30)) as answer:
            pieces: Any = answer.pieces()
            await anext(pieces)
            assert desk.seats._filled
            await pieces.aclose()
        await until(lambda: not desk.seats._filled, "the slot to be free after a stop")
        engine._open_for = 0
        with trio.CancelScope() as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, client, lambda: provider.parts.provider._active)
                async with agent.chat(chat(max_tokens=30)):
                    pytest.fail("the engine says nothing")
        await until(lambda: not desk.seats._filled, "the slot to be free after a stop before the first T")
        assert len(desk._open) == 2, "the money waits"
        engine.release()
        await ask(user, chat(max_tokens=4))


QUICK = replace(PATIENT, ticket_ttl_ms=1_000)


async def test_a_ticket_that_nobody_opens_frees_its_slot_when_it_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And costs a window still, once nobody can say anything of it any more; status and metrics say why it is held."""
    monkeypatch.setattr(seats, "AFTER_MS", 100)
    async with open_lab(tmp_path, monkeypatch, QUICK) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", slots=1)
        asker, who, session = await lab.start("asker", ("full",)), key("user"), key("session")
        lab.chain.balances[who.address] = 100 * WEI
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        home = lab.home_of(who.address)
        granted = await ask_pass(asker, home, who, session, tokens=100)
        matched = await ask_match(asker, home, make_rfc(session, granted))
        desk, ticket_id = home.desk(), matched.match.payload.ticket_id
        forged = DeliveryFiling(ticket_id, None, None)
        with pytest.raises(AccessRefused, match="not_the_provider"):  # nobody else frees its slot
            await ask_router(asker.node, asker.parts.public, home.address, forged, timeout=20)
        assert sum((await home.parts.status.status())["seats_held"].values()) == 1
        assert "yellowstone_seats_held{" in await home.parts.status.metrics()
        await until(lambda: not desk.seats._filled, "the slot to be free")
        assert desk.is_open(ticket_id)
        assert desk.allowances.used(session.address) == 64, "the reservation waits"
        assert (await home.parts.status.status())["seats_held"] == dict.fromkeys(
            ("matched", "running", "reported", "silent"), 0
        )
        await ask_match(asker, home, make_rfc(session, granted, index=granted.next_index + 1, token_max=8))


async def test_a_session_that_outlives_its_ticket_holds_its_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "AFTER_MS", 100)
    async with open_lab(tmp_path, monkeypatch, QUICK) as lab:
        await lab.start_committee()
        engine = GatedEngine(open_for=4, slots=1)
        await lab.start_provider("provider", engine, slots=1)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        agent, home = user.parts.agent, lab.home_of(user.address)
        assert agent is not None
        async with agent.chat(chat(max_tokens=30)) as answer:
            ticket_id = answer._legs[0].session.outcome.ticket_id
            desk = home.desk()
            await until(lambda: desk._open[ticket_id].runs, "the provider's word that it goes on")
            assert (await home.parts.status.status())["seats_held"]["running"] == 1
            engine.release()
            async for _ in answer.pieces():
                pass
        await until(lambda: not desk.seats._filled, "the slot to be free")


async def test_a_client_that_leaves_the_queue_takes_its_rfc_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch, PATIENT) as lab:
        await lab.start_committee()
        engine = GatedEngine(open_for=4, slots=1)
        await lab.start_provider("provider", engine, slots=1)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        agent, desk = user.parts.agent, lab.home_of(user.address).desk()
        assert agent is not None
        async with agent.chat(chat(max_tokens=30)) as answer:
            ((wallet,), used) = agent._access._day.wallets, desk.allowances.used
            with trio.CancelScope() as client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_when, client, lambda: len(desk._room))
                    async with agent.chat(chat(max_tokens=40)):
                        pytest.fail("no slot is free")
            await until(lambda: not len(desk._room), "the RFC to be gone")
            await until(
                lambda: agent._access.used() == used(wallet.key.address) == 30, "the T to be back on both sides"
            )
            engine.release()
            async for _ in answer.pieces():
                pass
        await until(lambda: not desk.seats._filled, "the slot to be free")
        assert len(desk._matched) == 1, "the one that was waited for"


async def test_a_client_that_leaves_while_its_provider_is_asked_pays_for_the_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot is let go with the answer; a forged withdrawal does nothing, and its sender is scored."""
    async with open_lab(tmp_path, monkeypatch, replace(PATIENT, liveness_ms=5_000)) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", slots=1)
        user = await lab.start_user("user", 500 * WEI)
        asker = await lab.start("asker", ("full",))
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        agent, home = user.parts.agent, lab.home_of(user.address)
        assert agent is not None
        desk, matcher = home.desk(), home.matcher()
        await ask(user, chat(max_tokens=1))
        ((wallet,), used) = agent._access._day.wallets, desk.allowances.used
        await until(lambda: used(wallet.key.address) == agent._access.used(), "the first settlement")
        before, go_on, check = used(wallet.key.address), trio.Event(), matcher._liveness.check

        async def slow(*args: Any) -> bool:
            await go_on.wait()
            return await check(*args)  # type: ignore[no-any-return]  # a test's double

        monkeypatch.setattr(matcher._liveness, "check", slow)
        with trio.CancelScope() as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, client, lambda: matcher._drawing)
                async with agent.chat(chat(max_tokens=40)):
                    pytest.fail("its provider does not answer")
        ((rfc_id,), window) = matcher._drawing, SHORT.voucher_window
        forged = sign(Withdrawal(rfc_id, wallet.key.address), key("somebody"), lab.terms.domain)
        with pytest.raises(GossipError):
            await ask_router(asker.node, asker.parts.public, home.address, WithdrawAsk(forged), timeout=20)
        await until(lambda: not len(desk._room), "the RFC to be gone")
        await until(lambda: agent._access.used() == used(wallet.key.address) == before + window, "its price")
        go_on.set()
        await until(lambda: not matcher._drawing and not matcher._rankings._asked, "the slot to be let go")
        assert not desk.seats._filled
        await home.stop()
        await lab.start_member(int(home.name.removeprefix("member")))
        again = lab.home_of(user.address).desk().allowances
        assert again.used(wallet.key.address) == before + window, "a restart forgets no price"
        await ask(user, chat(max_tokens=1))


async def test_a_client_that_leaves_before_it_hears_of_its_match_has_the_ticket_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot is free once it has expired, and both sides count the same."""
    monkeypatch.setattr(seats, "AFTER_MS", 100)
    async with open_lab(tmp_path, monkeypatch, replace(SHORT, ticket_ttl_ms=1_000)) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", slots=1)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        agent, desk = user.parts.agent, lab.home_of(user.address).desk()
        assert agent is not None

        async def deaf(*_: Any) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(agent._asking, "_match", deaf)
        with trio.CancelScope() as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, client, lambda: desk._open)
                async with agent.chat(chat(max_tokens=40)):
                    pytest.fail("it hears nothing")
        ((held,), (wallet,)) = desk._open.values(), agent._access._day.wallets
        await until(lambda: held.is_withdrawn and held.report is not None, "its report")
        assert held.report.payload.passed
        await until(lambda: not desk.seats._filled, "the slot to be free")
        used = desk.allowances.used
        await until(lambda: agent._access.used() == used(wallet.key.address) == SHORT.voucher_window, "its price")


async def _cancel_when(scope: trio.CancelScope, condition: Any) -> None:
    await until(condition, "the session")
    scope.cancel()
