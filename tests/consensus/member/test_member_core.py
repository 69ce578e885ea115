"""Four cores in one thread, joined by lists: what a member does with what it hears, without a network or a clock."""

import pytest
from msgspec.structs import replace

from consensus.errors import CertificateInvalid
from consensus.market.errors import SettlementInvalid
from consensus.market.ledger_state import state_root
from consensus.member import events
from consensus.member.admission import admit
from consensus.member.events import Effect, Input
from consensus.tendermint.certificate import verify_certificate
from consensus.tendermint.evidence import DoublePrevote, verify_evidence
from consensus.tendermint.types import Step
from contracts.typed_data import ZERO_DIGEST, Digest
from gossip.errors import MalformedMessage, SignerMismatch
from gossip.messages.base import Signed, decode_union, encode, sign
from gossip.messages.committee import (
    BatchBody,
    DecidedFrame,
    LinkFrame,
    PolkaFrame,
    Precommit,
    PrecommitFrame,
    Prevote,
    PrevoteFrame,
    Proposal,
    ProposalFrame,
    SettlementFrame,
)
from gossip.messages.session import Settlement
from tests.consensus.builders import key
from tests.consensus.member.cores import Committee


@pytest.fixture
def committee() -> Committee:
    made = Committee.of()
    made.give(events.SlotBegan(3))
    return made


def settled(committee: Committee) -> set[int]:
    return {int(core.ledger.total_credited) for core in committee.cores.values()}


def file(committee: Committee, settlement: Settlement | None = None) -> Settlement:
    settlement = settlement or committee.world.settlement()
    committee.give(events.SettlementHeard(settlement, own=True), committee.proposer(2))
    return settlement


def test_without_reports_there_is_no_batch(committee: Committee) -> None:
    committee.give(events.SlotBegan(4))
    assert not committee.batches


def test_a_filed_settlement_is_credited_by_all_with_a_certificate(committee: Committee) -> None:
    file(committee)
    assert {len(core.pool) for core in committee.cores.values()} == {1}
    committee.give(events.SlotBegan(4))
    assert set(committee.batches) == committee.up
    assert len({state_root(core.ledger) for core in committee.cores.values()}) == 1
    assert min(settled(committee)) > 0
    for batches in committee.batches.values():
        verify_certificate(batches[0].certificate, batches[0].header, committee.world.committee, committee.world.domain)
    assert {len(core.pool) for core in committee.cores.values()} == {0}


def test_a_dead_proposer_costs_a_round(committee: Committee) -> None:
    file(committee)
    committee.up.discard(committee.proposer(0))
    committee.give(events.SlotBegan(4))
    assert not committee.batches
    committee.elapse(Step.PROPOSE, 0)
    committee.elapse(Step.PREVOTE, 0)
    committee.elapse(Step.PRECOMMIT, 0)
    assert set(committee.batches) == committee.up
    assert {batches[0].certificate.round for batches in committee.batches.values()} == {1}


def test_the_first_slot_of_a_day_opens_it_even_without_reports() -> None:
    committee = Committee.of()
    day_slots = committee.world.terms.params.day_slots
    committee.give(events.SlotBegan(day_slots + 1))
    assert set(committee.batches) == committee.up
    body = committee.batches[committee.proposer()][0].body
    assert body.opening == committee.world.opening(1)
    assert {signed.payload.day for signed in body.commitments} == {2, 3}


def test_an_unfair_opening_gets_no_votes() -> None:
    committee = Committee.of()
    committee.opening_is_fair = False
    committee.give(events.SlotBegan(committee.world.terms.params.day_slots + 1))
    assert not committee.batches
    assert {"its day opening is not the chain's"} == {e.reason for _, e in committee.of_kind(events.Refused)}  # type: ignore[union-attr]  # filtered by kind


def test_a_proposal_for_a_slot_that_has_not_ended_waits_for_it(committee: Committee) -> None:
    """Clocks differ a little: the proposer's is ahead."""
    file(committee)
    ahead = committee.proposer(0)
    committee.give(events.SlotBegan(4), ahead)
    assert not committee.batches
    committee.give(events.SlotBegan(4), *(committee.up - {ahead}))
    assert set(committee.batches) == committee.up
    assert not committee.of_kind(events.Refused)


def test_a_proposal_far_ahead_is_refused(committee: Committee) -> None:
    file(committee)
    committee.give(events.SlotBegan(6), committee.proposer(0))
    assert {effect.reason for _, effect in committee.of_kind(events.Refused)} == {"slot 5 has not ended"}  # type: ignore[union-attr]  # filtered by kind


def test_one_members_stray_vote_starts_nothing_two_do(committee: Committee) -> None:
    addresses = sorted(committee.up)
    listener, strays = addresses[0], addresses[1:3]
    for count, stray in enumerate(strays, 1):
        vote = sign(Prevote(1, 0, 0, ZERO_DIGEST), committee.keys[stray], committee.world.domain)
        committee.give(events.PrevoteHeard(vote, stray), listener)
        assert committee.cores[listener].height.started == (count == 2)


def test_a_member_that_is_behind_is_sent_the_decision_and_one_that_is_ahead_makes_catch_up(
    committee: Committee,
) -> None:
    file(committee)
    committee.give(events.SlotBegan(4))
    first, other, *_ = sorted(committee.up)
    committee.give(events.StatusHeard(other, 1, 0), first)
    committee.give(events.StatusHeard(other, 9, 0), first)
    assert (first, events.SendDecision(other, 1)) in committee.effects
    assert (first, events.CatchUp(9)) in committee.effects


def test_what_was_missed_is_said_again_with_the_polka(committee: Committee) -> None:
    file(committee)
    late = committee.proposer(3)
    rest = committee.up - {late}
    committee.up -= {late}
    committee.loses = lambda frame: isinstance(frame, PrecommitFrame)
    committee.give(events.SlotBegan(4))
    committee.up |= {late}
    helper = min(rest)
    committee.effects.clear()
    committee.give(events.StatusHeard(late, 1, 0), helper)
    told = [effect.frame for who, effect in committee.effects if who == helper and isinstance(effect, events.Tell)]
    assert any(isinstance(frame, PolkaFrame) for frame in told)
    assert committee.cores[late].height.started


def test_a_few_of_the_newest_votes_of_a_member_are_there_to_be_told(committee: Committee) -> None:
    """Whatever it said, and none of rounds that it has left."""
    file(committee)
    helper, twin, *_ = sorted(committee.up)
    key, domain = committee.keys[twin], committee.world.domain
    votes = [sign(Prevote(1, round_, 0, ZERO_DIGEST), key, domain) for round_ in range(9)]
    for vote in votes:
        committee.give(events.PrevoteHeard(vote, twin), helper)
    height = committee.cores[helper].height
    told = [[frame.vote for frame in height.votes_of(twin, now) if isinstance(frame, PrevoteFrame)] for now in (3, 7)]
    assert told == [votes[-4:], votes[-2:]]
    assert not height.votes_of(helper, 9)


def test_a_double_prevote_becomes_evidence(committee: Committee) -> None:
    file(committee)
    liar, judge, *_ = sorted(committee.up)
    for value in (ZERO_DIGEST, Digest(b"\1" * 32)):
        vote = sign(Prevote(1, 0, 0, value), committee.keys[liar], committee.world.domain)
        committee.give(events.PrevoteHeard(vote, liar), judge)
    committee.give(events.SlotBegan(4), judge)
    accused = [effect.evidence for _, effect in committee.of_kind(events.Accused)]  # type: ignore[union-attr]  # filtered by kind
    assert accused
    assert isinstance(accused[0], DoublePrevote)
    assert verify_evidence(accused[0], committee.world.committee, committee.world.domain) == liar


def test_a_settlement_that_no_batch_takes_is_dropped_by_its_proposer(committee: Committee) -> None:
    dear = committee.world.settlement(price_wei=10**13)
    file(committee, dear)
    committee.give(events.SlotBegan(4))
    dropped = committee.of_kind(events.Dropped)
    assert [effect.ticket_id for _, effect in dropped][:1] == [dear.ticket.id(committee.world.domain)]  # type: ignore[union-attr]  # filtered by kind
    assert not committee.batches


def test_inputs_survive_the_log(committee: Committee) -> None:
    """Every input that a shell writes down reads back as it was."""
    file(committee)
    seen: list[Input] = []
    listener = min(committee.up)
    handle = committee.cores[listener].handle

    def listen(event: Input) -> list[Effect]:
        seen.append(event)
        return handle(event)

    committee.cores[listener].handle = listen  # type: ignore[method-assign]  # listens in
    committee.give(events.SlotBegan(4))
    kinds = {type(event) for event in seen}
    assert {events.SlotBegan, events.ProposalHeard, events.PrevoteSigned, events.PrecommitHeard} <= kinds
    assert [decode_union(Input, encode(event), 1 << 20) for event in seen] == seen


# Admission: nothing unsigned or self-contradicting reaches the core.


def admitted(committee: Committee, frame: LinkFrame) -> Input | None:
    world = committee.world
    return admit(min(committee.up), frame, world.terms, world.committee, committee.following.verified)


def test_admission_checks_who_signed(committee: Committee) -> None:
    world, stranger = committee.world, key("stranger")
    vote = sign(Prevote(1, 0, 0, ZERO_DIGEST), stranger, world.domain)
    with pytest.raises(MalformedMessage, match="not a member"):
        admitted(committee, PrevoteFrame(vote))
    other = sign(Precommit(1, 0, ZERO_DIGEST, Digest(b"\2" * 32)), world.members[0], world.domain)
    with pytest.raises(MalformedMessage, match="another committee"):
        admitted(committee, PrecommitFrame(other))
    forged = SettlementFrame(replace(world.settlement(), report=world.report(Digest(b"\3" * 32), 1)))
    with pytest.raises(SettlementInvalid):
        admitted(committee, forged)


def test_admission_of_a_proposal_wants_its_own_batch(committee: Committee) -> None:
    world = committee.world
    header, body, _ = world.propose(world.ledger(), [world.settlement()], slot=2)
    proposal = sign(Proposal(1, 0, 0, Digest(b"\1" * 32), world.members[0].address), world.members[0], world.domain)
    with pytest.raises(MalformedMessage, match="another than the proposal names"):
        admitted(committee, ProposalFrame(proposal, header, body))
    stolen = Signed(replace(proposal.payload, proposer=world.members[1].address), proposal.signature)
    with pytest.raises(SignerMismatch):
        admitted(committee, ProposalFrame(stolen, header, BatchBody(None, (), ())))


def test_admission_of_a_polka_wants_two_thirds_of_one_place(committee: Committee) -> None:
    world, value = committee.world, Digest(b"\1" * 32)
    votes = [sign(Prevote(1, 0, 0, value), member, world.domain) for member in world.members]
    heard = admitted(committee, PolkaFrame(tuple(votes[:3])))
    assert isinstance(heard, events.PolkaHeard)
    assert len(heard.members) == 3
    with pytest.raises(CertificateInvalid):
        admitted(committee, PolkaFrame(tuple(votes[:2])))
    with pytest.raises(CertificateInvalid):
        admitted(committee, PolkaFrame((votes[0], votes[0], votes[0])))
    nil = [sign(Prevote(1, 0, 0, ZERO_DIGEST), member, world.domain) for member in world.members]
    with pytest.raises(CertificateInvalid):
        admitted(committee, PolkaFrame(tuple(nil)))
    mixed = PolkaFrame((*votes[:2], sign(Prevote(1, 1, 0, value), world.members[2], world.domain)))
    with pytest.raises(MalformedMessage):
        admitted(committee, mixed)


def test_frames_that_are_the_shells_business_are_passed_over(committee: Committee) -> None:
    file(committee)
    committee.give(events.SlotBegan(4))
    assert admitted(committee, DecidedFrame(committee.batches[committee.proposer()][0])) is None
