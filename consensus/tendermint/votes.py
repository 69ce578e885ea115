"""The vote keeper: stake-weighted tallies of one height, and what they amount to.

The first vote of a member for a round and type counts; a different one later is kept as evidence and counts for
nothing. A verified certificate counts as a unit, whatever its members voted before. Each threshold is reported once a
round; the tallies can be asked at any time.
"""

import enum
from collections.abc import Iterator, Mapping
from itertools import chain

import msgspec
from msgspec.structs import replace

from consensus.committee import Committee
from consensus.tendermint.types import Certificate, ValueId, Vote, VoteType
from contracts.typed_data import Address

VOTES_KEPT = 8
"""Different votes of one member for one round and type that are kept; two prove equivocation, more add nothing."""


class ThresholdKind(enum.StrEnum):
    """What a tally has reached."""

    POLKA_ANY = "polka_any"
    POLKA_NIL = "polka_nil"
    POLKA_VALUE = "polka_value"
    PRECOMMIT_ANY = "precommit_any"
    """More than 2/3 of stake precommitted, for whatever; nil has no threshold of its own."""
    PRECOMMIT_VALUE = "precommit_value"
    SKIP = "skip"
    """More than 1/3 of stake has voted, in either type, in a round above the current one."""


class Threshold(msgspec.Struct, frozen=True):
    """A threshold of ``round``; ``value`` is set for the two kinds that name one."""

    kind: ThresholdKind
    round: int
    value: ValueId | None = None


class Tally(msgspec.Struct, frozen=True):
    """The votes of one type in one round."""

    votes: Mapping[Address, tuple[Vote, ...]] = msgspec.field(default_factory=dict)
    """Each member's different votes in the order of arrival; the first one counts."""
    weights: Mapping[ValueId | None, int] = msgspec.field(default_factory=dict)
    """Stake by what the votes that count are for, in wei."""
    certified: Mapping[ValueId, frozenset[Address]] = msgspec.field(default_factory=dict)
    """Values with a certificate, and whose votes it consists of."""

    @property
    def weight(self) -> int:
        """Stake that has voted, in wei."""
        return sum(self.weights.values())

    def add(self, vote: Vote, stake: int) -> "Tally":
        """This tally with one more vote."""
        earlier = self.votes.get(vote.member, ())
        if vote in earlier or len(earlier) >= VOTES_KEPT:
            return self
        votes = {**self.votes, vote.member: (*earlier, vote)}
        if earlier:
            return replace(self, votes=votes)
        weights = {**self.weights, vote.value: self.weights.get(vote.value, 0) + stake}
        return replace(self, votes=votes, weights=weights)

    def certify(self, value: ValueId, members: frozenset[Address]) -> "Tally":
        """This tally with a certificate for ``value``."""
        return replace(self, certified={**self.certified, value: self.certified.get(value, frozenset()) | members})

    def voters(self, value: ValueId) -> frozenset[Address]:
        """Members whose vote for ``value`` was counted, alone or within a certificate."""
        singly = frozenset(member for member, votes in self.votes.items() if votes[0].value == value)
        return singly | self.certified.get(value, frozenset())


class RoundVotes(msgspec.Struct, frozen=True):
    """Both tallies of a round, and the thresholds already reported for it."""

    prevotes: Tally = msgspec.field(default_factory=Tally)
    precommits: Tally = msgspec.field(default_factory=Tally)
    reported: frozenset[Threshold] = frozenset()

    def of(self, kind: VoteType) -> Tally:
        """The tally of one type."""
        return self.prevotes if kind == VoteType.PREVOTE else self.precommits

    def having(self, kind: VoteType, tally: Tally) -> "RoundVotes":
        """These votes with one tally replaced."""
        return replace(self, prevotes=tally) if kind == VoteType.PREVOTE else replace(self, precommits=tally)


class VoteKeeper(msgspec.Struct, frozen=True):
    """All votes of one height under one committee. Adding gives a new keeper; this one stays as it is."""

    height: int
    committee: Committee
    rounds: Mapping[int, RoundVotes] = msgspec.field(default_factory=dict)

    def add(self, vote: Vote, current_round: int) -> tuple["VoteKeeper", Threshold | None]:
        """Count ``vote``; the threshold that it brings to light, if any.

        A vote of another height or of somebody who is no member changes nothing.
        """
        stake = self.committee.weight(vote.member)
        if stake == 0 or vote.height != self.height:
            return self, None
        votes = self.votes(vote.round)
        votes = votes.having(vote.kind, votes.of(vote.kind).add(vote, stake))
        return self._report(votes, vote.kind, vote.round, vote.value, current_round)

    def add_certificate(self, certificate: Certificate, current_round: int) -> tuple["VoteKeeper", Threshold | None]:
        """Count a certificate as a unit.

        One that does not hold more than 2/3 of this committee's stake is counted as the single votes it consists of.
        """
        if certificate.height != self.height:
            return self, None
        votes = self.votes(certificate.round)
        tally = votes.of(certificate.kind)
        stake = {member: self.committee.weight(member) for member in sorted(certificate.members)}
        for vote in votes_of(certificate):
            if stake[vote.member] > 0:
                tally = tally.add(vote, stake[vote.member])
        if self.committee.is_quorum(sum(stake.values())):
            tally = tally.certify(certificate.value, frozenset(member for member, wei in stake.items() if wei > 0))
        votes = votes.having(certificate.kind, tally)
        return self._report(votes, certificate.kind, certificate.round, certificate.value, current_round)

    def votes(self, round_: int) -> RoundVotes:
        """The votes of a round."""
        return self.rounds.get(round_, _NO_VOTES)

    def has_quorum(self, kind: VoteType, round_: int, value: ValueId | None) -> bool:
        """More than 2/3 of stake voted ``value`` (None: nil) in ``round_``."""
        tally = self.votes(round_).of(kind)
        return value in tally.certified or self.committee.is_quorum(tally.weights.get(value, 0))

    def has_quorum_any(self, kind: VoteType, round_: int) -> bool:
        """More than 2/3 of stake voted in ``round_``, for whatever."""
        tally = self.votes(round_).of(kind)
        return bool(tally.certified) or self.committee.is_quorum(tally.weight)

    def has_third(self, round_: int) -> bool:
        """More than 1/3 of stake voted in ``round_``, in either type: at least one of them is honest."""
        votes = self.votes(round_)
        voters = votes.prevotes.votes.keys() | votes.precommits.votes.keys()
        return self.committee.is_third(sum(map(self.committee.weight, voters)))

    def conflict(self, vote: Vote) -> tuple[Vote, Vote] | None:
        """The first two different votes of ``vote``'s member for the same place, where there are two."""
        votes = self.votes(vote.round).of(vote.kind).votes.get(vote.member, ())
        return (votes[0], votes[1]) if len(votes) > 1 else None

    @property
    def evidence(self) -> tuple[tuple[Vote, ...], ...]:
        """For each member, round and type with more than one vote: the different votes in the order of arrival."""
        return tuple(votes for votes in self._places() if len(votes) > 1)

    def _places(self) -> Iterator[tuple[Vote, ...]]:
        tallies = chain.from_iterable((votes.prevotes, votes.precommits) for votes in self.rounds.values())
        return chain.from_iterable(tally.votes.values() for tally in tallies)

    def _report(
        self, votes: RoundVotes, kind: VoteType, round_: int, value: ValueId | None, current_round: int
    ) -> tuple["VoteKeeper", Threshold | None]:
        """Put ``votes`` in place, and report what they reached unless it was reported before."""
        counted = replace(self, rounds={**self.rounds, round_: votes})
        reached = counted._reached(kind, round_, value, current_round)
        if reached is None or reached in votes.reported:
            return counted, None
        votes = replace(votes, reported=votes.reported | {reached})
        return replace(self, rounds={**self.rounds, round_: votes}), reached

    def _reached(self, kind: VoteType, round_: int, value: ValueId | None, current_round: int) -> Threshold | None:
        if round_ > current_round and self.has_third(round_):
            return Threshold(ThresholdKind.SKIP, round_)
        is_prevote = kind == VoteType.PREVOTE
        if self.has_quorum(kind, round_, value):
            if value is not None:
                named = ThresholdKind.POLKA_VALUE if is_prevote else ThresholdKind.PRECOMMIT_VALUE
                return Threshold(named, round_, value)
            return Threshold(ThresholdKind.POLKA_NIL if is_prevote else ThresholdKind.PRECOMMIT_ANY, round_)
        if self.has_quorum_any(kind, round_):
            return Threshold(ThresholdKind.POLKA_ANY if is_prevote else ThresholdKind.PRECOMMIT_ANY, round_)
        return None


_NO_VOTES = RoundVotes()


def votes_of(certificate: Certificate) -> tuple[Vote, ...]:
    """The votes that a certificate consists of, by ascending member."""
    return tuple(
        Vote(certificate.kind, certificate.height, certificate.round, certificate.value, member)
        for member in sorted(certificate.members)
    )
