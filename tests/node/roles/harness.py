"""Whole nodes in one trio process: real libp2p hosts on loopback, real SQLite files, a chain in memory, short slots."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
import trio
from msgspec.structs import replace

from consensus.committee import Committee, Member
from consensus.market.access import home_routers
from consensus.market.ledger_state import Ledger
from consensus.params import NetworkParams, Terms
from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain
from gossip.messages import Signed, Unit, sign
from gossip.messages.market import PassRequest, Rfc
from gossip.messages.router import Granted, Matched, PassAsk, RfcAsk
from gossip.network import Network, NetworkConfig, open_network
from gossip.streams import FrameStream
from inference.engine import ChatMessage, Engine, Sampling
from inference.synthetic import SyntheticEngine
from node.api.backend import ChatRequest
from node.app import Parts, start_roles
from node.chain import ChainCalls, ChainReader
from node.config import ChainAccess, ContractAddresses, KeyFiles, ModelOffer, NetworkFile, NodeFile, Role
from node.context import Node, Topics, now_ms
from node.roles import asking, epochs, finder, link, peers, sync
from node.roles.access import ask_router
from node.roles.secrets import SlotSecrets
from node.roles.user import UserAnswer
from node.store import open_store
from tests.consensus import builders
from tests.consensus.builders import World, key
from tests.node.roles.fakes import DOMAIN, MEMBERS, MODEL, URL, WEI, FakeChain

PRICE = 10**11
"""The reference price, in wei per T."""
LISTED = (SyntheticEngine(MODEL).model_id, builders.MODEL, builders.OTHER_MODEL)
"""What most tests ask for, of an engine or of a ledger alone."""

PATIENCE_S = 40.0
"""How long a condition may take on a machine that is busy with other things; it takes a fraction of it."""

SHORT = NetworkParams(
    slot_ms=400,
    day_slots=10_000,
    settle_window_slots=200,
    min_providers=1,
    pair_percent=100,
    audit_slots=0,
    report_deadline_slots=2,
    ticket_ttl_ms=10_000,
    session_max_ms=60_000,
    liveness_ms=500,
    age_boost_ms=600_000,
    voucher_window=8,
    # a busy machine spreads answers further than S31 allows; tests of S31 bring samples of their own
    speed_samples_min=1_000_000,
    endowment_mor=100_000,
    propose_ms=600,
    prevote_ms=300,
    precommit_ms=300,
    round_step_ms=200,
)


async def until(condition: Callable[[], Any], what: str = "the condition", seconds: float = PATIENCE_S) -> None:
    """Wait for ``condition`` to hold."""
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(0.01)
        return
    pytest.fail(f"{what} did not come true in {seconds:g} s")


async def eventually(condition: Callable[[], Awaitable[Any]], what: str, seconds: float = PATIENCE_S) -> Any:
    """Wait for ``condition`` to return something true; that."""
    with trio.move_on_after(seconds):
        while not (found := await condition()):
            await trio.sleep(0.02)
        return found
    pytest.fail(f"{what} did not come true in {seconds:g} s")


@dataclass
class Running:
    """One node that runs."""

    name: str
    node: Node
    parts: Parts
    scope: trio.CancelScope
    gone: trio.Event

    @property
    def address(self) -> Address:
        return self.node.address

    @property
    def height(self) -> int:
        return self.parts.public.ledger.height

    def member_parts(self) -> tuple[Any, Any, Any, Any]:
        """Member, link, router and core of a committee member."""
        parts = self.parts
        assert parts.member is not None
        return parts.member, parts.link, parts.router, parts.core

    def matcher(self) -> Any:
        return self.member_parts()[2]._matcher

    def desk(self) -> Any:
        return self.member_parts()[2]._desk

    async def stop(self) -> None:
        """As a killed process: nothing is said to anybody."""
        self.scope.cancel()
        await self.gone.wait()


@dataclass
class Wire:
    """Everything that left any node of the process, as bytes."""

    published: list[bytes] = field(default_factory=list)
    frames: list[tuple[str, bytes]] = field(default_factory=list)
    """(receiving peer, frame)."""

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        publish, send = Network.publish, FrameStream.send

        async def note_publish(network: Network, topic: str, data: bytes) -> None:
            self.published.append(data)
            await publish(network, topic, data)

        async def note_send(stream: FrameStream, data: bytes, *, timeout: float = 10) -> None:
            self.frames.append((stream.remote_peer, data))
            await send(stream, data, timeout=timeout)

        monkeypatch.setattr(Network, "publish", note_publish)
        monkeypatch.setattr(FrameStream, "send", note_send)


class Lab:
    """A network under test; see :func:`open_lab`."""

    def __init__(
        self,
        folder: Path,
        params: NetworkParams,
        nursery: trio.Nursery,
        domain: Domain = DOMAIN,
        calls: ChainCalls | None = None,
        *,
        models: Sequence[Digest] = (),
    ) -> None:
        self.folder = folder
        self.chain = FakeChain()
        self.calls = calls or self.chain
        """What nodes ask: the chain in memory, unless a test brings a real one."""
        self.running: dict[str, Running] = {}
        self.engines: dict[Path, Engine] = {}
        self.offline: set[str] = set()
        """Nodes that know of no chain."""
        self.hosts = NetworkConfig(heartbeat=0.1)
        self._nursery = nursery
        self.genesis_ms = now_ms() - 2 * params.slot_ms
        self.terms = Terms(domain, self.genesis_ms, params)
        self.committee = Committee.of(1, [Member(member.address, 1_000 * WEI) for member in MEMBERS])
        secrets = [SlotSecrets(member, params, domain) for member in MEMBERS]
        self.network = NetworkFile(
            name="lab",
            genesis_ms=self.genesis_ms,
            chain_id=domain.chain_id,
            contracts=ContractAddresses(Address(b"\x01" * 20), Address(b"\x02" * 20), domain.contract),
            epoch=1,
            members=self.committee.members,
            params=params,
            snapshot_block=self.chain.block,
            supply_wei=self.chain.supply,
            budget_wei=3_456 * WEI,
            reference_price_wei=PRICE,
            commitments=tuple(secret.commitment(day) for day in (0, 1) for secret in secrets),
            listed=(*LISTED, *models),
        )

    @property
    def members(self) -> list[Running]:
        return [self.running[f"member{i}"] for i in range(len(MEMBERS)) if f"member{i}" in self.running]

    def member(self, address: Address) -> Running:
        return next(one for one in self.members if one.address == address)

    def home_of(self, user: Address, rank: int = 0, day: int = 0) -> Running:
        """Who serves ``user``; its home router at ``rank`` 0."""
        return self.member(self.rank_of(user, rank, day))

    def rank_of(self, user: Address, rank: int, day: int = 0) -> Address:
        return home_routers(user, day, [member.address for member in self.committee.members])[rank]

    def world(self) -> World:
        """Builds signed messages under this network's terms; its first member may be any of ours."""
        return World(terms=self.terms)

    async def start_member(self, number: int, **options: Any) -> Running:
        return await self.start(f"member{number}", ("member",), MEMBERS[number], **options)

    async def start_provider(
        self, name: str, engine: Engine | None = None, *, follow_rfcs: bool = False, **offer: Any
    ) -> Running:
        """A provider that holds MOR, unless its balance is set already."""
        self.chain.balances.setdefault(key(name).address, WEI)
        model = replace(ModelOffer(model=MODEL, price_wei=PRICE, engine="synthetic"), **offer)
        self.engines[self.folder / name] = engine or SyntheticEngine(MODEL, slots=model.slots)
        return await self.start(name, ("provider",), models=(model,), follow_rfcs=follow_rfcs)

    async def start_finder(self, name: str) -> Running:
        """A plain full node that opted in."""
        return await self.start(name, ("full",), finder=True)

    async def start_user(self, name: str, balance_wei: int) -> Running:
        self.chain.balances[key(name).address] = balance_wei
        return await self.start(name, ("user",))

    async def start(
        self,
        name: str,
        roles: tuple[Role, ...],
        who: Key | None = None,
        *,
        models: tuple[ModelOffer, ...] = (),
        finder: bool | None = None,
        follow_rfcs: bool = False,
    ) -> Running:
        """A node on its own folder under ``name``; one that ran before finds its store there again."""
        config = replace(self.config(name, roles, models), finder=finder, follow_rfcs=follow_rfcs)
        running: Running = await self._nursery.start(self._run, name, config, who or key(name))
        self.running[name] = running
        return running

    def config(self, name: str, roles: tuple[Role, ...], models: tuple[ModelOffer, ...] = ()) -> NodeFile:
        return NodeFile(
            network=self.folder / "network.toml",
            data_dir=self.folder / name,
            keys=KeyFiles(Path("mor.json"), Path("node.json")),
            roles=roles,
            chain=ChainAccess(URL),
            bootstrap=tuple(found.node.network.multiaddrs[0] for found in self.running.values()),
            models=models,
        )

    @asynccontextmanager
    async def bare(self, name: str, roles: tuple[Role, ...] = ("full",), who: Key | None = None) -> AsyncIterator[Node]:
        """A node without any role started: for one part alone."""
        async with open_node(self, self.config(name, roles), who or key(name)) as node:
            yield node

    def genesis(self) -> Ledger:
        return self.network.genesis()

    async def _run(self, name: str, config: NodeFile, who: Key, *, task_status: trio.TaskStatus[Running]) -> None:
        gone = trio.Event()
        try:
            with trio.CancelScope() as scope:
                async with open_node(self, config, who) as node, trio.open_nursery() as nursery:
                    parts = await start_roles(node, self.network, nursery)
                    task_status.started(Running(name, node, parts, scope, gone))
        finally:
            self.running.pop(name, None)
            gone.set()

    async def start_committee(self, count: int = 4) -> list[Running]:
        """The first ``count`` members, linked with one another."""
        members = [await self.start_member(number) for number in range(count)]
        await self.linked()
        return members

    async def linked(self) -> None:
        there = {member.address for member in self.members}
        await until(
            lambda: all(there - {m.address} <= m.member_parts()[1].linked for m in self.members), "a linked committee"
        )
        if 3 * len(there) > 2 * len(MEMBERS):
            await until(
                lambda: all(m.member_parts()[2]._succession.why_not() is None for m in self.members),
                "routers that may serve",
            )

    async def knows(self, running: Running, *, providers: int = 0) -> None:
        """Wait until ``running`` knows every member's record, is connected, and sees so many live bids."""
        public, network = running.parts.public, running.node.network
        others = [member for member in self.members if member.address != running.address]
        await until(
            lambda: (
                all(public.book.record(m.address, now_ms()) for m in others)
                and all(network.is_connected(m.node.network.peer_id) for m in others)
            ),
            f"{running.name} knows the committee",
        )
        await until(lambda: live_bids(running) >= providers, f"{running.name} sees {providers} bids")

    async def market(self, *, providers: int) -> None:
        """Wait until every member and user can work with so many bids."""
        for running in list(self.running.values()):
            if running.parts.member is not None or running.parts.agent is not None:
                await self.knows(running, providers=providers)

    async def settled_height(self, height: int) -> None:
        await until(lambda: all(one.height >= height for one in self.running.values()), f"height {height} everywhere")


def live_bids(running: Running) -> int:
    """Bids that an RFC of now may be matched with; at a member, of providers that have proven their models to it."""
    public = running.parts.public
    live = [
        bid.bid
        for listing in public.book.models(now_ms())
        for bid in public.book.live(listing.model_id, running.node.slot(), now_ms(), prompt_bound=0, ceiling_wei=10**30)
    ]
    if running.parts.member is None or running.address not in public.recent_members():
        return len(live)
    challenger = running.matcher()._challenger
    return sum(challenger.is_proven(bid.provider, bid.model_id) for bid in live)


def log_of(name: str) -> structlog.stdlib.BoundLogger:
    """What pytest shows of a failed test: no debug lines."""
    quiet = structlog.make_filtering_bound_logger(logging.INFO)
    return cast(
        "structlog.stdlib.BoundLogger", structlog.wrap_logger(structlog.PrintLogger(), wrapper_class=quiet, node=name)
    )


@asynccontextmanager
async def open_node(lab: Lab, config: NodeFile, who: Key) -> AsyncIterator[Node]:
    """What :mod:`node.app` opens, less the keys' files and the real chain."""
    config.data_dir.mkdir(parents=True, exist_ok=True)
    seed = sha256(b"node key " + str(config.data_dir).encode()).digest()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(config.data_dir / "node.sqlite"))
        host = await stack.enter_async_context(open_network(lab.hosts, seed))
        yield Node(
            config=config,
            terms=lab.terms,
            key=who,
            network=host,
            store=store,
            chain=None if config.data_dir.name in lab.offline else ChainReader(lab.calls, URL, timeout_s=20),
            topics=Topics.of(lab.terms.domain),
            log=log_of(config.data_dir.name),
        )


@asynccontextmanager
async def open_lab(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    params: NetworkParams = SHORT,
    domain: Domain = DOMAIN,
    calls: ChainCalls | None = None,
    *,
    models: Sequence[Digest] = (),
) -> AsyncIterator[Lab]:
    """A network with nobody in it yet; leaving stops every node. What waits for seconds waits for less here.

    ``models`` are listed beside :data:`LISTED`.
    """
    monkeypatch.setattr(asking, "GO_ON_DEADLINE_MS", 1_000)
    monkeypatch.setattr(peers, "DIAL_EVERY_S", 0.2)
    monkeypatch.setattr(sync, "RECONCILE_S", 0.5)
    monkeypatch.setattr(link, "BACKOFF_S", (0.05, 0.1, 0.2))
    monkeypatch.setattr(epochs, "RESCUE_POLL_S", 0.2)
    monkeypatch.setattr(finder, "LOOK_S", 0.2)
    async with trio.open_nursery() as nursery:
        lab = Lab(folder, params, nursery, domain, calls, models=models)

        @asynccontextmanager
        async def engine_of(_: ModelOffer, data_dir: Path) -> AsyncIterator[Engine]:
            yield lab.engines[data_dir]

        monkeypatch.setattr("node.roles.provider.open_engine", engine_of)
        yield lab
        nursery.cancel_scope.cancel()


def chat(content: str = "tell me", *, max_tokens: int = 64, model: str = MODEL) -> ChatRequest:
    return ChatRequest(model, (ChatMessage("user", content),), max_tokens, Sampling())


async def ask(user: Running, request: ChatRequest | None = None) -> tuple[UserAnswer, str]:
    """One whole answer."""
    assert user.parts.agent is not None
    async with user.parts.agent.chat(request or chat()) as answer:
        text = "".join([piece.text async for piece in answer.pieces()])
    return answer, text


# What a user agent does, step by step and under any key: for what no honest agent does.


async def ask_pass(
    asker: Running, router: Running, user: Key, session: Key, *, tokens: int = 1_000, day: int | None = None
) -> Granted:
    """Raises AccessRefused."""
    if day is None:
        day = asker.node.terms.params.day_of(asker.node.slot())
    request = sign(PassRequest(user.address, session.address, day, tokens, now_ms()), user, DOMAIN)
    answer = await ask_router(asker.node, asker.parts.public, router.address, PassAsk(request), timeout=20)
    assert isinstance(answer, Granted)
    return answer


def make_rfc(session: Key, granted: Granted, **changes: Any) -> Signed[Rfc]:
    made = Rfc(
        access_pass=granted.access_pass,
        session_key=session.address,
        index=granted.next_index,
        model_id=SyntheticEngine(MODEL).model_id,
        unit=Unit.TEXT_TOKEN,
        token_max=64,
        prompt_bound=64,
        deadline_ms=now_ms() + 30_000,
    )
    return sign(replace(made, **changes), session, DOMAIN)


async def ask_match(asker: Running, router: Running, rfc: Signed[Rfc]) -> Matched:
    """Raises AccessRefused."""
    answer = await ask_router(asker.node, asker.parts.public, router.address, RfcAsk(rfc), timeout=40)
    assert isinstance(answer, Matched)
    return answer
