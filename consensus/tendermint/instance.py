"""One height of one member: recognises the events of algorithm 1 in what has arrived, and runs them to rest.

Messages are first put where they belong (votes into the keeper, proposals into a list); then every ``upon`` clause
whose condition holds is run until none does. Conditions are read off what is there, never off what has just arrived,
so the order of arrival and messages that came early make no difference. "For the first time" is a mark on the clause.
"""

from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from consensus.committee import Committee
from consensus.tendermint import round as core
from consensus.tendermint.events import (
    CastVote,
    Decided,
    Effect,
    EquivocationFound,
    GetValue,
    ProposalIn,
    Propose,
    ScheduleTimeout,
    ValueReady,
)
from consensus.tendermint.round import Line, RoundState
from consensus.tendermint.round_events import (
    Commit,
    FreshProposal,
    NewRound,
    PolkaAny,
    PolkaNil,
    PrecommitAny,
    ProposalWithCommit,
    ProposalWithEarlierPolka,
    ProposalWithPolka,
    ProposeValue,
    Rejected,
    RoundInput,
    RoundOutput,
    RoundSkip,
    SkipRound,
    Timeout,
)
from consensus.tendermint.types import NO_ROUND, Certificate, Step, Vote, VoteType
from consensus.tendermint.votes import VoteKeeper, votes_of
from contracts.typed_data import Address

ROUNDS_AHEAD = 1_000
"""Messages of rounds further above the current one are dropped, so that one faulty member can't fill the memory.

Honest members don't get there: with timers that grow by half a second a round it takes more than a week."""

PROPOSALS_KEPT = 4
"""Different proposals of one round that are kept. A further one is kept only where its value has a quorum."""

ProposerOf = Callable[[Committee, int, int], Address]
"""Whose turn it is: (committee, height, round) -> member."""


class Instance(msgspec.Struct, frozen=True):
    """Everything that a member knows of a height."""

    proposer_of: ProposerOf
    keeper: VoteKeeper
    state: RoundState
    proposals: tuple[ProposalIn, ...] = ()
    """In the order of arrival; all are from their round's proposer."""
    done: frozenset[tuple[Line, int]] = frozenset()
    """Clauses that run for the first time only, with the round in which they ran."""
    asked: int = NO_ROUND
    """The round for which a value was asked and has not come yet."""
    decided: Decided | None = None

    @classmethod
    def of(
        cls, member: Address, height: int, committee: Committee, proposer_of: ProposerOf, first_round: int = 0
    ) -> "Instance":
        """A height about which nothing is known yet."""
        return cls(proposer_of, VoteKeeper(height, committee), RoundState(member, height, first_round - 1))


Outcome = tuple[Instance, tuple[Effect, ...]]


def begin(instance: Instance) -> Outcome:
    """Decide at once where everything is there, else start the first round.

    That is its lowest round, or a later one where more than 1/3 of stake already is (line 55).
    """
    lowest = instance.state.round + 1
    first = next(upon_commit(instance), None) or _new_round(instance, max(lowest, _highest_round(instance)))
    return settle(*_run(instance, first))


def add_vote(instance: Instance, vote: Vote) -> Outcome:
    """Count a vote, and report the first conflict of its member for its place."""
    if not _is_near(instance, vote.round):
        return instance, ()
    known = instance.keeper.conflict(vote)
    keeper, _ = instance.keeper.add(vote, instance.state.round)
    found = keeper.conflict(vote)
    effects = (EquivocationFound(*found),) if found is not None and known is None else ()
    return replace(instance, keeper=keeper), effects


def add_certificate(instance: Instance, certificate: Certificate) -> Outcome:
    """Count a verified certificate as a unit, and report the conflicts with single votes that it shows."""
    if not _is_near(instance, certificate.round):
        return instance, ()
    before = instance.keeper
    keeper, _ = before.add_certificate(certificate, instance.state.round)
    effects: list[Effect] = []
    for vote in votes_of(certificate):
        found = keeper.conflict(vote)
        if found is not None and before.conflict(vote) is None:
            effects.append(EquivocationFound(*found))
    return replace(instance, keeper=keeper), tuple(effects)


def add_proposal(instance: Instance, proposal: ProposalIn) -> Outcome:
    """Keep a proposal of its round's proposer, and report the first that differs from another one of the round."""
    keeper = instance.keeper
    expected = instance.proposer_of(keeper.committee, proposal.height, proposal.round)
    if proposal.proposer != expected or not _is_near(instance, proposal.round):
        return instance, ()
    rivals = [known for known in instance.proposals if known.round == proposal.round]
    if proposal in rivals:
        return instance, ()
    wanted = any(keeper.has_quorum(kind, proposal.round, proposal.value) for kind in VoteType)
    if len(rivals) >= PROPOSALS_KEPT and not wanted:
        return instance, ()
    effects = (EquivocationFound(rivals[0], proposal),) if _differ(rivals, proposal) else ()
    return replace(instance, proposals=(*instance.proposals, proposal)), effects


def elapse(instance: Instance, step: Step, round_: int) -> Outcome:
    """A timer of this height ran out (lines 57, 61, 65)."""
    if instance.decided is not None:
        return instance, ()
    return _run(instance, Timeout(step, instance.state.height, round_))


def offer_value(instance: Instance, ready: ValueReady) -> Outcome:
    """The value that was asked for (line 19); one that comes late or unasked is ignored."""
    if instance.decided is not None or not instance.asked == ready.round == instance.state.round:
        return instance, ()
    return _run(replace(instance, asked=NO_ROUND), ProposeValue(ready.value))


def settle(instance: Instance, effects: tuple[Effect, ...]) -> Outcome:
    """Run every clause whose condition holds until none does; their effects follow ``effects``."""
    while instance.state.step != Step.NONE and (event := next(_enabled(instance), None)) is not None:
        instance, more = _run(instance, event)
        effects += more
    return instance, effects


def _enabled(instance: Instance) -> Iterator[RoundInput]:
    """The events whose conditions hold, the most final first. A decided height has none."""
    if instance.decided is None:
        yield from upon_commit(instance)
        yield from upon_later_round(instance)
        yield from upon_proposal(instance)
        yield from upon_polka(instance)
        yield from upon_votes(instance)


def upon_commit(instance: Instance) -> Iterator[RoundInput]:
    """Line 49, in any round."""
    for proposal in instance.proposals:
        if proposal.is_valid and instance.keeper.has_quorum(VoteType.PRECOMMIT, proposal.round, proposal.value):
            yield ProposalWithCommit(proposal.round, proposal.value)


def upon_later_round(instance: Instance) -> Iterator[RoundInput]:
    """Line 55, to the highest round that qualifies."""
    round_ = _highest_round(instance)
    if round_ > instance.state.round:
        yield RoundSkip(round_)


def upon_proposal(instance: Instance) -> Iterator[RoundInput]:
    """Lines 22 and 28, in step propose.

    An invalid value is prevoted nil at once, even where the polka that its proposal names has not arrived: nothing
    that may still arrive would make it a prevote for that value.
    """
    if instance.state.step != Step.PROPOSE:
        return
    for proposal in _current(instance):
        earlier = proposal.valid_round
        if earlier == NO_ROUND:
            yield FreshProposal(proposal.value, proposal.is_valid)
        elif 0 <= earlier < proposal.round:
            if instance.keeper.has_quorum(VoteType.PREVOTE, earlier, proposal.value):
                yield ProposalWithEarlierPolka(proposal.value, earlier, proposal.is_valid)
            elif not proposal.is_valid:
                yield FreshProposal(proposal.value, is_valid=False)


def upon_polka(instance: Instance) -> Iterator[RoundInput]:
    """Line 36, from step prevote on, for the first time."""
    state = instance.state
    if state.step not in (Step.PREVOTE, Step.PRECOMMIT) or (Line.L40, state.round) in instance.done:
        return
    for proposal in _current(instance):
        if proposal.is_valid and instance.keeper.has_quorum(VoteType.PREVOTE, state.round, proposal.value):
            yield ProposalWithPolka(proposal.value)


def upon_votes(instance: Instance) -> Iterator[RoundInput]:
    """Lines 44, 34 and 47: what depends on votes alone."""
    state, keeper = instance.state, instance.keeper
    if state.step == Step.PREVOTE:
        if keeper.has_quorum(VoteType.PREVOTE, state.round, None):
            yield PolkaNil()
        if (Line.L35, state.round) not in instance.done and keeper.has_quorum_any(VoteType.PREVOTE, state.round):
            yield PolkaAny()
    if (Line.L48, state.round) not in instance.done and keeper.has_quorum_any(VoteType.PRECOMMIT, state.round):
        yield PrecommitAny()


_ONCE = {Line.L35: Line.L35, Line.L40: Line.L40, Line.L42: Line.L40, Line.L48: Line.L48}
"""Lines of the clauses that run for the first time only, and under which mark."""


def _run(instance: Instance, event: RoundInput) -> Outcome:
    """Feed one event to the round state machine, and turn its output into effects."""
    before = instance.state
    after = core.transition(before, event)
    done = instance.done
    if after.line in _ONCE:
        done |= {(_ONCE[after.line], before.round)}
    return _translate(replace(instance, state=after.state, done=done), event, after.output)


def _translate(instance: Instance, event: RoundInput, output: RoundOutput | None) -> Outcome:
    match output:
        case None | Rejected():
            return instance, ()
        case Vote():
            if isinstance(event, ProposalWithEarlierPolka) and output.value is not None:
                return instance, (CastVote(output, event.valid_round),)
            return instance, (CastVote(output, NO_ROUND),)
        case SkipRound():
            return _run(instance, _new_round(instance, output.round))
        case Commit():
            decided = _decision(instance, output)
            return replace(instance, decided=decided), (decided,)
        case GetValue():
            return replace(instance, asked=output.round), (output, _propose_timer(instance))
        case Propose() if isinstance(event, NewRound):
            return instance, (output, _propose_timer(instance))
        case Propose() | ScheduleTimeout():
            return instance, (output,)


def _decision(instance: Instance, commit: Commit) -> Decided:
    members = instance.keeper.votes(commit.round).precommits.voters(commit.value)
    return Decided(instance.state.height, commit.round, commit.value, members)


def _propose_timer(instance: Instance) -> ScheduleTimeout:
    """A proposer waits for itself too: its own value may never come."""
    return ScheduleTimeout(Step.PROPOSE, instance.state.height, instance.state.round)


def _new_round(instance: Instance, round_: int) -> NewRound:
    proposer = instance.proposer_of(instance.keeper.committee, instance.state.height, round_)
    return NewRound(round_, is_proposer=proposer == instance.state.member)


def _highest_round(instance: Instance) -> int:
    """The highest round above the current one in which more than 1/3 of stake has voted; -1 where there is none."""
    later = (round_ for round_ in instance.keeper.rounds if round_ > instance.state.round)
    return max((round_ for round_ in later if instance.keeper.has_third(round_)), default=NO_ROUND)


def _current(instance: Instance) -> Iterator[ProposalIn]:
    return (proposal for proposal in instance.proposals if proposal.round == instance.state.round)


def _differ(rivals: list[ProposalIn], proposal: ProposalIn) -> bool:
    """``proposal`` is the second of its round (a third proves nothing more) and says something else than the first."""
    places = {(rival.value, rival.valid_round) for rival in rivals}
    return len(places) == 1 and (proposal.value, proposal.valid_round) not in places


def _is_near(instance: Instance, round_: int) -> bool:
    return 0 <= round_ <= max(0, instance.state.round) + ROUNDS_AHEAD
