"""Audits of real answers over real streams: honest providers pass, a cheat is reported and the evidence holds."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.typed_data import Digest
from gossip.messages import Signed, decode
from gossip.messages.market import Ticket
from gossip.messages.session import Cosigned
from inference.engine import Generation, Piece, Sampling
from inference.metering import Transcript
from inference.synthetic import SyntheticEngine
from node.store.batches import Outcome
from tests.node.roles.fakes import MODEL, WEI
from tests.node.roles.harness import PRICE, SHORT, Running, ask, chat, eventually, open_lab, until

PARAMS = replace(SHORT, report_deadline_slots=40)


class Cheat(SyntheticEngine):
    """Says other T than the model would."""

    def __init__(self) -> None:
        super().__init__(MODEL)

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:
        async with super().generate(request) as pieces:
            yield _shifted(pieces)


async def _shifted(pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    async for piece in pieces:
        yield Piece(piece.text, tuple(token + 1_000 for token in piece.token_ids), piece.finish)


def audit_all(user: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    # the router draws the scorer: with two providers five tries miss the other one in 1 of 32 runs
    monkeypatch.setattr("node.roles.audit.TRIES", 14)
    assert user.parts.agent is not None
    monkeypatch.setattr(user.parts.agent._auditor, "_share", 1.0)


async def audited(user: Running, rfc_id: Digest) -> dict[str, Any]:
    def entry() -> dict[str, Any]:
        found = user.parts.sessions.get(rfc_id)
        assert found is not None
        return found

    await until(lambda: "audit" in entry(), "the audit")
    return entry()


async def outcome(running: Running, entry: dict[str, Any]) -> Outcome:
    ticket_id = Digest(bytes.fromhex(entry["ticket_id"][2:]))
    found: list[Outcome] = []

    async def settled() -> bool:
        result = await running.parts.status.ticket(ticket_id)
        found.extend([result] if result is not None else [])
        return result is not None

    await eventually(settled, "the settlement")
    return found[0]


async def test_honest_answers_pass_and_are_paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch, PARAMS) as lab:
        await lab.start_committee()
        for name in ("one", "two"):
            await lab.start_provider(name, slots=50)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=2)
        audit_all(user, monkeypatch)
        answer, _ = await ask(user, chat(max_tokens=32))
        entry = await audited(user, answer.rfc_id)
        assert entry["passed"] is True
        assert entry["audit"]["verdict"] == "passed"
        (opinion,) = entry["audit"]["opinions"]
        assert opinion["provider"] != "0x" + answer.provider.hex()
        assert (opinion["tokens"], opinion["mean_gap"]) == (32, 0.0)
        settled = await outcome(user, entry)
        assert settled.credited_wei > 0
        # the scorer is paid for what it scored, like anybody
        scoring = [one for one in user.parts.sessions.all() if one.get("tokens") == 32 and "audit" not in one]
        assert len(scoring) == 1
        assert (await outcome(user, scoring[0])).credited_wei == 32 * scoring[0]["price_wei"]
        assert not (user.node.config.data_dir / "audits").exists()
        # a sampled answer cannot be judged, a short one neither
        for request in (replace(chat(max_tokens=32), sampling=Sampling(temperature=1.0)), chat(max_tokens=8)):
            answer, _ = await ask(user, request)
            found = user.parts.sessions.get(answer.rfc_id)
            assert found is not None
            await outcome(user, found)
            assert "audit" not in found


async def test_a_cheat_is_reported_with_evidence_that_both_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch, PARAMS) as lab:
        await lab.start_committee()
        cheat = await lab.start_provider("cheat", Cheat(), slots=50)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        audit_all(user, monkeypatch)
        # alone, a cheat is asked by nobody but itself: no verdict, and no Fail
        answer, _ = await ask(user, chat(max_tokens=32))
        entry = await audited(user, answer.rfc_id)
        assert (entry["audit"]["verdict"], entry["passed"]) == ("none", True)

        for name in ("one", "two"):
            await lab.start_provider(name, slots=50, price_wei=PRICE * 104 // 100)
        await lab.market(providers=3)
        while answer.provider != cheat.address or entry["audit"]["verdict"] == "none":
            answer, _ = await ask(user, chat(max_tokens=32))
            entry = await audited(user, answer.rfc_id)
        assert (entry["audit"]["verdict"], entry["passed"]) == ("failed", False)
        opinions = entry["audit"]["opinions"]
        assert len({opinion["provider"] for opinion in opinions} | {"0x" + cheat.address.hex()}) == len(opinions) + 1
        settled = await outcome(user, entry)
        assert (settled.credited_wei, settled.provider) == (0, cheat.address)
        batch = await user.node.store.get_batch(settled.height)
        assert batch is not None
        fails = [one for one in batch.body.settlements if one.report is not None and not one.report.payload.passed]
        assert all(one.fail_mark is not None for one in fails), "the home router says whose Fail it is, to nobody else"
        assert fails

        path = Path(entry["audit"]["evidence"])
        assert path.stat().st_mode & 0o077 == 0
        document = json.loads(path.read_text())
        for part in (document["answer"], *document["opinions"]):
            ticket = decode(Signed[Ticket], bytes.fromhex(part["ticket"][2:]), 10_000)
            receipt = decode(Cosigned, bytes.fromhex(part["receipt"][2:]))
            receipt.check(ticket.payload, lab.terms.domain)
            transcript = Transcript(part["body"].encode())
            transcript.add(tuple(part["token_ids"]))
            assert receipt.receipt.transcript == transcript.digest()
        assert document["opinions"][0]["mean_gap"] > 50
