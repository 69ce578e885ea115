"""What a session takes off its user's allowance where one side, or neither, says what was delivered (S36)."""

import random
from typing import Any

import pytest
from msgspec.structs import replace

from consensus.market.ledger import charged_tokens
from contracts.typed_data import Address, Digest
from gossip.messages.base import sign
from gossip.messages.market import Ticket
from gossip.messages.router import DeliveryFiling, ReportFiling
from tests.consensus.market.counter import NOW, Counter

WINDOW = 32
"""The default parameters'."""


@pytest.fixture
def counter() -> Counter:
    return Counter()


def end_of(counter: Counter) -> int:
    """The slot from which nothing can be filed for a ticket of slot 1."""
    params = counter.world.terms.params
    return 1 + (params.ticket_ttl_ms + params.session_max_ms) // params.slot_ms + 1 + params.report_deadline_slots


def sent(ticket_id: Digest, tokens: int, **more: Any) -> DeliveryFiling:
    return DeliveryFiling(ticket_id, None, None, tokens, **more)


def settle_due(counter: Counter, ticket_id: Digest, slot: int) -> None:
    """A batch takes what is due, or nothing is left to take."""
    for settlement in counter.desk.due(slot):
        counter.desk.settled(ticket_id, charged_tokens(settlement))
    counter.desk.lapse(slot)


@pytest.mark.parametrize(("token_max", "charged"), [(100, WINDOW), (WINDOW, WINDOW), (10, 10)])
def test_a_ticket_that_nobody_files_for_costs_a_window_at_its_end(
    counter: Counter, token_max: int, charged: int
) -> None:
    _, ticket_id, session_key = counter.session(token_max)
    ends = end_of(counter)
    assert counter.desk.due(ends - 1) == ()
    assert counter.desk.lapse(ends - 1) == ()
    assert counter.desk.allowances.used(session_key) == token_max
    assert counter.desk.due(ends) == ()
    assert counter.desk.lapse(ends) == ((ticket_id, session_key),)
    assert counter.desk.allowances.used(session_key) == charged
    assert counter.desk.lapse(ends) == ()
    assert counter.desk.free([counter.world.standing(slots=1)])
    assert counter.desk.file_report(counter.report(ticket_id), ends) is None


def test_a_provider_that_died_costs_its_user_one_t(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_report(counter.report(ticket_id, 0, passed=False), 2)
    settle_due(counter, ticket_id, 7)
    assert counter.desk.allowances.used(session_key) == 1


@pytest.mark.parametrize("passed", [True, False])
def test_a_user_that_took_a_window_pays_for_it_whatever_it_says(counter: Counter, passed: bool) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_report(counter.report(ticket_id, 0, passed=passed), 2)
    assert counter.desk.file_delivery(sent(ticket_id, WINDOW), 3) is None
    settle_due(counter, ticket_id, 7)
    assert counter.desk.allowances.used(session_key) == WINDOW


def test_a_provider_alone_is_heard_without_a_batch(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_delivery(sent(ticket_id, 20), 3)
    assert counter.desk.lapse(7) == ()
    assert counter.desk.due(8) == ()
    assert counter.desk.lapse(8) == ((ticket_id, session_key),)
    assert counter.desk.allowances.used(session_key) == 20


@pytest.mark.parametrize(("vouched", "claimed", "charged"), [(1, 33, 33), (1, 90, 33), (60, 100, 92), (90, 10**9, 100)])
def test_what_was_sent_beyond_the_last_voucher_costs_too_but_a_window_at_most(
    counter: Counter, vouched: int, claimed: int, charged: int
) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_delivery(replace(counter.delivery(ticket_id, voucher=vouched), sent=claimed), 3)
    counter.desk.file_report(counter.report(ticket_id, 1), 3)
    settle_due(counter, ticket_id, 8)
    assert counter.desk.allowances.used(session_key) == charged


def test_a_user_that_reports_less_than_it_signed_pays_for_what_it_signed(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_report(counter.report(ticket_id, 1), 2)
    settlement = counter.desk.file_delivery(counter.delivery(ticket_id, receipt=80), 3)
    assert settlement is not None
    assert charged_tokens(settlement) == 1
    counter.desk.settled(ticket_id, 1)
    assert counter.desk.allowances.used(session_key) == 80


def test_a_report_before_the_end_of_a_session_that_runs_is_not_the_last_word(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_report(counter.report(ticket_id, 0, passed=False), 2)
    assert counter.desk.file_delivery(replace(counter.delivery(ticket_id, voucher=8), runs=True), 5) is None
    assert counter.desk.due(end_of(counter) - 1) == ()
    counter.desk.file_delivery(counter.delivery(ticket_id, voucher=96), 40)
    settle_due(counter, ticket_id, 41)
    assert counter.desk.allowances.used(session_key) == 96


def test_a_provider_that_dies_within_a_session_is_waited_for_until_its_end(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_delivery(replace(counter.delivery(ticket_id, voucher=8), runs=True), 5)
    settle_due(counter, ticket_id, end_of(counter) - 1)
    assert counter.desk.allowances.used(session_key) == 100
    settle_due(counter, ticket_id, end_of(counter))
    assert counter.desk.allowances.used(session_key) == 8


def test_a_false_claim_costs_a_window_at_most(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_delivery(sent(ticket_id, 2**63), 3)
    settle_due(counter, ticket_id, 8)
    assert counter.desk.allowances.used(session_key) == WINDOW


def test_beside_a_receipt_a_claim_says_nothing(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_report(counter.report(ticket_id, 50, with_receipt=True), 2)
    counter.desk.settled(ticket_id, 50)
    counter.desk.file_delivery(sent(ticket_id, 100), 3)
    assert counter.desk.allowances.used(session_key) == 50


@pytest.mark.seed(369868097)
def test_a_restarted_router_charges_what_it_charged_before(chance: random.Random) -> None:
    """Whatever was filed and settled: passes, matches and filings are done again in their order, as a journal does."""
    counter, fresh = Counter(), Counter()
    granted = counter.grant()
    journal: list[tuple[Any, Ticket, list[ReportFiling | DeliveryFiling]]] = []
    told: dict[Digest, int] = {}
    for index in range(30):
        # nobody files for the first ticket: without it, a draw may leave no ticket open that costs less at its end
        is_forgotten = index == 0
        token_max = 300 if is_forgotten else chance.choice((10, 100, 300))
        rfc = counter.rfc(granted, token_max=token_max, index=index)
        rfc_id = counter.admit(rfc)
        assert counter.desk.next_waiting(NOW) is not None
        ticket = counter.open_ticket(rfc_id)
        ticket_id, filings = counter.place(rfc_id), list[ReportFiling | DeliveryFiling]()
        journal.append((rfc, ticket, filings))
        if not is_forgotten and chance.random() < 0.6:
            report = counter.report(
                ticket_id, chance.randrange(90), chance.random() < 0.3, passed=chance.random() < 0.5
            )
            filings.append(report)
        if not is_forgotten and chance.random() < 0.6:
            voucher = chance.choice((None, chance.randrange(1, 90)))
            filings.append(replace(counter.delivery(ticket_id, voucher), sent=chance.randrange(1, 120)))
        chance.shuffle(filings)
        for filing in filings:
            if (settlement := counter.file(filing, 2)) is not None:
                told[ticket_id] = charged_tokens(settlement)
    for settlement in counter.desk.due(7):
        told[settlement.ticket.id(counter.world.domain)] = charged_tokens(settlement)
    counter.desk.lapse(7)
    for ticket_id, charged in told.items():
        counter.desk.settled(ticket_id, charged)
    left_open = counter.desk.allowances.used(granted.session_key)
    restart(counter, fresh, granted.session_key, journal, told)
    fresh.desk.due(7)
    fresh.desk.lapse(7)
    assert fresh.desk.allowances.used(granted.session_key) == left_open
    for one in (counter, fresh):
        one.desk.lapse(end_of(counter))
    spent = [one.desk.allowances.used(granted.session_key) for one in (counter, fresh)]
    assert spent[0] == spent[1] < left_open


def restart(counter: Counter, fresh: Counter, session_key: Address, journal: Any, told: dict[Digest, int]) -> None:
    """What a journal does with a fresh desk."""
    world, domain = counter.world, counter.world.domain
    access_pass = journal[0][0].payload.access_pass
    note = world.pass_issued(access_pass, world.pass_request())
    fresh.desk.allowances.note_issued(note, used=sum(told.values()))
    for rfc, ticket, filings in journal:
        signed = sign(ticket, world.router, domain)
        fresh.desk.restore(rfc, signed, is_settled=signed.id(domain) in told)
        for filing in filings:
            fresh.file(filing, 2)
    fresh.desk.restored()
    assert fresh.desk.allowances.user_of(session_key) is not None


def test_after_a_restart_a_ticket_that_is_over_without_a_word_costs_a_window() -> None:
    counter, fresh = Counter(), Counter()
    granted = counter.grant()
    rfc = counter.rfc(granted, token_max=100)
    rfc_id = counter.admit(rfc)
    assert counter.desk.next_waiting(NOW) is not None
    signed = sign(counter.open_ticket(rfc_id), counter.world.router, counter.world.domain)
    note = counter.world.pass_issued(rfc.payload.access_pass, counter.world.pass_request())
    fresh.desk.allowances.note_issued(note)
    fresh.desk.restore(rfc, signed, is_settled=False, is_over=True)
    fresh.desk.restored()
    assert fresh.desk.allowances.used(granted.session_key) == WINDOW
