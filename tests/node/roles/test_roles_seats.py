"""A provider's slot is free as soon as the session on it is over, whatever its money waits for."""

from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from tests.node.roles.fakes import WEI, GatedEngine
from tests.node.roles.harness import SHORT, ask, chat, open_lab, until

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


async def _cancel_when(scope: trio.CancelScope, condition: Any) -> None:
    await until(condition, "the session")
    scope.cancel()
