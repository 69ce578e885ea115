"""Tasks that talk to the outside, kept running: a fault in one is logged, and the task begins again.

What polls a chain or another service meets answers that nobody foresaw. Such a task may fail, but must not end the
node, and must not die unseen either.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

FIRST_S, MOST_S = 1.0, 60.0
"""The pause before a task begins again, and the longest: it doubles with each failure."""

HEALTHY_S = 300.0
"""A task that ran for so long has recovered: its next pause is the first again."""


async def keep_running(
    name: str,
    run: Callable[..., Awaitable[None]],
    *,
    log: structlog.stdlib.BoundLogger,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run ``run(task_status=…)`` until it returns; where it raises, log that and start it again after a pause.

    For ``nursery.start``, which returns once ``run`` has started for the first time. Only what comes after the start is
    forgiven: a task that can't even begin has something to tell its operator.
    """
    pause, has_started = FIRST_S, False
    while True:
        began = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(run)
                if not has_started:
                    has_started = True
                    task_status.started()
            return
        except Exception:
            if not has_started:
                raise
            if trio.current_time() - began > HEALTHY_S:
                pause = FIRST_S
            log.exception("task failed and begins again", task=name, pause_s=pause)
        await trio.sleep(pause)
        pause = min(2 * pause, MOST_S)
