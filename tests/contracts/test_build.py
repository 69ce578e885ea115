import shutil
from pathlib import Path

import msgspec
import pytest

from contracts.artifacts import ARTIFACTS_DIR, CONTRACT_NAMES, MODULE_NAMES, load_artifact
from contracts.build import SOURCES_DIR, compile_contract, stale_artifacts
from contracts.errors import ArtifactError
from contracts.payout import PayoutOrder
from contracts.typed_data import Address, encode_type
from gossip.messages.committee import BatchHeader, HandOver, Precommit, Prevote, Proposal


def test_the_checked_in_artifacts_are_what_the_sources_compile_to() -> None:
    assert stale_artifacts() == []


def test_a_stale_artifact_is_named(tmp_path: Path) -> None:
    shutil.copytree(ARTIFACTS_DIR, tmp_path, dirs_exist_ok=True)
    (tmp_path / "lens.json").write_bytes((tmp_path / "lens.json").read_bytes() + b" ")
    (tmp_path / "mor.json").unlink()
    assert stale_artifacts(tmp_path) == ["mor", "lens"]


def test_the_path_of_the_sources_leaves_no_trace(tmp_path: Path) -> None:
    elsewhere = tmp_path / "some where" / "else"
    elsewhere.mkdir(parents=True)
    for name in ("lens", "emission_source", "emission"):
        shutil.copy(SOURCES_DIR / f"{name}.vy", elsewhere)
    for name in ("lens", "emission_source"):
        assert compile_contract(name, elsewhere) == (ARTIFACTS_DIR / f"{name}.json").read_bytes()


def test_every_source_has_an_artifact() -> None:
    assert sorted(path.stem for path in SOURCES_DIR.glob("*.vy")) == sorted((*CONTRACT_NAMES, *MODULE_NAMES))
    assert [load_artifact(name).name for name in CONTRACT_NAMES] == list(CONTRACT_NAMES)


@pytest.mark.parametrize(
    ("contract", "struct"),
    [
        ("compute", BatchHeader),
        ("compute", Precommit),
        ("compute", PayoutOrder),
        ("registry", Proposal),
        ("registry", Prevote),
        ("registry", Precommit),
        ("registry", HandOver),
    ],
)
def test_the_contract_spells_out_the_messages_eip712_types(contract: str, struct: type[msgspec.Struct]) -> None:
    assert f'"{encode_type(struct)}"' in (SOURCES_DIR / f"{contract}.vy").read_text()


def test_contracts_stay_below_the_size_limit() -> None:
    for name in CONTRACT_NAMES:
        assert len(load_artifact(name).runtime) // 2 < 24_576  # EIP-170


def test_an_unknown_contract_has_no_artifact() -> None:
    with pytest.raises(ArtifactError, match="nothing"):
        load_artifact("nothing")


def test_a_call_that_does_not_fit_the_abi_is_refused() -> None:
    mor = load_artifact("mor")
    with pytest.raises(ArtifactError, match="no function 'burn'"):
        mor.encode_call("burn", 1)
    with pytest.raises(ArtifactError, match=r"mor\.mint does not take"):
        mor.encode_call("mint", Address(b"\x01" * 20), -1)
    with pytest.raises(ArtifactError, match=r"mor\.mint does not take"):
        mor.encode_call("mint", 1)
    with pytest.raises(ArtifactError, match=r"mor\.__init__ does not take"):
        mor.encode_deployment(7)


def test_an_answer_that_does_not_fit_the_abi_is_refused() -> None:
    with pytest.raises(ArtifactError, match="0x01"):
        load_artifact("mor").decode_result("balanceOf", b"\x01")
