"""Transcripts that drawn scorers sign they cannot read (S8): no fault of the provider's, and no way out for a cheat."""

import itertools

import pytest

from consensus.market.explain_opinions import explain_credit
from consensus.market.ledger_state import Ledger, decode_ledger, encode_ledger, state_root
from consensus.market.opinions import CONVICTING, Offer, Pick, decide, with_opinion
from consensus.params import NetworkParams
from contracts.typed_data import ZERO_DIGEST, Address, Digest
from gossip.messages.base import Signed
from gossip.messages.opinions import UNREAD_GAP, Opinion
from tests.consensus.builders import PRICE, World, address
from tests.consensus.market.test_second_opinions import (
    balance,
    end_slot,
    make_world,
    names,
    opined,
    picked,
    session,
    ticket_of,
)


def unread(world: World, scorer: str, ticket_id: Digest) -> Signed[Opinion]:
    return world.opinion(scorer, ticket_id, passed=False, mean_gap=UNREAD_GAP, max_gap=UNREAD_GAP)


def unread_by_all(world: World, ledger: Ledger, pick: Pick) -> Ledger:
    ticket_id = ticket_of(ledger, pick)
    for name in names(pick):
        ledger = opined(world, ledger, unread(world, name, ticket_id))
    return ledger


def test_what_no_scorer_can_read_costs_its_provider_nothing_and_pays_no_scorer() -> None:
    world = make_world()
    ledger, (pick,) = picked(world)
    ticket_id = ticket_of(ledger, pick)
    ledger = unread_by_all(world, ledger, pick)
    found = ledger.audits.pick(ticket_id)
    assert found is not None
    assert (found.decision, [one.passed for one in found.given]) == ("unread", [None, None, None])
    assert state_root(decode_ledger(encode_ledger(ledger))) == state_root(ledger)
    told = explain_credit(ledger, world.terms.params, ticket_id, (pick.provider, pick.session_key), 11)
    assert sum("could not read it" in line for line in told) == 3
    assert any("no scorer could read it" in line for line in told)
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert ledger.credits == {address("provider"): 100 * PRICE}
    assert (ledger.audits.forfeited_wei, ledger.audits.opinions_wei, dict(ledger.penalties)) == (0, 0, {})
    balance(world, ledger, 100 * PRICE)


@pytest.mark.parametrize("said", [1, 2])
def test_a_scorer_that_it_was_not_opened_to_leaves_it_unheard(said: int) -> None:
    """An accomplice's word alone is worth nothing."""
    world = make_world()
    ledger, (pick,) = picked(world)
    ticket_id = ticket_of(ledger, pick)
    for name in names(pick)[:said]:
        ledger = opined(world, ledger, unread(world, name, ticket_id))
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert address("provider") not in ledger.credits
    assert ledger.audits.forfeited_wei == 100 * PRICE
    assert ledger.penalties == {address("provider"): 1}


@pytest.mark.parametrize(("passed", "is_paid"), [(True, True), (False, False)])
def test_one_that_can_read_it_decides(passed: bool, is_paid: bool) -> None:
    world = make_world()
    ledger, (pick,) = picked(world)
    ticket_id, (first, second, third) = ticket_of(ledger, pick), names(pick)
    ledger = opined(world, ledger, unread(world, first, ticket_id))
    ledger = opined(world, ledger, world.opinion(second, ticket_id, passed=passed))
    if not passed:
        ledger = opined(world, ledger, unread(world, third, ticket_id))
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert (ledger.credits.get(address("provider"), 0) > 0) is is_paid
    assert {address(first), address(second), address(third)} & ledger.credits.keys() == {address(second)}
    assert dict(ledger.penalties) == ({} if is_paid else {address("provider"): 1})


def test_it_holds_once_a_provider_and_window() -> None:
    world = make_world()
    others = session(world, provider="other")
    ledger, picks = picked(world, session(world), session(world), others)
    for pick in picks:
        ledger = unread_by_all(world, ledger, pick)
    decisions = [pick.decision for some in ledger.audits.picks.values() for pick in some.values()]
    assert sorted(decisions) == ["unheard", "unread", "unread"]
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert set(ledger.credits) == {address("other")}
    assert ledger.audits.forfeited_wei == 200 * PRICE
    ledger = world.after(ledger, [session(world, session="later", slot=ledger.slot)], slot=ledger.slot + 1)
    ledger = world.after(ledger, slot=ledger.slot + 1)
    (pick,) = [pick for some in ledger.audits.picks.values() for pick in some.values()]
    ledger = unread_by_all(world, ledger, pick)
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert ledger.credits[address("provider")] == 100 * PRICE, "a new window"


@pytest.mark.parametrize("tokens", [100, 10**6])
@pytest.mark.parametrize("drawn", [1, 2, 3])
def test_whoever_can_have_it_unread_could_have_had_it_passed(drawn: int, tokens: int) -> None:
    """Accomplices say what suits the cheat; of the others each says Fail, or nothing as it was not opened to it."""
    params = NetworkParams()
    scorers = tuple(Offer(Address(bytes([n]) * 20), 1, 0) for n in range(drawn))
    pick = Pick(Address(bytes(20)), Address(b"\xff" * 20), ZERO_DIGEST, ZERO_DIGEST, tokens, 0, scorers)

    def outcome(words: tuple[str, ...]) -> str:
        made = pick
        for scorer, word in zip(scorers, words, strict=True):
            if word != "silent" and not made.decision:
                gap = UNREAD_GAP if word == "unread" else 0
                opinion = Opinion(ZERO_DIGEST, ZERO_DIGEST, scorer.provider, tokens, gap, gap, word == "pass")
                made = with_opinion(made, opinion, params)
        return decide(made)

    seen = set()
    for words in itertools.product(("unread", "fail", "silent"), repeat=drawn):
        if outcome(words) not in CONVICTING:
            seen.add(words)
            assert outcome(tuple("pass" if word == "unread" else word for word in words)) == "passed"
    assert seen == {("unread",) * drawn}
