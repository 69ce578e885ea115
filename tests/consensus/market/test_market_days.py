"""What a day opens with: providers' ranks for the variant of S44, and the numbers of days without any batch."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.market import access
from consensus.market.budget import compute_budget
from consensus.market.errors import BatchInvalid
from consensus.market.ledger import settle
from consensus.market.ledger_state import Ledger, account_of, decode_ledger, encode_ledger, state_root
from consensus.market.settlement import verify_settlement
from contracts.budget import BudgetGate
from contracts.typed_data import Uint256
from gossip.errors import MalformedMessage
from gossip.messages.base import decode, encode
from gossip.messages.committee import MAX_RANK, DayOpening, ProviderRank
from gossip.messages.session import Settlement
from tests.consensus.builders import PRICE, WEI, World, address, make_terms

USER_RANK = access.rank(256 * WEI)


def variant(**ranks: int) -> World:
    return World(make_terms(withhold_only_if_user_richer=True), ranks=ranks)


def reason(world: World, ledger: Ledger, settlement: Settlement, slot: int = 10) -> str:
    return settle(ledger, settlement, verify_settlement(settlement, world.terms), slot, world.terms).reason


def fail(world: World, **changes: Any) -> Settlement:
    return world.settlement(**({"passed": False, "priority": USER_RANK} | changes))


# The variant of S44.


@pytest.mark.parametrize(("provider_mor", "expected"), [(0, "failed"), (255, "failed"), (256, "credited")])
def test_s44_the_variant_withholds_only_from_who_holds_less(provider_mor: int, expected: str) -> None:
    """The user's pass has rank 10: 256 to 511 MOR. A provider of the same rank or above is paid despite the Fail."""
    rank = access.rank(provider_mor * WEI)
    world = variant(provider=rank) if rank else variant()
    assert reason(world, world.ledger(), fail(world)) == expected
    unlisted = fail(world, provider="newcomer")
    assert reason(world, world.ledger(), unlisted) == "failed", "whoever isn't listed holds nothing"


def test_s44_without_the_variant_no_opening_tells_ranks() -> None:
    world = World()
    assert reason(world, world.ledger(), fail(world, priority=1)) == "failed"
    rich = (ProviderRank(address("provider"), 90),)
    with pytest.raises(BatchInvalid, match="opening_ranks"):
        world.after(world.ledger(), slot=100, opening=world.opening(1, ranks=rich))
    plain = world.ledger()
    assert (plain.ranks, world.after(plain, slot=100).ranks) == ({}, {})


def test_s44_a_fail_is_judged_by_the_ranks_of_its_tickets_day() -> None:
    """A provider that sells its MOR at night is no poorer for what it served before."""
    world = variant(provider=USER_RANK)
    ledger = world.after(world.ledger(), slot=90)
    poor = (ProviderRank(address("provider"), USER_RANK - 1),)
    after = world.after(ledger, slot=101, opening=world.opening(1, ranks=poor))
    late, new = fail(world, slot=95), fail(world, session="new", slot=102)
    assert reason(world, after, late, 110) == "credited"
    assert reason(world, after, new, 110) == "failed"
    assert set(world.after(after, slot=250).ranks) == {1, 2}, "what no ticket needs any more is forgotten"


def test_s44_ranks_carry_over_with_the_snapshot() -> None:
    """An outage, or a day without any batch: the balances known last go on counting; newcomers may be added."""
    world = variant(provider=USER_RANK)
    ledger = world.after(world.ledger(), slot=5)
    same = replace(world.opening(1), snapshot_block=ledger.account.snapshot_block)
    added = (ProviderRank(address("newcomer"), USER_RANK),)
    carried = world.after(ledger, slot=100, opening=replace(same, ranks=()))
    joined = world.after(ledger, slot=100, opening=replace(same, ranks=added))
    for after, newcomer in ((carried, "failed"), (joined, "credited")):
        assert reason(world, after, fail(world, slot=101), 110) == "credited"
        assert reason(world, after, fail(world, slot=101, provider="newcomer"), 110) == newcomer
    fresh = world.after(ledger, slot=100, opening=world.opening(1, ranks=added))
    assert reason(world, fresh, fail(world, slot=101), 110) == "failed", "a new snapshot starts anew"
    assert state_root(joined) != state_root(carried), "ranks are part of the state"


def test_s44_skipped_days_keep_the_ranks_of_their_snapshot() -> None:
    world = World(make_terms(withhold_only_if_user_richer=True, settle_window_slots=300), ranks={"provider": USER_RANK})
    after = world.after(world.ledger(), slot=205, opening=world.opening(2, ranks=()))
    assert [dict(after.ranks[day]) for day in (0, 1, 2)] == [{address("provider"): USER_RANK}] * 2 + [{}]


def test_ranks_are_sorted_and_once_each() -> None:
    world = variant()
    ranks = sorted((ProviderRank(address(name), 3) for name in ("a", "b")), key=lambda one: one.provider)
    assert len(world.after(world.ledger(), slot=100, opening=world.opening(1, ranks=tuple(ranks))).ranks[1]) == 2
    for bad in (ranks[::-1], [ranks[0], ranks[0]]):
        with pytest.raises(BatchInvalid, match="opening_ranks"):
            world.after(world.ledger(), slot=100, opening=world.opening(1, ranks=tuple(bad)))


def test_a_rank_out_of_range_is_no_message() -> None:
    opening = DayOpening(1, 2, Uint256(3), Uint256(4), ranks=(ProviderRank(address("provider"), MAX_RANK),))
    assert decode(DayOpening, encode(opening)) == opening
    assert access.rank(2**256) <= MAX_RANK
    for rank in (0, MAX_RANK + 1):
        with pytest.raises(MalformedMessage):
            decode(DayOpening, encode(replace(opening, ranks=(ProviderRank(address("provider"), rank),))))


def test_a_snapshot_with_ranks_reads_back() -> None:
    world = variant(**{f"p{number}": number + 1 for number in range(40)})
    ledger = world.after(world.ledger(), [fail(world)], slot=10)
    assert decode_ledger(encode_ledger(ledger)) == ledger
    assert state_root(decode_ledger(encode_ledger(ledger))) == state_root(ledger)


# Days without any batch.


def test_a_day_without_a_batch_opens_with_its_own_numbers() -> None:
    world = World(make_terms(settle_window_slots=400, endowment_mor=100_000))
    ledger = world.after(world.ledger(), [world.settlement(tokens=200, price_wei=PRICE * 105 // 100)], slot=10)
    after = world.after(ledger, slot=305, opening=world.opening(3))
    spent, paid = 200 * PRICE * 105 // 100, world.budget_wei
    for day in (1, 2):
        account = after.days[day]
        assert account.paid_before_wei == paid, "the days before may still pay the rest of their budgets late"
        assert account.budget_wei == compute_budget(day, paid, world.terms) != after.days[day - 1].budget_wei
        paid += int(account.budget_wei)
    assert after.days[3].paid_before_wei == paid
    first, second = after.days[1], after.days[2]
    assert (first.before_t, first.before_wei, first.before_price_wei) == (200, spent, PRICE)
    assert (second.before_t, second.before_wei) == (0, 0), "its own day before is the skipped one"
    assert second.reference_price_wei == first.reference_price_wei == PRICE * 105 // 100


def test_what_routers_look_ahead_to_is_what_a_skipped_day_opens_with() -> None:
    world = World(make_terms(settle_window_slots=400, endowment_mor=100_000))
    ledger = world.after(world.ledger(), [world.settlement()], slot=10)
    after = world.after(ledger, slot=205, opening=world.opening(2))
    assert after.days[1] == account_of(ledger, world.terms, 1)


def test_a_ticket_of_a_day_without_a_batch_is_paid_from_that_days_budget() -> None:
    world = World(make_terms(settle_window_slots=150, endowment_mor=100_000))
    account = account_of(world.ledger(), world.terms, 1)
    after = world.after(world.ledger(), [world.settlement(slot=120, tokens=100)], slot=205, opening=world.opening(2))
    assert after.outcomes[0].reason == "credited"
    assert after.days[1].budget_left_wei == account.budget_wei - 100 * PRICE
    assert after.days[2].credited_wei == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 100)), min_size=1, max_size=25),
    st.sampled_from(["emission", "pool"]),
    st.sampled_from([0, 1, 100_000]),
)
def test_s23_the_contract_takes_every_budget_whatever_days_were_skipped(
    days: list[tuple[int, int]], policy: str, endowment_mor: int
) -> None:
    """The ledger's openings against the contract's twin: whatever of its budget a day spends, no batch is refused."""
    world = World(make_terms(budget_policy=policy, endowment_mor=endowment_mor, settle_window_slots=100))
    terms = world.terms
    start = DayOpening(0, 100, Uint256(10**25), Uint256(max(1, terms.economics.budget(0, 0))))
    ledger = replace(world.ledger(), days={0: replace(world.ledger().account, budget_wei=start.budget_wei)})
    gate, day = BudgetGate(terms.economics), 0
    for leap, percent in days:
        day += leap
        account = account_of(ledger, terms, day)
        spent = int(account.budget_wei) * percent // 100
        ledger = world.after(ledger, slot=day * 100, opening=DayOpening(day, 100, Uint256(10**25), account.budget_wei))
        opened = replace(
            ledger.account,
            credited_wei=Uint256(spent),
            credited_t=Uint256(spent // PRICE),
        )
        total = Uint256(ledger.total_credited + spent)
        ledger = replace(ledger, days={**ledger.days, day: opened}, total_credited=total)
        market = int(total) - int(ledger.bootstrap_credited)
        assert gate.objection(day, market, 0) is None
        assert terms.economics.unused(day + 1, market) <= terms.economics.income(day + 1)
