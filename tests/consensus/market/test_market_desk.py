from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.market import access, waiting
from consensus.market import allowances as allowances_module
from consensus.market import desk as desk_module
from consensus.market.desk import Desk
from consensus.market.errors import PassRefused, RfcRefused, SettlementInvalid
from consensus.market.ledger_state import DayAccount, account_of
from consensus.market.promises import Promises
from consensus.market.waiting import Waiting
from contracts.typed_data import Address, Digest, Uint256
from gossip.messages.base import Signed, Unit, encode, sign
from gossip.messages.market import AccessPass, Match, Rfc, Ticket
from gossip.messages.router import DeliveryFiling, Matched, ReportFiling
from gossip.messages.session import Settlement
from tests.consensus.builders import GENESIS_MS, PRICE, SALT, WEI, World, address, key, make_terms, named_digest

NOW = GENESIS_MS + 12_000
USER_MAX = 3_456 * WEI // 10**11 * 5 // 10_000_000
"""T a day of who holds 5 MOR."""


class Counter:
    """A desk with everything a test needs to deal with it, and helpers that sign."""

    def __init__(self, member_count: int = 1, **params: Any) -> None:
        self.world = World(member_count=member_count)
        if params:
            self.world.terms = make_terms(**params)
        self.desk = Desk(self.world.terms, self.world.router.address, lambda _: [m.address for m in self.world.members])
        self.account: DayAccount = account_of(self.world.ledger(), self.world.terms, 0)

    def grant(self, balance_mor: int = 5, salt: Digest = SALT, accept_rank: int = 0, **request: Any) -> AccessPass:
        user, session = request.pop("user", "user"), request.pop("session", "session")
        asked = self.world.pass_request(user, session, **request).payload
        return self.desk.allowances.grant(
            asked, balance_wei=balance_mor * WEI, account=self.account, salt=salt, now_ms=NOW, accept_rank=accept_rank
        )

    def rfc(self, granted: AccessPass, session: str = "session", **changes: Any) -> Signed[Rfc]:
        return self.world.rfc(session, sign(granted, self.world.router, self.world.domain), **changes)

    def admit(self, rfc: Signed[Rfc], now_ms: int = NOW, slot: int = 1, spent_wei: int = 0) -> Digest:
        rfc_id = rfc.id(self.world.domain)
        account = replace(self.account, credited_wei=Uint256(spent_wei))
        self.desk.admit(rfc, rfc_id, now_ms=now_ms, slot=slot, account=account)
        return rfc_id

    def place(self, rfc_id: Digest, provider: str = "provider", slot: int = 1) -> Digest:
        world = self.world
        ticket = self.open_ticket(rfc_id, provider, slot)
        signed = sign(ticket, world.router, world.domain)
        ticket_id = signed.id(world.domain)
        made = Match(rfc_id, ticket_id, slot, named_digest("b"), named_digest("d"), 0, (), (), world.router.address)
        return self.desk.place(Matched(sign(made, world.router, world.domain), signed, world.record(provider)))

    def open_ticket(self, rfc_id: Digest, provider: str = "provider", slot: int = 1, price_wei: int = PRICE) -> Ticket:
        bid = self.world.bid(provider, price_wei=price_wei)
        return self.desk.open_ticket(rfc_id, bid, slot=slot, now_ms=self.world.slot_ms(slot), account=self.account)

    def session(self, token_max: int = 100, index: int = 0) -> tuple[Digest, Digest, Address]:
        """One RFC of one user, matched: its id, its ticket's, and the session key."""
        granted = self.grant()
        rfc_id = self.admit(self.rfc(granted, token_max=token_max, index=index))
        assert self.desk.next_waiting(NOW) is not None
        return rfc_id, self.place(rfc_id), granted.session_key

    def report(self, ticket_id: Digest, tokens: int = 50, with_receipt: bool = False, **changes: Any) -> ReportFiling:
        receipt = self.world.receipt(ticket_id, tokens) if with_receipt else None
        return ReportFiling(ticket_id, self.world.report(ticket_id, tokens, **changes), receipt)

    def delivery(self, ticket_id: Digest, voucher: int | None = None, receipt: int | None = None) -> DeliveryFiling:
        return DeliveryFiling(
            ticket_id,
            None if voucher is None else self.world.voucher(ticket_id, voucher),
            None if receipt is None else self.world.receipt(ticket_id, receipt),
        )

    def file(self, filing: ReportFiling | DeliveryFiling, slot: int) -> Settlement | None:
        if isinstance(filing, ReportFiling):
            return self.desk.file_report(filing, slot)
        return self.desk.file_delivery(filing, slot)


@pytest.fixture
def counter() -> Counter:
    return Counter()


def pass_code(counter: Counter, **request: Any) -> str:
    with pytest.raises(PassRefused) as refused:
        counter.grant(**request)
    return refused.value.code


def rfc_refused(counter: Counter, rfc: Signed[Rfc], **options: Any) -> RfcRefused:
    with pytest.raises(RfcRefused) as refused:
        counter.admit(rfc, **options)
    return refused.value


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


# Tickets, filings, settlements.


def test_a_match_fills_a_slot_until_the_session_is_over(counter: Counter) -> None:
    bid = counter.world.standing(slots=1)
    assert counter.desk.free([bid]) == (bid,)
    rfc_id, ticket_id, _ = counter.session()
    assert isinstance(counter.desk.outcome(rfc_id), Matched)
    assert counter.desk.free([bid]) == ()
    assert counter.desk.free([counter.world.standing(slots=2)]) != ()
    counter.desk.file_report(counter.report(ticket_id, with_receipt=True), 2)
    assert counter.desk.free([bid]) == (bid,)


def test_a_provider_with_two_sessions_gets_one_slot_back_at_a_time(counter: Counter) -> None:
    granted = counter.grant()
    tickets = [counter.place(counter.admit(counter.rfc(granted, index=index))) for index in range(2)]
    counter.desk.settled(tickets[0], 1)
    assert counter.desk.free([counter.world.standing(slots=1)]) == ()
    assert counter.desk.free([counter.world.standing(slots=2)]) != ()
    counter.desk.settled(tickets[1], 1)
    assert counter.desk.free([counter.world.standing(slots=1)]) != ()


def test_a_ticket_takes_its_terms_from_the_rfc(counter: Counter) -> None:
    rfc_id = counter.admit(counter.rfc(counter.grant(), token_max=99))
    ticket = counter.open_ticket(rfc_id)
    assert (ticket.token_max, ticket.prompt_bound, ticket.session_key) == (99, 512, address("session"))
    assert ticket.expires_ms == NOW + counter.world.terms.params.ticket_ttl_ms
    with pytest.raises(RfcRefused, match="isn't waiting"):
        counter.open_ticket(named_digest("unknown"))


def test_a_match_cannot_be_placed_twice(counter: Counter) -> None:
    rfc_id, _, _ = counter.session()
    matched = counter.desk.outcome(rfc_id)
    assert isinstance(matched, Matched)
    with pytest.raises(RfcRefused, match="isn't waiting"):
        counter.desk.place(matched)


def test_report_with_receipt_settles_at_once(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    settlement = counter.desk.file_report(counter.report(ticket_id, with_receipt=True), 2)
    assert settlement is not None
    assert settlement.report is not None
    assert settlement.receipt is not None
    assert counter.desk.allowances.used(session_key) == 50, "after a Pass no more than the user's count is charged"
    assert counter.desk.settled(ticket_id, 40)
    assert counter.desk.allowances.used(session_key) == 40
    assert not counter.desk.settled(ticket_id, 50)
    assert counter.desk.allowances.used(session_key) == 40


def test_after_a_fail_all_of_token_max_stays_reserved(counter: Counter) -> None:
    """What is charged then is the highest count on either side (S44)."""
    _, ticket_id, session_key = counter.session()
    counter.desk.file_report(counter.report(ticket_id, passed=False), 2)
    assert counter.desk.allowances.used(session_key) == 100
    counter.desk.file_report(counter.report(ticket_id), 2)
    assert counter.desk.allowances.used(session_key) == 100, "the first report counts"


def test_a_report_in_another_unit_counts_as_none(counter: Counter) -> None:
    """A user could spoil the provider's settlement with it otherwise."""
    _, ticket_id, _ = counter.session()
    filing = counter.report(ticket_id)
    audio = sign(replace(filing.report.payload, unit=Unit.AUDIO_SAMPLE), key("session"), counter.world.domain)
    with pytest.raises(SettlementInvalid, match="report_unit"):
        counter.desk.file_report(replace(filing, report=audio), 2)
    counter.desk.file_delivery(counter.delivery(ticket_id, voucher=70), 10)
    (settlement,) = counter.desk.due(15)
    assert settlement.report is None


def test_report_and_delivery_meet_in_any_order(counter: Counter) -> None:
    _, ticket_id, _ = counter.session()
    assert counter.desk.file_delivery(counter.delivery(ticket_id, voucher=40, receipt=50), 2) is None
    settlement = counter.desk.file_report(counter.report(ticket_id), 3)
    assert settlement is not None
    assert settlement.receipt is not None
    assert settlement.voucher is None, "the receipt's count stands for it"

    other = Counter()
    _, ticket_id, _ = other.session()
    assert other.desk.file_report(other.report(ticket_id), 2) is None
    assert other.desk.file_delivery(other.delivery(ticket_id, receipt=50), 3) is not None


def test_an_early_voucher_of_the_users_own_does_not_shut_the_provider_out(counter: Counter) -> None:
    _, ticket_id, _ = counter.session()
    assert counter.desk.file_delivery(counter.delivery(ticket_id, voucher=1), 2) is None
    assert counter.desk.file_report(counter.report(ticket_id, tokens=1), 2) is None
    assert counter.desk.file_delivery(counter.delivery(ticket_id, voucher=90), 3) is None
    assert counter.desk.file_delivery(counter.delivery(ticket_id, voucher=80), 3) is None
    (settlement,) = counter.desk.due(7)
    assert settlement.voucher is not None
    assert settlement.voucher.payload.tokens == 90


def test_without_a_report_the_voucher_counts_after_the_deadline(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_delivery(counter.delivery(ticket_id, voucher=70), 10)
    assert counter.desk.due(14) == ()
    (settlement,) = counter.desk.due(15)
    assert settlement.report is None
    assert counter.desk.due(15) == ()
    assert counter.desk.allowances.used(session_key) == 100
    counter.desk.settled(ticket_id, 70)
    assert counter.desk.allowances.used(session_key) == 70


def test_a_ticket_that_nobody_files_is_released_at_its_end(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    params = counter.world.terms.params
    ends = 1 + (params.ticket_ttl_ms + params.session_max_ms) // params.slot_ms + 1 + params.report_deadline_slots
    assert counter.desk.due(ends - 1) == ()
    assert counter.desk.allowances.used(session_key) == 100
    assert counter.desk.due(ends) == ()
    assert counter.desk.allowances.used(session_key) == 0
    assert counter.desk.free([counter.world.standing(slots=1)])
    assert counter.desk.file_report(counter.report(ticket_id), ends) is None


def test_a_batch_may_settle_a_ticket_that_is_open_here(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    assert counter.desk.settled(ticket_id, 30)
    assert counter.desk.allowances.used(session_key) == 30
    assert counter.desk.free([counter.world.standing(slots=1)])


def test_filing_twice_is_harmless_and_the_first_report_counts(counter: Counter) -> None:
    _, ticket_id, _ = counter.session()
    counter.desk.file_report(counter.report(ticket_id, tokens=50), 2)
    counter.desk.file_report(counter.report(ticket_id, tokens=1), 2)
    settlement = counter.desk.file_delivery(counter.delivery(ticket_id, receipt=50), 2)
    assert settlement is not None
    assert settlement.report is not None
    assert settlement.report.payload.tokens == 50
    assert counter.desk.file_delivery(counter.delivery(ticket_id, receipt=50), 2) is None
    assert counter.desk.file_report(counter.report(ticket_id), 2) is None


def test_what_is_remembered_is_bounded(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "MAX_REMEMBERED", 2)
    granted = counter.grant()
    rfc_ids = [counter.admit(counter.rfc(granted, index=index)) for index in range(3)]
    tickets = [counter.place(rfc_id) for rfc_id in rfc_ids]
    assert counter.desk.outcome(rfc_ids[0]) is None
    assert isinstance(counter.desk.outcome(rfc_ids[1]), Matched)
    for ticket_id in tickets:
        counter.desk.settled(ticket_id, 1)
    assert counter.desk.file_report(counter.report(tickets[1]), 2) is None
    with pytest.raises(SettlementInvalid, match="unknown_ticket"):
        counter.desk.file_report(counter.report(tickets[0]), 2)


def test_filings_that_belong_elsewhere_are_refused_by_name(counter: Counter) -> None:
    _, ticket_id, _ = counter.session()
    world, elsewhere = counter.world, named_digest("elsewhere")
    stranger = sign(counter.report(ticket_id).report.payload, key("stranger"), world.domain)
    bad: list[tuple[ReportFiling | DeliveryFiling, str]] = [
        (counter.report(elsewhere), "unknown_ticket"),
        (replace(counter.report(elsewhere), ticket_id=ticket_id), "report_ticket"),
        (replace(counter.report(ticket_id), report=stranger), "signature"),
        (ReportFiling(ticket_id, world.report(ticket_id, 5, "stranger"), None), "report_session_key"),
        (counter.delivery(elsewhere, voucher=1), "unknown_ticket"),
        (counter.delivery(ticket_id), "nothing_filed"),
        (replace(counter.delivery(elsewhere, voucher=1), ticket_id=ticket_id), "voucher_ticket"),
        (replace(counter.delivery(elsewhere, receipt=1), ticket_id=ticket_id), "receipt_ticket"),
        (DeliveryFiling(ticket_id, world.voucher(ticket_id, 5, "stranger"), None), "voucher_session_key"),
        (DeliveryFiling(ticket_id, None, world.receipt(ticket_id, 5, provider="stranger")), "signature"),
    ]
    for filing, reason in bad:
        with pytest.raises(SettlementInvalid) as refused:
            counter.file(filing, 2)
        assert refused.value.reason == reason
    assert counter.desk.due(10) == ()


@given(st.lists(st.tuples(st.integers(1, 9_000), st.sampled_from(["settle", "refuse", "leave"])), max_size=12))
@settings(max_examples=40)
def test_reserved_and_spent_never_exceed_the_allowance(steps: list[tuple[int, str]]) -> None:
    counter = Counter()
    granted = counter.grant()
    spent = 0
    for index, (token_max, what) in enumerate(steps):
        rfc = counter.rfc(granted, index=index, token_max=token_max)
        if token_max > (left := counter.desk.allowances.left(granted.session_key)):
            refused = rfc_refused(counter, rfc)
            assert (refused.code, refused.allowance_left) == ("token_max_over_allowance", left)
            continue
        rfc_id = counter.admit(rfc)
        if what == "refuse":
            counter.desk.refuse(rfc_id, "no_provider", "")
        elif what == "settle":
            counter.desk.settled(counter.place(rfc_id), token_max // 2)
            spent += token_max // 2
        used = counter.desk.allowances.used(granted.session_key)
        assert spent <= used <= granted.allowance
        assert counter.desk.allowances.left(granted.session_key) == granted.allowance - used


# The budget.


def waiting_rfc(counter: Counter, token_max: int, index: int = 0, **granted: Any) -> Digest:
    rfc_id = counter.admit(counter.rfc(counter.grant(**granted), token_max=token_max, index=index))
    assert counter.desk.next_waiting(NOW) is not None
    return rfc_id


def test_s37_a_router_promises_what_its_passes_are_worth_and_no_more(counter: Counter) -> None:
    """16,384 T were issued: at twice the reference price they pay for 8,192."""
    first = waiting_rfc(counter, 8_192)
    counter.open_ticket(first, price_wei=2 * PRICE)
    counter.place(first)
    assert counter.desk.budget_left(counter.account) == 8_192 * PRICE
    second = waiting_rfc(counter, 8_192, index=1)
    with pytest.raises(RfcRefused) as refused:
        counter.open_ticket(second, price_wei=PRICE + 1)
    assert refused.value.code == "budget_spent"
    assert f"{8_192 * PRICE} wei of the budget of day 0" in refused.value.detail
    assert counter.open_ticket(second, price_wei=PRICE).token_max == 8_192


def test_s37_what_a_session_did_not_use_of_its_worth_can_be_promised_again(counter: Counter) -> None:
    _, ticket_id, _ = counter.session(token_max=100)
    before = counter.desk.budget_left(counter.account)
    assert before == (16_384 - 100) * PRICE
    counter.file(counter.report(ticket_id, with_receipt=True), 2)
    assert counter.desk.budget_left(counter.account) == before, "a settlement that waits is outstanding still"
    counter.desk.settled(ticket_id, 50, 50 * PRICE)
    assert counter.desk.budget_left(counter.account) == before + 50 * PRICE
    _, lost, _ = counter.session(token_max=100, index=1)
    counter.desk.settled(lost, 0)
    assert counter.desk.budget_left(counter.account) == before + 50 * PRICE


def test_s37_the_ledgers_budget_bounds_every_router(counter: Counter) -> None:
    counter.grant()
    nearly = replace(counter.account, credited_wei=Uint256(counter.account.budget_wei - 7))
    assert counter.desk.budget_left(nearly) == 7


def test_s37_a_restarted_router_knows_what_it_promised(counter: Counter) -> None:
    granted = counter.grant()
    rfc = counter.rfc(granted, token_max=100)
    ticket = sign(counter.open_ticket(counter.admit(rfc)), counter.world.router, counter.world.domain)
    fresh = Counter()
    issued = fresh.world.pass_issued(rfc.payload.access_pass, fresh.world.pass_request(day=0))
    fresh.desk.allowances.note_issued(issued)
    fresh.desk.restore(rfc, ticket, is_settled=False)
    assert fresh.desk.budget_left(fresh.account) == (16_384 - 100) * PRICE
    fresh = Counter()
    fresh.desk.allowances.note_issued(issued)
    fresh.desk.restore(rfc, ticket, is_settled=True, credited_wei=30 * PRICE)
    assert fresh.desk.budget_left(fresh.account) == (16_384 - 30) * PRICE


def test_yesterdays_promises_do_not_bind_today(counter: Counter) -> None:
    counter.session()
    counter.desk.allowances.forget_before(1)
    tomorrow = replace(counter.account, day=1)
    assert counter.desk.budget_left(tomorrow) == 0
    asked = counter.world.pass_request("user", "tomorrow", day=1).payload
    granted = counter.desk.allowances.grant(asked, balance_wei=5 * WEI, account=tomorrow, salt=SALT, now_ms=NOW)
    assert counter.desk.budget_left(tomorrow) == granted.allowance * PRICE


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40_000), st.integers(1, 200)), max_size=30),
)
def test_s37_routers_that_do_not_talk_never_promise_more_than_the_budget(
    balances: list[int], asked: list[tuple[int, int, int]]
) -> None:
    """One router for each user, all on one budget: whatever they match at whatever price, it pays for all."""
    supply = sum(balances)
    world = World(budget_wei=100_000 * PRICE, supply_wei=supply * WEI)
    account = account_of(world.ledger(), world.terms, 0)
    routers = [Promises() for _ in balances]
    for router, balance in zip(routers, balances, strict=True):
        router.issue(0, access.round_allowance(access.user_max(account.max_t, account.supply_wei, balance * WEI)))
    promised = 0
    for number, (which, token_max, percent) in enumerate(asked):
        router, price = routers[which % len(routers)], PRICE * percent // 100
        if token_max * price <= router.left(0, account.reference_price_wei, account.budget_left_wei):
            bid = world.bid(price_wei=price)
            ticket = Ticket(named_digest("rfc"), address("s"), bid, token_max, 1, 1, NOW, world.router.address)
            router.promise(named_digest(str(number)), ticket, 0)
            promised += token_max * price
    assert promised <= account.budget_wei


def test_s36_over_issue_is_measured_against_user_max() -> None:
    counter = Counter(member_count=2)
    world, other = counter.world, counter.world.members[1]
    for session, allowance in (("one", 16_384), ("two", 900)):
        made = world.access_pass(session, other, allowance=allowance)
        counter.desk.allowances.note_issued(world.pass_issued(made, world.pass_request(session=session)))
    assert counter.desk.allowances.over_issued(address("user"), counter.account, 5 * WEI) == 16_384 + 900 - USER_MAX
    assert counter.desk.allowances.over_issued(address("user"), counter.account, 6 * WEI) == 0
    assert counter.desk.allowances.over_issued(address("stranger"), counter.account, 0) == 0
