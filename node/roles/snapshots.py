"""Where a start begins, and the snapshots that later starts begin from."""

import trio

from consensus.market.ledger_state import Ledger
from gossip.errors import MessageError
from gossip.messages.committee import CertifiedBatch
from node.context import Node
from node.errors import SnapshotInvalid
from node.roles.public import PublicState
from node.snapshot import (
    MAX_SNAPSHOT_BYTES,
    Followed,
    Seal,
    check_snapshot,
    decode_snapshot,
    encode_snapshot,
)

EVERY_BATCHES = 200
"""A snapshot is taken after so many batches at the latest: a start follows no more."""

EVERY_SETTLEMENTS = 20_000
"""Or after so many settlements: some seconds of a start, which checks every signature again."""

KEPT = 3
"""Snapshots kept: where the newest isn't believed, the one before is tried."""


class Snapshots:
    """Brings a node's public state to where it stood, and keeps snapshots of it."""

    def __init__(self, node: Node, public: PublicState, genesis: Ledger) -> None:
        self._node = node
        self._public = public
        self._genesis = genesis
        self._seal = Seal(node.key, node.terms, genesis)
        self._batches = self._settlements = 0
        """Since the last snapshot."""
        self._due = trio.Event()

    async def start(self) -> None:
        """Follow the stored batches, from the newest snapshot that can be believed, else from genesis.

        A long way has snapshots of its own, so that a start that is broken off need not begin it again. Raises as
        :meth:`PublicState.replay`; what is not believed is dropped after it, for the fault may be a wrong file or key.
        """
        refused = await self._begin()
        begun = self._public.ledger.height
        await self._public.replay(self._replayed)
        for height in refused:
            await self._node.store.drop_snapshot(height)
        self._node.log.info("stored batches followed", snapshot=begun, height=self._public.ledger.height)
        self._public.on_batch.append(self._note)

    async def _begin(self) -> list[int]:
        """Begin from a snapshot, where there is one to believe; the heights of those newer that are not believed."""
        refused = []
        for height in await self._node.store.snapshot_heights():
            try:
                followed = await self._believed(height)
            except SnapshotInvalid as error:
                self._node.log.warning(
                    "snapshot is not believed", height=height, field=error.field, reason=error.reason
                )
                refused.append(height)
            else:
                self._public.begin_from(followed)
                return refused
        if refused:
            self._node.log.warning("no snapshot is believed: following every stored batch since genesis")
        return refused

    async def _replayed(self, batch: CertifiedBatch) -> None:
        self._note(batch)
        if self._due.is_set():
            await self.take()

    async def run(self) -> None:
        """Take a snapshot whenever one is due, for ever."""
        while True:
            await self._due.wait()
            await self.take()

    async def take(self) -> None:
        """Store a snapshot of the present state; encoding it is a thread's work."""
        self._due = trio.Event()
        self._batches = self._settlements = 0
        followed = self._public.followed()
        height = followed.ledger.height
        data, mark = await trio.to_thread.run_sync(self._made, height, followed)
        if len(data) > MAX_SNAPSHOT_BYTES:
            self._node.log.error("snapshot is too large to be stored", height=height, bytes=len(data))
            return
        await self._node.store.put_snapshot(height, data, mark, keep=KEPT)
        self._node.log.info("snapshot taken", height=height, bytes=len(data))

    def _made(self, height: int, followed: Followed) -> tuple[bytes, bytes]:
        data = encode_snapshot(followed)
        return data, self._seal.mark(height, data)

    def _note(self, batch: CertifiedBatch) -> None:
        self._batches += 1
        self._settlements += len(batch.body.settlements)
        if self._batches >= EVERY_BATCHES or self._settlements >= EVERY_SETTLEMENTS:
            self._due.set()

    async def _believed(self, height: int) -> Followed:
        """The snapshot of ``height``. Raises :class:`SnapshotInvalid`."""
        stored = await self._node.store.snapshot(height)
        if stored is None:
            raise SnapshotInvalid(height, "encoding", "it is gone")
        followed = await trio.to_thread.run_sync(self._opened, height, *stored)
        batches = {}
        for needed in {height, *followed.rescues.values()}:
            try:
                batch = await self._node.store.get_batch(needed)
            except MessageError as error:
                raise SnapshotInvalid(height, "batch", f"the stored batch of height {needed}: {error}") from error
            if batch is not None:
                batches[needed] = batch
        await trio.to_thread.run_sync(check_snapshot, height, followed, batches, self._genesis, self._node.terms)
        return followed

    def _opened(self, height: int, data: bytes, mark: bytes) -> Followed:
        self._seal.check(height, data, mark)
        return decode_snapshot(height, data)
