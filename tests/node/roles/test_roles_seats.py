"""A provider's slot is free as soon as the session on it is over, whatever its money waits for."""

from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from gossip.messages.router import DeliveryFiling
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


async def _cancel_when(scope: trio.CancelScope, condition: Any) -> None:
    await until(condition, "the session")
    scope.cancel()
