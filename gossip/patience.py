"""How long this node waits for a peer, counted in time in which it listened.

A loop that stands still for some seconds (a long computation, a paused machine) finds every deadline passed when it
goes on, before it has read what had arrived: it would blame each peer for a silence of its own. So a wait is counted
in parts, each of which costs no more than its length however late it ends; one that ends late is given again, as often
as there are parts, so that a loop that is always late still comes to an end.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Args = TypeVarTuple("Args")

PARTS = 8
"""Parts of a wait; as many late ones are given again."""
LATE_S = 0.1
"""A part that ends later than this, and later than it lasts, ends late."""
GLANCE_S = 0.05
"""A last look at most: what has arrived may be read, but not handed on yet."""


class Patience:
    """What is left of a wait of ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.part_s = seconds / PARTS
        """The length of a part."""
        self._left = self._again = PARTS

    def spend(self, late_s: float) -> bool:
        """One more part has ended, ``late_s`` after it should; whether any is left."""
        if late_s > max(self.part_s, LATE_S) and self._again:
            self._again -= 1
        else:
            self._left -= 1
        return self._left > 0


async def listen(seconds: float, attempt: Callable[[*Args], Awaitable[T]], *args: *Args) -> T:
    """What ``attempt`` gives within ``seconds``: one that may be cancelled without loss, and is then made again.

    Raises trio.TooSlowError.
    """
    patience = Patience(seconds)
    is_left = True
    while is_left:
        with trio.move_on_after(patience.part_s) as scope:
            return await attempt(*args)
        is_left = patience.spend(trio.current_time() - scope.deadline)
    with trio.move_on_after(min(patience.part_s, GLANCE_S)):
        return await attempt(*args)
    raise trio.TooSlowError


async def within(seconds: float, work: Callable[[*Args], Awaitable[T]], *args: *Args) -> T:
    """What ``work`` gives within ``seconds``: one that cannot be made again, and is cancelled when they are over.

    Raises trio.TooSlowError, and what ``work`` raises.
    """
    results: list[T] = []
    errors: list[Exception] = []
    done = trio.Event()

    async def run() -> None:
        try:
            results.append(await work(*args))
        except Exception as error:  # noqa: BLE001  # whoever waits gets it, rather than a group of one
            errors.append(error)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with contextlib.suppress(trio.TooSlowError):
            await listen(seconds, done.wait)
        nursery.cancel_scope.cancel()
    for error in errors:
        raise error
    for result in results:
        return result
    raise trio.TooSlowError


async def until_stuck(doing: Callable[[], object], seconds: float) -> None:
    """Until ``doing()`` has given the same thing, and not None, for ``seconds``: looked at once a part."""
    patience, last = Patience(seconds), None
    while True:
        due = trio.current_time() + patience.part_s
        await trio.sleep_until(due)
        now = doing()
        if now is None or now is not last:
            patience, last = Patience(seconds), now
        elif not patience.spend(trio.current_time() - due):
            return
