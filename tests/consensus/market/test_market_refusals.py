from typing import Any

import pytest
from msgspec.structs import replace

from consensus.committee import Committee, Member
from consensus.market import settlement as settlement_module
from consensus.market.errors import SettlementInvalid
from consensus.market.settlement import VerifiedSettlements, verify_settlement
from consensus.membership import Term
from gossip.messages.base import Unit, sign
from gossip.messages.session import Settlement
from tests.consensus.builders import OTHER_MODEL, PRICE, World, address, key, named_digest
from tests.consensus.market.settling import outcome, reason


@pytest.fixture
def world() -> World:
    return World()


# What can't be settled: rules of the ledger.


def test_a_session_is_settled_once(world: World) -> None:
    first = world.settlement(index=0)
    ledger = world.after(world.ledger(), [first])
    assert reason(world, first, ledger, 20) == "index_used"
    again = world.settlement(index=0, tokens=5, token_max=7)
    assert reason(world, again, ledger, 20) == "index_used"


def test_indexes_may_be_settled_in_any_order(world: World) -> None:
    ledger = world.after(world.ledger(), [world.settlement(index=number) for number in (5, 0, 3)])
    assert [index for index in range(8) if ledger.is_settled(world.settlement(index=index).rfc.payload)] == [0, 3, 5]


def test_s36_use_never_exceeds_the_allowance(world: World) -> None:
    ledger = world.after(world.ledger(), [world.settlement(tokens=100, allowance=250) for _ in range(2)])
    assert ledger.sessions[0][address("session")].used == 200
    assert reason(world, world.settlement(tokens=51, allowance=250), ledger, 20) == "allowance_exceeded"
    assert outcome(world, world.settlement(tokens=50, allowance=250), ledger, 20).reason == "credited"


def test_a_session_key_has_one_pass(world: World) -> None:
    ledger = world.after(world.ledger(), [world.settlement(allowance=1_000)])
    assert reason(world, world.settlement(allowance=2_000), ledger, 20) == "pass_changed"


def test_a_pass_beyond_max_t_is_no_pass(world: World) -> None:
    assert reason(world, world.settlement(allowance=world.ledger().account.max_t + 1)) == "allowance_over_max_t"


def test_a_price_over_the_ceiling_is_refused(world: World) -> None:
    assert outcome(world, world.settlement(price_wei=2 * PRICE)).reason == "credited"
    assert reason(world, world.settlement(price_wei=2 * PRICE + 1)) == "price_over_ceiling"


def test_a_ticket_is_settled_within_its_window(world: World) -> None:
    ledger = world.after(world.ledger(), slot=99)
    assert outcome(world, world.settlement(slot=10), ledger, 110).reason == "credited"
    assert reason(world, world.settlement(slot=9), ledger, 110) == "ticket_too_old"
    assert reason(world, world.settlement(slot=111), ledger, 110) == "ticket_from_future"
    assert outcome(world, world.settlement(slot=110), ledger, 110).reason == "credited"


def test_a_pass_is_good_on_its_day_only(world: World) -> None:
    assert reason(world, world.settlement(slot=1, day=1)) == "wrong_day"
    assert reason(world, world.settlement(slot=101, day=0), slot=102) == "wrong_day"


def test_the_day_before_can_still_be_settled(world: World) -> None:
    made = outcome(world, world.settlement(slot=99), slot=103)
    assert made.reason == "credited"


def test_without_a_report_a_session_waits_for_the_deadline(world: World) -> None:
    quiet = world.settlement(with_report=False, slot=10)
    with pytest.raises(SettlementInvalid) as refused:
        outcome(world, quiet, slot=14)
    assert (refused.value.reason, refused.value.retry) == ("report_awaited", True)
    assert outcome(world, quiet, slot=15).reason == "credited"


# What can't be settled: signatures and belonging.


def invalid(world: World, settlement: Settlement) -> str:
    with pytest.raises(SettlementInvalid) as refused:
        verify_settlement(settlement, world.terms)
    return refused.value.reason


def test_every_signature_of_a_settlement_is_needed(world: World) -> None:
    good, stranger = world.settlement(voucher_tokens=64), key("stranger")
    rfc, ticket = good.rfc, good.ticket
    assert good.voucher is not None
    assert good.report is not None
    forged_pass = sign(rfc.payload.access_pass.payload, stranger, world.domain)
    forged_bid = sign(ticket.payload.bid.payload, stranger, world.domain)
    bad = [
        replace(good, rfc=replace(rfc, payload=replace(rfc.payload, access_pass=forged_pass))),
        replace(good, rfc=sign(rfc.payload, stranger, world.domain)),
        replace(good, ticket=sign(ticket.payload, stranger, world.domain)),
        replace(good, ticket=sign(replace(ticket.payload, bid=forged_bid), world.router, world.domain)),
        replace(good, voucher=sign(good.voucher.payload, stranger, world.domain)),
        replace(good, report=sign(good.report.payload, stranger, world.domain)),
        replace(good, receipt=world.receipt(ticket.id(world.domain), 100, session="stranger")),
        replace(good, receipt=world.receipt(ticket.id(world.domain), 100, provider="stranger")),
        replace(good, rfc=replace(rfc, signature=bytes(65))),
    ]
    assert [invalid(world, settlement) for settlement in bad] == ["signature"] * len(bad)


def test_the_pass_is_by_a_member_and_the_ticket_by_its_issuer(world: World) -> None:
    other = world.members[1]
    good = world.settlement()
    strangers = Term.of(Committee.of(1, [Member(address("stranger"), 1)]))
    assert reason(world, good, replace(world.ledger(), committees=(strangers,))) == "issuer_not_a_member"
    ticket = world.ticket(good.rfc, router=other)
    assert invalid(world, replace(good, ticket=ticket)) == "ticket_router"
    foreign_pass = world.rfc(access_pass=world.access_pass("another session"))
    assert invalid(world, replace(good, rfc=foreign_pass)) == "pass_session_key"


@pytest.mark.parametrize(
    ("rfc_changes", "bid_changes", "ticket_changes", "expected"),
    [
        ({}, {}, {"rfc_id": named_digest("x")}, "ticket_rfc"),
        ({}, {}, {"session_key": address("x")}, "ticket_session_key"),
        ({}, {}, {"token_max": 257}, "ticket_token_max"),
        ({}, {}, {"token_max": 0}, "ticket_token_max"),
        ({}, {}, {"prompt_bound": 513}, "ticket_prompt_bound"),
        ({"unit": Unit.AUDIO_SAMPLE}, {"unit": Unit.AUDIO_SAMPLE}, {}, "unit_unsupported"),
        ({}, {"unit": Unit.VIDEO_FRAME}, {}, "bid_unit"),
        ({}, {"model_id": OTHER_MODEL}, {}, "bid_model"),
        ({}, {"price_wei": 0}, {}, "bid_price"),
        ({}, {"slots": 0}, {}, "bid_slots"),
        ({"prompt_bound": 2_049}, {}, {}, "bid_prompt_max"),
        ({}, {"expires_ms": 1}, {}, "bid_expired"),
    ],
)
def test_parts_that_do_not_belong_together_are_named(
    world: World,
    rfc_changes: dict[str, Any],
    bid_changes: dict[str, Any],
    ticket_changes: dict[str, Any],
    expected: str,
) -> None:
    rfc = world.rfc(**rfc_changes)
    ticket = world.ticket(rfc, world.bid(**bid_changes), **ticket_changes)
    settlement = Settlement(rfc, ticket, None, None, world.report(ticket.id(world.domain), 5))
    assert invalid(world, settlement) == expected


def test_filings_of_another_ticket_are_named(world: World) -> None:
    good, elsewhere = world.settlement(), named_digest("elsewhere")
    ticket_id = good.ticket.id(world.domain)
    bad = {
        "nothing_filed": replace(good, report=None, receipt=None, voucher=None),
        "voucher_ticket": replace(good, voucher=world.voucher(elsewhere, 1)),
        "report_ticket": replace(good, report=world.report(elsewhere, 1)),
        "receipt_ticket": replace(good, receipt=world.receipt(elsewhere, 1)),
        "voucher_session_key": replace(good, voucher=world.voucher(ticket_id, 1, "stranger")),
        "report_session_key": replace(good, report=world.report(ticket_id, 1, "stranger")),
        "report_unit": replace(good, report=world.report(ticket_id, 1, unit=Unit.AUDIO_SAMPLE)),
    }
    assert {expected: invalid(world, settlement) for expected, settlement in bad.items()} == {
        name: name for name in bad
    }


def test_a_settlement_is_verified_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Settlement] = []
    real = settlement_module.verify_settlement

    def counted(settlement: Settlement, *rest: Any) -> Any:
        calls.append(settlement)
        return real(settlement, *rest)

    monkeypatch.setattr(settlement_module, "verify_settlement", counted)
    monkeypatch.setattr(settlement_module, "MAX_REMEMBERED", 2)
    remembered = VerifiedSettlements(world.terms)
    first, second, third = (world.settlement() for _ in range(3))
    assert remembered(first) == remembered(first) == real(first, world.terms)
    assert len(calls) == 1
    remembered(second)
    remembered(third)
    remembered(first)
    assert len(calls) == 4
    remembered.forget(first)
    remembered(first)
    assert len(calls) == 5
    bad = replace(first, rfc=replace(first.rfc, signature=bytes(65)))
    for _ in range(2):
        with pytest.raises(SettlementInvalid):
            remembered(bad)
    assert len(calls) == 7
