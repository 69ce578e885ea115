"""Start and stop one worker process. What it says over HTTP is :mod:`inference.llamacpp.engine`'s matter."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

import inference
from inference.errors import EngineUnavailable
from inference.llamacpp.worker import READY, WorkerConfig

_STOP_SECONDS = 2
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
        process = await _spawn(options, config)
        try:
            await _wait_ready(process, options)
            yield Worker(process, socket, key)
        finally:
            await _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _spawn(options: EngineOptions, config: WorkerConfig) -> trio.Process:
    with options.log_path.open("ab") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "inference.llamacpp.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=Path(inference.__file__).parents[1],
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
    if process.stdin is None:
        raise EngineUnavailable("the worker has no stdin")
    try:
        await process.stdin.send_all(msgspec.json.encode(config) + b"\n")
    except BaseException:
        await _stop(process)
        raise
    return process


async def _wait_ready(process: trio.Process, options: EngineOptions) -> None:
    if process.stdout is None:
        raise EngineUnavailable("the worker has no stdout")
    said = b""
    with trio.move_on_after(options.load_seconds) as deadline:
        while len(said) < len(READY) and (data := await process.stdout.receive_some(64)):
            said += data
    if deadline.cancelled_caught:
        raise EngineUnavailable(f"loading {options.model_path} took longer than {options.load_seconds:g} s")
    if said != READY:
        raise EngineUnavailable(f"the engine could not load {options.model_path}; see {options.log_path}")


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
