"""What two passes, two RFCs and a router's sum of passes give away."""

from typing import Any

from msgspec.structs import replace

from consensus.evidence import DoubleIndex, DoublePass, examine
from consensus.market.allowances import Allowances
from consensus.market.doubles import Doubles, Issuance
from consensus.market.promises import Promises
from gossip.messages.base import Signed, sign
from gossip.messages.market import AccessPass, PassIssued, Rfc
from tests.consensus.builders import World, key

WORLD = World()


def rfc(**changes: Any) -> Signed[Rfc]:
    return sign(replace(WORLD.rfc().payload, **changes), key("session"), WORLD.domain)


def access_pass(**changes: Any) -> Signed[AccessPass]:
    made = replace(WORLD.access_pass().payload, **changes)
    return sign(made, WORLD.router, WORLD.domain)


def test_one_index_twice_is_found_and_a_repetition_is_not() -> None:
    doubles = Doubles(WORLD.domain)
    assert doubles.note_rfc(rfc()) == ()
    assert doubles.note_rfc(rfc()) == ()
    assert doubles.note_rfc(rfc(index=1)) == ()
    (found,) = doubles.note_rfc(rfc(token_max=1))
    assert isinstance(found, DoubleIndex)
    assert examine(found, WORLD.domain).offender == key("session").address


def test_two_passes_are_found_however_they_come() -> None:
    doubles = Doubles(WORLD.domain)
    assert doubles.note_pass(access_pass()) is None
    assert doubles.note_pass(access_pass(day=WORLD.access_pass().payload.day + 1)) is None
    found = doubles.note_rfc(rfc(access_pass=access_pass(allowance=2)))
    assert len(found) == 1
    assert isinstance(found[0], DoublePass)
    assert examine(found[0], WORLD.domain).offender == WORLD.router.address


def test_one_index_under_two_passes_is_the_routers_fault_not_the_session_keys() -> None:
    doubles = Doubles(WORLD.domain)
    doubles.note_rfc(rfc())
    found = doubles.note_rfc(rfc(access_pass=access_pass(allowance=2)))
    assert [type(evidence) for evidence in found] == [DoublePass]


def test_memory_is_bounded() -> None:
    doubles = Doubles(WORLD.domain, kept=3)
    for index in range(5):
        doubles.note_rfc(rfc(index=index))
    assert doubles.note_rfc(rfc(index=0, token_max=1)) == (), "long forgotten"
    assert doubles.note_rfc(rfc(index=4, token_max=1))


def issued(session: str, allowance: int) -> PassIssued:
    request = WORLD.pass_request(session_key=key(session).address)
    made = replace(WORLD.access_pass().payload, session_key=key(session).address, allowance=allowance)
    return WORLD.pass_issued(sign(made, WORLD.router, WORLD.domain), request)


def test_one_routers_passes_add_up_by_user_and_day() -> None:
    issuance = Issuance()
    router, day = WORLD.router.address, WORLD.access_pass().payload.day
    user = WORLD.pass_request().payload.user
    for session, allowance in (("one", 64), ("two", 32), ("one", 64)):
        issuance.note(issued(session, allowance))
    assert issuance.total(router, user, day) == 96
    assert issuance.total(WORLD.members[3].address, user, day) == 0
    assert issuance.total(router, key("x").address, day) == 0
    issuance.forget_before(day + 1)
    assert issuance.total(router, user, day) == 0


def test_a_routers_books_keep_the_sum_of_each_issuer() -> None:
    allowances = Allowances(
        WORLD.members[3].address, lambda _: [member.address for member in WORLD.members], Promises()
    )
    made = issued("one", 64)
    allowances.note_issued(made)
    user, day = made.request.payload.user, made.access_pass.payload.day
    assert allowances.issued_by(made.issuer, user, day) == 64
    allowances.forget_before(day + 1)
    assert allowances.issued_by(made.issuer, user, day) == 0
