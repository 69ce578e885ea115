from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.market import access, waiting
from consensus.market import allowances as allowances_module
from consensus.market.errors import PassRefused, RfcRefused
from consensus.market.waiting import Waiting
from contracts.typed_data import Digest
from gossip.messages.base import Unit, encode
from tests.consensus.builders import GENESIS_MS, SALT, WEI, address, key, named_digest
from tests.consensus.market.counter import NOW, USER_MAX, Counter, pass_code, rfc_refused


@pytest.fixture
def counter() -> Counter:
    return Counter()


# Passes.


def test_s38_a_pass_holds_what_the_balance_gives_rounded_down(counter: Counter) -> None:
    granted = counter.grant()
    assert granted.allowance == access.round_allowance(USER_MAX) == 16_384
    assert granted.priority == access.priority(5 * WEI)
    assert granted.commitment == access.pass_commitment(address("user"), SALT)
    assert granted.issuer == counter.world.router.address


def test_s34_the_pass_does_not_name_the_user(counter: Counter) -> None:
    assert bytes(address("user")) not in encode(counter.grant())


def test_asking_again_gives_the_same_pass_even_with_another_salt(counter: Counter) -> None:
    assert counter.grant() == counter.grant(salt=named_digest("other"))
    assert counter.desk.allowances.issued_to(address("user"), 0) == 16_384


def test_what_rounding_leaves_can_be_had_on_another_session_key(counter: Counter) -> None:
    counter.grant()
    second = counter.grant(session="second")
    assert second.allowance == access.round_allowance(USER_MAX - 16_384)


def test_a_part_of_the_allowance_can_be_asked_for(counter: Counter) -> None:
    assert counter.grant(tokens=1_024).allowance == 1_024
    assert pass_code(counter, session="second", tokens=USER_MAX) == "token_max_over_allowance"


@pytest.mark.parametrize(
    ("request_changes", "code"),
    [
        ({"balance_mor": 0}, "no_balance"),
        ({"day": 1}, "wrong_day"),
        ({"sent_ms": GENESIS_MS - 10**9}, "expired"),
        ({"sent_ms": GENESIS_MS + 10**9}, "expired"),
        ({"tokens": USER_MAX + 1}, "token_max_over_allowance"),
    ],
)
def test_passes_are_refused_by_name(counter: Counter, request_changes: dict[str, Any], code: str) -> None:
    assert pass_code(counter, **request_changes) == code
    assert counter.desk.allowances.issued_to(address("user"), 0) == 0


def test_a_session_key_belongs_to_one_user(counter: Counter) -> None:
    counter.grant()
    assert pass_code(counter, user="another user") == "index_used"


def test_only_the_home_router_issues_and_the_next_in_rank_when_told_so() -> None:
    counter = Counter(member_count=4)
    members = [member.address for member in counter.world.members]
    for number in range(40):
        user = f"user {number}"
        rank = access.home_routers(address(user), 0, members).index(counter.world.router.address)
        if rank == 2:
            assert pass_code(counter, user=user, session=user, accept_rank=1) == "wrong_router"
            assert counter.grant(user=user, session=user, accept_rank=2).allowance > 0
            return
    pytest.fail("no user ranks this router third")


def test_s36_other_routers_passes_count() -> None:
    """After a takeover the next in rank gives only what the first has left."""
    counter = Counter(member_count=2)
    other = counter.world.members[1]
    issued = counter.world.access_pass("elsewhere", other, allowance=16_384)
    note = counter.world.pass_issued(issued, counter.world.pass_request(session="elsewhere"))
    assert counter.desk.allowances.note_issued(note) == 16_384
    assert counter.desk.allowances.note_issued(note) == 16_384
    assert counter.grant(accept_rank=1).allowance == access.round_allowance(USER_MAX - 16_384)
    assert pass_code(counter, session="elsewhere", accept_rank=1) == "wrong_router"


def test_notes_that_do_not_hold_together_are_refused() -> None:
    counter = Counter(member_count=2)
    world, other = counter.world, counter.world.members[1]
    issued, request = world.access_pass("elsewhere", other), world.pass_request(session="elsewhere")
    wrong = [
        world.pass_issued(world.access_pass("elsewhere", key("stranger")), request),
        replace(world.pass_issued(issued, request), issuer=world.router.address),
        world.pass_issued(issued, request, named_digest("other salt")),
        world.pass_issued(issued, world.pass_request("another user", "elsewhere")),
        world.pass_issued(issued, world.pass_request(session="another session")),
    ]
    for note in wrong:
        with pytest.raises(PassRefused):
            counter.desk.allowances.note_issued(note)
    assert counter.desk.allowances.issued_to(address("user"), 0) == 0


def test_after_a_restart_own_passes_are_taken_up_with_their_use(counter: Counter) -> None:
    granted = counter.grant()
    rfc = counter.rfc(granted, index=3)
    fresh = Counter()
    note = fresh.world.pass_issued(rfc.payload.access_pass, fresh.world.pass_request())
    fresh.desk.allowances.note_issued(note, used=16_384 - 300, next_index=3)
    assert rfc_refused(fresh, fresh.rfc(granted, index=2)).code == "index_used"
    assert rfc_refused(fresh, fresh.rfc(granted, index=3, token_max=301)).allowance_left == 300
    fresh.admit(fresh.rfc(granted, index=3, token_max=300))
    assert {one.desk.allowances.user_of(granted.session_key) for one in (counter, fresh)} == {address("user")}


def test_s40_unused_access_does_not_accrue(counter: Counter) -> None:
    granted = counter.grant()
    counter.desk.allowances.forget_before(1)
    assert counter.desk.allowances.left(granted.session_key) == 0
    assert counter.desk.allowances.user_of(granted.session_key) is None
    assert counter.desk.allowances.issued_to(address("user"), 0) == 0


def test_passes_per_user_are_bounded(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowances_module, "MAX_PASSES_PER_USER", 1)
    counter.grant(tokens=1)
    assert pass_code(counter, tokens=1, session="second") == "busy"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20_000)), max_size=12), st.integers(1, 10**7))
@settings(max_examples=40)
def test_s36_a_users_allowances_never_exceed_user_max(asked: list[tuple[int, int]], balance_mor: int) -> None:
    counter = Counter()
    limit = access.user_max(counter.account.max_t, counter.account.supply_wei, balance_mor * WEI)
    sums = 0
    for number, (session, tokens) in enumerate(asked):
        name = f"session {session if number % 2 else number}"
        before = counter.desk.allowances.issued_to(address("user"), 0)
        try:
            granted = counter.grant(balance_mor=balance_mor, session=name, tokens=tokens)
        except PassRefused:
            assert counter.desk.allowances.issued_to(address("user"), 0) == before
        else:
            assert granted.allowance <= limit
        sums = counter.desk.allowances.issued_to(address("user"), 0)
        assert sums <= limit


def test_an_allowance_fits_on_the_wire(counter: Counter) -> None:
    counter.account = replace(counter.account, reference_price_wei=1)
    granted = counter.grant(balance_mor=10_000_000)
    assert granted.allowance == access.round_allowance(2**63 - 1)
    assert encode(granted)


# RFCs.


def test_s22_an_admitted_rfc_reserves_its_token_max(counter: Counter) -> None:
    granted = counter.grant()
    rfc_id = counter.admit(counter.rfc(granted, token_max=384))
    assert counter.desk.allowances.left(granted.session_key) == 16_000
    assert counter.desk.allowances.used(granted.session_key) == 384
    assert counter.desk.allowances.next_index(granted.session_key) == 1
    assert isinstance(counter.desk.outcome(rfc_id), Waiting)


def test_s36_an_rfc_over_the_allowance_is_refused_and_costs_nothing(counter: Counter) -> None:
    granted = counter.grant()
    refused = rfc_refused(counter, counter.rfc(granted, token_max=16_385))
    assert (refused.code, refused.allowance_left) == ("token_max_over_allowance", 16_384)
    assert counter.desk.allowances.left(granted.session_key) == 16_384
    assert counter.desk.allowances.next_index(granted.session_key) == 0
    counter.admit(counter.rfc(granted, token_max=16_384))


def test_held_and_used_are_told_apart(counter: Counter) -> None:
    """What RFCs hold that have not ended may come back; what was used is gone for the day."""
    granted = counter.grant()
    left = counter.desk.allowances.left
    ticket_id = counter.place(counter.admit(counter.rfc(granted, token_max=16_000)))
    refused = rfc_refused(counter, counter.rfc(granted, index=1, token_max=385))
    assert (refused.code, refused.allowance_left) == ("allowance_held", 384)
    assert "385 T, 384 T are left, 16000 T are held" in refused.detail
    assert left(granted.session_key) == 384
    assert rfc_refused(counter, counter.rfc(granted, index=1, token_max=16_385)).code == "token_max_over_allowance"
    assert rfc_refused(counter, counter.rfc(granted, index=1, token_max=0)).code == "token_max_over_allowance"
    counter.desk.settled(ticket_id, 15_000)
    counter.admit(counter.rfc(granted, index=1, token_max=385))
    refused = rfc_refused(counter, counter.rfc(granted, index=2, token_max=1_385))
    assert refused.code == "token_max_over_allowance", "385 T are held, and those 15,000 don't come back"


def test_a_used_index_is_refused(counter: Counter) -> None:
    granted = counter.grant()
    counter.admit(counter.rfc(granted, index=4))
    for index in (0, 3, 4):
        assert rfc_refused(counter, counter.rfc(granted, index=index, token_max=7)).code == "index_used"
    counter.admit(counter.rfc(granted, index=5))


@pytest.mark.parametrize(
    ("changes", "options", "code"),
    [
        ({"unit": Unit.AUDIO_SAMPLE}, {}, "unit_unsupported"),
        ({"unit": Unit.VIDEO_FRAME}, {}, "unit_unsupported"),
        ({"deadline_ms": NOW}, {}, "expired"),
        ({"token_max": 0}, {}, "token_max_over_allowance"),
        ({}, {"slot": 100}, "wrong_day"),
        ({}, {"spent_wei": 3_456 * WEI - 255}, "budget_spent"),
    ],
)
def test_rfcs_are_refused_by_name(
    counter: Counter, changes: dict[str, Any], options: dict[str, int], code: str
) -> None:
    granted = counter.grant()
    refused = rfc_refused(counter, counter.rfc(granted, **changes), **options)
    assert (refused.code, refused.allowance_left) == (code, 16_384)
    assert counter.desk.next_waiting(NOW) is None


def test_a_pass_of_another_router_or_never_issued_is_refused(counter: Counter) -> None:
    counter.grant()
    foreign = counter.world.access_pass(issuer=key("other router"))
    assert rfc_refused(counter, counter.world.rfc(access_pass=foreign)).code == "wrong_router"
    forged = counter.world.access_pass(allowance=10**9)
    assert rfc_refused(counter, counter.world.rfc(access_pass=forged)).code == "wrong_router"


def test_the_same_rfc_again_is_not_a_second_one(counter: Counter) -> None:
    granted = counter.grant()
    rfc = counter.rfc(granted, token_max=384)
    assert counter.admit(rfc) == counter.admit(rfc)
    assert counter.desk.allowances.left(granted.session_key) == 16_000
    assert counter.desk.next_waiting(NOW) is not None
    counter.admit(rfc)
    assert counter.desk.next_waiting(NOW) is None


def test_a_refusal_after_admission_is_remembered_and_gives_the_reservation_back(counter: Counter) -> None:
    granted = counter.grant()
    rfc = counter.rfc(granted)
    rfc_id = counter.admit(rfc)
    refused = counter.desk.refuse(rfc_id, "no_provider", "nobody serves it")
    assert refused is not None
    assert refused.allowance_left == 16_384
    counter.admit(rfc)
    assert counter.desk.outcome(rfc_id) is refused
    assert counter.desk.refuse(rfc_id, "no_provider", "again") is None
    assert counter.desk.allowances.next_index(granted.session_key) == 1


def test_the_queue_is_bounded(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING", 1)
    granted = counter.grant()
    counter.admit(counter.rfc(granted))
    assert rfc_refused(counter, counter.rfc(granted, index=1)).code == "busy"


# The queue.


def enqueue(counter: Counter, name: str, balance_mor: int, now_ms: int = NOW, **changes: Any) -> Digest:
    granted = counter.grant(user=name, session=name, balance_mor=balance_mor)
    return counter.admit(counter.rfc(granted, name, token_max=1, **changes), now_ms=now_ms)


def test_s26_the_richest_is_served_first(counter: Counter) -> None:
    ids = {name: enqueue(counter, name, mor) for name, mor in (("small", 1), ("large", 1_000), ("middle", 50))}
    order = [counter.desk.next_waiting(NOW) for _ in range(4)]
    assert [chosen.rfc_id for chosen in order if chosen] == [ids["large"], ids["middle"], ids["small"]]
    assert order[3] is None


def test_s26_patience_counts_as_balance(counter: Counter) -> None:
    """1 MOR ranks 2 and 1,000 MOR rank 11: after nine seconds' head start the small holder is first."""
    small = enqueue(counter, "small", 1)
    later = NOW + 9_000
    enqueue(counter, "large", 1_000, now_ms=later)
    chosen = counter.desk.next_waiting(later)
    assert chosen is not None
    assert chosen.rfc_id == small


def test_a_requeued_rfc_keeps_its_age(counter: Counter) -> None:
    rfc_id = enqueue(counter, "one", 1)
    assert counter.desk.next_waiting(NOW) is not None
    assert counter.desk.next_waiting(NOW) is None
    counter.desk.requeue(rfc_id)
    again = counter.desk.next_waiting(NOW + 5)
    assert again is not None
    assert again.admitted_ms == NOW
    counter.desk.requeue(named_digest("unknown"))
    assert counter.desk.next_waiting(NOW) is None


def test_an_rfc_past_its_deadline_leaves_the_queue(counter: Counter) -> None:
    rfc_id = enqueue(counter, "one", 5, deadline_ms=NOW + 10)
    assert counter.desk.next_waiting(NOW + 10) is None
    refused = counter.desk.outcome(rfc_id)
    assert isinstance(refused, RfcRefused)
    assert refused.code == "expired"
    assert counter.desk.allowances.used(address("one")) == 0
