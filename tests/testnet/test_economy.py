"""The agent simulation: its day is the ledger's day, a seed is a run, and the bounds are where they are said to be."""

import random
from collections import Counter
from dataclasses import replace as changed

import pytest
from msgspec.structs import replace

from consensus.market import access
from consensus.market.day_account import next_reference_price
from consensus.market.ledger import Draft
from consensus.market.ledger_state import genesis_ledger
from consensus.market.settlement import certified_ids
from contracts.typed_data import ZERO_DIGEST
from testnet.economy.attacks import STRATEGIES, honest
from testnet.economy.bounds import PROPOSED, TODAY, Outcome, play
from testnet.economy.market_day import Offer, allocate
from testnet.economy.population import name, standing
from testnet.economy.rules import (
    Cut,
    Flow,
    Proposals,
    Rules,
    charged_worth,
    compute_found_out,
    compute_kept,
    settle_flows,
)
from testnet.economy.simulation import Setup, Simulation
from tests.consensus.builders import MODEL, PRICE, WEI, World, address, make_terms

SMALL = Setup(days=20, users=60, providers=30)
DEAR = WEI // 100 // 1_200
"""The reference price of a day on which 1 % of 1 MOR buys 1,200 T."""
BUDGET_WEI = 4_000 * DEAR


@pytest.mark.seed(1)
@pytest.mark.parametrize("percent", [0, 1])
def test_a_day_of_flows_is_settled_as_the_ledger_settles_its_sessions(chance: random.Random, percent: int) -> None:
    # each bound alone: where both bind in one flow its arithmetic may be a session off
    terms = make_terms(audit_slots=0, min_providers=1, pair_percent=100 if percent else 50, earnings_percent=percent)
    balances = {address(f"provider {n}"): WEI for n in range(3)}
    ranks = {f"provider {n}": access.rank(WEI) for n in range(3)}
    world = World(terms=terms, budget_wei=BUDGET_WEI, ranks=ranks if percent else {})
    ledger = genesis_ledger(terms, world.committee, world.opening(), DEAR, (), models=(MODEL,))
    draft, flows, reasons = Draft(ledger, terms, 10), list[Flow](), Counter[str]()
    for _ in range(12):
        session, provider = f"session {chance.randrange(3)}", f"provider {chance.randrange(3)}"
        price = DEAR * chance.choice((80, 100, 130, 200)) // 100
        flow = Flow(
            address(session), address(provider), 1_200, price, chance.randrange(1, 6), 90, passed=chance.random() < 0.8
        )
        made = [
            world.settlement(
                session=session, provider=provider, tokens=90, price_wei=price, passed=flow.passed, allowance=1_200
            )
            for _ in range(flow.sessions)
        ]
        if sum(one.sessions * 90 for one in flows if one.session_key == flow.session_key) + 450 > 1_200:
            continue
        flows.append(flow)
        reasons.update(draft.settle(one, certified_ids(one, terms)).reason for one in made)
    after = draft.close(ZERO_DIGEST)
    paid = settle_flows(flows, ledger.account, terms.params, balances)
    assert {who: wei for who, wei in paid.wei.items() if wei} == dict(after.credits)
    assert (paid.credited_t, paid.credited_wei) == (after.account.credited_t, after.account.credited_wei)
    assert {word: count for word, count in reasons.items() if word != "credited"} == paid.refused
    day = replace(ledger.account, credited_t=paid.credited_t, credited_wei=paid.credited_wei)
    assert next_reference_price(day, terms.params) == next_reference_price(after.account, terms.params)


def test_demand_goes_to_the_cheapest_band_evenly_and_nobody_gets_more_than_its_share_of_a_pass() -> None:
    params = make_terms(min_providers=2, pair_percent=50, tie_percent=5).params
    prices = {"a": 100, "b": 104, "c": 120, "d": 300}
    offers = [Offer(standing(name(who), 0, price), 600) for who, price in prices.items()]
    sold = allocate(offers, 1_000, 200, params, {})
    assert sold == {name("a"): 500, name("b"): 500}
    sold = allocate(offers[:1] + offers[2:], 1_000, 200, params, {})
    assert sold == {name("a"): 500, name("c"): 500}
    assert allocate(offers[:1], 1_000, 200, params, {}) == {}, "one provider alone is not payable"
    assert allocate(offers, 1_000, 200, params, {name("a"): 50}) == {name("b"): 500, name("c"): 500}


def test_who_computes_nothing_is_found_out_as_far_as_others_score() -> None:
    params = TODAY.params
    assert compute_found_out(10, 0, 500, params) == 0.0
    assert compute_found_out(0, 3, 500, params) == 1.0
    assert 0.0 < compute_found_out(30, 3, 500, params) < compute_found_out(3, 30, 500, params) < 1.0
    long = compute_found_out(10, 90, 50_000, params)
    assert 0.85 < compute_found_out(10, 90, 49_999, params) < 0.95 < long, "one friend is not enough for a long one"


def test_a_deposit_takes_from_sybils_what_neither_pairs_nor_windows_do() -> None:
    params, thin = TODAY.params, Cut(10**6, 500, 64_000, 5_000)
    assert compute_kept(thin, 0.0, params) == 1.0
    without = replace(params, deposit_tokens=0, forfeits="pair")
    assert compute_kept(thin, 1.0, without) > 0.95, "spread thin enough, a pair has nothing to forfeit"
    assert compute_kept(thin, 1.0, replace(params, deposit_tokens=0)) > 0.7, "nor has a provider in a window"
    assert compute_kept(thin, 1.0, params) < 1e-5
    few = changed(thin, sessions=5_000)
    assert compute_kept(few, 1.0, params) < 1e-5, "one session each gets nobody a deposit back"
    for tokens in (100, 500, 5_000, 25_000, 100_000, 400_000):
        cut = changed(thin, tokens=tokens, sessions=10**8 // tokens)
        found_out = compute_found_out(10, 90, tokens, params)
        assert compute_kept(cut, found_out, params) < 0.03, "however it cuts them, a tenth of the scorers its friends"
    assert compute_kept(changed(thin, dearness=2.0), 1.0, params) < 0.003, "dear sessions fill it with half of the T"


def test_what_fails_windows_and_samples_cost_an_attacker() -> None:
    """By the ledger's and the desk's own functions: nothing is free, and nobody is slowed all day."""
    withheld = Simulation(SMALL, STRATEGIES["withholding"]).run()
    assert withheld.profit == [0] * SMALL.days
    base, poisoned = (Simulation(SMALL, one).run() for one in (honest, STRATEGIES["latency-poisoning"]))
    assert sum(poisoned.honest_profit) > sum(base.honest_profit) // 2


def test_quota_by_worth_charges_what_is_dearer_than_the_reference() -> None:
    by_worth = Proposals(charge_worth=True)
    assert charged_worth(100, 2 * PRICE, PRICE, Proposals()) == 100
    assert charged_worth(100, 2 * PRICE, PRICE, by_worth) == 200
    assert charged_worth(100, PRICE - 1, PRICE, by_worth) == 100
    assert charged_worth(1, PRICE + 1, PRICE, by_worth) == 2


def test_a_seed_is_a_run() -> None:
    one, again = (Simulation(SMALL, STRATEGIES["latency-poisoning"]).run() for _ in range(2))
    assert one == again
    assert Simulation(changed(SMALL, seed=2), honest).run() != Simulation(SMALL, honest).run()


def test_no_day_spends_more_than_its_budget_and_prices_move_in_steps() -> None:
    days = Simulation(SMALL, STRATEGIES["wash-idle"]).run()
    assert all(spent <= budget for spent, budget in zip(days.spent, days.budget, strict=True))
    steps = zip(days.reference, days.reference[1:], strict=False)
    assert all(before * 90 // 100 <= after <= before * 110 // 100 for before, after in steps)
    assert all(0 < served <= 1 for served in days.served)


def test_todays_rules_break_where_it_is_said_and_the_proposed_ones_hold() -> None:
    def broken(rules_outcomes: list[Outcome]) -> set[str]:
        return {one.name for one in rules_outcomes if one.broken}

    own_models = {"wash-computing", "wash-idle", "sybil-users", "sybil-providers", "colluding-opinions"}
    today = broken(play(changed(SMALL, rules=TODAY), tuple(STRATEGIES)))
    assert today == set(), "nobody is paid on a model of its own, and nothing else is left"
    without_list = Rules(replace(TODAY.params, listed_models=False))
    assert own_models <= broken(play(changed(SMALL, rules=without_list), tuple(STRATEGIES)))
    assert broken(play(changed(SMALL, rules=PROPOSED), tuple(STRATEGIES))) == set()
