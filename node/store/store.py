"""The store: every room on one worker, opened and closed by one owner."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from node.store.batches import BatchRoom
from node.store.claims import ClaimRoom
from node.store.delivery import DeliveryRoom
from node.store.evidence import EvidenceRoom
from node.store.journal import JournalRoom
from node.store.settings import SettingRoom
from node.store.snapshots import SnapshotRoom
from node.store.worker import Worker


class Store(BatchRoom, SnapshotRoom, DeliveryRoom, ClaimRoom, SettingRoom, JournalRoom, EvidenceRoom):
    """A node's memory. Every method raises :class:`~node.errors.StoreError` where the database fails."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @property
    def path(self) -> Path:
        """The database file."""
        return self._worker.path


@asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[Store]:
    """Open or create the database at ``path`` and close it on leaving.

    Raises :class:`~node.errors.StoreCorrupt`, :class:`~node.errors.StoreInUse`, :class:`~node.errors.StoreTooNew` or
    :class:`~node.errors.StoreUnwritable`.
    """
    worker = await trio.to_thread.run_sync(Worker, path)
    try:
        yield Store(worker)
    finally:
        await worker.aclose()
