"""Runs a library service's tasks, so that none of them can end the process.

Fault: a service's stock manager treats an exception in any task (a peer's garbage, a stream handler's bug) as fatal
for the whole service and with it the program; it also searches all its tasks for the parent of each new one, and
refuses the thousandth child. This supervisor logs and counts instead. It may go when the library isolates task errors.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

_log = logging.getLogger(__name__)


class Supervisor:
    """The manager interface that a library service expects, over one nursery of ours."""

    def __init__(self, nursery: trio.Nursery, name: str) -> None:
        self._nursery = nursery
        self._name = name
        self._finished = trio.Event()
        self.failures = 0
        """Tasks that ended with an exception."""

    def adopt(self, service: Any) -> None:
        """Be the manager of a library service."""
        service._manager = self

    @property
    def is_running(self) -> bool:
        """Whether tasks are still accepted."""
        return not self._finished.is_set()

    @property
    def is_finished(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._finished.is_set()

    is_cancelled = is_finished

    async def wait_finished(self) -> None:
        """Until :meth:`stop`."""
        await self._finished.wait()

    async def stop(self) -> None:
        """End the service: no more tasks, and those that run are cancelled with the nursery's owner."""
        self._finished.set()

    def run_task(self, task: Callable[..., Awaitable[Any]], *args: Any, **_: Any) -> None:
        """Start ``task``; an exception in it is logged and counted."""
        if not self._finished.is_set():
            self._nursery.start_soon(self._guarded, task, args)

    run_daemon_task = run_task

    async def _guarded(self, task: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            await task(*args)
        except Exception as error:  # noqa: BLE001  # the supervisor: what a peer provokes ends a task, never the node
            self.failures += 1
            name = getattr(task, "__qualname__", repr(task))
            _log.warning("%s: %s ended with %r", self._name, name, error, exc_info=error)
