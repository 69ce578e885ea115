"""A task that polls something outside ends no node: it is reported, and begins again after a pause that grows."""

from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from node.supervision import FIRST_S, HEALTHY_S, MOST_S, keep_running


class Flaky:
    """Fails at once a few times, then runs for a while and fails, then returns."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.began: list[float] = []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.began.append(trio.current_time())
        task_status.started()
        if len(self.began) <= self.failures:
            raise RuntimeError("an answer that nobody foresaw")
        if len(self.began) == self.failures + 1:
            await trio.sleep(HEALTHY_S + 1)
            raise RuntimeError("and another")


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_a_failed_task_begins_again_after_a_pause_that_grows(clock: MockClock) -> None:
    task, log = Flaky(8), structlog.get_logger()
    with trio.fail_after(10_000):
        await keep_running("poll", task.run, log=log)
    pauses = [later - earlier for earlier, later in zip(task.began, task.began[1:], strict=False)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, MOST_S]
    assert pauses[8] == HEALTHY_S + 1 + FIRST_S, "what ran for long has recovered"
    assert len(task.began) == 10


async def test_a_task_that_cannot_begin_tells_its_operator(clock: MockClock) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        raise ValueError("no such key")

    log: Any = structlog.get_logger()
    with pytest.RaisesGroup(ValueError):
        await keep_running("poll", run, log=log)


async def test_cancelling_ends_it(clock: MockClock) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    with trio.move_on_after(5) as scope:
        await keep_running("poll", run, log=structlog.get_logger())
    assert scope.cancelled_caught
