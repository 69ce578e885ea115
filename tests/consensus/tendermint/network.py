"""A whole committee in memory: drivers, messages under way, timers. A schedule is a choice of what comes next."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.committee import Committee, Member
from consensus.tendermint.driver import Driver, step
from consensus.tendermint.events import (
    CastVote,
    CertificateIn,
    Decided,
    Effect,
    EquivocationFound,
    GetValue,
    Input,
    ProposalIn,
    Propose,
    ScheduleTimeout,
    Start,
    TimeoutElapsed,
    ValueReady,
    VoteIn,
)
from consensus.tendermint.types import Certificate, ValueId, Vote, VoteType
from contracts.typed_data import Address


def address(number: int) -> Address:
    return Address(number.to_bytes(20, "big"))


def committee_of(*stakes: int) -> Committee:
    return Committee.of(1, [Member(address(number), stake) for number, stake in enumerate(stakes, 1)])


Outgoing = Callable[[Address, Input], tuple[Input, ...]]
"""What a faulty member sends to one receiver instead of an honest message: (sender, honest message) -> messages."""


@dataclass
class Network:
    """Members that run one height after another until told to stop."""

    committee: Committee
    silent: frozenset[Address] = frozenset()
    """Crashed from the start."""
    outgoing: dict[Address, Outgoing] = field(default_factory=dict)
    heights: int = 1
    drivers: dict[Address, Driver] = field(default_factory=dict)
    under_way: list[tuple[Address, Input]] = field(default_factory=list)
    timers: list[tuple[Address, TimeoutElapsed]] = field(default_factory=list)
    decided: dict[tuple[int, Address], Decided] = field(default_factory=dict)
    cast: list[CastVote] = field(default_factory=list)
    found: list[EquivocationFound] = field(default_factory=list)
    proposed: set[ValueId] = field(default_factory=set)

    def start(self) -> None:
        for member in self.members():
            self.drivers[member] = Driver.idle(member, 1)
        for member in self.members():
            self.give(member, Start(1, self.committee))

    def members(self) -> list[Address]:
        return [member.address for member in self.committee.members if member.address not in self.silent]

    def honest(self) -> list[Address]:
        return [member for member in self.members() if member not in self.outgoing]

    def give(self, member: Address, event: Input) -> None:
        self.drivers[member], effects = step(self.drivers[member], event)
        for effect in effects:
            self._run(member, effect)

    def _run(self, member: Address, effect: Effect) -> None:
        match effect:
            case Propose():
                self.proposed.add(effect.value)
                self._send(
                    member,
                    ProposalIn(effect.height, effect.round, effect.value, effect.valid_round, member, is_valid=True),
                )
            case CastVote():
                self.cast.append(effect)
                self._send(member, VoteIn(effect.vote))
            case GetValue():
                value = f"{effect.height}/{effect.round}/{member.hex()[-2:]}".encode()
                self.under_way.append((member, ValueReady(effect.height, effect.round, value)))
            case ScheduleTimeout():
                self.timers.append((member, TimeoutElapsed(effect.step, effect.height, effect.round)))
            case EquivocationFound():
                self.found.append(effect)
            case Decided():
                assert (effect.height, member) not in self.decided, "decided twice"
                self.decided[effect.height, member] = effect
                if effect.height < self.heights:
                    self.under_way.append((member, Start(effect.height + 1, self.committee)))

    def _send(self, sender: Address, message: Input) -> None:
        for receiver in self.members():
            change = self.outgoing.get(sender)
            sent = (message,) if change is None or receiver == sender else change(sender, message)
            self.under_way.extend((receiver, instead) for instead in sent)

    def is_done(self) -> bool:
        return all((self.heights, member) in self.decided for member in self.honest())

    def run_in_order(self, limit: int = 50_000) -> None:
        """First come, first served; a timer runs out only where nothing is under way: a fast network."""
        resting = False
        for _ in range(limit):
            if self.under_way:
                self.give(*self.under_way.pop(0))
            elif self.is_done() or resting:
                return
            elif self.timers:
                self.give(*self.timers.pop(0))
                self.share()
            else:
                self.share()
                resting = True
        raise AssertionError(f"not at rest after {limit} inputs")

    def run_shuffled(self, seed: int, inputs: int, hurry: float = 0.1, lose: float = 0.0, repeat: float = 0.0) -> None:
        """At most ``inputs`` inputs in random order: timers run out early, messages get lost or come twice."""
        chance = random.Random(seed)
        for _ in range(inputs):
            if self.is_done():
                return
            queue: list[tuple[Address, Input]] = self.under_way
            if self.timers and (not self.under_way or chance.random() < hurry):
                member, timer = self.timers.pop(chance.randrange(len(self.timers)))
                self.give(member, timer)
                continue
            if not queue:
                return
            member, event = queue.pop(chance.randrange(len(queue)))
            is_message = isinstance(event, ProposalIn | VoteIn)
            if is_message and chance.random() < lose:
                continue
            if is_message and chance.random() < repeat:
                queue.append((member, event))
            self.give(member, event)

    def share(self) -> None:
        """Everybody helps those who lag: with the polka of its valid value, or with its decision and its proposal.

        Against members that tell everybody something else this is needed: what convinced one may be hidden from others.
        """
        for member in self.honest():
            instance = self.drivers[member].instance
            if instance is None:
                continue
            state, keeper = instance.state, instance.keeper
            kind, round_, value = VoteType.PREVOTE, state.valid_round, state.valid_value
            if instance.decided is not None:
                kind, round_, value = VoteType.PRECOMMIT, instance.decided.round, instance.decided.value
            if value is None:
                continue
            unit = Certificate(kind, state.height, round_, value, keeper.votes(round_).of(kind).voters(value))
            proposals = [known for known in instance.proposals if (known.round, known.value) == (round_, value)]
            for receiver in self.honest():
                self.under_way.append((receiver, CertificateIn(unit)))
                self.under_way.extend((receiver, proposal) for proposal in proposals)

    def check_safety(self) -> None:
        """Agreement (one value a height), validity (somebody proposed it), and no honest member votes twice."""
        for height in range(1, self.heights + 1):
            decided = [self.decided[height, member] for member in self.honest() if (height, member) in self.decided]
            values = {decision.value for decision in decided}
            assert len(values) <= 1, f"disagreement at height {height}: {values}"
            assert self.outgoing or values <= self.proposed
        for decision in self.decided.values():
            assert self.committee.is_quorum(sum(map(self.committee.weight, decision.members)))
        votes = [cast.vote for cast in self.cast if cast.vote.member not in self.outgoing]
        places = {(vote.member, vote.height, vote.round, vote.kind) for vote in votes}
        assert len(places) == len(votes), "an honest member voted twice for one place"
        accused = {
            found.first.member if isinstance(found.first, Vote) else found.first.proposer for found in self.found
        }
        assert accused.isdisjoint(self.honest()), "an honest member is accused"
