"""What a start does not begin from: anything that its own key, committees and certified headers do not vouch for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from consensus.market.ledger_state import Ledger
from consensus.membership import Draw, Term
from contracts.typed_data import Address, Digest, Signature, Uint256
from gossip.messages import encode
from gossip.messages.committee import CertifiedBatch, Precommit, batch_hash
from node import snapshot
from node.errors import ReplayFailed
from node.roles.snapshots import KEPT
from node.snapshot import Followed, Seal, encode_snapshot
from node.store import open_store
from tests.consensus.builders import WEI, World, key
from tests.node.roles.followed import (
    END,
    NEWCOMERS,
    OWNER,
    adopt,
    begun,
    chain,
    drawn,
    known,
    lived,
    replayed,
    state_at,
)


async def seal_anew(path: Path, change: Callable[[Followed], Followed], height: int = 15) -> None:
    """Change a snapshot as only this node itself could: with its seal."""
    async with open_store(path) as store:
        stored = await store.snapshot(height)
        assert stored is not None
        data = encode_snapshot(change(snapshot.decode_snapshot(height, stored[0])))
        seal = Seal(OWNER, chain().world.terms, chain().world.ledger())
        await store.put_snapshot(height, data, seal.mark(height, data), keep=KEPT)


def with_ledger(**changes: Any) -> Callable[[Followed], Followed]:
    return lambda held: replaced(held, ledger=replace(held.ledger, **changes))


def replaced(held: Followed, **changes: Any) -> Followed:
    return Followed(**({name: getattr(held, name) for name in Followed.__dataclass_fields__} | changes))


def other_ledger_fields() -> dict[str, object]:
    """Each field of the ledger as it is not, at height 15."""
    world, ledger = chain().world, state_at(15)
    someone, one = key("someone").address, Digest(b"\x01" * 32)
    use = next(iter(ledger.sessions[ledger.day].values()))
    return {
        "height": 14,
        "slot": ledger.slot + 1,
        "day": ledger.day + 1,
        "parent": batch_hash(chain().batches[13].header),
        "beacon": one,
        "total_credited": Uint256(1),
        "credits": {someone: Uint256(10**30)},
        "days": {**ledger.days, ledger.day: replace(ledger.account, budget_wei=Uint256(10**30))},
        "sessions": {ledger.day: {someone: use}},
        "indexes": {},
        "speed": {},
        "penalties": {},
        "penalised": {},
        "commitments": {},
        "outcomes": ledger.outcomes[:1],
        "bootstrap_credited": Uint256(1),
        "day_credits": {someone: Uint256(1)},
        "committees": (*ledger.committees[:-1], Term(7, drawn(NEWCOMERS, WEI))),
        "drawn": Draw(2, Term(8, drawn(world.members, WEI))),
        "since": 1,
        "is_rescued": True,
        "ranks": {ledger.day: {someone: 3}},
        "pairs": {ledger.day: {someone + someone: 3}},
        "audits": replace(ledger.audits, forfeited_wei=Uint256(1)),
        "listing": replace(ledger.listing, lists={}),
    }


OTHERWISE = {"height": "height", "parent": "parent", "committees": "epochs"}
"""What a snapshot is refused for; for everything else it is the state root."""


@pytest.mark.parametrize("name", Ledger.__struct_fields__)
async def test_a_ledger_of_which_any_field_differs_is_not_believed(tmp_path: Path, name: str) -> None:
    path, other = tmp_path / "node.sqlite", other_ledger_fields()[name]
    await lived(path)
    await seal_anew(path, with_ledger(**{name: other}))
    async with begun(path) as one:
        assert one.log.refused() == [(15, OTHERWISE.get(name, "state_root"))]
        assert one.log.said[-1][:2] == ("stored batches followed", END)
        assert await one.node.store.snapshot_heights() == [13, 11], "the one before was; the bad one is gone"
        found = known(one.public)
    assert found == await replayed(path)


def cut(held: Followed) -> dict[int, Any]:
    """A hand-over that half of the stake has signed."""
    signed = held.hand_overs[1]
    return {1: replace(signed, signatures=signed.signatures[:2])}


def aside(held: Followed) -> dict[int, Any]:
    """A hand-over to somebody else."""
    signed = held.hand_overs[1]
    return {1: replace(signed, hand_over=replace(signed.hand_over, next_root=Digest(b"\x01" * 32)))}


LINES: dict[str, Callable[[Followed], dict[str, Any]]] = {
    "nobody": lambda _: {"epochs": {}},
    "no genesis": lambda held: {"epochs": {number: term for number, term in held.epochs.items() if number > 1}},
    "a gap": lambda held: {"epochs": {number: term for number, term in held.epochs.items() if number != 2}},
    "an end too soon": lambda held: {"epochs": {number: term for number, term in held.epochs.items() if number < 7}},
    "strangers": lambda held: {"epochs": {**held.epochs, 2: Term(2, drawn([*NEWCOMERS, OWNER], WEI))}},
    "other genesis": lambda held: {"epochs": {**held.epochs, 1: Term(1, drawn(NEWCOMERS, WEI))}},
    "no hand-over": lambda _: {"hand_overs": {}},
    "half a hand-over": lambda held: {"hand_overs": cut(held)},
    "another hand-over": lambda held: {"hand_overs": aside(held)},
    "no rescue": lambda _: {"rescues": {}},
    "a rescue elsewhere": lambda _: {"rescues": {7: 14}},
    "a rescue that was none": lambda held: {"rescues": {**held.rescues, 2: 11}},
}


@pytest.mark.parametrize("case", LINES)
async def test_a_committee_that_nobody_vouches_for_certifies_nothing(tmp_path: Path, case: str) -> None:
    path = tmp_path / "node.sqlite"
    await lived(path)
    await seal_anew(path, lambda held: replaced(held, **LINES[case](held)))
    async with begun(path) as one:
        assert one.log.refused() == [(15, "epochs")]
        found = known(one.public)
    assert found == await replayed(path)


async def rewrite(path: Path, height: int, edit: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> None:
    """Change a snapshot on the disk."""
    async with open_store(path) as store:
        stored = await store.snapshot(height)
        assert stored is not None
        await store.put_snapshot(height, *edit(*stored), keep=KEPT)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


TORN: dict[str, Callable[[bytes, bytes], tuple[bytes, bytes]]] = {
    "first byte": lambda data, mark: (flipped(data, 0), mark),
    "middle": lambda data, mark: (flipped(data, len(data) // 2), mark),
    "last byte": lambda data, mark: (flipped(data, len(data) - 1), mark),
    "seal": lambda data, mark: (data, flipped(mark, 5)),
    "torn": lambda data, mark: (data[: len(data) // 2], mark),
    "zeroes at the end": lambda data, mark: (data[:-100] + bytes(100), mark),
    "nothing": lambda _, __: (b"", b""),
}


@pytest.mark.parametrize("case", TORN)
async def test_a_torn_or_changed_snapshot_is_not_believed(tmp_path: Path, case: str) -> None:
    path = tmp_path / "node.sqlite"
    await lived(path)
    await rewrite(path, 15, TORN[case])
    async with begun(path) as one:
        assert one.log.refused() == [(15, "seal")]
        found = known(one.public)
    assert found == await replayed(path)


async def test_a_snapshot_of_another_height_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    await lived(path)
    async with open_store(path) as store:
        older = await store.snapshot(13)
    assert older is not None
    await rewrite(path, 15, lambda *_: older)
    async with begun(path) as one:
        assert one.log.refused() == [(15, "seal")]


async def test_bytes_that_are_no_snapshot_are_not_believed_though_they_are_sealed(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    await lived(path)
    seal = Seal(OWNER, chain().world.terms, chain().world.ledger())
    await rewrite(path, 15, lambda data, _: (data[:-1], seal.mark(15, data[:-1])))
    async with begun(path) as one:
        assert one.log.refused() == [(15, "encoding")]


async def test_another_keys_snapshots_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    await lived(path)
    async with begun(path, key("somebody else")) as one:
        assert one.log.refused() == [(15, "seal"), (13, "seal"), (11, "seal")]
        assert "no snapshot is believed: following every stored batch since genesis" in [
            said[0] for said in one.log.said
        ]
        assert await one.node.store.snapshot_heights() == []
        found = known(one.public)
    assert found == await replayed(path)


@pytest.mark.parametrize("case", ["state_root", "certificate"])
async def test_another_genesis_begins_from_no_snapshot_and_harms_none(tmp_path: Path, case: str) -> None:
    """A wrong network file: the start names the first batch that doesn't follow, and all is there for the right one."""
    path, world = tmp_path / "node.sqlite", chain().world
    prices, others = world.ledger(reference_price_wei=2 * 10**11), World(world.terms, member_count=5).ledger()
    await lived(path)
    with pytest.raises(ReplayFailed) as failed:
        async with begun(path, genesis=prices if case == "state_root" else others):
            pass
    assert (failed.value.height, failed.value.field) == (1, case)
    async with begun(path) as one:
        assert one.log.begun == [15]
        assert not one.log.refused()
        assert one.public.ledger.height == END


# The stored batches.


async def edit_batch(path: Path, height: int, edit: Callable[[CertifiedBatch], bytes | None]) -> None:
    """Change a stored batch on the disk, or delete it."""
    async with open_store(path) as store:
        batch = await store.get_batch(height)
        assert batch is not None
        data = edit(batch)
        if data is None:
            await store._worker.write(lambda db: db.execute("DELETE FROM batch WHERE height = ?", (height,)))
        else:
            await store._worker.write(
                lambda db: db.execute("UPDATE batch SET data = ? WHERE height = ?", (data, height))
            )


def without_quorum(batch: CertifiedBatch) -> bytes:
    return encode(replace(batch, certificate=replace(batch.certificate, signatures=batch.certificate.signatures[:2])))


def with_other_root(batch: CertifiedBatch) -> bytes:
    """Certified by those whom the rescue replaced: they decided once."""
    chain_, header = chain(), replace(batch.header, total_credited=Uint256(10**30))
    term = chain_.batches[13].header.committee_root
    header = replace(header, committee_root=term)
    vote = Precommit(header.height, 0, batch_hash(header), term)
    signed: dict[Address, Signature] = {one.address: one.sign(vote, chain_.world.domain) for one in NEWCOMERS}
    certificate = replace(
        batch.certificate,
        batch_hash=vote.batch_hash,
        committee_root=term,
        signatures=tuple(signed[who] for who in sorted(signed)),
    )
    return encode(CertifiedBatch(header, certificate, batch.body))


BATCHES: dict[str, tuple[str, Callable[[CertifiedBatch], bytes | None]]] = {
    "gone": ("epochs", lambda _: None),
    "no quorum": ("epochs", without_quorum),
    "an earlier committee": ("epochs", with_other_root),
    "no batch": ("batch", lambda batch: encode(batch)[:-9]),
}


@pytest.mark.parametrize("case", BATCHES)
async def test_where_the_rescues_batch_is_missing_the_log_ends_and_comes_again(tmp_path: Path, case: str) -> None:
    path = tmp_path / "node.sqlite"
    named, edit = BATCHES[case]
    await lived(path)
    await edit_batch(path, 15, edit)
    async with begun(path) as one:
        assert one.log.refused() == [(15, named)]
        assert one.public.ledger.height == 14, "from the one of height 13; what is not certified ends the log"
        assert one.public.rescued is None
        await adopt(one, END)
        found = known(one.public)
    assert found == await replayed(path)


PLAIN: dict[str, tuple[str, Callable[[CertifiedBatch], bytes | None]]] = {
    "gone": ("batch", lambda _: None),
    "no quorum": ("certificate", without_quorum),
    "another height": ("batch", lambda _: encode(chain().batches[11])),
    "another header": (
        "certificate",
        lambda batch: encode(replace(batch, header=replace(batch.header, state_root=Digest(b"\x01" * 32)))),
    ),
    "no batch": ("batch", lambda batch: encode(batch)[:-9]),
}


@pytest.mark.parametrize("case", PLAIN)
async def test_without_a_certified_header_a_snapshot_is_worth_nothing(tmp_path: Path, case: str) -> None:
    path = tmp_path / "node.sqlite"
    named, edit = PLAIN[case]
    await lived(path, [11, 13])
    await edit_batch(path, 13, edit)
    async with begun(path) as one:
        assert one.log.refused() == [(13, named)]
        assert one.public.ledger.height == 12
        await adopt(one, END)
        found = known(one.public)
    assert found == await replayed(path)


async def test_a_body_that_was_not_certified_ends_the_log(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    await lived(path, [6])
    await edit_batch(path, 8, lambda batch: encode(replace(batch, body=replace(batch.body, settlements=()))))
    async with begun(path) as one:
        assert one.public.ledger.height == 7
        assert ("stored batch is not certified: dropped with what follows", 8, None) in one.log.said
        await adopt(one, END)
        found = known(one.public)
    assert found == await replayed(path)
