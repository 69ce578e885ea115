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

from msgspec import structs

from consensus.member import events
from consensus.member.short import shorten
from consensus.membership import Term
from contracts.typed_data import Address, Digest, Domain
from gossip.messages.base import encode
from gossip.messages.committee import DecidedFrame, LinkFrame, ProposalFrame, StatusFrame
from testnet.simulator.admission import Admission
from testnet.simulator.byzantine import Liar
from testnet.simulator.chain import Chain
from testnet.simulator.clock import Agenda
from testnet.simulator.errors import PowerLost, Violation
from testnet.simulator.faults import Absence, FaultPlan, draw_plan
from testnet.simulator.happenings import (
    Answers,
    Arrives,
    Happening,
    Leaves,
    Restarts,
    SessionsEnd,
    SlotBegins,
    StatusDue,
)
from testnet.simulator.network import Links
from testnet.simulator.node import SimulatedNode
from testnet.simulator.oracle import Oracle
from testnet.simulator.setting import DOMAIN, PARAMS, Setting, make_setting

STATUS_MS = 500
"""How often a node tells where it stands."""

CATCH_UP_BATCHES = 20
"""Batches that one question for what is missing brings."""

PATIENCE_MS = 60_000
"""The liveness bound: so long after the network has healed and the last work was filed, all of it is settled."""

LATER_MS = 50
"""A node that can't leave yet tries again after so long."""

SKEW_MS = 20
"""The clocks of two nodes differ by up to so much."""

APART = 4
"""In every fourth seed each node works out each batch itself; in the others one does it for all (it is half the time).

The oracle always does it itself."""

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
    """Committees that have taken over."""
    violation: Violation | None
    trace: tuple[str, ...]
    """The last happenings, where there is a violation."""


def simulate(name: str, seed: int, members: int = 4, slots: int = 20, *, with_contract: bool = False) -> Result:
    """Run ``seed`` of the plan called ``name`` with work in ``slots`` slots; then let the contracts judge it.

    Raises :class:`~testnet.simulator.errors.PlanUnknown`; a violation is in the result.
    """
    plan = draw_plan(name, seed, members, slots, PARAMS.slot_ms)
    return Simulation(setting_of(plan, members), plan, seed, slots).run(with_contract=with_contract)


def setting_of(plan: FaultPlan, members: int, domain: Domain = DOMAIN) -> Setting:
    """What ``plan`` runs in."""
    setting = make_setting(members, domain, structs.replace(PARAMS, day_slots=plan.day_slots), plan.newcomers)
    return setting.staked(plan.stakes) if plan.stakes else setting


class Simulation:
    """The state of one run, and the surroundings of its nodes."""

    def __init__(self, setting: Setting, plan: FaultPlan, seed: int, slots: int) -> None:
        self.setting = setting
        self.plan = plan
        self.seed = seed
        self.slots = slots
        self.agenda: Agenda[Happening] = Agenda()
        members = len(setting.keys)
        faulty = plan.faulty
        self.chain = Chain(setting, plan)
        self.oracle = Oracle(setting, frozenset(setting.keys[number].address for number in faulty), self.chain)
        self.admit = Admission(setting)
        self._links = Links(plan, self._chance("network"))
        self._chain_chance = self._chance("chain")
        self._crash_chance = self._chance("crashes")
        self._peer_chance = self._chance("peers")
        owners = (*range(members), *plan.twins)
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

    def run(self, *, with_contract: bool = False) -> Result:
        """Until all work is settled everywhere, or until something is wrong."""
        violation: Violation | None = None
        for node in self.nodes:
            self.agenda.put(self._skews[node.number], SlotBegins(node.number, 0))
            self.agenda.put(STATUS_MS + self._skews[node.number], StatusDue(node.number))
        for absence in self.plan.absences:
            self.agenda.put(absence.from_ms, Leaves(absence))
        self.agenda.put(self.setting.terms.params.slot_ms // 2, SessionsEnd(0))
        try:
            while not self._is_done():
                self.step()
            if with_contract:
                self._check_contract()
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
            epochs=self.oracle.epoch - 1,
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
            case Leaves(absence):
                self._leave(absence)
            case _:
                node = self.nodes[happening.node]
                self._powered(node, partial(self._give, node, happening))

    def _check_contract(self) -> None:
        """Let the contracts take what was decided. Raises :class:`Violation`, and ImportError without an EVM."""
        from testnet.simulator.contract import Contracts  # noqa: PLC0415  # a library for development only

        Contracts(self.setting).check(self.oracle.decided, self.oracle.ledger.credits)

    # What the nodes ask of their surroundings.

    def send(self, node: int, frame: LinkFrame, to: bytes | None) -> None:
        """Put a frame on its way, to one member or to all other nodes."""
        liar = self._liars.get(node)
        receivers = range(len(self.nodes)) if to is None else self._by_address.get(Address(to), [])
        for receiver in receivers:
            if receiver == node:
                continue
            for sent in (frame,) if liar is None else liar.frames(frame):
                if isinstance(sent, ProposalFrame) and len(sent.body.settlements) >= self.plan.short_from:
                    sent = shorten(sent, self.plan.short_from)  # noqa: PLW2901  # as it travels
                for delay_ms in self._links.delays_ms(node, receiver, self.agenda.now_ms):
                    self.agenda.put(delay_ms, Arrives(receiver, node, sent))

    def answer(self, node: int, event: events.Input, delay_ms: int) -> None:
        """Give ``event`` to a node later, unless it crashes before."""
        self.agenda.put(delay_ms, Answers(node, self.nodes[node].life, event))

    def ask_chain(self, node: int, asked: events.MakeOpening | events.JudgeOpening) -> None:
        """The simulated chain answers within a few ms; while it is out, the node does without it, or waits for ever."""
        chance, ledger = self._chain_chance, self.nodes[node].core.ledger
        delay_ms = chance.randint(1, 10)
        is_out = self.chain.is_out(self.agenda.now_ms, chance)
        if is_out and chance.random() < 0.5:
            return
        match asked:
            case events.MakeOpening(day):
                made = self.chain.carried_over(day, ledger) if is_out else self.chain.make(day, ledger, chance)
                self.answer(node, events.OpeningMade(made), delay_ms)
            case events.JudgeOpening(value, opening):
                is_fair = self.chain.is_fair(opening, ledger, is_out=is_out)
                self.answer(node, events.OpeningJudged(value, is_fair), delay_ms)

    def rescue(self) -> Term | None:
        """The rescue that the registry holds."""
        return self.chain.rescue(self.agenda.now_ms)

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
            for sent in (frame,) if liar is None else liar.frames(frame):
                for delay_ms in self._links.delays_ms(peer.number, node, self.agenda.now_ms):
                    self.agenda.put(asked[0] + delay_ms, Arrives(node, peer.number, sent))

    # Happenings.

    def _powered(self, node: SimulatedNode, action: Callable[[], None]) -> None:
        """Let a node do something, and let its power fail meanwhile where the plan says so."""
        if self.agenda.now_ms >= self.plan.heal_ms:
            node.crashes_at.clear()
        try:
            action()
        except PowerLost:
            node.crash(self._crash_chance)
            self.agenda.put(self._downtimes[node.number].pop(0), Restarts(node.number))

    def _leave(self, absence: Absence) -> None:
        """Take a node's power away, once another has all of the batches that it has decided.

        A rescue is for a committee whose last word everybody knows: what only the lost ones decided would be lost.
        """
        node, others = self.nodes[absence.node], self._staying()
        if not node.is_up or all(other.ledger.height < node.ledger.height for other in others):
            self.agenda.put(LATER_MS, Leaves(absence))
            return
        node.crash(self._crash_chance)
        self.agenda.put(absence.until_ms - self.agenda.now_ms, Restarts(absence.node))

    def _staying(self) -> list[SimulatedNode]:
        """The nodes of the first committee that stay."""
        gone = {one.node for one in self.plan.absences}
        return [node for node in self.nodes[: len(self.setting.committee.members)] if node.number not in gone]

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
                    node.read_registry()
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
        self._refused += bool(node.hear_frame(self.nodes[sender].key.address, frame))

    def _end_sessions(self, slot: int) -> None:
        """File the slot's sessions with their desk; what a faulty desk gets may be lost."""
        workload = self.setting.workload
        issuer = workload.issuer(slot)
        for settlement in workload.of_slot(slot):
            if issuer not in self.plan.faulty:
                self._awaited.add(settlement.ticket.id(self.setting.terms.domain))
            node = self.nodes[issuer]
            self._powered(node, partial(node.file, settlement))
        if slot + 1 < self.slots:
            self.agenda.put(self.setting.terms.params.slot_ms, SessionsEnd(slot + 1))

    # Looking at it all.

    @property
    def _deadline_ms(self) -> int:
        times_ms = (self.plan.heal_ms, self._back_ms, self.slots * self.setting.terms.params.slot_ms)
        return max(times_ms) + PATIENCE_MS

    @property
    def _back_ms(self) -> int:
        """When everybody has power again."""
        return max((absence.until_ms for absence in self.plan.absences), default=0)

    def _is_done(self) -> bool:
        if self.agenda.now_ms < self.slots * self.setting.terms.params.slot_ms or self.agenda.now_ms < max(
            self.plan.heal_ms, self._back_ms
        ):
            return False
        top = self.oracle.height
        return all(node.is_up and node.ledger.height == top for node in self._correct) and self.oracle.is_dealt_with(
            self._awaited
        )

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
                text = f"{sender}>{node} ".encode() + encode(frame)
            case Answers(node, life, event):
                text = f"{node}/{life} ".encode() + encode(event)
            case _:
                text = repr(happening).encode()
        self._hash.update(f"{self.agenda.now_ms} ".encode() + text)

    def _told(self) -> Iterator[str]:
        for now_ms, happening in self.recent:
            yield f"{now_ms:>7} ms  {describe(happening)}"

    def _chance(self, stream: str) -> Random:
        return Random(f"{self.seed} {self.plan.name} {stream}")  # noqa: S311  # a schedule that must repeat, not a secret


def describe(happening: Happening) -> str:
    """A happening for people, in one line."""
    match happening:
        case Arrives(node, sender, frame):
            return f"{sender} -> {node}  {show(frame)}"
        case Answers(node, _, event):
            return f"{node}  {show(event)}"
        case SlotBegins(node, slot):
            return f"{node}  slot {slot} begins"
        case StatusDue(node):
            return f"{node}  tells its status"
        case SessionsEnd(slot):
            return f"the sessions of slot {slot} are filed"
        case Restarts(node):
            return f"{node}  restarts"
        case Leaves(absence):
            return f"{absence.node}  loses its power until {absence.until_ms} ms"


def show(thing: LinkFrame | events.Input) -> str:
    """A frame or an input by its name and its place."""
    name = type(thing).__name__
    match thing:
        case StatusFrame(height, round_) | events.TimerElapsed(_, height, round_):
            return f"{name} {height}/{round_}"
        case DecidedFrame(batch) | events.BatchAdopted(batch):
            return f"{name} {batch.header.height}/{batch.certificate.round}"
    payload = getattr(getattr(thing, "vote", None) or getattr(thing, "proposal", None), "payload", None)
    if payload is None:
        return name
    return f"{name} {payload.height}/{payload.round} 0x{payload.batch_hash[:4].hex()}"
