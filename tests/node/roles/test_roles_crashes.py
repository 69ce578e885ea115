"""A real member, with its real log and guard, that loses its power at the first message of its log, the second, …"""

from itertools import count
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from consensus.committee import Committee, Member
from consensus.tendermint.certificate import verify_certificate
from contracts.typed_data import Digest, Domain, digest
from gossip.messages.base import Signed
from gossip.messages.committee import Prevote
from node.errors import StoreError
from node.signing_guard import SigningGuard
from node.signing_history import Place
from node.wal import Wal
from tests.consensus.builders import key
from tests.node.roles.fakes import DOMAIN, WEI
from tests.node.roles.harness import SHORT, Lab, open_lab, until

ALONE = key("member 0")
"""The issuer of all passes, too."""

FAST = replace(SHORT, slot_ms=100, propose_ms=200, prevote_ms=100, precommit_ms=100)
MOST = 60
"""Messages of a log that a decision may take, slots that go by included."""


class PowerLost(Exception):
    """The planted crash."""


class Power:
    """Fails at message ``fails_at`` of a log, counted from 1 in each life."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails_at = 0
        self.messages = 0
        honest = Wal.append

        def append(wal: Wal, data: bytes) -> None:
            self.messages += 1
            if self.messages == self.fails_at:
                raise PowerLost(self.messages)
            honest(wal, data)

        monkeypatch.setattr(Wal, "append", append)


class Witness:
    """Sees all that is signed in the lives of one member."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, domain: Domain) -> None:
        self.signed: dict[Place, Digest] = {}
        self.contradictions: list[Place] = []
        honest = SigningGuard.sign

        async def sign(guard: SigningGuard, payload: Prevote, why: str = "") -> Signed[Prevote]:
            made = await honest(guard, payload, why)
            value = digest(domain, payload)
            if self.signed.setdefault(Place.of(payload), value) != value:
                self.contradictions.append(Place.of(payload))
            return made

        monkeypatch.setattr(SigningGuard, "sign", sign)


def alone(lab: Lab) -> None:
    """Make a committee of the first member, who decides by itself."""
    lab.committee = Committee.of(1, [Member(ALONE.address, 1_000 * WEI)])
    own = tuple(one for one in lab.network.commitments if one.payload.member == ALONE.address)
    lab.network = replace(lab.network, members=lab.committee.members, commitments=own)


async def live(lab: Lab, name: str) -> bool:
    """Start the member, give it a session to settle, and see it decided; False where its power failed before."""
    survives = True
    try:
        async with trio.open_nursery() as nursery:
            lab._nursery = nursery
            member = await lab.start(name, ("member",), ALONE)
            if member.height == 0:
                member.member_parts()[2]._hand_over(lab.world().settlement())
            await until(lambda: member.height == 1, "a decision")
            batch = await member.node.store.get_batch(1)
            assert batch is not None
            verify_certificate(batch.certificate, batch.header, lab.committee, lab.terms.domain)
            assert len(batch.body.settlements) == 1
            nursery.cancel_scope.cancel()
    except* PowerLost:
        survives = False
    except* StoreError:
        if survives:
            raise
        # the power went while the decision was being read
    return survives


async def test_a_member_that_crashes_at_message_1_2_3_of_its_log_decides_and_never_contradicts_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    power, witness = Power(monkeypatch), Witness(monkeypatch, DOMAIN)
    async with open_lab(tmp_path, monkeypatch, FAST) as lab:
        alone(lab)
        for fails_at in count(1):
            assert fails_at < MOST
            name = f"crash {fails_at}"
            power.fails_at, power.messages = fails_at, 0
            witness.signed.clear()
            survived = await live(lab, name)
            power.fails_at = 0
            assert await live(lab, name), "what it had before it was lost is enough to go on"
            assert not witness.contradictions
            assert len(witness.signed) >= 3
            if survived:
                break
        assert fails_at > 5, "slot, session, proposal, prevote and precommit are messages"
