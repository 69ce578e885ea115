"""Second opinions in a committee (S8): batches that only pick or mature, verdicts told, lost, and told again."""

from typing import Any

from msgspec.structs import replace

from consensus.market.opinions import Pick, due_slot
from consensus.member import events
from consensus.member.short import SHORT_FROM, ShortProposals
from contracts.typed_data import Digest
from gossip.messages.base import Signed
from gossip.messages.committee import BatchBody, OpinionFrame
from gossip.messages.opinions import Opinion
from tests.consensus.builders import PRICE, World, address, make_terms, named_digest
from tests.consensus.member.cores import Committee
from tests.consensus.member.test_member_short import MAKER, proposal, settlements, shortened


def network() -> tuple[Committee, Digest]:
    """A committee in slot 3 that has settled and picked one session, and its ticket."""
    world = World(make_terms(audit_slots=12, audit_bps=10_000))
    committee = Committee.of(world)
    rivals = [world.bid(name, scores=True) for name in "xy"]
    made = world.settlement(rivals=rivals)
    committee.give(events.SlotBegan(1))
    committee.give(events.SettlementHeard(made, own=True), world.members[0].address)
    committee.give(events.SlotBegan(2))
    committee.give(events.SlotBegan(3))
    return committee, made.ticket.id(world.domain)


def heights(committee: Committee) -> set[int]:
    return {core.ledger.height for core in committee.cores.values()}


def pick_of(committee: Committee, ticket_id: Digest) -> Pick:
    (pick,) = {core.ledger.audits.pick(ticket_id) for core in committee.cores.values()}
    assert pick is not None
    return pick


def opinion(committee: Committee, ticket_id: Digest, turn: int = 0, **changes: Any) -> Signed[Opinion]:
    names = {address(name): name for name in "xy"}
    scorer = names[pick_of(committee, ticket_id).scorers[turn].provider]
    return committee.world.opinion(scorer, ticket_id, **changes)


def test_a_settled_session_is_picked_in_a_batch_of_its_own() -> None:
    committee, ticket_id = network()
    assert heights(committee) == {2}
    assert pick_of(committee, ticket_id).transcript == named_digest("transcript")
    committee.give(events.SlotBegan(4))
    assert heights(committee) == {2}, "then there is nothing to do"


def test_a_verdict_makes_a_batch_and_credits_mature_by_themselves() -> None:
    committee, ticket_id = network()
    said = opinion(committee, ticket_id)
    committee.give(events.OpinionHeard(said, own=True), committee.world.members[2].address)
    committee.give(events.SlotBegan(5))
    assert heights(committee) == {3}
    assert pick_of(committee, ticket_id).decision == "passed"
    ledger = committee.cores[committee.world.router.address].ledger
    assert ledger.credits == {said.payload.scorer: 100 * PRICE}
    (bucket,) = ledger.audits.picks
    committee.give(events.SlotBegan(due_slot(bucket, committee.world.terms.params)))
    assert heights(committee) == {3}
    committee.give(events.SlotBegan(due_slot(bucket, committee.world.terms.params) + 1))
    assert heights(committee) == {4}
    assert committee.cores[committee.world.router.address].ledger.credits[address("provider")] == 100 * PRICE


def test_a_verdict_that_got_lost_is_told_again() -> None:
    committee, ticket_id = network()
    owner = committee.world.members[2].address
    committee.loses = lambda frame: isinstance(frame, OpinionFrame)
    committee.give(events.OpinionHeard(opinion(committee, ticket_id), own=True), owner)
    committee.loses = lambda _: False
    told = len(committee.of_kind(events.Tell))
    committee.give(events.SlotBegan(4))
    assert len(committee.of_kind(events.Tell)) > told
    committee.give(events.SlotBegan(5))
    committee.give(events.SlotBegan(6))
    assert pick_of(committee, ticket_id).decision == "passed"
    before = len([frame for _, frame in committee.of_kind(events.Tell) if isinstance(frame, events.Tell)])
    committee.give(events.SlotBegan(7))
    after = [one.frame for _, one in committee.of_kind(events.Tell)[before:] if isinstance(one, events.Tell)]
    assert not any(isinstance(frame, OpinionFrame) for frame in after), "once it counts, no more"


def test_who_speaks_out_of_turn_waits_and_nonsense_is_dropped() -> None:
    committee, ticket_id = network()
    committee.give(events.OpinionHeard(opinion(committee, ticket_id, turn=1), own=True))
    committee.give(events.SlotBegan(5))
    assert heights(committee) == {2}, "it is not its turn"
    assert not committee.of_kind(events.OpinionDropped)
    committee.give(events.SlotBegan(pick_of(committee, ticket_id).slot + 12 // 3 + 1))
    assert pick_of(committee, ticket_id).decision == "passed"
    wrong = opinion(committee, ticket_id, transcript=named_digest("made up"))
    committee.give(events.OpinionHeard(wrong, own=True), committee.world.router.address)
    ((who, dropped),) = committee.of_kind(events.OpinionDropped)
    assert who == committee.world.router.address
    assert isinstance(dropped, events.OpinionDropped)
    assert dropped.reason.startswith("another_transcript")


def test_short_proposals_carry_opinions() -> None:
    world = World()
    frame = proposal(settlements(SHORT_FROM))
    body: BatchBody = replace(frame.body, opinions=(world.opinion("x", named_digest("t")),))
    frame = replace(frame, body=body, header=replace(frame.header, body_root=body.root))
    held = {one.digest: one for one in body.settlements}
    assert ShortProposals(held.get).begin(MAKER, shortened(frame)) == frame
