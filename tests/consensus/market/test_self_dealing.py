"""Bounds on who deals with itself (S8): independent providers, the cap of a pair, and of what a provider earns."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market import access
from consensus.market.errors import MatchInvalid, SettlementInvalid
from consensus.market.explain import explain_match
from consensus.market.ledger import settle
from consensus.market.ledger_state import Outcome, decode_ledger, encode_ledger, state_root
from consensus.market.matching import MatchContext, build_match, check_match
from consensus.market.pairs import pair_cap, pair_key
from consensus.market.rivals import draw_rivals, payable
from consensus.market.settlement import verify_settlement
from gossip.messages.base import Signed, Unit, sign
from gossip.messages.records import Bid
from gossip.messages.session import Settlement
from tests.consensus.builders import (
    OTHER_MODEL,
    PRICE,
    WEI,
    World,
    address,
    key,
    make_terms,
    named_digest,
)


def invalid(world: World, settlement: Settlement) -> str:
    with pytest.raises(SettlementInvalid) as refused:
        verify_settlement(settlement, world.terms)
    return refused.value.reason


def outcome(world: World, settlement: Settlement, **options: Any) -> Outcome:
    return settle(world.ledger(), settlement, verify_settlement(settlement, world.terms), 10, world.terms, **options)


# Independent providers.


@pytest.fixture
def three() -> World:
    """A network in which a model is payable with three providers."""
    return World(make_terms(min_providers=3))


def test_a_model_is_payable_only_with_enough_providers(three: World) -> None:
    rivals = [three.bid("second"), three.bid("third", price_wei=2 * PRICE)]
    assert outcome(three, three.settlement(rivals=rivals)).reason == "credited"
    for few in ([], rivals[:1]):
        assert invalid(three, three.settlement(rivals=few)) == "too_few_providers"
    assert outcome(World(), World().settlement()).reason == "credited", "one will do where the network says so"


def test_what_makes_no_rival_is_named(three: World) -> None:
    good, domain = three.bid("second"), three.domain
    bad: dict[str, list[Signed[Bid]]] = {
        "rival_twice": [good, good],
        "rival_model": [good, three.bid("third", model_id=OTHER_MODEL)],
        "rival_not_live": [good, three.bid("third", expires_ms=1)],
        "signature": [good, sign(three.bid("third").payload, key("stranger"), domain)],
    }
    found = {expected: invalid(three, three.settlement(rivals=rivals)) for expected, rivals in bad.items()}
    assert found == {name: name for name in bad}
    assert invalid(three, three.settlement(rivals=[good, three.bid("provider", sequence=2)])) == "rival_twice"
    assert invalid(three, three.settlement(rivals=[good, three.bid("x", slots=0)])) == "rival_not_live"
    assert invalid(three, three.settlement(rivals=[good, three.bid("x", unit=Unit.VIDEO_FRAME)])) == "rival_model"
    with pytest.raises(SettlementInvalid, match="rival_over_ceiling"):
        outcome(three, three.settlement(rivals=[good, three.bid("third", price_wei=2 * PRICE + 1)]))


def test_with_second_opinions_only_who_can_score_is_a_rival() -> None:
    world = World(make_terms(min_providers=2, audit_slots=10))
    assert invalid(world, world.settlement(rivals=[world.bid("second")])) == "rival_cannot_score"
    verify_settlement(world.settlement(rivals=[world.bid("second", scores=True)]), world.terms)
    lax = World(make_terms(min_providers=2, audit_slots=10, scores_required=False))
    verify_settlement(lax.settlement(rivals=[lax.bid("second")]), lax.terms)
    field = [world.standing("a"), world.standing("b", scores=True)]
    params = world.terms.params
    assert [one.bid.provider for one in payable(field, field, params)] == [address("a")]
    assert draw_rivals(address("b"), field, named_digest("draw"), params) == ()


def test_rivals_are_drawn_and_never_the_winner(three: World) -> None:
    field = [three.standing(name) for name in "abcdef"]
    params = three.terms.params
    seen = set()
    for number in range(60):
        drawn = draw_rivals(address("a"), field, named_digest(str(number)), params)
        assert len({one.bid.provider for one in drawn} - {address("a")}) == 2
        seen |= {one.bid.provider for one in drawn}
    assert seen == {address(name) for name in "bcdef"}
    assert payable(field[:2], field[:2], params) == ()
    assert payable(field[:3], field[:3], params) == tuple(field[:3])


def test_a_match_without_enough_rivals_is_exposed(three: World) -> None:
    slot, router = 5, three.router
    rfc = three.rfc()
    context = MatchContext(
        terms=three.terms,
        committee=three.committee,
        tip=three.ledger().commitments[0][router.address],
        ceiling_wei=2 * PRICE,
        beacons={named_digest("beacon"): {}},
        listing=three.ledger().listing,
    )
    winner = three.standing()

    def check(rivals: list[Signed[Bid]]) -> tuple[str, ...]:
        ticket = three.ticket(rfc, winner.signed, slot, rivals=tuple(rivals))
        made = build_match(
            ticket.payload,
            ticket.id(three.domain),
            beacon=named_digest("beacon"),
            secret=three.secret(router, slot),
            band=(winner,),
            unlive=(),
        )
        match = sign(made, router, three.domain)
        secret = three.secret(router, slot)
        lines = explain_match(match, ticket, rfc, secret, context)
        check_match(match, ticket, rfc, secret, context)
        return lines

    lines = check([three.bid("second"), three.bid("third")])
    assert any("other providers of the model: 0x" in line and "3 are needed" in line for line in lines)
    with pytest.raises(MatchInvalid, match="too_few_providers"):
        check([three.bid("second")])
    with pytest.raises(MatchInvalid, match="signature"):
        check([three.bid("second"), sign(three.bid("third").payload, key("stranger"), three.domain)])
    with pytest.raises(MatchInvalid, match="rival_over_ceiling"):
        check([three.bid("second"), three.bid("third", price_wei=3 * PRICE)])


# The cap of a pair.


def test_a_pair_is_credited_its_share_of_the_pass_and_no_more() -> None:
    world = World(make_terms(pair_percent=40))
    pending = [world.settlement(tokens=150, allowance=1_000) for _ in range(4)]
    ledger = world.after(world.ledger(), pending, slot=10)
    assert [made.tokens for made in ledger.outcomes] == [150, 150, 100, 0]
    assert [made.charged for made in ledger.outcomes] == [150] * 4
    assert ledger.outcomes[3].reason == "pair_capped"
    assert ledger.pairs[0][pair_key(address("session"), address("provider"))] == 400
    others = [
        world.settlement(tokens=200, allowance=1_000, provider="another"),
        world.settlement(tokens=200, allowance=1_000, session="second"),
        world.settlement(tokens=200, allowance=1_000),
    ]
    ledger = world.after(ledger, others, slot=20)
    assert [made.tokens for made in ledger.outcomes] == [200, 200, 0]
    assert decode_ledger(encode_ledger(ledger)) == ledger
    assert state_root(decode_ledger(encode_ledger(ledger))) == state_root(ledger)
    assert not world.after(ledger, slot=250).pairs


def test_without_a_cap_pairs_are_not_counted() -> None:
    world = World()
    ledger = world.after(world.ledger(), [world.settlement(tokens=200, allowance=200)])
    assert (ledger.outcomes[0].tokens, ledger.pairs) == (200, {})


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 300)), max_size=25), st.integers(1, 99))
@settings(max_examples=30, deadline=None)
def test_no_pair_is_ever_over_its_cap(sessions: list[tuple[int, int, int]], percent: int) -> None:
    world = World(make_terms(pair_percent=percent))
    pending = [
        world.settlement(session=f"s{s}", provider=f"p{p}", tokens=t, token_max=300, allowance=1_000)
        for s, p, t in sessions
    ]
    header, body, _ = world.propose(world.ledger(), pending, slot=10)
    ledger = world.apply(world.ledger(), header, body)
    cap = pair_cap(1_000, world.terms.params)
    sums: dict[bytes, int] = {}
    for made in ledger.outcomes:
        pair = pair_key(made.session_key, made.provider)
        sums[pair] = sums.get(pair, 0) + made.tokens
    assert {pair: tokens for pair, tokens in sums.items() if tokens} == dict(ledger.pairs.get(0, {}))
    assert all(tokens <= cap for tokens in sums.values())
    assert sum(made.credited_wei for made in ledger.outcomes) == ledger.total_credited


# What a provider earns, by what it holds.


def test_earnings_may_be_bound_by_what_a_provider_holds() -> None:
    """Its rank counts, as a day's opening tells it: at least 1 MOR, of which a tenth is what 100 T cost here."""
    price = WEI // 1_000
    world = World(make_terms(earnings_percent=10), ranks={"provider": access.rank(WEI)})
    start = world.ledger(reference_price_wei=price)
    pending = [world.settlement(tokens=tokens, price_wei=price) for tokens in (60, 60, 40)]
    header, body, _ = world.propose(start, pending, slot=10)
    ledger = world.apply(start, header, body)
    assert [made.reason for made in ledger.outcomes] == ["credited", "over_balance", "credited"]
    assert ledger.credits == {address("provider"): 100 * price}
    unlisted = world.settlement(tokens=1, provider="unlisted")
    assert outcome(world, unlisted).reason == "over_balance", "who holds nothing earns nothing"
