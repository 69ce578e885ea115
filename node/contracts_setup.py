"""An operator's work on a network's contracts: deploy them, open the first epoch, hold them against their sources.

Blocking. :mod:`contracts.deploy` does the deploying, for this and for the launcher of test networks.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import astuple

from consensus.committee import Member
from contracts.bindings import Mor, Registry, compute_arguments
from contracts.client import ChainClient
from contracts.deploy import Deployment, encoded_arguments
from contracts.deployment_file import DeploymentFile, read_deployment, write_deployment
from contracts.signing import Key
from contracts.verify import Finding, verify
from node.contracts_file import ContractsFile
from node.errors import ChainMismatch, ConfigInvalid
from node.network_file import ContractAddresses, NetworkFile, write_network


@dataclass(frozen=True, slots=True)
class Operator:
    """Whose key pays, which chain is meant, and where the address file is."""

    client: ChainClient
    key: Key
    addresses: Path
    say: Callable[[str], None]

    def deploy(self, wanted: ContractsFile) -> DeploymentFile:
        """Every contract that isn't there yet. Raises :class:`ChainMismatch` and what :mod:`contracts.deploy` does."""
        found = self.client.chain_id()
        if found != wanted.chain_id:
            raise ChainMismatch(self.client.url, found, wanted.chain_id)
        made = read_deployment(self.addresses) if self.addresses.exists() else None
        deployment = Deployment(
            self.client,
            self.key,
            file=made,
            keep=lambda file: write_deployment(self.addresses, file),
            say=self.say,
        )
        deployment.token(wanted.token_address)
        deployment.registry(wanted.registry_terms)
        economics = wanted.economics(self._genesis_s(deployment, wanted))
        deployment.compute(economics, wanted.governor, wanted.governance.delay_s)
        source = wanted.source_address
        if wanted.source.kind == "deploy":
            source = deployment.source(economics.schedule).address
        deployment.bind(source)
        return deployment.file

    def open(self, wanted: ContractsFile, network: Path) -> NetworkFile:
        """Open the first epoch where it isn't, and write the network.toml that nodes start from.

        Raises :class:`ConfigInvalid` where nobody has staked and :class:`~contracts.errors.ContractsError`.
        """
        file = read_deployment(self.addresses)
        mor, registry = (file.address_of(name) for name in ("mor", "registry"))
        contract = Registry(self.client, registry)
        if contract.epoch() == 0:
            self.say("opening epoch 1")
            contract.open_epoch(self.key)
        members = tuple(Member(address, stake) for address, stake in contract.committee(1))
        block = self.client.block_number()
        network_file = NetworkFile(
            name=wanted.name,
            genesis_ms=file.genesis_s * 1_000,
            chain_id=file.chain_id,
            contracts=ContractAddresses(mor, registry, file.address_of("compute")),
            epoch=1,
            members=members,
            params=wanted.params,
            snapshot_block=block,
            supply_wei=Mor(self.client, mor).total_supply(block),
            budget_wei=wanted.economics(file.genesis_s).budget(0, 0),
            reference_price_wei=wanted.reference_price_wei,
        )
        write_network(network, network_file)
        return network_file

    def _genesis_s(self, deployment: Deployment, wanted: ContractsFile) -> int:
        """The time that is wanted; where none is, now or what an earlier run has chosen."""
        chosen = deployment.file.genesis_s
        if wanted.genesis_s and chosen not in {0, wanted.genesis_s}:
            raise ConfigInvalid(self.addresses, "genesis_s", f"slot 0 begins at {chosen}, not at {wanted.genesis_s}")
        genesis_s = wanted.genesis_s or chosen or int(time.time())
        deployment.begin_at(genesis_s)
        return genesis_s


def check(client: ChainClient, addresses: Path, wanted: ContractsFile | None = None) -> tuple[Finding, ...]:
    """Whether the chain holds what the sources and, where it is given, contracts.toml say."""
    file = read_deployment(addresses)
    findings = verify(client, file)
    if wanted is not None:
        findings += _parameters(file, wanted)
    return tuple(findings)


def _parameters(file: DeploymentFile, wanted: ContractsFile) -> list[Finding]:
    """The arguments that the address file names are the ones that contracts.toml makes."""
    mor, registry, terms = file.address_of("mor"), file.address_of("registry"), astuple(wanted.registry_terms)
    economics = wanted.economics(file.genesis_s)
    of_compute = compute_arguments(mor, registry, economics, wanted.governor, wanted.governance.delay_s)
    findings = []
    for name, arguments in (("registry", (mor, *terms)), ("compute", of_compute)):
        held = file.contracts.get(name)
        is_same = held is not None and held.arguments == encoded_arguments(name, *arguments)
        findings.append(Finding(f"{name}: parameters", is_same, f"{'' if is_same else 'not '}as contracts.toml says"))
    return findings
