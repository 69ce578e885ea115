"""The round state machine: arXiv 1807.04938 algorithm 1, one small function per ``upon`` clause.

:func:`transition` takes one member's state within a height and one event that has already been recognised (a proposal
together with its polka, a timer), and answers with the next state, at most one output, and the :class:`Line` of the
paper that acted. It counts no votes and knows no stake: :mod:`consensus.tendermint.instance` recognises the events.
An event that does not apply is answered with :class:`Rejected` and leaves the state as it is.
"""

import enum

import msgspec
from msgspec.structs import replace

from consensus.tendermint.events import GetValue, Propose, ScheduleTimeout
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
from consensus.tendermint.types import NO_ROUND, Step, ValueId, Vote, VoteType
from contracts.typed_data import Address


class Line(enum.StrEnum):
    """The lines of algorithm 1 that act. Tests assert that each of them is reached."""

    L16 = "propose the valid value again"
    L18 = "ask for a value to propose"
    L19 = "propose the value that was asked for"
    L21 = "wait for the proposer"
    L24 = "prevote a fresh proposal"
    L26_INVALID = "prevote nil: the proposal is invalid"
    L26_LOCKED = "prevote nil: locked on another value"
    L30 = "prevote a proposal with an earlier polka"
    L32_INVALID = "prevote nil: the proposal with an earlier polka is invalid"
    L32_LOCKED = "prevote nil: locked on another value in a later round"
    L35 = "start the prevote timer"
    L40 = "lock and precommit"
    L42 = "remember the valid value only"
    L45 = "precommit nil after a nil polka"
    L48 = "start the precommit timer"
    L51 = "decide"
    L56 = "skip to a round that others are in"
    L59 = "prevote nil: the proposer is late"
    L63 = "precommit nil: the prevotes are split"
    L67 = "go to the next round"


class RoundState(msgspec.Struct, frozen=True):
    """Everything that algorithm 1 keeps for a height (its lines 1 to 9), with the member whose state it is."""

    member: Address
    height: int
    round: int = NO_ROUND
    step: Step = Step.NONE
    locked_round: int = NO_ROUND
    locked_value: ValueId | None = None
    valid_round: int = NO_ROUND
    valid_value: ValueId | None = None


class Transition(msgspec.Struct, frozen=True):
    """What an event did: ``line`` is None where it was rejected."""

    state: RoundState
    output: RoundOutput | None
    line: Line | None


def apply(state: RoundState, event: RoundInput) -> tuple[RoundState, RoundOutput | None]:
    """The next state and the output, as :func:`transition` has them."""
    done = transition(state, event)
    return done.state, done.output


def transition(state: RoundState, event: RoundInput) -> Transition:
    """Run the clause that ``event`` belongs to."""
    match event:
        case NewRound():
            return start_round(state, event)
        case ProposeValue():
            return propose(state, event)
        case FreshProposal():
            return upon_fresh_proposal(state, event)
        case ProposalWithEarlierPolka():
            return upon_proposal_with_earlier_polka(state, event)
        case PolkaAny():
            return upon_polka_any(state)
        case ProposalWithPolka():
            return upon_proposal_with_polka(state, event)
        case PolkaNil():
            return upon_polka_nil(state)
        case PrecommitAny():
            return upon_precommit_any(state)
        case ProposalWithCommit():
            return upon_proposal_with_commit(state, event)
        case RoundSkip():
            return upon_round_skip(state, event)
        case Timeout():
            return upon_timeout(state, event)


def start_round(state: RoundState, event: NewRound) -> Transition:
    """Lines 11 to 21."""
    if state.step not in (Step.NONE, Step.UNSTARTED):
        return _rejected(state, f"round {state.round} is still running")
    if event.round <= state.round:
        return _rejected(state, f"round {event.round} is not above round {state.round}")
    started = replace(state, round=event.round, step=Step.PROPOSE)
    if not event.is_proposer:
        return Transition(started, ScheduleTimeout(Step.PROPOSE, state.height, event.round), Line.L21)
    if state.valid_value is None:
        return Transition(started, GetValue(state.height, event.round), Line.L18)
    return Transition(started, _proposal(started, state.valid_value), Line.L16)


def propose(state: RoundState, event: ProposeValue) -> Transition:
    """Line 19, once getValue() has answered. That it was asked for, and once only, is the caller's to know."""
    return Transition(state, _proposal(state, event.value), Line.L19)


def upon_fresh_proposal(state: RoundState, event: FreshProposal) -> Transition:
    """Line 22."""
    if state.step != Step.PROPOSE:
        return _rejected(state, f"a proposal in step {state.step.name}")
    if not event.is_valid:
        return _prevote(state, None, Line.L26_INVALID)
    if state.locked_round == NO_ROUND or state.locked_value == event.value:
        return _prevote(state, event.value, Line.L24)
    return _prevote(state, None, Line.L26_LOCKED)


def upon_proposal_with_earlier_polka(state: RoundState, event: ProposalWithEarlierPolka) -> Transition:
    """Line 28."""
    if state.step != Step.PROPOSE or not 0 <= event.valid_round < state.round:
        return _rejected(state, f"a proposal of valid round {event.valid_round} in step {state.step.name}")
    if not event.is_valid:
        return _prevote(state, None, Line.L32_INVALID)
    if state.locked_round <= event.valid_round or state.locked_value == event.value:
        return _prevote(state, event.value, Line.L30)
    return _prevote(state, None, Line.L32_LOCKED)


def upon_polka_any(state: RoundState) -> Transition:
    """Line 34."""
    if state.step != Step.PREVOTE:
        return _rejected(state, f"a split polka in step {state.step.name}")
    return Transition(state, ScheduleTimeout(Step.PREVOTE, state.height, state.round), Line.L35)


def upon_proposal_with_polka(state: RoundState, event: ProposalWithPolka) -> Transition:
    """Line 36."""
    if state.step == Step.PREVOTE:
        locked = replace(
            state,
            locked_round=state.round,
            locked_value=event.value,
            valid_round=state.round,
            valid_value=event.value,
        )
        return _precommit(locked, event.value, Line.L40)
    if state.step == Step.PRECOMMIT:
        return Transition(replace(state, valid_round=state.round, valid_value=event.value), None, Line.L42)
    return _rejected(state, f"a polka in step {state.step.name}")


def upon_polka_nil(state: RoundState) -> Transition:
    """Line 44."""
    if state.step != Step.PREVOTE:
        return _rejected(state, f"a nil polka in step {state.step.name}")
    return _precommit(state, None, Line.L45)


def upon_precommit_any(state: RoundState) -> Transition:
    """Line 47."""
    return Transition(state, ScheduleTimeout(Step.PRECOMMIT, state.height, state.round), Line.L48)


def upon_proposal_with_commit(state: RoundState, event: ProposalWithCommit) -> Transition:
    """Line 49."""
    if state.step == Step.COMMIT:
        return _rejected(state, "already decided")
    return Transition(replace(state, step=Step.COMMIT), Commit(event.round, event.value), Line.L51)


def upon_round_skip(state: RoundState, event: RoundSkip) -> Transition:
    """Line 55."""
    if event.round <= state.round:
        return _rejected(state, f"round {event.round} is not above round {state.round}")
    return Transition(replace(state, step=Step.UNSTARTED), SkipRound(event.round), Line.L56)


def upon_timeout(state: RoundState, event: Timeout) -> Transition:
    """Lines 57, 61 and 65: a timer acts only in the round that started it."""
    if (event.height, event.round) == (state.height, state.round):
        match event.step:
            case Step.PROPOSE if state.step == Step.PROPOSE:
                return _prevote(state, None, Line.L59)
            case Step.PREVOTE if state.step == Step.PREVOTE:
                return _precommit(state, None, Line.L63)
            case Step.PRECOMMIT:
                return Transition(replace(state, step=Step.UNSTARTED), SkipRound(state.round + 1), Line.L67)
    return _rejected(state, f"the {event.step.name} timer of round {event.round} is over")


def _prevote(state: RoundState, value: ValueId | None, line: Line) -> Transition:
    vote = Vote(VoteType.PREVOTE, state.height, state.round, value, state.member)
    return Transition(replace(state, step=Step.PREVOTE), vote, line)


def _precommit(state: RoundState, value: ValueId | None, line: Line) -> Transition:
    vote = Vote(VoteType.PRECOMMIT, state.height, state.round, value, state.member)
    return Transition(replace(state, step=Step.PRECOMMIT), vote, line)


def _proposal(state: RoundState, value: ValueId) -> Propose:
    return Propose(state.height, state.round, value, state.valid_round)


def _rejected(state: RoundState, reason: str) -> Transition:
    return Transition(state, Rejected(reason), None)
