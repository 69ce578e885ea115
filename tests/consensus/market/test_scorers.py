"""Who is picked and who scores (S8): long sessions in proportion, scorers by what they have been credited."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from consensus.market.explain_opinions import explain_credit
from consensus.market.opinions import (
    MAX_OFFERS,
    SCORERS,
    TYPICAL_T,
    Offer,
    draw_scorers,
    is_picked,
    needs_two,
    with_offer,
)
from consensus.params import NetworkParams
from contracts.typed_data import Address, Digest
from tests.consensus.builders import PRICE, World, address, make_terms, named_digest

PARAMS = NetworkParams()
BEACON = named_digest("beacon")
WINDOW = PARAMS.settle_window_slots


def tickets(count: int) -> list[Digest]:
    return [named_digest(f"ticket {number}") for number in range(count)]


def credit_of(**credits: int) -> Callable[[Address], int]:
    by_address = {address(name): wei for name, wei in credits.items()}
    return lambda provider: by_address.get(provider, 0)


def offers_of(*names: str, slot: int = 0) -> tuple[Offer, ...]:
    return tuple(sorted((Offer(address(name), PRICE, slot) for name in names), key=lambda offer: offer.provider))


def drawn(lot: Digest, offers: tuple[Offer, ...], credits: Callable[[Address], int]) -> list[Address]:
    found = draw_scorers(BEACON, lot, address("served"), offers, oldest_slot=0, credit_of=credits)
    return [offer.provider for offer in found]


# Picks.


@pytest.mark.parametrize(
    ("tokens", "share"), [(1, 0.02), (TYPICAL_T, 0.02), (1_000, 0.04), (5_000, 0.2), (25_000, 1.0), (10**9, 1.0)]
)
def test_a_session_is_picked_in_proportion_to_what_it_is_above_a_typical_one(tokens: int, share: float) -> None:
    found = sum(is_picked(BEACON, ticket, tokens, PARAMS) for ticket in tickets(10_000))
    spread = 5 * (share * (1 - share) * 10_000) ** 0.5
    assert abs(found - 10_000 * share) <= spread


def test_who_is_picked_at_a_size_is_picked_at_every_larger_one() -> None:
    for ticket in tickets(500):
        picked = [is_picked(BEACON, ticket, tokens, PARAMS) for tokens in (1, 500, 501, 2_000, 10_000, 25_000)]
        assert picked == sorted(picked)


@pytest.mark.parametrize("tokens", [100, 500, 700, 5_000, 24_999, 40_000])
def test_however_a_cheat_cuts_its_sessions_it_gets_to_25_000_t_at_most(tokens: int) -> None:
    share = min(1.0, PARAMS.audit_bps * max(TYPICAL_T, tokens) / (10_000 * TYPICAL_T))
    before_first_pick = tokens * (1 - share) / share  # the mean of a geometric draw
    assert before_first_pick <= 25_000


def test_nobody_or_everybody_is_picked_where_a_network_says_so() -> None:
    for bps, expected in ((0, False), (10_000, True)):
        params = replace(PARAMS, audit_bps=bps)
        assert {is_picked(BEACON, ticket, 10**6 if bps == 0 else 1, params) for ticket in tickets(50)} == {expected}


# Scorers.


def test_scorers_are_drawn_by_credit_and_not_by_address() -> None:
    offers = offers_of("a", "b", "c", *(f"sybil {number}" for number in range(60)))
    weights = credit_of(a=60, b=30, c=10)
    first = Counter(drawn(lot, offers, weights)[0] for lot in tickets(2_000))
    assert set(first) == {address(name) for name in "abc"}
    for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        assert abs(first[address(name)] - 2_000 * share) < 5 * (2_000 * share * (1 - share)) ** 0.5
    assert all(len(set(drawn(lot, offers, weights))) == SCORERS for lot in tickets(200))


def test_splitting_credit_over_addresses_gains_nothing() -> None:
    names = [f"part {number}" for number in range(30)]
    offers = offers_of("honest", *names)
    weights = credit_of(honest=300, **dict.fromkeys(names, 10))
    firsts = sum(drawn(lot, offers, weights)[0] == address("honest") for lot in tickets(2_000))
    assert 900 < firsts < 1_100


def test_who_has_no_credit_scores_only_where_nobody_else_has_any() -> None:
    offers = offers_of("a", "b", "served")
    assert drawn(named_digest("t"), offers, credit_of(a=1, served=10**30)) == [address("a")]
    alone = credit_of(served=10**30)
    assert {drawn(lot, offers, alone)[0] for lot in tickets(50)} == {address("a"), address("b")}
    assert sorted(drawn(named_digest("t"), offers, alone)) == sorted((address("a"), address("b")))


@pytest.mark.seed(1)
def test_a_draw_is_the_readable_one_and_follows_beacon_and_ticket(chance: random.Random) -> None:
    names = [f"p{number}" for number in range(MAX_OFFERS)]
    weights = credit_of(**{name: chance.choice((0, 1, chance.randrange(2**80))) for name in names})
    offers = offers_of(*names)
    lots = tickets(30)
    assert [drawn(lot, offers, weights) for lot in lots] == [drawn(lot, offers, weights) for lot in lots]
    assert len({tuple(drawn(lot, offers, weights)) for lot in lots}) > 10
    for lot in lots:
        assert all(weights(who) for who in drawn(lot, offers, weights))


def test_offers_that_no_longer_count_are_not_drawn() -> None:
    offers = (*offers_of("gone", slot=3), *offers_of("a", slot=9))
    found = draw_scorers(
        BEACON, named_digest("t"), address("served"), offers, oldest_slot=4, credit_of=credit_of(gone=5, a=1)
    )
    assert [offer.provider for offer in found] == [address("a")]


# Who is remembered.


def test_new_addresses_push_out_nobody_that_was_paid() -> None:
    world, params = World(), make_terms().params
    paid = [f"paid {number}" for number in range(MAX_OFFERS - 1)]
    offers = (*offers_of(*paid, slot=5), *offers_of("unpaid", slot=9))
    weights = credit_of(**dict.fromkeys(paid, 1))
    sybil = world.bid("sybil", scores=True).payload
    crowded = with_offer(offers, sybil, 10, params, weights)
    assert {offer.provider for offer in crowded} == {address(name) for name in (*paid, "sybil")}
    full = with_offer(crowded, world.bid("rich", scores=True).payload, 11, params, lambda who: who != address("sybil"))
    assert address("rich") in {offer.provider for offer in full}
    assert address("sybil") not in {offer.provider for offer in full}
    everybody_else = credit_of(**dict.fromkeys([*paid, "rich"], 1))
    assert with_offer(full, sybil, 12, params, everybody_else) is full, "who has least of all does not come in"


def test_who_no_longer_counts_makes_room_however_much_it_was_paid() -> None:
    world, params = World(), make_terms().params
    left = [f"left {number}" for number in range(MAX_OFFERS)]
    offers = offers_of(*left, slot=5)
    weights = credit_of(**dict.fromkeys(left, 10**20))
    bid = world.bid("newcomer", scores=True).payload
    assert with_offer(offers, bid, 5 + params.settle_window_slots, params, weights) is offers
    made = with_offer(offers, bid, 6 + params.settle_window_slots, params, weights)
    assert address("newcomer") in {offer.provider for offer in made}
    assert len(made) == MAX_OFFERS


# Very long sessions.


@pytest.mark.parametrize(("tokens", "said", "decision"), [(999, 1, "passed"), (1_000, 1, ""), (1_000, 2, "passed")])
def test_a_very_long_session_takes_two_of_a_kind(tokens: int, said: int, decision: str) -> None:
    world = World(make_terms(audit_slots=12, audit_bps=10_000))
    assert needs_two(tokens, world.terms.params) is (tokens == 1_000)
    rivals = [world.bid(name, scores=True) for name in "xyz"]
    made = world.settlement(tokens=tokens, token_max=tokens, rivals=rivals)
    ledger = world.after(world.after(world.ledger(), [made], slot=10), slot=11)
    ((ticket, pick),) = next(iter(ledger.audits.picks.values())).items()
    told = explain_credit(ledger, world.terms.params, ticket, (pick.provider, pick.session_key), 11)
    assert any("two of a kind are asked for" in line for line in told) is (tokens == 1_000)
    names = {address(name): name for name in "xyz"}
    for offer in pick.scorers[:said]:
        opinion = world.opinion(names[offer.provider], ticket, tokens=tokens)
        ledger = world.after(ledger, slot=ledger.slot + 1, opinions=[opinion])
    found = ledger.audits.pick(ticket)
    assert found is not None
    assert (found.decision, len(found.given)) == (decision, said)
    ledger = world.after(ledger, slot=40)
    assert ledger.credits[address("provider")] == tokens * PRICE, "where nobody else speaks, one Pass is a Pass"


def test_the_default_asks_two_of_a_kind_from_50_000_t_on() -> None:
    assert [needs_two(tokens, PARAMS) for tokens in (500, 49_999, 50_000)] == [False, False, True]
