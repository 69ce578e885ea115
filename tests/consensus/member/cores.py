"""Cores in one thread, joined by lists."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consensus.member import events
from consensus.member.admission import admit, height_of
from consensus.member.core import MemberCore
from consensus.member.events import Effect, Input
from consensus.member.following import Following
from consensus.membership import draw
from consensus.tendermint.types import Step
from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.messages.base import Signed, sign
from gossip.messages.committee import (
    CertifiedBatch,
    LinkFrame,
    ProposalFrame,
)
from gossip.messages.records import BeaconCommitment
from tests.consensus.builders import World


@dataclass(frozen=True)
class Secrets:
    """A member's secrets, as the world makes them."""

    world: World
    member: Key

    def of_slot(self, slot: int) -> Digest:
        return self.world.secret(self.member, slot)

    def commitment(self, day: int) -> Signed[BeaconCommitment]:
        return self.world.commitment(self.member, day)


@dataclass
class Committee:
    """Members' cores and what is on its way between them."""

    world: World
    cores: dict[Address, MemberCore]
    keys: dict[Address, Key]
    following: Following
    up: set[Address]
    queue: list[tuple[Address, Input]] = field(default_factory=list)
    timers: list[tuple[Address, events.SetTimer]] = field(default_factory=list)
    effects: list[tuple[Address, Effect]] = field(default_factory=list)
    batches: dict[Address, list[CertifiedBatch]] = field(default_factory=dict)
    opening_is_fair: bool = True
    loses: Callable[[LinkFrame], bool] = lambda _: False
    """Frames that get lost on their way."""
    candidates: list[tuple[Address, int]] = field(default_factory=list)
    """Who has staked, where the next opening is to draw."""

    @classmethod
    def of(cls, world: World | None = None, candidates: Sequence[Key] = ()) -> "Committee":
        """A committee, and others who run but are no members yet."""
        world = world or World()
        following = Following(world.terms)
        keys = {member.address: member for member in (*world.members, *candidates)}
        cores = {
            address: MemberCore(
                address,
                world.terms,
                ledger=world.ledger(),
                following=following,
                secrets=Secrets(world, member),
            )
            for address, member in keys.items()
        }
        return cls(world, cores, keys, following, set(cores))

    def give(self, event: Input, *to: Address) -> None:
        """Let members take an input, and everybody everything that follows, until nobody has anything to say."""
        self.queue += [(address, event) for address in (to or sorted(self.up))]
        while self.queue:
            address, waiting = self.queue.pop(0)
            if address in self.up:
                for effect in self.cores[address].handle(waiting):
                    self.effects.append((address, effect))
                    self.carry_out(address, effect)

    def carry_out(self, address: Address, effect: Effect) -> None:
        core, member, domain = self.cores[address], self.keys[address], self.world.domain
        match effect:
            case events.SignProposal(payload):
                frame = ProposalFrame(sign(payload, member, domain), *core.height.values[payload.batch_hash])
                self.queue.append((address, events.ProposalSigned(frame)))
            case events.SignPrevote(payload):
                self.queue.append((address, events.PrevoteSigned(sign(payload, member, domain))))
            case events.SignPrecommit(payload):
                self.queue.append((address, events.PrecommitSigned(sign(payload, member, domain))))
            case events.Tell(frame, to):
                for other in sorted(self.up - {address}) if to is None else [to]:
                    self.deliver(address, other, frame)
            case events.SetTimer():
                self.timers.append((address, effect))
            case events.Certified(batch):
                self.batches.setdefault(address, []).append(batch)
                self.queue.append((address, events.BatchAdopted(batch)))
            case events.SignHandOver(payload):
                self.queue.append((address, events.HandOverSigned(sign(payload, member, domain))))
            case events.MakeOpening(day):
                free = self.candidates and core.ledger.drawn is None
                drawn = draw(self.candidates, core.ledger.running) if free else ()
                self.queue.append((address, events.OpeningMade(self.world.opening(day, drawn=drawn))))
            case events.JudgeOpening(value, _):
                self.queue.append((address, events.OpeningJudged(value, self.opening_is_fair)))

    def deliver(self, sender: Address, to: Address, frame: LinkFrame) -> None:
        if self.loses(frame):
            return
        ledger = self.cores[to].ledger
        if height_of(frame) not in {None, ledger.height + 1}:
            return
        heard = admit(sender, frame, self.world.terms, ledger.committee, self.following.verified)
        if heard is not None:
            self.queue.append((to, heard))

    def elapse(self, step: Step, round_: int) -> None:
        """Let every member's timer of one step and round run out."""
        due = [(who, timer) for who, timer in self.timers if (timer.step, timer.round) == (step, round_)]
        self.timers = [item for item in self.timers if item not in due]
        for who, timer in due:
            self.give(events.TimerElapsed(timer.step, timer.height, timer.round), who)

    def of_kind(self, kind: type) -> list[tuple[Address, Effect]]:
        return [(who, effect) for who, effect in self.effects if isinstance(effect, kind)]

    def proposer(self, round_: int = 0, height: int = 1) -> Address:
        return self.world.committee.proposer(height, round_)
