"""A home router that dies within a day: its users lose no T, and when it comes back nobody spends a T twice (S36)."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from consensus.market.access import user_max
from consensus.market.desk import Desk
from consensus.market.ledger_state import Ledger, account_of
from gossip.messages import Signed, decode
from gossip.messages.market import PassIssued
from gossip.messages.session import Settlement
from node.roles import succession
from node.roles.access import AccessRefused
from node.roles.journal import PASS, DeskJournal
from tests.consensus.builders import key
from tests.node.roles.fakes import MEMBERS, WEI
from tests.node.roles.harness import (
    PATIENCE_S,
    Lab,
    Running,
    ask_match,
    ask_pass,
    eventually,
    make_rfc,
    open_lab,
    until,
)

T = TypeVar("T")

BALANCE_WEI = 5 * WEI


async def patient(question: Callable[[], Awaitable[T]]) -> T:
    """Ask again where a router has not heard the others for a lease, as happens on a machine that is busy for seconds:
    whoever may not serve says so, and a user's agent asks again too."""
    with trio.fail_after(PATIENCE_S):
        while True:
            try:
                return await question()
            except AccessRefused as refused:
                if refused.code != "no_quorum":
                    raise
            await trio.sleep(0.1)


async def everything(asker: Running, router: Running, who: Any, name: str) -> list[Any]:
    """As many passes as a user can have of a router: all that is left of UserMax."""
    passes = []
    for number in range(64):
        try:
            session = key(f"{name} {number}")
            passes.append(await patient(partial(ask_pass, asker, router, who, session, tokens=0)))
        except AccessRefused as refused:
            if refused.code != "token_max_over_allowance":
                raise
            return passes
    pytest.fail("more than 64 passes")


def total(passes: list[Any]) -> int:
    return sum(granted.access_pass.payload.allowance for granted in passes)


def most_of(lab: Lab, running: Running) -> int:
    account = account_of(running.parts.public.ledger, lab.terms, 0)
    return user_max(account.max_t, account.supply_wei, BALANCE_WEI)


def slow_down_restores(patch: pytest.MonkeyPatch, lab: Lab) -> None:
    """A journal that is read so slowly that a router which opened its link before would have been told all by then."""
    restore = DeskJournal.restore

    async def slowly(self: DeskJournal, desk: Desk, ledger: Ledger, slot: int) -> tuple[Settlement, ...]:
        with trio.move_on_after(1):
            while not all(self._node.address in one.member_parts()[1].linked for one in lab.members):
                await trio.sleep(0.01)
            await lab.members[0].node.next_slot(lab.members[0].node.slot())
        return await restore(self, desk, ledger, slot)

    patch.setattr(DeskJournal, "restore", slowly)


async def comes_back(lab: Lab, asker: Running, old: list[Any], known: list[Any], most: int) -> None:
    """The home router starts again, is told what happened, serves none of its old passes, and is gone again."""
    who, second = key("user"), lab.home_of(key("user").address, 1)
    address = lab.rank_of(who.address, 0)
    first = await lab.start_member([member.address for member in MEMBERS].index(address))
    await lab.linked()
    await lab.knows(asker, providers=1)
    await until(lambda: key("old 1").address in first.desk().allowances._ended, "news of what ended")
    for place, granted in enumerate(old[:2]):
        rfc = make_rfc(key(f"old {place}"), granted, index=5, token_max=1)
        with pytest.raises(AccessRefused, match="another router gave its rest anew"):
            await patient(partial(ask_match, asker, first, rfc))
    with pytest.raises(AccessRefused, match="0 T are left of UserMax"):
        await patient(partial(ask_pass, asker, first, who, key("more"), tokens=0))
    assert first.desk().allowances.issued_to(who.address, 0) == most
    expected = {granted.access_pass.payload.session_key for granted in known}

    async def are_stored() -> bool:
        stored = [event for event in await first.node.store.journal(0) if event.kind == PASS]
        sessions = {decode(Signed[PassIssued], event.data).payload.access_pass.payload.session_key for event in stored}
        return sessions == expected

    await eventually(are_stored, "every pass of the day on the disk, and no other")
    await first.stop()
    await until(lambda: address not in second.member_parts()[1].linked, "its death")


async def test_a_router_that_dies_loses_no_allowance_and_opens_no_double_spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "LEASE_MS", 4_000)
    monkeypatch.setattr(succession, "GONE_MS", 3_600_000)
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", slots=16)
        asker = await lab.start("asker", ("full",))
        who = key("user")
        lab.chain.balances[who.address] = BALANCE_WEI
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        first, second = lab.home_of(who.address), lab.home_of(who.address, 1)
        most = most_of(lab, first)

        # All of the day's allowance lies in passes of the home router, and a little of it is used when it dies.
        old = await everything(asker, first, who, "old")
        assert total(old) == most
        used = 64
        await patient(partial(ask_match, asker, first, make_rfc(key("old 0"), old[0], token_max=used)))
        told = second.desk().allowances
        await until(lambda: told._told.get(key("old 0").address) == used, "the next in rank to know what is used")
        await first.stop()
        await until(lambda: first.address not in second.member_parts()[1].linked, "the death to be noticed")
        with pytest.raises(AccessRefused, match="0 T are left of UserMax"):
            # Until its lease has run out it may still serve somebody.
            await patient(partial(ask_pass, asker, second, who, key("too early"), tokens=0))
        monkeypatch.setattr(succession, "GONE_MS", 5_000)
        gone = second.member_parts()[2]._succession.gone
        await until(lambda: first.address in gone(0), "the lease to run out")

        # The next in rank gives all the rest anew, and no more.
        new = await everything(asker, second, who, "new")
        assert total(new) == most - used
        await patient(partial(ask_match, asker, second, make_rfc(key("new 0"), new[0], token_max=100)))

        # The first comes back: nothing of its old passes is worth anything, also where its journal says so.
        with monkeypatch.context() as patch:
            slow_down_restores(patch, lab)
            await comes_back(lab, asker, old, [*old, *new], most)
        await comes_back(lab, asker, old, [*old, *new], most)
        # What the second gave goes on, over all of it.
        await patient(partial(ask_match, asker, second, make_rfc(key("new 0"), new[0], index=1, token_max=100)))
        assert not any(one.parts.evidence.report() for one in lab.running.values()), "nobody has cheated"


async def test_a_router_that_hears_too_few_serves_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it matched could be settled by nobody, and others may be giving its users' passes anew."""
    monkeypatch.setattr(succession, "LEASE_MS", 2_000)
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee(3)
        await lab.start_provider("provider", slots=16)
        asker = await lab.start("asker", ("full",))
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        here = {member.address for member in members}
        who = next(key(name) for name in map(str, range(99)) if lab.rank_of(key(name).address, 0) in here)
        lab.chain.balances[who.address] = BALANCE_WEI
        home = lab.home_of(who.address)
        granted = await ask_pass(asker, home, who, key("s"), tokens=64)
        away = next(member for member in members if member is not home)
        await away.stop()
        why_not = home.member_parts()[2]._succession.why_not
        await until(lambda: why_not() is not None, "the lease to run out")
        for question in (
            ask_match(asker, home, make_rfc(key("s"), granted, token_max=1)),
            ask_pass(asker, home, who, key("s2"), tokens=64),
        ):
            with pytest.raises(AccessRefused, match="hears too little of the committee") as refused:
                await question
            assert refused.value.code == "no_quorum"
        assert home.member_parts()[2]._succession.gone(0) == frozenset(), "who may not serve takes nothing over"
