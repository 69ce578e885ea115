"""Demand by gossip: what is passed on, and what a double index looks like."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from consensus.evidence import OffenceKind
from contracts.typed_data import Digest
from gossip.errors import MalformedMessage, MessageExpired, SignerMismatch
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
        with pytest.raises(MalformedMessage, match="ahead"):
            demand.check(rfc_of(lab, deadline_ms=now_ms() + 2 * MAX_WAIT_MS))
        with pytest.raises(SignerMismatch):
            demand.check(Signed(replace(good.payload, index=7), good.signature))
        strange = sign(replace(good.payload.access_pass.payload, issuer=key("x").address), key("x"), lab.terms.domain)
        with pytest.raises(MalformedMessage, match="not a router of its day"):
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
