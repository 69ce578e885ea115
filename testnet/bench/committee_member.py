"""One member of the committee benchmark, in a process of its own: told what to do through a pipe, tells what it saw."""

import logging
import os
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import parent_process
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from contracts.signing import Key
from gossip.messages.base import Signed, decode
from gossip.messages.committee import CertifiedBatch, LinkFrame, ProposalFrame, ShortProposalFrame
from gossip.messages.records import NodeRecord
from gossip.messages.session import Settlement
from gossip.network import NetworkConfig, open_network
from node.app import Parts, start_roles
from node.config import KeyFiles, NodeFile
from node.context import Node, Topics
from node.network_file import NetworkFile
from node.store import open_store
from testnet.errors import TestnetError

T = TypeVar("T")

FILE_FROM_PERCENT, FILE_FOR_PERCENT = 5, 65
"""Sessions are filed from so many percent of a slot on, and for so many: never before the core knows of the slot."""

SETTLE_S = 60.0
"""How long the last sessions may take to be settled."""

MAX_SETTLEMENT_BYTES = 8_192

LOOK_S = 0.05
"""How often the event loop is looked at: enough to see stalls that matter, and little enough to cost nothing."""


@dataclass(frozen=True, slots=True)
class Start:
    """Be the member with this key, on this network, in this folder."""

    network: NetworkFile
    folder: Path
    secret: bytes


@dataclass(frozen=True, slots=True)
class Orders:
    """The committee's records, the sessions to file in each slot, encoded, and how many all members file together."""

    records: tuple[Signed[NodeRecord], ...]
    sessions: tuple[tuple[bytes, ...], ...]
    total: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The member runs; told again once it is linked with all others."""

    record: Signed[NodeRecord]


@dataclass(frozen=True, slots=True)
class Done:
    """What a member saw. Times are Unix ms.

    ``decided`` is, by height, when it had stored the batch, the batch's slot, its round and how many it settled.
    """

    proposed: dict[int, float]
    decided: dict[int, tuple[float, int, int, int]]
    cpu_s: float
    stall_ms: float


def run_member(end: Connection) -> None:
    """A process from start to end; whatever goes wrong is told."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger().addHandler(logging.NullHandler())  # processes that start together miss each other at first
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        trio.run(_run, end)
    except (EOFError, OSError):
        return  # whoever listened is gone
    except Exception as error:  # noqa: BLE001  # the supervisor of this process: its parent raises it
        end.send(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


async def _run(end: Connection) -> None:
    async with AsyncExitStack() as stack:
        start = await _hear(end, Start)
        node = await _open(start, stack)
        nursery = await stack.enter_async_context(trio.open_nursery())
        watched = Watched(await start_roles(node, start.network, nursery))
        end.send(Ready(watched.record))
        orders = await _hear(end, Orders)
        await watched.link(orders.records)
        end.send(Ready(watched.record))
        end.send(await watched.work(orders, await _hear(end, int)))
        await trio.sleep_forever()


async def _hear(end: Connection, kind: type[T]) -> T:
    """The next thing that the parent says."""
    told = await trio.to_thread.run_sync(end.recv, abandon_on_cancel=True)
    if not isinstance(told, kind):
        raise TestnetError(f"the benchmark said {told!r}")
    return told


async def _open(start: Start, stack: AsyncExitStack) -> Node:
    terms = start.network.terms()
    start.folder.mkdir(parents=True)
    return Node(
        config=NodeFile(
            network=start.folder / "network.toml",
            data_dir=start.folder,
            keys=KeyFiles(Path("mor.json"), Path("node.json")),
            roles=("member",),
        ),
        terms=terms,
        key=Key(start.secret),
        network=await stack.enter_async_context(open_network(NetworkConfig(), os.urandom(32))),
        store=await stack.enter_async_context(open_store(start.folder / "node.sqlite")),
        chain=None,
        topics=Topics.of(terms.domain),
        log=structlog.get_logger("member"),
    )


class Watched:
    """A running member, and what it was seen to do."""

    def __init__(self, parts: Parts) -> None:
        if parts.member is None or parts.link is None:
            raise TestnetError("the node is no member")
        self._parts, self._member, self._link = parts, parts.member, parts.link
        self._proposed: dict[int, float] = {}
        self._decided: dict[int, tuple[float, int, int, int]] = {}
        self._stall_s = 0.0
        self._member.on_tell = self._note_frame
        parts.public.on_batch.append(self._note_batch)

    @property
    def record(self) -> Signed[NodeRecord]:
        """The member's own."""
        return self._parts.peers.record

    async def link(self, records: tuple[Signed[NodeRecord], ...]) -> None:
        """Return when there is a stream to every other member."""
        for record in records:
            if record.payload.address != self._parts.node.address:
                self._parts.public.add(record)
        while len(self._link.linked) < len(records) - 1:
            await trio.sleep(LOOK_S)

    async def work(self, orders: Orders, first: int) -> Done:
        """File the sessions of slots ``first``, ``first`` + 1, … as they go by, and wait until all are settled."""
        node = self._parts.node
        await node.next_slot(first - 1)
        used = time.process_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_loop)
            for number, batch in enumerate(orders.sessions):
                await node.next_slot(first + number - 1)
                await trio.sleep(node.terms.params.slot_ms * FILE_FROM_PERCENT / 100_000)
                await self._file(batch)
            with trio.move_on_after(SETTLE_S):
                while sum(count for *_, count in self._decided.values()) < orders.total:
                    await trio.sleep(LOOK_S)
            nursery.cancel_scope.cancel()
        return Done(self._proposed, self._decided, time.process_time() - used, self._stall_s * 1_000)

    async def _file(self, sessions: tuple[bytes, ...]) -> None:
        pause = self._parts.node.terms.params.slot_ms * FILE_FOR_PERCENT / 100_000 / max(1, len(sessions))
        due = trio.current_time()
        for data in sessions:
            self._member.file(decode(Settlement, data, MAX_SETTLEMENT_BYTES))
            due += pause
            await trio.sleep_until(due)

    async def _watch_loop(self) -> None:
        while True:
            before = time.monotonic()
            await trio.sleep(LOOK_S)
            self._stall_s = max(self._stall_s, time.monotonic() - before - LOOK_S)

    def _note_frame(self, frame: LinkFrame) -> None:
        if isinstance(frame, ProposalFrame | ShortProposalFrame):
            self._proposed.setdefault(frame.header.height, time.time() * 1_000)

    def _note_batch(self, batch: CertifiedBatch) -> None:
        header = batch.header
        told = time.time() * 1_000, header.slot, batch.certificate.round, len(batch.body.settlements)
        self._decided[header.height] = told
