"""Listing orders in a committee (S8): given by operators, told and told again, and put into a batch of their own."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from consensus.member import events
from consensus.member.orders import MAX_GIVEN
from consensus.member.short import SHORT_FROM, ShortProposals
from contracts.signing import Key
from contracts.typed_data import Digest
from gossip.messages.base import sign
from gossip.messages.committee import Proposal, ProposalFrame, batch_hash
from gossip.messages.listing import ListingFrame, ListModel
from tests.consensus.builders import MODEL, WEI, World, key, make_terms, named_digest
from tests.consensus.market.ordering import order_of, vote_of
from tests.consensus.member.cores import Committee
from tests.consensus.member.test_member_short import MAKER, proposal, settlements, shortened

NEW = named_digest("a new model")


def network() -> Committee:
    """A committee whose days have 16 slots."""
    committee = Committee.of(World(make_terms(day_slots=16, settle_window_slots=40)))
    committee.give(events.SlotBegan(1))
    return committee


def give(committee: Committee, members: Sequence[Key], model_id: Digest = NEW, *, is_listed: bool = True) -> None:
    """Operators say so, each to its own node."""
    for member in members:
        vote = vote_of(committee.world, member, model_id, is_listed=is_listed)
        committee.give(events.OrderHeard(vote, member.address), member.address)


def height(committee: Committee) -> int:
    (found,) = {committee.cores[address].ledger.height for address in committee.up}
    return found


def is_coming(committee: Committee, model_id: Digest = NEW) -> bool:
    (found,) = {model_id in committee.cores[address].ledger.listing.on(1) for address in committee.up}
    return found


def test_an_order_of_enough_members_makes_a_batch() -> None:
    committee = network()
    give(committee, committee.world.members[:2])
    committee.give(events.SlotBegan(2))
    assert height(committee) == 0, "two of four are not enough"
    give(committee, committee.world.members[2:3])
    committee.give(events.SlotBegan(3))
    assert (height(committee), is_coming(committee)) == (1, True)
    committee.give(events.SlotBegan(4))
    assert height(committee) == 1, "then there is nothing to do"
    assert not any(core.orders.open(core.ledger, 4) for core in committee.cores.values())


def test_an_order_that_got_lost_is_told_again() -> None:
    committee = network()
    committee.loses = lambda frame: isinstance(frame, ListingFrame)
    give(committee, committee.world.members[:3])
    committee.give(events.SlotBegan(2))
    assert height(committee) == 0
    committee.loses = lambda _: False
    committee.give(events.SlotBegan(3))
    committee.give(events.SlotBegan(4))
    assert is_coming(committee)


def test_who_gives_an_order_is_told() -> None:
    committee = network()
    give(committee, committee.world.members[:2])
    core = committee.cores[committee.world.members[3].address]
    members = tuple(sorted(member.address for member in committee.world.members[:2]))
    assert core.orders.open(core.ledger, 1) == {ListModel(NEW, True, 0): members}


def test_orders_of_strangers_and_for_nothing_are_not_kept() -> None:
    committee = network()
    listener = committee.world.members[0].address
    core = committee.cores[listener]

    def hear(who: Key, model_id: Digest, day: int = 0, *, is_listed: bool = True) -> None:
        vote = vote_of(committee.world, who, model_id, day, is_listed=is_listed)
        committee.give(events.OrderHeard(vote, who.address), listener)

    hear(key("a stranger"), NEW)
    assert core.orders.open(core.ledger, 1) == {}
    give(committee, committee.world.members[:3])
    committee.give(events.SlotBegan(2))
    assert is_coming(committee)
    hear(committee.world.members[1], NEW, is_listed=False)
    assert core.orders.open(core.ledger, 2) == {}, "of a day whose order was taken"


def test_one_member_fills_nobody_elses_room() -> None:
    committee = network()
    core = committee.cores[committee.world.members[0].address]
    give(committee, committee.world.members[:2])
    loud = committee.world.members[3]
    for number in range(MAX_GIVEN + 5):
        vote = vote_of(committee.world, loud, named_digest(f"model {number}"))
        committee.give(events.OrderHeard(vote, loud.address), committee.world.members[0].address)
    told = core.orders.open(core.ledger, 1)
    assert sum(loud.address in members for members in told.values()) == MAX_GIVEN
    assert len(told[ListModel(NEW, True, 0)]) == 2


@pytest.mark.parametrize("is_repeated", [False, True])
def test_a_proposer_that_forges_or_repeats_an_order_gets_nil(is_repeated: bool) -> None:
    committee = network()
    world = committee.world
    give(committee, world.members[:3])
    committee.give(events.SlotBegan(2))
    assert is_coming(committee)
    proposer = next(one for one in world.members if one.address == committee.proposer(0, 2))
    few = order_of(world, MODEL, is_listed=False, members=world.members[:2])
    header, body, _ = world.propose(committee.cores[proposer.address].ledger, slot=2, proposer=proposer)
    changed = replace(body, listings=(order_of(world, NEW) if is_repeated else few,))
    header = replace(header, body_root=changed.root)
    proposal = sign(Proposal(2, 0, 0, batch_hash(header), proposer.address), proposer, world.domain)
    for member in world.members:
        if member != proposer:
            committee.give(events.SlotBegan(3), member.address)
            committee.give(events.ProposalHeard(ProposalFrame(proposal, header, changed)), member.address)
    reasons = [one.reason for _, one in committee.effects if isinstance(one, events.Refused)]
    assert reasons == [f"listing: number 0: {_why(is_repeated, committee)}"] * 3
    assert height(committee) == 1


def _why(is_repeated: bool, committee: Committee) -> str:
    weight = 2 * 1_000 * WEI
    return "order_overtaken: 0" if is_repeated else f"signatures: certificate: no_quorum ({weight})"


def test_a_short_proposal_carries_orders() -> None:
    world = World()
    whole = proposal(settlements(SHORT_FROM))
    listings = (order_of(world, NEW),)
    body = replace(whole.body, listings=listings)
    frame = replace(whole, body=body)
    together = ShortProposals({one.digest: one for one in body.settlements}.get).begin(MAKER, shortened(frame))
    assert isinstance(together, ProposalFrame)
    assert together.body == body
