"""Evidence in and out: what this node finds out itself, hears by gossip or is told in a book answer, kept for good.

A piece of evidence is examined before it is passed on or kept, and kept once an offence. Whoever has to act on a case
(a router on an abused pass, a finder on an equivocation) watches for it here.
"""

from collections.abc import Callable
from typing import Any

import trio

from consensus.cases import Case, Cases
from consensus.errors import EvidenceInvalid
from consensus.evidence import Evidence, OffenceKind, examine
from consensus.market.doubles import Doubles
from contracts.typed_data import Address, Digest
from gossip.errors import MessageError
from gossip.messages import Signed, encode
from gossip.messages.evidence import MAX_EVIDENCE_BYTES, decode_evidence
from gossip.messages.market import AccessPass, Rfc
from gossip.network import Verdict
from node.context import Node, now_ms
from node.roles.public import PublicState
from node.store import Fate, FateWord

QUEUE = 4_096
"""Cases that wait to be written and passed on."""

ABUSES_OFFERED = 256
"""Abused passes in a book answer at most: the newest."""

SLASHED = {
    FateWord.OPEN: None,
    FateWord.SLASHED: True,
    FateWord.PUNISHED: True,
    FateWord.NOTHING_TO_SLASH: False,
    FateWord.REFUSED: False,
}
"""Whether the offender lost stake; None where that is not known, or not yet."""


class EvidencePool:
    """The cases that a node knows, and what the chain made of them."""

    def __init__(self, node: Node, public: PublicState) -> None:
        self._node = node
        self._public = public
        self._cases = Cases()
        self._fates: dict[Digest, Fate] = {}
        self._doubles = Doubles(node.terms.domain)
        self._watchers: list[Callable[[Case], None]] = []
        self._new_in, self._new_out = trio.open_memory_channel[tuple[Case, bool]](QUEUE)

    async def load(self) -> None:
        """Take up what earlier runs kept; abuses of days that are over are dropped."""
        for row in await self._node.store.evidence():
            try:
                evidence = decode_evidence(row.data)
                case = Case(evidence, examine(evidence, self._node.terms.domain), row.first_seen_ms)
            except (MessageError, EvidenceInvalid) as error:
                self._node.log.error("stored evidence does not hold", reason=str(error))
                continue
            if self._cases.add(case, day=self._day()):
                self._fates[case.offence.id] = row.fate
            else:
                await self._node.store.drop_evidence(row.offence_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, write down and pass on for ever."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._consume)
            nursery.start_soon(self._keep)
            nursery.start_soon(self._watch_days)
            task_status.started()

    def watch(self, callback: Callable[[Case], None]) -> None:
        """Call ``callback`` with every case there is and every one to come; it must not block."""
        self._watchers.append(callback)
        for case in self._cases.all():
            callback(case)

    # What this node sees itself.

    def note_rfc(self, rfc: Signed[Rfc]) -> None:
        """An RFC under a member's pass, both with signatures that hold: does it exclude one that was seen before?"""
        for evidence in self._doubles.note_rfc(rfc):
            self.found(evidence)

    def note_pass(self, access_pass: Signed[AccessPass]) -> None:
        """A member's pass whose signature holds: does it exclude one that was seen before?"""
        evidence = self._doubles.note_pass(access_pass)
        if evidence is not None:
            self.found(evidence)

    def found(self, evidence: Evidence) -> None:
        """Evidence that this node made of what it heard: keep it and tell everybody."""
        if self.judge(evidence) is Verdict.ACCEPT:
            self._add(evidence, own=True)

    # What others say.

    def judge(self, evidence: Evidence) -> Verdict:
        """Whether to pass evidence on. Whoever forwards what proves nothing is at fault; what is known, or has no
        room, or accuses somebody unknown to this node, is nobody's fault."""
        if self._cases.holds(evidence):
            return Verdict.IGNORE
        try:
            offence = examine(evidence, self._node.terms.domain)
        except EvidenceInvalid as error:
            self._node.log.info("bad evidence", kind=type(evidence).__name__, reason=str(error))
            return Verdict.REJECT
        if not self._is_member(offence.answerable) or not self._cases.has_room_for(offence, day=self._day()):
            return Verdict.IGNORE
        return Verdict.ACCEPT

    def take(self, evidence: Evidence) -> None:
        """Keep evidence that was judged."""
        self._add(evidence, own=False)

    def offered(self) -> list[Evidence]:
        """What a book answer tells of: cases against members, and the newest abused passes."""
        cases = self._cases.all()
        abuses = [case for case in cases if case.offence.kind is OffenceKind.RFC_INDEX][-ABUSES_OFFERED:]
        members = [case for case in cases if case.offence.kind is not OffenceKind.RFC_INDEX]
        return [case.evidence for case in (*members, *abuses)]

    # What is known.

    def equivocators(self) -> tuple[Address, ...]:
        """Members that were caught signing two things for one place."""
        return tuple(sorted(self._cases.equivocators()))

    def has_issued_twice(self, router: Address, day: int) -> bool:
        """Whether ``router`` was caught giving two passes to one session key for ``day``."""
        return self._cases.has_issued_twice(router, day)

    def has_abused(self, session_key: Address, day: int) -> bool:
        """Whether ``session_key`` was caught using one index of its pass of ``day`` twice."""
        return self._cases.has_abused(session_key, day)

    def fate(self, offence_id: Digest) -> Fate:
        """What the chain made of an offence, as far as this node knows."""
        return self._fates.get(offence_id, Fate())

    async def settle(self, case: Case, fate: Fate) -> None:
        """What the chain made of an offence; known once it is on the disk."""
        offence_id = case.offence.id
        await self._node.store.put_evidence(offence_id, encode(case.evidence), case.first_seen_ms)
        await self._node.store.put_fate(offence_id, fate)
        self._fates[offence_id] = fate

    def report(self) -> list[dict[str, Any]]:
        """Every case for the control API: who, what, where, since when, and whether it cost stake."""
        return [self._told(case) for case in self._cases.all()]

    def _told(self, case: Case) -> dict[str, Any]:
        offence, fate = case.offence, self.fate(case.offence.id)
        place: dict[str, Any] = {"height": offence.height, "round": offence.round}
        if case.equivocation is None:
            place = {"day": offence.day, "session_key": offence.session_key, "issuer": offence.answerable}
        return {
            "id": offence.id,
            "kind": offence.kind,
            "offender": offence.offender,
            **place,
            "first_seen_ms": case.first_seen_ms,
            "punishable": case.equivocation is not None,
            "slashed": SLASHED[fate.word],
            "fate": fate.word.value,
            "detail": fate.detail,
            "tx_hash": fate.tx_hash,
            "reward_wei": fate.reward_wei,
            "evidence": encode(case.evidence),
        }

    def _is_member(self, address: Address) -> bool:
        """Whether ``address`` was ever a committee member, as far as this node knows: its stake may still be there."""
        return any(term.committee.weight(address) for term in self._public.epochs.values())

    def _day(self) -> int:
        return self._node.terms.params.day_of(self._node.slot())

    def _add(self, evidence: Evidence, *, own: bool) -> None:
        try:
            case = Case(evidence, examine(evidence, self._node.terms.domain), now_ms())
        except EvidenceInvalid as error:
            self._node.log.info("bad evidence", kind=type(evidence).__name__, reason=str(error))
            return
        if not self._cases.add(case, day=self._day()):
            return
        offence = case.offence
        self._node.log.error(
            "evidence",
            kind=offence.kind.name.lower(),
            offender=offence.offender.hex(),
            id=offence.id.hex(),
            own=own,
        )
        try:
            self._new_in.send_nowait((case, own))
        except trio.WouldBlock:
            self._node.log.error("evidence is not stored: too much of it waits", id=offence.id.hex())
        for callback in self._watchers:
            callback(case)

    # Tasks.

    async def _consume(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        topic = self._node.topics.evidence
        messages = await self._node.network.subscribe(topic, self._judge_bytes, max_bytes=MAX_EVIDENCE_BYTES)
        task_status.started()
        async for message in messages:
            self.take(decode_evidence(message.data))

    def _judge_bytes(self, data: bytes, _: str) -> Verdict:
        try:
            return self.judge(decode_evidence(data))
        except MessageError as error:
            self._node.log.info("bad gossip", topic=self._node.topics.evidence, reason=str(error))
            return Verdict.REJECT

    async def _keep(self) -> None:
        """On the disk first: who hears of it may ask for it after a restart."""
        async for case, own in self._new_out:
            data = encode(case.evidence)
            await self._node.store.put_evidence(case.offence.id, data, case.first_seen_ms)
            if own:
                await self._node.network.publish(self._node.topics.evidence, data)

    async def _watch_days(self) -> None:
        slot, day = self._node.slot(), self._day()
        while True:
            slot = await self._node.next_slot(slot)
            if self._day() == day:
                continue
            day = self._day()
            for offence_id in self._cases.forget_abuses_before(day - 1):
                self._fates.pop(offence_id, None)
                await self._node.store.drop_evidence(offence_id)
