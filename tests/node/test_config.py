"""network.toml and node.toml: what is written is read back, and every mistake is named."""

from pathlib import Path

import msgspec
import pytest

from consensus.committee import Committee
from contracts.typed_data import Address, Digest, Uint256
from gossip.messages import encode, sign
from gossip.messages.committee import DayOpening
from gossip.messages.records import BeaconCommitment
from node.config import (
    ChainAccess,
    KeyFiles,
    ModelOffer,
    NodeFile,
    load_network,
    load_node,
    write_network,
    write_node,
)
from node.errors import ConfigInvalid
from tests.node.builders import DOMAIN, MEMBERS, PROVIDER, network_file, node_file

MINIMAL = """
network = "../network.toml"
data_dir = "data"
[keys]
mor = "mor.json"
node = "/keys/node.json"
"""


@pytest.fixture
def network_path(tmp_path: Path) -> Path:
    path = tmp_path / "network.toml"
    write_network(path, network_file())
    return path


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def refuse_network(path: Path) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as caught:
        load_network(path)
    assert str(path) in str(caught.value)
    return caught.value


def write_minimal(tmp_path: Path, extra: str = "", before: str = "") -> Path:
    path = tmp_path / "node" / "node.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(before + MINIMAL + extra)
    return path


def refuse_node(path: Path, overrides: dict[str, str] | None = None) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as caught:
        load_node(path, overrides)
    assert str(path) in str(caught.value)
    return caught.value


# network.toml


def test_network_round_trip(network_path: Path) -> None:
    assert load_network(network_path) == network_file()


def test_network_views(network_path: Path) -> None:
    network = load_network(network_path)
    assert network.terms().domain == DOMAIN
    assert network.terms().params.slot_ms == 4_000
    assert network.committee() == Committee.of(1, list(network.members))
    assert network.opening() == DayOpening(0, 7, Uint256(10_000_000 * 10**18), Uint256(3_456 * 10**18))


def test_a_network_names_the_models_that_are_listed_from_the_start(tmp_path: Path) -> None:
    listed = (Digest(b"\x07" * 32), Digest(b"\x08" * 32))
    path = tmp_path / "network.toml"
    write_network(path, msgspec.structs.replace(network_file(), listed=listed))
    network = load_network(path)
    assert network.listed == listed
    assert set(network.genesis().listing.on(0)) == set(listed)
    assert f'listed = ["0x{"07" * 32}", "0x{"08" * 32}"]' in path.read_text()


@pytest.mark.parametrize(
    ("listed", "key"),
    [
        (f'["0x{"07" * 31}"]', "listed[0]"),
        (f'["{"07" * 32}"]', "listed[0]"),
        (f'["0x{"07" * 32}", "0x{"07" * 32}"]', "listed"),
        (str([f"0x{number:064x}" for number in range(4_097)]).replace("'", '"'), "listed"),
    ],
)
def test_a_list_that_can_not_be_meant_is_named(network_path: Path, listed: str, key: str) -> None:
    assert refuse_network(edit(network_path, "listed = []", f"listed = {listed}")).key == key


def test_a_network_without_a_list_names_no_models(network_path: Path) -> None:
    edit(network_path, "listed = []", f'listed = ["0x{"07" * 32}"]')
    assert refuse_network(edit(network_path, "listed_models = true", "listed_models = false")).key == "listed"


def test_missing_params_are_defaults(network_path: Path) -> None:
    edit(network_path, "day_slots = 7200\n", "")
    assert load_network(network_path).params.day_slots == 7_200


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[opening]\n", "[opening]\nbudget = 1\n", "opening.budget"),
        ("[params]\n", "[params]\nslot = 1\n", "params.slot"),
        ("chain_id = ", "chainid = 1\nchain_id = ", "chainid"),
        ("[contracts]\n", "[contracts]\nmoor = 1\n", "contracts.moor"),
        ("stake_wei =", "weight = 1\nstake_wei =", "committee.members[0].weight"),
    ],
)
def test_unknown_network_key_is_named(network_path: Path, old: str, new: str, key: str) -> None:
    error = refuse_network(edit(network_path, old, new))
    assert error.key == key
    assert error.reason == "unknown key"


@pytest.mark.parametrize(
    ("old", "new", "key", "value"),
    [
        ('mor = "0x01', 'mor = "0xzz', "contracts.mor", "0xzz"),
        ('mor = "0x01', 'mor = "01', "contracts.mor", "'01"),
        ("chain_id = 77101", "chain_id = 0", "chain_id", "0"),
        ('stake_wei = "1000', 'stake_wei = "-1000', "committee.members[0].stake_wei", "-1000"),
        ('stake_wei = "1000000000000000000000"', "stake_wei = true", "committee.members[0].stake_wei", "True"),
        ('stake_wei = "1000000000000000000000"', "stake_wei = 0", "committee.members[0].stake_wei", "0"),
        ("slot_ms = 4000", "slot_ms = 0", "params.slot_ms", "0"),
        ("propose_ms = 3000", "propose_ms = -1", "params.propose_ms", "-1"),
        ("deposit_slots = 14400", "deposit_slots = 7800", "params.deposit_slots", "7800 is not above"),
        ('bootstrap = ["/ip4', 'bootstrap = ["ip4', "bootstrap[0]", "ip4"),
        ("snapshot_block = 7", "snapshot_block = -7", "opening.snapshot_block", "-7"),
    ],
)
def test_bad_network_value_is_named(network_path: Path, old: str, new: str, key: str, value: str) -> None:
    error = refuse_network(edit(network_path, old, new))
    assert error.key == key
    assert value in error.reason


def test_missing_network_key_is_named(network_path: Path) -> None:
    error = refuse_network(edit(network_path, "chain_id = 77101\n", ""))
    assert (error.key, error.reason) == ("chain_id", "is missing")


def test_member_twice(tmp_path: Path) -> None:
    network = network_file()
    doubled = msgspec.structs.replace(network, members=(*network.members, network.members[0]))
    with pytest.raises(ConfigInvalid, match=r"committee.members\[4\].address.*twice"):
        write_network(tmp_path / "network.toml", doubled)


def test_commitment_of_a_stranger(network_path: Path) -> None:
    stranger = sign(BeaconCommitment(PROVIDER.address, 0, Digest(bytes(32))), PROVIDER, DOMAIN)
    member = network_file().commitments[0]
    error = refuse_network(edit(network_path, encode(member).hex(), encode(stranger).hex()))
    assert error.key == "commitments[0]"
    assert PROVIDER.address.hex() in error.reason


def test_forged_commitment(network_path: Path) -> None:
    forged = sign(BeaconCommitment(MEMBERS[0].address, 0, Digest(bytes(32))), PROVIDER, DOMAIN)
    error = refuse_network(edit(network_path, encode(network_file().commitments[0]).hex(), encode(forged).hex()))
    assert error.key == "commitments[0]"


def test_commitment_that_is_no_message(network_path: Path) -> None:
    error = refuse_network(edit(network_path, encode(network_file().commitments[0]).hex(), "00ff"))
    assert error.key == "commitments[0]"


def test_commitments_of_another_contract_are_refused(tmp_path: Path) -> None:
    network = network_file()
    moved = msgspec.structs.replace(network.contracts, compute=Address(b"\x09" * 20))
    with pytest.raises(ConfigInvalid, match=r"commitments\[0\]"):
        write_network(tmp_path / "network.toml", msgspec.structs.replace(network, contracts=moved))


@pytest.mark.parametrize("content", [b"= broken", b"\xff\xfe"])
def test_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "network.toml"
    path.write_bytes(content)
    assert "is not TOML" in str(refuse_network(path))


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in str(refuse_network(tmp_path / "network.toml"))


# node.toml


def test_node_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "node" / "node.toml"
    config = node_file(path.parent)
    write_node(path, config)
    assert load_node(path) == config
    assert path.stat().st_mode & 0o777 == 0o600


def test_node_folder_can_be_moved(tmp_path: Path) -> None:
    first = tmp_path / "here"
    write_node(first / "node.toml", node_file(first))
    second = first.rename(tmp_path / "there")
    assert load_node(second / "node.toml").keys.mor == second / "mor.json"


def test_minimal_node(tmp_path: Path) -> None:
    config = load_node(write_minimal(tmp_path))
    assert config == NodeFile(
        network=tmp_path / "network.toml",
        data_dir=tmp_path / "node" / "data",
        keys=KeyFiles(tmp_path / "node" / "mor.json", Path("/keys/node.json")),
    )
    assert config.has_role("full")
    assert not config.has_role("member")


@pytest.mark.parametrize(
    ("extra", "before", "key"),
    [
        ("[listen]\nport = 1", "", "listen.port"),
        ("passwrod = 1", "", "keys.passwrod"),
        ("", "rolls = []", "rolls"),
        ("[user]\ngatway_port = 1", "", "user.gatway_port"),
        ("[chain]\nurl = 1", "", "chain.url"),
        ('[[models]]\nmodel = "m"\nprice = 1\nprice_wei = 1', 'roles = ["provider"]', "models[0].price"),
    ],
)
def test_unknown_node_key_is_named(tmp_path: Path, extra: str, before: str, key: str) -> None:
    error = refuse_node(write_minimal(tmp_path, extra, before))
    assert (error.key, error.reason) == (key, "unknown key")


@pytest.mark.parametrize(
    ("extra", "before", "key"),
    [
        ("[listen]\ncontrol_port = 70000", "", "listen.control_port"),
        ('[listen]\np2p = ["127.0.0.1:1"]', "", "listen.p2p"),
        ("[listen]\np2p = []", "", "listen.p2p"),
        ('[listen]\np2p = ["/ip4/127.0.0.1/udp/1/quic-v1"]', "", "listen.p2p"),
        ('[listen]\np2p = ["/dns4/node.example/tcp/1"]', "", "listen.p2p"),
        ('[listen]\nannounce = ["/ip4/0.0.0.0/tcp/28555"]', "", "listen.announce"),
        ('[listen]\nannounce = ["/ip4/203.0.113.7/tcp/0"]', "", "listen.announce"),
        ('[listen]\nannounce = ["/dns4/node.example/tcp/1/ws"]', "", "listen.announce"),
        ('[chain]\nrpc_url = "localhost:8545"', "", "chain.rpc_url"),
        ("", 'roles = ["boss"]', "roles[0]"),
        ("", 'roles = ["user", "user"]', "roles"),
        ("", 'roles = ["provider"]', "models"),
        ("", 'log_level = "loud"', "log_level"),
        ('[[models]]\nmodel = "m"\nprice_wei = 1', "", "roles"),
        ('[[models]]\nmodel = "m"\nprice_wei = 0', 'roles = ["provider"]', "models[0].price_wei"),
        ('[[models]]\nmodel = "m"\nprice_wei = 1\nengine = "magic"', 'roles = ["provider"]', "models[0].engine"),
        ('[[models]]\nmodel = "m"\nprice_wei = 1\nengine = "openai"', 'roles = ["provider"]', "models[0].url"),
        ('[[models]]\nmodel = "m"\nprice_wei = 1\nprompt_max = 1024', 'roles = ["provider"]', "models[0].prompt_max"),
        ("[user]\ntoken_max = 10\ntoken_limit = 9", "", "user.token_max"),
        ("", "finder = true", "finder"),
        ('[chain]\nrpc_url = "http://127.0.0.1:8545"', 'finder = true\nroles = ["member"]', "finder"),
        ("", "finder = 1", "finder"),
    ],
)
def test_bad_node_value_is_named(tmp_path: Path, extra: str, before: str, key: str) -> None:
    assert refuse_node(write_minimal(tmp_path, extra, before)).key == key


def test_empty_optional_paths_mean_none(tmp_path: Path) -> None:
    models = '[[models]]\nmodel = "m"\nprice_wei = 1\npath = ""\n'
    config = load_node(write_minimal(tmp_path, f'password_file = ""\n{models}', 'roles = ["provider"]'))
    assert config.keys.password_file is None
    assert config.models == (ModelOffer(model="m", price_wei=1),)


def test_overrides(tmp_path: Path) -> None:
    models = '[[models]]\nmodel = "m"\nprice_wei = 1\n'
    path = write_minimal(tmp_path, models, 'roles = ["provider"]')
    config = load_node(
        path,
        {
            "listen.control_port": "8080",
            "chain.rpc_url": "http://127.0.0.1:8545",
            "chain.timeout_s": "2.5",
            "roles": '["provider", "user"]',
            "models.0.price_wei": "12",
            "data_dir": "elsewhere",
        },
    )
    assert config.listen.control_port == 8_080
    assert config.chain == ChainAccess(rpc_url="http://127.0.0.1:8545", timeout_s=2.5)
    assert config.roles == ("provider", "user")
    assert config.models[0].price_wei == 12
    assert config.data_dir == path.parent / "elsewhere"


@pytest.mark.parametrize(
    ("dotted", "value", "key"),
    [
        ("listen.port", "1", "listen.port"),
        ("listen.control_port", "many", "listen.control_port"),
        ("data_dir.deeper", "1", "data_dir.deeper"),
        ("models.5.price_wei", "1", "models.5.price_wei"),
        ("", "1", ""),
    ],
)
def test_bad_override_is_named(tmp_path: Path, dotted: str, value: str, key: str) -> None:
    assert refuse_node(write_minimal(tmp_path), {dotted: value}).key == key


@pytest.mark.parametrize(
    ("before", "chain", "is_finder"),
    [
        ("", "http://127.0.0.1:8545", False),
        ("finder = true", "http://127.0.0.1:8545", True),
        ('roles = ["provider"]', "http://127.0.0.1:8545", True),
        ('roles = ["provider"]', "", False),
        ('roles = ["provider"]\nfinder = false', "http://127.0.0.1:8545", False),
        ('roles = ["provider", "member"]', "http://127.0.0.1:8545", False),
    ],
)
def test_who_submits_evidence_unless_told_otherwise(tmp_path: Path, before: str, chain: str, is_finder: bool) -> None:
    models = '[[models]]\nmodel = "m"\nprice_wei = 1\n' if "provider" in before else ""
    path = write_minimal(tmp_path, f'[chain]\nrpc_url = "{chain}"\n{models}', before + "\n")
    assert load_node(path).is_finder is is_finder


def test_written_node_with_fractions(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    config = msgspec.structs.replace(node_file(tmp_path), chain=ChainAccess("http://127.0.0.1:1", timeout_s=0.25))
    write_node(path, config)
    assert load_node(path).chain.timeout_s == 0.25


EXL2 = """
[[models]]
model = "llama"
price_wei = 1
engine = "exllamav2"
path = "weights"
slots = 4
context = 4096
[models.exl2]
cache = "q8"
gpu_split = [20.5, 22]
"""


def test_an_exl2_model_is_described_in_a_table_of_its_own(tmp_path: Path) -> None:
    config = load_node(write_minimal(tmp_path, EXL2, 'roles = ["provider"]\n'))
    offer = config.models[0]
    assert (offer.engine, offer.path) == ("exllamav2", tmp_path / "node" / "weights")
    assert (offer.exl2.cache, offer.exl2.gpu_split, offer.exl2.cache_tokens) == ("q8", (20.5, 22.0), 0)
    write_node(tmp_path / "node" / "again.toml", config)
    assert load_node(tmp_path / "node" / "again.toml") == config


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('path = "weights"', "", "models[0].path"),
        ('cache = "q8"', 'cache = "q3"', "models[0].exl2.cache"),
        ('cache = "q8"', "cache_tokens = 2048", "models[0].exl2.cache_tokens"),
        ("gpu_split = [20.5, 22]", "gpu_split = [0]", "models[0].exl2.gpu_split[0]"),
        ("gpu_split = [20.5, 22]", "chunk = 16", "models[0].exl2.chunk"),
    ],
)
def test_mistakes_in_an_exl2_model_are_named(tmp_path: Path, old: str, new: str, key: str) -> None:
    assert old in EXL2
    with pytest.raises(ConfigInvalid) as caught:
        load_node(write_minimal(tmp_path, EXL2.replace(old, new), 'roles = ["provider"]\n'))
    assert caught.value.key == key
