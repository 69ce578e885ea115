"""Members that decide: with everybody there, with the proposer gone, with too many gone, and over a change of day."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from consensus.market.access import WEI, rank
from consensus.market.ledger_state import state_root
from consensus.tendermint.certificate import signers_of, verify_certificate
from consensus.tendermint.types import Step
from contracts.emission import daily_budget
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Address, Digest
from gossip.errors import MessageError
from gossip.messages import sign
from gossip.messages.base import encode
from gossip.messages.committee import (
    BatchBody,
    CertifiedBatch,
    Precommit,
    PrecommitFrame,
    PrevoteFrame,
    Proposal,
    ProposalFrame,
    batch_hash,
    decode_link_frame,
)
from gossip.messages.session import Settlement
from node.app import start_roles
from node.context import now_ms
from node.errors import GuardMoved, Unanswerable
from node.roles.balances import Balances
from node.roles.evidence import EvidencePool
from node.roles.feed import Feed
from node.roles.member import GUARD_FILE
from node.roles.public import PublicState
from node.roles.sync import Sync
from node.roles.voice import LISTEN_SLOTS, Voice
from node.signing_guard import open_guard
from node.signing_history import Place
from tests.node.roles.fakes import MEMBERS
from tests.node.roles.harness import PRICE, SHORT, Lab, Running, Wire, eventually, open_lab, until


def file(member: Running, settlement: Settlement) -> None:
    """As its desk does once both sides of a session have filed."""
    member.member_parts()[2]._hand_over(settlement)


async def batch_of(running: Running, height: int) -> CertifiedBatch:
    batch = await running.node.store.get_batch(height)
    assert batch is not None
    return batch


def proposer_of(lab: Lab, height: int, round_: int = 0) -> Running:
    return lab.member(lab.committee.proposer(height, round_))


async def test_a_batch_that_comes_while_a_member_starts_reaches_its_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        await members[0].stop()
        file(members[1], lab.world().settlement(tokens=40))
        await lab.settled_height(1)
        load = Balances.load

        async def slow(balances: Balances) -> None:
            """As on a busy disk: the batch is adopted meanwhile."""
            await load(balances)
            await eventually(lambda: balances._node.store.get_batch(1), "the batch")

        monkeypatch.setattr(Balances, "load", slow)
        late = await lab.start_member(0)
        assert late.parts.public.ledger.height == 1
        await until(lambda: late.member_parts()[3].height.number == 2, "the core's next height")


async def test_decisions_with_members_coming_and_going(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        world = lab.world()
        full = await lab.start("full", ("full",))
        await lab.knows(full)

        # Everybody is there.
        settlement = world.settlement(tokens=100)
        file(members[0], settlement)
        await lab.settled_height(1)
        batch = await batch_of(full, 1)
        verify_certificate(batch.certificate, batch.header, lab.committee, lab.terms.domain)
        assert batch.body.settlements == (settlement,)
        assert {state_root(one.parts.public.ledger) for one in lab.running.values()} == {batch.header.state_root}
        assert full.parts.public.ledger.credits == {settlement.ticket.payload.bid.payload.provider: 100 * PRICE}
        # one that hears the batch by gossip has it before its core does
        await until(lambda: all(len(member.member_parts()[3].pool) == 0 for member in members), "empty pools")
        outcome = await full.node.store.outcome(settlement.ticket.id(lab.terms.domain))
        assert outcome is not None
        assert (outcome.tokens, outcome.reason) == (100, "credited")
        await until(lambda: full.parts.public.heard_height == 1, "gossip of the batch")

        # The proposer of round 0 is dead.
        dead = proposer_of(lab, 2)
        await dead.stop()
        file(lab.members[0], world.settlement(tokens=50))
        await lab.settled_height(2)
        batch = await batch_of(full, 2)
        verify_certificate(batch.certificate, batch.header, lab.committee, lab.terms.domain)
        assert batch.certificate.round >= 1
        assert batch.header.proposer != dead.address
        assert batch.header.proposer == lab.committee.proposer(2, batch.certificate.round)

        # Two of four are dead: nothing is decided.
        second = lab.members[0]
        await second.stop()
        third = world.settlement(tokens=25)
        file(lab.members[0], third)
        begun = lab.members[0].node.slot()
        await until(
            lambda: all(len(one.member_parts()[3].pool) == 1 for one in lab.members), "both to know the settlement"
        )
        await until(lambda: lab.members[0].node.slot() >= begun + 5, "five slots")
        assert [one.height for one in lab.members] == [2, 2]

        # One returns with its store.
        back = await lab.start_member(int(second.name.removeprefix("member")))
        assert back.height == 2
        await lab.settled_height(3)
        batch = await batch_of(back, 3)
        verify_certificate(batch.certificate, batch.header, lab.committee, lab.terms.domain)
        assert batch.body.settlements == (third,)
        assert len({state_root(one.parts.public.ledger) for one in lab.running.values()}) == 1
        await late_node(lab, full)


async def late_node(lab: Lab, peer: Running) -> None:
    """A node that comes late learns by asking: the batches, and the book."""
    async with lab.bare("late") as node:
        public = PublicState(node, lab.genesis())
        sync = Sync(node, public, Feed(node, public), EvidencePool(node, public))
        await node.network.connect(peer.node.network.multiaddrs, timeout=5)
        assert await sync.pull_batches(peer.node.network.peer_id) == peer.height == 3
        assert await sync.pull_batches(peer.node.network.peer_id) == 0
        assert state_root(public.ledger) == state_root(peer.parts.public.ledger)
        await sync.pull_book(peer.node.network.peer_id)
        assert all(public.book.record(member.address, now_ms()) for member in lab.members)
    async with lab.bare("late") as node:
        public = PublicState(node, lab.genesis())
        await public.replay()
        assert state_root(public.ledger) == state_root(peer.parts.public.ledger), "its own store tells the same"


async def test_a_member_signs_nothing_below_its_watermark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its guard says that it signed height 9 before: it follows the others, and says nothing."""
    wire = Wire()
    wire.watch(monkeypatch)
    async with open_lab(tmp_path, monkeypatch) as lab:
        async with (
            lab.bare("member3", ("member",), MEMBERS[3]) as node,
            open_guard(node.config.data_dir / GUARD_FILE, node.key, node.terms.domain) as guard,
        ):
            await guard.skip_through(9)
        members = await lab.start_committee()
        for height in range(1, 5):
            file(members[0], lab.world().settlement(session=f"session {height}", index=height))
            await lab.settled_height(height)
        assert MEMBERS[3].address in {lab.committee.proposer(height, 0) for height in range(1, 5)}
        signers = {signer for _, frame in wire.frames if (signer := voter(frame, lab)) is not None}
        assert signers == {member.address for member in MEMBERS[:3]}


async def test_a_member_that_hears_its_own_key_says_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine has voted with it; replays of what was voted here change nothing."""
    wire = Wire()
    wire.watch(monkeypatch)
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        twin, other = members[3], members[0].address
        member, key = twin.member_parts()[0], MEMBERS[3]
        own: list[bytes] = []
        height = 0
        while not own:  # the three others may decide while this member still listens
            height += 1
            assert height < 10
            file(members[0], lab.world().settlement(session=f"session {height}", index=height))
            await lab.settled_height(height)
            own = [data for _, data in wire.frames if voter(data, lab) == twin.address]
        for data in own:
            await member.on_frame(other, decode_link_frame(data))
        status = await twin.parts.status.committee()
        assert status is not None
        assert status["key_used_elsewhere"] is None
        alien = sign(Precommit(height + 1, 0, Digest(b"\x07" * 32), lab.committee.root), key, lab.terms.domain)
        await member.on_frame(other, PrecommitFrame(alien))
        status = await twin.parts.status.committee()
        assert status is not None
        assert status["key_used_elsewhere"] == f"height {height + 1}, round 0, precommit"
        wire.frames.clear()
        for later in (height + 1, height + 2):
            file(members[0], lab.world().settlement(session=f"session {later}", index=later))
            await lab.settled_height(later)
        # what this member had said before is told again by the others, to itself
        said = set(own)
        signers = {voter(frame, lab) for _, frame in wire.frames if frame not in said} - {None}
        assert signers == {one.address for one in MEMBERS[:3]}
        await twin.stop()
        again = await lab.start_member(3)
        assert again.member_parts()[0]._guard is not None
        assert again.member_parts()[0]._guard.top == Place.end_of(height + 1)


async def test_members_tell_one_another_what_they_hold_of_the_others_votes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four decide nothing: what each of them holds of the other stays there to be told."""
    wire = Wire()
    wire.watch(monkeypatch)
    async with open_lab(tmp_path, monkeypatch) as lab:
        one, other = await lab.start_member(0), await lab.start_member(1)
        file(one, lab.world().settlement())
        peers = {running.node.network.peer_id: running.address for running in (one, other)}

        def echoed() -> set[Address]:
            heard = ((peers.get(to), voter(data, lab)) for to, data in wire.frames)
            return {to for to, signer in heard if to is not None and to == signer}

        await until(lambda: echoed() == set(peers.values()), "each one's own votes, told by the other")
        for running in (one, other):
            status = await running.parts.status.committee()
            assert status is not None
            assert status["key_used_elsewhere"] is None


async def test_a_member_listens_before_it_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has to sign meanwhile is signed afterwards: nobody waits for ever."""
    async with open_lab(tmp_path, monkeypatch, replace(SHORT, slot_ms=2_000)) as lab:
        for number in range(3):
            await lab.start_member(number)
        listened = {one.address: one.member_parts()[0]._voice for one in lab.members}
        file(lab.members[0], lab.world().settlement())
        await lab.settled_height(1)
        params = lab.terms.params
        for one in lab.members:
            voice = listened[one.address]
            assert voice is not None
            first_ms = lab.genesis_ms + (voice._begun + LISTEN_SLOTS) * params.slot_ms
            assert all(record.signed_ms >= first_ms for record in await one.member_parts()[0].history(100))
        signers = [len(await one.member_parts()[0].history(100)) > 0 for one in lab.members]
        assert all(signers)


async def test_a_certificate_tells_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a batch that was closed since this run began: an older one says nothing of now."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        file(members[0], lab.world().settlement())
        await lab.settled_height(1)
        batch = await batch_of(members[0], 1)
        signers = signers_of(batch.certificate, lab.terms.domain)
        signer = next(number for number, one in enumerate(MEMBERS) if one.address in signers)
        async with (
            lab.bare("elsewhere", ("member",), MEMBERS[signer]) as node,
            open_guard(tmp_path / "elsewhere.sqlite", Key(b"\x71" * 32), lab.terms.domain) as guard,
        ):
            voice = Voice(node, members[0].parts.public, members[0].member_parts()[3], guard)
            voice._begun = batch.header.slot + 1
            assert (voice.hear_batch(batch), voice.lost_to) == (None, None)
            voice._begun = batch.header.slot
            place = Place(1, batch.certificate.round, Step.PRECOMMIT)
            assert (voice.hear_batch(batch), voice.lost_to) == (place, place)
            await guard.skip_through(1)
            assert voice.hear_batch(batch) is None


async def test_a_member_whose_history_was_exported_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        async with (
            lab.bare("member3", ("member",), MEMBERS[3]) as node,
            open_guard(node.config.data_dir / GUARD_FILE, node.key, node.terms.domain) as guard,
        ):
            await guard.export_history(tmp_path / "history.jsonl")
        async with lab.bare("member3", ("member",), MEMBERS[3]) as node:
            with pytest.RaisesGroup(GuardMoved, flatten_subgroups=True):
                async with trio.open_nursery() as nursery:
                    await start_roles(node, lab.network, nursery)


async def test_a_restarted_member_remembers_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four decide nothing; what they said at the open height outlives a crash, and is said again."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        member, _ = await lab.start_member(0), await lab.start_member(1)
        file(member, lab.world().settlement())
        await until(lambda: len(member.member_parts()[3].height.own_frames) >= 1, "a vote")
        await member.stop()
        said = list(member.member_parts()[3].height.own_frames)
        again = (await lab.start_member(0)).member_parts()[3]
        assert again.height.own_frames[: len(said)] == said
        assert again.height.started
        restarted = lab.members[0].parts
        signed = await restarted.status.signed()
        assert signed is not None
        assert {record["height"] for record in signed} == {1}
        standing = await restarted.status.committee()
        assert standing is not None
        assert (standing["height"], standing["equivocators"]) == (1, ())
        assert standing["stake_wei"] * 4 == standing["total_stake_wei"]
        assert len(again.pool) == 1


def voter(data: bytes, lab: Lab) -> Address | None:
    """Who signed a vote or proposal; None for any other frame."""
    try:
        frame = decode_link_frame(data)
    except MessageError:
        return None
    if isinstance(frame, PrevoteFrame | PrecommitFrame):
        return frame.vote.signer(lab.terms.domain)
    return frame.proposal.signer(lab.terms.domain) if isinstance(frame, ProposalFrame) else None


async def test_s44_a_days_opening_tells_the_ranks_of_bidders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = replace(SHORT, slot_ms=300, day_slots=6, withhold_only_if_user_richer=True)
    async with open_lab(tmp_path, monkeypatch, params) as lab:
        provider = await lab.start_provider("provider")
        lab.chain.balances[provider.address] = 5 * WEI
        await lab.start_committee()
        one, watcher = lab.members[0].parts.public, await lab.start("watcher", ("full",))
        await until(lambda: provider.address in one.ledger.ranks.get(one.ledger.day, {}), "the provider's rank")
        assert one.ledger.ranks[one.ledger.day] == {provider.address: rank(5 * WEI)}
        reached = one.ledger.height
        await until(lambda: watcher.parts.public.ledger.height >= reached, "the watcher's ledger")
        assert provider.address in watcher.parts.public.ledger.ranks[watcher.parts.public.ledger.day]


def opened_by(public: PublicState, day: int) -> int:
    return public.history.days[day].account.opened_height


async def test_a_member_that_others_flood_lives_and_goes_on_deciding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four says all that its key can sign, again and again."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        world, domain = lab.world(), lab.terms.domain
        flooder = MEMBERS[3]
        victims = [running for running in members if running.address != flooder.address]
        file(victims[0], world.settlement())
        await lab.settled_height(1)
        turns = [r for r in range(40) if lab.committee.proposer(2, r) == flooder.address]
        large = world.settlement(rivals=[world.bid(f"rival {number}") for number in range(6)])
        header, _, _ = world.propose(world.ledger(), [])
        biggest = 0
        for number in range(40):
            body = BatchBody(None, (), (large,) * (100 + number))
            made = replace(header, height=2, body_root=body.root, proposer=flooder.address)
            proposal = Proposal(2, turns[number % 2], 0, batch_hash(made), flooder.address)
            frame = ProposalFrame(sign(proposal, flooder, domain), made, body)
            biggest = max(biggest, len(encode(frame)))
            precommit = sign(Precommit(2, number, Digest(b"\x07" * 32), lab.committee.root), flooder, domain)
            for victim in victims:
                await victim.member_parts()[0].on_frame(flooder.address, frame)
                await victim.member_parts()[0].on_frame(flooder.address, PrecommitFrame(precommit))
        logs = [log for victim in victims if (log := victim.member_parts()[0]._log) is not None]
        assert len(logs) == len(victims)
        for victim in victims:
            queue = victim.member_parts()[0]._events_out
            await until(lambda queue=queue: not queue.statistics().current_buffer_used, "the flood to be judged")  # type: ignore[misc]  # a default binds
        assert max(log._wal.size for log in logs) < 6 * biggest, "four of forty proposals, and some votes"
        file(victims[0], world.settlement(session="session 2", index=2))
        await until(lambda: all(victim.height >= 2 for victim in victims), "the others' next decision")


async def test_days_open_and_secrets_are_committed_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = replace(SHORT, slot_ms=300, day_slots=6)
    async with open_lab(tmp_path, monkeypatch, params) as lab:
        lab.chain.block, lab.chain.supply = 20, lab.chain.supply + 5
        await lab.start_committee()
        one = lab.members[0]
        seen: dict[int, CertifiedBatch] = {}

        async def opened(day: int) -> CertifiedBatch:
            await until(lambda: one.parts.public.ledger.day >= day, f"day {day}")
            async for batch in one.node.store.batches(1):
                seen.setdefault(batch.header.day, batch)
            return seen[day]

        batch = await opened(1)
        assert batch.body.opening is not None
        opening = batch.body.opening
        assert (opening.day, opening.snapshot_block, opening.supply_wei) == (1, 20, lab.chain.supply)
        assert opening.budget_wei == daily_budget(1)
        lab.chain.down = True
        committed = {item.payload.day for item in batch.body.commitments}
        assert committed >= {2, 3}, "nobody but genesis had committed to these days"
        assert committed == set(range(2, max(committed) + 1)), (
            "a busy machine may be a day on by then: it leaves none out"
        )

        # A day of which genesis knew nothing has secrets all the same, and an outage stops nothing.
        batch = await opened(3)
        assert batch.body.opening is not None
        assert batch.body.opening.snapshot_block == 20
        assert batch.header.reveal != ZERO_DIGEST
        verify_certificate(batch.certificate, batch.header, lab.committee, lab.terms.domain)
        assert lab.committee.weight(batch.header.proposer) > 0
        assert len(MEMBERS) == len(lab.members)

        # Any past day is explained, also by a node that has just replayed its store.
        again = PublicState(one.node, lab.genesis())
        await again.replay()
        shown = await one.parts.status.explain_day(1)
        assert shown["explanation"][0].startswith("Day 1: slots 6 to 11")
        assert f"MOR.totalSupply() at snapshot block 20, as batch {opened_by(again, 1)}" in "\n".join(
            shown["explanation"]
        )
        with pytest.raises(Unanswerable, match="day 1000000 has not begun: today is day"):
            await one.parts.status.explain_day(1_000_000)
        with pytest.raises(Unanswerable, match=r"the balance of 0x.*is not known"):
            await one.parts.status.explain_allowance(Address(bytes(20)))
