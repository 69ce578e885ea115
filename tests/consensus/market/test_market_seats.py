"""A provider's slot is filled from the match until its provider says that the session is over; the money may wait."""

from collections import Counter as Counted

import pytest
from msgspec.structs import replace

from consensus.market.seats import Held
from gossip.messages.base import sign
from gossip.messages.router import DeliveryFiling
from tests.consensus.builders import address
from tests.consensus.market.counter import NOW, Counter


@pytest.fixture
def counter() -> Counter:
    return Counter()


def is_free(counter: Counter) -> bool:
    return counter.desk.free([counter.world.standing(slots=1)]) != ()


def expired_ms(counter: Counter) -> int:
    """A ms after the tickets of :meth:`Counter.session` have expired."""
    return NOW + counter.world.terms.params.ticket_ttl_ms + 1


def test_a_stopped_session_frees_its_slot_at_its_providers_filing_and_is_settled_later(counter: Counter) -> None:
    _, ticket_id, _ = counter.session()
    counter.desk.file_report(counter.report(ticket_id, 20), 2)
    assert not is_free(counter), "its user's word alone frees nobody else's slot"
    assert counter.desk.file_delivery(counter.delivery(ticket_id, voucher=20), 2) is None
    assert is_free(counter)
    assert counter.desk.due(6) == (), "the money waits as ever"
    (settlement,) = counter.desk.due(7)
    assert settlement.report is not None
    assert settlement.voucher is not None
    counter.desk.settled(ticket_id, 20)
    assert counter.desk.slots_left(counter.world.standing(slots=1).bid) == 1, "freed once"


def test_a_providers_word_that_nothing_was_opened_frees_the_slot_and_files_nothing(counter: Counter) -> None:
    _, ticket_id, session_key = counter.session()
    counter.desk.file_delivery(counter.delivery(ticket_id), 4)
    assert is_free(counter)
    assert counter.desk.is_open(ticket_id)
    assert counter.desk.lapse(20) == (), "its user may report until the end"
    params = counter.world.terms.params
    last_ms = expired_ms(counter) + params.session_max_ms
    end = params.slot_at(last_ms, counter.world.terms.genesis_ms) + 1 + params.report_deadline_slots
    assert counter.desk.lapse(end) == ((ticket_id, session_key),)
    assert counter.desk.allowances.used(session_key) == params.voucher_window, "an unopened ticket costs a window"
    assert counter.desk.slots_left(counter.world.standing(slots=1).bid) == 1


def test_a_session_that_goes_on_holds_its_slot(counter: Counter) -> None:
    _, ticket_id, _ = counter.session()
    counter.desk.file_delivery(replace(counter.delivery(ticket_id, voucher=8), runs=True), 2)
    assert not is_free(counter)
    assert counter.desk.silent(expired_ms(counter)) == ()
    counter.desk.file_delivery(counter.delivery(ticket_id, voucher=16), 4)
    assert is_free(counter)


def test_that_a_session_is_over_is_not_taken_back(counter: Counter) -> None:
    """Nor does it keep the better voucher out that a provider which spoke too early sends after it."""
    _, ticket_id, _ = counter.session()
    counter.desk.file_delivery(counter.delivery(ticket_id), 2)
    assert counter.desk.file_delivery(replace(counter.delivery(ticket_id, voucher=8), runs=True), 2) is None
    assert is_free(counter)
    counter.desk.file_delivery(counter.delivery(ticket_id, voucher=40), 3)
    (settlement,) = counter.desk.due(8)
    assert settlement.voucher is not None
    assert settlement.voucher.payload.tokens == 40


def test_a_word_about_an_unknown_ticket_frees_nothing(counter: Counter) -> None:
    counter.session()
    told: list[object] = []
    counter.desk.seats.on_seat = told.append
    with pytest.raises(Exception, match="unknown_ticket"):
        counter.desk.file_delivery(DeliveryFiling(address("x") + b"\0" * 12, None, None), 2)  # type: ignore[arg-type]
    assert (told, is_free(counter)) == ([], False)


def test_each_seat_is_held_for_a_reason(counter: Counter) -> None:
    granted, desk = counter.grant(), counter.desk
    tickets = [counter.place(counter.admit(counter.rfc(granted, index=index))) for index in range(5)]
    assert desk.seats_held(NOW) == Counted({Held.MATCHED: 5})
    desk.file_report(counter.report(tickets[0]), 2)
    desk.file_delivery(replace(counter.delivery(tickets[1]), runs=True), 2)
    desk.file_delivery(counter.delivery(tickets[2], voucher=3), 2)
    late = expired_ms(counter)
    assert desk.seats_held(late) == Counted({Held.REPORTED: 1, Held.RUNNING: 1, Held.SILENT: 2})
    provider = address("provider")
    assert set(desk.silent(late)) == {(tickets[0], provider), (tickets[3], provider), (tickets[4], provider)}
    assert desk.silent(late - 1) == ()


def test_a_restarted_router_knows_which_seats_are_free() -> None:
    counter, fresh = Counter(), Counter()
    granted = counter.grant()
    for index in range(2):
        rfc = counter.rfc(granted, index=index)
        signed = sign(counter.open_ticket(counter.admit(rfc)), counter.world.router, counter.world.domain)
        fresh.desk.restore(rfc, signed, is_settled=False)
    fresh.desk.file_delivery(counter.delivery(signed.id(counter.world.domain)), 2)
    fresh.desk.restored()
    assert fresh.desk.slots_left(counter.world.standing(slots=2).bid) == 1
