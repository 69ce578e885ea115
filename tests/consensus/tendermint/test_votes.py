"""The vote keeper: exact thirds, first votes, certificates as a unit, and a naive recount."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.tendermint.types import Certificate, Vote, VoteType
from consensus.tendermint.votes import VOTES_KEPT, Threshold, ThresholdKind, VoteKeeper, votes_of
from tests.consensus.tendermint.network import address, committee_of

PREVOTE, PRECOMMIT = VoteType


def keeper_of(*stakes: int) -> VoteKeeper:
    return VoteKeeper(1, committee_of(*stakes))


def vote(number: int, value: bytes | None, kind: VoteType = PREVOTE, round_: int = 0) -> Vote:
    return Vote(kind, 1, round_, value, address(number))


def add(keeper: VoteKeeper, *votes: Vote, current_round: int = 0) -> tuple[VoteKeeper, list[Threshold]]:
    reached = []
    for one in votes:
        keeper, threshold = keeper.add(one, current_round)
        if threshold is not None:
            reached.append(threshold)
    return keeper, reached


@pytest.mark.parametrize(
    ("stakes", "voters", "is_quorum"),
    [
        ((1, 1, 1), (1, 2), False),
        ((1, 1, 1), (1, 2, 3), True),
        ((2, 2, 2), (1, 2), False),
        ((10**24, 10**24, 10**24), (1, 2), False),
        ((10**24, 10**24 + 1, 10**24), (1, 2), True),
        ((33, 33, 34), (1, 2), False),
        ((33, 34, 33), (1, 2), True),
        ((1, 1, 1, 1), (1, 2, 3), True),
    ],
)
def test_exactly_two_thirds_is_no_quorum(stakes: tuple[int, ...], voters: tuple[int, ...], is_quorum: bool) -> None:
    keeper, reached = add(keeper_of(*stakes), *(vote(number, b"a") for number in voters))
    assert keeper.has_quorum(PREVOTE, 0, b"a") is is_quorum
    assert (Threshold(ThresholdKind.POLKA_VALUE, 0, b"a") in reached) is is_quorum


def test_exactly_one_third_is_no_reason_to_skip() -> None:
    assert add(keeper_of(1, 1, 1), vote(1, None, round_=2))[1] == []
    assert add(keeper_of(2, 1, 1), vote(1, None, round_=2))[1] == [Threshold(ThresholdKind.SKIP, 2)]


def test_skip_counts_both_types_but_a_member_once() -> None:
    keeper, reached = add(keeper_of(1, 1, 1, 1), vote(1, None, PREVOTE, 2), vote(1, b"a", PRECOMMIT, 2))
    assert not reached
    assert add(keeper, vote(2, b"b", PRECOMMIT, 2), vote(3, b"b", PRECOMMIT, 2))[1] == [
        Threshold(ThresholdKind.SKIP, 2)
    ]


def test_each_threshold_is_reported_once() -> None:
    votes = [vote(number, b"a", kind) for kind in VoteType for number in (1, 2, 3, 4)]
    _, reached = add(keeper_of(1, 1, 1, 1), *votes, *votes)
    assert reached == [Threshold(ThresholdKind.POLKA_VALUE, 0, b"a"), Threshold(ThresholdKind.PRECOMMIT_VALUE, 0, b"a")]


def test_split_and_nil_votes_have_their_own_thresholds() -> None:
    _, reached = add(keeper_of(1, 1, 1, 1), vote(1, b"a"), vote(2, b"b"), vote(3, None))
    assert reached == [Threshold(ThresholdKind.POLKA_ANY, 0)]
    _, reached = add(keeper_of(1, 1, 1, 1), *(vote(number, None, kind) for kind in VoteType for number in (1, 2, 3)))
    assert reached == [Threshold(ThresholdKind.POLKA_NIL, 0), Threshold(ThresholdKind.PRECOMMIT_ANY, 0)]


def test_the_first_vote_counts_and_the_others_are_evidence() -> None:
    keeper, _ = add(keeper_of(1, 1, 1), vote(1, b"a"), vote(1, b"b"), vote(1, b"a"), vote(1, None), vote(2, b"b"))
    assert keeper.votes(0).prevotes.weights == {b"a": 1, b"b": 1}
    assert keeper.evidence == ((vote(1, b"a"), vote(1, b"b"), vote(1, None)),)
    assert keeper.conflict(vote(1, b"z")) == (vote(1, b"a"), vote(1, b"b"))
    assert keeper.conflict(vote(2, b"z")) is None
    assert keeper.votes(0).prevotes.voters(b"b") == {address(2)}


def test_an_equivocator_cannot_fill_the_memory() -> None:
    keeper, _ = add(keeper_of(1, 1, 1), *(vote(1, b"%d" % number) for number in range(100)))
    assert [len(votes) for votes in keeper.evidence] == [VOTES_KEPT]


def test_strangers_and_other_heights_change_nothing() -> None:
    keeper = keeper_of(1, 1, 1)
    assert keeper.add(vote(9, b"a"), 0) == (keeper, None)
    assert keeper.add(Vote(PREVOTE, 2, 0, b"a", address(1)), 0) == (keeper, None)
    certificate = Certificate(PREVOTE, 2, 0, b"a", frozenset(map(address, (1, 2, 3))))
    assert keeper.add_certificate(certificate, 0) == (keeper, None)


def test_a_certificate_counts_as_a_unit_whatever_its_members_voted_before() -> None:
    keeper, _ = add(keeper_of(1, 1, 1, 1), vote(1, None), vote(2, None), vote(3, b"a"))
    certificate = Certificate(PREVOTE, 1, 0, b"a", frozenset(map(address, (1, 2, 3))))
    singly, _ = add(keeper, *votes_of(certificate))
    assert not singly.has_quorum(PREVOTE, 0, b"a")
    keeper, reached = keeper.add_certificate(certificate, 0)
    assert reached == Threshold(ThresholdKind.POLKA_VALUE, 0, b"a")
    assert keeper.has_quorum(PREVOTE, 0, b"a")
    assert keeper.has_quorum_any(PREVOTE, 0)
    assert keeper.votes(0).prevotes.voters(b"a") == frozenset(map(address, (1, 2, 3)))
    assert len(keeper.evidence) == 2


def test_a_certificate_of_a_later_round_is_a_reason_to_skip() -> None:
    certificate = Certificate(PRECOMMIT, 1, 5, b"a", frozenset(map(address, (1, 2, 3))))
    assert keeper_of(1, 1, 1, 1).add_certificate(certificate, 0)[1] == Threshold(ThresholdKind.SKIP, 5)


@pytest.mark.parametrize("members", [(1, 2), (1, 2, 8, 9)])
def test_a_certificate_without_a_quorum_of_members_is_just_its_votes(members: tuple[int, ...]) -> None:
    certificate = Certificate(PREVOTE, 1, 0, b"a", frozenset(map(address, members)))
    keeper, reached = keeper_of(1, 1, 1).add_certificate(certificate, 0)
    assert reached is None
    assert not keeper.has_quorum(PREVOTE, 0, b"a")
    assert keeper.votes(0).prevotes.weights == {b"a": 2}


votes = st.builds(
    vote, st.integers(1, 5), st.sampled_from([b"a", b"b", None]), st.sampled_from(list(VoteType)), st.integers(0, 2)
)


@given(st.lists(st.integers(1, 10), min_size=4, max_size=4), st.lists(votes, max_size=40))
@settings(max_examples=100, deadline=None)
def test_tallies_equal_a_naive_recount(stakes: list[int], cast: list[Vote]) -> None:
    keeper, _ = add(keeper_of(*stakes), *cast)
    weight = {address(number): stake for number, stake in enumerate(stakes, 1)}
    for kind in VoteType:
        for round_ in range(3):
            first: dict[bytes, Vote] = {}
            for one in cast:
                if (one.kind, one.round) == (kind, round_) and one.member in weight:
                    first.setdefault(one.member, one)
            for value in (b"a", b"b", None):
                naive = sum(weight[one.member] for one in first.values() if one.value == value)
                assert keeper.has_quorum(kind, round_, value) == (3 * naive > 2 * sum(stakes))
            naive = sum(weight[one.member] for one in first.values())
            assert keeper.has_quorum_any(kind, round_) == (3 * naive > 2 * sum(stakes))
