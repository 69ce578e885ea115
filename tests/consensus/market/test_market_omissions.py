"""What a reader's own book holds against a router's account of a match, and what a provider is told of its part."""

from typing import Any

import pytest
from msgspec.structs import replace

from consensus.market.errors import MatchInvalid
from consensus.market.explain import explain_part
from consensus.market.matching import check_match
from consensus.market.omissions import BidHistory, hidden_bids
from gossip.messages import sign
from gossip.messages.market import LeftOut, Why
from tests.consensus.builders import PRICE, World, address
from tests.consensus.market.test_market_matching import BEACON, SLOT, Scene, make_scene, resign, standing_bids


def hidden(scene: Scene, *known: Any) -> list[Any]:
    found = hidden_bids(scene.match.payload, scene.rfc.payload, known, scene.context)
    return [standing.bid.provider for standing in found]


def test_a_bid_that_is_as_cheap_and_not_accounted_for_is_hidden() -> None:
    scene, world = make_scene(), World()
    band = standing_bids(world, PRICE, PRICE + 1, PRICE + 2)
    cheap = world.standing("cheap", price_wei=PRICE // 2)
    dear = world.standing("dear", price_wei=PRICE * 106 // 100)
    assert hidden(scene, *band) == []
    assert hidden(scene, *band, cheap, dear) == [address("cheap")]
    resign(scene, left_out=(LeftOut(address("cheap"), Why.NO_SLOT),))
    scene.check()
    assert hidden(scene, *band, cheap, dear) == []


@pytest.mark.parametrize(
    "changes",
    [{"slots": 0}, {"prompt_max": 511}, {"price_wei": 3 * PRICE}, {"expires_ms": 1}, {"model_id": bytes(32)}],
)
def test_a_bid_that_no_router_could_have_matched_is_not_hidden(changes: dict[str, Any]) -> None:
    assert hidden(make_scene(), World().standing("other", **({"price_wei": PRICE} | changes))) == []


def test_penalty_points_take_a_bid_out_of_the_band() -> None:
    scene = make_scene()
    other = World().standing("other", price_wei=PRICE)
    assert hidden(scene, other) == [address("other")]
    scene.context = replace(scene.context, beacons={BEACON: {address("other"): 6}})
    assert hidden(scene, other) == []


def test_who_is_left_out_is_no_candidate_and_is_named_once_in_order() -> None:
    scene = make_scene()
    candidate = scene.match.payload.candidates[0].payload.provider
    for left_out, reason in (
        ((LeftOut(candidate, Why.NO_SLOT),), "left_out_candidate"),
        ((LeftOut(address("x"), Why.NO_SLOT),) * 2, "left_out_order"),
    ):
        resign(scene, left_out=left_out)
        with pytest.raises(MatchInvalid) as error:
            scene.check()
        assert error.value.reason == reason
    names = sorted([address("x"), address("y")])
    resign(scene, left_out=tuple(LeftOut(name, Why.RESTING) for name in names))
    check_match(scene.match, scene.ticket, scene.rfc, scene.secret, scene.context)


def test_history_answers_for_a_slot_that_is_over_and_is_bounded() -> None:
    world, history = World(), BidHistory(kept_bids=3, kept_seats=2)
    bids = [world.standing("p", seen_slot=slot, sequence=slot, price_wei=slot) for slot in (10, 20, 30, 40)]
    for bid in bids:
        history.note(bid)
    model = bids[0].bid.model_id

    def known(slot: int) -> list[int]:
        return [standing.bid.price_wei for standing in history.known_by(model, slot)]

    assert known(25) == [20]
    assert known(35) == [30]
    assert known(60) == [40]
    assert known(15) == [], "the bid of slot 10 is forgotten"
    assert known(31) == [], "the router may have had the one or the other"
    assert known(30) == []
    own = history.of_provider(address("p"), model, 31)
    assert own is not None
    assert own.bid.price_wei == 30
    history.note(bids[-1])
    assert known(60) == [40], "the same bid again is no second one"
    for name in ("q", "r"):
        history.note(world.standing(name))
    assert known(60) != [40], "who bid longest ago goes first"
    assert history.of_provider(address("nobody"), model, 31) is None


def test_a_provider_is_told_its_part() -> None:
    scene, world = make_scene(failures=1), World()
    told, winner = scene.match.payload, scene.ticket.payload.bid.payload.provider

    def part(name: Any, **changes: Any) -> str:
        own = world.standing(name, **({"price_wei": PRICE} | changes)) if isinstance(name, str) else None
        provider = own.bid.provider if own is not None else address("nobody")
        return explain_part(told, scene.ticket, scene.rfc.payload, provider=provider, own=own, context=scene.context)[
            -1
        ]

    texts = {name: part(name) for name in ("p0", "p1", "p2")}
    assert texts[next(name for name in texts if address(name) == winner)].strip() == "won"
    assert sum("draw 0" in text for text in texts.values()) == 1
    assert sum("not drawn" in text for text in texts.values()) == 1
    assert "too dear" in part("dear", price_wei=PRICE * 2)
    assert "above the day's ceiling" in part("dear", price_wei=PRICE * 3)
    assert "takes 5" in part("small", prompt_max=5)
    assert "withdrawn" in part("gone", slots=0)
    assert "may be hiding it" in part("hidden")
    assert "no bid of it" in part(None)
    told = replace(told, left_out=(LeftOut(address("full"), Why.NO_SLOT),))
    assert "slots this router has filled" in part("full")
    told = replace(told, left_out=(LeftOut(address("full"), Why.UNPROVEN),))
    assert "has not shown" in part("full")
    assert sign(told, world.router, world.domain).signer(world.domain) == world.router.address
    assert told.slot == SLOT
