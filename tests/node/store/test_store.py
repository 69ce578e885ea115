"""The store's rooms: what goes in comes out, once, and in order."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from contracts.typed_data import Address, Digest
from gossip.messages.committee import CertifiedBatch
from inference.errors import SessionError
from node.errors import StoreConflict, StoreError
from node.store import Claim, JournalEvent, Outcome, Store, open_store
from tests.node.builders import DOMAIN, PROVIDER, batch, cosigned, ticket, voucher


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "node.sqlite") as opened:
        yield opened


def digest(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


async def collect(store: Store, from_height: int, limit: int | None = None) -> list[CertifiedBatch]:
    async with aclosing(store.batches(from_height, limit)) as found:
        return [item async for item in found]


# Batches.


async def test_batches_come_back_by_height(store: Store) -> None:
    assert await store.get_batch(1) is None
    for height in (1, 2, 3):
        assert await store.put_batch(batch(height))
    assert await store.get_batch(2) == batch(2)
    assert await store.get_batch(4) is None


async def test_a_batch_twice_is_one(store: Store) -> None:
    assert await store.put_batch(batch(1))
    assert not await store.put_batch(batch(1, signature=b"\x02" * 65)), "another certificate of the same batch"
    assert await store.get_batch(1) == batch(1)


async def test_another_batch_at_a_height_is_a_conflict(store: Store) -> None:
    await store.put_batch(batch(1))
    with pytest.raises(StoreConflict, match="height 1"):
        await store.put_batch(batch(1, slot=9))
    assert await store.get_batch(1) == batch(1)


async def test_iteration_is_consecutive_paged_and_limited(store: Store) -> None:
    for height in (*range(1, 150), 151):
        await store.put_batch(batch(height))
    assert [item.header.height for item in await collect(store, 1)] == list(range(1, 150))
    assert [item.header.height for item in await collect(store, 140, 5)] == list(range(140, 145))
    assert await collect(store, 150) == []
    assert len(await collect(store, 151)) == 1


async def test_outcomes(store: Store) -> None:
    first = Outcome(digest(1), 5, PROVIDER.address, 10, 10**30, "")
    other = Outcome(digest(2), 5, PROVIDER.address, 0, 0, "speed")
    await store.put_batch(batch(5), [first, other])
    await store.put_batch(batch(6), [Outcome(digest(1), 6, PROVIDER.address, 1, 1, "late")])
    assert await store.outcome(digest(1)) == first
    assert await store.outcome(digest(3)) is None
    assert await store.outcome(digest(2)) == other


async def test_credits_are_written_where_they_change_and_forgotten(store: Store) -> None:
    quiet = Address(b"\x05" * 20)
    await store.put_batch(batch(1), (), {PROVIDER.address: 2**100, quiet: 7}, keep=2)
    for height in (2, 3, 4):
        await store.put_batch(batch(height), (), {PROVIDER.address: 2**100 + height}, keep=2)
    assert await store.credits(4) == {PROVIDER.address: 2**100 + 4, quiet: 7}
    assert await store.credits(2) == {PROVIDER.address: 2**100 + 2, quiet: 7}
    assert await store.credits(1) == {quiet: 7}, "what was replaced long ago is forgotten"
    assert await store.credits(0) == {}


async def test_a_batch_and_what_it_did_are_stored_together_or_not_at_all(store: Store) -> None:
    """A start takes a stored batch for done: what it did would be missing for ever."""
    done = Outcome(digest(1), 5, PROVIDER.address, 10, 7, "")
    bad: Any = object()
    for outcomes, owed in (([replace(done, provider=bad)], {}), ([done], {bad: 7})):
        with pytest.raises(sqlite3.ProgrammingError):
            await store.put_batch(batch(5), outcomes, owed)
        assert await store.get_batch(5) is None
        assert await store.outcome(digest(1)) is None
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.put_batch(batch(5), [done], {PROVIDER.address: 7})
    assert await store.get_batch(5) is None
    await store.put_batch(batch(5), [done], {PROVIDER.address: 7})
    assert (await store.outcome(digest(1)), await store.credits(5)) == (done, {PROVIDER.address: 7})


async def test_batches_from_a_height_on_are_dropped(store: Store) -> None:
    for height in (1, 2, 3):
        await store.put_batch(batch(height))
    await store.drop_batches(2)
    assert [item.header.height for item in await collect(store, 1)] == [1]


async def test_the_newest_snapshots_are_kept(store: Store) -> None:
    assert await store.snapshot_heights() == []
    for height in (5, 9, 7, 11):
        await store.put_snapshot(height, b"data %d" % height, b"seal", keep=3)
    assert await store.snapshot_heights() == [11, 9, 7]
    assert await store.snapshot(9) == (b"data 9", b"seal")
    assert await store.snapshot(5) is None
    await store.put_snapshot(3, b"data 3", b"seal", keep=3)
    assert await store.snapshot_heights() == [11, 9, 3], "what is stored last stays, whatever else there is"
    await store.put_snapshot(9, b"again", b"other", keep=3)
    await store.drop_snapshot(11)
    assert await store.snapshot_heights() == [9, 3]
    assert await store.snapshot(9) == (b"again", b"other")


# Deliveries.


async def test_a_ticket_is_accepted_once(store: Store) -> None:
    signed = ticket(1)
    await store.accept_ticket(signed.id(DOMAIN), signed)
    with pytest.raises(SessionError, match="opened a session before") as caught:
        await store.accept_ticket(signed.id(DOMAIN), signed)
    assert caught.value.code == "ticket_used"


async def test_of_many_at_once_one_gets_the_ticket(store: Store) -> None:
    signed = ticket(1)
    accepted: list[int] = []

    async def attempt(number: int) -> None:
        try:
            await store.accept_ticket(signed.id(DOMAIN), signed)
        except SessionError:
            return
        accepted.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(attempt, number)
    assert len(accepted) == 1


async def test_the_highest_voucher_counts(store: Store) -> None:
    signed = ticket(1)
    ticket_id = signed.id(DOMAIN)
    assert not await store.put_voucher(ticket_id, voucher(ticket_id, 5)), "its ticket was never accepted"
    await store.accept_ticket(ticket_id, signed)
    assert await store.put_voucher(ticket_id, voucher(ticket_id, 5))
    assert await store.put_voucher(ticket_id, voucher(ticket_id, 9))
    assert not await store.put_voucher(ticket_id, voucher(ticket_id, 7))
    delivery = await store.delivery(ticket_id)
    assert delivery is not None
    assert delivery.voucher == voucher(ticket_id, 9)
    assert delivery.tokens == 9


async def test_what_is_not_filed_is_found_again(store: Store) -> None:
    for number in (1, 2, 3, 4, 5):
        await store.accept_ticket(ticket(number).id(DOMAIN), ticket(number, expires_ms=1_000))
    ids = [ticket(number).id(DOMAIN) for number in (1, 2, 3, 4, 5)]
    await store.put_voucher(ids[0], voucher(ids[0], 3))
    await store.put_receipt(ids[1], cosigned(ids[1], 4))
    await store.put_voucher(ids[2], voucher(ids[2], 3))
    await store.mark_filed(ids[2])
    assert await store.put_sent(ids[4], 7)
    assert not await store.put_sent(ticket(6).id(DOMAIN), 7)
    found = {held.ticket_id: (held.voucher, held.receipt, held.sent) for held in await store.unfiled_deliveries()}
    assert found == {
        ids[0]: (voucher(ids[0], 3), None, 0),
        ids[1]: (None, cosigned(ids[1], 4), 0),
        ids[3]: (None, None, 0),
        ids[4]: (None, None, 7),
    }
    await store.mark_filed(ids[4])
    assert ids[4] not in {held.ticket_id for held in await store.unfiled_deliveries()}


async def test_a_second_receipt_is_refused(store: Store) -> None:
    ticket_id = ticket(1).id(DOMAIN)
    await store.accept_ticket(ticket_id, ticket(1))
    assert await store.put_receipt(ticket_id, cosigned(ticket_id, 4))
    assert not await store.put_receipt(ticket_id, cosigned(ticket_id, 5))
    delivery = await store.delivery(ticket_id)
    assert delivery is not None
    assert delivery.receipt == cosigned(ticket_id, 4)


async def test_deliveries_are_forgotten_by_their_age(store: Store) -> None:
    expiries = {1: 1_000, 2: 1_000, 3: 1_001, 4: 1_002, 5: 3_000}
    ids = {number: ticket(number).id(DOMAIN) for number in expiries}
    for number, expires_ms in expiries.items():
        await store.accept_ticket(ids[number], ticket(number, expires_ms=expires_ms))
    for number in (2, 3, 4):
        await store.put_voucher(ids[number], voucher(ids[number], 3))
    await store.mark_filed(ids[3])
    assert await store.forget_deliveries(1_000) == (0, 0)
    assert await store.forget_deliveries(1_002) == (3, 1), "of three, one that no router has confirmed"
    assert [await store.delivery(ids[number]) is None for number in expiries] == [True, True, True, False, False]
    for number in range(10, 20):
        await store.accept_ticket(ticket(number).id(DOMAIN), ticket(number, expires_ms=500))
    assert await store.forget_deliveries(1_000, limit=4) == (4, 0)
    assert await store.forget_deliveries(1_000) == (6, 0)


# Claims, values, journal.


async def test_claims(store: Store) -> None:
    await store.put_claim(3, 2**90)
    await store.put_claim(1, 5, status="sent", tx_hash=b"\x01" * 32)
    assert [claim.height for claim in await store.open_claims()] == [1, 3]
    await store.put_claim(3, 2**90, amount_wei=2**80, tx_hash=b"\x02" * 32, gas=147_000, status="paid")
    assert await store.claims() == [
        Claim(1, 5, 0, b"\x01" * 32, 0, "sent"),
        Claim(3, 2**90, 2**80, b"\x02" * 32, 147_000, "paid"),
    ]
    assert [claim.height for claim in await store.claims(limit=1)] == [3]
    assert [claim.height for claim in await store.open_claims()] == [1]


async def test_values(store: Store) -> None:
    assert await store.get_value("name") is None
    await store.put_value("name", b"one")
    await store.put_value("name", b"two")
    assert await store.get_value("name") == b"two"


async def test_journal_is_in_order_and_numbers_are_never_reused(store: Store) -> None:
    assert await store.append("grant", b"one") == 1
    assert await store.append_all([("admit", b"two"), ("open", b"three")], durable=True) == [2, 3]
    assert await store.journal(after=1) == [JournalEvent(2, "admit", b"two"), JournalEvent(3, "open", b"three")]
    assert await store.trim_journal(3) == 3
    assert await store.journal() == []
    assert await store.append("grant", b"four") == 4


# The worker.


async def test_a_failed_change_leaves_nothing(store: Store) -> None:
    with pytest.raises(sqlite3.ProgrammingError):
        await store.append_all([("good", b"one"), ("bad", object())])  # type: ignore[list-item]  # the point
    assert await store.journal() == []
    assert await store.append("good", b"two") >= 1


async def test_a_cancelled_write_is_whole_or_absent(store: Store) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.append("never", b"")
    assert await store.journal() == []


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async with open_store(tmp_path / "node.sqlite") as store:
        pass
    with pytest.raises(StoreError, match="is closed"):
        await store.snapshot_heights()
