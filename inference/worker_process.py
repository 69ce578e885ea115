"""The worker process that an engine lives in, seen from the node: start it, wait until it has loaded, keep it alive.

A worker gets one line of JSON on stdin (its configuration, which never shows in a process list) and ends when stdin
does. On stdout it announces, a line each, how far loading is, and then that it is ready or why it cannot be. What is
said afterwards, over which channel, is each engine's own matter. The worker's side of this is
:mod:`inference.worker_child`.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog
import trio

import inference
from inference.errors import NOT_STARTED, EngineNotStarted, EngineUnavailable
from inference.worker_child import Announcement, Loading, NotStarted, Ready, decode_announcement

_log = structlog.get_logger(__name__)
_STOP_SECONDS = 2
_BACKOFF_SECONDS = (0.2, 1.0, 5.0, 30.0)
_STABLE_SECONDS = 60.0
"""A worker that lived so long is restarted without delay again."""
_LINE_BYTES = 16 << 20
"""A longer line is a broken worker's."""

OnLoading = Callable[[int, int], None]
"""Told how many of how many steps of loading are done."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a worker: ``module`` is run by this Python, ``what`` (a file or folder) is named in errors."""

    module: str
    config: msgspec.Struct
    what: str
    log_path: Path
    load_seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)


class Lines:
    """The lines of a worker's stdout."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._data = bytearray()
        self._scanned = 0

    async def receive(self) -> bytes | None:
        """The next whole line without its end, None once there are no more."""
        while (end := self._data.find(b"\n", self._scanned)) < 0:
            self._scanned = len(self._data)
            if self._scanned > _LINE_BYTES:
                raise EngineUnavailable(f"the worker wrote a line of more than {_LINE_BYTES} bytes")
            more = await self._stream.receive_some(1 << 16)
            if not more:
                return None
            self._data += more
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._scanned = 0
        return line


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A worker that has loaded."""

    process: trio.Process
    lines: Lines
    ready: Ready


@asynccontextmanager
async def open_process(launch: Launch, on_loading: OnLoading | None = None) -> AsyncIterator[WorkerProcess]:
    """A loaded worker; leaving ends it. Raises :class:`EngineUnavailable`; :class:`EngineNotStarted` if it said why."""
    process = await _spawn(launch)
    try:
        if process.stdout is None:
            raise EngineUnavailable("the worker has no stdout")
        lines = Lines(process.stdout)
        yield WorkerProcess(process, lines, await _wait_ready(lines, launch, on_loading))
    finally:
        await _stop(process)


async def _spawn(launch: Launch) -> trio.Process:
    with launch.log_path.open("ab") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", launch.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=Path(inference.__file__).parents[1],
            env={**os.environ, **launch.environment},
        )
    try:
        if process.stdin is None:
            raise EngineUnavailable("the worker has no stdin")
        await process.stdin.send_all(msgspec.json.encode(launch.config) + b"\n")
    except trio.BrokenResourceError:
        pass  # it ended at once: why is in its log, and waiting for it to load says so
    except BaseException:
        await _stop(process)
        raise
    return process


async def _wait_ready(lines: Lines, launch: Launch, on_loading: OnLoading | None) -> Ready:
    with trio.move_on_after(launch.load_seconds):
        while (line := await lines.receive()) is not None:
            match _announcement(line, launch):
                case Ready() as ready:
                    return ready
                case NotStarted(kind, detail):
                    raise NOT_STARTED.get(kind, EngineNotStarted)(detail)
                case Loading(done, total):
                    if on_loading is not None:
                        on_loading(done, total)
        raise EngineUnavailable(f"the engine could not load {launch.what}; see {launch.log_path}")
    raise EngineUnavailable(f"loading {launch.what} took longer than {launch.load_seconds:g} s")


def _announcement(line: bytes, launch: Launch) -> Announcement:
    try:
        return decode_announcement(line)
    except msgspec.MsgspecError as error:
        raise EngineUnavailable(f"the worker of {launch.what} said {line[:200]!r} while loading") from error


async def _stop(process: trio.Process) -> None:
    """Close stdin, which ends a worker; kill one that stays."""
    with trio.CancelScope(shield=True):
        if process.stdin is not None:
            await process.stdin.aclose()
        with trio.move_on_after(_STOP_SECONDS):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


class Worker(Protocol):
    """What supervision asks of an engine's worker."""

    @property
    def pid(self) -> int:
        """The process id."""

    async def ended(self) -> int:
        """Wait for the end of the process, doing meanwhile what the worker needs; its exit status."""


W = TypeVar("W", bound=Worker)


class Supervision(Generic[W]):
    """Keeps one worker running: a new one, after a growing pause, where the last has ended."""

    def __init__(self, name: str, start: Callable[[], AbstractAsyncContextManager[W]]) -> None:
        self._name = name
        self._start = start
        self.worker: W | None = None
        """None while there is none."""
        self.restarts = 0
        """How often a worker has been started again."""

    def require(self) -> W:
        """The worker. Raises :class:`EngineUnavailable` while there is none."""
        if self.worker is None:
            raise EngineUnavailable(f"the engine of {self._name} is restarting")
        return self.worker

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run for ever; only the very first start may fail for good."""
        failures = 0
        while True:
            began = trio.current_time()
            try:
                async with self._start() as worker:
                    self.worker = worker
                    if not self.restarts:
                        task_status.started()
                    try:
                        status = await worker.ended()
                    finally:
                        self.worker = None
                _log.warning("engine worker ended", model=self._name, status=status)
            except EngineUnavailable as error:
                if not self.restarts:
                    raise
                _log.warning("engine worker did not start", model=self._name, error=str(error))
            failures = 0 if trio.current_time() - began > _STABLE_SECONDS else failures + 1
            await trio.sleep(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS)) - 1] if failures else 0)
            self.restarts += 1


@asynccontextmanager
async def keep_running(supervision: Supervision[W]) -> AsyncIterator[None]:
    """Supervise within a block, which begins once a worker has loaded. An error of the body passes unchanged."""
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervision.run)
            yield
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:  # the body's or the first start's own error, wrapped by the nursery
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
