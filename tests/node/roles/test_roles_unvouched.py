"""What a user takes without vouching is off its pass all the same, and a provider out of reach costs it 1 T (S36)."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import pytest
import trio

from contracts.signing import Key
from gossip.errors import TransportError
from gossip.messages import encode, sign
from gossip.messages.router import Matched, ReportFiling
from gossip.messages.session import Query, Report, SessionOpen, TokenFrame, decode_session_frame
from gossip.topics import SESSION
from inference.engine import ChatMessage, Piece
from inference.session.query import QueryBody, encode_body
from inference.synthetic import SyntheticEngine
from node.roles.access import ask_router
from tests.consensus.builders import key
from tests.node.roles.fakes import MODEL, WEI
from tests.node.roles.harness import SHORT, Lab, Running, ask, ask_match, ask_pass, chat, make_rfc, open_lab, until


async def take(lab: Lab, asker: Running, session: Key, matched: Matched, tokens: int) -> None:
    """Open a session, read so many T, vouch for none, and be gone."""
    domain = lab.terms.domain
    ticket_id = matched.ticket.id(domain)
    body = encode_body(QueryBody(messages=(ChatMessage("user", "tell me a lot"),), max_tokens=64))
    stream = await asker.node.network.open_stream(matched.provider.payload.peer_id, SESSION, timeout=10)
    try:
        query = sign(Query(ticket_id, session.address, body), session, domain)
        await stream.send(encode(SessionOpen(matched.ticket, query)))
        got = 0
        while got < tokens:
            frame = decode_session_frame(await stream.receive(limit=1 << 16, timeout=20) or b"")
            assert isinstance(frame, TokenFrame)
            got = frame.tokens
    finally:
        await stream.aclose()


async def test_taking_the_window_and_vouching_for_none_costs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the user says then: a Fail or a Pass of 0 T, or nothing."""
    window = SHORT.voucher_window
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider")
        asker, who = await lab.start("asker", ("full",)), key("user")
        lab.chain.balances[who.address] = 100 * WEI
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        home = lab.home_of(who.address)
        allowances, successor = home.desk().allowances, lab.home_of(who.address, 1).desk().allowances
        for says in ("fail", "pass", "nothing"):
            session = key(says)
            matched = await ask_match(
                asker, home, make_rfc(session, await ask_pass(asker, home, who, session, tokens=100))
            )
            await take(lab, asker, session, matched, window)
            if says == "nothing":
                continue
            ticket_id = matched.ticket.id(lab.terms.domain)
            report = sign(Report(ticket_id, session.address, 0, 0, 0, says == "pass"), session, lab.terms.domain)
            filing = ReportFiling(ticket_id, report, None)
            await ask_router(asker.node, asker.parts.public, home.address, filing, timeout=20)
        keys = [key(says).address for says in ("fail", "pass", "nothing")]
        await until(lambda: [allowances.used(one) for one in keys] == [window] * 3, "all charges")
        await until(lambda: [successor._told.get(one) for one in keys] == [window] * 3, "the next in rank to know")
        assert asker.parts.public.ledger.total_credited == 0
        explained = await home.parts.status.explain_allowance(who.address)
        assert any(f"used {3 * window} T of the passes" in line for line in explained["explanation"])


async def test_a_provider_out_of_reach_costs_its_user_one_t(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider")
        user = await lab.start_user("user", 100 * WEI)
        await lab.market(providers=1)
        network, left = user.node.network, [1]
        open_stream = network.open_stream

        async def fails_once(peer_id: str, protocol: str, *, timeout: float) -> object:
            if protocol == SESSION and left:
                left.pop()
                raise TransportError("gone")
            return await open_stream(peer_id, protocol, timeout=timeout)

        monkeypatch.setattr(network, "open_stream", fails_once)
        answer, _ = await ask(user, chat(max_tokens=20))
        assert not left
        agent = user.parts.agent
        assert agent is not None
        ((wallet,), home) = agent._access._day.wallets, lab.home_of(user.address)
        used = home.desk().allowances.used
        await until(lambda: used(wallet.key.address) == 1 + answer.tokens, "both settlements")
        assert agent._access.used() == 1 + answer.tokens, "its own count is the same"
        ledger = user.parts.public.ledger
        await until(lambda: user.parts.public.ledger.penalties, "the point of who could not be reached")
        assert ledger.day == 0


async def test_a_long_session_is_said_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Fail that its user files while it is being answered does not end the ticket."""
    monkeypatch.setattr("node.roles.provider.FILE_EVERY_S", 0.1)
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider")
        user = await lab.start_user("user", 100 * WEI)
        await lab.market(providers=1)
        agent = user.parts.agent
        assert agent is not None
        async with agent.chat(chat(max_tokens=40)) as answer:
            ticket_id = answer._legs[0].session.outcome.ticket_id
            desk = lab.home_of(user.address).desk()
            await until(lambda: desk._open[ticket_id].runs, "the provider's word that it goes on")
            slot = user.node.slot()
            with trio.fail_after(20):
                await user.node.next_slot(slot + SHORT.report_deadline_slots + 1)
            assert desk.is_open(ticket_id)
            async for _ in answer.pieces():
                pass
        await until(lambda: user.parts.public.ledger.total_credited, "the credit")


async def test_an_agent_whose_client_left_never_believes_it_has_more_than_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", SyntheticEngine(MODEL, answer_tokens=60, interval_s=0.02))
        user = await lab.start_user("user", 100 * WEI)
        await lab.market(providers=1)
        agent = user.parts.agent
        assert agent is not None
        async with agent.chat(chat(max_tokens=60)) as answer:
            pieces = cast("AsyncGenerator[Piece, None]", answer.pieces())
            while answer.tokens < 4:
                await anext(pieces)
            await pieces.aclose()
        got, ticket_id = answer.tokens, answer._legs[0].session.outcome.ticket_id
        assert got < 60
        desk, (wallet,) = lab.home_of(user.address).desk(), agent._access._day.wallets
        await until(lambda: not desk.is_open(ticket_id), "the end of the router's patience")
        await until(lambda: desk.allowances.used(wallet.key.address) < 60, "the settlement")
        used = desk.allowances.used(wallet.key.address)
        assert got <= used <= agent._access.used() <= used + SHORT.voucher_window
