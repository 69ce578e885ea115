"""deploy.toml and the address file: what is read, and what each mistake is told."""

from pathlib import Path

import pytest

from consensus.params import economics_of
from contracts.deployment import Pending, Placed, Placement
from contracts.typed_data import ZERO_ADDRESS, Address, Digest
from node.deploy_file import load_deploy_file, read_placement, write_placement
from node.errors import ConfigInvalid

GOOD = """
name = "net"
rpc_url = "http://127.0.0.1:1"
key = "keys/deployer.json"
reference_price_wei = "90000000000"
"""
TOKEN = Address(b"\x11" * 20)


def written(folder: Path, text: str) -> Path:
    path = folder / "deploy.toml"
    path.write_text(text)
    return path


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    file = load_deploy_file(written(tmp_path, GOOD))
    assert file.key == tmp_path / "keys" / "deployer.json"
    assert file.reference_price_wei == 90_000_000_000
    plan = file.plan()
    assert (plan.mor, plan.governor, plan.has_source) == (None, ZERO_ADDRESS, True)
    assert plan.economics(5_000) == economics_of(file.params, 5_000)


def test_everything_can_be_said(tmp_path: Path) -> None:
    text = f"""
genesis_s = 1000
mor = "0x{TOKEN.hex()}"
has_source = false
listed = ["0x{"07" * 32}"]
{GOOD}
[registry]
unbonding_s = 60
[governance]
governor = "0x{TOKEN.hex()}"
delay_s = 90000
[params]
slot_ms = 4000
day_slots = 15
"""
    file = load_deploy_file(written(tmp_path, text))
    assert file.listed == (b"\x07" * 32,)
    plan = file.plan()
    assert (plan.mor, plan.governor, plan.governance_delay_s, plan.genesis_s) == (TOKEN, TOKEN, 90_000, 1_000)
    assert (plan.registry.unbonding_s, plan.registry.slash_percent, plan.has_source) == (60, 100, False)
    assert plan.economics(1_000).day_s == 60


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "name"),
        (GOOD.replace("http://127.0.0.1:1", "ftp://x"), "rpc_url"),
        (GOOD.replace('"90000000000"', "0"), "reference_price_wei"),
        (GOOD.replace('"90000000000"', '"-1"'), "reference_price_wei"),
        (GOOD + "colour = 1\n", "colour"),
        (GOOD + 'mor = "0x12"\n', "mor"),
        (GOOD + "genesis_s = -1\n", "genesis_s"),
        (GOOD + 'listed = ["0x12"]\n', "listed[0]"),
        (GOOD + "[registry]\nunbonding_s = 0\n", "registry.unbonding_s"),
        (GOOD + "[registry]\nslash_percent = 101\n", "registry.slash_percent"),
        (GOOD + "[params]\nslot_ms = 333\nday_slots = 1\n", "params.day_slots"),
        (GOOD + "[params]\nslot_ms = 0\n", "params.slot_ms"),
        (GOOD + f'[governance]\ngovernor = "0x{TOKEN.hex()}"\ndelay_s = 86399\n', "governance.delay_s"),
        (GOOD + "[governance]\ndelay_s = 5\n", "governance.governor"),
    ],
)
def test_a_mistake_is_named_by_its_key(tmp_path: Path, text: str, key: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigInvalid) as caught:
        load_deploy_file(path)
    assert (caught.value.source, caught.value.key) == (str(path), key)


def test_the_address_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "contracts.json"
    assert read_placement(path) is None
    for placement in (
        Placement(5, TOKEN),
        Placement(5, TOKEN, TOKEN, 77, {"registry": Placed(TOKEN, b"\x01\x02"), "mor": Placed(TOKEN, b"")}),
        Placement(5, TOKEN, pending=Pending("registry", 7, Digest(b"\x3c" * 32), b"\x01")),
    ):
        write_placement(path, placement)
        assert read_placement(path) == placement


@pytest.mark.parametrize("text", ["", "[]", '{"chain_id": 1}', '{"chain_id": 1, "deployer": "0x00"}', "{", "\xff"])
def test_another_file_is_no_address_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "contracts.json"
    path.write_text(text)
    with pytest.raises(ConfigInvalid, match=str(path)):
        read_placement(path)


@pytest.mark.parametrize(
    ("written", "instead", "reason"),
    [
        ("3c" * 32, "3c" * 31, "no transaction's hash"),
        ("3c" * 32, "3z" * 32, "not hex"),
        ('"registry"', '"casino"', "'casino' with nonce 7"),
        ("7,", "-7,", "nonce -7"),
    ],
)
def test_a_pending_transaction_that_makes_no_sense_is_named(
    tmp_path: Path, written: str, instead: str, reason: str
) -> None:
    path = tmp_path / "contracts.json"
    write_placement(path, Placement(5, TOKEN, pending=Pending("registry", 7, Digest(b"\x3c" * 32), b"\x01")))
    path.write_text(path.read_text().replace(written, instead))
    with pytest.raises(ConfigInvalid, match=reason):
        read_placement(path)


def test_arguments_must_be_hex(tmp_path: Path) -> None:
    path = tmp_path / "contracts.json"
    write_placement(path, Placement(5, TOKEN, TOKEN, 77, {"registry": Placed(TOKEN, b"\x01\x02")}))
    path.write_text(path.read_text().replace('"0102"', '"01zz"'))
    with pytest.raises(ConfigInvalid, match="not hex"):
        read_placement(path)
