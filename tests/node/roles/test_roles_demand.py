"""Demand by gossip: what is passed on, and what a double index looks like."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from consensus.evidence import OffenceKind
from contracts.typed_data import Digest
from gossip.errors import MalformedMessage, MessageExpired, MessageTooEarly, SignerMismatch
from gossip.messages import Signed, sign
from gossip.messages.market import Rfc
from node.context import now_ms
from node.roles.demand import MAX_WAIT_MS, Demand
from node.roles.evidence import EvidencePool
from node.roles.public import PublicState
from tests.consensus.builders import key
from tests.node.roles.fakes import DOMAIN, WEI
from tests.node.roles.harness import Lab, ask, open_lab, until


def rfc_of(lab: Lab, **changes: object) -> Signed[Rfc]:
    made = lab.world().rfc()
    payload = replace(made.payload, **({"deadline_ms": now_ms() + 5_000} | changes))
    return sign(payload, key("session"), lab.terms.domain)


async def test_only_signed_timely_rfcs_with_a_members_pass_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab, lab.bare("node", ("full",)) as running:
        public = PublicState(running, lab.genesis())
        demand = Demand(running, public, EvidencePool(running, public))
        good = rfc_of(lab)
        demand.check(good)
        with pytest.raises(MessageExpired):
            demand.check(rfc_of(lab, deadline_ms=now_ms() - 1))
        with pytest.raises(MessageTooEarly, match="ahead"):
            demand.check(rfc_of(lab, deadline_ms=now_ms() + 2 * MAX_WAIT_MS))
        with pytest.raises(SignerMismatch):
            demand.check(Signed(replace(good.payload, index=7), good.signature))
        strange = sign(replace(good.payload.access_pass.payload, issuer=key("x").address), key("x"), lab.terms.domain)
        with pytest.raises(MessageTooEarly, match="not a router of its day"):
            demand.check(rfc_of(lab, access_pass=strange))
        with pytest.raises(MalformedMessage, match="another session key"):
            demand.check(sign(replace(good.payload, session_key=key("y").address), key("y"), lab.terms.domain))


async def test_one_index_twice_is_noticed_and_a_repetition_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab, lab.bare("node", ("full",)) as running:
        pool = EvidencePool(running, PublicState(running, lab.genesis()))
        demand = Demand(running, PublicState(running, lab.genesis()), pool)
        first = rfc_of(lab)
        demand.take(first)
        demand.take(first)
        demand.take(rfc_of(lab, index=first.payload.index + 1))
        assert not pool.report()
        other = rfc_of(lab, token_max=first.payload.token_max - 1)
        assert demand.stands(first.payload)
        demand.take(other)
        assert not demand.stands(rfc_of(lab, index=first.payload.index + 2).payload), "its pass has ended"
        assert [(case["kind"], case["offender"]) for case in pool.report()] == [
            (OffenceKind.RFC_INDEX, key("session").address)
        ]


async def test_a_router_tells_topics_that_it_does_not_follow_and_nobody_else_follows_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each topic has one member here: with four of them, three home routers in four do not follow a model's."""
    monkeypatch.setattr("node.roles.demand.FOLLOWERS", 1)
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        seller = await lab.start_provider("provider", slots=16)
        full, listener = await lab.start("full", ("full",)), await lab.start("listener", ("full",), follow_rfcs=True)
        users = [await lab.start_user(f"user {number}", 100 * WEI) for number in range(4)]
        await lab.market(providers=1)
        await lab.knows(listener, providers=1)
        demands = [member.parts.demand for member in members]
        assert all(demand is not None for demand in demands)
        followed = [topic for demand in demands if demand is not None for topic in demand.followed]
        assert sorted(followed) == sorted(members[0].node.topics.rfc_shards())
        assert [one.parts.demand for one in (seller, full, *users)] == [None] * 6
        assert listener.parts.demand is not None
        await until(lambda: bool(listener.parts.demand and listener.parts.demand.followed), "the listener's topic")
        (topic,) = listener.parts.demand.followed
        (follower,) = [one for one in members if one.parts.demand is not None and topic in one.parts.demand.followed]
        answers = {(await ask(user))[0].rfc_id for user in users}
        for hears in (follower, listener):
            demand = hears.parts.demand
            assert demand is not None
            await until(lambda demand=demand: answers <= {one["rfc_id"] for one in demand.heard()}, hears.name)  # type: ignore[misc]  # a default binds

        # Who has left the committee hears no more of it.
        monkeypatch.setattr("node.roles.demand.followed_shards", lambda *_: ())
        await until(lambda: not any(demand.followed for demand in demands if demand is not None), "nobody to follow")


async def test_every_rfc_of_a_user_reaches_every_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first, sent as soon as the user sees a bid, on."""
    taken: dict[Demand | None, set[Digest]] = {}
    take = Demand.take

    def note(demand: Demand, rfc: Signed[Rfc]) -> None:
        taken.setdefault(demand, set()).add(rfc.id(DOMAIN))
        take(demand, rfc)

    monkeypatch.setattr(Demand, "take", note)
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", slots=16)
        user = await lab.start_user("user", 100 * WEI)
        await lab.market(providers=1)
        asked = {(await ask(user))[0].rfc_id}

        async def one() -> None:
            asked.add((await ask(user))[0].rfc_id)

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(one)
        assert len(asked) == 13

        await until(
            lambda: all(taken.get(member.parts.demand) == asked for member in lab.members), "every RFC at every member"
        )
        assert not any(member.parts.evidence.report() for member in lab.members)
        assert not user.node.network.statistics().drops.get("outbox_full")
