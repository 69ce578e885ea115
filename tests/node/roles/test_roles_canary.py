"""Canaries (S8): members that ask as users do find a cheat, and nobody can tell them from users."""

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from gossip.streams import FrameStream
from inference.audit import SCORED_MIN
from inference.session.provider import LetIn, SessionServer
from inference.session.stream import SessionStream
from node.roles.canary import ANSWER_T, compose
from tests.node.roles.fakes import MEMBERS, WEI
from tests.node.roles.harness import PRICE, SHORT, open_lab, until
from tests.node.roles.test_roles_audit import Cheat


def test_prompts_are_many_and_long_enough_to_judge() -> None:
    chance = random.Random(7)
    made = {compose(chance, "model").messages[0].content for _ in range(2_000)}
    assert len(made) > 1_000
    assert min(ANSWER_T) >= SCORED_MIN


async def test_members_find_a_cheat_without_being_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.roles.audit.TRIES", 14)
    seen: set[str] = set()
    serve = SessionServer.serve

    async def noted(server: SessionServer, stream: SessionStream, let_in: LetIn | None = None) -> None:
        assert isinstance(stream, FrameStream)
        seen.add(stream.remote_peer)
        await serve(server, stream, let_in)

    monkeypatch.setattr(SessionServer, "serve", noted)
    async with open_lab(tmp_path, monkeypatch, replace(SHORT, canary_slots=2, report_deadline_slots=40)) as lab:
        lab.chain.balances |= {member.address: 500 * WEI for member in MEMBERS}
        members = await lab.start_committee()
        cheat = await lab.start_provider("cheat", Cheat(), slots=50)
        for name in ("one", "two"):
            await lab.start_provider(name, slots=50, price_wei=PRICE * 103 // 100)
        ledgers = [member.parts.public for member in members]
        await until(lambda: any(cheat.address in public.ledger.penalties for public in ledgers), "the penalty", 60)
        ledger = next(public.ledger for public in ledgers if cheat.address in public.ledger.penalties)
        assert set(ledger.penalties) == {cheat.address}
        named = {one.node.network.peer_id for one in lab.running.values()}
        assert seen
        assert not seen & named, "no record names the host that asked"
        asked = [entry for member in members for entry in member.parts.canary.sessions.all()]  # type: ignore[union-attr]  # a member's
        assert any(entry.get("audit", {}).get("verdict") == "failed" for entry in asked)
