"""The folder of a test network: one network.toml, and a folder with node.toml, keys and data for each node."""

import fcntl
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from consensus.params import economics_of
from contracts.typed_data import Digest, Domain
from inference.model_store import DEFAULT_MODEL
from node.config import (
    ChainAccess,
    ContractAddresses,
    Listen,
    ModelOffer,
    NodeFile,
    load_network,
    write_network,
    write_node,
)
from node.network_file import NetworkFile
from node.roles.secrets import SlotSecrets
from testnet.errors import FolderTaken
from testnet.funding import Deployment
from testnet.keys import Identity
from testnet.plan import GUEST_BID_WEI, SUPPLY_WEI, Lie, NodeKind, Plan
from testnet.processes import ROOT

CACHE = ROOT / ".cache"
"""What is fetched once: the chain's binary and the model."""

LOCK = ".yellowstone-testnet"
"""Marks a folder as a test network's; locked while the network runs."""

MODEL_NAME = DEFAULT_MODEL.name

DAYS_COMMITTED = (0, 1)
"""The days whose beacon commitments are part of the genesis; members commit to later ones themselves."""

CONTEXT_T = 1_024
PROMPT_MAX_T = 512

LOOPBACK = Listen(p2p=("/ip4/127.0.0.1/tcp/0",))
"""Nodes of one machine: any free port, seen by nobody else."""


@contextmanager
def open_folder(directory: Path | None) -> Iterator[Path]:
    """An empty folder for a network, locked until the context is left; what an earlier network left is removed.

    Raises :class:`FolderTaken` for a folder that holds anything else, or a network that runs.
    """
    folder = (directory or CACHE / "testnet").absolute()
    if folder.exists() and not folder.is_dir():
        raise FolderTaken(folder, "is not a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / LOCK).is_file():
        raise FolderTaken(folder, "holds something that is no test network; name an empty folder with --dir")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(folder, "a test network runs there; stop it, or name another folder with --dir") from None
        for entry in folder.iterdir():
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        yield folder


@dataclass(frozen=True, slots=True)
class Genesis:
    """A network that is on the chain and whose nodes have keys, but have not started."""

    plan: Plan
    folder: Path
    rpc_url: str
    chain_id: int
    deployment: Deployment
    identities: tuple[Identity, ...]
    model_path: Path | None
    """What providers with engine ``llamacpp`` serve."""
    lies: Mapping[str, Lie] = field(default_factory=dict)
    """Nodes that cheat, by name."""
    listed: tuple[Digest, ...] = ()
    """Ids of the models that are payable from the start (S8)."""

    @property
    def network_path(self) -> Path:
        """Where network.toml is."""
        return self.folder / "network.toml"

    def of_kind(self, kind: NodeKind) -> tuple[Identity, ...]:
        """The identities of one kind, in the plan's order."""
        return tuple(identity for identity in self.identities if identity.node.kind == kind)


def write_network_file(genesis: Genesis, genesis_ms: int) -> None:
    """Write network.toml, with every member's beacon commitments. Slot 0 begins at ``genesis_ms``, Unix ms."""
    plan, deployment = genesis.plan, genesis.deployment
    domain = Domain(genesis.chain_id, deployment.compute)
    members = [SlotSecrets(member.key, plan.params, domain) for member in genesis.of_kind("member")]
    network = NetworkFile(
        name="testnet",
        genesis_ms=genesis_ms,
        chain_id=genesis.chain_id,
        contracts=ContractAddresses(deployment.mor, deployment.registry, deployment.compute),
        epoch=deployment.committee.epoch,
        members=deployment.committee.members,
        params=plan.params,
        snapshot_block=deployment.snapshot_block,
        supply_wei=SUPPLY_WEI,
        budget_wei=economics_of(plan.params, genesis_ms // 1_000).budget(0, 0),
        reference_price_wei=plan.options.reference_price_wei,
        commitments=tuple(secrets.commitment(day) for secrets in members for day in DAYS_COMMITTED),
        listed=genesis.listed,
    )
    write_network(genesis.network_path, network)


def write_bootstrap(genesis: Genesis, multiaddrs: Sequence[str]) -> None:
    """Add addresses to start from to network.toml, once they are known: whoever has the file finds the network."""
    network = load_network(genesis.network_path)
    write_network(genesis.network_path, msgspec.structs.replace(network, bootstrap=tuple(multiaddrs)))


def node_file(genesis: Genesis, identity: Identity, bootstrap: Sequence[str], *, as_provider: bool = False) -> NodeFile:
    """What ``identity``'s node.toml says; ``as_provider`` where it is to sell though the plan doesn't say so."""
    node, engine = identity.node, genesis.plan.options.engine
    sells = as_provider or node.kind == "provider"
    offer = ModelOffer(
        model=MODEL_NAME,
        price_wei=node.price_wei or GUEST_BID_WEI,
        engine=engine,
        path=genesis.model_path if engine == "llamacpp" else None,
        slots=genesis.plan.options.slots,
        token_ms=genesis.plan.options.token_ms,
        context=CONTEXT_T,
        prompt_max=PROMPT_MAX_T,
        threads=1,
    )
    return NodeFile(
        network=genesis.network_path,
        data_dir=identity.data_dir,
        keys=identity.files,
        roles=("full", "provider") if sells else node.roles,
        chain=ChainAccess(rpc_url=genesis.rpc_url if node.has_chain else "", timeout_s=10.0, poll_ms=500),
        listen=LOOPBACK,
        bootstrap=tuple(bootstrap),
        models=(offer,) if sells else (),
    )


def write_node_file(identity: Identity, config: NodeFile, name: str = "node.toml") -> Path:
    """Write a node file into the node's folder and return its path."""
    path = identity.folder / name
    write_node(path, config)
    return path


def pin_address(config: NodeFile, multiaddrs: Sequence[str], others: Sequence[str]) -> NodeFile:
    """``config`` with the port that the node got, and all others to start from, so that it can be started again."""
    own = tuple(address.partition("/p2p/")[0] for address in multiaddrs) or config.listen.p2p
    listen = msgspec.structs.replace(config.listen, p2p=own)
    return msgspec.structs.replace(config, listen=listen, bootstrap=tuple(others))
