"""The driver: heights, messages that come early, late or twice, and the scenarios that single clauses don't show."""

import msgspec
import pytest

from consensus.errors import WrongHeight
from consensus.tendermint.driver import EARLY_PER_SENDER, EARLY_SENDERS, Driver, step
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
from consensus.tendermint.instance import PROPOSALS_KEPT, ROUNDS_AHEAD
from consensus.tendermint.types import NO_ROUND, Certificate, Step, Vote, VoteType
from tests.consensus.tendermint.network import address, committee_of

PREVOTE, PRECOMMIT = VoteType
FOUR = committee_of(1, 1, 1, 1)
ME = next(member.address for member in FOUR.members if member.address not in {FOUR.proposer(1, r) for r in range(3)})
OTHERS = [member.address for member in FOUR.members if member.address != ME]


def feed(driver: Driver, *events: Input) -> tuple[Driver, list[Effect]]:
    effects: list[Effect] = []
    for event in events:
        driver, more = step(driver, event)
        effects.extend(more)
    return driver, effects


def started(height: int = 1) -> Driver:
    return step(Driver.idle(ME, 1), Start(height, FOUR))[0]


def proposal(
    value: bytes, round_: int = 0, earlier: int = NO_ROUND, height: int = 1, is_valid: bool = True
) -> ProposalIn:
    return ProposalIn(height, round_, value, earlier, FOUR.proposer(height, round_), is_valid)


def votes(kind: VoteType, value: bytes | None, count: int = 3, round_: int = 0, height: int = 1) -> list[VoteIn]:
    return [VoteIn(Vote(kind, height, round_, value, member)) for member in OTHERS[:count]]


def mine(kind: VoteType, value: bytes | None, round_: int = 0, earlier: int = NO_ROUND) -> CastVote:
    return CastVote(Vote(kind, 1, round_, value, ME), earlier)


def timers(*steps: Step, round_: int = 0) -> list[TimeoutElapsed]:
    return [TimeoutElapsed(timed, 1, round_) for timed in steps]


def test_a_height_from_proposal_to_decision() -> None:
    driver, effects = feed(started(), proposal(b"a"))
    assert effects == [mine(PREVOTE, b"a")]
    driver, effects = feed(driver, *votes(PREVOTE, b"a"))
    assert effects == [mine(PRECOMMIT, b"a")]
    driver, effects = feed(driver, *votes(PRECOMMIT, b"a"))
    assert effects == [Decided(1, 0, b"a", frozenset(OTHERS))]


def test_a_proposer_asks_for_a_value_and_proposes_it_once() -> None:
    me = FOUR.proposer(1, 0)
    driver, effects = step(Driver.idle(me, 1), Start(1, FOUR))
    assert effects == (GetValue(1, 0), ScheduleTimeout(Step.PROPOSE, 1, 0))
    driver, effects = step(driver, ValueReady(1, 1, b"early"))
    assert effects == ()
    driver, effects = step(driver, ValueReady(1, 0, b"a"))
    assert effects == (Propose(1, 0, b"a", NO_ROUND),)
    assert step(driver, ValueReady(1, 0, b"b"))[1] == ()


def test_a_proposer_proposes_its_valid_value_again() -> None:
    me = FOUR.proposer(1, 1)
    driver, _ = feed(Driver.idle(me, 1), Start(1, FOUR), proposal(b"a"))
    driver, _ = feed(driver, *(VoteIn(Vote(PREVOTE, 1, 0, b"a", m.address)) for m in FOUR.members))
    driver, effects = feed(driver, *timers(Step.PRECOMMIT))
    assert effects == [Propose(1, 1, b"a", 0), ScheduleTimeout(Step.PROPOSE, 1, 1)]


def test_nothing_is_done_twice() -> None:
    sequence: list[Input] = [
        proposal(b"a"),
        *votes(PREVOTE, b"a"),
        *votes(PREVOTE, b"a"),
        proposal(b"a"),
        *timers(Step.PROPOSE, Step.PREVOTE),
        *votes(PRECOMMIT, None),
        *votes(PRECOMMIT, None),
    ]
    _, effects = feed(started(), *sequence)
    assert effects == [mine(PREVOTE, b"a"), mine(PRECOMMIT, b"a"), ScheduleTimeout(Step.PRECOMMIT, 1, 0)]


def test_what_comes_before_its_proposal_counts_with_it() -> None:
    driver, effects = feed(started(), *votes(PREVOTE, b"a"), *votes(PRECOMMIT, b"a"))
    assert effects == [ScheduleTimeout(Step.PRECOMMIT, 1, 0)]
    assert feed(driver, proposal(b"a"))[1] == [Decided(1, 0, b"a", frozenset(OTHERS))]


def test_a_past_round_can_still_decide() -> None:
    driver, _ = feed(started(), proposal(b"a"), *timers(Step.PRECOMMIT))
    driver, effects = feed(driver, *votes(PRECOMMIT, b"a"))
    assert effects[-1] == Decided(1, 0, b"a", frozenset(OTHERS))


def test_a_third_in_a_later_round_takes_the_member_along() -> None:
    driver, effects = feed(started(), *votes(PREVOTE, None, 2, round_=5))
    assert effects == [ScheduleTimeout(Step.PROPOSE, 1, 5)] or GetValue(1, 5) in effects
    assert driver.instance is not None
    assert driver.instance.state.round == 5
    assert feed(driver, *timers(Step.PROPOSE))[1] == []


def test_votes_beyond_reach_are_dropped() -> None:
    driver = started()
    assert feed(driver, *votes(PREVOTE, None, round_=ROUNDS_AHEAD + 1), *votes(PREVOTE, None, round_=-1)) == (
        driver,
        [],
    )


def test_a_locked_member_prevotes_nil_until_a_later_polka_frees_it() -> None:
    driver, _ = feed(started(), proposal(b"a"), *votes(PREVOTE, b"a"), *timers(Step.PRECOMMIT))
    _, effects = feed(driver, proposal(b"b", 1))
    assert effects == [mine(PREVOTE, None, 1)]
    driver, _ = feed(driver, *votes(PREVOTE, b"b", round_=1), *timers(Step.PRECOMMIT, round_=1))
    _, effects = feed(driver, proposal(b"b", 2, earlier=1))
    assert effects == [mine(PREVOTE, b"b", 2, earlier=1)]


def test_a_proposal_whose_polka_is_older_than_the_lock_is_not_followed() -> None:
    driver, _ = feed(started(), *timers(Step.PRECOMMIT), *votes(PREVOTE, b"old"))
    driver, _ = feed(driver, proposal(b"new", 1), *votes(PREVOTE, b"new", round_=1), *timers(Step.PRECOMMIT, round_=1))
    assert feed(driver, proposal(b"old", 2, earlier=0))[1] == [mine(PREVOTE, None, 2)]


def test_the_hidden_lock_is_opened_by_a_certificate() -> None:
    """One equivocating prevote hides the polka that the others are locked on."""
    hidden: list[Input] = [
        VoteIn(Vote(PREVOTE, 1, 0, None, OTHERS[0])),
        *votes(PREVOTE, b"a")[1:],
        *timers(Step.PREVOTE, Step.PRECOMMIT),
        proposal(b"a", 1, earlier=0),
    ]
    driver, _ = feed(started(), *hidden)
    _, effects = feed(driver, *votes(PREVOTE, b"a", 1))
    assert not any(isinstance(effect, CastVote) for effect in effects), "vote by vote it stays hidden"
    certificate = Certificate(PREVOTE, 1, 0, b"a", frozenset(OTHERS))
    _, effects = feed(driver, CertificateIn(certificate))
    assert mine(PREVOTE, b"a", 1, earlier=0) in effects
    first, second = (Vote(PREVOTE, 1, 0, value, OTHERS[0]) for value in (None, b"a"))
    assert EquivocationFound(first, second) in effects


def test_a_commit_certificate_decides_at_once() -> None:
    certificate = Certificate(PRECOMMIT, 1, 4, b"a", frozenset(OTHERS))
    driver, _ = feed(started(), CertificateIn(certificate))
    _, effects = feed(driver, proposal(b"a", 4))
    assert Decided(1, 4, b"a", frozenset(OTHERS)) in effects


@pytest.mark.parametrize("earlier", [NO_ROUND, 0])
def test_an_invalid_value_is_prevoted_nil_and_never_decided(earlier: int) -> None:
    driver, _ = feed(started(), *votes(PREVOTE, b"a"), *timers(Step.PRECOMMIT))
    driver, effects = feed(driver, proposal(b"a", 1, earlier, is_valid=False))
    assert effects == [mine(PREVOTE, None, 1)]
    driver, effects = feed(driver, *votes(PREVOTE, b"a", round_=1), *votes(PRECOMMIT, b"a", round_=1))
    assert not any(isinstance(effect, CastVote | Decided) for effect in effects)


def test_an_invalid_value_is_not_waited_for() -> None:
    driver, _ = feed(started(), *timers(Step.PRECOMMIT))
    assert feed(driver, proposal(b"a", 1, earlier=0, is_valid=False))[1] == [mine(PREVOTE, None, 1)]


@pytest.mark.parametrize("earlier", [1, 7, -2])
def test_a_valid_round_that_cannot_be_is_not_prevoted(earlier: int) -> None:
    driver, _ = feed(started(), *timers(Step.PRECOMMIT), *votes(PREVOTE, b"a", round_=1))
    assert feed(driver, proposal(b"a", 1, earlier), proposal(b"a", 1, earlier, is_valid=False))[1] == []


def test_only_the_proposer_of_the_round_is_heard() -> None:
    stranger = msgspec.structs.replace(proposal(b"a"), proposer=ME)
    driver = started()
    assert feed(driver, stranger) == (driver, [])


def test_a_proposer_that_says_two_things_is_reported_once_and_either_may_win() -> None:
    driver, effects = feed(started(), proposal(b"a"), proposal(b"b"), proposal(b"c"))
    assert effects == [mine(PREVOTE, b"a"), EquivocationFound(proposal(b"a"), proposal(b"b"))]
    _, effects = feed(driver, *votes(PREVOTE, b"b"), *votes(PRECOMMIT, b"b"))
    assert effects == [mine(PRECOMMIT, b"b"), Decided(1, 0, b"b", frozenset(OTHERS))]


def test_a_flood_of_proposals_is_cut_but_a_wanted_one_comes_through() -> None:
    driver, _ = feed(started(), *(proposal(b"%d" % number) for number in range(100)))
    assert driver.instance is not None
    assert len(driver.instance.proposals) == PROPOSALS_KEPT
    driver, effects = feed(driver, *votes(PRECOMMIT, b"99"), proposal(b"99"))
    assert effects[-1] == Decided(1, 0, b"99", frozenset(OTHERS))


def test_a_double_vote_is_reported_once() -> None:
    double = [VoteIn(Vote(PREVOTE, 1, 0, value, OTHERS[0])) for value in (b"a", b"b", b"c", b"a")]
    _, effects = feed(started(), *double)
    assert effects == [EquivocationFound(double[0].vote, double[1].vote)]


def test_a_decided_height_does_nothing_more_than_report_equivocation() -> None:
    driver, _ = feed(started(), proposal(b"a"), *votes(PRECOMMIT, b"a"))
    late: list[Input] = [
        *timers(Step.PROPOSE, Step.PREVOTE, Step.PRECOMMIT),
        *votes(PREVOTE, b"a"),
        *votes(PREVOTE, None, round_=4),
        ValueReady(1, 0, b"a"),
        proposal(b"b", 1),
    ]
    assert feed(driver, *late)[1] == []
    assert feed(driver, *votes(PRECOMMIT, b"b", 1))[1] == [
        EquivocationFound(Vote(PRECOMMIT, 1, 0, b"a", OTHERS[0]), Vote(PRECOMMIT, 1, 0, b"b", OTHERS[0]))
    ]


def test_messages_of_the_next_height_wait_for_its_start() -> None:
    early: list[Input] = [proposal(b"n", height=2), *votes(PREVOTE, b"n", height=2), *votes(PRECOMMIT, b"n", height=2)]
    driver, effects = feed(started(), *early)
    assert effects == []
    driver, effects = feed(driver, Start(2, FOUR))
    assert effects == [Decided(2, 0, b"n", frozenset(OTHERS))]
    assert driver.early == {}


def test_messages_before_the_first_start_wait_too_for_two_heights() -> None:
    early = [VoteIn(Vote(PREVOTE, height, 0, None, OTHERS[0])) for height in (0, 1, 2, 3)]
    driver, _ = feed(Driver.idle(ME, 1), *early)
    assert driver.early == {OTHERS[0]: (early[1], early[2])}
    driver, _ = feed(driver, Start(1, FOUR))
    assert driver.early == {OTHERS[0]: (early[2],)}


def test_a_height_starts_in_the_round_where_the_others_are() -> None:
    driver, effects = feed(Driver.idle(ME, 1), *votes(PREVOTE, None, 2, round_=2), Start(1, FOUR))
    assert driver.instance is not None
    assert driver.instance.state.round == 2
    assert effects == [ScheduleTimeout(Step.PROPOSE, 1, 2)]


def test_early_messages_are_bounded() -> None:
    flood = [VoteIn(Vote(PREVOTE, 2, number, None, OTHERS[0])) for number in range(3 * EARLY_PER_SENDER)]
    strangers = [VoteIn(Vote(PREVOTE, 2, 0, None, address(number))) for number in range(10, 10 + 2 * EARLY_SENDERS)]
    driver, _ = feed(started(), *flood, *flood, *strangers)
    assert driver.early[OTHERS[0]] == tuple(flood[-EARLY_PER_SENDER:])
    assert len(driver.early) == EARLY_SENDERS
    certificate = CertificateIn(Certificate(PREVOTE, 9, 0, b"a", frozenset(OTHERS)))
    assert feed(driver, certificate, *votes(PREVOTE, None, height=9)) == (driver, [])


def test_heights_only_go_up_and_may_be_left_undecided() -> None:
    driver, _ = feed(started(), Start(5, FOUR))
    assert driver.next_height == 6
    for height in (1, 5):
        with pytest.raises(WrongHeight, match=f"height {height}: 6 is the lowest"):
            step(driver, Start(height, FOUR))
    assert feed(driver, *timers(Step.PROPOSE), ValueReady(1, 0, b"a"), proposal(b"a")) == (driver, [])


def test_nothing_happens_before_the_first_start() -> None:
    driver = Driver.idle(ME)
    assert feed(driver, *timers(Step.PROPOSE), ValueReady(1, 0, b"a")) == (driver, [])


def test_inputs_survive_the_log() -> None:
    """A shell writes inputs down and replays them after a crash: the same inputs give the same driver."""
    certificate = Certificate(PREVOTE, 1, 0, b"a", frozenset(OTHERS))
    inputs: list[Input] = [
        Start(1, FOUR),
        proposal(b"a"),
        *votes(PREVOTE, None, 2),
        CertificateIn(certificate),
        *timers(Step.PRECOMMIT),
        ValueReady(1, 1, b"v"),
    ]
    log = [msgspec.msgpack.encode(event) for event in inputs]
    replayed = [msgspec.msgpack.decode(entry, type=Input) for entry in log]
    assert replayed == inputs
    assert feed(Driver.idle(ME, 1), *replayed) == feed(Driver.idle(ME, 1), *inputs)
