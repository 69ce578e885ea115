"""One deployment as its operator handles it: deploy, open epoch 1, verify. Blocking; no router does this (S12)."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from consensus.committee import Member
from consensus.params import NetworkParams, Terms
from contracts.amounts import show_mor
from contracts.budget import Economics
from contracts.emission import PAYOUT_START_S
from contracts.typed_data import ZERO_ADDRESS, Address, Domain
from node import keys
from node.deploy_file import DeployFile, check_opening, load_deploy_file, read_placement, write_placement
from node.errors import ChainMismatch, ConfigInvalid
from node.network_file import ContractAddresses, NetworkFile, check_network, write_network
from node.recursion import kept_recursion_limit

if TYPE_CHECKING:
    from contracts.artifacts import Artifact
    from contracts.bindings import Mor
    from contracts.client import ChainClient
    from contracts.deployment import Placement


class OnChain:
    """A deployment and its chain. Every method raises :class:`~node.errors.NodeError` and
    :class:`~contracts.errors.ContractsError`."""

    def __init__(
        self, source: Path, file: DeployFile, addresses: Path, client: "ChainClient", say: Callable[[str], None]
    ) -> None:
        self._source = source
        self._file = file
        self._addresses = addresses
        self._client = client
        self._say = say

    def deploy(self) -> None:
        """All steps that are not done yet; the address file is written after each."""
        from contracts.deployment import Deployer, Placement  # noqa: PLC0415  # web3 is heavy

        file = self._file
        key = keys.load_mor_key(file.key, keys.find_password(file.key, file.password_file))
        known = self._known()
        genesis_s = (known.genesis_s if known is not None else 0) or file.genesis_s or int(time.time())
        check_opening(self._source, file, genesis_s)
        if known is not None and known.deployer != key.address:
            raise ConfigInvalid(self._addresses, "deployer", f"0x{known.deployer.hex()} began this, not {file.key}")
        done = known or Placement(self._client.chain_id(), key.address)
        placed = Deployer(self._client, key, file.plan(), done, self._save, self._say).run()
        self._say(f"token             0x{(placed.mor or ZERO_ADDRESS).hex()}")
        for name, one in placed.contracts.items():
            self._say(f"{name:<17} 0x{one.address.hex()}")
        self._say(f"slot 0 begins     {placed.genesis_s} (Unix seconds)")
        self._say(f"written           {self._addresses}")
        self._say("next              members stake in the registry; then `yellowstone contracts genesis`")

    def stake(self, key_file: Path, password_file: Path | None, amount: int) -> None:
        """Bond ``amount`` wei of a member's, for the epoch that is to be opened."""
        from contracts.bindings import Mor, Registry  # noqa: PLC0415  # web3 is heavy
        from node.staking import Staking  # noqa: PLC0415  # as above

        key = keys.load_mor_key(key_file, keys.find_password(key_file, password_file))
        placed = self._complete()
        registry = Registry(self._client, placed.contracts["registry"].address)
        Staking(key, Mor(self._client, self._token(placed)), registry, self._say).join(amount)

    def genesis(self, target: Path, bootstrap: Sequence[str] = ()) -> None:
        """Open epoch 1, unless it is open, and write network.toml.

        All that network.toml will say is checked first: an epoch can't be opened again.
        """
        from contracts.bindings import Registry  # noqa: PLC0415  # web3 is heavy

        file, placed = self._file, self._complete()
        registry = Registry(self._client, placed.contracts["registry"].address)
        check_opening(self._source, file, placed.genesis_s)
        if registry.epoch() == 0:
            check_network(target, self._network(placed, registry.candidates(self._client.block_number()), bootstrap))
            self._check_endowment(placed)
            key = keys.load_mor_key(file.key, keys.find_password(file.key, file.password_file))
            registry.open_epoch(key)
            self._say("opened            epoch 1")
        if not bootstrap:
            self._say("no --bootstrap: nodes find nobody before network.toml or node.toml names an address")
        write_network(target, self._network(placed, registry.committee(1), bootstrap))
        self._say(f"written           {target}")
        if self._file.params.listed_models and not self._file.listed:
            self._say(
                "no model is listed: nobody is paid before the committee lists one (`yellowstone committee list`)"
            )

    def _check_endowment(self, placed: "Placement") -> None:
        """Whether the Compute Contract holds what the budget counts on. Raises :class:`ConfigInvalid`."""
        promised = self._file.plan().economics(placed.genesis_s).endowment_wei
        compute = placed.contracts["compute"].address
        (paid,) = self._client.balances(self._token(placed), [compute])
        if paid < promised:
            reason = f"{show_mor(promised)} are promised, {show_mor(paid)} are in the Compute Contract: transfer "
            reason += f"{show_mor(promised - paid)} to 0x{compute.hex()} (`yellowstone contracts transfer`)"
            raise ConfigInvalid(self._source, "params.endowment_mor", reason)

    def balances(self, addresses: list[Address]) -> None:
        """Show what addresses hold of the token, and of the chain's coin for gas."""
        held = self._client.balances(self._token(self._complete()), addresses)
        for address, wei in zip(addresses, held, strict=True):
            self._say(f"0x{address.hex()}  {show_mor(wei)}, {self._client.native_balance(address)} wei for gas")

    def mint(self, to: Address, amount: int) -> None:
        """Create ``amount`` wei of a test network's token with the deployer's key; the real token refuses."""
        file = self._file
        key = keys.load_mor_key(file.key, keys.find_password(file.key, file.password_file))
        self._mor().mint(key, to, amount)
        self._say(f"minted            {show_mor(amount)} for 0x{to.hex()}")

    def transfer(self, to: Address, amount: int, key_file: Path | None, password_file: Path | None) -> None:
        """Move ``amount`` wei of the token: of ``key_file``'s, or of the deployer's where none is named."""
        file = key_file or self._file.key
        key = keys.load_mor_key(file, keys.find_password(file, password_file if key_file else self._file.password_file))
        self._mor().transfer(key, to, amount)
        self._say(f"transferred       {show_mor(amount)} from 0x{key.address.hex()} to 0x{to.hex()}")

    def _mor(self) -> "Mor":
        from contracts.bindings import Mor  # noqa: PLC0415  # web3 is heavy

        return Mor(self._client, self._token(self._complete()))

    def verify(self) -> None:
        """Compare each contract that this deployment placed with its source."""
        from contracts.deployment import check_code  # noqa: PLC0415  # web3 is heavy

        placed = self._complete()
        for name in placed.contracts:
            artifact, origin = self._artifact(name)
            check_code(self._client, placed, name, artifact)
            address = placed.contracts[name].address.hex()
            self._say(f"{name:<17} 0x{address} is {name}.vy by {artifact.compiler}, {origin}")
        if "mor" not in placed.contracts and placed.mor is not None:
            self._say(f"token             0x{placed.mor.hex()} was there before; not compared")
        self._say("the chain has what the sources compile to, with the constructors' arguments of the address file")

    def _artifact(self, name: str) -> "tuple[Artifact, str]":
        """The contract compiled now, or as it is checked in where there is no compiler."""
        from contracts.artifacts import Artifact, load_artifact  # noqa: PLC0415  # as above
        from contracts.build import compile_contract  # noqa: PLC0415  # the compiler may be missing

        try:
            return msgspec.json.decode(compile_contract(name), type=Artifact), "compiled just now"
        except ImportError:
            return load_artifact(name), "as it is checked in: no vyper is installed to compile it"

    def _network(
        self, placed: "Placement", committee: Sequence[tuple[Address, int]], bootstrap: Sequence[str]
    ) -> NetworkFile:
        mor = self._token(placed)
        block = self._client.block_number()
        snapshot = self._client.snapshot(mor, (), block)
        economics: Economics = self._file.plan().economics(placed.genesis_s)
        return NetworkFile(
            name=self._file.name,
            genesis_ms=placed.genesis_s * 1_000,
            chain_id=placed.chain_id,
            contracts=ContractAddresses(mor, placed.contracts["registry"].address, placed.contracts["compute"].address),
            epoch=1,
            members=tuple(Member(member, stake) for member, stake in committee),
            params=self._file.params,
            snapshot_block=block,
            supply_wei=snapshot.supply_wei,
            budget_wei=economics.budget(0, 0),
            reference_price_wei=self._file.reference_price_wei,
            listed=self._file.listed,
            bootstrap=tuple(bootstrap),
        )

    def _token(self, placed: "Placement") -> Address:
        if placed.mor is None:
            raise ConfigInvalid(self._addresses, "mor", "is missing: run `yellowstone contracts deploy` first")
        return placed.mor

    def _save(self, placement: "Placement") -> None:
        write_placement(self._addresses, placement)

    def _known(self) -> "Placement | None":
        """The address file. Raises :class:`ChainMismatch` where it is of another chain."""
        known = read_placement(self._addresses)
        if known is not None and (found := self._client.chain_id()) != known.chain_id:
            raise ChainMismatch(self._file.rpc_url, found, known.chain_id)
        return known

    def _complete(self) -> "Placement":
        known = self._known()
        if known is None or not {"registry", "compute"} <= known.contracts.keys():
            raise ConfigInvalid(self._addresses, "", "names no deployment: run `yellowstone contracts deploy` first")
        return known


def open_deployment(source: Path, addresses: Path, say: Callable[[str], None]) -> OnChain:
    """The deployment that ``source``, a deploy.toml, describes. Raises :class:`~node.errors.ConfigInvalid`."""
    file = load_deploy_file(source)
    with kept_recursion_limit():
        from contracts.client import ChainClient  # noqa: PLC0415  # web3 is heavy: only where there is a chain
    return OnChain(source, file, addresses, ChainClient(file.rpc_url), say)


def terms_of(source: Path | None) -> Terms:
    """The terms of a deploy.toml's network; without one those of Morpheus's emission from its first day on."""
    domain = Domain(1, ZERO_ADDRESS)
    if source is None:
        return Terms(domain, PAYOUT_START_S * 1_000, NetworkParams(emission_start_s=PAYOUT_START_S))
    file = load_deploy_file(source)
    return Terms(domain, (file.genesis_s or PAYOUT_START_S) * 1_000, file.params)
