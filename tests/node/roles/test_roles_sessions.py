"""Sessions that end well and badly, what is paid for them, and what nobody may learn."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from msgspec.structs import replace

from contracts.typed_data import Digest
from gossip.errors import RemoteError
from gossip.messages import Signed, decode, encode, sign
from gossip.messages.market import LivenessAnswer, LivenessQuery, Ticket
from gossip.topics import LIVENESS, SESSION
from inference.engine import ChatMessage
from inference.errors import SessionError
from inference.session.client import open_session
from inference.session.query import QueryBody
from node.api.backend import BackendError
from node.context import now_ms
from node.roles.user import UserAnswer
from tests.consensus.builders import key
from tests.node.roles.fakes import MEMBERS, WEI, GatedEngine
from tests.node.roles.harness import (
    PRICE,
    Lab,
    Running,
    Wire,
    ask,
    ask_match,
    ask_pass,
    chat,
    eventually,
    make_rfc,
    open_lab,
    until,
)


def ticket_of(answer: UserAnswer) -> Ticket:
    return answer._ticket


async def credited(lab: Lab, running: Running, wei: int) -> None:
    await until(lambda: running.parts.public.ledger.total_credited >= wei, f"{wei} wei credited")
    assert running.parts.public.ledger.total_credited == wei


async def read(answer: UserAnswer, tokens: int) -> None:
    """Take pieces until so many T have arrived; the answer goes on."""
    async with aclosing(cast("AsyncGenerator[str]", answer.pieces())) as pieces:
        while answer.tokens < tokens:
            await anext(pieces)


async def test_a_session_is_paid_and_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    wire.watch(monkeypatch)
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        provider = await lab.start_provider("provider")
        full = await lab.start("full", ("full",))
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        answer, text = await ask(user)
        assert len(text.split()) == 32
        assert answer.outcome.receipt is not None
        assert answer.headers()["x-yellowstone-provider"] == "0x" + provider.address.hex()
        await lab.settled_height(1)
        await credited(lab, full, 32 * PRICE)
        await until(lambda: lab.chain.claims == [(provider.address, 32 * PRICE)], "the claim")
        await full.parts.sync.pull_book(members[0].node.network.peer_id)
        assert await full.parts.sync.pull_batches(members[0].node.network.peer_id) == 0
        (claim,) = await eventually(provider.node.store.claims, "the claim's record")
        assert (claim.cumulative_wei, claim.amount_wei, claim.status) == (32 * PRICE, 32 * PRICE, "paid")

        # S34: the user's address is told to routers alone, never gossiped, never to the provider or in a sync answer.
        secret = bytes(user.address)
        routers = {member.node.network.peer_id for member in members}
        told = {peer for peer, frame in wire.frames if secret in frame}
        assert told, "the pass request names the user"
        assert told <= routers
        assert not any(secret in data for data in wire.published)
        assert len(wire.published) > 10
        to_provider = [frame for peer, frame in wire.frames if peer == provider.node.network.peer_id]
        assert any(b"tell me" in frame for frame in to_provider), "the prompt is told to the provider"
        # S13: and the prompt to nobody else.
        others = [frame for peer, frame in wire.frames if peer != provider.node.network.peer_id]
        assert not any(b"tell me" in data for data in (*others, *wire.published))
        # Nor does any node but the committee keep the address.
        for running in (provider, full):
            assert not any(secret in data for data in stored(running))
        assert user.parts.public.book.record(user.address, now_ms()) is None


def stored(running: Running) -> list[bytes]:
    return [path.read_bytes() for path in running.node.config.data_dir.iterdir() if path.is_file()]


async def test_a_user_that_vanishes_pays_for_what_it_vouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the provider's filing waits for its router, which still knows the ticket after a restart."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        provider = await lab.start_provider("provider", GatedEngine(open_for=12))
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        home = lab.home_of(user.address)
        number = int(home.name.removeprefix("member"))
        assert user.parts.agent is not None

        async def hold(*, task_status: trio.TaskStatus[UserAnswer]) -> None:
            assert user.parts.agent is not None
            async with user.parts.agent.chat(chat()) as answer:
                await read(answer, 12)
                task_status.started(answer)
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            answer = await nursery.start(hold)
            ticket_id = await only_delivery(provider)

            async def vouched() -> bool:
                held = await provider.node.store.delivery(ticket_id)
                return held is not None and held.tokens >= 11

            # A user vouches for every second T: the twelfth may be its own.
            await eventually(vouched, "the last voucher")
            await home.stop()
            await user.stop()
            nursery.cancel_scope.cancel()
        assert answer.tokens == 12
        await until(lambda: provider.parts.provider is not None and not provider.parts.provider._active, "its end")
        (held,) = await provider.node.store.unfiled_deliveries()
        assert held.receipt is None
        assert held.voucher is not None
        paid = held.voucher.payload.tokens
        assert lab.members[0].parts.public.ledger.total_credited == 0
        await lab.start_member(number)
        await credited(lab, provider, paid * PRICE)

        async def filed() -> bool:
            return not await provider.node.store.unfiled_deliveries()

        await eventually(filed, "the filing")
        outcome = await provider.node.store.outcome(ticket_id)
        assert outcome is not None
        assert (outcome.tokens, outcome.credited_wei, outcome.reason) == (paid, paid * PRICE, "credited")


async def only_delivery(provider: Running) -> Digest:
    async def found() -> list[Any]:
        return await provider.node.store.unfiled_deliveries()

    (held,) = await eventually(found, "a delivery")
    ticket_id: Digest = held.ticket_id
    return ticket_id


async def test_a_provider_that_dies_is_paid_for_what_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the home router restarts between the report and the batch."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        provider = await lab.start_provider("provider", GatedEngine(open_for=10))
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        assert user.parts.agent is not None
        home = lab.home_of(user.address)
        async with user.parts.agent.chat(chat()) as answer:
            await read(answer, 10)
            await provider.stop()
            with pytest.raises(BackendError) as error:
                _ = [piece async for piece in answer.pieces()]
        assert (error.value.status, error.value.code) == (502, "provider_failed")
        assert answer.outcome.tokens == 10
        assert answer.outcome.interrupted == "provider_vanished"
        # it is filed while the agent still looks for another provider, so its batch may have come already
        journal, public = home.member_parts()[2]._journal, user.parts.public
        await until(lambda: journal._filings or public.ledger.outcomes, "the report")
        await home.stop()
        await lab.start_member(int(home.name.removeprefix("member")))
        await credited(lab, user, 10 * PRICE)
        assert user.parts.public.ledger.credits == {key("provider").address: 10 * PRICE}
        (outcome,) = user.parts.public.ledger.outcomes
        assert (outcome.tokens, outcome.charged, outcome.reason) == (10, 10, "credited")
        (session,) = user.parts.sessions.all()
        assert (session["state"], session["passed"], session["tokens"]) == ("broken", True, 10)


async def test_a_provider_serves_none_but_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        one, other = await lab.start_provider("one"), await lab.start_provider("other")
        asker = await lab.start("asker", ("full",))
        who = key("user")
        lab.chain.balances[who.address] = 100 * WEI
        await lab.market(providers=2)
        await lab.knows(asker, providers=2)
        await asker.node.network.connect(one.node.network.multiaddrs, timeout=5)
        domain = lab.terms.domain

        # Liveness: only of one's own bids, and only to members.
        bids = {bid.payload.provider: bid.id(domain) for bid in asker.parts.public.book.all_live(now_ms()).bids}

        async def free_slots(bid_id: Digest, router: Any) -> int:
            stream = await asker.node.network.open_stream(one.node.network.peer_id, LIVENESS, timeout=10)
            query = sign(LivenessQuery(Digest(bytes(32)), bid_id, router.address, now_ms()), router, domain)
            try:
                await stream.send(encode(query))
                answer = decode(Signed[LivenessAnswer], await stream.receive(limit=1_024, timeout=10) or b"")
            finally:
                await stream.aclose()
            assert answer.signer(domain) == one.address
            assert answer.payload.query_id == query.id(domain)
            return answer.payload.free_slots

        assert await free_slots(bids[one.address], MEMBERS[0]) == 2
        assert await free_slots(bids[other.address], MEMBERS[0]) == 0
        assert await free_slots(Digest(bytes(32)), MEMBERS[0]) == 0
        with pytest.raises(RemoteError, match="is not a committee member"):
            await free_slots(bids[one.address], key("stranger"))

        # Sessions: a true ticket once, a stranger's never.
        session = key("session")
        home = lab.home_of(who.address)
        rfc = make_rfc(session, await ask_pass(asker, home, who, session), prompt_bound=512)
        matched = await ask_match(asker, home, rfc)
        true_ticket = matched.ticket
        seller = one if true_ticket.payload.bid.payload.provider == one.address else other
        await asker.node.network.connect(seller.node.network.multiaddrs, timeout=5)
        forged = sign(
            Ticket(
                **{name: getattr(true_ticket.payload, name) for name in true_ticket.payload.__struct_fields__}
                | {"router": key("stranger").address}
            ),
            key("stranger"),
            domain,
        )

        async def use(ticket: Signed[Ticket]) -> int:
            stream = await asker.node.network.open_stream(seller.node.network.peer_id, SESSION, timeout=10)
            body = QueryBody(messages=(ChatMessage("user", "hello"),))
            async with open_session(stream, ticket, body, session, lab.terms, now_ms) as client:
                _ = [piece async for piece in client.pieces()]
            return client.outcome.tokens

        with pytest.raises(SessionError, match="is not a router of day 0") as refused:
            await use(forged)
        assert refused.value.code == "bad_ticket"
        bid = true_ticket.payload.bid.payload
        others = other if seller is one else one
        foreign = sign(replace(bid, provider=others.address), key("other" if seller is one else "one"), domain)
        unknown = sign(replace(bid, model_id=Digest(b"\x07" * 32)), key("one" if seller is one else "other"), domain)
        for change, code in (
            ({"expires_ms": now_ms() - 1}, "ticket_expired"),
            ({"bid": foreign}, "bad_ticket"),
            ({"bid": unknown}, "engine_failed"),
            ({"prompt_bound": 4}, "prompt_over_limit"),
            ({"prompt_bound": bid.prompt_max + 1}, "bad_ticket"),
            ({"token_max": 0}, "bad_ticket"),
            ({"session_key": key("thief").address}, "bad_query"),
        ):
            # a member signs, so that only what is wrong with it is
            with pytest.raises(SessionError) as refused:
                await use(sign(replace(true_ticket.payload, router=MEMBERS[0].address, **change), MEMBERS[0], domain))
            assert refused.value.code == code, change
        assert await use(true_ticket) == 32
        with pytest.raises(SessionError) as refused:
            await use(true_ticket)
        assert refused.value.code == "ticket_used"


async def test_claims_wait_for_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        provider = await lab.start_provider("provider")
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        await ask(user, chat(max_tokens=3))
        await until(lambda: lab.chain.claims == [(provider.address, 3 * PRICE)], "the first claim")

        # An outage: sessions go on, and one claim covers them all. Its answer is lost; it is not claimed twice.
        lab.chain.down, lab.chain.swallows = True, 1
        for total in (7, 11):
            await ask(user, chat(max_tokens=4))
            await credited(lab, provider, total * PRICE)
        assert len(lab.chain.claims) == 1
        lab.chain.down = False
        await until(lambda: len(lab.chain.claims) > 1, "the second claim")
        assert lab.chain.claims[1] == (provider.address, 11 * PRICE)

        # The contract refuses: noted, and the next batch tries again.
        lab.chain.refuses = "compute: over budget"
        await ask(user, chat(max_tokens=2))

        async def reverted() -> bool:
            return any(claim.status == "reverted: compute: over budget" for claim in await provider.node.store.claims())

        await eventually(reverted, "the note of the revert")
        lab.chain.refuses = ""
        # What was left unclaimed is claimed by a provider that starts again, without waiting for a batch.
        await provider.stop()
        await lab.start_provider("provider")
        await until(lambda: len(lab.chain.claims) > 2, "the third claim")
        assert lab.chain.claims[2:] == [(provider.address, 13 * PRICE)]
        provider = lab.running["provider"]

        async def all_closed() -> bool:
            return not await provider.node.store.open_claims()

        await eventually(all_closed, "every claim to have its end")
        noted = [(c.cumulative_wei // PRICE, c.amount_wei // PRICE) for c in await provider.node.store.claims()]
        assert (3, 3) in noted
        assert (11, 8) in noted, "the one whose answer was lost"
        assert noted[-1] == (13, 2)
