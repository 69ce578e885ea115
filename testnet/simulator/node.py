"""A simulated node: one member's core, its disk, and a shell without threads.

The shell keeps the order that crash safety rests on: an input is on the disk before anything that follows from it
leaves; the guard's watermark is there before a signature is. A crash strikes between any two operations.
"""

from collections import deque
from random import Random
from typing import Protocol

from consensus.errors import CertificateInvalid
from consensus.market.errors import BatchInvalid
from consensus.market.ledger_state import Ledger, rescue
from consensus.member import events
from consensus.member.core import MemberCore
from consensus.member.following import Following, check_body
from consensus.membership import Term
from consensus.tendermint.certificate import verify_certificate
from contracts.signing import Key
from contracts.typed_data import Address, Digest, digest
from gossip.messages.base import Signed, decode_union, encode
from gossip.messages.committee import (
    CertifiedBatch,
    DecidedFrame,
    HandOver,
    LinkFrame,
    Precommit,
    Prevote,
    Proposal,
    ProposalFrame,
    StatusFrame,
)
from gossip.messages.listing import ListModel
from gossip.messages.session import Settlement
from testnet.simulator.disk import Disk
from testnet.simulator.errors import PowerLost
from testnet.simulator.exchange import SimulatedExchange
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

    def hear_whole(self, node: int, member: Address, frame: ProposalFrame) -> None:
        """A proposal of ``member``'s that named its settlements has been put together."""


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
        self.given: list[Signed[ListModel]] = []
        """The listing orders that its operator has given, on its disk."""
        self.disk = Disk(self._operate)
        self.exchange = SimulatedExchange()
        self._setting = setting
        self._secrets = setting.secrets[key_number]
        self._world = world
        self._oracle = oracle
        """None where this node's key may sign anything."""
        self._following = following
        self._slot = 0
        self._boot(setting.genesis)

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

    def begin_slot(self, slot: int) -> None:
        """The node's clock says that ``slot`` has begun."""
        self._slot = slot
        self.take(events.SlotBegan(slot))

    def hear_decision(self, batch: CertifiedBatch) -> str:
        """A certified batch from elsewhere; why it is refused, or nothing."""
        if batch.header.height != self.core.ledger.height + 1:
            return ""
        setting = self._setting
        try:
            check_body(batch.header, batch.body)
            verify_certificate(batch.certificate, batch.header, self.core.ledger.committee, setting.terms.domain)
            self._following(self.core.ledger, batch.header, batch.body)
        except (CertificateInvalid, BatchInvalid) as error:
            return str(error)
        self._adopt(batch)
        return ""

    def file(self, settlement: Settlement) -> None:
        """A finished session, filed with this member's desk, whether its core is up or not."""
        ticket_id = settlement.ticket.id(self._setting.terms.domain)
        self.desk[ticket_id] = settlement
        if self.is_up:
            self.learn(settlement)
            self.take(events.SettlementHeard(settlement, own=True))

    def order(self, model_id: Digest, *, is_listed: bool) -> None:
        """The operator wants a model to be listed, or not: as :class:`node.roles.listings.Listings` does."""
        if not self.is_up:
            return  # its operator speaks to a node that runs, or not at all
        order = self.core.orders.choose(model_id, self.ledger, self._slot, is_listed=is_listed)
        self._operate()
        self.given.append(Signed(order, self.key.sign(order, self._setting.terms.domain)))
        if self._oracle is not None:
            self._oracle.listing.on_given(self.key.address, order)
        self.take(events.OrderHeard(self.given[-1], self.key.address))

    def learn(self, settlement: Settlement) -> None:
        """A settlement was found good: a proposal that names it may be whole now."""
        for member, frame in tuple(self.exchange.note(settlement)):
            self._world.hear_whole(self.number, member, frame)

    def hear_rescue(self, term: Term) -> None:
        """The registry says that ``term`` decides from here on."""
        if self.core.ledger.running.epoch < term.epoch:
            self.take(events.Rescued(term))

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
        self._run(deque(undone.effects()))
        for settlement in tuple(self.desk.values()):
            self.learn(settlement)
            self.take(events.SettlementHeard(settlement, own=True))
        for vote in self.given:
            self.take(events.OrderHeard(vote, self.key.address))
        self.begin_slot(slot)

    def _boot(self, ledger: Ledger) -> None:
        setting = self._setting
        self.exchange = SimulatedExchange()
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
            if (told := batch.body.rescue) is not None:
                ledger = rescue(ledger, Term(told.epoch, told.members).committee)
            ledger = self._following(ledger, batch.header, batch.body)
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
            case events.Dropped(ticket_id, _):
                self._oracle.on_dropped(ticket_id)
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
            self._oracle.on_signed(self.key.address, payload, value)
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
        """Needs no guard: a batch says who was drawn, so there is nothing else to sign for."""
        self._operate()
        value = digest(self._setting.terms.domain, hand_over)
        if self._oracle is not None:
            self._oracle.on_signed(self.key.address, hand_over, value)
        return events.HandOverSigned(Signed(hand_over, self.key.sign_digest(value)))

    def _certified(self, batch: CertifiedBatch) -> None:
        if batch.header.height != self.core.ledger.height + 1:
            return
        if self._oracle is not None:
            self._oracle.on_certified(self.number, batch)
        self._adopt(batch)

    def _adopt(self, batch: CertifiedBatch) -> None:
        """Store a batch, then move on; the inputs of its height are of no use any more.

        The new log begins with the slot, which the height inherits: played again without it, the core would take a
        proposal for one of the future, and vote otherwise than it did.
        """
        self.exchange.clear()
        self.disk.store(batch)
        self.disk.log.clear()
        self.disk.log.append(encode(events.SlotBegan(self._slot)))
        effects = self.core.handle(events.BatchAdopted(batch))
        for outcome in self.core.ledger.outcomes:
            self.desk.pop(outcome.ticket_id, None)
        if self._oracle is not None:
            self._oracle.on_adopted(self.number, batch, self.core.ledger)
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
            case events.HandOverSigned(vote):
                self._waiting.pop(vote.payload, None)
            case events.OpeningMade(opening):
                self._waiting.pop(opening.day, None)
            case events.OpeningJudged(value, _):
                self._waiting.pop(value, None)

    def effects(self) -> list[events.Effect]:
        """Those that are still to be carried out, in the core's order."""
        return list(self._waiting.values())


def _place(effect: events.Effect) -> object:
    match effect:
        case (
            events.SignProposal(payload)
            | events.SignPrevote(payload)
            | events.SignPrecommit(payload)
            | events.SignHandOver(payload)
        ):
            return payload
        case events.SetTimer(step, height, round_, _):
            return step, height, round_
        case events.MakeOpening(day):
            return day
        case events.JudgeOpening(value, _):
            return value
        case _:
            return effect
