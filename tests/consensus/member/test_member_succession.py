"""How committees follow one another: drawn, handed over to, rescued; and what stays owed over the change."""

import pytest
from msgspec.structs import replace

from consensus.market.batch import body_root
from consensus.market.errors import BatchInvalid
from consensus.market.ledger_state import decode_ledger, encode_ledger, rescue, state_root
from consensus.member import events
from consensus.membership import RESCUE_ROUNDS, Term
from consensus.tendermint.certificate import verify_certificate
from contracts.signing import Key
from contracts.typed_data import Address, Uint256
from gossip.messages.base import decode_union, encode, sign
from gossip.messages.committee import CertifiedBatch, DrawnMember, HandOver, HandOverFrame, PrecommitFrame
from gossip.messages.session import Settlement
from tests.consensus.builders import WEI, World, key, make_terms
from tests.consensus.member.cores import Committee

NEWCOMERS = [key(f"newcomer {number}") for number in range(2)]
DAY = 100
"""Slots."""


def stakes(*members: Key, stake: int = 1_000 * WEI) -> list[tuple[Address, int]]:
    return [(member.address, stake) for member in members]


@pytest.fixture
def committee() -> Committee:
    """Day 1 is about to begin; member 0 has left, two newcomers have staked."""
    made = Committee.of(World(committed_days=6), NEWCOMERS)
    made.candidates = stakes(*made.world.members[1:], *NEWCOMERS)
    made.give(events.SlotBegan(DAY - 1))
    return made


def agreed(committee: Committee) -> list[CertifiedBatch]:
    """The batches of whoever is up, who agree."""
    ledgers = {
        (core.ledger.height, state_root(core.ledger)) for who, core in committee.cores.items() if who in committee.up
    }
    assert len(ledgers) == 1
    return max(committee.batches.values(), key=len)


def hand_over(committee: Committee) -> list[CertifiedBatch]:
    """Open the day, sign, hand over, let the new committee show itself."""
    for slot in (DAY + 1, DAY + 2, DAY + 3):
        committee.give(events.SlotBegan(slot))
        spread(committee)
    return agreed(committee)


def spread(committee: Committee) -> None:
    """Whoever is no member gets the batches as any full node does."""
    longest = max(committee.batches.values(), key=len, default=[])
    for batch in longest:
        committee.give(events.BatchAdopted(batch))


def file(committee: Committee, settlement: Settlement, router: Key) -> None:
    committee.give(events.SettlementHeard(settlement, own=True), router.address)


def test_a_draw_takes_over_by_the_outgoing_committees_signatures(committee: Committee) -> None:
    opening, handing, first = hand_over(committee)
    drawn = tuple(DrawnMember(who, Uint256(stake)) for who, stake in sorted(committee.candidates))
    assert opening.body.opening is not None
    assert opening.body.opening.drawn == drawn
    assert handing.body.hand_over is not None
    assert handing.body.hand_over.hand_over.day == 1
    outgoing, incoming = committee.world.committee, Term(2, drawn).committee
    for batch, decided in ((opening, outgoing), (handing, outgoing), (first, incoming)):
        assert batch.header.committee_root == decided.root
        verify_certificate(batch.certificate, batch.header, decided, committee.world.domain)
    assert not first.body.settlements  # it shows itself, so that what was credited before can be claimed
    ledger = committee.cores[NEWCOMERS[0].address].ledger
    assert [term.epoch for term in ledger.committees] == [1, 2]
    assert (ledger.running.epoch, ledger.since, ledger.drawn) == (2, 2, None)
    assert decode_ledger(encode_ledger(ledger)) == ledger
    committee.give(events.SlotBegan(DAY + 5))
    assert len(agreed(committee)) == 3, "after that: no reports, no batch"


def test_the_days_routers_stay_and_their_sessions_are_settled_by_the_next_committee(committee: Committee) -> None:
    hand_over(committee)
    leaver = committee.world.members[0]
    ledger = committee.cores[NEWCOMERS[0].address].ledger
    assert ledger.committee.weight(leaver.address) == 0
    assert ledger.routers(1) == committee.world.committee
    assert ledger.routers(2) == ledger.committee, "from the next day on the drawn ones route"
    assert ledger.is_recent_member(leaver.address)
    for slot in (DAY - 5, DAY + 2):  # a ticket of the day before, and one of today
        file(committee, committee.world.settlement(session=f"session of {slot}", slot=slot), leaver)
    committee.give(events.SlotBegan(DAY + 5))
    spread(committee)
    assert len(agreed(committee)[-1].body.settlements) == 2
    assert agreed(committee)[-1].header.committee_root == ledger.committee.root


def test_a_committee_is_forgotten_with_the_last_ticket_of_its_days() -> None:
    committee = Committee.of(World(make_terms(settle_window_slots=10), committed_days=6), NEWCOMERS)
    committee.candidates = stakes(*committee.world.members[1:], *NEWCOMERS)
    committee.give(events.SlotBegan(DAY - 1))
    hand_over(committee)
    for slot in (2 * DAY + 1, 3 * DAY + 1):
        committee.give(events.SlotBegan(slot))
        spread(committee)
    ledger = committee.cores[NEWCOMERS[0].address].ledger
    assert [term.epoch for term in ledger.committees] == [2]
    assert not ledger.is_recent_member(committee.world.members[0].address)


def test_a_draw_waits_for_its_signatures_and_nobody_else_is_drawn_meanwhile(committee: Committee) -> None:
    committee.loses = lambda frame: isinstance(frame, HandOverFrame)
    for slot in (DAY + 1, DAY + 2, 2 * DAY + 1):
        committee.candidates = [*committee.candidates, (key(f"late {slot}").address, WEI)]
        committee.give(events.SlotBegan(slot))
        spread(committee)
    ledger = committee.cores[committee.world.members[1].address].ledger
    assert (ledger.day, ledger.running.epoch) == (2, 1)
    assert ledger.drawn is not None
    assert ledger.drawn.day == 1
    committee.loses = lambda _: False
    for slot in (2 * DAY + 2, 2 * DAY + 3, 2 * DAY + 4):
        committee.give(events.SlotBegan(slot))
        spread(committee)
    ledger = committee.cores[committee.world.members[1].address].ledger
    assert (ledger.running.epoch, len(ledger.running.members)) == (2, 6)


def test_without_two_thirds_nobody_is_relieved(committee: Committee) -> None:
    refusers = {member.address for member in committee.world.members[:2]}
    committee.loses = lambda frame: (
        isinstance(frame, HandOverFrame) and frame.vote.signer(committee.world.domain) in refusers
    )
    for slot in (DAY + 1, DAY + 2, DAY + 3):
        committee.give(events.SlotBegan(slot))
        spread(committee)
    listener = committee.cores[committee.world.members[2].address]
    assert listener.ledger.running.epoch == 1
    assert listener.ledger.drawn is not None


def test_signatures_for_something_else_are_not_counted(committee: Committee) -> None:
    committee.loses = lambda frame: isinstance(frame, HandOverFrame)
    committee.give(events.SlotBegan(DAY + 1))
    listener = committee.world.members[1]
    for member in committee.world.members:
        forged = HandOver(1, 1, committee.world.committee.root, committee.world.committee.root)
        committee.give(
            events.HandOverHeard(sign(forged, member, committee.world.domain), member.address), listener.address
        )
    for stranger in NEWCOMERS:
        ledger = committee.cores[listener.address].ledger
        assert ledger.drawn is not None
        right = HandOver(1, 1, ledger.committee.root, ledger.drawn.term.committee.root)
        vote = sign(right, stranger, committee.world.domain)
        committee.give(events.HandOverHeard(vote, stranger.address), listener.address)
    committee.give(events.SlotBegan(DAY + 2))
    assert committee.cores[listener.address].ledger.running.epoch == 1


def test_batches_that_break_the_rules_of_succession_do_not_apply(committee: Committee) -> None:
    opening, handing, first = hand_over(committee)
    world = committee.world
    genesis = world.ledger()
    drawn = committee.following(genesis, opening.header, opening.body)
    handed = committee.following(drawn, handing.header, handing.body)
    assert handing.body.hand_over is not None
    for ledger, kwargs, reason in (
        (genesis, {"hand_over": handing.body.hand_over}, "nobody was drawn"),
        (drawn, {"opening": world.opening(2, drawn=drawn.drawn.term.members), "slot": 2 * DAY}, "opening_drawn"),  # type: ignore[union-attr]  # somebody was drawn
        (genesis, {"opening": world.opening(1, drawn=genesis.running.members), "slot": DAY}, "opening_drawn"),
    ):
        with pytest.raises(BatchInvalid, match=reason):
            world.propose(ledger, **kwargs)
    cut = replace(handing.body.hand_over, signatures=handing.body.hand_over.signatures[:2])
    with pytest.raises(BatchInvalid, match="no quorum"):
        world.propose(drawn, hand_over=cut)
    with pytest.raises(BatchInvalid, match="proposer"):
        world.propose(handed, proposer=world.members[0])
    with pytest.raises(BatchInvalid, match="committee_root"):
        world.apply(replace(handed, committees=drawn.committees), first.header, first.body)


# Rescue.


def test_a_rescued_committee_goes_on_where_the_silent_one_stopped(committee: Committee) -> None:
    """Two of four members are lost, with them the quorum; the registry puts others in their place."""
    world, committee.candidates = committee.world, []
    committee.up -= {member.address for member in world.members[:2]}
    committee.give(events.SlotBegan(DAY + 1))
    assert not committee.batches
    rescued = Term(2, tuple(DrawnMember(who, Uint256(5)) for who in sorted(committee.up)))
    committee.give(events.Rescued(rescued))
    assert {core.height.round for who, core in committee.cores.items() if who in committee.up} == {2 * RESCUE_ROUNDS}
    committee.give(events.SlotBegan(DAY + 2))
    [batch] = agreed(committee)
    assert batch.body.rescue is not None
    assert batch.body.rescue.epoch == 2
    assert batch.certificate.round >= 2 * RESCUE_ROUNDS
    verify_certificate(batch.certificate, batch.header, rescued.committee, world.domain)
    with pytest.raises(BatchInvalid, match="committee_root"):
        world.apply(world.ledger(), batch.header, batch.body)
    after = world.apply(rescue(world.ledger(), rescued.committee), batch.header, batch.body)
    assert after.running == rescued
    assert not after.is_rescued
    committee.give(events.SlotBegan(DAY + 4))
    assert len(agreed(committee)) == 1


def test_a_rescue_is_told_in_the_batch_and_only_there(committee: Committee) -> None:
    world = committee.world
    with pytest.raises(BatchInvalid, match="rescue_epoch"):
        rescue(world.ledger(), world.committee)
    _, body, _ = world.propose(rescue(world.ledger(), Term(2, Term.of(world.committee).members).committee))
    assert body.rescue is not None
    assert body.rescue.members == Term.of(world.committee).members
    header, plain, _ = world.propose(world.ledger())
    assert plain.rescue is None
    false = replace(plain, rescue=body.rescue)
    with pytest.raises(BatchInvalid, match="rescue"):
        world.apply(world.ledger(), replace(header, body_root=body_root(false)), false)


def test_votes_for_the_silent_committee_count_no_more(committee: Committee) -> None:
    committee.loses = lambda frame: isinstance(frame, PrecommitFrame)
    committee.give(events.SlotBegan(DAY + 1))
    core = committee.cores[committee.world.members[2].address]
    assert core.height.own_frames
    core.handle(events.Rescued(Term(2, tuple(DrawnMember(who, Uint256(5)) for who, _ in sorted(stakes(*NEWCOMERS))))))
    assert not core.height.own_frames
    assert not core.height.started


def test_what_the_silent_committee_had_decided_after_all_comes_before_the_rescue(committee: Committee) -> None:
    """One member saw the decision before the others were lost; it reaches another that has read of the rescue."""
    world, committee.candidates = committee.world, []
    first, late = world.members[0].address, world.members[3].address
    committee.up.remove(late)
    committee.give(events.SlotBegan(DAY + 1))
    [decided] = committee.batches[first]
    committee.up.add(late)
    rescued = Term(2, tuple(DrawnMember(who, Uint256(5)) for who in sorted((first, late))))
    for who in (first, late):
        committee.give(events.Rescued(rescued), who)
    committee.give(events.BatchAdopted(decided), late)
    ledgers = [committee.cores[who].ledger for who in (first, late)]
    assert ledgers[0] == ledgers[1]
    assert (ledgers[0].height, ledgers[0].running, ledgers[0].is_rescued) == (1, rescued, True)
    assert committee.cores[late].height.round == 2 * RESCUE_ROUNDS
    committee.up = {first, late}
    committee.give(events.SlotBegan(DAY + 2))
    assert [batch.header.height for batch in committee.batches[late]] == [2]


def test_a_batch_that_tells_of_a_rescue_is_followed_by_who_has_not_read_of_it(committee: Committee) -> None:
    world, committee.candidates = committee.world, []
    saviours = {member.address for member in world.members[:2]}
    rescued = Term(2, tuple(DrawnMember(who, Uint256(5)) for who in sorted(saviours)))
    other = world.members[3].address
    committee.up = set(saviours)
    committee.give(events.Rescued(rescued))
    committee.give(events.SlotBegan(DAY + 2))
    [batch] = agreed(committee)
    committee.up.add(other)
    committee.give(events.BatchAdopted(batch), other)
    assert committee.cores[other].ledger == committee.cores[min(saviours)].ledger


def test_inputs_of_succession_survive_the_log(committee: Committee) -> None:
    vote = sign(
        HandOver(1, 1, committee.world.committee.root, committee.world.committee.root),
        NEWCOMERS[0],
        committee.world.domain,
    )
    inputs: list[events.Input] = [
        events.HandOverHeard(vote, NEWCOMERS[0].address),
        events.HandOverSigned(vote),
        events.Rescued(Term.of(committee.world.committee)),
    ]
    assert [decode_union(events.Input, encode(event), 1 << 20) for event in inputs] == inputs
