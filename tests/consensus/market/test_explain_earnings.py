"""A provider's pay in words, from its first session until its deposit is back."""

from typing import Any

from consensus.market.deposits import release_slot
from consensus.market.explain_access import Holding, explain_allowance, explain_day
from consensus.market.explain_earnings import explain_earnings, immature_of
from consensus.market.history import History
from consensus.market.ledger_state import Ledger
from consensus.market.opinions import due_slot
from contracts.amounts import show_exact, show_mor
from tests.consensus.builders import PRICE, World, address, make_terms

PROVIDER = address("provider")


def make_world(**params: Any) -> World:
    chosen = {"audit_slots": 12, "audit_bps": 0, "deposit_tokens": 250, "deposit_slots": 120, "bootstrap_days": 0}
    return World(make_terms(**(chosen | params)))


def told(world: World, ledger: Ledger, provider: str = "provider") -> str:
    return "\n".join(explain_earnings(ledger, world.terms.params, address(provider)))


def test_a_session_is_followed_until_the_deposit_is_back() -> None:
    world = make_world()
    params = world.terms.params
    ledger = world.after(world.ledger(), [world.settlement() for _ in range(3)], slot=10)
    text = told(world, ledger)
    assert "matured = 0 wei since genesis" in text or f"matured = {show_exact(0)}" in text
    assert f"{show_mor(300 * PRICE)} more were settled by the last batch" in text
    ledger = world.after(ledger, slot=11)
    (bucket,) = ledger.audits.immature
    text = told(world, ledger)
    assert f"immature = {show_exact(300 * PRICE)}" in text
    assert f"{show_mor(300 * PRICE)} come due in slot {due_slot(bucket, params)}" in text
    assert f"what comes due fills it first: {show_mor(250 * PRICE)}" in text
    ledger = world.after(ledger, slot=due_slot(bucket, params))
    text = told(world, ledger)
    end = release_slot(ledger.audits.deposits.of(PROVIDER).part, params)
    assert f"matured = {show_exact(50 * PRICE)}" in text
    assert f"deposit = {show_exact(250 * PRICE)} of params.deposit_tokens" in text
    assert f"released in slot {end} unless" in text
    ledger = world.after(world.after(ledger, slot=100, opening=world.opening(1)), slot=end)
    text = told(world, ledger)
    assert f"leaving = {show_exact(250 * PRICE)}, behind {show_mor(0)} of others" in text
    assert "released in slot" not in text
    ledger = world.after(ledger, slot=200, opening=world.opening(2))
    text = told(world, ledger)
    assert f"matured = {show_exact(300 * PRICE)}" in text
    assert "leaving" not in text
    day = "\n".join(explain_day(History(ledger).days[2], world.terms, 2))
    kept = f"{show_mor(world.budget_wei)} - {show_mor(250 * PRICE)}"
    assert f"budget left = budget - deposits that left + forfeited - credited - second opinions = {kept} +" in day
    assert f"MaxT = (budget - deposits that left) / reference price = ({kept}) /" in day
    assert f"= {ledger.account.max_t:,} T" in day
    allowance = explain_allowance(ledger.account, Holding(PROVIDER, 10**18, (), None), world.terms.params)
    assert any(f"max_t({ledger.account.market_wei}, {PRICE})" in line for line in allowance)


def test_what_is_forfeited_is_named_and_others_are_told_apart() -> None:
    world = make_world(audit_bps=10_000)
    rivals = [world.bid(name, scores=True) for name in ("x", "y")]
    made = [world.settlement(provider=name, rivals=rivals) for name in ("provider", "b")]
    ledger = world.after(world.after(world.ledger(), made, slot=10), slot=11)
    (picks,) = ledger.audits.picks.values()
    (ticket,) = (ticket for ticket, pick in picks.items() if pick.provider == PROVIDER)
    for offer, slot in zip(picks[ticket].scorers, (14, 15), strict=True):
        name = "x" if offer.provider == address("x") else "y"
        ledger = world.after(ledger, slot=slot, opinions=[world.opinion(name, ticket, passed=False)])
    assert list(immature_of(ledger, PROVIDER).values()) == [(0, 100 * PRICE)]
    assert list(immature_of(ledger, address("b")).values()) == [(100 * PRICE, 0)]
    assert f"and {show_mor(100 * PRICE)} are FORFEITED" in told(world, ledger)
    assert "FORFEITED" not in told(world, ledger, "b")
    day = "\n".join(explain_day(History(ledger).days[0], world.terms, 0))
    assert f"deposits = {show_mor(0)}, of which {show_mor(0)} have left" in day


def test_a_network_without_a_window_says_so() -> None:
    world = World()
    ledger = world.after(world.ledger(), [world.settlement()], slot=10)
    text = told(world, ledger)
    assert f"matured = {show_exact(100 * PRICE)}" in text
    assert "mature at once" in text
    assert "deposit" not in told(make_world(deposit_tokens=0), make_world(deposit_tokens=0).ledger())
