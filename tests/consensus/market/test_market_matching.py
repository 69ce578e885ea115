from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.market.book import StandingBid
from consensus.market.errors import MatchInvalid
from consensus.market.explain import explain_match
from consensus.market.matching import (
    MatchContext,
    build_match,
    candidates,
    check_match,
    draw,
    pick,
    ranked_price,
)
from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.messages.base import Payload, Signed, Unit, sign
from gossip.messages.market import Match, Rfc, Ticket
from tests.consensus.builders import MODEL, OTHER_MODEL, PRICE, World, address, key, named_digest

SLOT = 5
BEACON = named_digest("beacon")


def standing_bids(world: World, *prices: int) -> list[StandingBid]:
    return [world.standing(f"p{number}", price_wei=price) for number, price in enumerate(prices)]


# Candidates.


def test_s27_only_bids_within_the_band_of_the_lowest_are_drawn_from() -> None:
    world = World()
    bids = standing_bids(world, 1_050, 1_000, 1_051, 5_000)
    assert {standing.bid.price_wei for standing in candidates(bids, 5)} == {1_000, 1_050}
    assert {standing.bid.price_wei for standing in candidates(bids, 0)} == {1_000}
    assert candidates([], 5) == ()


@given(st.permutations(range(6)))
@settings(max_examples=30)
def test_the_order_in_which_bids_arrive_changes_nothing(order: list[int]) -> None:
    bids = standing_bids(World(), 100, 101, 102, 103, 104, 105)
    assert candidates([bids[number] for number in order], 5) == candidates(bids, 5)
    ids = [standing.bid_id for standing in candidates(bids, 5)]
    assert ids == sorted(ids)


def test_at_most_64_candidates_and_they_are_the_cheapest() -> None:
    bids = standing_bids(World(), *range(1_000, 1_070))
    band = candidates(bids, 100)
    assert len(band) == 64
    assert max(standing.bid.price_wei for standing in band) == 1_063


def test_a_band_that_has_failed_gives_way_to_the_next() -> None:
    bids = standing_bids(World(), 1_000, 2_000)
    (first,) = candidates(bids, 5)
    (second,) = candidates(bids, 5, without={first.bid_id})
    assert second.bid.price_wei == 2_000


def test_s44_penalty_points_make_a_bid_rank_dearer_and_cost_it_nothing_else() -> None:
    bids = standing_bids(World(), 1_000, 1_000)
    assert len(candidates(bids, 5, {address("p0"): 5})) == 2
    (left,) = candidates(bids, 5, {address("p0"): 6})
    assert left.bid.provider == address("p1")
    assert ranked_price(bids[0].bid, {address("p0"): 10**9}) == 1_000 * 200
    assert bids[0].bid.price_wei == 1_000


# The draw.


def test_the_draw_depends_on_every_input() -> None:
    parts: tuple[Digest, Digest, Digest] = (BEACON, named_digest("secret"), named_digest("rfc"))
    drawn = {draw(*parts, attempt) for attempt in range(3)}
    for number in range(3):
        changed = list(parts)
        changed[number] = named_digest("other")
        drawn.add(draw(changed[0], changed[1], changed[2], 0))
    assert len(drawn) == 6


def test_s34_the_draw_is_even_over_rfcs() -> None:
    """800 RFCs over 4 bids: 200 each, give or take four standard deviations."""
    band = candidates(standing_bids(World(), 100, 100, 100, 100), 5)
    secret = named_digest("secret")
    wins = Counter(pick(band, (), draw(BEACON, secret, named_digest(f"rfc {n}"), 0)).bid_id for n in range(800))
    assert len(wins) == 4
    assert all(150 <= count <= 250 for count in wins.values())


def test_who_failed_liveness_is_not_picked_again() -> None:
    band = candidates(standing_bids(World(), 100, 100, 100), 5)
    unlive: list[Digest] = []
    for attempt in range(3):
        unlive.append(pick(band, unlive, draw(BEACON, named_digest("s"), named_digest("r"), attempt)).bid_id)
    assert set(unlive) == {standing.bid_id for standing in band}
    with pytest.raises(MatchInvalid, match="no_candidate_left: 3"):
        pick(band, unlive, BEACON)


# A whole match, and every way to bend it.


@dataclass
class Scene:
    """An RFC, the ticket and match that answer it, and what they are checked against."""

    world: World
    rfc: Signed[Rfc]
    ticket: Signed[Ticket]
    match: Signed[Match]
    secret: Digest
    context: MatchContext

    def check(self, secret: bool = True) -> None:
        check_match(self.match, self.ticket, self.rfc, self.secret if secret else None, self.context)


def make_scene(
    bids: list[StandingBid] | None = None, failures: int = 0, band: tuple[StandingBid, ...] | None = None, **rfc: Any
) -> Scene:
    world = World()
    asked = world.rfc(**rfc)
    rfc_id = asked.id(world.domain)
    secret = world.secret(world.router, SLOT)
    field = bids if bids is not None else standing_bids(world, PRICE, PRICE + 1, PRICE + 2, 2 * PRICE)
    band = candidates(field, 5) if band is None else band
    unlive: list[Digest] = []
    for attempt in range(failures):
        unlive.append(pick(band, unlive, draw(BEACON, secret, rfc_id, attempt)).bid_id)
    winner = pick(band, unlive, draw(BEACON, secret, rfc_id, failures))
    ticket = world.ticket(asked, winner.signed, SLOT)
    told = build_match(
        ticket.payload, ticket.id(world.domain), beacon=BEACON, secret=secret, band=band, unlive=tuple(unlive)
    )
    context = MatchContext(
        terms=world.terms,
        committee=world.committee,
        tip=world.commitment(world.router, 0).payload.tip,
        ceiling_wei=2 * PRICE,
        beacons={BEACON: {}},
        listing=world.ledger().listing,
    )
    return Scene(world, asked, ticket, sign(told, world.router, world.domain), secret, context)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_an_honest_match_holds(failures: int) -> None:
    scene = make_scene(failures=failures)
    scene.check()
    scene.check(secret=False)
    assert scene.match.payload.attempt == failures


def resign(scene: Scene, **changes: Any) -> None:
    scene.match = sign(replace(scene.match.payload, **changes), scene.world.router, scene.world.domain)


def refused(scene: Scene, secret: bool = True) -> str:
    with pytest.raises(MatchInvalid) as error:
        scene.check(secret)
    return error.value.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rfc_id": named_digest("x")}, "match_rfc"),
        ({"ticket_id": named_digest("x")}, "match_ticket"),
        ({"slot": SLOT + 1}, "match_slot"),
        ({"beacon": named_digest("x")}, "beacon"),
        ({"draw": named_digest("x")}, "draw"),
        ({"attempt": 1}, "attempt"),
        ({"attempt": 1, "unlive": (named_digest("x"),)}, "unlive"),
        ({"candidates": ()}, "winner_not_a_candidate"),
    ],
)
def test_a_bent_match_is_named(changes: dict[str, Any], reason: str) -> None:
    scene = make_scene()
    resign(scene, **changes)
    assert refused(scene) == reason


def test_a_router_cannot_hand_the_match_to_a_friend() -> None:
    scene = make_scene()
    winner = scene.ticket.payload.bid
    friend = next(bid for bid in scene.match.payload.candidates if bid != winner)
    scene.ticket = scene.world.ticket(scene.rfc, friend, SLOT)
    resign(scene, ticket_id=scene.ticket.id(scene.world.domain))
    scene.check(secret=False)
    assert refused(scene) == "winner"


def test_a_router_cannot_claim_failures_until_a_friend_wins() -> None:
    """An alleged failure must itself have been drawn."""
    scene = make_scene()
    loser = next(bid for bid in scene.match.payload.candidates if bid != scene.ticket.payload.bid)
    resign(scene, attempt=1, unlive=(loser.id(scene.world.domain),))
    assert refused(scene) == "unlive"


def test_the_secret_is_the_committed_one_of_that_very_slot() -> None:
    scene = make_scene()
    scene.secret = scene.world.secret(scene.world.router, SLOT + 1)
    assert refused(scene) == "secret"
    scene = make_scene()
    scene.context = replace(scene.context, tip=scene.world.commitment(scene.world.members[1], 0).payload.tip)
    assert refused(scene) == "secret"
    scene.context = replace(scene.context, tip=None)
    assert refused(scene) == "no_commitment"


def test_s27_a_dearer_bid_cannot_be_slipped_into_the_band() -> None:
    world = World()
    bids = standing_bids(world, PRICE, PRICE * 2)
    scene = make_scene(band=tuple(sorted(bids, key=lambda standing: standing.bid_id)))
    assert refused(scene) == "tie_band"


def test_candidates_are_in_canonical_order() -> None:
    scene = make_scene()
    resign(scene, candidates=tuple(reversed(scene.match.payload.candidates)))
    assert refused(scene) == "tie_band"


def test_a_band_that_ignores_penalties_is_refused() -> None:
    scene = make_scene(standing_bids(World(), PRICE, PRICE))
    points: dict[Address, int] = {address("p0"): 50}
    scene.context = replace(scene.context, beacons={BEACON: points})
    assert refused(scene) == "tie_band"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_id": OTHER_MODEL}, "candidate_model"),
        ({"unit": Unit.AUDIO_SAMPLE}, "candidate_unit"),
        ({"slots": 0}, "candidate_slots"),
        ({"price_wei": 2 * PRICE + 1}, "candidate_price"),
        ({"price_wei": 0}, "candidate_price"),
        ({"prompt_max": 511}, "candidate_prompt_max"),
        ({"expires_ms": 1}, "candidate_expired"),
    ],
)
def test_a_candidate_that_could_not_be_live_is_named(changes: dict[str, Any], reason: str) -> None:
    scene = make_scene([World().standing(**changes)])
    assert refused(scene) == reason


def test_one_provider_has_one_ticket_in_the_draw() -> None:
    world = World()
    twice = [world.standing(price_wei=PRICE), world.standing(price_wei=PRICE + 1, sequence=2)]
    assert refused(make_scene(twice)) == "provider_twice"


def test_forged_signatures_are_named() -> None:
    for name in ("match", "ticket", "rfc"):
        scene = make_scene()
        signed: Signed[Payload] = getattr(scene, name)
        stranger: Key = key("stranger")
        setattr(scene, name, sign(signed.payload, stranger, scene.world.domain))
        assert refused(scene) == "signature"
    scene = make_scene()
    first, *rest = scene.match.payload.candidates
    forged = sign(first.payload, key("stranger"), scene.world.domain)
    resign(scene, candidates=(forged, *rest))
    assert refused(scene) == "signature"


def test_a_forged_pass_is_named() -> None:
    scene = make_scene()
    asked = scene.rfc.payload
    forged = sign(asked.access_pass.payload, key("stranger"), scene.world.domain)
    scene.rfc = sign(replace(asked, access_pass=forged), key("session"), scene.world.domain)
    assert refused(scene) == "signature"


def test_a_stranger_cannot_match_and_a_member_only_for_its_own_passes() -> None:
    scene = make_scene()
    scene.context = replace(
        scene.context,
        committee=replace(scene.context.committee, members=scene.context.committee.members[:0]),
    )
    assert refused(scene) == "issuer_not_a_member"
    scene = make_scene()
    other = scene.world.members[1]
    scene.match = sign(replace(scene.match.payload, router=other.address), other, scene.world.domain)
    assert refused(scene) == "match_router"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token_max": 257}, "token_max"),
        ({"prompt_bound": 513}, "prompt_bound"),
        ({"session_key": address("other")}, "session_key"),
        ({"rfc_id": named_digest("x")}, "ticket_rfc"),
    ],
)
def test_a_ticket_that_does_not_answer_the_rfc_is_named(changes: dict[str, Any], reason: str) -> None:
    scene = make_scene()
    scene.ticket = scene.world.ticket(scene.rfc, scene.ticket.payload.bid, SLOT, **changes)
    resign(scene, ticket_id=scene.ticket.id(scene.world.domain))
    assert refused(scene) == reason


def test_explain_tells_the_whole_story() -> None:
    scene = make_scene(failures=1)
    text = "\n".join(explain_match(scene.match, scene.ticket, scene.rfc, scene.secret, scene.context))
    for part in (BEACON, scene.secret, scene.match.payload.draw, scene.ticket.payload.bid.payload.provider, MODEL):
        assert part.hex() in text
    assert "3 within 5 % of it" in text
    assert "(failed liveness)" in text
    assert "<- winner" in text
    assert text.endswith("verdict: the match holds")


def test_explain_says_what_is_wrong_or_not_known_yet() -> None:
    scene = make_scene()
    early = explain_match(scene.match, scene.ticket, scene.rfc, None, scene.context)
    assert early[-1] == "verdict: holds as far as it can be checked"
    resign(scene, draw=named_digest("x"))
    bent = explain_match(scene.match, scene.ticket, scene.rfc, scene.secret, scene.context)
    assert "does NOT hold: draw" in bent[-1]
    resign(scene, candidates=())
    assert "does NOT hold" in explain_match(scene.match, scene.ticket, scene.rfc, scene.secret, scene.context)[-1]
