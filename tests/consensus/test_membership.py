import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.committee import Committee, Member
from consensus.errors import HandOverInvalid
from consensus.membership import (
    Draw,
    Term,
    assemble_hand_over,
    check_drawn,
    draw,
    hand_over_to,
    verify_hand_over,
)
from contracts.typed_data import Address, Digest, Domain, Signature
from gossip.messages.base import decode, encode
from gossip.messages.committee import MAX_MEMBERS, DrawnMember, HandOverCertificate
from tests.consensus.builders import address, key

DOMAIN = Domain(77_101, Address(b"\x77" * 20))
OUTGOING = [key(f"outgoing {number}") for number in range(4)]
RUNNING = Term.of(Committee.of(3, [Member(member.address, 10**21) for member in OUTGOING]))
COMING = Draw(7, Term.of(Committee.of(4, [Member(address(f"coming {number}"), 5) for number in range(4)])))
EXPECTED = hand_over_to(COMING, RUNNING)
SIGNATURES = {member.address: member.sign(EXPECTED, DOMAIN) for member in OUTGOING}

stakes = st.lists(st.tuples(st.binary(min_size=20, max_size=20).map(Address), st.integers(0, 2**80)), max_size=80)


def certificate(*signers: int) -> HandOverCertificate:
    addresses = sorted(OUTGOING[signer].address for signer in signers)
    return HandOverCertificate(EXPECTED, tuple(SIGNATURES[signer] for signer in addresses))


def refused(made: HandOverCertificate) -> str:
    with pytest.raises(HandOverInvalid) as caught:
        verify_hand_over(made, EXPECTED, RUNNING, DOMAIN)
    return caught.value.reason


# The draw.


@given(stakes)
def test_a_draw_is_of_the_largest_stakes_in_order_and_passes_its_own_check(
    candidates: list[tuple[Address, int]],
) -> None:
    held = dict(candidates)
    drawn = draw(list(held.items()), RUNNING)
    assert len(drawn) <= MAX_MEMBERS
    assert [one.address for one in drawn] == sorted(one.address for one in drawn)
    assert all(held[one.address] == one.stake > 0 for one in drawn)
    if drawn:
        left_out = [stake for who, stake in held.items() if who not in {one.address for one in drawn}]
        assert max(left_out, default=0) <= min(one.stake for one in drawn)
        check_drawn(drawn, RUNNING)
        assert decode(Term, encode(Term(4, drawn))).members == drawn  # amounts of any size travel


def test_a_draw_that_changes_nothing_is_none() -> None:
    assert draw([(one.address, int(one.stake)) for one in RUNNING.members], RUNNING) == ()


@pytest.mark.parametrize(("count", "running", "is_drawn"), [(3, 4, False), (4, 4, True), (3, 3, True), (2, 3, False)])
def test_a_committee_that_tolerates_no_fault_takes_over_from_no_better_one(
    count: int, running: int, is_drawn: bool
) -> None:
    term = replace(RUNNING, members=RUNNING.members[:running])
    candidates = [(address(f"candidate {number}"), 1) for number in range(count)]
    assert bool(draw(candidates, term)) == is_drawn


def test_whoever_is_slashed_or_leaves_is_out_at_the_next_draw() -> None:
    """The registry shows them as no candidates any more."""
    rest = [(one.address, int(one.stake)) for one in RUNNING.members[1:]] + [(address("new"), 7)]
    assert RUNNING.members[0].address not in {one.address for one in draw(rest, RUNNING)}


def test_a_drawn_committee_that_no_draw_gives_is_refused() -> None:
    members = COMING.term.members
    for bad in (members[::-1], (*members, members[-1]), members[:3], RUNNING.members):
        with pytest.raises(HandOverInvalid):
            check_drawn(bad, RUNNING)
    with pytest.raises(HandOverInvalid):
        check_drawn((replace(members[0], stake=members[0].stake.__class__(0)), *members[1:]), RUNNING)


# The hand-over.


def test_more_than_two_thirds_hand_over_and_exactly_two_thirds_do_not() -> None:
    verify_hand_over(certificate(0, 1, 2), EXPECTED, RUNNING, DOMAIN)
    assert refused(certificate(0, 1)) == "no quorum"
    six = Term.of(Committee.of(3, [Member(member.address, 3 - (n > 1)) for n, member in enumerate(OUTGOING[:3])]))
    assert not six.committee.is_quorum(4)


def test_signatures_are_sorted_of_members_and_over_this_hand_over() -> None:
    good = certificate(0, 1, 2, 3)
    assert refused(replace(good, signatures=good.signatures[::-1])) == "unsorted signers"
    assert refused(replace(good, signatures=(good.signatures[0],) * 4)) == "unsorted signers"
    stranger = key("stranger").sign(EXPECTED, DOMAIN)
    assert refused(replace(good, signatures=(*good.signatures, stranger))) == "unknown member"
    assert refused(replace(good, signatures=(Signature(bytes(65)), *good.signatures[1:]))) in {
        "bad signature",
        "unknown member",
    }
    for change in ({"day": 8}, {"epoch": 4}, {"next_root": Digest(bytes(32))}):
        assert refused(replace(good, hand_over=replace(EXPECTED, **change))) == "another hand-over"
    elsewhere = {member.address: member.sign(EXPECTED, Domain(1, DOMAIN.contract)) for member in OUTGOING}
    made = assemble_hand_over(EXPECTED, RUNNING, elsewhere)
    assert made is not None
    assert refused(made) == "unknown member"


def test_a_certificate_is_assembled_once_there_is_a_quorum_of_members() -> None:
    strangers = {address("stranger"): key("stranger").sign(EXPECTED, DOMAIN)}
    few = dict(list(SIGNATURES.items())[:2])
    assert assemble_hand_over(EXPECTED, RUNNING, few | strangers) is None
    made = assemble_hand_over(EXPECTED, RUNNING, SIGNATURES | strangers)
    assert made == certificate(0, 1, 2, 3)
    verify_hand_over(made, EXPECTED, RUNNING, DOMAIN)


def test_a_term_is_its_committee() -> None:
    assert Term.of(RUNNING.committee) == RUNNING
    assert RUNNING.committee.root == Committee.of(3, [Member(member.address, 10**21) for member in OUTGOING]).root
    assert isinstance(RUNNING.members[0], DrawnMember)
