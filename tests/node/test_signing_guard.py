"""The signing guard: one message a place, through races, restarts, moves, damage and second owners."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from consensus.tendermint.types import Step
from contracts.signing import Key, recover
from contracts.typed_data import Digest, Domain, digest
from gossip.messages import Signed
from gossip.messages.committee import Precommit, Prevote, Proposal
from node import signing_guard
from node.errors import (
    GuardCorrupt,
    GuardInUse,
    GuardMismatch,
    GuardMissing,
    HistoryInvalid,
    SigningRefused,
    StoreError,
    StoreTooNew,
    StoreUnwritable,
)
from node.signing_file import SigningFile
from node.signing_guard import NotSafe, Safe, SameData, assess, open_guard
from node.signing_history import NOWHERE, Place
from tests.node.builders import DOMAIN

ROOT = Path(__file__).parents[2]
KEY = Key(b"\x61" * 32)
OTHER_KEY = Key(b"\x62" * 32)
OTHER_DOMAIN = Domain(DOMAIN.chain_id + 1, DOMAIN.contract)
A, B = Digest(b"\xaa" * 32), Digest(b"\xbb" * 32)


def proposal(height: int, round_: int = 0, value: Digest = A, key: Key = KEY) -> Proposal:
    return Proposal(height, round_, 0, value, key.address)


def prevote(height: int, round_: int = 0, value: Digest = A) -> Prevote:
    return Prevote(height, round_, 0, value)


def precommit(height: int, round_: int = 0, value: Digest = A) -> Precommit:
    return Precommit(height, round_, value, B)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "signing.sqlite"


def test_places_are_ordered_as_a_member_passes_through_them() -> None:
    passed = [
        Place.of(payload)
        for height in (1, 2)
        for round_ in (0, 1, 7)
        for payload in (proposal(height, round_), prevote(height, round_), precommit(height, round_))
    ]
    assert passed == sorted(passed)
    assert len(set(passed)) == len(passed)
    assert passed[8] < Place.end_of(1) < passed[9]
    assert min(passed) > NOWHERE
    assert str(passed[1]) == "height 1, round 0, prevote"


@pytest.mark.parametrize(
    ("watermark", "held", "outcome"),
    [
        (NOWHERE, None, Safe),
        (Place(5, 1, Step.PROPOSE), None, Safe),
        (Place(4, 9, Step.PRECOMMIT), None, Safe),
        (Place(5, 1, Step.PREVOTE), A, SameData),
        (Place(9, 0, Step.PREVOTE), A, SameData),
        (Place(5, 1, Step.PREVOTE), B, NotSafe),
        (Place(9, 0, Step.PREVOTE), B, NotSafe),
        (Place(5, 1, Step.PREVOTE), None, NotSafe),
        (Place(5, 1, Step.PRECOMMIT), None, NotSafe),
        (Place(6, 0, Step.PROPOSE), None, NotSafe),
    ],
)
def test_assessing(watermark: Place, held: Digest | None, outcome: type) -> None:
    place = Place(5, 1, Step.PREVOTE)
    found = assess(place, A, watermark, held)
    assert isinstance(found, outcome)
    assert found.place == place
    if isinstance(found, NotSafe):
        assert found.held == held


async def test_signs_what_the_others_accept(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        assert guard.address == KEY.address
        assert guard.path == path
        payloads: list[Proposal | Prevote | Precommit] = [proposal(1), prevote(1), precommit(1)]
        for payload in payloads:
            signed = await guard.sign(payload)
            assert signed.payload == payload
            assert signed.signer(DOMAIN) == KEY.address
        assert await guard.watermark() == Place(1, 0, Step.PRECOMMIT)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_signature_waits_for_the_disk(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        connection = guard._file._open_connection()
        settings = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]
        assert settings == [2, "truncate"]  # FULL


async def test_another_message_for_a_place_is_refused_with_both_digests(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.sign(prevote(3, 2, A))
        with pytest.raises(SigningRefused, match="height 3, round 2, prevote: another message") as caught:
            await guard.sign(prevote(3, 2, B))
        assert caught.value.place == Place(3, 2, Step.PREVOTE)
        assert caught.value.wanted == digest(DOMAIN, prevote(3, 2, B))
        assert caught.value.held == digest(DOMAIN, prevote(3, 2, A))
        assert len(await guard.history(10)) == 1


async def test_a_prevote_for_another_valid_round_is_another_message(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.sign(Prevote(1, 2, 0, A))
        with pytest.raises(SigningRefused):
            await guard.sign(Prevote(1, 2, 1, A))


@pytest.mark.parametrize("late", [proposal(5, 1), prevote(5, 0), precommit(4, 9), proposal(1)], ids=repr)
async def test_nothing_new_is_signed_below_the_watermark(path: Path, late: Proposal | Prevote | Precommit) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.sign(prevote(5, 1))
        with pytest.raises(SigningRefused, match="watermark") as caught:
            await guard.sign(late)
        assert caught.value.held is None
        assert await guard.watermark() == Place(5, 1, Step.PREVOTE)


async def test_what_was_signed_below_the_watermark_is_signed_again(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        first = await guard.sign(proposal(1))
        await guard.sign(precommit(9))
        assert await guard.sign(proposal(1)) == first
        assert await guard.watermark() == Place(9, 0, Step.PRECOMMIT)


async def test_a_proposal_in_another_name_is_refused(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        with pytest.raises(SigningRefused, match=OTHER_KEY.address.hex()):
            await guard.sign(proposal(1, key=OTHER_KEY))
        assert await guard.watermark() == NOWHERE


async def test_of_ten_conflicting_signers_one_wins(path: Path) -> None:
    won: list[Signed[Precommit]] = []
    refused: list[SigningRefused] = []

    async with open_guard(path, KEY, DOMAIN) as guard:

        async def contend(number: int) -> None:
            payload = precommit(7, 0, Digest(bytes([number]) * 32))
            try:
                # each from a thread of its own
                signed = await trio.to_thread.run_sync(lambda: trio.from_thread.run(guard.sign, payload))
            except SigningRefused as error:
                refused.append(error)
            else:
                won.append(signed)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(contend, number)
        (record,) = await guard.history(10)
    (winner,) = won
    assert len(refused) == 9
    assert {error.held for error in refused} == {winner.id(DOMAIN)} == {record.digest}
    assert record.signature == winner.signature


async def test_ten_identical_signers_get_one_signature(path: Path) -> None:
    signatures: list[bytes] = []

    async with open_guard(path, KEY, DOMAIN) as guard:

        async def ask() -> None:
            signatures.append((await guard.sign(precommit(7))).signature)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert len(await guard.history(99)) == 1
    assert len(signatures) == 10
    assert len(set(signatures)) == 1


async def test_a_restart_keeps_watermark_and_history(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        first = await guard.sign(prevote(4, 1, A), "follows the proposal")
        before = await guard.history(10)
    async with open_guard(path, KEY, DOMAIN) as guard:
        assert await guard.watermark() == Place(4, 1, Step.PREVOTE)
        assert await guard.history(10) == before
        assert before[0].why == "follows the proposal"
        assert recover(before[0].digest, before[0].signature) == KEY.address
        assert await guard.sign(prevote(4, 1, A)) == first
        with pytest.raises(SigningRefused):
            await guard.sign(prevote(4, 1, B))
        with pytest.raises(SigningRefused):
            await guard.sign(proposal(4, 1))


async def test_history_is_the_last_in_order_and_old_heights_are_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_guard, "KEEP_HEIGHTS", 3)
    async with open_guard(path, KEY, DOMAIN) as guard:
        for height in range(1, 9):
            await guard.sign(prevote(height))
        assert [record.place.height for record in await guard.history(2)] == [7, 8]
        assert [record.place.height for record in await guard.history(99)] == [5, 6, 7, 8]
        with pytest.raises(SigningRefused, match="watermark"):
            await guard.sign(prevote(1))


async def test_skipping_heights_only_raises_the_watermark(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        first = await guard.sign(prevote(4))
        await guard.skip_through(6)
        await guard.skip_through(2)
        assert await guard.watermark() == Place.end_of(6)
        assert await guard.sign(prevote(4)) == first
        with pytest.raises(SigningRefused):
            await guard.sign(precommit(6, 5))
        await guard.sign(proposal(7))


async def test_a_cancelled_caller_leaves_the_guard_whole(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        with trio.CancelScope() as scope:
            scope.cancel()
            await guard.sign(prevote(1, 0, A))
        await guard.sign(prevote(1, 0, A))
        assert await guard.watermark() == Place(1, 0, Step.PREVOTE)


# A second owner.


async def test_a_second_guard_on_one_key_is_refused(path: Path, tmp_path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        for second in (path, tmp_path / "elsewhere.sqlite"):
            with pytest.raises(GuardInUse, match="refuses to start twice on one key"):
                async with open_guard(second, KEY, DOMAIN):
                    pass
        async with open_guard(tmp_path / "other.sqlite", OTHER_KEY, DOMAIN) as other:
            await other.sign(prevote(1))
        await guard.sign(prevote(1))
    async with open_guard(path, KEY, DOMAIN) as guard:
        assert await guard.watermark() == Place(1, 0, Step.PREVOTE)


SIGN_FOR_EVER = """
import sys, trio
from pathlib import Path
from node.signing_guard import open_guard
from tests.node.test_signing_guard import DOMAIN, KEY, prevote

async def main():
    async with open_guard(Path(sys.argv[1]), KEY, DOMAIN) as guard:
        for height in range(1, 1_000_000):
            print(height, (await guard.sign(prevote(height))).signature.hex(), flush=True)

trio.run(main)
"""


async def test_a_killed_owner_holds_nothing_back_and_has_forgotten_nothing(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SIGN_FOR_EVER, str(path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(20)]
        with pytest.raises(GuardInUse, match="another process"):
            async with open_guard(path, KEY, DOMAIN):
                pass
        child.kill()
        lines += [line for line in child.stdout if line.endswith("\n")]
    async with open_guard(path, KEY, DOMAIN) as guard:
        known = {record.place.height: record.signature.hex() for record in await guard.history(-1)}
        said = dict(line.split() for line in lines)
        assert all(known[int(height)] == signature for height, signature in said.items())
        assert len(known) <= len(said) + 1
        with pytest.raises(SigningRefused):
            await guard.sign(prevote(int(lines[-1].split()[0]), 0, B))


# What is found on the disk.


async def test_a_guard_that_vanished_is_not_started_empty(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.sign(prevote(8))
    path.unlink()
    for _ in range(2):
        with pytest.raises(GuardMissing, match="restore an exported signing history") as caught:
            async with open_guard(path, KEY, DOMAIN):
                pass
    assert caught.value.marker.exists()
    path.write_bytes(b"")
    with pytest.raises(GuardMissing):
        async with open_guard(path, KEY, DOMAIN):
            pass
    async with open_guard(path, KEY, DOMAIN, skip_through=8) as guard:
        with pytest.raises(SigningRefused):
            await guard.sign(precommit(8))
        await guard.sign(prevote(9))
    async with open_guard(path, KEY, DOMAIN) as guard:
        assert await guard.watermark() == Place(9, 0, Step.PREVOTE)


async def test_a_guard_that_vanished_is_restored_from_its_export(path: Path, tmp_path: Path) -> None:
    export = tmp_path / "history.jsonl"
    async with open_guard(path, KEY, DOMAIN) as guard:
        first = await guard.sign(prevote(8))
        await guard.export_history(export)
    path.unlink()
    whole = export.read_bytes()
    export.write_bytes(whole[:-10])
    with pytest.raises(HistoryInvalid):
        async with open_guard(path, KEY, DOMAIN, restore=export):
            pass
    with pytest.raises(GuardMissing):
        async with open_guard(path, KEY, DOMAIN):
            pass
    export.write_bytes(whole)
    async with open_guard(path, KEY, DOMAIN, restore=export) as guard:
        assert await guard.sign(prevote(8)) == first
        with pytest.raises(SigningRefused):
            await guard.sign(prevote(8, 0, B))


def test_a_guard_made_anew_is_never_below_its_floor(path: Path) -> None:
    """Not even where a crash follows before the rest of the history is there."""
    SigningFile(path, KEY.address, DOMAIN).close()
    path.unlink()
    SigningFile(path, KEY.address, DOMAIN, Place.end_of(8)).close()
    file = SigningFile(path, KEY.address, DOMAIN)
    assert file.get_watermark() == Place.end_of(8)
    file.close()


@pytest.mark.parametrize(("key", "domain", "what"), [(OTHER_KEY, DOMAIN, "key"), (KEY, OTHER_DOMAIN, "chain")])
async def test_the_guard_of_another_is_refused(path: Path, key: Key, domain: Domain, what: str) -> None:
    async with open_guard(path, KEY, DOMAIN):
        pass
    with pytest.raises(GuardMismatch, match=what) as caught:
        async with open_guard(path, key, domain):
            pass
    assert caught.value.what == what


async def test_a_newer_schema_and_another_database_are_left_alone(path: Path, tmp_path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN):
        pass
    execute(path, "PRAGMA user_version = 3")
    with pytest.raises(StoreTooNew):
        async with open_guard(path, KEY, DOMAIN):
            pass
    other = tmp_path / "other.sqlite"
    execute(other, "CREATE TABLE wages (wei)")
    with pytest.raises(GuardCorrupt, match="another database"):
        async with open_guard(other, KEY, DOMAIN):
            pass
    with pytest.raises(StoreUnwritable):
        async with open_guard(tmp_path, KEY, DOMAIN):
            pass


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE signed SET digest = randomblob(32)",
        "UPDATE signed SET height = height - 1",
        "UPDATE signed SET why = CAST(x'ff' AS TEXT)",
        "UPDATE guard SET height = 1",
        "DELETE FROM guard",
        "DROP TABLE signed",
        "ALTER TABLE signed RENAME COLUMN digest TO hash",
    ],
)
async def test_an_edited_guard_is_refused(path: Path, statement: str) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.sign(prevote(8))
    execute(path, statement)
    with pytest.raises(GuardCorrupt, match=r"signing\.sqlite\.damaged, then restore an exported signing history"):
        async with open_guard(path, KEY, DOMAIN):
            pass


async def test_flipped_bytes_are_found_or_harmless(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        for height in range(1, 4):
            await guard.sign(prevote(height))
        history = await guard.history(-1)
    whole = path.read_bytes()
    interesting = [offset for offset, byte in enumerate(whole) if byte]  # zeros are free space
    found = 0
    for offset in interesting[:: max(1, len(interesting) // 150)]:
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x55]) + whole[offset + 1 :])
        try:
            async with open_guard(path, KEY, DOMAIN) as guard:
                assert await guard.history(-1) == history, f"byte {offset}"
                assert await guard.watermark() == Place(3, 0, Step.PREVOTE), f"byte {offset}"
        except StoreError:
            found += 1
    assert found > 100


async def test_a_guard_that_could_not_write_signs_no_more(path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.sign(prevote(1))
        guard._file._open_connection().execute("PRAGMA query_only = ON")
        for _ in range(2):
            with pytest.raises(StoreError):
                await guard.sign(prevote(2))
        with pytest.raises(StoreError, match="is closed"):
            await guard.sign(prevote(1))


def execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()
