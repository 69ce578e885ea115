"""Time from a store on disk to the ledger, as a starting node spends it: with its snapshot, and from genesis."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

import structlog
import trio

from contracts.signing import Key
from gossip.messages.base import decode
from gossip.messages.committee import CertifiedBatch
from gossip.network import Network
from node.config import KeyFiles, NodeFile
from node.context import Node, Topics
from node.roles.public import PublicState
from node.roles.snapshots import Snapshots
from node.store import Store, open_store
from testnet.bench.chain import LogBuilder
from testnet.errors import TestnetError
from testnet.progress import Progress

OWNER = Key(sha256(b"bench starter").digest())


@dataclass(frozen=True, slots=True)
class Start:
    """One start. ``open_s`` opens and checks the database, ``follow_s`` leads to the newest ledger; CPU seconds."""

    batches: int
    settlements: int
    begins_at: int
    """The height that it begins from; 0 is the genesis."""
    open_s: float
    follow_s: float
    snapshot_bytes: int


def measure_start(count: int, settlements: int, beyond: int, folder: Path, progress: Progress) -> Iterator[Start]:
    """Make a log of ``count`` batches in ``folder`` with a snapshot ``beyond`` batches before its end, and start twice.

    Raises :class:`~testnet.errors.TestnetError` where the two starts lead elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    builder = LogBuilder()
    with tempfile.TemporaryDirectory(dir=folder, prefix="start-") as name:
        path = Path(name) / "node.sqlite"
        with progress.step(f"making {count} batches of {settlements} settlements"):
            trio.run(_live, path, builder, count, settlements, beyond)
        roots = []
        for way in ("from the snapshot", "from genesis"):
            with progress.step(f"starting {way}"):
                started, root = trio.run(_start, path, builder, count, settlements)
            roots.append(root)
            yield started
            trio.run(_without_snapshots, path)
    if roots[0] != roots[1]:
        raise TestnetError("a start from the snapshot leads elsewhere than one from genesis")


async def _live(path: Path, builder: LogBuilder, count: int, settlements: int, beyond: int) -> None:
    async with open_store(path) as store:
        public, snapshots = _state(store, builder)
        for height, data in builder.batches(count, settlements):
            await public.adopt(decode(CertifiedBatch, data))
            if height == count - beyond:
                await snapshots.take()


async def _start(path: Path, builder: LogBuilder, count: int, settlements: int) -> tuple[Start, bytes]:
    used = _cpu_s()
    async with open_store(path) as store:
        opened = _cpu_s()
        heights = await store.snapshot_heights()
        held = await store.snapshot(heights[0]) if heights else None
        begun = _cpu_s()
        public, snapshots = _state(store, builder)
        await snapshots.start()
        if public.ledger.height != count:
            raise TestnetError(f"a start led to height {public.ledger.height}")
        sizes = heights[0] if heights else 0, opened - used, _cpu_s() - begun, 0 if held is None else len(held[0])
        return Start(count, count * settlements, *sizes), public.ledger.parent


async def _without_snapshots(path: Path) -> None:
    async with open_store(path) as store:
        for height in await store.snapshot_heights():
            await store.drop_snapshot(height)


def _state(store: Store, builder: LogBuilder) -> tuple[PublicState, Snapshots]:
    """What of a node starts: no network, no chain, and a log that nobody reads."""
    terms, genesis = builder.network.terms(), builder.network.genesis()
    folder = store.path.parent
    node = Node(
        config=NodeFile(
            network=folder / "network.toml",
            data_dir=folder,
            keys=KeyFiles(folder / "mor.json", folder / "node.json"),
            roles=("full",),
        ),
        terms=terms,
        key=OWNER,
        network=cast("Network", None),  # following asks for none
        store=store,
        chain=None,
        topics=Topics.of(terms.domain),
        log=structlog.wrap_logger(
            structlog.PrintLogger(), wrapper_class=structlog.make_filtering_bound_logger(50), processors=[]
        ),
    )
    public = PublicState(node, genesis)
    return public, Snapshots(node, public, genesis)


def _cpu_s() -> float:
    return sum(os.times()[:2])
