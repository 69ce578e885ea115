from typing import Any

import pytest

from consensus.market import book as book_module
from consensus.market.book import Book, StandingBid
from consensus.market.errors import BidRefused
from contracts.typed_data import Address
from gossip.messages.base import Signed, Unit
from gossip.messages.records import Bid
from tests.consensus.builders import FAR_MS, GENESIS_MS, MODEL, OTHER_MODEL, PRICE, World, address

NOW = GENESIS_MS


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def book(world: World) -> Book:
    made = Book()
    for provider in ("provider", "second"):
        made.add_record(world.record(provider), NOW)
        made.add_proof(world.proof(provider), NOW)
    return made


def add(book: Book, world: World, signed: Signed[Bid], slot: int = 0, now_ms: int = NOW) -> bool:
    return book.add_bid(signed, signed.id(world.domain), slot, now_ms)


def live(
    book: Book, slot: int = 1, now_ms: int = NOW, prompt_bound: int = 512, holders: set[Address] | None = None
) -> list[int]:
    bids = book.live(MODEL, slot, now_ms, prompt_bound=prompt_bound, ceiling_wei=2 * PRICE, holders=holders)
    return [standing.bid.price_wei for standing in bids]


def test_a_bid_counts_from_the_slot_after_it_was_seen(book: Book, world: World) -> None:
    assert add(book, world, world.bid(), slot=7)
    assert live(book, slot=7) == []
    assert live(book, slot=8) == [PRICE]


def test_an_undercut_in_the_same_slot_leaves_the_old_bid_standing(book: Book, world: World) -> None:
    add(book, world, world.bid(), slot=3)
    add(book, world, world.bid(price_wei=PRICE - 1, sequence=2), slot=8)
    add(book, world, world.bid(price_wei=PRICE - 2, sequence=3), slot=8)
    assert live(book, slot=8) == [PRICE]
    assert live(book, slot=9) == [PRICE - 2]


def test_the_highest_sequence_wins_in_any_order(book: Book, world: World) -> None:
    assert add(book, world, world.bid(sequence=5))
    assert not add(book, world, world.bid(sequence=4, price_wei=1))
    assert not add(book, world, world.bid(sequence=5, price_wei=1))
    assert live(book) == [PRICE]
    assert book.add_record(world.record("third", sequence=2), NOW)
    assert not book.add_record(world.record("third", sequence=1), NOW)
    assert not book.add_proof(world.proof(), NOW)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"unit": Unit.AUDIO_SAMPLE}, "unit_unsupported"),
        ({"unit": Unit.VIDEO_FRAME}, "unit_unsupported"),
        ({"price_wei": 0}, "price_zero"),
        ({"expires_ms": NOW}, "expired"),
    ],
)
def test_s16_bad_bids_are_refused_by_name(book: Book, world: World, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(BidRefused) as refused:
        add(book, world, world.bid(**changes))
    assert refused.value.code == code
    assert live(book) == []


def test_expired_records_and_proofs_are_refused(book: Book, world: World) -> None:
    with pytest.raises(BidRefused, match="expired"):
        book.add_record(world.record(expires_ms=NOW - 1), NOW)
    with pytest.raises(BidRefused, match="expired"):
        book.add_proof(world.proof(expires_ms=NOW - 1), NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"price_wei": 2 * PRICE + 1},
        {"prompt_max": 511},
        {"slots": 0},
        {"model_id": OTHER_MODEL},
    ],
)
def test_what_an_rfc_cannot_use_is_not_live(book: Book, world: World, changes: dict[str, Any]) -> None:
    assert add(book, world, world.bid(**changes))
    assert live(book) == []


def test_a_bid_at_the_very_limits_is_live(book: Book, world: World) -> None:
    add(book, world, world.bid(price_wei=2 * PRICE, prompt_max=512))
    assert live(book) == [2 * PRICE]


def test_s42_a_bid_needs_a_proof_and_a_record(world: World) -> None:
    book = Book()
    add(book, world, world.bid())
    assert live(book) == []
    book.add_record(world.record(), NOW)
    assert live(book) == []
    book.add_proof(world.proof(expires_ms=NOW + 10), NOW)
    assert live(book) == [PRICE]
    assert live(book, now_ms=NOW + 10) == []


def test_s43_only_holders_of_mor_are_live_where_the_caller_knows_them(book: Book, world: World) -> None:
    add(book, world, world.bid())
    assert live(book, holders={address("provider")}) == [PRICE]
    assert live(book, holders={address("second")}) == []


def test_slots_of_zero_withdraw_a_bid(book: Book, world: World) -> None:
    add(book, world, world.bid())
    add(book, world, world.bid(slots=0, sequence=2), slot=4)
    assert live(book, slot=5) == []


def test_live_bids_come_sorted_by_id(book: Book, world: World) -> None:
    add(book, world, world.bid())
    add(book, world, world.bid("second"))
    ids = [standing.bid_id for standing in book.live(MODEL, 1, NOW, prompt_bound=1, ceiling_wei=PRICE)]
    assert ids == sorted(ids)
    assert len(ids) == 2


def test_models_are_listed_with_their_lowest_price(book: Book, world: World) -> None:
    assert book.models(NOW) == ()
    add(book, world, world.bid(price_wei=PRICE + 7))
    add(book, world, world.bid("second", price_wei=PRICE))
    (listing,) = book.models(NOW)
    assert (listing.model_id, listing.name, listing.providers) == (MODEL, "small-model", 2)
    assert listing.lowest_price_wei == PRICE
    assert book.models(FAR_MS) == ()


def test_all_live_is_enough_to_fill_another_book(book: Book, world: World) -> None:
    add(book, world, world.bid())
    add(book, world, world.bid("second", expires_ms=NOW + 5))
    copied = Book()
    everything = book.all_live(NOW)
    for record in everything.records:
        copied.add_record(record, NOW)
    for proof in everything.proofs:
        copied.add_proof(proof, NOW)
    for bid in everything.bids:
        add(copied, world, bid)
    assert copied.models(NOW) == book.models(NOW)
    assert len(book.all_live(NOW + 5).bids) == 1


def test_pruning_forgets_the_expired_and_nothing_else(book: Book, world: World) -> None:
    add(book, world, world.bid())
    add(book, world, world.bid("second", expires_ms=NOW + 5))
    assert book.prune(NOW) == 0
    assert book.prune(NOW + 5) == 1
    assert live(book, now_ms=NOW + 5) == [PRICE]
    assert book.prune(FAR_MS) == 5
    assert book.record(address("provider"), NOW) is None
    assert book.all_live(NOW).records == ()


def test_one_provider_cannot_fill_the_book(book: Book, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "MAX_MODELS_PER_PROVIDER", 1)
    add(book, world, world.bid())
    with pytest.raises(BidRefused) as refused:
        add(book, world, world.bid(model_id=OTHER_MODEL))
    assert refused.value.code == "too_many"
    assert add(book, world, world.bid(sequence=2))
    with pytest.raises(BidRefused, match="too_many"):
        book.add_proof(world.proof(model_id=OTHER_MODEL), NOW)


def test_a_full_book_makes_room_only_by_what_has_expired(
    book: Book, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_module, "MAX_BIDS", 1)
    add(book, world, world.bid(expires_ms=NOW + 5))
    with pytest.raises(BidRefused) as refused:
        add(book, world, world.bid("second"))
    assert refused.value.code == "book_full"
    assert add(book, world, world.bid("second"), now_ms=NOW + 5)


def test_a_standing_bid_shows_its_payload(world: World) -> None:
    standing: StandingBid = world.standing()
    assert standing.bid == standing.signed.payload
