"""Replaying a log: what holds is confirmed, and the first thing that does not is named."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from contracts.signing import Key
from contracts.typed_data import Digest, Signature, Uint256
from gossip.messages import Signed, decode, encode
from gossip.messages.committee import BatchBody, BatchHeader, CertifiedBatch, DayOpening
from gossip.messages.session import Settlement
from node import cli
from node.config import KeyFiles, NodeFile, write_network, write_node
from node.errors import ReplayFailed, StoreError, StoreInUse, StoreTooNew
from node.replay import Checks, replay
from node.store import open_store
from node.store.reading import count_batches, read_batches
from testnet.bench.chain import LogBuilder

Log = list[tuple[int, bytes]]

NETWORK = LogBuilder().network
ALL = Checks()


@cache
def _made() -> tuple[tuple[int, bytes], ...]:
    return tuple(LogBuilder().batches(4, 3))


@pytest.fixture
def log() -> Log:
    return list(_made())


def change(log: Log, height: int, edit: Callable[[CertifiedBatch], CertifiedBatch]) -> Log:
    """``log`` with the stored batch of ``height`` edited."""
    return [(h, encode(edit(decode(CertifiedBatch, data))) if h == height else data) for h, data in log]


def failure(log: Log, checks: Checks = ALL) -> tuple[int, str]:
    with pytest.raises(ReplayFailed) as caught:
        replay(log, NETWORK, checks)
    return caught.value.height, caught.value.field


@pytest.mark.parametrize(
    "checks", [Checks(), Checks(trust_certificates=True), Checks(signatures_from=3), Checks(processes=1)]
)
def test_a_good_log_leads_to_the_certified_state(log: Log, checks: Checks) -> None:
    heights: list[int] = []
    end = replay(log, NETWORK, checks, lambda ledger: heights.append(ledger.height))
    header = decode(CertifiedBatch, log[-1][1]).header
    assert (end.height, end.state_root, end.total_credited) == (4, header.state_root, header.total_credited)
    assert end.settlements == 12
    assert end.total_credited == 12 * 100 * 10**11
    assert heights == [1, 2, 3, 4]


def test_an_empty_log_is_the_genesis() -> None:
    end = replay([], NETWORK, Checks())
    assert (end.height, end.total_credited, end.settlements) == (0, 0, 0)


def test_the_log_crosses_a_day() -> None:
    builder = LogBuilder(replace(NETWORK.params, day_slots=3, settle_window_slots=2))
    log = list(builder.batches(9, 2))
    assert decode(CertifiedBatch, log[-1][1]).header.day == 3
    assert replay(log, builder.network, Checks()).settlements == 18


def edit_header(**changes: object) -> Callable[[CertifiedBatch], CertifiedBatch]:
    return lambda batch: replace(batch, header=replace(batch.header, **changes))


def edit_body(batch: CertifiedBatch) -> CertifiedBatch:
    return replace(batch, body=replace(batch.body, settlements=batch.body.settlements[1:]))


def drop_signatures(batch: CertifiedBatch) -> CertifiedBatch:
    return replace(batch, certificate=replace(batch.certificate, signatures=batch.certificate.signatures[:2]))


TAMPERED: list[tuple[str, Callable[[CertifiedBatch], CertifiedBatch]]] = [
    ("certificate", edit_header(total_credited=Uint256(10**20))),
    ("certificate", drop_signatures),
    ("body_root", edit_body),
    ("height", edit_header(height=9)),
]


@pytest.mark.parametrize(("field", "edit"), TAMPERED)
@pytest.mark.parametrize("checks", [Checks(), Checks(trust_certificates=True)])
def test_a_stored_batch_that_was_tampered_with_is_named(
    log: Log, field: str, edit: Callable[[CertifiedBatch], CertifiedBatch], checks: Checks
) -> None:
    assert failure(change(log, 3, edit), checks) == (3, field)


def test_bytes_that_are_no_batch_are_named(log: Log) -> None:
    log[1] = (2, log[1][1][:-5])
    assert failure(log) == (2, "encoding")


def test_a_gap_is_named_after_what_comes_before_it(log: Log) -> None:
    assert failure(log[1:]) == (1, "height")
    assert failure([log[0], *log[2:]]) == (2, "height")
    assert failure([*change(log, 1, drop_signatures)[:1], *log[2:]], Checks(processes=1)) == (1, "certificate")
    assert failure([log[0], *log[2:]], Checks(processes=1)) == (2, "height")


def test_another_genesis_leads_elsewhere(log: Log) -> None:
    with pytest.raises(ReplayFailed) as caught:
        replay(log, replace(NETWORK, reference_price_wei=NETWORK.reference_price_wei + 2), Checks())
    assert (caught.value.height, caught.value.field) == (1, "state_root")


class Liars(LogBuilder):
    """A committee that certifies what no honest one would."""

    wrong: dict[str, object] = {}  # noqa: RUF012  # set by each test for its own instance
    forged_at = 0

    def _certify(self, header: BatchHeader, body: BatchBody) -> CertifiedBatch:
        return super()._certify(replace(header, **(self.wrong if header.height == 2 else {})), body)

    def settlement(self, slot: int) -> Settlement:
        made = super().settlement(slot)
        if slot != self.forged_at or made.report is None:
            return made
        stranger = Key(b"\x09" * 32).sign(made.report.payload, self.network.terms().domain)
        return replace(made, report=Signed(made.report.payload, Signature(stranger)))


WRONG: list[tuple[str, object]] = [
    ("state_root", Digest(b"\x01" * 32)),
    ("credit_root", Digest(b"\x01" * 32)),
    ("total_credited", Uint256(1)),
    ("beacon", Digest(b"\x01" * 32)),
    ("parent", Digest(b"\x01" * 32)),
    ("day", 3),
    ("reveal", Digest(b"\x01" * 32)),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_committee_that_lies_is_found_out(field: str, value: object) -> None:
    liars = Liars()
    liars.wrong = {field: value}
    assert failure(list(liars.batches(2, 2)), Checks(trust_certificates=True)) == (2, field)


def test_signatures_are_checked_unless_the_certificate_is_trusted_for_them() -> None:
    liars = Liars()
    liars.forged_at = 2
    log = list(liars.batches(3, 2))
    assert failure(log) == (2, "settlement")
    assert failure(log, Checks(signatures_from=2)) == (2, "settlement")
    assert replay(log, NETWORK, Checks(signatures_from=3)).height == 3
    assert replay(log, NETWORK, Checks(trust_certificates=True)).height == 3


# The store and the command.


async def stored(folder: Path, log: Log) -> Path:
    path = folder / "data" / "node.sqlite"
    async with open_store(path) as store:
        for _, data in log:
            await store.put_batch(decode(CertifiedBatch, data))
    return path


async def test_the_reader_gives_back_what_a_node_stored(tmp_path: Path, log: Log) -> None:
    path = await stored(tmp_path, log)
    with read_batches(path) as batches:
        assert list(batches) == log
    assert count_batches(path) == 4


async def test_a_running_nodes_store_is_refused(tmp_path: Path, log: Log) -> None:
    path = await stored(tmp_path, log)
    async with open_store(path):
        with pytest.raises(StoreInUse, match="does this node run"), read_batches(path) as batches:
            list(batches)
    assert count_batches(path) == 4


async def test_a_store_of_another_version_or_none_is_refused(tmp_path: Path, log: Log) -> None:
    with pytest.raises(StoreError, match="never run"):
        count_batches(tmp_path / "nothing.sqlite")
    assert not (tmp_path / "nothing.sqlite").exists()
    path = await stored(tmp_path, log)
    for version, error in ((99, StoreTooNew), (0, StoreError)):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(error, match="schema version"):
            count_batches(path)


def run(folder: Path, *arguments: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(cli.app, ["replay", "--config", str(folder / "node.toml"), *arguments])
    return result.exit_code, result.stdout, result.exception


async def test_the_command_prints_where_the_log_leads(tmp_path: Path, log: Log) -> None:
    await stored(tmp_path, log)
    write_network(tmp_path / "network.toml", NETWORK)
    keys = KeyFiles(tmp_path / "mor.json", tmp_path / "node.json")
    write_node(
        tmp_path / "node.toml", NodeFile(network=tmp_path / "network.toml", data_dir=tmp_path / "data", keys=keys)
    )
    code, out, _ = run(tmp_path, "--processes", "0")
    header = decode(CertifiedBatch, log[-1][1]).header
    assert code == 0
    assert header.state_root.hex() in out
    assert f"{header.total_credited} wei" in out
    assert "4 batches, 12 settlements" in out
    assert "every signature" in out
    code, out, _ = run(tmp_path, "--processes", "0", "--trust-certificates")
    assert code == 0
    assert "on the certificates' word" in out

    broken = change(log, 3, edit_body)
    with closing(sqlite3.connect(tmp_path / "data" / "node.sqlite", isolation_level=None)) as db:
        db.execute("UPDATE batch SET data = ? WHERE height = 3", (broken[2][1],))
    code, out, error = run(tmp_path, "--processes", "0")
    assert code == 1
    assert "2 batches hold; the first that does not is of height 3: body_root" in out
    assert isinstance(error, ReplayFailed)


def test_an_opening_is_part_of_the_log() -> None:
    builder = LogBuilder(replace(NETWORK.params, day_slots=2))
    bodies = [decode(CertifiedBatch, data).body for _, data in builder.batches(3, 1)]
    assert [body.opening is not None for body in bodies] == [False, True, False]
    assert isinstance(bodies[1].opening, DayOpening)


def test_a_session_of_a_model_that_was_not_listed_is_found(log: Log) -> None:
    """Even with every certificate in order: more than 2/3 of a committee may have colluded (S8)."""
    unlisted = replace(NETWORK, listed=())
    with pytest.raises(ReplayFailed, match="model_not_listed") as caught:
        replay(log, unlisted, Checks())
    assert (caught.value.height, caught.value.field) == (1, "settlement")
