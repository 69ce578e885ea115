"""A start from a snapshot leads where a replay leads, in everything; snapshots are taken when they are due."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from consensus.market.beacons import Beacons
from consensus.market.history import History
from consensus.market.ledger_state import encode_ledger, state_root
from contracts.typed_data import Uint256
from gossip.messages.committee import CertifiedBatch
from node import snapshot
from node.roles import snapshots
from node.roles.public import PublicState
from node.snapshot import Followed, encode_snapshot
from tests.consensus.builders import key
from tests.node.roles.followed import (
    END,
    OWNER,
    SAVED,
    Begun,
    adopt,
    begun,
    known,
    lived,
    replayed,
    state_at,
)
from tests.node.roles.harness import eventually, open_lab
from tests.node.roles.test_roles_committee import file


@pytest.mark.parametrize("saved", SAVED)
async def test_a_start_from_a_snapshot_knows_all_that_a_replay_knows(tmp_path: Path, saved: int) -> None:
    path = tmp_path / "node.sqlite"
    await lived(path, [saved])
    async with begun(path) as one:
        assert not one.log.refused()
        assert ("stored batches followed", END, None) in one.log.said
        assert one.public.ledger.height == END
        found = known(one.public)
    whole = await replayed(path)
    assert whole["epochs"].keys() == {1, 2, 7}
    assert whole["hand_overs"].keys() == {1}
    assert whole["rescues"] == {7: 15}
    assert whole["days"].keys() == {0, 1, 2, 3}, "days that the ledger has forgotten are there"
    assert any(points for _, points in whole["beacons"])
    assert found == whole


async def test_both_go_on_alike(tmp_path: Path) -> None:
    """And what comes after a start is followed by either in the same way, and kept in the next snapshot."""
    path, other = tmp_path / "node.sqlite", tmp_path / "other.sqlite"
    async with begun(path) as one:
        await adopt(one, 6)
        await one.snapshots.take()
    async with begun(path) as one:
        await adopt(one, 13)
        await one.snapshots.take()
    async with begun(path) as one, begun(other) as always:
        await adopt(one, END)
        await adopt(always, END)
        assert known(one.public) == known(always.public)


async def test_batches_before_the_snapshot_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    await lived(path)
    async with begun(path) as one:
        await one.node.store._worker.write(lambda db: db.execute("DELETE FROM batch WHERE height < 15"))
    async with begun(path) as one:
        assert one.public.ledger.height == END
        assert not one.log.refused()


# Taking them.


async def test_snapshots_are_taken_when_due_and_the_newest_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "EVERY_BATCHES", 4)
    async with begun(tmp_path / "node.sqlite") as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.snapshots.run)
        for taken in (4, 8, 12, 16):
            await adopt(one, taken)
            await until_taken(one, taken)
        await adopt(one, END)
        assert await one.node.store.snapshot_heights() == [16, 12, 8]
        nursery.cancel_scope.cancel()


async def test_settlements_bring_one_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "EVERY_SETTLEMENTS", 6)
    async with begun(tmp_path / "node.sqlite") as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.snapshots.run)
        await adopt(one, 3)
        await until_taken(one, 3)
        nursery.cancel_scope.cancel()


async def test_a_start_that_is_broken_off_need_not_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.sqlite"
    await lived(path)
    monkeypatch.setattr(snapshots, "EVERY_BATCHES", 4)
    replayed_by, replay_one = list[int](), PublicState._replay_one

    def broken_off(public: PublicState, batch: CertifiedBatch) -> None:
        if batch.header.height == 10 and not replayed_by:
            raise KeyboardInterrupt
        replay_one(public, batch)

    monkeypatch.setattr(PublicState, "_replay_one", broken_off)
    owner = key("somebody else")  # who believes none of those there are
    with pytest.raises(KeyboardInterrupt):
        async with begun(path, owner):
            pass
    replayed_by.append(1)
    async with begun(path, owner) as one:
        assert one.log.refused() == [(15, "seal"), (13, "seal")]
        assert one.log.begun == [8]
        assert await one.node.store.snapshot_heights() == [16]
        found = known(one.public)
    assert found == await replayed(path)


async def until_taken(one: Begun, height: int) -> None:
    await eventually(lambda: one.node.store.snapshot(height), f"the snapshot of height {height}")


async def test_a_member_that_begins_from_its_snapshot_decides_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole nodes: three of four are needed, and one of the three has forgotten the first batches."""
    monkeypatch.setattr(snapshots, "EVERY_BATCHES", 2)
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        world = lab.world()
        for height in (1, 2):
            file(members[0], world.settlement(session=f"session {height}"))
            await lab.settled_height(height)
        await eventually(lambda: members[3].node.store.snapshot(2), "the snapshot")
        ledger = encode_ledger(members[3].parts.public.ledger)
        await members[2].stop()
        await members[3].stop()
        async with lab.bare("member3") as node:
            await node.store._worker.write(lambda db: db.execute("DELETE FROM batch WHERE height < 2"))
        back = await lab.start_member(3)
        assert encode_ledger(back.parts.public.ledger) == ledger
        await lab.linked()
        file(members[0], world.settlement(session="session 3"))
        await lab.settled_height(3)
        assert len({state_root(one.parts.public.ledger) for one in lab.members}) == 1


def test_amounts_of_any_size_are_kept() -> None:
    held, much = state_at(END), Uint256(2**90)
    audits = replace(held.audits, immature_wei=much, forfeited_wei=much, opinions_wei=much)
    before = replace(held, day=held.day - 1, bootstrap_credited=Uint256(0))
    after = replace(held, audits=audits, bootstrap_credited=much, day_credits={OWNER.address: much})
    history = History(before)
    history.note(before, after)
    followed = Followed(after, history.days, Beacons(), {}, {}, {})
    read = snapshot.decode_snapshot(END, encode_snapshot(followed))
    assert read.days == history.days
    assert read.days[held.day].leaders == ((OWNER.address, much),)
    assert read.days[held.day - 1].bootstrap_wei == much
