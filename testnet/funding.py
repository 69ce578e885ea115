"""Put a test network's contracts on the chain and give everyone the MOR that the plan says.

Synchronous, like the chain client: the launcher runs it in a worker thread.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consensus.committee import Committee, Member
from consensus.params import NetworkParams, economics_of
from contracts.bindings import RESCUE_DELAY_S, RESCUE_NOTICE_S
from contracts.client import ChainClient
from contracts.deploy import Deployment as Contracts
from contracts.deploy import RegistryTerms
from contracts.signing import Key
from contracts.typed_data import Address
from testnet.errors import TestnetError
from testnet.keys import Identity
from testnet.plan import POOL_WEI, SOURCE_WEI, SUPPLY_WEI

GAS_WEI = 10**18
"""What each key gets of the chain's own coin, for gas."""

REGISTRY_TERMS = RegistryTerms(600, 100, 5, RESCUE_DELAY_S, RESCUE_NOTICE_S)
"""Ten minutes of unbonding, and for the rest what a public network has."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """The contracts, the committee of epoch 1 and the block at which everyone holds what the plan says."""

    mor: Address
    registry: Address
    compute: Address
    source: Address
    """The emission source, which the Compute Contract asks when it needs money."""
    genesis_ms: int
    """When slot 0 begins, Unix ms: a whole second, by which the Compute Contract counts days."""
    committee: Committee
    snapshot_block: int


def deploy_and_fund(
    client: ChainClient,
    treasury: Key,
    identities: Sequence[Identity],
    params: NetworkParams,
    note: Callable[[str], None],
) -> Deployment:
    """Deploy, mint, stake and open epoch 1; ``treasury`` pays and keeps what is left of the supply.

    The Compute Contract comes last, because the network's clock starts with it.

    Raises :class:`contracts.errors.ContractsError` where the chain refuses or doesn't answer.
    """
    note("deploying MOR and registry")
    contracts = Contracts(client, treasury)
    mor = contracts.token()
    registry = contracts.registry(REGISTRY_TERMS)
    handed_out = POOL_WEI + SOURCE_WEI
    for identity in identities:
        node, key = identity.node, identity.key
        note(f"funding {node.name}")
        mor.mint(treasury, key.address, node.balance_wei + node.stake_wei)
        handed_out += node.balance_wei + node.stake_wei
        if node.kind != "user":  # the user never sends a transaction (S5)
            client.pay(treasury, key.address, GAS_WEI)
        if node.stake_wei:
            mor.approve(key, registry.address, node.stake_wei)
            registry.stake(key, node.stake_wei)
    mor.mint(treasury, treasury.address, SUPPLY_WEI - handed_out)
    note("deploying Compute Contract and emission source")
    economics = economics_of(params, time.time_ns() // 10**9)
    compute = contracts.compute(economics)
    source = contracts.source(economics.schedule)
    mor.mint(treasury, compute.address, POOL_WEI)
    mor.mint(treasury, source.address, SOURCE_WEI)
    contracts.bind(source.address)
    note("opening epoch 1")
    registry.open_epoch(treasury)
    committee = Committee.of(1, [Member(address, stake) for address, stake in registry.committee(1)])
    if committee.root != registry.committee_root():
        raise TestnetError(f"the registry's committee root is not 0x{committee.root.hex()}, which its members make")
    return Deployment(
        mor.address,
        registry.address,
        compute.address,
        source.address,
        economics.genesis_s * 1_000,
        committee,
        client.block_number(),
    )


def balances(client: ChainClient, mor: Address, identities: Sequence[Identity]) -> dict[str, int]:
    """Wei of MOR that each of ``identities`` holds now, by address as people read it."""
    found = client.balances(mor, [identity.key.address for identity in identities])
    return {identity.address: balance for identity, balance in zip(identities, found, strict=True)}
