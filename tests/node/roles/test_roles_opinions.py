"""Second opinions over real streams (S8): picked sessions are opened, scored, and paid or forfeited."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.market.opinions import Pick
from contracts.typed_data import Address, Digest
from gossip.errors import RemoteError
from gossip.messages import encode
from gossip.messages.opinions import OpenTranscript, decode_opined
from gossip.topics import OPINION
from inference.audit import TokenScore
from inference.engine import ChatMessage
from inference.errors import ScoresMissing
from inference.synthetic import SyntheticEngine
from inference.tools import ToolUse
from node.roles.transcripts import Opener, Transcript, Transcripts
from tests.node.roles.fakes import MODEL, WEI
from tests.node.roles.harness import SHORT, Lab, Running, ask, chat, open_lab, until
from tests.node.roles.test_roles_audit import Cheat

PARAMS = replace(SHORT, min_providers=2, audit_slots=16, audit_bps=10_000, deposit_tokens=8, slot_ms=300)


def credit(running: Running, provider: Address) -> int:
    return int(running.parts.public.ledger.credits.get(provider, 0))


def ticket_of(user: Running, rfc_id: Digest) -> Digest:
    entry = user.parts.sessions.get(rfc_id)
    assert entry is not None
    return Digest(bytes.fromhex(entry["ticket_id"][2:]))


async def answered(user: Running, tokens: int = 32) -> tuple[Digest, Address]:
    """The ticket of an answer, and who gave it."""
    answer, _ = await ask(user, chat(max_tokens=tokens))
    return ticket_of(user, answer.rfc_id), answer.provider


async def picked(running: Running, ticket_id: Digest) -> Pick:
    audits = running.parts.public
    await until(lambda: audits.ledger.audits.pick(ticket_id) is not None, "the pick")
    pick = audits.ledger.audits.pick(ticket_id)
    assert pick is not None
    return pick


async def decided(running: Running, ticket_id: Digest) -> Pick:
    public, seen = running.parts.public, [await picked(running, ticket_id)]

    def is_decided() -> bool:
        found = public.ledger.audits.pick(ticket_id)
        if found is not None:
            seen.append(found)
        return found is None or bool(found.decision)

    await until(is_decided, "the decision")
    return seen[-1]


async def start(lab: Lab, *names: str) -> Running:
    await lab.start_committee()
    for name in names:
        await lab.start_provider(name, slots=50)
    user = await lab.start_user("user", 500 * WEI)
    await lab.market(providers=len(names))
    return user


def test_transcripts_are_bounded_and_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.roles.transcripts.MAX_BYTES", 100)
    kept, tickets = Transcripts(), [Digest(bytes([number]) * 32) for number in range(6)]
    for slot, ticket_id in enumerate(tickets):
        kept.keep(ticket_id, Transcript(b"x" * 20, (1, 2), slot))
    assert [kept.find(ticket_id) is not None for ticket_id in tickets] == [False] * 3 + [True] * 3
    kept.keep(tickets[5], Transcript(b"another", (9,), 5))
    found = kept.find(tickets[5])
    assert found is not None
    assert found.body == b"x" * 20, "the first that was kept stays"
    kept.keep(tickets[0], Transcript(b"said nothing", (), 9))
    assert kept.find(tickets[0]) is None
    kept.forget_before(5)
    assert [kept.find(ticket_id) is not None for ticket_id in tickets] == [False] * 5 + [True]
    kept.forget(tickets[5])
    kept.forget_before(100)


async def test_what_is_picked_is_opened_scored_and_paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch, PARAMS) as lab:
        user = await start(lab, "one", "two")
        providers = {lab.running[name].address for name in ("one", "two")}
        ticket_id, provider = await answered(user)
        (scorer,) = providers - {provider}
        pick = await decided(user, ticket_id)
        assert (pick.decision, pick.tokens) == ("passed", 32)
        (shown,) = await user.parts.status.sessions()
        assert shown["second_opinion"]["decision"] == "passed"
        assert shown["second_opinion"]["given"] == {"0x" + scorer.hex(): "pass"}
        explained = await user.parts.status.session(Digest(bytes.fromhex(shown["rfc_id"][2:])))
        assert explained is not None
        assert any("immature until slot" in line for line in explained["credit"])
        assert "verdict: passed: the credit matures" in explained["credit"]
        assert [offer.provider for offer in pick.scorers] == [scorer]
        price = pick.scorers[0].price_wei
        assert credit(user, scorer) == 32 * price
        assert credit(user, provider) == 0, "its own credit is not due yet"
        assert user.parts.agent is not None
        (said,) = user.parts.agent.opener.verdicts[ticket_id].values()
        assert (said.payload.mean_gap, said.payload.max_gap) == (0, 0)

        # a user that opens nothing costs its provider nothing: the provider opens the transcript itself
        monkeypatch.setattr(user.parts.agent.opener, "_begin", lambda _: None)
        second, other = await answered(user)
        assert (await decided(user, second)).decision == "passed"
        # it may have been paid for scoring the second one before
        await until(lambda: user.parts.public.ledger.audits.deposits.of(provider).is_full, "its deposit")
        assert credit(user, provider) > 0, "what the first session earned beyond the deposit"
        ledger = user.parts.public.ledger
        deposit = ledger.audits.deposits.of(provider)
        assert (deposit.wei, deposit.is_full) == (8 * ledger.account.reference_price_wei, True)
        earned = await user.parts.status.explain_earnings(provider)
        assert any("  deposit = " in line for line in earned["explanation"])
        assert ledger.audits.forfeited_wei == 0
        assert not ledger.penalties
        assert other in providers


async def test_a_cheat_is_found_out_by_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch, PARAMS) as lab:
        await lab.start_committee()
        cheat = await lab.start_provider("cheat", Cheat(), slots=50, price_wei=10**10)
        for name in ("one", "two"):
            await lab.start_provider(name, slots=50)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=3)
        ticket_id, provider = await answered(user)
        assert provider == cheat.address
        pick = await decided(user, ticket_id)
        if len(pick.scorers) > 1:
            assert (pick.decision, [one.passed for one in pick.given]) == ("failed", [False, False])
        await until(lambda: user.parts.public.ledger.penalties, "the penalty")
        ledger = user.parts.public.ledger
        assert credit(user, cheat.address) == 0
        assert ledger.penalties == {cheat.address: 1}
        assert set(ledger.audits.struck) in ({cheat.address + pick.session_key}, set()), "until its window is over"
        assert all(credit(user, one.scorer) > 0 for one in pick.given)


class Nothing:
    """No score."""

    def __aiter__(self) -> "Nothing":
        return self

    async def __anext__(self) -> TokenScore:
        raise ScoresMissing("the engine gave no probabilities")


class Blind(SyntheticEngine):
    """Answers as it should, and names no probabilities for what it is to score."""

    @asynccontextmanager
    async def score(
        self, messages: tuple[ChatMessage, ...], token_ids: tuple[int, ...], tools: ToolUse | None = None
    ) -> AsyncIterator[AsyncIterator[TokenScore]]:
        async with super().score(messages, token_ids, tools):
            yield Nothing()


async def test_what_scorers_cannot_read_forfeits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch, PARAMS) as lab:
        await lab.start_committee()
        for name in ("one", "two"):
            await lab.start_provider(name, Blind(MODEL, slots=50), slots=50)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=2)
        ticket_id, provider = await answered(user)
        pick = await decided(user, ticket_id)
        assert (pick.decision, [one.passed for one in pick.given]) == ("unread", [None])
        (shown,) = await user.parts.status.sessions()
        assert shown["second_opinion"]["given"] == {"0x" + pick.scorers[0].provider.hex(): "unread"}
        await until(lambda: user.parts.public.ledger.audits.deposits.of(provider).is_full, "its deposit")
        ledger = user.parts.public.ledger
        assert (ledger.audits.forfeited_wei, ledger.audits.opinions_wei) == (0, 0)
        assert not ledger.penalties


async def test_who_opens_something_else_gets_no_opinion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch, PARAMS) as lab:
        monkeypatch.setattr(Opener, "_begin", lambda *_: None)
        user = await start(lab, "one", "two")
        ticket_id, provider = await answered(user)
        pick = await picked(user, ticket_id)
        scorer = next(one for one in lab.running.values() if one.address == pick.scorers[0].provider)
        assert user.parts.agent is not None
        held = user.parts.agent._transcripts.find(ticket_id)
        assert held is not None
        body, token_ids = held.body, held.token_ids
        await until(lambda: scorer.parts.public.ledger.audits.pick(ticket_id) is not None, "the scorer's view")

        async def opened(to: Running, *, ticket: Digest = ticket_id, ids: tuple[int, ...] = token_ids) -> str:
            peer = to.node.network.peer_id
            if not user.node.network.is_connected(peer):
                await user.node.network.connect(to.node.network.multiaddrs, timeout=5)
            stream = await user.node.network.open_stream(peer, OPINION, timeout=5)
            try:
                await stream.send(encode(OpenTranscript(ticket, body, ids)))
                answer = decode_opined(await stream.receive(limit=1_024, timeout=10) or b"")
            except RemoteError as error:
                return error.code
            finally:
                await stream.aclose()
            return "passed" if answer.opinion.payload.passed else "failed"

        assert await opened(scorer, ticket=Digest(bytes(32))) == "not_picked"
        assert await opened(scorer, ids=(*token_ids[:-1], 7)) == "another_transcript"
        assert await opened(scorer, ids=token_ids[:5]) == "another_transcript"
        judged = next(one for one in lab.running.values() if one.address == provider)
        await until(lambda: judged.parts.public.ledger.audits.pick(ticket_id) is not None, "the provider's view")
        assert await opened(judged) == "not_drawn"
        assert await opened(scorer) == "passed"
        assert await opened(scorer) == "passed", "asked again it says the same"
        assert (await decided(user, ticket_id)).decision == "passed"
