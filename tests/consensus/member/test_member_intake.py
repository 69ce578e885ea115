"""Whatever others send, the log of a height keeps room for the member's own inputs, and honest inputs are taken."""

from msgspec.structs import replace

from consensus.market.batch import MAX_BODY_BYTES
from consensus.member import events
from consensus.member.events import Effect, Input
from consensus.member.height import MAX_ROUNDS_AHEAD, Height
from consensus.member.intake import PROPOSALS_PER_ROUND, Intake, Refused, Shares, is_others
from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.messages.base import encode, sign
from gossip.messages.committee import MAX_MEMBERS, BatchBody, Precommit, Prevote, Proposal, ProposalFrame, batch_hash
from tests.consensus.builders import World, named_digest
from tests.consensus.member.cores import Committee

SMALL = Shares(proposals=0, votes_of_member=2_000, filings=4_000, own_filings=4_000)


def heard(
    world: World, *, round_: int = 0, number: int = 0, proposer: Key | None = None, height: int = 1
) -> events.ProposalHeard:
    """A signed proposal; ``number`` tells its batch from others."""
    header, body, _ = world.propose(world.ledger(), [])
    header = replace(header, state_root=named_digest(str(number)))
    member = proposer or next(m for m in world.members if m.address == world.committee.proposer(height, round_))
    proposal = Proposal(height, round_, 0, batch_hash(header), member.address)
    return events.ProposalHeard(ProposalFrame(sign(proposal, member, world.domain), header, body))


def take(world: World, intake: Intake, event: Input, height: Height | None = None) -> Refused | None:
    return intake.take(event, height or Height(1), world.committee)


def test_shares_leave_room_for_own_inputs() -> None:
    shares = Shares()
    most = shares.proposals + MAX_MEMBERS * shares.votes_of_member + shares.filings + shares.own_filings
    assert most + (256 << 20) <= 768 << 20


def test_a_third_proposal_for_one_round_is_its_proposers_fault() -> None:
    world, intake = World(member_count=4), Intake(1)
    for number in range(PROPOSALS_PER_ROUND):
        assert take(world, intake, heard(world, number=number)) is None
        assert take(world, intake, heard(world, number=number)) == Refused(None), "said again, it is not logged again"
    refused = take(world, intake, heard(world, number=9))
    assert refused is not None
    assert refused.sender == world.committee.proposer(1, 0)
    assert take(world, intake, heard(world, round_=1)) is None, "another member's round"


def test_a_proposal_out_of_turn_or_place_is_not_taken() -> None:
    world, intake = World(member_count=4), Intake(1)
    stranger = next(m for m in world.members if m.address != world.committee.proposer(1, 0))
    refused = take(world, intake, heard(world, proposer=stranger))
    assert refused is not None
    assert refused.sender == stranger.address
    assert take(world, intake, heard(world, height=2)) == Refused(None)
    assert take(world, intake, heard(world, round_=MAX_ROUNDS_AHEAD + 1)) == Refused(None)
    assert take(world, intake, heard(world, round_=MAX_ROUNDS_AHEAD)) is None


def test_a_proposers_bodies_have_a_share_of_two_whole_batches_at_least() -> None:
    world, intake = World(member_count=4), Intake(1, SMALL)
    large = world.settlement(rivals=[world.bid(f"rival {number}") for number in range(6)])
    count = (MAX_BODY_BYTES - 1_000) // len(encode(large))
    turns = [r for r in range(12) if world.committee.proposer(1, r) == world.committee.proposer(1, 0)]
    taken = 0
    for round_ in turns:
        event = heard(world, round_=round_)
        body = BatchBody(None, (), (large,) * count)
        taken += take(world, intake, events.ProposalHeard(replace(event.frame, body=body))) is None
    assert taken == PROPOSALS_PER_ROUND < len(turns)


def test_votes_are_taken_once_and_have_a_share_by_member() -> None:
    world, intake, height = World(member_count=4), Intake(1, SMALL), Height(1)
    first, second = world.members[:2]

    def vote(member: Key, round_: int, at: int = 1) -> events.PrevoteHeard:
        return events.PrevoteHeard(
            sign(Prevote(at, round_, 0, Digest(b"\x01" * 32)), member, world.domain), member.address
        )

    assert take(world, intake, vote(first, 0), height) is None
    height.keep(vote(first, 0).vote, first.address)
    assert take(world, intake, vote(first, 0), height) == Refused(None)
    assert take(world, intake, vote(first, 0, at=2), height) == Refused(None)
    refusals = [take(world, intake, vote(first, round_), height) for round_ in range(1, 60)]
    assert refusals[0] is None
    assert refusals[-1] is not None
    assert refusals[-1].sender == first.address
    assert take(world, intake, vote(second, 0), height) is None, "nobody's flood costs another member's votes"
    precommit = Precommit(1, 0, Digest(b"\x01" * 32), world.committee.root)
    heard_last = events.PrecommitHeard(sign(precommit, second, world.domain), second.address)
    assert take(world, intake, heard_last, height) is None


def test_own_filings_wait_where_others_are_refused() -> None:
    world, intake = World(), Intake(1, SMALL)
    seen: dict[bool, Refused | None] = {}
    for own in (False, True):
        for number in range(60):
            seen[own] = take(world, intake, events.SettlementHeard(world.settlement(session=f"s{number}"), own=own))
            if seen[own] is not None:
                break
    assert [refused is not None and refused.is_own for refused in (seen[False], seen[True])] == [False, True]


def test_a_polka_is_taken_once() -> None:
    world, intake = World(), Intake(1)
    polka = events.PolkaHeard(1, 0, Digest(b"\x01" * 32), (Address(b"\x01" * 20),))
    assert take(world, intake, polka) is None
    assert take(world, intake, polka) == Refused(None)
    assert take(world, intake, replace(polka, height=2)) == Refused(None)


def test_what_a_member_must_hear_of_itself_is_always_taken() -> None:
    world, intake = World(), Intake(1, Shares(0, 0, 0, 0))
    for event in (events.SlotBegan(3), events.OpeningJudged(Digest(b"\x01" * 32), is_fair=True)):
        assert not is_others(event)
        assert take(world, intake, event) is None


def test_honest_members_decide_with_all_inputs_judged_and_bodies_logged_once() -> None:
    """A proposer is dead for a round: its batch's body comes once, whoever proposes it again."""
    committee = Committee.of(World(member_count=4))
    intakes = {address: Intake(1) for address in committee.cores}
    taken: list[Input] = []
    for address, core in committee.cores.items():

        def judge(
            event: Input, address: Address = address, core: object = core, handle: object = core.handle
        ) -> list[Effect]:
            own = committee.cores[address]
            match event:
                case events.ProposalHeard(frame) if frame.proposal.payload.batch_hash in own.height.values:
                    event = events.ReproposalHeard(frame.proposal)
            if intakes[address].height != own.height.number:
                intakes[address] = Intake(own.height.number)
            if intakes[address].take(event, own.height, own.ledger.committee) is not None:
                return []
            taken.append(event)
            return handle(event)  # type: ignore[operator,no-any-return]  # the core's own method

        core.handle = judge  # type: ignore[method-assign]  # as its shell does it
    committee.give(events.SlotBegan(3))
    for height in range(1, 4):
        settlement = committee.world.settlement(session=f"session {height}")
        committee.give(events.SettlementHeard(settlement, own=True), committee.proposer(0, height))
        committee.give(events.SlotBegan(3 + height))
    assert {core.ledger.height for core in committee.cores.values()} >= {3}
    assert any(isinstance(event, events.ProposalHeard) for event in taken)
