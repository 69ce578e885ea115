"""A node that stood still itself blames no peer for a silence."""

import pytest
import trio
from trio.testing import MockClock

from gossip.patience import GLANCE_S, PARTS, listen, until_stuck, within


async def late(clock: MockClock, seconds: float, event: trio.Event) -> None:
    """Stand still for ``seconds``; only then does ``event`` come, some turns of the loop later."""
    clock.jump(seconds)
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    event.set()


async def never() -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("wait", [listen, within])
async def test_a_silence_ends_a_wait_when_it_should(autojump_clock: MockClock, wait: type[object]) -> None:
    began = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await wait(10.0, never)  # type: ignore[misc,call-arg]  # either of the two
    assert trio.current_time() - began == pytest.approx(10 + GLANCE_S)


@pytest.mark.parametrize("wait", [listen, within])
@pytest.mark.parametrize("before_s", [0.0, 5.0, 9.9])
@pytest.mark.parametrize("stall_s", [0.2, 3.0, 60.0])
async def test_what_came_while_the_loop_stood_still_is_not_late(
    autojump_clock: MockClock, wait: type[object], before_s: float, stall_s: float
) -> None:
    event = trio.Event()

    async def stall() -> None:
        await trio.sleep(before_s)
        await late(autojump_clock, stall_s, event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stall)
        await wait(10.0, event.wait)  # type: ignore[misc,call-arg]  # either of the two


async def test_a_loop_that_is_always_late_gives_up_all_the_same(mock_clock: MockClock) -> None:
    stalls = 0

    async def stall() -> None:
        nonlocal stalls
        while True:
            stalls += 1
            mock_clock.jump(100)
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stall)
        with pytest.raises(trio.TooSlowError):
            await listen(10.0, never)
        nursery.cancel_scope.cancel()
    assert stalls <= 2 * PARTS + 2


async def test_what_has_no_end_is_waited_for_without_end(autojump_clock: MockClock) -> None:
    event = trio.Event()

    async def later() -> None:
        await trio.sleep(1e6)
        event.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        await listen(float("inf"), event.wait)


async def test_a_works_result_and_its_error_come_as_they_are(autojump_clock: MockClock) -> None:
    async def give(what: int) -> int:
        await trio.sleep(9)
        return what

    async def fail() -> None:
        raise KeyError("its own")

    assert await within(10.0, give, 7) == 7
    with pytest.raises(KeyError, match="its own"):
        await within(10.0, fail)


async def test_a_work_that_takes_too_long_is_cancelled(autojump_clock: MockClock) -> None:
    ended = trio.Event()

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    with pytest.raises(trio.TooSlowError):
        await within(1.0, work)
    assert ended.is_set()


async def test_a_cancelled_wait_ends_at_once(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await within(10.0, never)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(scope.deadline)


async def test_only_what_stays_the_same_is_stuck(autojump_clock: MockClock) -> None:
    doing: list[object] = [None]
    began = trio.current_time()

    async def move_on() -> None:
        for _ in range(50):
            doing[0] = object()
            await trio.sleep(1)
        doing[0] = None
        await trio.sleep(50)
        doing[0] = "stuck"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move_on)
        await until_stuck(lambda: doing[0], 10.0)
    assert 110 <= trio.current_time() - began <= 112


async def test_what_ends_after_the_loop_stood_still_is_not_stuck(autojump_clock: MockClock) -> None:
    doing: list[object] = ["writes"]

    async def stall() -> None:
        await trio.sleep(9.9)
        autojump_clock.jump(60)
        await trio.lowlevel.checkpoint()
        doing[0] = None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stall)
        with trio.move_on_after(200) as scope:
            await until_stuck(lambda: doing[0], 10.0)
    assert scope.cancelled_caught, "it went on"
