"""A committee member: runs the consensus core, signs what it asks for, and turns decisions into certified batches.

One task owns the core and takes inputs from one bounded channel, so that no two inputs interleave.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from consensus.errors import ConsensusError
from consensus.market.batch import propose_batch
from consensus.market.errors import MarketError
from consensus.tendermint.certificate import assemble_certificate
from consensus.tendermint.driver import Driver, step
from consensus.tendermint.events import (
    CastVote,
    Decided,
    Effect,
    EquivocationFound,
    GetValue,
    Input,
    Propose,
    ScheduleTimeout,
    Start,
    TimeoutElapsed,
    ValueReady,
    VoteIn,
)
from consensus.tendermint.timeouts import duration_ms
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Signature
from gossip.errors import MessageError
from gossip.messages import Signed, encode, sign
from gossip.messages.committee import (
    BatchBody,
    BatchHeader,
    CertifiedBatch,
    CommitmentFrame,
    DecidedFrame,
    LinkFrame,
    PassFrame,
    Precommit,
    PrecommitFrame,
    Prevote,
    PrevoteFrame,
    ProposalFrame,
    SettlementFrame,
    StatusFrame,
    batch_hash,
)
from gossip.messages.market import PassIssued
from gossip.messages.records import BeaconCommitment
from gossip.messages.session import Settlement
from node.context import Node
from node.roles.guard import SigningRecord
from node.roles.link import CommitteeLink
from node.roles.openings import Openings
from node.roles.pool import SettlementPool
from node.roles.public import PublicState, check_body
from node.roles.secrets import SlotSecrets
from node.roles.votes import payload_of, proposal_of, proposal_payload, vote_of

STATUS_S = 1.0

PUBLISH_TURN_S = 0.5
"""How long a member leaves the gossiping of a certified batch to the one before it."""

VALUES = 64
"""Batches proposed at one height that are kept; a proposer that equivocates can't fill the memory."""

FORGED_POINTS = 10
"""For a frame with a signature that does not hold; what the market refuses may have been right when it was sent."""

EVENTS = 8_192
"""Inputs waiting for the core; when full, the links that bring more wait."""


@dataclass(slots=True)
class Height:
    """What a member holds of the height in progress."""

    number: int
    started: bool = False
    round: int = 0
    values: dict[Digest, tuple[BatchHeader, BatchBody]] = field(default_factory=dict)
    precommits: dict[tuple[int, Digest], dict[Address, Signature]] = field(default_factory=dict)
    own_frames: list[LinkFrame] = field(default_factory=list)
    """What this member said at this height, to be said again to whoever missed it."""


@dataclass(frozen=True, slots=True)
class _FromMember:
    member: Address
    frame: LinkFrame


@dataclass(frozen=True, slots=True)
class _SlotBegins:
    slot: int


class _StatusDue:
    """Time to tell the others where this member stands."""


_Event = _FromMember | _SlotBegins | _StatusDue | TimeoutElapsed


class CommitteeMember:
    """The shell of one member."""

    def __init__(
        self,
        node: Node,
        public: PublicState,
        pool: SettlementPool,
        *,
        secrets: SlotSecrets,
        openings: Openings,
        guard: SigningRecord,
    ) -> None:
        self._node = node
        self._public = public
        self._pool = pool
        self._secrets = secrets
        self._openings = openings
        self._guard = guard
        self._driver = Driver.idle(node.address)
        self._height = Height(public.ledger.height + 1)
        self._commitments: dict[tuple[Address, int], Signed[BeaconCommitment]] = {}
        self._rejected = 0
        self._events_in, self._events_out = trio.open_memory_channel[_Event](EVENTS)
        self._link: CommitteeLink | None = None
        self._timers: trio.Nursery | None = None
        public.on_batch.append(self._settled)
        self.on_pass: Callable[[Signed[PassIssued]], None] | None = None
        """Called with the passes that other routers issue."""

    async def run(self, link: CommitteeLink, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part for ever."""
        self._link = link
        async with trio.open_nursery() as nursery:
            self._timers = nursery
            nursery.start_soon(self._watch_slots)
            nursery.start_soon(self._watch_status)
            task_status.started()
            async for event in self._events_out:
                await self._take(event)

    async def on_frame(self, member: Address, frame: LinkFrame) -> None:
        """What the committee link brings; waits while the core is busy."""
        await self._events_in.send(_FromMember(member, frame))

    @property
    def standing(self) -> dict[str, int]:
        """Height and round in progress, for the control API."""
        return {"height": self._height.number, "round": self._height.round, "waiting": len(self._pool)}

    def _settled(self, _: CertifiedBatch) -> None:
        self._pool.settled(outcome.ticket_id for outcome in self._public.ledger.outcomes)

    # Clocks.

    async def _watch_slots(self) -> None:
        while True:
            slot = self._node.slot()
            await self._events_in.send(_SlotBegins(slot))
            await trio.sleep(max(0.001, self._node.ms_until(slot + 1) / 1_000))

    async def _watch_status(self) -> None:
        while True:
            await self._events_in.send(_StatusDue())
            await trio.sleep(STATUS_S)

    async def _run_timer(self, timeout: ScheduleTimeout) -> None:
        await trio.sleep(duration_ms(timeout.step, timeout.round, self._node.terms.params) / 1_000)
        await self._events_in.send(TimeoutElapsed(timeout.step, timeout.height, timeout.round))

    # Events.

    async def _take(self, event: _Event) -> None:
        if self._height.number != self._public.ledger.height + 1:
            self._height = Height(self._public.ledger.height + 1)
        match event:
            case TimeoutElapsed():
                if event.height == self._height.number:
                    await self._feed(event)
            case _SlotBegins(slot):
                await self._begin_slot(slot)
            case _StatusDue():
                self._broadcast(StatusFrame(self._height.number, self._height.round))
            case _FromMember(member, frame):
                try:
                    await self._take_frame(member, frame)
                except (MessageError, MarketError, ConsensusError) as error:
                    kind = type(frame).__name__
                    self._node.log.warning("bad frame", kind=kind, member=member.hex(), reason=str(error))
                    if isinstance(error, MessageError) and self._link is not None:
                        self._link.penalise(member, FORGED_POINTS, f"{kind}: {error}")

    async def _begin_slot(self, slot: int) -> None:
        """A slot has ended: settle what came in, open the new day, commit to the days ahead."""
        for settlement in self._pool.own():
            self._broadcast(SettlementFrame(settlement))
        day = self._node.terms.params.day_of(slot)
        for ahead in (day + 1, day + 2):
            if self._node.address not in self._public.ledger.commitments.get(ahead, {}):
                self._note_commitment(self._secrets.commitment(ahead))
                self._broadcast(CommitmentFrame(self._commitments[self._node.address, ahead]))
        if self._is_due(slot):
            await self._start()

    def _is_due(self, slot: int) -> bool:
        """No reports, no batch; except that the first ended slot of a day opens it."""
        ledger = self._public.ledger
        closing = slot - 1
        if closing <= ledger.slot:
            return False
        return len(self._pool) > 0 or self._node.terms.params.day_of(closing) > ledger.day

    async def _start(self) -> None:
        if not self._height.started:
            self._height.started = True
            await self._feed(Start(self._height.number, self._node.committee))

    # Frames of other members.

    async def _take_frame(self, member: Address, frame: LinkFrame) -> None:
        match frame:
            case ProposalFrame():
                await self._take_proposal(frame)
            case PrevoteFrame(vote) | PrecommitFrame(vote):
                await self._take_vote(vote)
            case DecidedFrame(batch):
                await self._public.adopt(batch)
            case SettlementFrame(settlement):
                self._take_settlement(settlement)
            case CommitmentFrame(commitment):
                commitment.signer(self._node.terms.domain)
                self._note_commitment(commitment)
            case PassFrame(issued):
                if self.on_pass is not None:
                    self.on_pass(issued)
            case StatusFrame(height, _):
                await self._help(member, height)

    def _take_settlement(self, settlement: Settlement) -> None:
        if settlement.ticket.id(self._node.terms.domain) not in self._public.ledger.settled:
            self._pool.add(settlement)

    def _note_commitment(self, commitment: Signed[BeaconCommitment]) -> None:
        """Keep those of members for days that are near."""
        payload = commitment.payload
        day = self._node.terms.params.day_of(self._node.slot())
        if self._node.committee.weight(payload.member) > 0 and day < payload.day <= day + 2:
            self._commitments[payload.member, payload.day] = commitment

    async def _take_proposal(self, frame: ProposalFrame) -> None:
        proposal = frame.proposal.payload
        frame.proposal.signer(self._node.terms.domain)
        check_body(frame.header, frame.body)
        if proposal.height != self._height.number or proposal.batch_hash != batch_hash(frame.header):
            return
        if proposal.proposer != self._node.committee.proposer(proposal.height, proposal.round):
            return
        proposal_id = proposal.batch_hash
        if proposal_id not in self._height.values and len(self._height.values) >= VALUES:
            return
        self._height.values[proposal_id] = (frame.header, frame.body)
        is_valid = await self._is_valid(frame.header, frame.body)
        await self._start()
        await self._feed(proposal_of(proposal, is_valid=is_valid))

    async def _is_valid(self, header: BatchHeader, body: BatchBody) -> bool:
        """The paper's valid(v): the ledger agrees, the slot has ended, the day's opening is fair."""
        if header.slot >= self._node.slot():
            self._node.log.warning("proposal closes a slot that has not ended", slot=header.slot)
            return False
        try:
            self._public.follow(header, body)
        except MarketError as error:
            self._node.log.warning("proposal refused", height=header.height, reason=str(error))
            return False
        if body.opening is not None and not await self._openings.is_fair(body.opening, self._public.ledger):
            self._node.log.warning("day opening refused", day=body.opening.day)
            return False
        return True

    async def _take_vote(self, vote: Signed[Prevote] | Signed[Precommit]) -> None:
        member = vote.signer(self._node.terms.domain)
        payload = vote.payload
        if payload.height != self._height.number or self._node.committee.weight(member) == 0:
            return
        if isinstance(payload, Precommit):
            if payload.committee_root != self._node.committee.root:
                return
            self._height.precommits.setdefault((payload.round, payload.batch_hash), {})[member] = vote.signature
        await self._start()
        await self._feed(VoteIn(vote_of(payload, member)))

    async def _help(self, member: Address, height: int) -> None:
        """Give a member what it misses: the decision of its height, or what this member said at the present one."""
        if self._link is None:
            return
        if height < self._height.number:
            batch = await self._node.store.get_batch(height)
            if batch is not None:
                self._link.send(member, DecidedFrame(batch))
        elif height == self._height.number:
            for frame in self._height.own_frames:
                self._link.send(member, frame)

    # The core and its effects.

    async def _feed(self, event: Input) -> None:
        """Run the core on ``event`` and on everything that follows from it."""
        inputs: list[Input] = [event]
        while inputs:
            self._driver, effects = step(self._driver, inputs.pop(0))
            for effect in effects:
                inputs.extend(await self._run(effect))

    async def _run(self, effect: Effect) -> list[Input]:
        """Carry out one effect; what the core must hear of it."""
        match effect:
            case ScheduleTimeout():
                self._height.round = max(self._height.round, effect.round)
                if self._timers is not None:
                    self._timers.start_soon(self._run_timer, effect)
            case GetValue(height, round_):
                return await self._build(height, round_)
            case Propose():
                return await self._propose(effect)
            case CastVote():
                return await self._vote(effect)
            case Decided():
                await self._decide(effect)
            case EquivocationFound(first, second):
                self._node.log.error("equivocation", first=repr(first), second=repr(second))
        return []

    async def _build(self, height: int, round_: int) -> list[Input]:
        ledger = self._public.ledger
        params = self._node.terms.params
        slot = self._node.slot() - 1
        if height != ledger.height + 1 or not self._is_due(slot + 1):
            return []
        opening = None
        if params.day_of(slot) > ledger.day:
            opening = await self._openings.make(params.day_of(slot), ledger)
        has_committed = self._node.address in ledger.commitments.get(params.day_of(slot), {})
        header, body, rejected = propose_batch(
            ledger,
            self._node.terms,
            self._node.committee,
            proposer=self._node.address,
            slot=slot,
            reveal=self._secrets.of_slot(slot) if has_committed else ZERO_DIGEST,
            opening=opening,
            commitments=self._new_commitments(params.day_of(slot)),
            pending=self._pool.waiting(),
            verified=self._public.verified,
        )
        for refused in rejected:
            if not refused.retry:
                ticket_id = refused.settlement.ticket.id(self._node.terms.domain)
                self._node.log.warning("settlement refused", ticket=ticket_id.hex(), reason=refused.reason)
                self._pool.drop(ticket_id)
        if not body.settlements and opening is None:
            return []
        value = batch_hash(header)
        self._height.values[value] = (header, body)
        return [ValueReady(height, round_, value)]

    def _new_commitments(self, day: int) -> tuple[Signed[BeaconCommitment], ...]:
        known = self._public.ledger.commitments
        fresh = {
            (member, ahead): made
            for (member, ahead), made in self._commitments.items()
            if ahead > day and member not in known.get(ahead, {})
        }
        self._commitments = {key: made for key, made in self._commitments.items() if key[1] >= day}
        return tuple(fresh[key] for key in sorted(fresh))

    async def _propose(self, effect: Propose) -> list[Input]:
        payload = proposal_payload(effect, self._node.address)
        if payload.batch_hash not in self._height.values:
            return []
        if not await self._guard.allows("PROPOSE", effect.height, effect.round, payload.batch_hash):
            return []
        signed = sign(payload, self._node.key, self._node.terms.domain)
        self._say(ProposalFrame(signed, *self._height.values[payload.batch_hash]))
        return [proposal_of(payload, is_valid=True)]

    async def _vote(self, cast: CastVote) -> list[Input]:
        vote = cast.vote
        payload = payload_of(cast, self._node.committee.root)
        if not await self._guard.allows(vote.kind.name, vote.height, vote.round, payload.batch_hash):
            return []
        if isinstance(payload, Prevote):
            self._say(PrevoteFrame(sign(payload, self._node.key, self._node.terms.domain)))
        else:
            signed = sign(payload, self._node.key, self._node.terms.domain)
            self._height.precommits.setdefault((vote.round, payload.batch_hash), {})[vote.member] = signed.signature
            self._say(PrecommitFrame(signed))
        return [VoteIn(vote)]

    async def _decide(self, decided: Decided) -> None:
        value = Digest(decided.value)
        header, body = self._height.values[value]
        held = self._height.precommits[decided.round, value]
        certificate = assemble_certificate(decided.height, decided.round, value, self._node.committee, held)
        batch = CertifiedBatch(header, certificate, body)
        await self._public.adopt(batch)
        if self._timers is not None:
            self._timers.start_soon(self._publish, batch)

    async def _publish(self, batch: CertifiedBatch) -> None:
        """Gossip a certified batch: the proposer at once, the others only where it has not been heard by then."""
        addresses = [member.address for member in self._node.committee.members]
        turn = (addresses.index(self._node.address) - addresses.index(batch.header.proposer)) % len(addresses)
        await trio.sleep(turn * PUBLISH_TURN_S)
        if self._public.heard_height < batch.header.height:
            self._public.hear(batch.header.height)
            await self._node.network.publish(self._node.topics.batches, encode(batch))

    def _say(self, frame: LinkFrame) -> None:
        self._height.own_frames.append(frame)
        self._broadcast(frame)

    def _broadcast(self, frame: LinkFrame) -> None:
        if self._link is not None:
            self._link.broadcast(frame)
