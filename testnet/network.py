"""A whole network on this machine: chain, contracts, keys, and one process per node, all gone when it is left."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from contracts.anvil import anvil
from contracts.client import ChainClient
from contracts.signing import Key
from contracts.typed_data import Digest
from inference.llamacpp.engine import FAMILY, engine_build
from inference.model_files import identify
from inference.model_store import DEFAULT_MODEL, open_cache, pull
from inference.synthetic import SyntheticEngine
from testnet.control import ControlClient, Ready, connect, wait_ready
from testnet.errors import ProcessDied
from testnet.files import (
    CACHE,
    MODEL_NAME,
    Genesis,
    node_file,
    pin_address,
    write_bootstrap,
    write_network_file,
    write_node_file,
)
from testnet.funding import Deployment, balances, deploy_and_fund
from testnet.keys import Identity, create_identity
from testnet.places import LOOPBACK, Places
from testnet.plan import MOR, Lie, NodeKind, NodePlan, Plan
from testnet.processes import Process, Supervisor, open_supervisor
from testnet.progress import Progress

READY_S = 60.0
READY_EACH_S = 5.0
"""A wave of nodes may take READY_S and READY_EACH_S for each of its nodes: they share a machine's cores."""

BOOTSTRAP_MOST = 16


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node that is ready."""

    identity: Identity
    process: Process
    ready: Ready
    control: ControlClient

    @property
    def name(self) -> str:
        """The node's name."""
        return self.identity.name


@dataclass(frozen=True, slots=True)
class Network:
    """A network whose nodes are all ready."""

    genesis: Genesis
    genesis_ms: int
    client: ChainClient
    nodes: tuple[RunningNode, ...]
    supervisor: Supervisor
    vigil: "Vigil"
    purse: Key
    """An account of the chain with coin for gas, which is nobody's of the network."""
    places: Places

    def of_kind(self, kind: NodeKind) -> tuple[RunningNode, ...]:
        """The nodes of one kind, in the plan's order."""
        return tuple(node for node in self.nodes if node.identity.node.kind == kind)

    @property
    def user(self) -> RunningNode:
        """The user's node; there is one."""
        return self.of_kind("user")[0]

    @property
    def full(self) -> RunningNode:
        """The plain full node, which takes no part and sees all that is public; there is one."""
        return self.of_kind("full")[0]

    async def restart(self, node: RunningNode) -> RunningNode:
        """Start a node again that has ended, from its own file. Raises :class:`~testnet.errors.TestnetError`."""
        path = node.identity.data_dir.parent / "node.toml"
        command = self.places.command(node.name, _command(self.genesis, node.name, path))
        process = await self.supervisor.start(node.name, command, node.process.log)
        ready = await wait_ready(process, node.identity.data_dir, READY_S)
        ready = await self.places.reach(node.name, ready)
        return RunningNode(node.identity, process, ready, connect(node.identity.data_dir, ready))

    async def balances(self) -> dict[str, int]:
        """Every provider's wei of MOR, from the chain itself, by address."""
        providers = self.genesis.of_kind("provider")
        return await trio.to_thread.run_sync(balances, self.client, self.genesis.deployment.mor, providers)


class Vigil:
    """Decides what the end of a process means: a note while the rest can go on, else the end of the run."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.scope = trio.CancelScope()
        """Cancelled when a process has ended that the run can't do without."""
        self.is_up = False
        """Until all are ready, every process is needed."""
        self.is_lenient = False
        """Ends are expected: whoever kills processes on purpose says so."""
        self._left = {kind: len(plan.of_kind(kind)) for kind in ("member", "provider", "full", "user")}
        self._kinds = {node.name: node.kind for node in plan.nodes}
        self._members_needed = plan.options.members - plan.faults_tolerated
        self._progress = progress
        self._fatal: ProcessDied | None = None

    def note_end(self, process: Process) -> None:
        """A process has ended by itself."""
        if self.is_lenient:
            return
        kind = self._kinds[process.name]
        self._left[kind] -= 1
        needed = {"member": self._members_needed, "full": 0}.get(kind, 1)
        if self.is_up and self._left[kind] >= needed:
            rest = f" with {self._left[kind]} {kind}s" if self._left[kind] else ""
            self._progress.note(f"{process.name} has ended; the network goes on{rest}")
            return
        if self._fatal is None:
            try:
                process.check()
            except ProcessDied as error:
                self._fatal = error
        self.scope.cancel()

    def check(self) -> None:
        """Raise :class:`ProcessDied` where a needed process has ended."""
        if self._fatal is not None:
            raise self._fatal


@asynccontextmanager
async def running(
    plan: Plan,
    folder: Path,
    progress: Progress,
    hurry: trio.Event,
    *,
    places: Places = LOOPBACK,
    lies: Callable[[Sequence[Identity]], Mapping[str, Lie]] = lambda _: {},
) -> AsyncIterator[Network]:
    """The network of ``plan``, ready, with its files in ``folder``; leaving it stops every process.

    ``hurry`` cuts the stopping short once it is set; ``places`` says where the nodes run, ``lies``
    which of them cheat.

    Raises :class:`~testnet.errors.TestnetError`, or a folder's own error for what it could not do.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True)
    model = await _fetch_model(plan, progress)
    async with AsyncExitStack() as stack:
        with progress.step("Chain") as step:
            chain = await stack.enter_async_context(anvil(CACHE / "anvil", logs / "chain.log"))
            client = ChainClient(chain.url)
            stack.callback(client.close)
            step.detail = f"{chain.url}, chain id {chain.chain_id}"
        identities = await _make_keys(plan, folder, progress)
        deployment = await _found(chain.funded_keys[0], client, identities, plan, progress)
        listed = (await _identify(model),)
        genesis = Genesis(
            plan, folder, chain.url, chain.chain_id, deployment, identities, model, lies(identities), listed
        )
        write_network_file(genesis, deployment.genesis_ms)
        vigil = Vigil(plan, progress)
        supervisor = await stack.enter_async_context(open_supervisor(vigil.note_end, hurry))
        with vigil.scope:
            nodes = await _start_all(genesis, supervisor, places, progress)
            vigil.is_up = True
            purse = chain.funded_keys[1]
            yield Network(genesis, deployment.genesis_ms, client, nodes, supervisor, vigil, purse, places)
        vigil.check()


async def _fetch_model(plan: Plan, progress: Progress) -> Path | None:
    if plan.options.engine != "llamacpp":
        return None
    with progress.step("Model") as step:
        step.detail = DEFAULT_MODEL.name
        return await pull(
            CACHE / "models",
            step.say,
            report=lambda what, done, of: step.say(f"{what}: {done >> 20} of {of >> 20} MiB"),
        )


async def _identify(path: Path | None) -> Digest:
    """The id of the model that all providers serve: the synthetic one where there is no file."""
    if path is None:
        return SyntheticEngine(MODEL_NAME).model_id
    return (await identify(path, FAMILY, engine_build(), open_cache(CACHE / "models"))).manifest.model_id()


async def _make_keys(plan: Plan, folder: Path, progress: Progress) -> tuple[Identity, ...]:
    """Sealing a keystore is meant to take time, so all cores do it."""
    made: dict[str, Identity] = {}

    async def make(node: NodePlan) -> None:
        made[node.name] = await trio.to_thread.run_sync(create_identity, node, folder, limiter=limiter)

    with progress.step("Keys") as step:
        limiter = trio.CapacityLimiter(os.cpu_count() or 1)
        async with trio.open_nursery() as nursery:
            for node in plan.nodes:
                nursery.start_soon(make, node)
        step.detail = f"{len(made)} nodes"
    return tuple(made[node.name] for node in plan.nodes)


async def _found(
    treasury: Key, client: ChainClient, identities: Sequence[Identity], plan: Plan, progress: Progress
) -> Deployment:
    """Contracts on the chain, and MOR where the plan wants it."""
    with progress.step("Contracts, stakes and balances") as step:

        def say(text: str) -> None:
            trio.from_thread.run_sync(step.say, text)

        deployment = await trio.to_thread.run_sync(deploy_and_fund, client, treasury, identities, plan.params, say)
        step.detail = f"Compute Contract 0x{deployment.compute.hex()}, epoch {deployment.committee.epoch}"
    return deployment


async def _start_all(
    genesis: Genesis, supervisor: Supervisor, places: Places, progress: Progress
) -> tuple[RunningNode, ...]:
    """Members first: the others start from their addresses."""
    await places.prepare(genesis.rpc_url)
    members = genesis.of_kind("member")
    with progress.step("Committee") as step:
        nodes = await _start(genesis, supervisor, places, members[:1], ())
        nodes += await _start(genesis, supervisor, places, members[1:], _addresses(nodes))
        step.detail = f"{len(nodes)} members with {members[0].node.stake_wei // MOR:,} MOR each at stake"
    with progress.step("Providers, a full node and the user") as step:
        others = (*genesis.of_kind("provider"), *genesis.of_kind("full"), *genesis.of_kind("user"))
        nodes += await _start(genesis, supervisor, places, others, _addresses(nodes))
        bids = ", ".join(f"{i.name} bids {i.node.price_wei:,}" for i in genesis.of_kind("provider"))
        step.detail = f"{bids} wei per T"
    write_bootstrap(genesis, _addresses([node for node in nodes if node.identity in members]))
    for node in nodes:
        others_addresses = _addresses([other for other in nodes if other is not node])
        config = pin_address(node_file(genesis, node.identity, ()), node.ready.multiaddrs, others_addresses)
        write_node_file(node.identity, places.place(node.name, config))
    for guest in genesis.of_kind("guest"):
        write_node_file(guest, node_file(genesis, guest, _addresses(nodes)))
        write_node_file(guest, node_file(genesis, guest, _addresses(nodes), as_provider=True), "provider.toml")
    return tuple(nodes)


async def _start(
    genesis: Genesis, supervisor: Supervisor, places: Places, identities: Sequence[Identity], bootstrap: Sequence[str]
) -> list[RunningNode]:
    """Start some nodes at once and wait until each is ready."""
    deadline = READY_S + READY_EACH_S * len(identities)
    started: list[tuple[Identity, Process]] = []
    for identity in identities:
        path = write_node_file(identity, places.place(identity.name, node_file(genesis, identity, bootstrap)))
        log = genesis.folder / "logs" / f"{identity.name}.log"
        command = places.command(identity.name, _command(genesis, identity.name, path))
        started.append((identity, await supervisor.start(identity.name, command, log)))
    nodes: list[RunningNode] = []
    for identity, process in started:
        ready = await wait_ready(process, identity.data_dir, deadline)
        ready = await places.reach(identity.name, ready)
        nodes.append(RunningNode(identity, process, ready, connect(identity.data_dir, ready)))
    return nodes


def run_command(config: Path) -> list[str]:
    """How a node is started: it leaves when its standard input closes."""
    return [sys.executable, "-m", "node.cli", "run", "--config", str(config), "--exit-with-stdin"]


def _command(genesis: Genesis, name: str, config: Path) -> list[str]:
    """The same, or how a node is started that cheats."""
    lie = genesis.lies.get(name)
    return run_command(config) if lie is None else [sys.executable, "-m", "testnet.liar", lie, str(config)]


def _addresses(nodes: Sequence[RunningNode]) -> list[str]:
    """What others start from, one address a node, 16 nodes at most."""
    return [node.ready.multiaddrs[0] for node in nodes if node.ready.multiaddrs][:BOOTSTRAP_MOST]
