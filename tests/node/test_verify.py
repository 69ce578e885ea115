"""``yellowstone verify``: a proof in a file, checked with nothing but the committee's keys."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from consensus.market.batch import apply_batch
from consensus.market.proof import CreditProof
from contracts.merkle import merkle_proof
from gossip.messages import decode
from gossip.messages.committee import CertifiedBatch
from node import cli
from node.api.control import jsonable
from node.cli_verify import verify_file
from node.config import write_network
from node.errors import ConfigInvalid, ProofRejected, ProofUnreadable
from node.proof_file import MAX_BYTES, ProofFile, read_proof
from testnet.bench.chain import LogBuilder

NETWORK = LogBuilder().network
ROOT = NETWORK.committee().root.hex()
Document = dict[str, Any]


@cache
def _text() -> str:
    """The proof of one provider among three."""
    terms, committee = NETWORK.terms(), NETWORK.committee()
    ((_, data),) = LogBuilder().batches(1, 3)
    batch = decode(CertifiedBatch, data)
    credits = apply_batch(NETWORK.genesis(), terms, batch.header, batch.body).credits
    provider = next(iter(credits))
    proof = CreditProof(provider, credits[provider], merkle_proof(credits, provider), batch.header, batch.certificate)
    return json.dumps(jsonable(ProofFile.of(proof, committee, terms.domain)))


@pytest.fixture
def document() -> Document:
    made: Document = json.loads(_text())
    return made


def write(folder: Path, document: Any) -> Path:
    path = folder / "proof.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def check(path: Path, *, network: Path | None = None, root: str | None = ROOT, provider: str | None = None) -> str:
    said: list[str] = []
    verify_file(path, network=network, committee_root=root, provider=provider, say=said.append)
    return "\n".join(said)


def test_a_good_proof_says_what_was_checked(tmp_path: Path, document: Document) -> None:
    path = write(tmp_path, document)
    write_network(tmp_path / "network.toml", NETWORK)
    out = check(path)
    assert out == check(path, root="0x" + ROOT, provider=document["provider"])
    assert out == check(path, network=tmp_path / "network.toml", root=None)
    assert ROOT in out
    assert "4 valid signatures, 100 % of stake" in out
    assert f"{document['provider']} was credited {100 * 10**11} wei" in out


def test_a_proof_reads_back_to_what_was_written(tmp_path: Path, document: Document) -> None:
    file = read_proof(write(tmp_path, document))
    assert jsonable(file) == document
    assert file.claimed_committee() == NETWORK.committee()
    assert file.domain() == NETWORK.terms().domain


def edited(document: Document, key: str, value: Any) -> Document:
    """``document`` with a dotted key (list places are numbers) set, or deleted where ``value`` is ``...``."""
    target: Any = document
    *tables, last = key.split(".")
    for step in tables:
        target = target[int(step)] if isinstance(target, list) else target[step]
    if value is ...:
        del target[int(last) if isinstance(target, list) else last]
    else:
        target[int(last) if isinstance(target, list) else last] = value
    return document


def hex_of(size: int, fill: int = 1) -> str:
    return "0x" + (bytes([fill]) * size).hex()


TAMPERED = [
    ("provider", hex_of(20), "merkle_proof"),
    ("cumulative_wei", 10**30, "merkle_proof"),
    ("proof", [], "merkle_proof"),
    ("proof.0", hex_of(32), "merkle_proof"),
    ("header.credit_root", hex_of(32), "batch_hash"),
    ("header.total_credited", 10**30, "batch_hash"),
    ("header.height", 2, "batch_hash"),
    ("certificate.height", 2, "height"),
    ("certificate.round", 1, "unknown_member"),
    ("certificate.batch_hash", hex_of(32, 0), "nil"),
    ("certificate.committee_root", hex_of(32), "committee_root"),
    ("certificate.signatures", [], "no_quorum"),
    ("certificate.signatures.0", hex_of(65), "signature"),
    ("network.chain_id", 1, "unknown_member"),
    ("network.contract", hex_of(20), "unknown_member"),
    ("committee.epoch", 2, "no committee in the file is the one that is trusted"),
    ("committee.members.0.stake_wei", 1, "no committee in the file is the one that is trusted"),
    ("committee.members.0.address", hex_of(20), "no committee in the file is the one that is trusted"),
]


@pytest.mark.parametrize(("key", "value", "named"), TAMPERED)
def test_what_was_tampered_with_is_named(tmp_path: Path, document: Document, key: str, value: Any, named: str) -> None:
    path = write(tmp_path, edited(document, key, value))
    with pytest.raises(ProofRejected, match=named):
        check(path)


def leaves(data: Any, *above: str) -> Iterator[tuple[str, Any]]:
    """Every value in a document with its dotted key."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    if not isinstance(data, dict | list):
        yield ".".join(above), data
    for key, inner in items:
        yield from leaves(inner, *above, str(key))


def test_no_field_can_be_changed(tmp_path: Path, document: Document) -> None:
    """One bit of each value, and each value gone: nothing that is there is there for nothing."""
    all_leaves = list(leaves(document))
    assert len(all_leaves) > 30
    for key, value in all_leaves:
        bent = value + 1 if isinstance(value, int) else value[:-1] + ("0" if value[-1] != "0" else "1")
        for other in (bent, ...):
            path = write(tmp_path, edited(deepcopy(document), key, other))
            try:
                check(path)
            except (ProofRejected, ProofUnreadable):
                continue
            # less than all signatures may still be more than 2/3 of stake
            assert (key.rpartition(".")[0], other) == ("certificate.signatures", ...), (key, other)


def test_a_committee_of_the_forgers_own_is_not_trusted(tmp_path: Path, document: Document) -> None:
    """All signatures hold, under a committee that nobody but the file vouches for."""
    path = write(tmp_path, document)
    with pytest.raises(ProofRejected, match="no committee in the file is the one that is trusted"):
        check(path, root="01" * 32)
    write_network(tmp_path / "network.toml", replace(NETWORK, members=NETWORK.members[:3]))
    with pytest.raises(ProofRejected, match="no committee in the file is the one that is trusted"):
        check(path, network=tmp_path / "network.toml", root=None)


def test_the_network_must_be_the_one_that_is_named(tmp_path: Path, document: Document) -> None:
    path = write(tmp_path, document)
    write_network(tmp_path / "network.toml", replace(NETWORK, chain_id=5))
    with pytest.raises(ProofRejected, match="network: it is of chain 77101"):
        check(path, network=tmp_path / "network.toml", root=None)
    with pytest.raises(ConfigInvalid, match="no such file"):
        check(path, network=tmp_path / "nothing.toml", root=None)


def test_the_credit_must_be_of_the_provider_that_is_named(tmp_path: Path, document: Document) -> None:
    path = write(tmp_path, document)
    with pytest.raises(ProofRejected, match=f"provider: {document['provider']} was credited, not 0x01"):
        check(path, provider=hex_of(20))
    with pytest.raises(ProofRejected, match="--provider '0x01' is not 20 bytes"):
        check(path, provider="0x01")


def test_somebody_must_vouch_for_the_committee(tmp_path: Path, document: Document) -> None:
    path = write(tmp_path, document)
    for root, network in ((None, None), (ROOT, tmp_path / "network.toml")):
        with pytest.raises(ProofRejected, match="name the committee that you trust"):
            check(path, root=root, network=network)
    with pytest.raises(ProofRejected, match="--committee-root 'xyz' is not 32 bytes of hex"):
        check(path, root="xyz")


UNREADABLE = [
    ("note", 1, "note: unknown key"),
    ("header.note", 1, "header.note: unknown key"),
    ("committee.members.1.note", 1, r"committee.members\[1\].note: unknown key"),
    ("header.slot", ..., "header.slot: is missing"),
    ("proof", ..., "proof: is missing"),
    ("provider", "0x00", "provider: "),
    ("provider", "0xzz", "provider: "),
    ("provider", 7, "provider: 7: Expected `bytes`"),
    ("provider", "abc", 'provider: "abc": Expected `bytes`'),
    ("cumulative_wei", -1, "cumulative_wei: -1: is not an amount"),
    ("cumulative_wei", 2**256, "cumulative_wei: .*is not an amount"),
    ("cumulative_wei", True, "cumulative_wei: true: is not an amount"),
    ("cumulative_wei", 1.5, "cumulative_wei: 1.5: is not an amount"),
    ("header", [], r"header: \[\] is not an object"),
    ("header.height", 2**63, "header.height: "),
    ("header.height", -1, "header.height: "),
    ("header.height", "1", "header.height: "),
    ("certificate.signatures", [hex_of(64)], "certificate.signatures: "),
    ("proof", [hex_of(32)] * 65, "proof: "),
    ("committee.members", [], "committee.members: "),
    ("committee.members", 5, "committee.members: "),
    ("network.chain_id", 0, "network.chain_id: "),
]


@pytest.mark.parametrize(("key", "value", "message"), UNREADABLE)
def test_what_is_no_proof_names_the_key(tmp_path: Path, document: Document, key: str, value: Any, message: str) -> None:
    path = write(tmp_path, edited(document, key, value))
    with pytest.raises(ProofUnreadable, match=message) as caught:
        check(path)
    assert str(caught.value).startswith(f"{path}: ")


NO_JSON: list[tuple[str, str]] = [
    ("", "is not JSON"),
    ("{", "is not JSON"),
    ("[" * 100_000, "more than 16 brackets"),
    ("[" * 16, "is not JSON"),
    ("[]", "is not an object"),
    ("null", "is not an object"),
    ('{"proof": 1, "proof": 2}', "a key is there twice"),
    ("1" * 5_000, "is not JSON"),
    (" " * (MAX_BYTES + 1), "is larger than"),
]


@pytest.mark.parametrize(("text", "message"), NO_JSON, ids=range(len(NO_JSON)))
def test_what_is_no_json_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProofUnreadable, match=message):
        check(write(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ProofUnreadable, match="no such file"):
        check(tmp_path / "nothing.json")
    with pytest.raises(ProofUnreadable, match="cannot be read"):
        check(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProofUnreadable, match="is not JSON"):
        check(tmp_path / "binary")


def test_the_command(tmp_path: Path, document: Document, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, document)
    result = CliRunner().invoke(cli.app, ["verify", str(path), "--committee-root", ROOT])
    assert (result.exit_code, "proven" in result.stdout) == (0, True)
    write(tmp_path, edited(document, "cumulative_wei", 5))
    result = CliRunner().invoke(cli.app, ["verify", str(path), "--committee-root", ROOT])
    assert (result.exit_code, result.stdout) == (1, "")
    assert isinstance(result.exception, ProofRejected), "what the console script prints as one line"
    assert isinstance(result.exception, cli.EXPECTED)


@pytest.mark.parametrize("key", ["provider", "proof.0", "committee.members.0.address"])
def test_hex_is_read_whatever_its_case(tmp_path: Path, document: Document, key: str) -> None:
    value: Any = document
    for step in key.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    assert "proven" in check(write(tmp_path, edited(document, key, "0x" + value[2:].upper())))
