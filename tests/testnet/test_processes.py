"""Processes are started, watched and ended; none is left behind, however the launcher itself ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from testnet.control import read_ready, wait_ready
from testnet.errors import ProcessDied, StepOverdue
from testnet.processes import ROOT, Process, open_supervisor
from testnet.reaper import read_groups

POLITE = "import sys; print('up', flush=True); sys.stdin.read()"
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the child inherits this
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
LEAVES_A_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
sys.exit(3)
"""
LAUNCHER = """
import sys, trio
from pathlib import Path
from testnet.processes import open_supervisor

async def main():
    logs = Path(sys.argv[1])
    async with open_supervisor(lambda process: None) as supervisor:
        for name in sys.argv[2:]:
            process = await supervisor.start(name, [sys.executable, str(logs / name)], logs / f"{name}.log")
            print(process.pid, flush=True)
        print("started", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() != "" and not done.stdout.strip().startswith("Z")


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.02)


async def child_of(log: Path) -> int:
    """The process that a log says was started."""
    await until(lambda: log.exists() and log.read_text().startswith("child ") and log.read_text().endswith("\n"))
    return int(log.read_text().split()[1])


def ignore(process: Process) -> None:
    """Nobody cares that it has ended."""


async def test_stop_asks_politely_then_kills_whole_groups(tmp_path: Path) -> None:
    hurry = trio.Event()
    async with open_supervisor(ignore, hurry) as supervisor:
        polite = await supervisor.start("polite", [sys.executable, "-c", POLITE], tmp_path / "polite.log")
        stubborn = await supervisor.start("stubborn", [sys.executable, "-c", STUBBORN], tmp_path / "stubborn.log")
        child = await child_of(tmp_path / "stubborn.log")
        await until(lambda: (tmp_path / "polite.log").read_text() == "up\n")
        await supervisor.stop(hurry, grace_s=0.5)
        assert supervisor.running == ()
    assert polite.code is not None
    assert stubborn.code == -signal.SIGKILL
    await until(lambda: not is_running(child))


async def test_second_signal_makes_stopping_quick(tmp_path: Path) -> None:
    hurry = trio.Event()
    async with open_supervisor(ignore, hurry) as supervisor:
        stubborn = await supervisor.start("stubborn", [sys.executable, "-c", STUBBORN], tmp_path / "stubborn.log")
        await child_of(tmp_path / "stubborn.log")
        hurry.set()
        with trio.fail_after(10):
            await supervisor.stop(hurry, grace_s=3_600)
    assert stubborn.code == -signal.SIGKILL


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError], ids=str)
async def test_nothing_is_left_when_the_body_raises(tmp_path: Path, error: type[BaseException]) -> None:
    started: list[Process] = []

    async def body() -> None:
        async with open_supervisor(ignore) as supervisor:
            command = [sys.executable, "-c", POLITE]
            started.append(await supervisor.start("polite", command, tmp_path / "polite.log"))
            raise error

    with pytest.raises(BaseExceptionGroup) as caught:
        await body()
    assert caught.group_contains(error)
    assert [process.code for process in started] != [None]
    assert not is_running(started[0].pid)


async def test_nothing_is_left_when_everything_is_cancelled(tmp_path: Path) -> None:
    with trio.fail_after(30), trio.CancelScope() as scope:
        async with open_supervisor(ignore) as supervisor:
            process = await supervisor.start("polite", [sys.executable, "-c", POLITE], tmp_path / "polite.log")
            scope.cancel()
            await trio.sleep_forever()
    assert process.code is not None
    assert not is_running(process.pid)


async def test_end_is_noticed_and_orphans_are_ended(tmp_path: Path) -> None:
    ended: list[Process] = []
    async with open_supervisor(ended.append) as supervisor:
        process = await supervisor.start("short", [sys.executable, "-c", LEAVES_A_CHILD], tmp_path / "short.log")
        with trio.fail_after(20):
            await process.ended.wait()
        child = await child_of(tmp_path / "short.log")
        await until(lambda: not is_running(child))
        await until(lambda: ended == [process])
    assert process.code == 3
    with pytest.raises(ProcessDied, match=r"short exited with 3.*short\.log\n    child \d+"):
        process.check()


async def test_processes_die_with_a_launcher_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "polite").write_text(POLITE)
    (tmp_path / "stubborn").write_text(STUBBORN)
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), "polite", "stubborn"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as launcher:
        assert launcher.stdout is not None
        lines = [launcher.stdout.readline().strip() for _ in range(3)]
        assert lines[2] == "started"
        child = await child_of(tmp_path / "stubborn.log")
        pids = [int(lines[0]), int(lines[1]), child]
        assert all(map(is_running, pids))
        os.kill(launcher.pid, signal.SIGKILL)
        await until(lambda: not any(map(is_running, pids)))


def test_reaper_reads_what_is_still_registered() -> None:
    lines = ["+100\n", "+200\n", "-100\n", "+1\n", "+0\n", "noise\n", "+-5\n", "\n", "+300"]
    assert read_groups(lines) == {200, 300}


async def test_wait_ready_ignores_what_an_earlier_run_left(tmp_path: Path) -> None:
    stale = '{"pid": 1, "peer_id": "p", "address": "0x", "multiaddrs": [], "control_url": "u"}'
    (tmp_path / "ready.json").write_text(stale)
    async with open_supervisor(ignore) as supervisor:
        process = await supervisor.start("polite", [sys.executable, "-c", POLITE], tmp_path / "polite.log")
        with pytest.raises(StepOverdue, match="polite becoming ready"):
            await wait_ready(process, tmp_path, 0.3)
        (tmp_path / "ready.json").write_text(stale.replace('"pid": 1', f'"pid": {process.pid}'))
        ready = await wait_ready(process, tmp_path, 10)
    assert (ready.pid, ready.gateway_url) == (process.pid, None)


async def test_wait_ready_tells_of_a_death_at_once(tmp_path: Path) -> None:
    async with open_supervisor(ignore) as supervisor:
        command = [sys.executable, "-c", "import sys; sys.exit('no such key')"]
        process = await supervisor.start("early", command, tmp_path / "early.log")
        with pytest.raises(ProcessDied, match=r"(?s)early exited with 1.*no such key"), trio.fail_after(20):
            await wait_ready(process, tmp_path, 3_600)


def test_half_a_ready_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    assert read_ready(path) is None
    path.write_text('{"pid": 4')
    assert read_ready(path) is None
