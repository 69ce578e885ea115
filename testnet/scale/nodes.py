"""A real network of every role at work: what each role's processes spend, idle and under load.

The roles are in the model's proportions (:mod:`testnet.scale.model`), every node is a process, and users ask through
their own gateways, so that what the model adds up from single steps is held against whole nodes.
"""

import os
from dataclasses import dataclass

import msgspec
import trio

from testnet.ask import Answer, ask
from testnet.bench.memory import Resident, read_groups
from testnet.bench.runs import press
from testnet.errors import TestnetError
from testnet.evidence import wait_for_bids
from testnet.files import MODEL_NAME, open_folder
from testnet.network import Network, RunningNode, running
from testnet.plan import USER_WEI, NodePlan, Plan, TestnetOptions, compute_plan
from testnet.progress import Progress
from testnet.scale.model import TOKEN_RATE, TOKENS, members, providers, users

SLOTS = 256
"""Sessions of each provider at once: it is not engines that are measured."""

ROLES = {"full node": "full", "user": "user", "provider": "provider", "member": "member"}
"""The model's roles by the launcher's names."""

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    """Means over a role's nodes: cores while nobody asked, cores under load, and resident bytes at the end."""

    idle: float
    busy: float
    resident: float


def node_plan(nodes: int) -> Plan:
    """The plan of a network in the model's proportions, with engines that say 50 T/s."""
    options = TestnetOptions(
        members=members(nodes),
        providers=providers(nodes),
        block_s=12,
        engine="synthetic",
        token_ms=round(1_000 / TOKEN_RATE),
        slots=SLOTS,
    )
    plan = compute_plan(options)
    more = [NodePlan(f"full-{i}", "full", balance_wei=0) for i in range(2, nodes // 5 + 1)]
    more += [NodePlan(f"user-{i}", "user", balance_wei=USER_WEI) for i in range(2, users(nodes) + 1)]
    return msgspec.structs.replace(plan, nodes=(*plan.nodes, *more))


async def measure_nodes(nodes: int, rate: float, seconds: float, progress: Progress) -> dict[str, Spent]:
    """What each of the model's roles spends in a network of ``nodes`` processes, at ``rate`` RFCs a second.

    Raises :class:`~testnet.errors.TestnetError` where a query gets no answer.
    """
    plan = node_plan(nodes)
    with open_folder(None) as folder:
        async with running(plan, folder, progress, trio.Event()) as network:
            await wait_for_bids(network, progress)
            gateways = [_gateway(node) for node in network.of_kind("user")]
            for number, url in enumerate(gateways):
                await _ask(url, f"warm-up {number}", tokens=8)
            with progress.step(f"{len(network.nodes)} nodes, nobody asks"):
                idle = await _cores(network, seconds)
            async with trio.open_nursery() as nursery:
                # from here on sessions end as often as others begin
                full_s = TOKENS / TOKEN_RATE + plan.params.slot_ms / 1_000
                queries = round(rate * (full_s + seconds))
                nursery.start_soon(press, queries, rate, lambda i: _ask(gateways[i % len(gateways)], f"query {i}"))
                with progress.step(f"{rate:g} RFC/s of {TOKENS} T"):
                    await trio.sleep(full_s)
                    busy = await _cores(network, seconds)
            found = await _processes(network)
    resident = {name: sum(one.rss_kib for one in held) * 1024.0 for name, held in found.items()}
    return {
        role: Spent(*(_mean(each, network, kind) for each in (idle, busy, resident))) for role, kind in ROLES.items()
    }


def _mean(figures: dict[str, float], network: Network, kind: str) -> float:
    own = [figures[node.name] for node in network.nodes if node.identity.node.kind == kind]
    return sum(own) / len(own)


async def _cores(network: Network, seconds: float) -> dict[str, float]:
    """By node, the cores that its processes keep busy while ``seconds`` pass."""
    before, began = await _cpu(network), trio.current_time()
    await trio.sleep(seconds)
    after, took = await _cpu(network), trio.current_time() - began
    return {name: (after[name] - before[name]) / took for name in after}


async def _cpu(network: Network) -> dict[str, float]:
    return {name: sum(one.cpu_ticks for one in held) / TICKS for name, held in (await _processes(network)).items()}


async def _processes(network: Network) -> dict[str, list[Resident]]:
    groups = {node.process.pid: node.name for node in network.nodes}
    found = await trio.to_thread.run_sync(read_groups, set(groups))
    return {name: found[group] for group, name in groups.items()}


async def _ask(url: str, prompt: str, *, tokens: int = TOKENS) -> Answer:
    return await ask(url, MODEL_NAME, prompt, max_tokens=tokens, on_text=lambda _: None)


def _gateway(node: RunningNode) -> str:
    if node.ready.gateway_url is None:
        raise TestnetError(f"{node.name} opened no gateway")
    return node.ready.gateway_url
