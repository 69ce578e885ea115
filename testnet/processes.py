"""Start a network's processes, notice when one ends, and leave none behind.

Each process leads a group of its own, so that a Ctrl-C at the terminal reaches the launcher alone, which then stops
everything in order. Two things end the processes of a launcher that was killed: each holds a pipe whose end it can
see (nodes are told to leave with it), and :mod:`testnet.reaper` ends whatever group is still there.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from testnet.errors import ProcessDied
from testnet.reaper import GRACE_S, is_alive

ROOT = Path(__file__).parent.parent
"""Where the packages lie: the working directory of every process."""

TAIL_LINES = 15

STOP_S = 8.0
"""How long everything has between SIGTERM and SIGKILL."""


class Process:
    """One running process and the group that it leads."""

    __slots__ = ("_process", "_stdin", "ended", "log", "name")

    def __init__(self, name: str, process: trio.Process, stdin: int, log: Path) -> None:
        self.name = name
        self.log = log
        self.ended = trio.Event()
        """Set once nothing of the process's group is left."""
        self._process = process
        self._stdin: int | None = stdin

    @property
    def pid(self) -> int:
        """The process's id, which is its group's id too."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    def check(self) -> None:
        """Raise :class:`ProcessDied` where the process has ended."""
        if self.code is not None:
            raise ProcessDied(self.name, self.code, self.log, tail(self.log))

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to everything in the group; nothing happens where nothing is left."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def kill_now(self) -> None:
        """SIGKILL to the whole group, as a crash would have it."""
        self.signal_group(signal.SIGKILL)

    async def wait(self) -> None:
        """Wait for the process's own end."""
        await self._process.wait()

    def close_stdin(self) -> None:
        """Let the process see that the launcher is done with it."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None


class Supervisor:
    """Owns all processes of a network; made by :func:`open_supervisor`."""

    def __init__(self, nursery: trio.Nursery, reaper: int, on_end: Callable[[Process], None]) -> None:
        self._nursery = nursery
        self._reaper = reaper
        self._on_end = on_end
        self._processes: list[Process] = []
        self._is_stopping = False

    @property
    def running(self) -> tuple[Process, ...]:
        """The processes that have not ended, in the order of their start."""
        return tuple(process for process in self._processes if not process.ended.is_set())

    async def start(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Run ``command`` in a new process group with its output in ``log``."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            opened, stdin = await _spawn(command, output.fileno(), {**os.environ, **(environment or {})})
        self._tell_reaper(f"+{opened.pid}\n")
        process = Process(name, opened, stdin, log)
        self._processes.append(process)
        self._nursery.start_soon(self._watch, process)
        return process

    async def stop(self, hurry: trio.Event, grace_s: float = STOP_S) -> None:
        """End everything, last started first: SIGTERM and a closed pipe, then SIGKILL.

        SIGKILL comes after ``grace_s`` seconds, or as soon as ``hurry`` is set.
        """
        self._is_stopping = True
        for process in reversed(self.running):
            process.signal_group(signal.SIGTERM)
            process.close_stdin()
        with trio.move_on_after(grace_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, hurry, nursery.cancel_scope)
                for process in self._processes:
                    await process.ended.wait()
                nursery.cancel_scope.cancel()
        self.kill()
        for process in self._processes:
            await process.ended.wait()

    def kill(self) -> None:
        """End everything at once."""
        for process in self.running:
            process.signal_group(signal.SIGKILL)

    async def _watch(self, process: Process) -> None:
        """Clean up after a process, whose own children may outlive it.

        Shielded: when everything is cancelled, stopping still waits for what this sees.
        """
        with trio.CancelScope(shield=True):
            await process.wait()
            process.signal_group(signal.SIGTERM)
            with trio.move_on_after(GRACE_S):
                while is_alive(process.pid):
                    await trio.sleep(0.02)
            process.signal_group(signal.SIGKILL)
        self._tell_reaper(f"-{process.pid}\n")
        process.close_stdin()
        process.ended.set()
        if not self._is_stopping:
            self._on_end(process)

    def _tell_reaper(self, line: str) -> None:
        with suppress(BrokenPipeError):  # without a reaper the processes still see their pipe's end
            os.write(self._reaper, line.encode())


@asynccontextmanager
async def open_supervisor(
    on_end: Callable[[Process], None], hurry: trio.Event | None = None
) -> AsyncIterator[Supervisor]:
    """A supervisor; leaving stops everything that it started, however it is left.

    ``on_end`` is called with each process that ends by itself; it may look, note and cancel, not wait. Setting
    ``hurry`` makes stopping quick and rough.
    """
    command = [sys.executable, "-I", str(Path(__file__).with_name("reaper.py"))]
    reaper, pipe = await _spawn(command, subprocess.DEVNULL, os.environ)
    try:
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(nursery, pipe, on_end)
            try:
                yield supervisor
            finally:
                with trio.CancelScope(shield=True):
                    await supervisor.stop(trio.Event() if hurry is None else hurry)
    finally:
        os.close(pipe)
        with trio.CancelScope(shield=True):
            await reaper.wait()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _spawn(command: Sequence[str], output: int, environment: Mapping[str, str]) -> tuple[trio.Process, int]:
    """A process that leads a new group, and the end of its standard input that stays here."""
    theirs, ours = os.pipe()
    try:
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=theirs,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
            env=environment,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return process, ours


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, for an error message."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join("    " + line for line in text.splitlines()[-lines:])
