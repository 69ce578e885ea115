"""Shows how far long work is: a bar on a terminal, a log line now and then elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import structlog
import trio
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from inference.progress import Report

SMALL_BYTES = 16 << 20
"""Work on less says nothing in a log: it is over at once."""

LOADING_EVERY_S = 5.0
"""How often a log hears that a model is still being loaded: engines tell no more of it."""

_MIB = 1 << 20


class _Bars:
    """One bar for each piece of work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._lock = Lock()

    def __call__(self, what: str, done: int, total: int) -> None:
        with self._lock:
            if what not in self._tasks:
                self._tasks[what] = self._progress.add_task(escape(what), total=None)
        self._progress.update(self._tasks[what], completed=done, total=total or None)


class _Tenths:
    """Says each tenth of a piece of work once, or each GiB of one whose size is not known."""

    def __init__(self, say: Callable[[str, int, int], None]) -> None:
        self._say = say
        self._said: dict[str, int] = {}
        self._lock = Lock()

    def __call__(self, what: str, done: int, total: int) -> None:
        if 0 < total < SMALL_BYTES:
            return
        step = 10 * done // total if total else done >> 30
        with self._lock:
            if self._said.get(what, 0) == step:
                return
            self._said[what] = step
        self._say(what, done, total)


@contextmanager
def on_console(console: Console) -> Iterator[Report]:
    """Bars where ``console`` is a terminal, lines elsewhere."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            yield _Bars(progress)
    else:
        yield _Tenths(lambda what, done, total: console.print(_line(what, done, total), highlight=False, markup=False))


def in_log(log: "structlog.stdlib.BoundLogger") -> Report:
    """A log line for each tenth."""
    return _Tenths(
        lambda what, done, total: log.info("working", what=what, done_mib=done // _MIB, of_mib=total // _MIB)
    )


def _line(what: str, done: int, total: int) -> str:
    if not total:
        return f"{what}: {done // _MIB} MiB"
    return f"{what}: {100 * done // total} % of {total // _MIB} MiB"


@contextmanager
def still_loading(nursery: trio.Nursery, log: "structlog.stdlib.BoundLogger", model: str) -> Iterator[None]:
    """While the body loads ``model``, say every :data:`LOADING_EVERY_S` that it still does; and how long it took."""
    scope, began = trio.CancelScope(), trio.current_time()

    async def tell() -> None:
        with scope:
            while True:
                await trio.sleep(LOADING_EVERY_S)
                log.info("model is being loaded", model=model, seconds=round(trio.current_time() - began))

    nursery.start_soon(tell)
    try:
        yield
    finally:
        scope.cancel()
    log.info("model is loaded", model=model, seconds=round(trio.current_time() - began, 1))
