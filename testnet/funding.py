"""Put a test network's contracts on the chain and give everyone the MOR that the plan says.

Synchronous, like the chain client: the launcher runs it in a worker thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consensus.committee import Committee, Member
from contracts.bindings import Compute, Mor, Registry
from contracts.client import ChainClient
from contracts.signing import Key
from contracts.typed_data import Address
from testnet.errors import TestnetError
from testnet.keys import Identity
from testnet.plan import POOL_WEI, SUPPLY_WEI

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
    committee: Committee
    snapshot_block: int


def deploy_and_fund(
    client: ChainClient, treasury: Key, identities: Sequence[Identity], note: Callable[[str], None]
) -> Deployment:
    """Deploy, mint, stake and open epoch 1; ``treasury`` pays and keeps what is left of the supply.

    Raises :class:`contracts.errors.ContractsError` where the chain refuses or doesn't answer.
    """
    note("deploying MOR, registry and Compute Contract")
    mor = Mor.deploy(client, treasury)
    registry = Registry.deploy(client, treasury, mor.address, UNBONDING_S)
    compute = Compute.deploy(client, treasury, mor.address, registry.address)
    registry.bind(treasury, compute.address)
    handed_out = POOL_WEI
    mor.mint(treasury, compute.address, POOL_WEI)
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
    note("opening epoch 1")
    registry.open_epoch(treasury)
    committee = Committee.of(1, [Member(address, stake) for address, stake in registry.committee(1)])
    if committee.root != registry.committee_root():
        raise TestnetError(f"the registry's committee root is not 0x{committee.root.hex()}, which its members make")
    return Deployment(mor.address, registry.address, compute.address, committee, client.block_number())


def balances(client: ChainClient, mor: Address, identities: Sequence[Identity]) -> dict[str, int]:
    """Wei of MOR that each of ``identities`` holds now, by address as people read it."""
    found = client.balances(mor, [identity.key.address for identity in identities])
    return {identity.address: balance for identity, balance in zip(identities, found, strict=True)}
