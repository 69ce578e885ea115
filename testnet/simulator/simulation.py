"""One run: a committee, a fault plan and a seed, from genesis until all work is settled or the oracle objects.

Everything that is drawn is drawn from the seed, each kind of chance from a stream of its own, so that one seed is one
run, to the last byte of its digest.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

from consensus.member import events
from consensus.member.admission import height_of
from consensus.member.short import check_short, shorten
from consensus.membership import Term
from contracts.typed_data import Address, Digest
from gossip.errors import MessageError
from gossip.messages.base import encode
from gossip.messages.committee import (
    DecidedFrame,
    LinkFrame,
    ProposalFrame,
    SettlementFrame,
    SettlementsFrame,
    ShortProposalFrame,
    WantFrame,
)
from testnet.simulator.admission import Admission
from testnet.simulator.byzantine import Liar
from testnet.simulator.clock import Agenda
from testnet.simulator.errors import PowerLost, Violation
from testnet.simulator.faults import FaultPlan, draw_plan
from testnet.simulator.happenings import (
    Answers,
    Arrives,
    Happening,
    IsLost,
    LearnsOfRescue,
    OperatorSpeaks,
    Restarts,
    SessionsEnd,
    SlotBegins,
    StatusDue,
)
from testnet.simulator.listing import MODELS
from testnet.simulator.network import Links
from testnet.simulator.node import SimulatedNode
from testnet.simulator.oracle import Oracle
from testnet.simulator.setting import PARAMS, Setting, make_setting
from testnet.simulator.trace import describe

STATUS_MS = 500
"""How often a node tells where it stands."""

CATCH_UP_BATCHES = 20
"""Batches that one question for what is missing brings."""

PATIENCE_MS = 60_000
"""The liveness bound: so long after the network has healed and the last work was filed, all of it is settled."""

SKEW_MS = 20
"""The clocks of two nodes differ by up to so much."""

APART = 4
"""In every fourth seed each node works out each batch itself; in the others one does it for all (it is half the time).

The oracle always does it itself."""

REMEMBERED = 1_024
"""Frames whose bytes are remembered while they are on their way."""

TRACE = 300
"""Happenings that are remembered for a trace."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one run."""

    seed: int
    plan: FaultPlan
    digest: str
    """Hash over every happening and every decision, in order."""
    heights: int
    rounds: tuple[int, ...]
    """The round in which each height was decided; 0 is the first."""
    virtual_ms: int
    steps: int
    refused: int
    """Frames that admission refused."""
    restarts: int
    accused: int
    """Members that somebody holds evidence against."""
    epochs: int
    """Committees that have decided, one after another."""
    asked: int
    """Settlements that members had to ask a proposer for."""
    listings: int
    """Listing orders that were decided."""
    violation: Violation | None
    trace: tuple[str, ...]
    """The last happenings, where there is a violation."""


def simulate(name: str, seed: int, members: int = 4, slots: int = 20, setting: Setting | None = None) -> Result:
    """Run ``seed`` of the plan called ``name`` with work in ``slots`` slots.

    Raises :class:`~testnet.simulator.errors.PlanUnknown`; a violation is in the result.
    """
    plan = draw_plan(name, seed, members, slots, PARAMS.slot_ms)
    setting = setting or make_setting(members, people=plan.people)
    return Simulation(setting, plan, seed, slots).run()


class Simulation:
    """The state of one run, and the surroundings of its nodes."""

    def __init__(self, setting: Setting, plan: FaultPlan, seed: int, slots: int) -> None:
        self.setting = setting
        self.plan = plan
        self.seed = seed
        self.slots = slots
        self.agenda: Agenda[Happening] = Agenda()
        faulty = plan.faulty
        self.oracle = Oracle(setting, frozenset(setting.keys[number].address for number in faulty))
        self._admission = Admission(setting)
        self._links = Links(plan, self._chance("network"))
        self._chain_chance = self._chance("chain")
        self._crash_chance = self._chance("crashes")
        self._peer_chance = self._chance("peers")
        owners = (*range(setting.members), *plan.twins, *setting.spares)
        shared = None if seed % APART == 0 else setting.following()
        self.nodes = [
            SimulatedNode(
                number,
                owner,
                setting,
                world=self,
                oracle=None if owner in faulty else self.oracle,
                following=shared or setting.following(),
            )
            for number, owner in enumerate(owners)
        ]
        self._correct = [node for node, owner in zip(self.nodes, owners, strict=True) if owner not in faulty]
        self._node_of = {owner: number for number, owner in reversed(list(enumerate(owners)))}
        self._rescue: Term | None = None
        self._gone = plan.gone
        self._frames: dict[int, tuple[LinkFrame, bytes]] = {}
        self._short: dict[int, tuple[LinkFrame, LinkFrame]] = {}
        self._by_address: dict[Address, list[int]] = {}
        for node in self.nodes:
            self._by_address.setdefault(node.key.address, []).append(node.number)
        self._liars = {
            liar.node: Liar(liar, self.nodes[liar.node], setting, self._chance(f"liar {liar.node}"))
            for liar in plan.byzantine
        }
        self._downtimes: dict[int, list[int]] = {}
        for crash in sorted(plan.crashes, key=lambda crash: crash.operation):
            self.nodes[crash.node].crashes_at.append(crash.operation)
            self._downtimes.setdefault(crash.node, []).append(crash.down_ms)
        self._skews = [self._chance(f"skew {node.number}").randint(0, SKEW_MS) for node in self.nodes]
        self._awaited: set[Digest] = set()
        self._hash = hashlib.sha256(repr(plan).encode())
        self.recent: deque[tuple[int, Happening]] = deque(maxlen=TRACE)
        self._steps = self._refused = self._restarts = 0
        self.asked = 0
        """Settlements that members had to ask a proposer for."""

    def run(self) -> Result:
        """Until all work is settled everywhere, or until something is wrong."""
        violation: Violation | None = None
        for node in self.nodes:
            self.agenda.put(self._skews[node.number], SlotBegins(node.number, 0))
            self.agenda.put(STATUS_MS + self._skews[node.number], StatusDue(node.number))
        self.agenda.put(self.setting.terms.params.slot_ms // 2, SessionsEnd(0))
        for said in self.plan.operators:
            due_ms = said.slot * self.setting.terms.params.slot_ms + self.setting.terms.params.slot_ms // 3
            self.agenda.put(due_ms, OperatorSpeaks(self._node_of[said.key], said.model, said.is_listed))
        if (loss := self.plan.loss) is not None:
            for number in loss.nodes:
                self.agenda.put(loss.lost_ms, IsLost(number))
            for node in self._correct:
                self.agenda.put(loss.rescued_ms + self._skews[node.number], LearnsOfRescue(node.number))
        try:
            while not self._is_done():
                self.step()
            self._look_for_losses()
        except Violation as error:
            violation = error
        except Exception as error:  # noqa: BLE001  # the supervisor: whatever a core raises is a finding, with its trace
            violation = Violation("exception", f"{type(error).__name__}: {error}")
            violation.__cause__ = error
        return Result(
            seed=self.seed,
            plan=self.plan,
            digest=self._hash.hexdigest(),
            heights=self.oracle.height,
            rounds=tuple(self.oracle.rounds),
            virtual_ms=self.agenda.now_ms,
            steps=self._steps,
            refused=self._refused,
            restarts=self._restarts,
            accused=len(self.oracle.accused),
            epochs=self.oracle.ledger.running.epoch,
            asked=self.asked,
            listings=self.oracle.listing.taken,
            violation=violation,
            trace=tuple(self._told()) if violation is not None else (),
        )

    def step(self) -> None:
        """Let the next thing happen. Raises :class:`Violation`."""
        happening = self.agenda.take()
        self._steps += 1
        self.recent.append((self.agenda.now_ms, happening))
        self._note(happening)
        if self.agenda.now_ms > self._deadline_ms:
            raise Violation("termination", self._standing())
        match happening:
            case SessionsEnd(slot):
                self._end_sessions(slot)
            case Restarts(number):
                self._restarts += 1
                node = self.nodes[number]
                self._powered(node, partial(node.restart, self._slot(number)))
            case IsLost(number):
                self.nodes[number].crash(self._crash_chance)
            case LearnsOfRescue(number):
                self._learn_of_rescue(self.nodes[number])
            case OperatorSpeaks(number, model, is_listed):
                node = self.nodes[number]
                self._powered(node, partial(node.order, MODELS[model], is_listed=is_listed))
            case _:
                node = self.nodes[happening.node]
                self._powered(node, partial(self._give, node, happening))

    # What the nodes ask of their surroundings.

    def send(self, node: int, frame: LinkFrame, to: bytes | None) -> None:
        """Put a frame on its way, to one member or to all other nodes."""
        liar = self._liars.get(node)
        receivers = range(len(self.nodes)) if to is None else self._by_address.get(Address(to), [])
        for receiver in receivers:
            if receiver == node:
                continue
            for sent in map(self._shortened, (frame,) if liar is None else liar.frames(frame)):
                for delay_ms in self._links.delays_ms(node, receiver, self.agenda.now_ms):
                    self.agenda.put(delay_ms, Arrives(receiver, node, sent))

    def answer(self, node: int, event: events.Input, delay_ms: int) -> None:
        """Give ``event`` to a node later, unless it crashes before."""
        self.agenda.put(delay_ms, Answers(node, self.nodes[node].life, event))

    def ask_chain(self, node: int, asked: events.MakeOpening | events.JudgeOpening) -> None:
        """The simulated chain answers within a few ms, or not at all while it is out."""
        chance = self._chain_chance
        delay_ms = chance.randint(1, 10)
        if self.agenda.now_ms < self.plan.heal_ms and chance.randrange(100) < self.plan.chain_outage_percent:
            return
        match asked:
            case events.MakeOpening(day):
                made = self.setting.opening(day, self.nodes[node].ledger)
                self.answer(node, events.OpeningMade(made), delay_ms)
            case events.JudgeOpening(value, opening):
                is_fair = opening == self.setting.opening(opening.day, self.nodes[node].ledger)
                self.answer(node, events.OpeningJudged(value, is_fair), delay_ms)

    def catch_up(self, node: int) -> None:
        """Ask some other node for the batches that ``node`` lacks; question and answers go over the network.

        A liar that is asked lies as it does elsewhere.
        """
        peer = self._peer_chance.choice([other for other in self.nodes if other.number != node])
        height = self.nodes[node].ledger.height
        if not peer.is_up or not (asked := self._links.delays_ms(node, peer.number, self.agenda.now_ms)):
            return
        liar = self._liars.get(peer.number)
        for batch in peer.disk.batches[height : height + CATCH_UP_BATCHES]:
            frame = DecidedFrame(batch)
            for sent in map(self._shortened, (frame,) if liar is None else liar.frames(frame)):
                for delay_ms in self._links.delays_ms(peer.number, node, self.agenda.now_ms):
                    self.agenda.put(asked[0] + delay_ms, Arrives(node, peer.number, sent))

    def hear_whole(self, node: int, member: Address, frame: ProposalFrame) -> None:
        """A proposal that was put together is heard as one that came whole."""
        self._admit(self.nodes[node], member, frame)

    def _shortened(self, frame: LinkFrame) -> LinkFrame:
        """A proposal as it travels; the same one for all who hear it."""
        if not self.plan.is_short or not isinstance(frame, ProposalFrame):
            return frame
        if id(frame) not in self._short:
            self._short[id(frame)] = frame, shorten(frame, least=1)  # the frame is kept, so that its id stays its own
        return self._short[id(frame)][1]

    # Happenings.

    def _powered(self, node: SimulatedNode, action: Callable[[], None]) -> None:
        """Let a node do something, and let its power fail meanwhile where the plan says so."""
        if self.agenda.now_ms >= self.plan.heal_ms:
            node.crashes_at.clear()
        if node.number in self._gone and not node.is_up:
            return
        try:
            action()
        except PowerLost:
            node.crash(self._crash_chance)
            self.agenda.put(self._downtimes[node.number].pop(0), Restarts(node.number))

    def _give(self, node: SimulatedNode, happening: Happening) -> None:
        match happening:
            case SlotBegins(number, slot):
                slot_ms = self.setting.terms.params.slot_ms
                due_ms = (slot + 1) * slot_ms + self._skews[number]
                self.agenda.put(due_ms - self.agenda.now_ms, SlotBegins(number, slot + 1))
                if node.is_up:
                    node.begin_slot(slot)
            case StatusDue(number):
                self.agenda.put(STATUS_MS, happening)
                if node.is_up:
                    self.send(number, node.status(), None)
            case Answers(_, life, event):
                if node.is_up and life == node.life:
                    node.take(event)
            case Arrives(_, sender, frame):
                if node.is_up:
                    self._hear(node, sender, frame)

    def _hear(self, node: SimulatedNode, sender: int, frame: LinkFrame) -> None:
        liar = self._liars.get(node.number)
        if liar is not None:
            liar.hear(frame)
        member = self.nodes[sender].key.address
        match frame:
            case DecidedFrame(batch):
                self._refused += bool(node.hear_decision(batch))
            case ShortProposalFrame():
                self._hear_short(node, sender, frame)
            case WantFrame(value):
                if (held := node.core.height.values.get(value)) is not None:
                    for answer in node.exchange.answer(member, frame, held[1]):
                        self.send(node.number, answer, member)
            case SettlementsFrame(settlements):
                for settlement in settlements:
                    self._admit(node, member, SettlementFrame(settlement))
            case _:
                self._admit(node, member, frame)

    def _hear_short(self, node: SimulatedNode, sender: int, frame: ShortProposalFrame) -> None:
        """As a node's exchange does: only what its proposer signed is put together, or asked for."""
        member = self.nodes[sender].key.address
        try:
            check_short(member, frame, self.setting.terms.domain)
        except MessageError:
            self._refused += 1
            return
        found = node.exchange.begin(member, frame)
        if isinstance(found, WantFrame):
            self.asked += len(found.places)
            self.send(node.number, found, member)
        else:
            self._admit(node, member, found)

    def _admit(self, node: SimulatedNode, member: Address, frame: LinkFrame) -> None:
        ledger = node.ledger
        if height_of(frame) not in {None, ledger.height + 1}:
            return  # another committee may be deciding there
        admitted = self._admission(member, frame, ledger.committee)
        if admitted.event is None:
            self._refused += bool(admitted.refusal)
            return
        node.hear(admitted.event, admitted.record)
        if isinstance(admitted.event, events.SettlementHeard):
            node.learn(admitted.event.settlement)

    def _learn_of_rescue(self, node: SimulatedNode) -> None:
        """The registry's word, the same for everybody; whoever is down reads it when it is up again."""
        loss = self.plan.loss
        if loss is None:
            return
        if self._rescue is None:
            self._rescue = self.setting.term(self.oracle.ledger.running.epoch + 1, loss.members)
            self.oracle.rescued = self._rescue
        if node.is_up:
            self._powered(node, partial(node.hear_rescue, self._rescue))
        else:
            self.agenda.put(STATUS_MS, LearnsOfRescue(node.number))

    def _end_sessions(self, slot: int) -> None:
        """File the slot's sessions with their desk; what a faulty desk gets may be lost."""
        workload = self.setting.workload
        issuer = workload.issuer(slot)
        for settlement in workload.of_slot(slot):
            if issuer not in self.plan.faulty and issuer not in self._gone:
                self._awaited.add(settlement.ticket.id(self.setting.terms.domain))
            node = self.nodes[self._node_of[issuer]]
            self._powered(node, partial(node.file, settlement))
        if slot + 1 < self.slots:
            self.agenda.put(self.setting.terms.params.slot_ms, SessionsEnd(slot + 1))

    # Looking at it all.

    @property
    def _deadline_ms(self) -> int:
        return max(self.plan.heal_ms, self.slots * self.setting.terms.params.slot_ms) + PATIENCE_MS

    def _is_done(self) -> bool:
        if (
            self.agenda.now_ms < self.slots * self.setting.terms.params.slot_ms
            or self.agenda.now_ms < self.plan.heal_ms
        ):
            return False
        top = self.oracle.height
        staying = [node for node in self._correct if node.number not in self._gone]
        return all(node.is_up and node.ledger.height == top for node in staying) and self.oracle.is_dealt_with(
            self._awaited
        )

    def _look_for_losses(self) -> None:
        """No report that an honest router of its day filed was given up, unless another spent its index."""
        workload, domain = self.setting.workload, self.setting.terms.domain
        for slot in range(self.slots):
            routers = self.oracle.ledger.routers(self.setting.terms.params.day_of(slot))
            filed = [settlement.ticket.id(domain) for settlement in workload.of_slot(slot)]
            if (
                filed
                and self._awaited.issuperset(filed)
                and routers.weight(self.setting.keys[workload.issuer(slot)].address)
                and not any(ticket in self.oracle.settled for ticket in filed)
            ):
                raise Violation("lost", f"the session of slot {slot}, ticket 0x{filed[0].hex()}, was dropped")

    def _slot(self, node: int) -> int:
        """The slot that it is by a node's clock."""
        return max(0, self.agenda.now_ms - self._skews[node]) // self.setting.terms.params.slot_ms

    def _standing(self) -> str:
        heights = [f"{node.number}: {node.ledger.height}{'' if node.is_up else ' (down)'}" for node in self.nodes]
        open_ = [ticket for ticket in self._awaited if not self.oracle.is_dealt_with([ticket])]
        return f"{self._deadline_ms} ms, {len(open_)} sessions are open; heights are {', '.join(heights)}"

    def _note(self, happening: Happening) -> None:
        """Add a happening to the run's digest."""
        match happening:
            case Arrives(node, sender, frame):
                text = f"{sender}>{node} ".encode() + self._encoded(frame)
            case Answers(node, life, event):
                text = f"{node}/{life} ".encode() + encode(event)
            case _:
                text = repr(happening).encode()
        self._hash.update(f"{self.agenda.now_ms} ".encode() + text)

    def _encoded(self, frame: LinkFrame) -> bytes:
        """A frame's bytes, worked out once for all who hear it."""
        known = self._frames.get(id(frame))
        if known is None:
            if len(self._frames) >= REMEMBERED:
                self._frames.clear()
            known = self._frames[id(frame)] = frame, encode(frame)  # the frame is kept, so that its id stays its own
        return known[1]

    def _told(self) -> Iterator[str]:
        for now_ms, happening in self.recent:
            yield f"{now_ms:>7} ms  {describe(happening)}"

    def _chance(self, stream: str) -> Random:
        return Random(f"{self.seed} {self.plan.name} {stream}")  # noqa: S311  # a schedule that must repeat, not a secret
