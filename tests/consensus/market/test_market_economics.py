"""The day's numbers: vectors against formulas in fractions, the bootstrap reserve, budgets, and what explains them."""

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market.bootstrap import bootstrap_reserve, bootstrap_shares, leaders, reserve_until
from consensus.market.budget import compute_budget, market_credit
from consensus.market.ledger_state import state_root
from consensus.params import NetworkParams
from contracts.emission import daily_budget
from contracts.errors import ContractsError
from contracts.typed_data import Address
from tests.consensus.builders import PRICE, World, address, make_terms
from tests.consensus.market import economics_vectors
from tests.consensus.market.economics_vectors import ENDOWMENT_MOR, terms_of

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(economics_vectors.PATH.read_text(encoding="utf-8"))


def test_the_vectors_are_what_the_code_says(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert economics_vectors.main(["--check"]) == 0
    monkeypatch.setattr(economics_vectors, "PATH", tmp_path / "economics.json")
    assert economics_vectors.main([]) == 0
    assert json.loads(economics_vectors.PATH.read_text()) == VECTORS
    economics_vectors.PATH.write_text("{}")
    assert economics_vectors.main(["--check"]) == 1


# The vectors against the demands' own words, in fractions.


def test_s39_is_the_sources_example() -> None:
    (first, *_), (dollars, *_) = VECTORS["access"], VECTORS["dollars"]
    assert dollars["max_t"] == first["max_t"] == "30000000000"
    assert first["access_rate"] == "3000"
    assert [holder["user_max"] for holder in first["holders"][:2]] == ["15000", "1500000"]


@pytest.mark.parametrize("case", VECTORS["access"])
def test_s38_access(case: dict[str, Any]) -> None:
    most = int(Fraction(int(case["budget_wei"]), int(case["reference_price_wei"])))
    rate = Fraction(most * 10**18, int(case["supply_wei"]))
    assert (int(case["max_t"]), int(case["access_rate"])) == (most, int(rate))
    for holder in case["holders"]:
        assert int(holder["user_max"]) == int(Fraction(most, int(case["supply_wei"])) * int(holder["balance_wei"]))


@pytest.mark.parametrize("case", VECTORS["reference_price"])
def test_the_reference_price_is_the_mean_within_a_step(case: dict[str, Any]) -> None:
    old, tokens = Fraction(case["reference_price_wei"]), int(case["credited_t"])
    mean = Fraction(int(case["credited_wei"]), tokens) if tokens else old
    step = Fraction(case["step_percent"], 100)
    bounded = min(max(mean, old * (1 - step)), old * (1 + step))
    assert abs(int(case["next_wei"]) - bounded) < 1
    assert int(case["next_wei"]) >= 1


@pytest.mark.parametrize("case", VECTORS["budget"])
def test_s23_s37_budgets(case: dict[str, Any]) -> None:
    def to_the_pool(day: int) -> int:
        """A day's emission; in the first year a tenth of it is the bootstrap's."""
        emitted = max(0, 3_456 * 10**18 - day * 592_558_728_240_000_000)
        return emitted - emitted // 10 if day < 365 else emitted

    day = case["day"]
    income = ENDOWMENT_MOR * 10**18 + sum(map(to_the_pool, range(day)))
    unused = max(0, income - int(case["credited_wei"]))
    wanted = daily_budget(day) if case["policy"] == "emission" else unused // 100
    assert int(case["budget_wei"]) == min(wanted, to_the_pool(day) + unused // 100, unused)


@pytest.mark.parametrize("case", VECTORS["speed"])
def test_s31_speed(case: dict[str, Any]) -> None:
    samples = case["samples_us_per_t"]
    median = sorted(samples)[(len(samples) - 1) // 2]
    counted = [min(4 * median, max((median + 1) // 2, one)) for one in samples]
    limit = Fraction(sum(counted), len(samples)) * (1 + Fraction(case["speed_percent"], 100))
    assert case["us_per_t"] == case["last_ms"] * 1_000 // case["tokens"]
    assert case["passes"] == (len(samples) < case["speed_samples_min"] or case["us_per_t"] <= limit)


@pytest.mark.parametrize("case", VECTORS["bootstrap"])
def test_s24_bootstrap(case: dict[str, Any]) -> None:
    reserve = daily_budget(case["day"]) // 10 if case["day"] < 365 else 0
    ranked = sorted(((-int(wei), who) for who, wei in case["credited_wei"].items()))[: case["providers"]]
    total = -sum(wei for wei, _ in ranked)
    fair = {who: str(-wei * reserve // total) for wei, who in ranked if total and wei * reserve}
    assert int(case["reserve_wei"]) == reserve
    assert case["shares_wei"] == fair
    assert 0 <= reserve - sum(map(int, case["shares_wei"].values())) <= reserve


# The bootstrap reserve.


def test_s24_the_reserve_of_the_first_year_is_a_tenth_of_computes_emission() -> None:
    assert reserve_until(365, terms_of()) == 122_207_632_368_301_680_000_000
    assert reserve_until(10**6, terms_of()) == reserve_until(365, terms_of())
    assert bootstrap_reserve(0, terms_of()) == 345_600_000_000_000_000_000
    assert (bootstrap_reserve(364, terms_of()) > 0, bootstrap_reserve(365, terms_of())) == (True, 0)
    assert reserve_until(9, terms_of(bootstrap_days=0)) == 0


@settings(max_examples=100)
@given(
    st.dictionaries(st.integers(0, 40), st.integers(0, 10**22), max_size=30), st.integers(0, 364), st.integers(1, 12)
)
def test_s24_shares_are_pro_rata_and_never_more_than_the_reserve(
    credited: dict[int, int], day: int, providers: int
) -> None:
    params = NetworkParams(bootstrap_providers=providers)
    wei = {address(f"p{number}"): amount for number, amount in credited.items()}
    reserve = bootstrap_reserve(day, terms_of())
    shares = bootstrap_shares(wei, reserve, params)
    first = leaders(wei, params)
    assert len(first) == min(providers, len(wei))
    assert set(shares) <= {who for who, _ in first}
    total = sum(amount for _, amount in first)
    assert all(0 <= Fraction(reserve * wei[who], total) - share < 1 for who, share in shares.items())
    if total:
        assert 0 <= reserve - sum(shares.values()) < max(1, len(first))
    left_out = [amount for who, amount in wei.items() if who not in dict(first)]
    assert all(amount <= min(held for _, held in first) for amount in left_out)


def test_s24_equals_are_ranked_by_address() -> None:
    wei = {Address(bytes([number]) * 20): 5 for number in (9, 3, 7)}
    assert [who[0] for who, _ in leaders(wei, NetworkParams(bootstrap_providers=2))] == [3, 7]


def test_s24_the_first_batch_of_a_day_credits_the_leaders_of_the_day_before() -> None:
    world = World()
    pending = [world.settlement(provider="first", tokens=150), world.settlement(provider="second", tokens=50)]
    ledger = world.after(world.ledger(), pending)
    assert ledger.bootstrap_credited == 0
    assert sum(ledger.day_credits.values()) == 200 * PRICE
    header, body, _ = world.propose(ledger, slot=100)
    after = world.apply(ledger, header, body)
    reserve = daily_budget(0) // 10
    assert after.credits[address("first")] == 150 * PRICE + reserve * 3 // 4
    assert after.credits[address("second")] == 50 * PRICE + reserve // 4
    assert header.bootstrap_credited == after.bootstrap_credited == reserve
    assert header.total_credited == after.total_credited == 200 * PRICE + reserve
    assert not after.day_credits
    assert after.account.credited_wei == 0, "it is no part of any day's budget"
    again = world.after(after, slot=101)
    assert again.bootstrap_credited == after.bootstrap_credited
    late = world.after(again, slot=500)
    assert late.bootstrap_credited == after.bootstrap_credited, "a day without credits pays nobody"


def test_s24_the_year_ends() -> None:
    world = World(make_terms(bootstrap_days=1))
    ledger = world.after(world.ledger(), [world.settlement()], slot=10)
    ledger = world.after(ledger, [world.settlement(slot=101, session="tomorrow")], slot=105)
    paid = ledger.bootstrap_credited
    assert paid == daily_budget(0) // 10
    assert world.after(ledger, slot=200).bootstrap_credited == paid


# Budgets.


def test_s37_a_late_session_is_paid_from_its_own_days_budget() -> None:
    world = World(budget_wei=100 * PRICE)
    spent = world.after(world.ledger(), [world.settlement(tokens=60, allowance=100)], slot=90)
    late = [world.settlement(session=f"late {number}", slot=95, tokens=40, allowance=100) for number in range(2)]
    today = world.settlement(session="today", slot=101, tokens=100, allowance=100)
    after = world.after(spent, [*late, today], slot=105, opening=world.opening(1))
    assert [made.reason for made in after.outcomes] == ["credited", "budget_spent", "credited"]
    assert (after.days[0].budget_left_wei, after.days[1].budget_left_wei) == (0, 0)


def test_s23_what_may_still_be_paid_late_counts_as_paid() -> None:
    world = World(budget_wei=100 * PRICE)
    ledger = world.after(world.ledger(), [world.settlement(tokens=60, allowance=100)], slot=90)
    assert market_credit(ledger, world.terms, 1) == 100 * PRICE
    later = world.after(ledger, slot=150, opening=world.opening(1))
    assert market_credit(later, world.terms, 2) == 60 * PRICE + 100 * PRICE
    assert later.bootstrap_credited > 0, "which is left out"


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=60),
    st.sampled_from(["emission", "pool"]),
    st.sampled_from([0, 1, ENDOWMENT_MOR]),
)
def test_s23_s35_whatever_share_of_each_budget_is_spent(percents: list[int], policy: str, endowment_mor: int) -> None:
    terms, credited = terms_of(budget_policy=policy, endowment_mor=endowment_mor), 0
    for day, percent in enumerate(percents):
        pool, budget = terms.economics.unused(day, credited), compute_budget(day, credited, terms)
        credited += budget * percent // 100
        assert terms.economics.unused(day + 1, credited) >= pool - pool // 100 - 1
        assert credited <= terms.economics.income(day + 1)


def test_a_day_before_the_first_has_no_budget() -> None:
    with pytest.raises(ContractsError, match="-1"):
        compute_budget(-1, 0, terms_of())


def test_the_old_ledger_is_as_it_was_after_a_new_day() -> None:
    world = World()
    ledger = world.after(world.ledger(), [world.settlement(passed=False), world.settlement(session="second")])
    root = state_root(ledger)
    world.after(ledger, [world.settlement(slot=120)], slot=130)
    assert state_root(ledger) == root
    assert ledger.penalties == {address("provider"): 50}
