"""Tasks of the library that fail, and those that are cancelled."""

import pytest
import trio
import trio.testing

from gossip.hardening.supervisor import Supervisor


async def test_a_failing_task_is_counted_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    done = trio.Event()

    async def fail(what: str) -> None:
        raise ValueError(what)

    async def wait() -> None:
        await trio.testing.wait_all_tasks_blocked()
        done.set()

    async with trio.open_nursery() as nursery:
        owner = Supervisor(nursery, "test")
        owner.run_task(fail, "garbage", name="ignored", daemon=True)
        owner.run_daemon_task(wait)
        with trio.fail_after(5):
            await done.wait()
    assert owner.failures == 1
    assert "garbage" in caplog.text


async def test_after_the_stop_no_task_starts() -> None:
    ran: list[int] = []

    async def note() -> None:
        ran.append(1)

    async with trio.open_nursery() as nursery:
        owner = Supervisor(nursery, "test")
        assert owner.is_running
        await owner.stop()
        owner.run_task(note)
        assert owner.is_finished
        assert not owner.is_running
        await owner.wait_finished()
    assert not ran


async def test_cancellation_passes_through() -> None:
    async with trio.open_nursery() as nursery:
        owner = Supervisor(nursery, "test")
        owner.run_task(trio.sleep_forever)
        nursery.cancel_scope.cancel()
    assert owner.failures == 0
