"""Demand by gossip: what is passed on, and what a double index looks like."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.evidence import OffenceKind
from gossip.errors import MalformedMessage, MessageExpired, SignerMismatch
from gossip.messages import Signed, sign
from gossip.messages.market import Rfc
from node.context import now_ms
from node.roles.demand import MAX_WAIT_MS, Demand
from node.roles.evidence import EvidencePool
from node.roles.public import PublicState
from tests.consensus.builders import key
from tests.node.roles.harness import Lab, open_lab


def rfc_of(lab: Lab, **changes: object) -> Signed[Rfc]:
    made = lab.world().rfc()
    payload = replace(made.payload, **({"deadline_ms": now_ms() + 5_000} | changes))
    return sign(payload, key("session"), lab.terms.domain)


async def test_only_signed_timely_rfcs_with_a_members_pass_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab, lab.bare("node", ("full",)) as running:
        demand = Demand(running, PublicState(running, lab.genesis()), EvidencePool(running))
        good = rfc_of(lab)
        demand.check(good)
        with pytest.raises(MessageExpired):
            demand.check(rfc_of(lab, deadline_ms=now_ms() - 1))
        with pytest.raises(MalformedMessage, match="ahead"):
            demand.check(rfc_of(lab, deadline_ms=now_ms() + 2 * MAX_WAIT_MS))
        with pytest.raises(SignerMismatch):
            demand.check(Signed(replace(good.payload, index=7), good.signature))
        strange = sign(replace(good.payload.access_pass.payload, issuer=key("x").address), key("x"), lab.terms.domain)
        with pytest.raises(MalformedMessage, match="not a member"):
            demand.check(rfc_of(lab, access_pass=strange))
        with pytest.raises(MalformedMessage, match="another session key"):
            demand.check(sign(replace(good.payload, session_key=key("y").address), key("y"), lab.terms.domain))


async def test_one_index_twice_is_noticed_and_a_repetition_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab, lab.bare("node", ("full",)) as running:
        pool = EvidencePool(running)
        demand = Demand(running, PublicState(running, lab.genesis()), pool)
        first = rfc_of(lab)
        demand.take(first)
        demand.take(first)
        demand.take(rfc_of(lab, index=first.payload.index + 1))
        assert not pool.report()
        other = rfc_of(lab, token_max=first.payload.token_max - 1)
        demand.take(other)
        assert [(case["kind"], case["offender"]) for case in pool.report()] == [
            (OffenceKind.RFC_INDEX, key("session").address)
        ]
