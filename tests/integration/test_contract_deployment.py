"""`yellowstone contracts` on a real chain: deploy, go on after a failure, stake, open, verify, and mistakes told."""

import dataclasses
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import requests
import trio
from typer.testing import CliRunner

from contracts.anvil import AnvilChain, anvil
from contracts.artifacts import load_artifact
from contracts.bindings import Mor, Registry
from contracts.client import ChainClient, Receipt, created_address
from contracts.deployment import Deployer, Pending, Placement, RegistryTerms, check_code
from contracts.errors import ChainUnavailable, CodeDiffers
from contracts.signing import Key
from node import keys
from node.cli_contracts import app
from node.config import load_network
from node.deploy_file import load_deploy_file, read_placement, write_placement
from node.errors import ChainMismatch, ConfigInvalid

CACHE_DIR = Path(__file__).parents[2] / ".cache" / "anvil"
MEMBERS = 4
PARAMS = "[params]\nslot_ms = 4000\nday_slots = 15\nendowment_mor = 1000\n"


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[AnvilChain]:
    async with anvil(CACHE_DIR, tmp_path / "chain") as running:
        yield running


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def prepare(chain: AnvilChain, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("node.keys.ROUNDS", 1_000)
    (folder / "password").write_text("a password")
    (folder / "password").chmod(0o600)
    keys.store_secret(folder / "deployer.json", chain.funded_keys[0].reveal(), "a password", "mor")
    file = folder / "deploy.toml"
    head = 'name = "net"\nkey = "deployer.json"\npassword_file = "password"\nreference_price_wei = 90000000000\n'
    file.write_text(f'{head}rpc_url = "{chain.url}"\n{PARAMS}')
    return file


def deploy_stake_and_verify(chain: AnvilChain, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, addresses = prepare(chain, folder, monkeypatch), folder / "contracts.json"
    at = ("--file", str(file))
    for command in ("verify", "genesis"):
        with pytest.raises(ConfigInvalid, match="contracts deploy"):
            run(command, *at)
    interrupt(chain, file)
    begun = read_placement(addresses)
    assert begun is None
    said = run("deploy", *at)
    placed = read_placement(addresses)
    assert placed is not None
    assert placed.contracts.keys() == {"mor", "registry", "compute", "emission_source"}
    assert all(one.address.hex() in said for one in placed.contracts.values())
    assert "deploying" not in run("deploy", *at), "a second run finds everything done"
    assert read_placement(addresses) == placed

    assert placed.mor is not None
    client, deployer = ChainClient(chain.url), chain.funded_keys[0]
    mor = Mor(client, placed.mor)
    for number in range(MEMBERS):
        key = Key(bytes([9, number + 1]) * 16)
        client.pay(deployer, key.address, 10**18)
        mor.mint(deployer, key.address, 10 * 10**18)
        keys.store_secret(folder / f"{number}.json", key.reveal(), "a password", "mor")
        options = ("--key", str(folder / f"{number}.json"), "--password-file", str(folder / "password"))
        assert "staked" in run("stake", "5", *options, *at)
    target = folder / "network.toml"
    with pytest.raises(ConfigInvalid, match=r"1,000\.0000 MOR are promised, 0\.0000 MOR are in the Compute Contract"):
        run("genesis", "--network", str(target), *at)
    assert Registry(client, placed.contracts["registry"].address).epoch() == 0, "nothing was sent"
    compute, poor = "0x" + placed.contracts["compute"].address.hex(), "0x" + b"\x77".hex() * 20
    assert "minted" in run("mint", "0x" + deployer.address.hex(), "1000.5", *at)
    assert "transferred" in run("transfer", compute, "1000", *at)
    options = ("--key", str(folder / "deployer.json"), "--password-file", str(folder / "password"))
    assert "transferred" in run("transfer", poor, "0.25", *options, *at)
    assert run("balance", compute, poor, *at).splitlines() == [
        f"{compute}  1,000.0000 MOR, 0 wei for gas",
        f"{poor}  0.2500 MOR, 0 wei for gas",
    ]
    assert "epoch 1" in run("genesis", "--network", str(target), *at)
    network = load_network(target)
    assert (network.chain_id, len(network.members), network.genesis_ms) == (
        placed.chain_id,
        MEMBERS,
        placed.genesis_s * 1_000,
    )
    assert network.budget_wei == network.terms().economics.budget(0, 0)
    assert "epoch 1" not in run("genesis", "--network", str(target), *at)

    said = run("verify", *at)
    assert said.count("compiled just now") == len(placed.contracts)
    tamper(file, addresses)


def refuse_a_first_day_without_budget(chain: AnvilChain, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = prepare(chain, folder, monkeypatch)
    file.write_text(file.read_text().replace("endowment_mor = 1000", "endowment_mor = 0"))
    before = ChainClient(chain.url).transaction_counts(chain.funded_keys[0].address)
    with pytest.raises(ConfigInvalid, match="the first day would have no budget"):
        run("deploy", "--file", str(file))
    assert ChainClient(chain.url).transaction_counts(chain.funded_keys[0].address) == before, "no gas was spent"


def interrupt(chain: AnvilChain, file: Path) -> None:
    """A deployment whose chain goes away after the registry: the next one pays for neither again."""
    plan, saved = load_deploy_file(file).plan(), list[Placement]()
    client = ChainClient(chain.url)

    def save(placement: Placement) -> None:
        saved.append(placement)
        if "registry" in placement.contracts:
            raise ChainUnavailable(chain.url, "the power failed")

    key = chain.funded_keys[1]
    with pytest.raises(ChainUnavailable):
        Deployer(client, key, plan, Placement(client.chain_id(), key.address), save).run()
    done = Deployer(client, key, plan, saved[-1]).run()
    first = {name: done.contracts[name] for name in ("mor", "registry")}
    assert first == saved[-1].contracts
    sent = client.native_balance(key.address)
    for changed in (
        dataclasses.replace(plan, registry=RegistryTerms(unbonding_s=1)),
        dataclasses.replace(plan, genesis_s=done.genesis_s + 1),
        dataclasses.replace(plan, governor=key.address),
    ):
        with pytest.raises(CodeDiffers, match="deployed with other parameters than are wanted now"):
            Deployer(client, key, changed, done).run()
    assert Deployer(client, key, plan, done).run() == done
    assert client.native_balance(key.address) == sent, "nothing was sent for any of it"


class Died(BaseException):
    """The process is gone: nothing catches this on the way."""


class DyingClient(ChainClient):
    """Its process dies in the middle of the second deployment, the registry's: before or after it is sent or mined."""

    def __init__(self, chain: AnvilChain, dies: str) -> None:
        super().__init__(chain.url)
        self.chain, self.dies, self.sent = chain, dies, 0

    def _broadcast(self, outgoing: Any) -> None:
        self.sent += 1
        if self.sent == 2 and self.dies == "unsent":
            self._eth.send_raw_transaction = die  # type: ignore[assignment,method-assign]  # dies when all is written
        if self.sent == 2 and self.dies == "pooled":
            ask(self.chain, "evm_setAutomine", False)
        super()._broadcast(outgoing)

    def _mined(self, outgoing: Any) -> Receipt:
        if self.sent == 2 and self.dies == "pooled":
            die()
        receipt = super()._mined(outgoing)
        if self.sent == 2:
            die()
        return receipt


def die(*_: object) -> NoReturn:
    raise Died


def ask(chain: AnvilChain, method: str, *arguments: object) -> Any:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(arguments)}
    answer = requests.post(chain.url, json=request, timeout=10).json()
    return answer["result"]


def begin(chain: AnvilChain, folder: Path, key: Key, dies: str) -> Pending:
    """Deploy with a client that dies; what the address file says was under way."""
    path = folder / "contracts.json"
    path.unlink(missing_ok=True)
    plan, client = load_deploy_file(folder / "deploy.toml").plan(), DyingClient(chain, dies)
    nothing = Placement(client.chain_id(), key.address)
    with pytest.raises(Died):
        Deployer(client, key, plan, nothing, partial(write_placement, path)).run()
    found = read_placement(path)
    assert found is not None
    assert found.contracts.keys() == {"mor"}
    assert found.pending is not None
    assert (found.pending.name, found.pending.nonce) == ("registry", 1)
    return found.pending


def go_on(chain: AnvilChain, folder: Path, key: Key) -> tuple[Placement, list[str]]:
    """The next run, to its end; what it placed, and what it said."""
    path, said = folder / "contracts.json", list[str]()
    begun = read_placement(path)
    assert begun is not None
    plan, client = load_deploy_file(folder / "deploy.toml").plan(), ChainClient(chain.url)

    def note(text: str) -> None:
        said.append(text)
        if text.startswith("waiting"):
            ask(chain, "evm_mine")
            ask(chain, "evm_setAutomine", True)

    Deployer(client, key, plan, begun, partial(write_placement, path), note).run()
    found = read_placement(path)
    assert found is not None
    assert found.pending is None
    assert found.contracts.keys() == {"mor", "registry", "compute", "emission_source"}
    for name in found.contracts:
        check_code(client, found, name, load_artifact(name))
    return found, said


def die_everywhere(chain: AnvilChain, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(chain, folder, monkeypatch)
    client = ChainClient(chain.url)
    is_found = "found registry, which an earlier run deployed"
    six = 6  # four contracts and two bindings: nothing is done twice

    for key, dies in zip(chain.funded_keys[2:4], ("mined", "pooled"), strict=True):
        begin(chain, folder, key, dies)
        placed, said = go_on(chain, folder, key)
        assert placed.contracts["registry"].address == created_address(key.address, 1)
        assert is_found in said
        assert "deploying registry" not in said
        assert client.transaction_counts(key.address) == (six, six)

    for key, dies in zip(chain.funded_keys[4:6], ("unsent", "pooled"), strict=True):
        pending = begin(chain, folder, key, dies)
        if dies == "pooled":
            ask(chain, "anvil_dropTransaction", "0x" + pending.tx_hash.hex())
            ask(chain, "evm_setAutomine", True)
        placed, said = go_on(chain, folder, key)
        assert placed.contracts["registry"].address == created_address(key.address, 1), "the same nonce again"
        assert is_found not in said
        assert client.transaction_counts(key.address) == (six, six)

    key = chain.funded_keys[6]
    begin(chain, folder, key, "unsent")
    client.pay(key, key.address, 1)  # takes the nonce
    placed, _ = go_on(chain, folder, key)
    assert placed.contracts["registry"].address == created_address(key.address, 2)

    key = chain.funded_keys[7]
    begin(chain, folder, key, "unsent")
    client.deploy(key, "mor")  # something else stands where the registry would
    with pytest.raises(CodeDiffers, match="registry at 0x"):
        go_on(chain, folder, key)


async def test_a_process_that_dies_while_deploying_pays_for_nothing_twice(
    chain: AnvilChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trio.to_thread.run_sync(die_everywhere, chain, tmp_path, monkeypatch)


def tamper(file: Path, addresses: Path) -> None:
    """Every lie of the address file is found."""
    honest = addresses.read_text()

    def lie(change: str, *path: str) -> None:
        document = json.loads(honest)
        place = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = change
        addresses.write_text(json.dumps(document))

    contracts = json.loads(honest)["contracts"]
    registry, compute = contracts["registry"], contracts["compute"]
    for change, path, reason in (
        (registry["address"], ("contracts", "compute", "address"), "bytes of code"),
        ("0x" + "99" * 20, ("contracts", "compute", "address"), "there is no contract"),
        (registry["arguments"][:-1] + "9", ("contracts", "registry", "arguments"), "fixed at deployment"),
        ("0x" + "77" * 20, ("deployer",), "fixed at deployment"),
    ):
        lie(change, *path)
        with pytest.raises(CodeDiffers, match=reason):
            run("verify", "--file", str(file))
    for change, path, error in (
        (5, ("chain_id",), ChainMismatch),
        ("zz", ("contracts", "compute", "arguments"), ConfigInvalid),
    ):
        lie(change, *path)  # type: ignore[arg-type]  # whatever JSON can hold
        with pytest.raises(error):
            run("verify", "--file", str(file))
    lie("0x" + "77" * 20, "deployer")
    with pytest.raises(ConfigInvalid, match="began this"):
        run("deploy", "--file", str(file))
    addresses.write_text(honest)
    assert compute["address"] in run("verify", "--file", str(file))


async def test_from_nothing_to_a_network_file(
    chain: AnvilChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trio.to_thread.run_sync(deploy_stake_and_verify, chain, tmp_path, monkeypatch)


async def test_a_network_whose_first_day_has_no_budget_is_refused_before_gas_is_paid(
    chain: AnvilChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trio.to_thread.run_sync(refuse_a_first_day_without_budget, chain, tmp_path, monkeypatch)


def test_the_future_is_a_table_and_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "out.png"
    said = run("simulate", "--days", "90", "--every", "30", "--plot", str(picture))
    assert [line.split()[0] for line in said.splitlines()[1:5]] == ["0", "30", "60", "89"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) not in run("simulate", "--days", "2", "--plot", str(picture), "--no-plot")
