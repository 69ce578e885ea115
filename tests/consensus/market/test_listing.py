"""Listed models (S8): what an order needs, when it comes into force, and what is not payable without it."""

from typing import Any

import pytest
from msgspec.structs import replace

from consensus.market import listing
from consensus.market.errors import BatchInvalid, ListingInvalid, RfcRefused
from consensus.market.ledger_state import Ledger, decode_ledger, encode_ledger, genesis_ledger, state_root
from consensus.market.listing import ORDER_DAYS, in_force, unlisted, verify_order
from contracts.typed_data import Digest, Signature
from gossip.messages.base import sign
from gossip.messages.listing import MAX_ORDERS, ListingOrder, ListModel
from tests.consensus.builders import MODEL, OTHER_MODEL, PRICE, World, key, make_terms, named_digest
from tests.consensus.market.counter import Counter
from tests.consensus.market.ordering import order_of
from tests.consensus.market.settling import outcome, reason

NEW = named_digest("a new model")


@pytest.fixture
def world() -> World:
    return World(make_terms(day_slots=16, settle_window_slots=40), committed_days=0)


def after(world: World, ledger: Ledger, slot: int, *orders: ListingOrder, taken: int | None = None) -> Ledger:
    """A batch closes ``slot`` and takes so many of ``orders``; all of them, unless told otherwise."""
    day = world.terms.params.day_of(slot)
    opening = world.opening(day) if day > ledger.day else None
    header, body, _ = world.propose(ledger, slot=slot, opening=opening, listings=orders)
    assert len(body.listings) == (len(orders) if taken is None else taken)
    return world.apply(ledger, header, body)


def refused(world: World, ledger: Ledger, slot: int, told: ListingOrder) -> str:
    """Why no member votes for a batch with ``told``, which a proposer has put there all the same."""
    day = world.terms.params.day_of(slot)
    opening = world.opening(day) if day > ledger.day else None
    header, body, _ = world.propose(ledger, slot=slot, opening=opening)
    forged = replace(body, listings=(told,))
    with pytest.raises(BatchInvalid) as caught:
        world.apply(ledger, replace(header, body_root=forged.root), forged)
    assert caught.value.reason == "listing"
    after(world, ledger, slot, told, taken=0)  # an honest proposer leaves it out
    return str(caught.value.value).split(": ")[1]


def test_an_order_counts_from_the_next_day_on(world: World) -> None:
    ledger = after(world, world.ledger(), 5, order_of(world, NEW))
    assert NEW not in ledger.listing.on(0)
    assert ledger.listing.on(1) == {MODEL: 0, OTHER_MODEL: 0, NEW: 1}
    ledger = after(world, ledger, 20, order_of(world, MODEL, 1, is_listed=False))
    assert MODEL in ledger.listing.on(1)
    assert sorted(ledger.listing.on(2)) == sorted([OTHER_MODEL, NEW])


def test_an_order_in_the_last_eighth_of_a_day_gives_notice_of_the_whole_next_day(world: World) -> None:
    params = world.terms.params
    assert [in_force(slot, params) for slot in (0, 13, 14, 15, 16)] == [1, 1, 2, 2, 2]
    ledger = after(world, world.ledger(), 14, order_of(world, MODEL, is_listed=False))
    assert MODEL in ledger.listing.on(1), "whoever began day 1 by what it knew is paid"
    assert MODEL not in ledger.listing.on(2)


def test_what_an_order_would_change_is_told_from_the_day_that_it_would_count(world: World) -> None:
    ledger = after(world, after(world, world.ledger(), 17), 30, order_of(world, NEW, 0))
    assert (NEW in ledger.listing.on(2), NEW in ledger.listing.on(3)) == (False, True)
    assert refused(world, ledger, 31, order_of(world, NEW, 1)) == "nothing_changes"
    ledger = after(world, ledger, 31, order_of(world, NEW, 1, is_listed=False))
    assert NEW not in ledger.listing.on(3)


def test_orders_of_two_days_may_come_into_force_together(world: World) -> None:
    ledger = after(world, world.ledger(), 14, order_of(world, NEW))
    ledger = after(world, ledger, 18, order_of(world, MODEL, 1, is_listed=False))
    assert sorted(ledger.listing.on(2)) == sorted([OTHER_MODEL, NEW])
    assert sorted(ledger.listing.on(1)) == sorted([MODEL, OTHER_MODEL])


@pytest.mark.parametrize(
    ("order", "slot", "expected"),
    [
        (ListModel(NEW, True, 1), 10, "order_from_future"),
        (ListModel(NEW, True, 1), 16 * ORDER_DAYS + 16, "order_too_old"),
        (ListModel(NEW, True, 1), 16 * ORDER_DAYS + 15, ""),
        (ListModel(MODEL, True, 0), 10, "nothing_changes"),
        (ListModel(NEW, False, 0), 10, "nothing_changes"),
    ],
)
def test_what_a_batch_may_take(world: World, order: ListModel, slot: int, expected: str) -> None:
    told = order_of(world, order.model_id, order.day, is_listed=order.is_listed)
    if expected:
        assert refused(world, world.ledger(), slot, told) == expected
    else:
        after(world, world.ledger(), slot, told)


def test_an_old_order_never_undoes_a_later_one(world: World) -> None:
    old = order_of(world, NEW, 0)
    ledger = after(world, world.ledger(), 5, old)
    assert refused(world, ledger, 6, old) == "order_overtaken"
    withheld = order_of(world, NEW, 0, is_listed=False)
    assert refused(world, ledger, 7, withheld) == "order_overtaken", "one order a day for a model"
    ledger = after(world, ledger, 20, order_of(world, NEW, 1, is_listed=False))
    assert refused(world, ledger, 40, old) == "order_overtaken"
    assert refused(world, ledger, 40, order_of(world, NEW, 1)) == "order_overtaken"
    ledger = after(world, ledger, 16 * ORDER_DAYS + 15)
    assert ledger.listing.ordered == {NEW: 1}
    assert refused(world, ledger, 16 * ORDER_DAYS + 16, order_of(world, NEW, 1)) == "order_too_old"
    # by the time that the ledger forgets the last order, all before it are too old
    ledger = after(world, ledger, 16 * (1 + ORDER_DAYS))
    assert ledger.listing.ordered == {}
    assert refused(world, ledger, 16 * (1 + ORDER_DAYS) + 1, order_of(world, NEW, 1)) == "order_too_old"
    assert refused(world, ledger, 16 * (1 + ORDER_DAYS) + 1, old) == "order_too_old"


def test_more_than_two_thirds_of_the_running_committee_give_an_order(world: World) -> None:
    ledger, members = world.ledger(), world.members
    assert refused(world, ledger, 5, order_of(world, NEW, members=members[:2])) == "signatures"
    assert refused(world, ledger, 5, order_of(world, NEW, members=[*members[:2], key("a stranger")])) == "signatures"
    assert refused(world, ledger, 5, order_of(world, NEW, members=[members[0]] * 4)) == "signatures"
    for_another = order_of(world, OTHER_MODEL, is_listed=False)
    assert refused(world, ledger, 5, ListingOrder(ListModel(NEW, True, 0), for_another.signatures)) == "signatures"
    unlist = order_of(world, NEW, is_listed=False)
    assert refused(world, ledger, 5, ListingOrder(ListModel(NEW, True, 0), unlist.signatures)) == "signatures"
    good = order_of(world, NEW)
    assert refused(world, ledger, 5, replace(good, signatures=good.signatures[::-1])) == "signatures"
    assert refused(world, ledger, 5, replace(good, signatures=(*good.signatures[:-1], Signature(bytes(65))))) == (
        "signatures"
    )
    elsewhere = replace(world.terms, domain=replace(world.domain, chain_id=1))
    with pytest.raises(ListingInvalid, match="signatures"):
        verify_order(good, world.committee, elsewhere)
    after(world, ledger, 5, good)


def test_exactly_two_thirds_are_none() -> None:
    world = World(member_count=3)
    assert refused(world, world.ledger(), 5, order_of(world, NEW, members=world.members[:2])) == "signatures"


def test_one_order_for_a_model_in_one_batch(world: World) -> None:
    ledger = world.ledger()
    both = order_of(world, NEW), order_of(world, NEW, members=world.members)
    assert after(world, ledger, 5, *both, taken=1).listing.ordered == {NEW: 0}
    header, body, _ = world.propose(ledger, slot=5, listings=both[:1])
    twice = replace(body, listings=both)
    with pytest.raises(BatchInvalid, match="number 1: order_overtaken"):
        world.apply(ledger, replace(header, body_root=twice.root), twice)


def test_a_batch_takes_so_many_orders_and_leaves_the_rest(world: World) -> None:
    orders = [order_of(world, named_digest(f"model {number}")) for number in range(MAX_ORDERS + 2)]
    ledger = after(world, world.ledger(), 5, *orders, taken=MAX_ORDERS)
    assert len(ledger.listing.on(1)) == 2 + MAX_ORDERS
    assert len(after(world, ledger, 6, *orders[MAX_ORDERS:]).listing.on(1)) == 4 + MAX_ORDERS


def test_list_and_memory_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_MODELS", 3)
    ledger = after(world, world.ledger(), 5, order_of(world, NEW))
    third = named_digest("a third model")
    assert refused(world, ledger, 6, order_of(world, third)) == "list_full"
    ledger = after(world, ledger, 6, order_of(world, MODEL, is_listed=False))
    monkeypatch.setattr(listing, "MAX_ORDERED", 2)
    assert refused(world, ledger, 7, order_of(world, third)) == "too_many_orders"
    ledger = after(world, ledger, 16 * ORDER_DAYS)
    after(world, ledger, 16 * ORDER_DAYS + 1, order_of(world, third, ORDER_DAYS))
    monkeypatch.setattr(listing, "MAX_MODELS", 1)
    with pytest.raises(ListingInvalid, match="list_full"):
        world.ledger()


def test_a_refused_batch_leaves_the_ledger_as_it_was(world: World) -> None:
    ledger = after(world, world.ledger(), 5, order_of(world, NEW))
    before = encode_ledger(ledger)
    refused(world, ledger, 6, order_of(world, MODEL, members=world.members[:1], is_listed=False))
    after(world, ledger, 6, order_of(world, MODEL, is_listed=False))
    assert encode_ledger(ledger) == before


def test_snapshot_and_root_hold_the_list(world: World) -> None:
    ledger = after(world, world.ledger(), 5, order_of(world, NEW))
    again = decode_ledger(encode_ledger(ledger))
    assert again == ledger
    assert state_root(again) == state_root(ledger)
    changed = replace(ledger, listing=replace(ledger.listing, lists={0: ledger.listing.lists[0]}))
    assert state_root(changed) != state_root(ledger)
    assert state_root(World(listed=(MODEL,)).ledger()) != state_root(World(listed=(OTHER_MODEL,)).ledger())


def test_lists_are_forgotten_with_the_last_ticket_of_their_days(world: World) -> None:
    ledger = after(world, world.ledger(), 5, order_of(world, NEW))
    ledger = after(world, ledger, 20, order_of(world, NEW, 1, is_listed=False))
    assert sorted(ledger.listing.lists) == [0, 1, 2]
    assert sorted(after(world, ledger, 3 * 16 + 8).listing.lists) == [1, 2]
    ledger = after(world, ledger, 10 * 16)
    assert sorted(ledger.listing.lists) == [2], "the list in force stays"
    assert ledger.listing.on(7) == ledger.listing.on(10) == {MODEL: 0, OTHER_MODEL: 0}


# What follows for sessions.


def test_a_session_of_an_unlisted_model_is_never_settled() -> None:
    world = World(listed=(OTHER_MODEL,))
    made = world.settlement()
    assert reason(world, made) == "model_not_listed"
    header, body, rejected = world.propose(world.ledger(), [made])
    assert [(left.reason.split(":")[0], left.retry) for left in rejected] == [("model_not_listed", False)]
    forged = replace(body, settlements=(made,))
    with pytest.raises(BatchInvalid, match="model_not_listed"):
        world.apply(world.ledger(), replace(header, body_root=forged.root), forged)


def test_the_list_of_the_tickets_day_counts_however_late_it_is_settled(world: World) -> None:
    ledger = after(world, world.ledger(), 5, order_of(world, MODEL, is_listed=False))
    ledger = after(world, ledger, 17)
    listed, unlisted_ = world.settlement(slot=15), world.settlement(slot=16, session="next")
    assert outcome(world, listed, ledger, slot=20).reason == "credited"
    assert reason(world, unlisted_, ledger, slot=20) == "model_not_listed"
    ledger = after(world, ledger, 20, order_of(world, MODEL, 1))
    ledger = after(world, ledger, 33)
    assert outcome(world, world.settlement(slot=32, session="third"), ledger, slot=40).reason == "credited"
    assert reason(world, unlisted_, ledger, slot=40) == "model_not_listed", "what was unlisted stays unpaid"


def test_a_desk_refuses_an_rfc_for_an_unlisted_model_and_reserves_nothing() -> None:
    counter = Counter()
    granted = counter.grant()
    counter.listing = World(listed=(OTHER_MODEL,)).ledger().listing
    left = counter.desk.allowances.left(granted.session_key)
    with pytest.raises(RfcRefused) as caught:
        counter.admit(counter.rfc(granted, token_max=99))
    assert (caught.value.code, caught.value.allowance_left) == ("model_not_listed", left)
    assert f"0x{MODEL.hex()} is not listed on day 0" in caught.value.detail
    assert counter.desk.allowances.left(granted.session_key) == left
    assert counter.desk.queue() == ()
    counter.admit(counter.rfc(granted, token_max=99, model_id=OTHER_MODEL))


def test_a_refusal_says_when_a_model_will_be_listed(world: World) -> None:
    ledger = after(world, world.ledger(), 14, order_of(world, NEW))
    told: Any = unlisted(ledger.listing, NEW, 1, world.terms.params)
    assert "it will be from day 2 on" in told
    assert unlisted(ledger.listing, NEW, 2, world.terms.params) is None


def test_a_network_may_do_without_a_list() -> None:
    free = World(make_terms(listed_models=False), listed=())
    assert outcome(free, free.settlement()).reason == "credited"
    assert free.ledger().listing.lists == {}
    assert refused(free, free.ledger(), 5, order_of(free, NEW)) == "no_list"
    assert unlisted(free.ledger().listing, NEW, 0, free.terms.params) is None


def test_a_genesis_lists_each_model_once() -> None:
    world = World()
    listed: list[Digest] = [MODEL, OTHER_MODEL, MODEL]
    ledger = genesis_ledger(world.terms, world.committee, world.opening(), PRICE, (), models=listed)
    assert ledger.listing.on(0) == {MODEL: 0, OTHER_MODEL: 0}


def test_an_order_is_bound_to_its_words_and_network(world: World) -> None:
    vote = sign(ListModel(NEW, True, 3), world.members[0], world.domain)
    signer = world.members[0].address
    assert vote.signer(world.domain) == signer
    for changed in (ListModel(NEW, False, 3), ListModel(NEW, True, 4), ListModel(MODEL, True, 3)):
        assert replace(vote, payload=changed).signer(world.domain) != signer
    assert vote.signer(replace(world.domain, chain_id=1)) != signer
