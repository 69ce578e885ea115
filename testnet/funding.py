"""Put a test network's contracts on the chain and give everyone the MOR that the plan says.

Synchronous, like the chain client: the launcher runs it in a worker thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from consensus.committee import Committee, Member
from consensus.params import NetworkParams, economics_of
from contracts.client import ChainClient
from contracts.deployment import Deployer, DeploymentPlan, Placement, RegistryTerms
from contracts.signing import Key
from contracts.typed_data import Address
from testnet.errors import TestnetError
from testnet.keys import Identity
from testnet.plan import MOR, SOURCE_WEI, SUPPLY_WEI

GAS_WEI = 10**18
"""What each key gets of the chain's own coin, for gas."""

UNBONDING_S = 600
"""How long unstaked MOR waits in the registry."""


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
    *,
    genesis_s: int = 0,
) -> Deployment:
    """Deploy, mint, stake and open epoch 1; ``treasury`` pays and keeps what is left of the supply.

    The Compute Contract comes last, because the network's clock starts with it, or at ``genesis_s`` (Unix seconds).

    Raises :class:`contracts.errors.ContractsError` where the chain refuses or doesn't answer.
    """
    note("deploying MOR and registry")
    terms = RegistryTerms(unbonding_s=UNBONDING_S)
    plan = DeploymentPlan(partial(economics_of, params), registry=terms, genesis_s=genesis_s)
    deployer = Deployer(client, treasury, plan, Placement(client.chain_id(), treasury.address))
    mor, registry = deployer.token(), deployer.registry()
    pool_wei = params.endowment_mor * MOR
    handed_out = pool_wei + SOURCE_WEI
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
    placed = deployer.run()
    compute, source = placed.contracts["compute"].address, placed.contracts["emission_source"].address
    mor.mint(treasury, compute, pool_wei)
    mor.mint(treasury, source, SOURCE_WEI)
    note("opening epoch 1")
    registry.open_epoch(treasury)
    committee = Committee.of(1, [Member(address, stake) for address, stake in registry.committee(1)])
    if committee.root != registry.committee_root():
        raise TestnetError(f"the registry's committee root is not 0x{committee.root.hex()}, which its members make")
    return Deployment(
        mor.address,
        registry.address,
        compute,
        source,
        placed.genesis_s * 1_000,
        committee,
        client.block_number(),
    )


def balances(client: ChainClient, mor: Address, identities: Sequence[Identity]) -> dict[str, int]:
    """Wei of MOR that each of ``identities`` holds now, by address as people read it."""
    found = client.balances(mor, [identity.key.address for identity in identities])
    return {identity.address: balance for identity, balance in zip(identities, found, strict=True)}
