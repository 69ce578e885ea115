"""What is looked up quickly says the same as the rules that look at everything: the queue, the book, the draw."""

import random

import pytest

from consensus.market.book import Book, StandingBid
from consensus.market.matching import candidates
from consensus.market.ranking import Band, KeepsOut, Ranking
from consensus.market.rivals import payable
from consensus.market.waiting import Waiting, WaitingRoom
from consensus.params import NetworkParams
from contracts.typed_data import Address, Digest
from gossip.messages.market import Why
from tests.consensus.builders import FAR_MS, GENESIS_MS, MODEL, PRICE, World, address, make_terms, named_digest

BOOST_MS = 1_000


@pytest.mark.seed(1)
def test_the_queue_is_served_as_its_rule_says(chance: random.Random) -> None:
    world = World()
    rfcs = [world.rfc(deadline_ms=deadline) for deadline in (2_000, 5_000, 10**9)]
    room, inside, now = WaitingRoom(BOOST_MS), dict[Digest, Waiting](), 0
    out: dict[Digest, Waiting] = {}

    def standing(one: Waiting) -> tuple[int, int, bytes]:
        return one.priority + (now - one.admitted_ms) // BOOST_MS, -one.admitted_ms, one.rfc_id

    for step in range(600):
        now += chance.choice((0, 0, 7, 400))
        match chance.randrange(6):
            case 0 | 1 | 2:
                made = Waiting(chance.choice(rfcs), named_digest(f"{step}"), chance.randrange(5), now)
                room.add(made)
                inside[made.rfc_id] = made
            case 3:
                wanted = max(inside.values(), key=standing, default=None)
                assert room.next(now) == wanted
                if wanted is not None:
                    out[wanted.rfc_id] = inside.pop(wanted.rfc_id)
            case 4 if out:
                back = out.pop(chance.choice(list(out)))
                room.add(back)
                inside[back.rfc_id] = back
            case 5 if inside:
                gone = inside.pop(chance.choice(list(inside)))
                assert room.remove(gone.rfc_id) == gone
        late = {one.rfc_id for one in inside.values() if one.rfc.payload.deadline_ms <= now}
        assert {one.rfc_id for one in room.expired(now)} == late
    assert len(room) == len(inside) + len(out)


@pytest.mark.seed(2)
def test_a_ranking_draws_from_the_band_of_the_rule(chance: random.Random) -> None:
    world, params = World(), make_terms(min_providers=3).params
    for _ in range(30):
        count = chance.randrange(1, 90)
        bids = [
            world.standing(f"provider {n}", price_wei=PRICE * chance.randrange(90, 140) // 100, scores=n % 3 > 0)
            for n in range(count)
        ]
        penalties = {address(f"provider {n}"): chance.randrange(120) for n in range(0, count, 4)}
        free = {one.bid_id for one in bids if chance.random() < 0.6}
        ranking = Ranking(bids, params, penalties)
        wanted = candidates(
            [one for one in payable(bids, bids, params) if one.bid_id in free], params.tie_percent, penalties
        )
        assert ranking.band(lambda one, free=free: one.bid_id in free) == wanted  # type: ignore[misc]  # a default binds
        assert [one for one in bids if ranking.is_payable(one)] == list(payable(bids, bids, params))


@pytest.mark.seed(3)
def test_a_draw_accounts_for_all_who_are_as_cheap(chance: random.Random) -> None:
    """Slots come and go, prompts differ, some are barred, some kept out of one RFC: the rule looks at every bid."""
    world, params = World(), make_terms(min_providers=3).params
    for _ in range(12):
        count = chance.randrange(1, 160)
        bids = [
            world.standing(
                f"p{n}", price_wei=PRICE * chance.randrange(95, 110) // 100, prompt_max=chance.choice((9, 99))
            )
            for n in range(count)
        ]
        whys = [Why.NO_MOR, Why.UNPROVEN, None, None, None]
        barred = {one.bid.provider: why for one in bids if (why := chance.choice(whys)) is not None}
        ranking = Ranking(bids, params, barred=barred)
        full: set[Address] = set()
        for _ in range(20):
            for one in chance.sample(bids, chance.randrange(count + 1)):
                is_full = chance.random() < 0.5
                (full.add if is_full else full.discard)(one.bid.provider)
                ranking.note_full(one.bid.provider, is_full=is_full)
            ranking.note_full(address("a stranger"), is_full=True)
            kept = {one.bid_id: Why.RESTING for one in bids if chance.random() < 0.1} if chance.random() < 0.6 else {}
            bound = chance.choice((1, 9, 10, 99, 100))
            band = ranking.draw(bound, _keeps(kept) if kept else None)
            roomy = [one for one in bids if one.bid.prompt_max >= bound]
            never = {one.bid.provider: Why.NO_RIVALS for one in roomy if not ranking.is_payable(one)} | barred
            filled = dict.fromkeys(full, Why.NO_SLOT)
            resting = {one.bid.provider: kept[one.bid_id] for one in roomy if one.bid_id in kept}
            _check_band(band, roomy, resting | filled | never, params)
            eligible = list(ranking.eligible(bound))
            assert [one for one in roomy if one.bid.provider not in never] == sorted(eligible, key=bids.index)
            assert ranking.lowest_price(bound) == min((one.bid.price_wei for one in eligible), default=None)


def _keeps(kept: dict[Digest, Why]) -> KeepsOut:
    return lambda one: kept.get(one.bid_id)


def _check_band(band: Band, roomy: list[StandingBid], why: dict[Address, Why], params: NetworkParams) -> None:
    assert band.bids == candidates([one for one in roomy if one.bid.provider not in why], params.tie_percent)
    if not band.bids:
        assert band.left_out == ()
        return
    limit = min(one.bid.price_wei for one in band.bids) * (100 + params.tie_percent)
    cheap = sorted((one.bid.price_wei, one.bid_id, one.bid.provider) for one in roomy if one.bid.provider in why)
    named = [(provider, why[provider]) for price, _, provider in cheap if price * 100 <= limit][:64]
    assert [(one.provider, one.why) for one in band.left_out] == sorted(named)


def test_a_book_forgets_what_it_put_together_when_something_changes() -> None:
    world, book = World(), Book()

    def live(slot: int = 1, now_ms: int = GENESIS_MS, bound: int = 1) -> list[StandingBid]:
        return list(book.live(MODEL, slot, now_ms, prompt_bound=bound, ceiling_wei=2 * PRICE))

    def offer(price_wei: int, sequence: int, slot: int) -> None:
        bid = world.bid(price_wei=price_wei, sequence=sequence)
        assert book.add_bid(bid, bid.id(world.domain), slot, GENESIS_MS)

    assert live() == []
    offer(PRICE, 1, slot=0)
    assert live() == []
    book.add_record(world.record(expires_ms=GENESIS_MS + 50), GENESIS_MS)
    assert live() == []
    book.add_proof(world.proof(), GENESIS_MS)
    assert [one.bid.price_wei for one in live()] == [PRICE]
    assert live(now_ms=GENESIS_MS + 50) == []
    book.add_record(world.record(sequence=2), GENESIS_MS)
    offer(PRICE + 1, 2, slot=1)
    assert [one.bid.price_wei for one in live()] == [PRICE]
    assert [one.bid.price_wei for one in live(slot=2)] == [PRICE + 1]
    assert live(slot=2, bound=2_049) == []
    assert book.prune(FAR_MS) == 3
    assert live(slot=2) == []
    assert not book.is_offered(MODEL, GENESIS_MS)
