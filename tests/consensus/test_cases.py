"""Cases are kept once an offence, and never more of them than there is room for."""

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.cases import KEPT_ABUSES_PER_ISSUER, KEPT_PER_MEMBER, Case, Cases
from consensus.evidence import DoublePass, Evidence, Offence, OffenceKind
from contracts.typed_data import Address, Digest, Signature
from gossip.messages.base import Signed
from gossip.messages.market import AccessPass


def evidence_of(offence_id: Digest) -> Evidence:
    """Of one offence alone; cases are not examined again, so nobody has signed it."""
    address = Address(bytes(20))
    first, second = (
        Signed(AccessPass(address, 0, tokens, 1, address, offence_id), Signature(bytes(65))) for tokens in (1, 2)
    )
    return DoublePass(first, second)


def case(number: int, kind: OffenceKind = OffenceKind.PREVOTE, member: int = 1, day: int = 5) -> Case:
    address = Address(bytes([member]) * 20)
    offence = Offence(
        Digest(bytes([kind, member]) + number.to_bytes(30, "big")), kind, address, address, height=number, day=day
    )
    return Case(evidence_of(offence.id), offence, number)


def test_one_offence_is_one_case() -> None:
    cases = Cases()
    assert cases.add(case(1), day=5)
    assert not cases.add(case(1), day=5)
    assert [one.offence.height for one in cases.all()] == [1]
    assert cases.holds(case(1).evidence)
    assert not cases.holds(case(2).evidence)
    assert cases.get(case(1).offence.id) == case(1)


def test_a_member_fills_its_own_room_only() -> None:
    cases = Cases()
    assert [cases.add(case(number), day=5) for number in range(KEPT_PER_MEMBER + 2)].count(True) == KEPT_PER_MEMBER
    assert cases.add(case(1, member=2), day=5)
    assert cases.add(case(1, OffenceKind.PRECOMMIT), day=5)


def test_abused_passes_count_on_their_day_and_leave_with_it() -> None:
    cases = Cases()
    for day, kept in ((3, False), (4, True), (5, True), (6, True), (7, False)):
        assert cases.add(case(day, OffenceKind.RFC_INDEX, day=day), day=5) is kept
    assert cases.add(case(0), day=5)
    abuser = Address(bytes([1]) * 20)
    assert [cases.has_abused(abuser, day) for day in (3, 4, 5, 6)] == [False, True, True, True]
    gone = cases.forget_abuses_before(6)
    assert gone == (
        case(4, OffenceKind.RFC_INDEX, day=4).offence.id,
        case(5, OffenceKind.RFC_INDEX, day=5).offence.id,
    )
    assert len(cases) == 2
    assert [cases.has_abused(abuser, day) for day in (4, 5, 6)] == [False, False, True]
    assert not cases.holds(case(4, OffenceKind.RFC_INDEX, day=4).evidence)
    assert cases.forget_abuses_before(6) == ()


def test_issuers_of_two_passes_are_known_by_day() -> None:
    cases = Cases()
    cases.add(case(1, OffenceKind.ACCESS_PASS, day=5), day=5)
    assert cases.has_issued_twice(Address(b"\x01" * 20), 5)
    assert not cases.has_issued_twice(Address(b"\x01" * 20), 6)
    assert not cases.has_issued_twice(Address(b"\x02" * 20), 5)
    assert not cases.equivocators()
    assert all(isinstance(one.evidence, DoublePass) for one in cases.all())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(OffenceKind), st.integers(1, 3), st.integers(3, 7)),
        max_size=120,
    ),
    st.integers(3, 8),
)
def test_room_is_kept_whatever_comes_and_goes(made: list[tuple[int, OffenceKind, int, int]], today: int) -> None:
    cases = Cases()
    for arguments in made:
        before = cases.all()
        one = case(*arguments)
        room = cases.has_room_for(one.offence, day=5)
        assert cases.add(one, day=5) is room
        assert room or cases.all() == before
    cases.forget_abuses_before(today)
    for one in cases.all():
        assert one.offence.kind is not OffenceKind.RFC_INDEX or one.offence.day >= today
    for kind in OffenceKind:
        for member in (1, 2, 3):
            of_member = [one for one in cases.all() if (one.offence.kind, one.offence.offender[0]) == (kind, member)]
            assert len(of_member) <= (KEPT_ABUSES_PER_ISSUER if kind is OffenceKind.RFC_INDEX else KEPT_PER_MEMBER)
            assert len({one.offence.id for one in of_member}) == len(of_member)
