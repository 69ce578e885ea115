"""Time to replay a made-up log from a store on disk, at two sizes: what a newcomer or an auditor waits for."""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import trio

from gossip.messages.base import decode
from gossip.messages.committee import CertifiedBatch
from node.replay import Checks, replay
from node.store import open_store
from node.store.reading import read_batches
from testnet.bench.chain import LogBuilder
from testnet.progress import Progress

DAY = 7_200
"""Batches of a day."""


@dataclass(frozen=True, slots=True)
class Run:
    """One replay of the log's first ``batches``; ``seconds`` from start to end, processes' start included.

    ``cpu_seconds`` are those of all processes together: they tell growth apart from a busy machine.
    """

    batches: int
    settlements: int
    seconds: float
    cpu_seconds: float


def measure_replay(count: int, settlements: int, checks: Checks, folder: Path, progress: Progress) -> Iterator[Run]:
    """Make a log of ``count`` batches in ``folder``, replay its first half and then the whole, and remove it."""
    folder.mkdir(parents=True, exist_ok=True)
    builder = LogBuilder()
    with tempfile.TemporaryDirectory(dir=folder, prefix="replay-") as name:
        store = Path(name) / "node.sqlite"
        with progress.step(f"making {count} batches of {settlements} settlements"):
            trio.run(_store_log, store, builder, count, settlements)
        for part in (count // 2, count):
            with progress.step(f"replaying {part} batches"):
                started, used = time.monotonic(), sum(os.times()[:4])
                with read_batches(store) as batches:
                    end = replay(islice(batches, part), builder.network, checks)
                took = time.monotonic() - started
                cpu = sum(os.times()[:4]) - used
            yield Run(end.height, end.settlements, took, cpu)


async def _store_log(path: Path, builder: LogBuilder, count: int, settlements: int) -> None:
    async with open_store(path) as store:
        for _, data in builder.batches(count, settlements):
            await store.put_batch(decode(CertifiedBatch, data))
