"""The node's end of a worker's pipe: commands out, events in, each to whoever asked; and a watch for one that hangs.

A channel for an answer holds as many events as the answer can have T, so that one slow reader holds up nobody else.
"""

import itertools
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
import trio

from inference.errors import EngineCrashed, EngineUnavailable
from inference.exllamav2.protocol import (
    Beat,
    Cancel,
    Command,
    Counted,
    Event,
    Failed,
    Load,
    PromptRead,
    Refused,
    Said,
    Start,
    WorkerConfig,
    decode_event,
)
from inference.worker_process import Launch, OnLoading, WorkerProcess, open_process

_log = structlog.get_logger(__name__)
_SEND_SECONDS = 10.0
_WATCH_SECONDS = 0.25

WORKER = "inference.exllamav2.worker"
"""The worker's program."""

Answered = Counted | PromptRead | Refused | Load | Said | Failed
"""Events that belong to a request."""


@dataclass(frozen=True, slots=True)
class Exl2Options:
    """How to load a model. ``worker.cache_tokens`` T are shared by all answers."""

    worker: WorkerConfig
    log_path: Path
    load_seconds: float = 1800.0
    """How long loading may take; the package may build its CUDA extension first."""
    hang_seconds: float = 60.0
    """How long a worker with work may say nothing before it is killed."""
    call_seconds: float = 30.0
    """How long a question to the tokenizer may take."""
    module: str = WORKER


class Link:
    """A worker that takes requests, from :func:`open_link`."""

    def __init__(self, worker: WorkerProcess, options: Exl2Options) -> None:
        self.ready = worker.ready
        self._worker = worker
        self._options = options
        self._ids = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[Answered]] = {}
        self._answers: set[int] = set()
        self._sending = trio.Lock()
        self._heard = trio.current_time()
        self._end = "its process ended"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._worker.process.pid

    @property
    def end(self) -> str:
        """Why the worker is no more, once it isn't."""
        return self._end

    async def ended(self) -> int:
        """Read and watch until the worker's end; its exit status."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await self._read()
            nursery.cancel_scope.cancel()
        for channel in self._waiting.values():
            channel.close()
        return await self._worker.process.wait()

    async def call(self, command: Command) -> Answered:
        """Ask ``command`` and wait for its one answer. Raises :class:`EngineUnavailable`."""
        with self.receive(command.id, 1) as answers:
            with trio.move_on_after(self._options.call_seconds):
                await self.send(command)
                try:
                    return await answers.receive()
                except trio.EndOfChannel:
                    raise EngineUnavailable(f"the engine's worker is gone: {self._end}") from None
            raise EngineUnavailable(f"the engine did not answer within {self._options.call_seconds:g} s")

    def new_id(self) -> int:
        """An id for a request."""
        return next(self._ids)

    @contextmanager
    def receive(self, request: int, events: int) -> Iterator[trio.MemoryReceiveChannel[Answered]]:
        """What is said to ``request``, at most ``events`` events."""
        channel_in, channel_out = trio.open_memory_channel[Answered](events)
        self._waiting[request] = channel_in
        try:
            yield channel_out
        finally:
            del self._waiting[request]
            self._answers.discard(request)
            channel_in.close()
            channel_out.close()

    async def send(self, command: Command) -> None:
        """Write ``command``, whole or not at all. Raises :class:`EngineUnavailable`."""
        async with self._sending:
            with trio.CancelScope(shield=True), trio.move_on_after(_SEND_SECONDS) as deadline:
                await self._write(command)
            if deadline.cancelled_caught:
                self._kill(f"it took no command for {_SEND_SECONDS:g} s")
                raise EngineUnavailable(f"the engine's worker is gone: {self._end}")
            if isinstance(command, Start):
                if not self._answers:
                    self._heard = trio.current_time()
                self._answers.add(command.id)

    async def _write(self, command: Command) -> None:
        stdin = self._worker.process.stdin
        if stdin is None:
            raise EngineUnavailable("the worker has no stdin")
        try:
            await stdin.send_all(msgspec.json.encode(command) + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise EngineUnavailable(f"the engine's worker is gone: {self._end}") from error

    async def cancel(self, request: int) -> None:
        """End an answer, whatever becomes of the task that wanted it."""
        with trio.CancelScope(shield=True):  # each send before it in the queue has a deadline of its own
            try:
                await self.send(Cancel(request))
            except EngineUnavailable as error:
                _log.debug("answer not cancelled: its worker is gone", error=str(error))

    async def _read(self) -> None:
        try:
            while (line := await self._worker.lines.receive()) is not None:
                self._heard = trio.current_time()
                self._deliver(decode_event(line))
        except (EngineUnavailable, msgspec.MsgspecError) as error:
            self._kill(f"it wrote what is no event: {str(error)[:200]}")

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Beat):
            return
        if isinstance(event, Failed) or (isinstance(event, Said) and event.finish is not None):
            self._answers.discard(event.id)
        channel = self._waiting.get(event.id)
        if channel is None:
            return  # cancelled while this was under way
        try:
            channel.send_nowait(event)
        except trio.WouldBlock:
            self._kill(f"it said more to request {event.id} than was asked for")

    async def _watch(self) -> None:
        """Kill a worker that has work and is silent."""
        while True:
            await trio.sleep(_WATCH_SECONDS)
            silent = trio.current_time() - self._heard if self._answers else -math.inf
            if silent > self._options.hang_seconds:
                self._kill(f"it hung: nothing was heard of it for {silent:.0f} s")
                return

    def _kill(self, why: str) -> None:
        self._end = why
        _log.error("engine worker killed", pid=self.pid, reason=why)
        self._worker.process.kill()


@asynccontextmanager
async def open_link(options: Exl2Options, on_loading: OnLoading) -> AsyncIterator[Link]:
    """A loaded worker. Raises :class:`EngineUnavailable` and its kinds."""
    launch = Launch(
        module=options.module,
        config=options.worker,
        what=options.worker.folder,
        log_path=options.log_path,
        load_seconds=options.load_seconds,
    )
    async with open_process(launch, on_loading) as worker:
        yield Link(worker, options)


def raise_for(answer: Answered, link: Link) -> None:
    """Raise what ``answer`` says went wrong, if it does."""
    if isinstance(answer, Failed):
        if answer.crashed:
            raise EngineCrashed(f"the engine's generator broke during an answer: {answer.reason}")
        raise EngineUnavailable(f"the engine of worker {link.pid} did not take a request: {answer.reason}")
