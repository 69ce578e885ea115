"""Start and stop one llama.cpp worker. What it says over HTTP is :mod:`inference.llamacpp.engine`'s matter."""

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from inference.errors import EngineUnavailable
from inference.llamacpp.worker import WorkerConfig
from inference.worker_process import Launch, open_process

_SOCKET_PATH_MAX = 100
"""Unix socket paths end at 103 to 107 bytes."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to load a model. ``context`` is T of prompt and answer together, for each of ``slots`` sessions at once."""

    model_path: Path
    slots: int
    context: int
    threads: int
    log_path: Path
    load_seconds: float = 300.0
    """How long loading may take."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that takes requests."""

    process: trio.Process
    socket: str
    api_key: str

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    async def ended(self) -> int:
        """Wait for its end; the exit status."""
        return await self.process.wait()


@asynccontextmanager
async def open_worker(options: EngineOptions) -> AsyncIterator[Worker]:
    """A loaded worker; leaving ends its process. Raises :class:`EngineUnavailable` if it does not come up."""
    folder = Path(tempfile.mkdtemp(prefix="yellowstone-"))  # mode 0700
    try:
        socket = str(folder / "engine.sock")
        if len(socket) > _SOCKET_PATH_MAX:
            raise EngineUnavailable(f"the temporary folder's path is too long for a Unix socket: {socket}")
        key = secrets.token_urlsafe(32)
        config = WorkerConfig(
            model=str(options.model_path.resolve()),
            socket=socket,
            api_key=key,
            slots=options.slots,
            context=options.context,
            threads=options.threads,
        )
        launch = Launch(
            module="inference.llamacpp.worker",
            config=config,
            what=str(options.model_path),
            log_path=options.log_path,
            load_seconds=options.load_seconds,
            environment={"OMP_WAIT_POLICY": "passive"},
        )
        async with open_process(launch) as worker:
            yield Worker(worker.process, socket, key)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
