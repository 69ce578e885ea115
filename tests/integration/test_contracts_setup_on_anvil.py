"""``yellowstone contracts`` on a real chain: deployed once whatever interrupts it, and verified to the byte."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from typer.testing import CliRunner

from contracts.anvil import AnvilChain, anvil
from contracts.bindings import Compute, Mor, Registry
from contracts.client import ChainClient
from contracts.deploy import Deployment, created_address
from contracts.deployment_file import DeploymentFile, read_deployment, write_deployment
from contracts.errors import DeploymentConflict
from contracts.signing import Key
from contracts.verify import Finding, verify
from node import keys
from node.cli_contracts import app
from node.contracts_file import load_contracts
from node.contracts_setup import Operator, check
from node.errors import ChainMismatch, ConfigInvalid
from node.network_file import load_network

CACHE_DIR = Path(__file__).parents[2] / ".cache" / "anvil"
MOR = 10**18
PARAMETERS = """
name = "trial"
chain_id = 77101

[registry]
unbonding_s = 600

[source]
kind = "deploy"

[governance]
governor = "0x6060606060606060606060606060606060606060"

[params]
slot_ms = 4000
day_slots = 150
endowment_mor = 1000
"""
RUN = CliRunner()


class Interrupted(Exception):
    """What a kill looks like to the code that it hits."""


def unbroken(made: DeploymentFile) -> list[str]:
    return sorted(made.contracts)


def good(findings: list[Finding]) -> bool:
    return all(finding.is_good for finding in findings)


def bad(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings if not finding.is_good]


async def on_chain(tmp_path: Path, body: Callable[[AnvilChain, Path], None]) -> None:
    async with anvil(CACHE_DIR, tmp_path / "anvil.log") as chain:
        with trio.fail_after(120):
            await trio.to_thread.run_sync(body, chain, tmp_path)


def whole_life(chain: AnvilChain, folder: Path) -> None:
    client, [deployer, member, *_] = ChainClient(chain.url), chain.funded_keys
    (folder / "contracts.toml").write_text(PARAMETERS)
    (folder / "password").write_text("swordfish\n")
    (folder / "password").chmod(0o600)
    keys.store_secret(folder / "mor.json", deployer.reveal(), "swordfish", "mor")
    where = ["--rpc", chain.url, "--addresses", str(folder / "addresses.json")]
    signed = [*where, "--key", str(folder / "mor.json"), "--password-file", str(folder / "password")]

    def said(*arguments: str, status: int = 0) -> str:
        result = RUN.invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result.output

    parameters = str(folder / "contracts.toml")
    assert "registry" in said("deploy", parameters, *signed)
    made = read_deployment(folder / "addresses.json")
    assert unbroken(made) == ["compute", "emission_source", "mor", "registry"]
    sent = client.transaction_count(deployer.address)
    said("deploy", parameters, *signed)
    assert client.transaction_count(deployer.address) == sent, "a second run sends nothing"

    answer = said("verify", *where, "--parameters", parameters)
    assert "BAD" not in answer
    assert answer.count("recompiled with vyper") == 4
    assert re.search("ok +compute: parameters +as contracts.toml says", answer)

    mor, registry = Mor(client, made.address_of("mor")), Registry(client, made.address_of("registry"))
    with pytest.raises(Exception, match="nobody has staked"):
        said("open", parameters, *signed, "--network", str(folder / "network.toml"))
    mor.mint(deployer, member.address, 5 * MOR)
    mor.approve(member, registry.address, 5 * MOR)
    registry.stake(member, 5 * MOR)
    for _ in range(2):
        said("open", parameters, *signed, "--network", str(folder / "network.toml"))
    network = load_network(folder / "network.toml")
    assert network.committee().root == registry.committee_root()
    assert (network.genesis_ms, network.params.day_slots) == (made.genesis_s * 1_000, 150)
    assert (network.supply_wei, network.budget_wei) == (5 * MOR, 1_000 * MOR)
    assert Compute(client, made.address_of("compute")).budget_left(0) == network.budget_wei

    replaced = msgspec.structs.replace(
        made.contracts["registry"], arguments=made.contracts["registry"].arguments[:-2] + "01"
    )
    false = msgspec.structs.replace(made, contracts=made.contracts | {"registry": replaced})
    write_deployment(folder / "false.json", false)
    assert bad(list(check(client, folder / "false.json", load_contracts(folder / "contracts.toml")))) == [
        "registry: code",
        "registry: parameters",
    ]
    elsewhere = msgspec.structs.replace(made, deployer="0x" + member.address.hex())
    assert bad(verify(client, elsewhere)) == ["mor: code", "registry: code", "compute: code"]
    assert bad(verify(client, msgspec.structs.replace(made, chain_id=1))) == ["chain"]
    believed = verify(client, made, compiled=lambda _: None)
    assert good(believed)
    assert sum("NOT recompiled: vyper is not installed" in finding.detail for finding in believed) == 4
    code = client.code(registry.address)
    set_code(client, registry.address, code[:100] + bytes([code[100] ^ 1]) + code[101:])
    [finding] = [one for one in verify(client, made) if not one.is_good]
    assert "differs from byte 100 on, in the code itself" in finding.detail
    set_code(client, registry.address, b"")
    assert {"registry: code", "bindings"} == set(bad(verify(client, made)))


def set_code(client: ChainClient, address: bytes, code: bytes) -> None:
    """Only a development chain does that."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "anvil_setCode", "params": ["0x" + address.hex(), "0x" + code.hex()]}
    assert "error" not in httpx.post(client.url, json=call).json()


async def test_from_parameters_to_a_network_file(tmp_path: Path) -> None:
    await on_chain(tmp_path, whole_life)


def interrupted_everywhere(chain: AnvilChain, folder: Path) -> None:
    """After every write of the address file in turn; each time with a key of its own."""
    client, [treasury, *_] = ChainClient(chain.url), chain.funded_keys
    path = folder / "contracts.toml"
    path.write_text(PARAMETERS)
    wanted, steps = load_contracts(path), 0
    for stop in range(1, 100):
        key = Key(bytes([3, stop]) * 16)
        client.pay(treasury, key.address, MOR)
        addresses = folder / f"addresses-{stop}.json"
        try:
            interrupt(client, key, addresses, wanted, stop)
        except Interrupted:
            steps += 1
        else:
            break
        made = Operator(client, key, addresses, lambda _: None).deploy(wanted)
        assert unbroken(made) == ["compute", "emission_source", "mor", "registry"]
        assert made.pending is None
        # four contracts and two bindings, and none of them twice
        assert client.transaction_count(key.address) == 6
        assert good(verify(client, made, compiled=lambda _: None))
    assert steps == 9


def interrupt(client: ChainClient, key: Key, addresses: Path, wanted: Any, stop: int) -> None:
    """A deployment that dies when it writes for the ``stop``-th time: before the file is there when that is odd."""
    writes = 0

    def keep(file: DeploymentFile) -> None:
        nonlocal writes
        writes += 1
        is_after_sending = file.pending is None
        if writes == stop and is_after_sending:
            raise Interrupted
        write_deployment(addresses, file)
        if writes == stop:
            raise Interrupted

    deployment = Deployment(client, key, keep=keep)
    deployment.token(None)
    deployment.registry(wanted.registry_terms)
    economics = wanted.economics(1_800_000_000)
    deployment.compute(economics, wanted.governor, wanted.governance.delay_s)
    deployment.bind(deployment.source(economics.schedule).address)


async def test_a_deployment_goes_on_wherever_it_broke_off(tmp_path: Path) -> None:
    await on_chain(tmp_path, interrupted_everywhere)


def conflicts(chain: AnvilChain, folder: Path) -> None:
    client, [deployer, other, *_] = ChainClient(chain.url), chain.funded_keys
    path, addresses = folder / "contracts.toml", folder / "addresses.json"

    def deploy(text: str, key: Key = deployer) -> DeploymentFile:
        path.write_text(text)
        return Operator(client, key, addresses, lambda _: None).deploy(load_contracts(path))

    with pytest.raises(ChainMismatch, match=r"77101, this network is on 1\b"):
        deploy(PARAMETERS.replace("77101", "1"))
    made = deploy(PARAMETERS)
    with pytest.raises(DeploymentConflict, match=r"registry: 0x.* was deployed with other parameters"):
        deploy(PARAMETERS.replace("unbonding_s = 600", "unbonding_s = 601"))
    with pytest.raises(DeploymentConflict, match=r"compute: 0x.* was deployed with other parameters"):
        deploy(PARAMETERS.replace("endowment_mor = 1000", "endowment_mor = 1001"))
    with pytest.raises(ConfigInvalid, match="slot 0 begins at"):
        deploy(PARAMETERS.replace("chain_id", "genesis_s = 5\nchain_id"))
    with pytest.raises(DeploymentConflict, match="address file: is of chain 77101 and 0x"):
        deploy(PARAMETERS, other)
    token = f'[token]\naddress = "0x{made.address_of("mor").hex()}"\n[registry]'
    with pytest.raises(DeploymentConflict, match=r"token: 0x.* was used so far"):
        deploy(PARAMETERS.replace("[registry]", token).replace('"deploy"', '"transfer"'))
    addresses.unlink()
    plain = PARAMETERS.replace("[registry]", token).replace('"deploy"', '"transfer"')
    again = deploy(plain)
    assert unbroken(again) == ["compute", "registry"]
    assert again.address_of("mor") == made.address_of("mor")
    assert good(verify(client, again, compiled=lambda _: None))
    with pytest.raises(DeploymentConflict, match="was used so far, and none is named now"):
        deploy(PARAMETERS)
    addresses.unlink()
    nobody = plain.replace(made.address_of("mor").hex(), "11" * 20)
    with pytest.raises(DeploymentConflict, match="there is no contract at 0x1111"):
        deploy(nobody)
    existing = f'kind = "existing"\naddress = "0x{made.address_of("emission_source").hex()}"'
    bound = deploy(plain.replace('kind = "transfer"', existing))
    assert Compute(client, bound.address_of("compute")).source() == made.address_of("emission_source")


async def test_what_is_there_is_never_replaced_by_something_else(tmp_path: Path) -> None:
    await on_chain(tmp_path, conflicts)


def test_the_address_of_a_contract_follows_from_deployer_and_nonce() -> None:
    """The examples that every client's tests have, and a nonce of each length."""
    deployer = bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")
    found = [created_address(deployer, nonce).hex() for nonce in range(4)]  # type: ignore[arg-type]  # 20 bytes
    assert found == [
        "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d",
        "343c43a37d37dff08ae8c4a11544c718abb4fcf8",
        "f778b86fa74e846c4f0a1fbd1335fe81c00a0c91",
        "fffd933a0bc612844eaf0c6fe3e5b8e9b6c1d19c",
    ]
