"""One node: opens keys, storage, network and chain, starts the roles of its configuration, and supervises them.

A role that fails takes the node down with one clear error: half a node is worse than one that its operator restarts.
"""

import json
import os
import secrets as randomness
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from consensus.market.desk import Desk
from consensus.member.core import MemberCore
from contracts.errors import ChainUnavailable
from gossip.network import NetworkConfig, open_network
from node import keys, logging
from node.api.api_keys import KEYS_FILE, read_keys
from node.api.control import build_control, create_token
from node.api.control_client import READY_FILE, TOKEN_FILE
from node.api.gateway import build_gateway
from node.api.serve import Served, serve
from node.api.shares import Gate
from node.chain import ChainReader, open_chain
from node.config import NodeFile, load_network
from node.context import Node, Topics
from node.files import write_atomic
from node.network_file import NetworkFile
from node.roles.balances import Balances
from node.roles.canary import Canary
from node.roles.challenges import Challenger
from node.roles.claims import Claims
from node.roles.demand import Demand
from node.roles.epochs import Epochs
from node.roles.evidence import EvidencePool
from node.roles.feed import Feed
from node.roles.finder import Finder
from node.roles.journal import DeskJournal
from node.roles.link import CommitteeLink
from node.roles.listings import Listings
from node.roles.matching import Matcher
from node.roles.member import CommitteeMember
from node.roles.openings import Openings
from node.roles.peers import Peers
from node.roles.provider import Provider
from node.roles.public import PublicState
from node.roles.router import HomeRouter
from node.roles.secrets import SlotSecrets
from node.roles.sessions import SessionLog
from node.roles.snapshots import Snapshots
from node.roles.status import NodeStatus
from node.roles.succession import Succession
from node.roles.sync import Sync
from node.roles.user import UserAgent
from node.store import open_store
from node.supervision import keep_running


@dataclass(slots=True)
class Parts:
    """The running roles of one node; those that its configuration doesn't name are None."""

    node: Node
    public: PublicState
    feed: Feed
    peers: Peers
    sync: Sync
    sessions: SessionLog
    evidence: EvidencePool
    status: NodeStatus
    epochs: Epochs | None = None
    member: CommitteeMember | None = None
    link: CommitteeLink | None = None
    router: HomeRouter | None = None
    core: MemberCore | None = None
    demand: Demand | None = None
    canary: Canary | None = None
    provider: Provider | None = None
    agent: UserAgent | None = None


async def run_node(config: NodeFile, exit_with_stdin: bool = False) -> None:
    """Run until cancelled, told by a signal, or, with ``exit_with_stdin``, until standard input ends.

    Raises what an operator can mend: :class:`~node.errors.NodeError` and its like.
    """
    logging.configure(config.log_level)
    for url in (config.chain.rpc_url, *(offer.url for offer in config.models)):
        logging.hide(url)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        if exit_with_stdin:
            nursery.start_soon(_stop_with_stdin, nursery.cancel_scope)
        async with _open_node(config) as (node, network):
            await _run_roles(node, network)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open_node(config: NodeFile) -> AsyncIterator[tuple[Node, NetworkFile]]:
    network = load_network(config.network)
    password = keys.find_password(config.keys.mor, config.keys.password_file)
    key = await trio.to_thread.run_sync(keys.load_mor_key, config.keys.mor, password)
    seed = await trio.to_thread.run_sync(keys.load_node_seed, config.keys.node, password)
    if "user" in config.roles:
        seed = randomness.token_bytes(32)  # it announces nothing: no peer id to know it by from one start to the next
    terms = network.terms()
    config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(config.data_dir / "node.sqlite"))
        chain = await _open_chain(config, network)
        host = await stack.enter_async_context(open_network(_network_config(config), seed))
        name = "+".join(config.roles)
        node = Node(
            config=config,
            terms=terms,
            key=key,
            network=host,
            store=store,
            chain=chain,
            topics=Topics.of(terms.domain),
            log=logging.get_logger("node", role=name),
        )
        yield node, network


def _network_config(config: NodeFile) -> NetworkConfig:
    return NetworkConfig(listen=config.listen.p2p, announce=config.listen.announce)


async def _open_chain(config: NodeFile, network: NetworkFile) -> ChainReader | None:
    """The chain, where the configuration names one. It may be away: routing does not wait for it (S5)."""
    if not config.chain.rpc_url:
        return None
    chain = await open_chain(config.chain.rpc_url, network.contracts, config.chain.timeout_s)
    try:
        await chain.check(network.chain_id)
    except ChainUnavailable as error:
        logging.get_logger("node").warning("starting without the chain", reason=str(error))
    return chain


async def _run_roles(node: Node, network: NetworkFile) -> None:
    """Start every role, say that the node is ready, run until cancelled."""
    async with trio.open_nursery() as nursery:
        parts = await start_roles(node, network, nursery)
        gateway = await _start_gateway(node, parts.agent, nursery) if parts.agent is not None else None
        control = await _start_control(parts, nursery)
        _say_ready(node, control, gateway)


async def start_roles(node: Node, network: NetworkFile, nursery: trio.Nursery) -> Parts:
    """Start the roles of ``node``'s configuration in ``nursery``; returns once each of them runs."""
    genesis = network.genesis()
    public = PublicState(node, genesis)
    snapshots = Snapshots(node, public, genesis)
    await snapshots.start()
    nursery.start_soon(snapshots.run)
    feed, sessions = Feed(node, public), SessionLog(node.terms.domain)
    peers = Peers(node, public, node.config.roles, (*network.bootstrap, *node.config.bootstrap))
    evidence = EvidencePool(node, public)
    await evidence.load()
    sync, status = Sync(node, public, feed, evidence), NodeStatus(node, public, sessions, evidence)
    status.feed = feed
    parts = Parts(node, public, feed, peers, sync, sessions, evidence, status)
    if node.chain is not None:
        parts.epochs = Epochs(node, public, node.chain)
        await nursery.start(_kept_running(node, "registry", parts.epochs.run))
    await nursery.start(feed.run)
    await nursery.start(evidence.run)
    await nursery.start(peers.run)
    await nursery.start(parts.sync.run)
    if "member" in node.config.roles or node.config.follow_rfcs:
        parts.demand = status.demand = Demand(node, public, evidence)
        await nursery.start(parts.demand.run)
    if "member" in node.config.roles:
        await _start_member(parts, nursery)
        parts.canary = Canary(node, public, evidence, (*network.bootstrap, *node.config.bootstrap))
        nursery.start_soon(parts.canary.run)
    if "provider" in node.config.roles:
        parts.provider = Provider(node, public, evidence)
        await nursery.start(parts.provider.run)
        if node.chain is not None and parts.epochs is not None:
            claims = Claims(node, public, node.chain, parts.epochs)
            await nursery.start(_kept_running(node, "claims", claims.run))
    if node.chain is not None:
        finder = Finder(node, evidence, node.chain, submits=node.config.is_finder)
        await nursery.start(_kept_running(node, "finder", finder.run))
    if "user" in node.config.roles:
        parts.agent = UserAgent(node, public, sessions, evidence)
        if parts.provider is not None:
            parts.agent.recount_of = parts.provider.recount_of
        await nursery.start(parts.agent.run)
    return parts


def _kept_running(node: Node, name: str, run: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """``run``, for a nursery: what talks to the chain may fail and begin again, but ends no node."""
    return partial(keep_running, name, run, log=node.log)


async def _start_member(parts: Parts, nursery: trio.Nursery) -> None:
    """The committee member and its home-router desk, joined by the settlement pool and the link."""
    node, public = parts.node, parts.public
    secrets = SlotSecrets(node.key, node.terms.params, node.terms.domain)
    balances = Balances(node, node.chain)
    await balances.load()
    # from here to the member nothing waits: a batch that was adopted in between would never reach its core
    core = MemberCore(
        node.address,
        node.terms,
        ledger=public.ledger,
        following=public.following,
        secrets=secrets,
    )
    member = CommitteeMember(node, public, core, openings=Openings(node.terms, node.log, node.chain, public.bidders))
    link = CommitteeLink(node, public, lambda: parts.peers.record, parts.peers.find, member.on_frame)
    desk = Desk(node.terms, node.address, public.routers)
    journal = DeskJournal(node)
    challenger = Challenger(node, public)
    matcher = Matcher(node, public, desk, secrets=secrets, balances=balances, journal=journal, challenger=challenger)
    succession = Succession(node, public, link, desk.allowances, member.heard_ms)
    router = HomeRouter(
        node,
        public,
        desk=desk,
        matcher=matcher,
        journal=journal,
        balances=balances,
        file_settlement=member.file,
        file_opinion=member.file_opinion,
        link=link,
        evidence=parts.evidence,
        succession=succession,
    )
    member.on_accused = parts.evidence.found
    if parts.demand is not None:
        router.on_rfc = parts.demand.take
    parts.status.over_issued = router.over_issued
    member.on_router_frame, member.on_drop, member.on_behind = router.hear, router.dropped, parts.sync.hurry
    parts.member, parts.link, parts.router, parts.core = member, link, router, core
    parts.status.member, parts.status.link = member, link
    if parts.epochs is not None:
        parts.epochs.on_rescue += [member.rescued, lambda _: link.follow_members()]
    parts.status.balances, parts.status.allowances = balances, desk.allowances
    parts.status.desk = desk
    parts.status.challenger = challenger
    parts.status.listings = listings = Listings(
        node, public, orders=core.orders, balances=balances, challenger=challenger, give=member.give_order
    )
    await router.restore()
    await nursery.start(link.run)
    await nursery.start(member.run, link)
    await listings.load()
    await nursery.start(router.run)


async def _start_gateway(node: Node, agent: UserAgent, nursery: trio.Nursery) -> Served:
    user = node.config.user
    path = node.config.data_dir / KEYS_FILE
    read_keys(path)  # a file that cannot be used stops the node here, not its first request
    gate = Gate(path, node.store, agent.allowance)
    app = build_gateway(agent, gate=gate, default_tokens=user.token_max, most_tokens=user.token_limit)
    served: Served = await nursery.start(partial(serve, app, what="the OpenAI endpoint", port=user.gateway_port))
    return served


async def _start_control(parts: Parts, nursery: trio.Nursery) -> Served:
    config = parts.node.config
    token = create_token(config.data_dir / TOKEN_FILE)
    app = build_control(parts.status, token)
    served: Served = await nursery.start(partial(serve, app, what="the control API", port=config.listen.control_port))
    return served


def _say_ready(node: Node, control: Served, gateway: Served | None) -> None:
    """Whoever started this node finds it through this file."""
    document = {
        "pid": os.getpid(),
        "peer_id": node.network.peer_id,
        "address": "0x" + node.address.hex(),
        "multiaddrs": list(node.network.multiaddrs),
        "control_url": control.url,
        "gateway_url": gateway.url if gateway is not None else None,
    }
    write_atomic(node.config.data_dir / READY_FILE, json.dumps(document, indent=1).encode())
    node.log.info("started", **document)


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def _stop_with_stdin(scope: trio.CancelScope) -> None:
    """End of input means that the parent is gone."""
    stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    async with stdin:
        while await stdin.receive_some(4_096):
            pass
    scope.cancel()
