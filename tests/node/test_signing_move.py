"""A signing history moves to another machine, whole and checked."""

from pathlib import Path

import pytest

from consensus.tendermint.types import Step
from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain
from node import signing_guard
from node.errors import (
    GuardCorrupt,
    GuardMoved,
    HistoryInvalid,
    SigningRefused,
)
from node.signing_guard import open_guard
from node.signing_history import NOWHERE, Place
from tests.node.builders import DOMAIN
from tests.node.test_signing_guard import execute, prevote

ROOT = Path(__file__).parents[2]
KEY = Key(b"\x61" * 32)
OTHER_KEY = Key(b"\x62" * 32)
OTHER_DOMAIN = Domain(DOMAIN.chain_id + 1, DOMAIN.contract)
A, B = Digest(b"\xaa" * 32), Digest(b"\xbb" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "signing.sqlite"


async def test_a_history_moves_to_another_machine(path: Path, tmp_path: Path) -> None:
    export = tmp_path / "history.jsonl"
    async with open_guard(path, KEY, DOMAIN) as guard:
        signed = await guard.sign(prevote(5), "why")
        await guard.skip_through(6)
        await guard.export_history(export)
        history = await guard.history(-1)
    async with open_guard(tmp_path / "new.sqlite", KEY, DOMAIN) as guard:
        await guard.import_history(export)
        assert await guard.history(-1) == history
        assert await guard.watermark() == Place.end_of(6)
        assert await guard.sign(prevote(5)) == signed
        with pytest.raises(SigningRefused):
            await guard.sign(prevote(5, 0, B))
        await guard.sign(prevote(7))
        await guard.import_history(export)
        assert await guard.watermark() == Place(7, 0, Step.PREVOTE)


async def test_a_guard_whose_history_was_exported_signs_no_more_until_an_import(path: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there.jsonl", tmp_path / "back.jsonl"
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.sign(prevote(5))
        await guard.export_history(there)
        for payload in (prevote(5), prevote(6)):
            with pytest.raises(SigningRefused, match="exported"):
                await guard.sign(payload)
    for skip_through in (None, 9):
        with pytest.raises(GuardMoved, match="import"):
            async with open_guard(path, KEY, DOMAIN, skip_through=skip_through):
                pass
    async with open_guard(path, KEY, DOMAIN, is_leaving=True) as guard:
        await guard.export_history(tmp_path / "once more.jsonl")
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(there.read_bytes()[:-10])
    with pytest.raises(HistoryInvalid):
        async with open_guard(path, KEY, DOMAIN, restore=damaged):
            pass
    with pytest.raises(GuardMoved):
        async with open_guard(path, KEY, DOMAIN):
            pass
    async with open_guard(tmp_path / "new.sqlite", KEY, DOMAIN, restore=there) as guard:
        await guard.sign(prevote(10))
        await guard.export_history(back)
    async with open_guard(path, KEY, DOMAIN, restore=back):
        pass
    async with open_guard(path, KEY, DOMAIN) as guard:
        with pytest.raises(SigningRefused):
            await guard.sign(prevote(10, 0, B))
        await guard.sign(prevote(11))


async def test_an_export_that_cannot_be_written_leaves_the_tombstone(path: Path, tmp_path: Path) -> None:
    """A file that may have been written may have been taken over."""
    (tmp_path / "file").write_bytes(b"")
    async with open_guard(path, KEY, DOMAIN) as guard:
        with pytest.raises(OSError, match="file"):
            await guard.export_history(tmp_path / "file" / "history.jsonl")
    with pytest.raises(GuardMoved):
        async with open_guard(path, KEY, DOMAIN):
            pass


async def test_a_guard_of_the_first_version_opens_and_can_move(path: Path, tmp_path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        signed = await guard.sign(prevote(5))
    execute(path, "DROP TABLE moved")
    execute(path, "PRAGMA user_version = 1")
    async with open_guard(path, KEY, DOMAIN) as guard:
        assert await guard.sign(prevote(5)) == signed
        await guard.export_history(tmp_path / "history.jsonl")
    with pytest.raises(GuardMoved):
        async with open_guard(path, KEY, DOMAIN):
            pass


async def test_a_tombstone_that_was_changed_is_damage(path: Path, tmp_path: Path) -> None:
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.export_history(tmp_path / "history.jsonl")
    execute(path, "UPDATE moved SET moved_ms = 5")
    with pytest.raises(GuardCorrupt, match="export"):
        async with open_guard(path, KEY, DOMAIN):
            pass


async def test_the_history_of_another_is_refused(path: Path, tmp_path: Path) -> None:
    export = tmp_path / "history.jsonl"
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.sign(prevote(5))
        await guard.export_history(export)
    other_contract = Domain(DOMAIN.chain_id, Address(b"\x09" * 20))
    cases = [(OTHER_KEY, DOMAIN, "of key"), (KEY, OTHER_DOMAIN, "network"), (KEY, other_contract, "network")]
    for number, (key, domain, reason) in enumerate(cases):
        async with open_guard(tmp_path / f"{number}.sqlite", key, domain) as guard:
            with pytest.raises(HistoryInvalid, match=reason):
                await guard.import_history(export)
            assert await guard.watermark() == NOWHERE
            assert await guard.history(-1) == ()


async def test_a_history_at_odds_with_what_was_signed_changes_nothing(path: Path, tmp_path: Path) -> None:
    export = tmp_path / "history.jsonl"
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.sign(prevote(4))
        await guard.sign(prevote(5, 0, A))
        await guard.sign(prevote(6))
        await guard.export_history(export)
    async with open_guard(tmp_path / "new.sqlite", KEY, DOMAIN) as guard:
        await guard.sign(prevote(5, 0, B))
        before = await guard.history(-1)
        with pytest.raises(HistoryInvalid, match="was signed here"):
            await guard.import_history(export)
        assert await guard.history(-1) == before
        assert await guard.watermark() == Place(5, 0, Step.PREVOTE)


async def test_a_history_that_is_too_large_is_not_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_guard, "MAX_HISTORY_BYTES", 10)
    export = tmp_path / "history.jsonl"
    async with open_guard(path, KEY, DOMAIN) as guard:
        await guard.export_history(export)
        with pytest.raises(HistoryInvalid, match="limit is 10"):
            await guard.import_history(export)
