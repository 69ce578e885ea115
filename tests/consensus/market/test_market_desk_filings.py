"""A desk after the match: tickets, filings, settlements, and the budget that it promises from."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.market import access
from consensus.market import desk as desk_module
from consensus.market.errors import RfcRefused, SettlementInvalid
from consensus.market.ledger_state import account_of
from consensus.market.promises import Promises
from contracts.typed_data import Digest, Uint256
from gossip.messages.base import Unit, sign
from gossip.messages.market import Ticket
from gossip.messages.router import DeliveryFiling, Matched, ReportFiling
from tests.consensus.builders import PRICE, SALT, WEI, World, address, key, named_digest
from tests.consensus.market.counter import NOW, USER_MAX, Counter, rfc_refused


@pytest.fixture
def counter() -> Counter:
    return Counter()


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
    assert counter.desk.settled(ticket_id, 50)
    assert counter.desk.allowances.used(session_key) == 50
    assert not counter.desk.settled(ticket_id, 50)
    assert counter.desk.allowances.used(session_key) == 50


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
        (counter.delivery(elsewhere), "unknown_ticket"),
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
            code = "allowance_held" if token_max <= granted.allowance - spent else "token_max_over_allowance"
            assert (refused.code, refused.allowance_left) == (code, left)
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
    ticket_id = counter.place(first)
    assert counter.desk.budget_left(counter.account) == 8_192 * PRICE
    second = waiting_rfc(counter, 8_192, index=1)
    with pytest.raises(RfcRefused) as refused:
        counter.open_ticket(second, price_wei=PRICE + 1)
    assert refused.value.code == "budget_held", "what the first promised may come back"
    assert f"{8_192 * PRICE} wei of the budget of day 0" in refused.value.detail
    assert counter.open_ticket(second, price_wei=PRICE).token_max == 8_192
    with pytest.raises(RfcRefused) as refused:
        counter.open_ticket(second, price_wei=3 * PRICE)
    assert refused.value.code == "budget_spent", "that would not do"
    counter.desk.settled(ticket_id, 8_192, 8_192 * PRICE)
    with pytest.raises(RfcRefused) as refused:
        counter.open_ticket(second, price_wei=PRICE + 1)
    assert refused.value.code == "budget_spent", "what was credited does not come back"


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
