"""Passes and RFCs at the home router: what is granted, what is refused, and who takes over."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from consensus.market.access import home_routers
from contracts.signing import Key
from gossip.messages import Unit
from gossip.messages.router import Matched
from node.api.backend import BackendError
from node.context import now_ms
from node.roles.access import AccessRefused, first_index
from node.roles.user import UserAnswer
from tests.consensus.builders import OTHER_MODEL, key
from tests.node.roles.fakes import MEMBERS, WEI
from tests.node.roles.harness import PRICE, Lab, Running, ask, ask_match, ask_pass, chat, make_rfc, open_lab, until


@asynccontextmanager
async def refuses(code: str) -> AsyncIterator[list[AccessRefused]]:
    """The body raises a refusal with ``code``, which the list then holds."""
    caught: list[AccessRefused] = []
    with pytest.raises(AccessRefused) as error:
        yield caught
    assert error.value.code == code, str(error.value)
    caught.append(error.value)


async def passes(lab: Lab, asker: Running, user: Key) -> None:
    """What a home router grants, and to whom."""
    home, other = lab.home_of(user.address), lab.home_of(user.address, 1)
    granted = await ask_pass(asker, home, user, key("s1"))
    access_pass = granted.access_pass.payload
    assert granted.access_pass.signer(lab.terms.domain) == home.address == access_pass.issuer
    assert (access_pass.session_key, access_pass.day, access_pass.allowance) == (key("s1").address, 0, 768)
    assert (granted.used, granted.next_index) == (0, 0)
    assert await ask_pass(asker, home, user, key("s1")) == granted, "the same request gets the same pass"
    async with refuses("index_used"):
        thief = same_home(lab, user, "thief")
        lab.chain.balances[thief.address] = WEI
        await ask_pass(asker, home, thief, key("s1"))
    async with refuses("wrong_router"):
        await ask_pass(asker, other, user, key("s2"))
    async with refuses("wrong_day"):
        await ask_pass(asker, home, user, key("s2"), day=3)
    poor = same_home(lab, user, "poor")
    async with refuses("no_balance"):
        await ask_pass(asker, home, poor, key("s3"))


def same_home(lab: Lab, user: Key, prefix: str) -> Key:
    """Another key with the same home router on day 0."""
    return key(name_of_same_home(lab, user, prefix))


def name_of_same_home(lab: Lab, user: Key, prefix: str) -> str:
    members = [member.address for member in lab.committee.members]
    home = home_routers(user.address, 0, members)[0]
    names = (f"{prefix} {number}" for number in range(999))
    return next(name for name in names if home_routers(key(name).address, 0, members)[0] == home)


async def rfcs(lab: Lab, asker: Running, user: Key) -> None:
    """What an RFC is refused for, and that a refusal costs nothing but its index (S36)."""
    home, other = lab.home_of(user.address), lab.home_of(user.address, 1)
    session = key("s4")
    granted = await ask_pass(asker, home, user, session, tokens=1_000)
    allowance = granted.access_pass.payload.allowance
    async with refuses("token_max_over_allowance") as caught:
        await ask_match(asker, home, make_rfc(session, granted, token_max=allowance + 1))
    assert caught[0].allowance_left == allowance
    async with refuses("unknown_model") as caught:
        await ask_match(asker, home, make_rfc(session, granted, index=1, model_id=OTHER_MODEL))
    assert caught[0].allowance_left == allowance
    async with refuses("prompt_over_limit") as caught:
        await ask_match(asker, home, make_rfc(session, granted, index=2, prompt_bound=100_000))
    assert caught[0].allowance_left == allowance
    async with refuses("unit_unsupported"):
        await ask_match(asker, home, make_rfc(session, granted, index=3, unit=Unit.AUDIO_SAMPLE))
    async with refuses("expired"):
        await ask_match(asker, home, make_rfc(session, granted, index=4, deadline_ms=now_ms() - 1))
    async with refuses("wrong_router"):
        await ask_match(asker, other, make_rfc(session, granted, index=5))
    rfc = make_rfc(session, granted, index=6, token_max=allowance)
    matched = await ask_match(asker, home, rfc)
    assert matched.ticket.payload.session_key == session.address
    assert await ask_match(asker, home, rfc) == matched, "the same RFC gets the same answer"
    async with refuses("allowance_held"):
        await ask_match(asker, home, make_rfc(session, granted, index=7, token_max=1))
    for index in (6, 8):
        async with refuses("index_used") as caught:
            await ask_match(asker, home, make_rfc(session, granted, index=index, token_max=2))
        assert caught[0].allowance_left == 0


async def outage(lab: Lab, asker: Running, user: Key) -> None:
    """The chain is away: whom the router knows is served, others are told to come back (S5)."""
    home = lab.home_of(user.address)
    unknown = same_home(lab, user, "unknown")
    lab.chain.balances[unknown.address] = WEI
    lab.chain.down = True
    granted = await ask_pass(asker, home, user, key("s5"), tokens=64)
    assert isinstance(await ask_match(asker, home, make_rfc(key("s5"), granted)), Matched)
    async with refuses("busy"):
        await ask_pass(asker, home, unknown, key("s6"))
    lab.chain.down = False
    await ask_pass(asker, home, unknown, key("s6"))


async def test_the_desk_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", slots=64)
        asker = await lab.start("asker", ("full",))
        user = key("user")
        lab.chain.balances[user.address] = 5 * WEI
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        await passes(lab, asker, user)
        await rfcs(lab, asker, user)
        await outage(lab, asker, user)


async def test_a_users_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent: too large a request, many at once, a router that dies, an agent that restarts."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        poor, user = await lab.start_user("poor", 0), await lab.start_user("user", 100 * WEI)
        with pytest.raises(BackendError) as error:
            await ask(user)
        assert (error.value.status, error.value.code, error.value.retry_after) == (503, "no_bids", 1)
        await lab.start_provider("provider", slots=16)
        await lab.market(providers=1)
        with pytest.raises(BackendError) as error:
            await ask(poor)
        assert (error.value.status, error.value.code) == (403, "no_balance")

        # UserMax is 345,600 T, of which a pass holds 2^18.
        with pytest.raises(BackendError) as error:
            await ask(user, chat(max_tokens=400_000))
        assert (error.value.status, error.value.code) == (429, "token_max_over_allowance")
        assert f"({1 << 18} T of the pass left)" in str(error.value)
        answer, text = await ask(user, chat(max_tokens=20))
        assert text.split() == [f"t{number}" for number in range(20)]
        assert answer.outcome.finish == "length"

        with pytest.raises(BackendError) as error:
            await ask(user, chat("word " * 3_000))
        assert (error.value.status, error.value.code) == (400, "context_length_exceeded")
        with pytest.raises(BackendError) as error:
            await ask(user, chat(model="another"))
        assert (error.value.status, error.value.code) == (404, "model_not_found")

        # Many at once reach the router in the order of their indexes.
        answers: list[tuple[UserAnswer, str]] = []

        async def one() -> None:
            answers.append(await ask(user))

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(one)
        assert len({answer.rfc_id for answer, _ in answers}) == 12
        paid = (20 + 12 * 32) * PRICE
        await until(lambda: user.parts.public.ledger.total_credited == paid, "all of it credited")

        # The home router dies: the next in rank takes over, without a word to the client.
        first = lab.home_of(user.address)
        await first.stop()
        await until(lambda: all(first.address not in m.member_parts()[1].linked for m in lab.members), "all to notice")
        answer, _ = await ask(user)
        assert answer._ticket.router == lab.rank_of(user.address, 1)
        name = name_of_same_home(lab, key("user"), "late")
        late = await lab.start_user(name, 100 * WEI)
        await lab.market(providers=1)
        answer, _ = await ask(late)
        assert answer._ticket.router == lab.rank_of(late.address, 1)

        # It comes back and hears of the passes that the other gave; so does an agent that starts again.
        await lab.start_member([key_.address for key_ in MEMBERS].index(first.address))
        await lab.linked()
        issued = lab.member(first.address).desk().allowances.issued_to
        await until(lambda: issued(late.address, 0) == 1 << 15, "news of the late one's pass")
        assert issued(user.address, 0) == (1 << 18) + (1 << 15), "its own from its journal, the other's by the link"
        await user.stop()
        await late.stop()
        user, late = await lab.start_user("user", 100 * WEI), await lab.start_user(name, 100 * WEI)
        await lab.market(providers=1)
        for agent in (user, late):
            answer, _ = await ask(agent)
            assert answer._ticket.router == first.address
        assert not any(one.parts.evidence.report() for one in lab.running.values()), "nobody has cheated"


def test_a_later_wallet_begins_above_the_indexes_of_an_earlier_and_shares_none() -> None:
    """What an agent gossiped just before a crash its router may never have seen."""
    now = now_ms()
    firsts = [first_index(now) for _ in range(50)]
    assert len(set(firsts)) > 45, "wallets opened at once can't be told to be one user's"
    a_long_run = 1_000
    assert first_index(now + 1_000) > max(firsts) + a_long_run
    assert first_index(1 << 42) < 2**63, "it fits on the wire for the next century"
