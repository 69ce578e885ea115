"""The round state machine: a table of transitions for every line, and what no sequence of events may do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.tendermint.events import GetValue, Propose, ScheduleTimeout
from consensus.tendermint.round import Line, RoundState, apply, transition
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
from tests.consensus.tendermint.network import address

ME = address(1)
FRESH = RoundState(ME, 7)
PROPOSING = RoundState(ME, 7, 3, Step.PROPOSE)
LOCKED = replace(PROPOSING, locked_round=1, locked_value=b"a", valid_round=1, valid_value=b"a")
PREVOTED = replace(PROPOSING, step=Step.PREVOTE)
PRECOMMITTED = replace(PROPOSING, step=Step.PRECOMMIT)
DECIDED = replace(PROPOSING, step=Step.COMMIT)


def prevote(value: ValueId | None) -> Vote:
    return Vote(VoteType.PREVOTE, 7, 3, value, ME)


def precommit(value: ValueId | None) -> Vote:
    return Vote(VoteType.PRECOMMIT, 7, 3, value, ME)


TABLE: list[tuple[Line, RoundState, RoundInput, RoundState, RoundOutput | None]] = [
    (
        Line.L21,
        FRESH,
        NewRound(0, False),
        replace(FRESH, round=0, step=Step.PROPOSE),
        ScheduleTimeout(Step.PROPOSE, 7, 0),
    ),
    (Line.L18, FRESH, NewRound(2, True), replace(FRESH, round=2, step=Step.PROPOSE), GetValue(7, 2)),
    (
        Line.L16,
        replace(LOCKED, step=Step.UNSTARTED),
        NewRound(4, True),
        replace(LOCKED, round=4),
        Propose(7, 4, b"a", 1),
    ),
    (Line.L19, PROPOSING, ProposeValue(b"a"), PROPOSING, Propose(7, 3, b"a", NO_ROUND)),
    (Line.L24, PROPOSING, FreshProposal(b"a", True), PREVOTED, prevote(b"a")),
    (Line.L24, LOCKED, FreshProposal(b"a", True), replace(LOCKED, step=Step.PREVOTE), prevote(b"a")),
    (Line.L26_LOCKED, LOCKED, FreshProposal(b"b", True), replace(LOCKED, step=Step.PREVOTE), prevote(None)),
    (Line.L26_INVALID, PROPOSING, FreshProposal(b"a", False), PREVOTED, prevote(None)),
    (Line.L30, LOCKED, ProposalWithEarlierPolka(b"b", 1, True), replace(LOCKED, step=Step.PREVOTE), prevote(b"b")),
    (Line.L30, LOCKED, ProposalWithEarlierPolka(b"a", 0, True), replace(LOCKED, step=Step.PREVOTE), prevote(b"a")),
    (
        Line.L32_LOCKED,
        LOCKED,
        ProposalWithEarlierPolka(b"b", 0, True),
        replace(LOCKED, step=Step.PREVOTE),
        prevote(None),
    ),
    (Line.L32_INVALID, PROPOSING, ProposalWithEarlierPolka(b"a", 0, False), PREVOTED, prevote(None)),
    (Line.L35, PREVOTED, PolkaAny(), PREVOTED, ScheduleTimeout(Step.PREVOTE, 7, 3)),
    (
        Line.L40,
        PREVOTED,
        ProposalWithPolka(b"a"),
        replace(PRECOMMITTED, locked_round=3, locked_value=b"a", valid_round=3, valid_value=b"a"),
        precommit(b"a"),
    ),
    (Line.L42, PRECOMMITTED, ProposalWithPolka(b"a"), replace(PRECOMMITTED, valid_round=3, valid_value=b"a"), None),
    (Line.L45, PREVOTED, PolkaNil(), PRECOMMITTED, precommit(None)),
    (Line.L48, PROPOSING, PrecommitAny(), PROPOSING, ScheduleTimeout(Step.PRECOMMIT, 7, 3)),
    (Line.L51, PROPOSING, ProposalWithCommit(1, b"a"), DECIDED, Commit(1, b"a")),
    (Line.L51, FRESH, ProposalWithCommit(1, b"a"), replace(FRESH, step=Step.COMMIT), Commit(1, b"a")),
    (Line.L56, PREVOTED, RoundSkip(9), replace(PROPOSING, step=Step.UNSTARTED), SkipRound(9)),
    (Line.L59, PROPOSING, Timeout(Step.PROPOSE, 7, 3), PREVOTED, prevote(None)),
    (Line.L63, PREVOTED, Timeout(Step.PREVOTE, 7, 3), PRECOMMITTED, precommit(None)),
    (Line.L67, PROPOSING, Timeout(Step.PRECOMMIT, 7, 3), replace(PROPOSING, step=Step.UNSTARTED), SkipRound(4)),
]


@pytest.mark.parametrize(("line", "state", "event", "after", "output"), TABLE, ids=[row[0].name for row in TABLE])
def test_a_line_does_what_the_paper_says(
    line: Line, state: RoundState, event: RoundInput, after: RoundState, output: RoundOutput | None
) -> None:
    assert transition(state, event).line == line
    assert apply(state, event) == (after, output)


def test_the_table_reaches_every_line() -> None:
    assert {row[0] for row in TABLE} == set(Line)


REFUSED: list[tuple[RoundState, RoundInput]] = [
    (PROPOSING, NewRound(4, False)),
    (replace(PROPOSING, step=Step.UNSTARTED), NewRound(3, False)),
    *((state, FreshProposal(b"a", True)) for state in (FRESH, PREVOTED, PRECOMMITTED, DECIDED)),
    *((state, ProposalWithEarlierPolka(b"a", 1, True)) for state in (FRESH, PREVOTED, PRECOMMITTED, DECIDED)),
    (PROPOSING, ProposalWithEarlierPolka(b"a", 3, True)),
    (PROPOSING, ProposalWithEarlierPolka(b"a", NO_ROUND, True)),
    *((state, PolkaAny()) for state in (PROPOSING, PRECOMMITTED, DECIDED)),
    *((state, PolkaNil()) for state in (PROPOSING, PRECOMMITTED, DECIDED)),
    *((state, ProposalWithPolka(b"a")) for state in (PROPOSING, DECIDED)),
    (DECIDED, ProposalWithCommit(3, b"b")),
    (PROPOSING, RoundSkip(3)),
    (PREVOTED, Timeout(Step.PROPOSE, 7, 3)),
    (PROPOSING, Timeout(Step.PROPOSE, 7, 2)),
    (PROPOSING, Timeout(Step.PROPOSE, 8, 3)),
    (PRECOMMITTED, Timeout(Step.PREVOTE, 7, 3)),
    (PROPOSING, Timeout(Step.PRECOMMIT, 7, 2)),
    (PROPOSING, Timeout(Step.COMMIT, 7, 3)),
]


@pytest.mark.parametrize(("state", "event"), REFUSED, ids=str)
def test_an_event_out_of_place_changes_nothing(state: RoundState, event: RoundInput) -> None:
    after, output = apply(state, event)
    assert after == state
    assert isinstance(output, Rejected)


values = st.sampled_from([b"a", b"b", b"c"])
rounds = st.integers(0, 4)
events: st.SearchStrategy[RoundInput] = st.one_of(
    st.builds(NewRound, rounds, st.booleans()),
    st.builds(FreshProposal, values, st.booleans()),
    st.builds(ProposalWithEarlierPolka, values, rounds, st.booleans()),
    st.builds(PolkaAny),
    st.builds(ProposalWithPolka, values),
    st.builds(PolkaNil),
    st.builds(PrecommitAny),
    st.builds(ProposalWithCommit, rounds, values),
    st.builds(RoundSkip, rounds),
    st.builds(Timeout, st.sampled_from([Step.PROPOSE, Step.PREVOTE, Step.PRECOMMIT]), st.just(7), rounds),
)


@given(st.lists(events, max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_sequence_of_events_makes_a_member_vote_twice_or_forget_its_lock(sequence: list[RoundInput]) -> None:
    state, votes = FRESH, []
    for event in sequence:
        before = state
        state, output = apply(state, event)
        if isinstance(output, Vote):
            votes.append((output.round, output.kind))
            assert output.round == state.round
        assert state.round >= before.round
        assert state.locked_round >= before.locked_round
        assert state.valid_round >= state.locked_round
        if state.locked_value != before.locked_value:
            assert state.locked_round == state.round
        if isinstance(output, Rejected):
            assert state == before
    assert len(votes) == len(set(votes))
