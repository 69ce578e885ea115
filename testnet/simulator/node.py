"""A simulated node: one member's core, its disk, and a shell without threads.

The shell keeps the order that crash safety rests on: an input is on the disk before anything that follows from it
leaves; the guard's watermark is there before a signature is. A crash strikes between any two operations.
"""

from collections import deque
from random import Random
from typing import Protocol

from consensus.errors import CertificateInvalid
from consensus.market.errors import BatchInvalid
from consensus.market.ledger_state import Ledger, rescued_as_told
from consensus.member import events
from consensus.member.admission import height_of
from consensus.member.core import MemberCore
from consensus.member.following import Following, check_body
from consensus.membership import Term
from consensus.tendermint.certificate import verify_certificate
from contracts.signing import Key
from contracts.typed_data import Address, Digest, digest
from gossip.messages.base import Signed, decode_union, encode
from gossip.messages.committee import (
    BatchBody,
    CertifiedBatch,
    DecidedFrame,
    HandOver,
    LinkFrame,
    Precommit,
    Prevote,
    Proposal,
    ProposalFrame,
    SettlementsFrame,
    ShortProposalFrame,
    StatusFrame,
    WantFrame,
)
from gossip.messages.session import Settlement
from testnet.simulator.admission import REFUSALS, Admission
from testnet.simulator.disk import Disk
from testnet.simulator.errors import PowerLost
from testnet.simulator.exchange import Exchange
from testnet.simulator.oracle import Oracle
from testnet.simulator.setting import Setting

RECORD_BYTES = 16 << 20
"""The largest record of the log that is read back."""

_STEPS: dict[type, int] = {Proposal: 0, Prevote: 1, Precommit: 2}


class World(Protocol):
    """What a node's shell asks of its surroundings."""

    def send(self, node: int, frame: LinkFrame, to: bytes | None) -> None:
        """Put a frame on its way, to one member or to all others."""

    def answer(self, node: int, event: events.Input, delay_ms: int) -> None:
        """Give ``event`` to the node later, unless it crashes before."""

    def ask_chain(self, node: int, asked: events.MakeOpening | events.JudgeOpening) -> None:
        """Let the simulated chain answer."""

    def catch_up(self, node: int) -> None:
        """Fetch batches from somebody."""

    def rescue(self) -> Term | None:
        """The rescue that the registry holds."""

    @property
    def admit(self) -> Admission:
        """What checks frames."""


class SimulatedNode:
    """Node ``number``; a twin has a number of its own and another's key."""

    def __init__(
        self,
        number: int,
        key_number: int,
        setting: Setting,
        *,
        world: World,
        oracle: Oracle | None,
        following: Following,
    ) -> None:
        self.number = number
        self.key: Key = setting.keys[key_number]
        self.is_up = True
        self.life = 0
        self.operations = 0
        self.crashes_at: list[int] = []
        """Operation numbers at which the power fails, ascending."""
        self.desk: dict[Digest, Settlement] = {}
        """Filed with this member and in no batch that it knows of; on its disk, as a desk's journal is."""
        self.disk = Disk(self._operate)
        self._setting = setting
        self._secrets = setting.secrets[key_number]
        self._world = world
        self._oracle = oracle
        """None where this node's key may sign anything."""
        self._following = following
        self._slot = 0
        self._rescued: Term | None = None
        """What this node has read in the registry, and no batch has told yet."""
        self._boot(setting.genesis)

    @property
    def address(self) -> Address:
        """Whose key the node has."""
        return self.key.address

    @property
    def ledger(self) -> Ledger:
        """Where this node stands."""
        return self.core.ledger

    def status(self) -> StatusFrame:
        """What the node tells the others every now and then."""
        return self.core.status()

    # Inputs.

    def hear(self, event: events.Input, record: bytes) -> None:
        """An admitted frame; ``record`` is its place in the log, empty for what changes no state."""
        if record:
            self.disk.log.append(record)
            self.disk.log.flush()
        self._handle(event)

    def take(self, event: events.Input) -> None:
        """An input of the node's own."""
        self.hear(event, encode(event))

    def hear_frame(self, member: Address, frame: LinkFrame) -> str:
        """What came from ``member``; why it is refused, or nothing."""
        try:
            match frame:
                case DecidedFrame(batch):
                    return self.hear_decision(batch)
                case SettlementsFrame(settlements):
                    for settlement in settlements:
                        self._setting.verified(settlement)
                        self.hear(heard := events.SettlementHeard(settlement, own=False), encode(heard))
                        self._note_settlement(settlement)
                case ShortProposalFrame():
                    self._hear_short(member, frame)
                case WantFrame(value):
                    if (held := self.core.height.values.get(value)) is not None:
                        for answer in self._exchange.answer(member, frame, held[1]):
                            self._world.send(self.number, answer, member)
                case _:
                    return self._hear_other(member, frame)
        except REFUSALS as error:
            return str(error)
        return ""

    def _hear_other(self, member: Address, frame: LinkFrame) -> str:
        if height_of(frame) not in {None, self.core.ledger.height + 1}:
            return ""
        admitted = self._world.admit(member, frame, self.core.ledger)
        if admitted.event is None:
            return admitted.refusal
        self.hear(admitted.event, admitted.record)
        if isinstance(admitted.event, events.SettlementHeard):
            self._note_settlement(admitted.event.settlement)
        return ""

    def _hear_short(self, member: Address, frame: ShortProposalFrame) -> None:
        payload, height = frame.proposal.payload, self.core.height
        if payload.height != height.number or height.said("Proposal", payload.round, member, payload.batch_hash):
            return
        found = self._exchange.begin(member, frame)
        if isinstance(found, WantFrame):
            self._world.send(self.number, found, member)
        else:
            self._hear_other(member, found)

    def _note_settlement(self, settlement: Settlement) -> None:
        for member, whole in self._exchange.note(settlement):
            self._hear_other(member, whole)

    def read_registry(self) -> None:
        """Take over a rescue that the registry holds."""
        term = self._world.rescue()
        if term is not None and term.epoch > self.core.ledger.running.epoch:
            self._rescued = term
            self.take(events.Rescued(term))

    def begin_slot(self, slot: int) -> None:
        """The node's clock says that ``slot`` has begun."""
        self._slot = slot
        self.take(events.SlotBegan(slot))

    def hear_decision(self, batch: CertifiedBatch) -> str:
        """A certified batch from elsewhere; why it is refused, or nothing."""
        if batch.header.height != self._public.height + 1:
            return ""
        try:
            check_body(batch.header, batch.body)
            before = self._before(batch.body)
            verify_certificate(batch.certificate, batch.header, before.committee, self._setting.terms.domain)
            after = self._following(before, batch.header, batch.body)
        except (CertificateInvalid, BatchInvalid) as error:
            return str(error)
        self._adopt(batch, after)
        return ""

    def _before(self, body: BatchBody) -> Ledger:
        """The ledger that a batch builds on: a rescue counts where this node has read of it. Raises BatchInvalid."""
        if body.rescue is not None and Term(body.rescue.epoch, body.rescue.members) != self._rescued:
            raise BatchInvalid("rescue_unknown", body.rescue.epoch)
        return rescued_as_told(self._public, body)

    def file(self, settlement: Settlement) -> None:
        """A finished session, filed with this member's desk, whether its core is up or not."""
        ticket_id = settlement.ticket.id(self._setting.terms.domain)
        self.desk[ticket_id] = settlement
        if self.is_up:
            self._exchange.note(settlement)
            self.take(events.SettlementHeard(settlement, own=True))

    # Power.

    def crash(self, chance: Random) -> None:
        """All but the disk is gone."""
        self.is_up = False
        self.life += 1
        self.disk.log.lose_power(chance)

    def restart(self, slot: int) -> None:
        """Start from the disk: the batches, then the inputs of the height in progress, then what they left undone."""
        self.is_up = True
        self._boot(self._replayed())
        inputs = [decode_union(events.Input, record, RECORD_BYTES) for record in self.disk.log.read()]
        undone = Undone()
        for event in inputs:
            if isinstance(event, events.SlotBegan):
                self._slot = event.slot
            undone.answer(event)
            for effect in self.core.handle(event):
                undone.add(effect)
        self.read_registry()
        self._run(deque(undone.effects()))
        for settlement in tuple(self.desk.values()):
            self._exchange.note(settlement)
            self.take(events.SettlementHeard(settlement, own=True))
        self.begin_slot(slot)

    def _boot(self, ledger: Ledger) -> None:
        setting = self._setting
        self._public = ledger
        self._rescued = None
        self._exchange = Exchange(setting.terms.domain)
        self.core = MemberCore(
            self.key.address,
            setting.terms,
            ledger=ledger,
            following=self._following,
            secrets=self._secrets,
        )

    def _replayed(self) -> Ledger:
        ledger = self._setting.genesis
        for batch in self.disk.batches:
            ledger = self._following(rescued_as_told(ledger, batch.body), batch.header, batch.body)
            if self._oracle is not None:
                self._oracle.on_adopted(self.number, batch, ledger)
        return ledger

    def _operate(self) -> None:
        self.operations += 1
        if self.crashes_at and self.operations >= self.crashes_at[0]:
            del self.crashes_at[0]
            raise PowerLost(self.number, self.operations)

    # Effects.

    def _handle(self, event: events.Input) -> None:
        self._run(deque(self.core.handle(event)))

    def _run(self, waiting: deque[events.Effect]) -> None:
        """Carry out effects, and what follows from them, in order."""
        while waiting:
            answer = self._obey(waiting.popleft())
            if answer is not None:
                self.disk.log.append(encode(answer))
                self.disk.log.flush()
                waiting.extend(self.core.handle(answer))

    def _obey(self, effect: events.Effect) -> events.Input | None:
        match effect:
            case events.SignProposal(payload) | events.SignPrevote(payload) | events.SignPrecommit(payload):
                return self._sign(payload)
            case events.SignHandOver(hand_over):
                return self._sign_hand_over(hand_over)
            case events.Tell(frame, to):
                self._operate()
                self._world.send(self.number, frame, to)
            case events.SendDecision(to, height):
                if 0 < height <= len(self.disk.batches):
                    self._world.send(self.number, DecidedFrame(self.disk.batches[height - 1]), to)
            case events.SetTimer(step, height, round_, delay_ms):
                self._world.answer(self.number, events.TimerElapsed(step, height, round_), delay_ms)
            case events.Certified(batch):
                self._certified(batch)
            case events.MakeOpening() | events.JudgeOpening():
                self._world.ask_chain(self.number, effect)
            case events.CatchUp():
                self._world.catch_up(self.number)
            case _:
                self._note(effect)
        return None

    def _note(self, effect: events.Effect) -> None:
        """What the real shell logs."""
        if isinstance(effect, events.Dropped):
            self.desk.pop(effect.ticket_id, None)
        if self._oracle is None:
            return
        match effect:
            case events.Dropped(ticket_id, reason):
                self._oracle.on_dropped(ticket_id, reason)
            case events.Accused(evidence):
                self._oracle.on_accused(self.number, evidence)

    def _sign(self, payload: Proposal | Prevote | Precommit) -> events.Input | None:
        domain = self._setting.terms.domain
        place = payload.height, payload.round, _STEPS[type(payload)]
        value = digest(domain, payload)
        if not self.disk.guard.allows(place, value):
            return None
        signature = self.key.sign_digest(value)
        if self._oracle is not None:
            self._oracle.on_signed(self.key.address, type(payload).__name__, place[:2], value)
        match payload:
            case Proposal():
                if payload.batch_hash not in self.core.height.values:
                    return None
                header, body = self.core.height.values[payload.batch_hash]
                return events.ProposalSigned(ProposalFrame(Signed(payload, signature), header, body))
            case Prevote():
                return events.PrevoteSigned(Signed(payload, signature))
            case Precommit():
                return events.PrecommitSigned(Signed(payload, signature))

    def _sign_hand_over(self, hand_over: HandOver) -> events.Input:
        domain = self._setting.terms.domain
        value = digest(domain, hand_over)
        self._operate()
        if self._oracle is not None:
            self._oracle.on_signed(self.key.address, "HandOver", (hand_over.epoch, 0), value)
        return events.HandOverSigned(Signed(hand_over, self.key.sign_digest(value)))

    def _certified(self, batch: CertifiedBatch) -> None:
        if batch.header.height != self._public.height + 1:
            return
        if self._oracle is not None:
            self._oracle.on_certified(self.number, batch)
        self._adopt(batch, self._following(self._before(batch.body), batch.header, batch.body))

    def _adopt(self, batch: CertifiedBatch, after: Ledger) -> None:
        """Store a batch, then move on; the inputs of its height are of no use any more.

        The new log begins with the slot, which the height inherits: played again without it, the core would take a
        proposal for one of the future, and vote otherwise than it did.
        """
        self.disk.store(batch)
        self._public, self._rescued = after, None if batch.body.rescue else self._rescued
        self._exchange.clear()
        self.disk.log.clear()
        self.disk.log.append(encode(events.SlotBegan(self._slot)))
        effects = self.core.handle(events.BatchAdopted(batch))
        for outcome in self.core.ledger.outcomes:
            self.desk.pop(outcome.ticket_id, None)
        if self._oracle is not None:
            # Where a rescue waits to be told, the core is ahead of what was decided.
            self._oracle.on_adopted(self.number, batch, after if self.core.ledger.is_rescued else self.core.ledger)
        self._run(deque(effects))


class Undone:
    """While inputs are played again: which of the effects have not had their answer before the crash."""

    def __init__(self) -> None:
        self._waiting: dict[object, events.Effect] = {}

    def add(self, effect: events.Effect) -> None:
        """An effect of the core. What was to be sent is left out: others ask for what they miss."""
        if isinstance(effect, events.Tell | events.SendDecision | events.CatchUp):
            return
        self._waiting[_place(effect)] = effect

    def answer(self, event: events.Input) -> None:
        """An input that may be the answer to one of them."""
        match event:
            case events.ProposalSigned(frame):
                self._waiting.pop(frame.proposal.payload, None)
            case events.PrevoteSigned(vote) | events.PrecommitSigned(vote):
                self._waiting.pop(vote.payload, None)
            case events.TimerElapsed(step, height, round_):
                self._waiting.pop((step, height, round_), None)
            case events.OpeningMade(opening):
                self._waiting.pop(opening.day, None)
            case events.OpeningJudged(value, _):
                self._waiting.pop(value, None)

    def effects(self) -> list[events.Effect]:
        """Those that are still to be carried out, in the core's order."""
        return list(self._waiting.values())


def _place(effect: events.Effect) -> object:
    match effect:
        case events.SignProposal(payload) | events.SignPrevote(payload) | events.SignPrecommit(payload):
            return payload
        case events.SetTimer(step, height, round_, _):
            return step, height, round_
        case events.MakeOpening(day):
            return day
        case events.JudgeOpening(value, _):
            return value
        case _:
            return effect
