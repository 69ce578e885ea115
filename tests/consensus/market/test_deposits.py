"""Provider deposits in the ledger (S8): what comes due fills them, failed picks take them, leaving gives them back."""

from typing import Any

import pytest
from msgspec.structs import replace

from consensus.market.batch import apply_batch
from consensus.market.budget import compute_budget, market_credit
from consensus.market.deposits import (
    PARTS,
    RELEASE_PERCENT,
    Deposit,
    DepositDraft,
    Deposits,
    part_of,
    release_slot,
)
from consensus.market.errors import BatchInvalid
from consensus.market.ledger_state import Ledger, account_of, decode_ledger, encode_ledger, state_root
from consensus.market.maturing import has_work
from consensus.market.opinions import due_slot
from consensus.market.trie import Trie
from consensus.params import NetworkParams
from contracts.typed_data import Uint256
from gossip.messages.session import Settlement
from tests.consensus.builders import PRICE, World, address, make_terms

WINDOW = 12
WAITS = 120
"""``deposit_slots``: above the 100 in which a ticket may be settled and the window."""
FULL = 250
PROVIDER = address("provider")


def make_world(**params: Any) -> World:
    """Nothing is picked and a deposit is worth 250 T, unless a test says otherwise."""
    chosen = {"audit_slots": WINDOW, "audit_bps": 0, "deposit_tokens": FULL, "deposit_slots": WAITS}
    return World(make_terms(**(chosen | {"bootstrap_days": 0} | params)))


def session(world: World, **changes: Any) -> Settlement:
    """A session of 100 T whose ticket shows somebody who can score."""
    return world.settlement(**({"rivals": [world.bid("scorer", scores=True)]} | changes))


def after_day(world: World, ledger: Ledger, day: int, slot: int | None = None) -> Ledger:
    """The ledger after the first batch of a day, opened as its formula says."""
    budget = compute_budget(day, market_credit(ledger, world.terms, day), world.terms)
    world.budget_wei = int(budget)
    return world.after(ledger, slot=day * 100 if slot is None else slot, opening=world.opening(day))


def earned(world: World, count: int, **changes: Any) -> Ledger:
    """The ledger in which ``count`` sessions of slot 10 have just come due."""
    made = [session(world, **changes) for _ in range(count)]
    ledger = world.after(world.after(world.ledger(), made, slot=10), slot=11)
    return world.after(ledger, slot=due_slot(max(ledger.audits.immature), world.terms.params))


def balance(ledger: Ledger, settled_wei: int) -> None:
    """Settled = matured + at stake + immature + forfeited, to the wei."""
    audits, deposits = ledger.audits, ledger.audits.deposits
    matured = ledger.total_credited - ledger.bootstrap_credited - audits.opinions_wei
    at_stake = deposits.held_wei + deposits.leaving_wei
    assert settled_wei == matured + at_stake + audits.immature_wei + audits.forfeited_wei
    assert sum(ledger.credits.values()) == ledger.total_credited


# Filling.


@pytest.mark.parametrize(("sessions", "matured"), [(1, 0), (2, 0), (3, 50), (9, 650)])
def test_what_comes_due_first_fills_the_deposit(sessions: int, matured: int) -> None:
    world = make_world()
    ledger = earned(world, sessions)
    deposits = ledger.audits.deposits
    assert deposits.held_wei == deposits.of(PROVIDER).wei == (100 * sessions - matured) * PRICE
    assert ledger.credits == ({PROVIDER: matured * PRICE} if matured else {})
    assert ledger.account.credited_wei == 100 * sessions * PRICE, "the wei have left their day's budget either way"
    assert ledger.account.returned_wei == 0
    balance(ledger, 100 * sessions * PRICE)


def test_every_address_has_a_deposit_of_its_own() -> None:
    world = make_world()
    made = [session(world, provider=name) for name in ("a", "b", "c", "a", "a")]
    ledger = world.after(world.after(world.ledger(), made, slot=10), slot=11)
    ledger = world.after(ledger, slot=40)
    wei = {name: ledger.audits.deposits.of(address(name)).wei for name in "abc"}
    assert wei == {"a": FULL * PRICE, "b": 100 * PRICE, "c": 100 * PRICE}
    assert ledger.credits == {address("a"): 50 * PRICE}


def test_the_deposit_follows_the_reference_price_up_and_not_down() -> None:
    params = make_world().terms.params
    held = Deposits(Uint256(FULL * 10), held={PROVIDER: Deposit(Uint256(FULL * 10), 9)})
    assert DepositDraft(held, params, 50, price_wei=10).fill(PROVIDER, 70) == 70
    assert DepositDraft(held, params, 50, price_wei=9).fill(PROVIDER, 70) == 70, "nothing is given back"
    dearer = DepositDraft(held, params, 50, price_wei=11)
    assert (dearer.fill(PROVIDER, 200), dearer.fill(PROVIDER, 70), dearer.fill(PROVIDER, 5)) == (0, 20, 5)
    after, paid = dearer.close(0)
    assert (after.held_wei, after.of(PROVIDER).wei, paid) == (FULL * 11, FULL * 11, {})


@pytest.mark.parametrize("params", [{"deposit_tokens": 0}, {"audit_slots": 0}])
def test_a_network_may_do_without(params: dict[str, int]) -> None:
    world = make_world(**params)
    ledger = world.after(world.after(world.ledger(), [session(world)], slot=10), slot=11)
    ledger = world.after(ledger, slot=40)
    assert ledger.credits == {PROVIDER: 100 * PRICE}
    assert ledger.audits.deposits == Deposits()


# Forfeiting.


@pytest.mark.parametrize("forfeits", ["pair", "provider"])
def test_a_failed_pick_takes_the_deposit_whoever_forfeits_what_is_immature(forfeits: str) -> None:
    world = make_world(audit_bps=10_000, forfeits=forfeits)
    made = [session(world, rivals=()) for _ in range(3)]  # nobody is known who could score these: none is picked
    ledger = world.after(world.after(world.ledger(), made, slot=10), slot=11)
    ledger = world.after(ledger, slot=30)
    assert ledger.audits.deposits.held_wei == FULL * PRICE
    ledger = world.after(ledger, [session(world, session="wash"), session(world, session="other")], slot=31)
    ledger = world.after(ledger, slot=32)
    (picks,) = ledger.audits.picks.values()
    assert len(picks) == 2
    (honest,) = (ticket for ticket, pick in picks.items() if pick.session_key == address("other"))
    ledger = world.after(ledger, slot=33, opinions=[world.opinion("scorer", honest)])
    ledger = world.after(ledger, slot=60)
    lost = 100 if forfeits == "pair" else 200
    assert ledger.audits.forfeited_wei == (FULL + lost) * PRICE
    assert ledger.account.returned_wei == lost * PRICE, "the deposit's own days are over: it stays in the pool"
    assert ledger.audits.deposits.of(PROVIDER).wei == (200 - lost) * PRICE
    assert ledger.credits[PROVIDER] == 50 * PRICE, "what has matured is its own"
    balance(ledger, 500 * PRICE)


def test_small_sessions_first_and_a_huge_one_then_cost_all_that_was_put_by() -> None:
    world = make_world(audit_bps=500)
    ledger = earned(world, 2, tokens=50)
    huge = session(world, session="huge", tokens=20_000, token_max=20_000, slot=30)
    ledger = world.after(ledger, [huge], slot=31)
    ledger = world.after(ledger, slot=32)
    assert sum(len(some) for some in ledger.audits.picks.values()) >= 1, "20,000 T are always picked at 5 %"
    ledger = world.after(ledger, slot=60)
    assert (ledger.total_credited, ledger.audits.deposits.held_wei) == (0, 0)
    balance(ledger, 20_100 * PRICE)


# Leaving.


def test_who_leaves_is_paid_with_the_next_days_first_batch_from_its_budget() -> None:
    world = make_world()
    params = world.terms.params
    ledger = earned(world, 3)
    part = ledger.audits.deposits.of(PROVIDER).part
    end = release_slot(part, params)
    assert WAITS < end - 11 <= WAITS + 3
    ledger = after_day(world, ledger, 1)
    assert not has_work(ledger.audits, 0, end - 1, params, is_new_day=False)
    assert has_work(ledger.audits, 0, end, params, is_new_day=False)
    ledger = world.after(ledger, slot=end)
    deposits = ledger.audits.deposits
    assert (deposits.held_wei, deposits.leaving_wei, deposits.calendar) == (0, FULL * PRICE, {})
    assert ledger.credits == {PROVIDER: 50 * PRICE}, "not before the next day opens"
    assert not has_work(ledger.audits, 0, end + 1, params, is_new_day=False)
    assert has_work(ledger.audits, 0, 200, params, is_new_day=True)
    ahead = account_of(ledger, world.terms, 2)
    before, total = market_credit(ledger, world.terms, 2), ledger.total_credited
    ledger = after_day(world, ledger, 2)
    account = ledger.account
    assert (account.released_wei, account.max_t) == (ahead.released_wei, ahead.max_t), "as routers looked ahead"
    assert ledger.credits == {PROVIDER: 300 * PRICE}
    assert ledger.total_credited - total == FULL * PRICE
    assert account.released_wei == FULL * PRICE
    assert account.max_t == (account.budget_wei - FULL * PRICE) // account.reference_price_wei
    assert account.budget_left_wei == account.budget_wei - FULL * PRICE, "and nobody else is promised it"
    assert ledger.total_credited + account.budget_left_wei == market_credit(ledger, world.terms, 3)
    assert market_credit(ledger, world.terms, 3) <= before + account.budget_wei, "within what the contract allows"
    assert (ledger.audits.deposits.leaving, ledger.audits.deposits.leaving_wei) == ({}, 0)
    balance(ledger, 300 * PRICE)
    assert world.after(ledger, slot=201).total_credited == ledger.total_credited, "once"


def test_another_session_keeps_the_deposit_for_a_period_more() -> None:
    world = make_world()
    params = world.terms.params
    ledger = earned(world, 3)
    first = release_slot(ledger.audits.deposits.of(PROVIDER).part, params)
    ledger = world.after(world.after(ledger, [session(world, slot=60)], slot=61), slot=62)
    second = release_slot(ledger.audits.deposits.of(PROVIDER).part, params)
    assert WAITS < second - 62 <= WAITS + 3
    ledger = world.after(after_day(world, ledger, 1), slot=first)
    assert ledger.audits.deposits.held_wei == FULL * PRICE
    assert list(ledger.audits.deposits.calendar) == [part_of(62, params)], "looked at again when it may leave"
    ledger = world.after(ledger, slot=second)
    assert ledger.audits.deposits.leaving_wei == FULL * PRICE


def test_who_comes_back_begins_anew_and_still_gets_the_old_deposit() -> None:
    world = make_world()
    ledger = after_day(world, earned(world, 3), 1)
    ledger = world.after(ledger, slot=140)
    assert ledger.audits.deposits.leaving_wei == FULL * PRICE
    back = [session(world, day=1, session="back", slot=141) for _ in range(3)]
    ledger = world.after(world.after(ledger, back, slot=142), slot=143)
    ledger = after_day(world, ledger, 2)
    deposits = ledger.audits.deposits
    assert (deposits.held_wei, deposits.leaving_wei) == (FULL * PRICE, 0)
    assert ledger.credits == {PROVIDER: (50 + FULL + 50) * PRICE}
    balance(ledger, 600 * PRICE)


def test_a_deposit_that_was_never_full_stays_until_its_provider_has_filled_it() -> None:
    world = make_world()
    ledger = world.after(after_day(world, earned(world, 2), 1), slot=140)
    deposits = ledger.audits.deposits
    assert deposits.of(PROVIDER) == Deposit(Uint256(200 * PRICE), 0)
    assert (deposits.leaving_wei, deposits.calendar) == (0, {}), "a Sybil's single session would leave like that"
    back = session(world, day=1, session="back", slot=141)
    ledger = world.after(world.after(ledger, [back], slot=142), slot=143)
    ledger = world.after(after_day(world, ledger, 2), slot=270)
    assert ledger.audits.deposits.leaving_wei == FULL * PRICE
    ledger = after_day(world, ledger, 3)
    assert ledger.credits == {PROVIDER: 300 * PRICE}
    balance(ledger, 300 * PRICE)


def test_a_forfeited_deposit_has_to_be_filled_again() -> None:
    params = make_world().terms.params
    draft = DepositDraft(Deposits(), params, 50, price_wei=1)
    draft.note(PROVIDER)
    assert (draft.fill(PROVIDER, 260), draft.forfeit(PROVIDER), draft.forfeit(PROVIDER)) == (10, 250, 0)
    draft.fill(PROVIDER, 249)
    after, _ = draft.close(0)
    assert after.of(PROVIDER) == Deposit(Uint256(249), part_of(50, params), is_full=False)
    later, _ = DepositDraft(after, params, 50 + 2 * WAITS, price_wei=1).close(0)
    assert (later.held_wei, later.leaving_wei) == (249, 0)


def test_many_leave_in_the_order_in_which_they_left_a_tenth_of_a_budget_a_day() -> None:
    params = make_world().terms.params
    leaving: dict[int, Any] = {
        7: Trie.of({address("b"): Uint256(30), address("a"): Uint256(30)}),
        5: Trie.of({address("c"): Uint256(50)}),
    }
    held = Deposits(leaving_wei=Uint256(110), leaving=dict(sorted(leaving.items())))
    first, paid = DepositDraft(held, params, 9, 1).close(60)
    low, high = sorted((address("a"), address("b")))
    assert paid == {address("c"): 50, low: 10}
    assert (first.leaving_wei, dict(first.leaving[7])) == (50, {low: 20, high: 30})
    second, paid = DepositDraft(first, params, 9, 1).close(50)
    assert (second, paid) == (Deposits(held=second.held), {low: 20, high: 30})
    assert RELEASE_PERCENT == 10


def test_a_tenth_of_the_budget_bounds_what_leaves_on_a_day() -> None:
    world = make_world(deposit_tokens=400, budget_policy="emission")
    world.budget_wei = 500 * PRICE
    ledger = earned(world, 4, allowance=500)
    ledger = world.after(after_day(world, ledger, 1), slot=140)
    assert ledger.audits.deposits.leaving_wei == 400 * PRICE
    world.budget_wei = 500 * PRICE
    for day, left in ((2, 350), (3, 300)):
        ledger = world.after(ledger, slot=day * 100, opening=world.opening(day))
        assert ledger.audits.deposits.leaving_wei == left * PRICE
        assert ledger.credits == {PROVIDER: (400 - left) * PRICE}
        balance(ledger, 400 * PRICE)


def test_days_without_a_batch_pay_nobody_twice() -> None:
    world = make_world()
    ledger = world.after(after_day(world, earned(world, 3), 1), slot=140)
    ledger = after_day(world, ledger, 9)
    assert ledger.credits == {PROVIDER: 300 * PRICE}
    assert {day: account.released_wei for day, account in ledger.days.items()} == {8: 0, 9: FULL * PRICE}


# The state.


def test_deposits_are_in_the_state_root_and_in_snapshots() -> None:
    world = make_world()
    ledger = after_day(world, earned(world, 3), 1)
    other = world.after(ledger, [session(world, provider="late", day=1, session="late", slot=100)], slot=101)
    ledger = world.after(world.after(other, slot=102), slot=140)
    deposits = ledger.audits.deposits
    assert all((deposits.held, deposits.calendar, deposits.leaving))
    copied = decode_ledger(encode_ledger(ledger))
    assert copied == ledger
    assert state_root(copied) == state_root(ledger)
    header, body, _ = world.propose(ledger, slot=200, opening=world.opening(2))
    assert world.apply(copied, header, body) == world.apply(ledger, header, body)
    ((part, listed),) = deposits.calendar.items()
    changed = [
        replace(deposits, held_wei=Uint256(1)),
        replace(deposits, leaving_wei=Uint256(1)),
        replace(deposits, held={}),
        replace(deposits, held={**deposits.held, PROVIDER: Deposit(Uint256(1), 1)}),
        replace(deposits, calendar={}),
        replace(deposits, calendar={part + 1: listed}),
        replace(deposits, leaving={}),
        replace(deposits, leaving=deposits.calendar),
    ]
    roots = {state_root(replace(ledger, audits=replace(ledger.audits, deposits=one))) for one in changed}
    assert len(roots | {state_root(ledger)}) == len(changed) + 1


def test_a_batch_that_pays_more_than_was_released_is_refused() -> None:
    world = make_world()
    ledger = world.after(after_day(world, earned(world, 3), 1), slot=140)
    header, body, _ = world.propose(ledger, slot=200, opening=world.opening(2))
    false = replace(header, total_credited=Uint256(header.total_credited + 1))
    with pytest.raises(BatchInvalid, match="total_credited"):
        apply_batch(ledger, world.terms, false, body)


def test_the_calendar_has_few_parts_and_is_never_early() -> None:
    params = NetworkParams()
    parts = {part_of(slot, params) for slot in range(params.deposit_slots)}
    assert len(parts) <= PARTS + 1
    for slot in (0, 1, 224, 225, 14_399):
        assert 0 < release_slot(part_of(slot, params), params) - slot - params.deposit_slots <= 225
    assert params.deposit_slots > params.settle_window_slots + params.audit_slots
