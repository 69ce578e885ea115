"""A day and an allowance in words, and the history that lets any past day be told."""

import re

import pytest
from msgspec.structs import replace

from consensus.market.explain_access import Holding, explain_allowance, explain_day
from consensus.market.history import DayRecord, History
from consensus.market.ledger_state import Ledger, account_of
from contracts.amounts import show_exact, show_mor
from contracts.emission import daily_budget
from contracts.typed_data import Uint256
from tests.consensus.builders import PRICE, WEI, World, address, make_terms


def followed(world: World, *slots: int) -> tuple[History, Ledger]:
    """A history of one batch for each of ``slots``; each settles 200 T at 105 % of the genesis price."""
    ledger = world.ledger()
    history = History(ledger)
    for slot in slots:
        pending = [world.settlement(session=f"of {slot}", slot=slot, tokens=200, price_wei=PRICE * 105 // 100)]
        before, ledger = ledger, world.after(ledger, pending, slot=slot)
        history.note(before, ledger)
    return history, ledger


def text_of(world: World, record: DayRecord, today: int = 0) -> str:
    return "\n".join(explain_day(record, world.terms, today))


def test_the_genesis_day_is_explained_with_every_number() -> None:
    world = World()
    history, _ = followed(world, 10, 20)
    text = text_of(world, history.days[0])
    assert "Day 0: slots 0 to 99" in text
    assert "batches 1 to 2, opened by the genesis file, not over yet" in text
    assert "reference_price_wei of the network file" in text
    assert f"MaxT = budget / reference price = 3,456.0000 MOR / {PRICE:,} wei per T = 34,560,000,000 T" in text
    assert f"contract view max_t({3_456 * WEI}, {PRICE})" in text
    assert "AccessRate = MaxT / supply = 34,560,000,000 T / 10,000,000.0000 MOR = 3,456 T per 1 MOR a day" in text
    assert (
        f"contract view budget(0, 0)\n  verdict: the budget of the genesis file, {show_exact(3_456 * WEI)}, holds"
        in text
    )
    assert "MOR.totalSupply() at snapshot block 100" in text
    assert f"leader 1 = 0x{address('provider').hex()}" in text
    assert "400 T of MaxT" in text


def test_a_later_day_names_the_day_before_and_what_paid_its_leaders() -> None:
    world = World()
    history, ledger = followed(world, 10, 103, 205)
    text = text_of(world, history.days[1], today=2)
    assert "batches 2 to 2, opened by batch 2, over" in text
    spent = 200 * PRICE * 105 // 100
    assert f"{show_exact(spent)} / 200 T = {PRICE * 105 // 100:,} wei per T" in text
    assert "the day before, as of batch 1" in text
    assert text.count("verdict") == 2
    assert "does NOT" not in text
    assert f"contract view budget(1, {history.days[1].account.paid_before_wei})" in text
    reserve = daily_budget(1) // 10
    assert f"paid to them = {show_exact(reserve)} by batch 3" in text
    assert ledger.bootstrap_credited == daily_budget(0) // 10 + reserve


def test_wrong_numbers_are_told() -> None:
    world = World()
    history, _ = followed(world, 10, 103)
    record = history.days[1]
    forged = replace(record.account, reference_price_wei=PRICE * 2, budget_wei=Uint256(5))
    text = text_of(world, replace(record, account=forged))
    assert f"it should be {PRICE * 105 // 100:,} wei per T" in text
    assert "the budget of batch 2, 5 wei, does NOT hold" in text


def test_any_past_day_is_known_long_after_the_ledger_has_forgotten_it() -> None:
    world = World()
    history, ledger = followed(world, 10, 103, 205, 307, 409)
    assert set(ledger.days) == {3, 4}
    assert set(history.days) == {0, 1, 2, 3, 4}
    for number, record in history.days.items():
        assert (record.first, record.last) == (number + 1, number + 1)
        assert record.account.credited_t == 200
        assert f"batches {number + 1} to {number + 1}" in text_of(world, record, today=4)


def test_a_late_session_and_a_skipped_day_are_told() -> None:
    world = World(make_terms(settle_window_slots=250))
    history, ledger = followed(world, 10, 103)
    late = world.after(ledger, [world.settlement(session="late", slot=90, tokens=50)], slot=304)
    history.note(ledger, late)
    assert (history.days[0].account.credited_t, history.days[0].as_of) == (250, 3)
    assert "up to batch 3" in text_of(world, history.days[0], today=3)
    skipped = history.days[2]
    assert (skipped.first, skipped.last, skipped.account.opened_height) == (0, 0, 3)
    text = text_of(world, skipped, today=3)
    assert "no batch of its own, opened by batch 3, over" in text
    assert "does NOT" not in text, "it opened with its own budget"


@pytest.mark.parametrize(
    ("issued", "expected"),
    [
        (None, "only members keep count"),
        (16_384, "issued 16,384 T by all routers that this member heard of: 896 T are left"),
        (17_281, "OVER-ISSUED by 1 T"),
    ],
)
def test_an_allowance_is_explained(issued: int | None, expected: str) -> None:
    world = World()
    account = account_of(world.ledger(), world.terms, 0)
    members = tuple(member.address for member in world.members)
    text = "\n".join(
        explain_allowance(account, Holding(address("user"), 5 * WEI, members, issued, 640), world.terms.params)
    )
    assert expected in text
    assert "34,560,000,000 T x 5.0000 MOR / 10,000,000.0000 MOR = 17,280 T (S36, S38)" in text
    assert f"contract view user_max({3_456 * 10**7}, {world.supply_wei}, {5 * WEI})" in text
    assert "largest single pass = 16,384 T" in text
    assert "used 640 T of the passes that this member issued" in text
    assert "takes TokenMax or params.voucher_window = 32 T off the pass, the lesser" in text
    assert f"MOR.balanceOf(0x{address('user').hex()}) at snapshot block 100" in text
    assert len(set(re.findall("0x[0-9a-f]{40}", text))) == 4, "the user and its first three home routers"
    assert "no batch has opened the day" not in text


def test_who_holds_nothing_has_no_access_and_a_day_may_not_be_opened_yet() -> None:
    world = World()
    account = account_of(world.ledger(), world.terms, 1)
    lines = explain_allowance(account, Holding(address("user"), 0, (), None), world.terms.params, is_opened=False)
    assert lines[-1].startswith("  verdict: no access today")
    assert "no batch has opened the day yet" in lines[1]


@pytest.mark.parametrize(
    ("wei", "shown"),
    [
        (3_456 * WEI, "3,456.0000 MOR"),
        (12_345_678_900_000_000_000_000, "12,345.6789 MOR"),
        (10**14, "0.0001 MOR"),
        (10**14 - 1, "99,999,999,999,999 wei"),
        (WEI - 1, "0.9999 MOR"),
        (0, "0.0000 MOR"),
        (-WEI * 3 // 2, "-1.5000 MOR"),
        (-7, "-7 wei"),
    ],
)
def test_amounts_have_four_decimals_and_a_unit(wei: int, shown: str) -> None:
    assert show_mor(wei) == shown
    assert show_exact(wei) == (shown if shown.endswith("wei") else f"{shown} ({wei} wei)")
