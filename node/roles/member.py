"""A committee member's shell: brings inputs to the core, one at a time, and carries out its effects.

One task owns the core and takes inputs from one bounded channel, so that no two inputs interleave.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from consensus.committee import Committee
from consensus.errors import ConsensusError
from consensus.market.errors import MarketError
from consensus.member import events
from consensus.member.admission import admit, height_of
from consensus.member.core import MemberCore
from consensus.member.events import Effect, Input
from consensus.member.intake import Intake, Refused, is_others
from consensus.membership import Term
from consensus.tendermint.evidence import Equivocation
from contracts.typed_data import Address, Digest
from gossip.errors import MessageError
from gossip.messages import Signed, encode, sign
from gossip.messages.batch_notice import gossiped
from gossip.messages.committee import (
    CaughtUpFrame,
    CertifiedBatch,
    DayOpening,
    DecidedFrame,
    LinkFrame,
    PassFrame,
    Proposal,
    ProposalFrame,
    RouterFrame,
    SettlementFrame,
    SettlementsFrame,
    ShortProposalFrame,
    StatusFrame,
    UsageFrame,
    WantFrame,
)
from gossip.messages.opinions import Opinion
from gossip.messages.session import Settlement
from node.context import Node, now_ms
from node.member_log import MemberLog
from node.roles.decisions import LargeDecisions
from node.roles.exchange import SettlementExchange
from node.roles.link import CommitteeLink
from node.roles.openings import Openings
from node.roles.public import PublicState
from node.roles.turns import MUCH, TURN_S
from node.roles.voice import Voice, is_by
from node.signing_guard import SigningGuard, open_guard
from node.signing_history import SignedRecord
from node.wal import open_wal

GUARD_FILE = "signing.sqlite"
WAL_FILE = "member.wal"

STATUS_S = 1.0

PUBLISH_TURN_S = 0.5
"""How long a member leaves the gossiping of a certified batch to the one before it."""

FORGED_POINTS = 10
"""For a frame with a signature that does not hold; what the market refuses may have been right when it was sent."""

OWN_BYTES = 256 << 20
"""Bytes of the log that are kept for this member's own inputs, its proposals above all."""

EVENTS = 8_192
"""Inputs waiting for the core; when full, the links that bring more wait."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A member's own word on where it stood at ``at_ms`` (Unix ms)."""

    height: int
    round: int
    at_ms: int


class CommitteeMember:
    """The shell of one member."""

    def __init__(self, node: Node, public: PublicState, core: MemberCore, *, openings: Openings) -> None:
        self._node = node
        self._public = public
        self._core = core
        self._openings = openings
        self._events_in, self._events_out = trio.open_memory_channel[Input](EVENTS)
        self._link: CommitteeLink | None = None
        self._tasks: trio.Nursery | None = None
        self._guard: SigningGuard | None = None
        self._voice: Voice | None = None
        self._log: MemberLog[Input] | None = None
        self._large = LargeDecisions()
        self._intake = Intake(core.height.number)
        self._told_refusal: tuple[int, str] | None = None
        self._later: deque[Input] = deque(maxlen=EVENTS)
        """What this member's own desk filed when the height had no room for it."""
        public.on_batch.append(self._on_batch)
        self._exchange = SettlementExchange(
            node,
            public.verified,
            tell=self._send,
            heard=lambda settlements: self._events_in.send(events.SettlementsHeard(settlements)),
            whole=self._hear,
            failed=self._failed,
        )
        self.on_router_frame: Callable[[Address, RouterFrame], None] | None = None
        """Called with what other members' routers tell this one's: passes, and what is used of them."""
        self.on_drop: Callable[[Digest], None] | None = None
        """Called with tickets that no batch will settle."""
        self.on_behind: Callable[[], None] | None = None
        """Called when others are ahead."""
        self.on_tell: Callable[[LinkFrame], None] | None = None
        """Called with every frame for all other members, as it is handed to the link."""
        self.others: dict[Address, Standing] = {}
        """Where the other members were when they were last heard."""
        self.on_accused: Callable[[Equivocation], None] | None = None
        """Called with equivocation that this member saw."""

    async def run(self, link: CommitteeLink, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part for ever."""
        self._link = link
        folder = self._node.config.data_dir
        async with (
            open_guard(folder / GUARD_FILE, self._node.key, self._node.terms.domain) as self._guard,
            open_wal(folder / WAL_FILE) as wal,
            trio.open_nursery() as nursery,
        ):
            self._tasks = nursery
            self._voice = Voice(self._node, self._public, self._core, self._guard)
            self._log = MemberLog(wal, Input)
            if wal.torn is not None:
                self._node.log.warning("the end of the input log was torn off by a crash", torn=str(wal.torn))
            await self._restore(self._guard, self._log)
            nursery.start_soon(self._exchange.run)
            nursery.start_soon(self._watch_slots)
            nursery.start_soon(self._watch_status)
            task_status.started()
            while True:
                await self._take_inputs()

    async def on_frame(self, member: Address, frame: LinkFrame) -> None:
        """What the committee link brings; waits while the core is busy."""
        try:
            match frame:
                case DecidedFrame(batch):
                    await self._public.adopt(batch)
                case PassFrame() | UsageFrame() | CaughtUpFrame():
                    if self.on_router_frame is not None:
                        self.on_router_frame(member, frame)
                case StatusFrame(height, round_):
                    self.others[member] = Standing(height, round_, now_ms())
                    await self._events_in.send(events.StatusHeard(member, height, round_))
                case SettlementsFrame():
                    self._exchange.hear(member, frame)
                case ShortProposalFrame(proposal):
                    if not self._holds(proposal, member):
                        await self._exchange.begin(member, frame)
                case WantFrame(value):
                    if (held := self._core.height.values.get(value)) is not None:
                        self._exchange.answer(member, frame, held[1])
                case _:
                    await self._hear(member, frame)
        except (MessageError, MarketError, ConsensusError) as error:
            self._failed(member, frame, error)

    async def _hear(self, member: Address, frame: LinkFrame) -> None:
        """Check a frame and give it to the core; raises what :func:`admit` does."""
        if self._voice is not None:
            await self._voice.hear(frame)
        if isinstance(frame, ProposalFrame):
            await self._exchange.learn(frame.body.settlements)
        ledger = self._core.ledger
        if height_of(frame) not in {None, ledger.height + 1}:
            return  # not this height's business, and another committee may be deciding there
        event = admit(member, frame, self._node.terms, ledger.committee, self._public.verified)
        if is_by(event, self._node.address):
            return  # an echo: the core has what this member said
        if event is not None:
            await self._events_in.send(event)
        if isinstance(event, events.SettlementHeard):
            await self._exchange.note((event.settlement,))

    def _holds(self, proposal: Signed[Proposal], member: Address) -> bool:
        """Whether the core was given the whole of a proposal, or won't look at it."""
        height, payload = self._core.height, proposal.payload
        said = height.said("Proposal", payload.round, member, payload.batch_hash)
        return payload.height != height.number or said is not None

    def _failed(self, member: Address, frame: LinkFrame, error: Exception) -> None:
        kind = type(frame).__name__
        self._node.log.warning("bad frame", kind=kind, member=member.hex(), reason=str(error))
        if isinstance(error, MessageError) and self._link is not None:
            self._link.penalise(member, FORGED_POINTS, f"{kind}: {error}")

    def _on_batch(self, batch: CertifiedBatch) -> None:
        self._exchange.clear()
        if len(batch.body.settlements) >= MUCH:
            self._large.note(batch.header.height, trio.current_time())
        if self._voice is not None and (place := self._voice.hear_batch(batch)) is not None:
            self._start(self._voice.give_up, place)
        self._post(events.BatchAdopted(batch))

    def file(self, settlement: Settlement) -> None:
        """Take a session that was finished at this member's own desk, and tell the committee.

        Raises :class:`~consensus.market.errors.SettlementInvalid`.
        """
        self._public.verified(settlement)
        self._post(events.SettlementHeard(settlement, own=True))

    def file_opinion(self, opinion: Signed[Opinion]) -> None:
        """Take a scorer's verdict that was filed here and whose signature holds, and tell the committee."""
        self._post(events.OpinionHeard(opinion, own=True))

    def give_order(self, order: events.OrderHeard) -> None:
        """Take this member's own listing order, and tell the committee (S8)."""
        self._post(order)

    def rescued(self, committee: Committee) -> None:
        """The registry has put ``committee`` in the place of the running one."""
        self._post(events.Rescued(Term.of(committee)))

    @property
    def standing(self) -> dict[str, int]:
        """Height and round in progress, for the control API."""
        height = self._core.height
        return {"height": height.number, "round": height.round, "waiting": len(self._core.pool)}

    @property
    def lost_to(self) -> str | None:
        """For which place another machine has signed with this member's key; None where nothing of it was heard."""
        return None if self._voice is None or self._voice.lost_to is None else str(self._voice.lost_to)

    async def history(self, limit: int) -> tuple[SignedRecord, ...]:
        """The last ``limit`` signatures of this member; none while it isn't running."""
        return () if self._guard is None else await self._guard.history(limit)

    def _post(self, event: Input) -> None:
        """Queue an input from outside a task of this member's; waits in a task of its own where the queue is full."""
        try:
            self._events_in.send_nowait(event)
        except trio.WouldBlock:
            if self._tasks is None:
                raise
            self._tasks.start_soon(self._events_in.send, event)

    # Clocks.

    async def _watch_slots(self) -> None:
        while True:
            slot = self._node.slot()
            await self._events_in.send(events.SlotBegan(slot))
            await trio.sleep(max(0.001, self._node.ms_until(slot + 1) / 1_000))

    async def _watch_status(self) -> None:
        while True:
            self._tell(self._core.status())
            await trio.sleep(STATUS_S)

    async def _run_timer(self, timer: events.SetTimer) -> None:
        await trio.sleep(timer.delay_ms / 1_000)
        await self._events_in.send(events.TimerElapsed(timer.step, timer.height, timer.round))

    # The core and its effects.

    async def _take_inputs(self) -> None:
        """Wait for an input, then take those behind it too, for a turn: one for each round of the event loop would let
        votes wait behind hundreds of settlements, each for as long as signatures are checked in a turn."""
        event = await self._events_out.receive()
        ends = trio.current_time() + TURN_S
        await self._take(event)
        for wanted in () if self._voice is None else self._voice.take_held():
            answer = await self._carry_out(wanted)
            if answer is not None:
                await self._process(answer)
        while self._events_out.statistics().current_buffer_used and trio.current_time() < ends:
            await self._take(self._events_out.receive_nowait())

    async def _take(self, event: Input) -> None:
        """Process an input, unless the log has no room for what its sender says: only own inputs may fill it."""
        match event:
            case events.ProposalHeard(frame) if frame.proposal.payload.batch_hash in self._core.height.values:
                event = events.ReproposalHeard(frame.proposal)
        refused = self._refusal(event)
        if refused is None:
            await self._process(event)
            return
        if refused.is_own:
            self._later.append(event)
        if refused.reason is None:
            return
        if (self._intake.height, refused.reason) != self._told_refusal:
            self._told_refusal = self._intake.height, refused.reason
            self._node.log.warning("input refused", kind=type(event).__name__, reason=refused.reason)
        if refused.sender is not None and self._link is not None:
            self._link.penalise(refused.sender, FORGED_POINTS, refused.reason)

    def _refusal(self, event: Input) -> Refused | None:
        height = self._core.height
        if self._intake.height != height.number:
            self._intake = Intake(height.number)
        if is_others(event) and self._log is not None and self._log.room < OWN_BYTES:
            return Refused("the log is nearly full", is_own=getattr(event, "own", False))
        return self._intake.take(event, height, self._core.ledger.committee)

    async def _restore(self, guard: SigningGuard, log: "MemberLog[Input]") -> None:
        """Bring the core to where it was when this member stopped: what it is locked on, it stays locked on."""
        height = self._core.height.number
        if log.height != height:
            # Without its log this member may have forgotten what it is locked on at a height that it signed for.
            signed_for = max(log.height, (await guard.watermark()).height)
            if signed_for >= height:
                await guard.skip_through(signed_for)
            if log.height < height:
                await log.reset(height)
            return
        effects = [effect for event in log.replay() for effect in self._core.handle(event)]
        for effect in effects:
            if not isinstance(effect, events.Tell | events.SendDecision | events.CatchUp):
                answer = await self._carry_out(effect)
                if answer is not None:
                    await self._process(answer)

    async def _process(self, event: Input) -> None:
        """Run the core on ``event`` and on everything that its effects answer at once.

        An input is on the disk before anything follows from it.
        """
        log = self._log
        if log is None:
            raise RuntimeError("a member takes inputs only while it runs")
        waiting = [event]
        while waiting:
            event = waiting.pop(0)
            height = self._core.height.number
            if height >= log.height and not isinstance(event, events.StatusHeard | events.BatchAdopted):
                log.append(event)
            effects = await self._handle(event)
            if isinstance(event, events.StatusHeard):
                self._echo(event)
            if any(map(_commits, effects)):
                await log.flush()
            for effect in effects:
                answer = await self._carry_out(effect)
                if answer is not None:
                    waiting.append(answer)
            if self._core.height.number > log.height:
                await log.reset(self._core.height.number)
                # What the clock said is part of what the core must hear again.
                log.append(events.SlotBegan(self._core.slot))
                later, self._later = self._later, deque(maxlen=EVENTS)
                for held in later:
                    self._post(held)

    def _echo(self, heard: events.StatusHeard) -> None:
        """Tell a member what is held of its own votes, so that it hears of another machine that votes with its key."""
        height = self._core.height
        if heard.height == height.number:
            for frame in height.votes_of(heard.member, heard.round):
                self._send(frame, heard.member)

    async def _handle(self, event: Input) -> list[Effect]:
        """Run the core, in a worker thread where it makes or checks a large batch; this task alone changes it."""
        match event:
            case events.ProposalHeard(frame):
                much = len(frame.body.settlements)
            case events.SlotBegan() | events.TimerElapsed() | events.OpeningMade():
                much = len(self._core.pool)
            case _:
                much = 0
        if much < MUCH:
            return self._core.handle(event)
        return await trio.to_thread.run_sync(self._core.handle, event)

    async def _carry_out(self, effect: Effect) -> Input | None:
        match effect:
            case events.SignProposal() | events.SignPrevote() | events.SignPrecommit():
                if self._voice is None:
                    raise RuntimeError("a member signs only while it runs")
                return await self._voice.sign(effect)
            case events.SignHandOver(hand_over):
                return events.HandOverSigned(sign(hand_over, self._node.key, self._node.terms.domain))
            case events.Tell(frame, to):
                self._tell(frame, to)
            case events.SendDecision(to, height):
                if self._large.is_due(to, height, trio.current_time()):
                    batch = await self._node.store.get_batch(height)
                    if batch is not None:
                        self._tell(DecidedFrame(batch), to)
            case events.SetTimer():
                self._start(self._run_timer, effect)
            case events.Certified(batch):
                await self._public.adopt(batch)
                self._start(self._publish, batch)
            case events.MakeOpening(day):
                self._start(self._make_opening, day)
            case events.JudgeOpening(value, opening):
                self._start(self._judge_opening, value, opening)
            case _:
                self._note(effect)
        return None

    def _note(self, effect: Effect) -> None:
        """Effects that are for people, or for other roles, to hear."""
        log = self._node.log
        match effect:
            case events.CatchUp():
                if self.on_behind is not None:
                    self.on_behind()
            case events.Dropped(ticket_id, reason):
                log.warning("settlement refused", ticket=ticket_id.hex(), reason=reason)
                if self.on_drop is not None:
                    self.on_drop(ticket_id)
            case events.OpinionDropped(ticket_id, reason):
                log.info("opinion refused", ticket=ticket_id.hex(), reason=reason)
            case events.Refused(value, reason):
                log.warning("proposal refused", batch=value.hex(), reason=reason)
            case events.Accused(evidence):
                log.error("equivocation", evidence=type(evidence).__name__, first=encode(evidence.first).hex())
                if self.on_accused is not None:
                    self.on_accused(evidence)

    async def _make_opening(self, day: int) -> None:
        await self._events_in.send(events.OpeningMade(await self._openings.make(day, self._public.ledger)))

    async def _judge_opening(self, value: Digest, opening: DayOpening) -> None:
        is_fair = await self._openings.is_fair(opening, self._public.ledger)
        await self._events_in.send(events.OpeningJudged(value, is_fair))

    async def _publish(self, batch: CertifiedBatch) -> None:
        """Gossip a certified batch: the proposer at once, the others only where it has not been heard by then."""
        addresses = [*self._public.recent_members()]
        if self._node.address not in addresses or batch.header.proposer not in addresses:
            return
        turn = (addresses.index(self._node.address) - addresses.index(batch.header.proposer)) % len(addresses)
        await trio.sleep(turn * PUBLISH_TURN_S)
        if self._public.heard_height < batch.header.height:
            self._public.hear(batch.header.height)
            await self._node.network.publish(self._node.topics.batches, gossiped(batch))

    def _start(self, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(task, *arguments)

    def _tell(self, frame: LinkFrame, to: Address | None = None) -> None:
        """Send a frame of the core's: settlements go together, and large proposals name what others hold."""
        if isinstance(frame, SettlementFrame) and to is None:
            self._exchange.tell(frame.settlement)
        else:
            self._send(self._exchange.short(frame) if isinstance(frame, ProposalFrame) else frame, to)

    def heard_ms(self, member: Address) -> int | None:
        """When another member last said where it stands, Unix ms; None: never in this run."""
        standing = self.others.get(member)
        return None if standing is None else standing.at_ms

    def _send(self, frame: LinkFrame, to: Address | None) -> None:
        if self._link is None:
            return
        if to is None:
            if self.on_tell is not None:
                self.on_tell(frame)
            self._link.broadcast(frame)
        else:
            self._link.send(to, frame)


def _commits(effect: Effect) -> bool:
    """Whether a member that forgot the input might contradict the effect; telling a settlement says nothing."""
    return not (isinstance(effect, events.Tell) and isinstance(effect.frame, SettlementFrame))
