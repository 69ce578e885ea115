"""Installing, verifying and tethering; the chain itself is tested in tests/integration."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from contracts import anvil as anvil_module
from contracts import tether
from contracts.anvil import VERSION, anvil, install, verify
from contracts.errors import AnvilError

DEADLINE_S = 20.0


def plant(cache_dir: Path, script: str, version: str = VERSION) -> Path:
    """A shell script in the place of anvil."""
    name = anvil_module._platform()
    package = cache_dir / f"anvil-{VERSION}-{name}" / "node_modules" / "@foundry-rs" / f"anvil-{name}"
    binary = package / "bin" / "anvil"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n" + script)
    binary.chmod(0o755)
    (package / "package.json").write_text(json.dumps({"version": version}))
    return binary


def trust(monkeypatch: pytest.MonkeyPatch, binary: Path) -> None:
    sha256 = hashlib.sha256(binary.read_bytes()).hexdigest()
    monkeypatch.setitem(anvil_module._SHA256, anvil_module._platform(), sha256)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_verified_binary_passes(tmp_path: Path) -> None:
    binary = plant(tmp_path, "exit 0")
    verify(binary, hashlib.sha256(binary.read_bytes()).hexdigest())
    verify(binary, None)


def test_another_hash_is_refused(tmp_path: Path) -> None:
    binary = plant(tmp_path, "exit 0")
    with pytest.raises(AnvilError, match=hashlib.sha256(binary.read_bytes()).hexdigest()):
        verify(binary, "00" * 32)


def test_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnvilError, match=r"version 1\.0\.0"):
        verify(plant(tmp_path, "exit 0", "1.0.0"), None)


def test_a_missing_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnvilError, match="no installed anvil"):
        verify(tmp_path / "a" / "b" / "anvil", None)


async def test_an_installed_binary_is_checked_before_it_runs(tmp_path: Path) -> None:
    plant(tmp_path, "exit 0")
    if anvil_module._SHA256[anvil_module._platform()] is None:
        pytest.skip("no hash is known for this platform")
    with pytest.raises(AnvilError, match="SHA-256"):
        await install(tmp_path)


async def test_without_npm_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnvilError, match="npm is not on the PATH"):
        await install(tmp_path / "cache")


async def test_a_failing_npm_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no such registry >&2\nexit 7\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(AnvilError, match="no such registry"):
        await install(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


async def test_a_platform_without_anvil_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    with pytest.raises(AnvilError, match="s390x"):
        await install(tmp_path)


async def test_a_chain_that_ends_at_once_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(monkeypatch, plant(tmp_path, "echo cannot bind; exit 3"))
    with pytest.raises(AnvilError, match="status 3: cannot bind"):
        async with anvil(tmp_path, tmp_path / "anvil.log"):
            pass


async def test_a_chain_that_never_listens_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(monkeypatch, plant(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 100"))
    monkeypatch.setattr(anvil_module, "START_S", 1.0)
    with pytest.raises(AnvilError, match="did not listen within 1 s"):
        async with anvil(tmp_path, tmp_path / "anvil.log"):
            pass
    assert is_gone(int((tmp_path / "pid").read_text()))


async def test_the_options_reach_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f'echo "$@" > {tmp_path}/options; echo "Listening on 127.0.0.1:4321"; exec sleep 100'
    trust(monkeypatch, plant(tmp_path, script))
    async with anvil(tmp_path, tmp_path / "anvil.log", chain_id=5, accounts=3, block_time_s=2) as chain:
        assert (chain.url, chain.chain_id) == ("http://127.0.0.1:4321", 5)
    words = (tmp_path / "options").read_text()
    for option in (
        "--host 127.0.0.1",
        "--port 0",
        "--hardfork prague",
        "--chain-id 5",
        "--accounts 3",
        "--block-time 2",
    ):
        assert option in words


TETHER = [sys.executable, "-I", "-S", tether.__file__]


def test_the_tether_passes_the_exit_status_on() -> None:
    with subprocess.Popen([*TETHER, "sh", "-c", "exit 9"], stdin=subprocess.PIPE) as process:
        assert process.wait(DEADLINE_S) == 9


def test_closing_the_pipe_stops_the_command() -> None:
    with subprocess.Popen([*TETHER, "sleep", "100"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(DEADLINE_S) != 0


@pytest.mark.parametrize("victim", ["starter", "tether"])
def test_the_command_does_not_outlive_a_killed(victim: str, tmp_path: Path) -> None:
    if victim == "tether" and sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent was killed")
    note = tmp_path / "pid"
    command = [*TETHER, "sh", "-c", f"echo $$ > {note}.new; mv {note}.new {note}; exec sleep 100"]
    program = (
        "import subprocess, sys\n"
        f"process = subprocess.Popen({command!r}, stdin=subprocess.PIPE)\n"
        "print(process.pid, flush=True)\n"
        "process.wait()\n"
        "sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as starter:
        assert starter.stdout is not None
        tether_pid = int(starter.stdout.readline())
        wait_until(note.exists)
        pid = int(note.read_text())
        os.kill(starter.pid if victim == "starter" else tether_pid, signal.SIGKILL)
        wait_until(lambda: is_gone(pid))
        starter.kill()


async def test_a_cancelled_chain_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f'echo $$ > {tmp_path}/pid; echo "Listening on 127.0.0.1:4321"; exec sleep 100'
    trust(monkeypatch, plant(tmp_path, script))
    with trio.CancelScope() as scope:
        async with anvil(tmp_path, tmp_path / "anvil.log"):
            scope.cancel()
            await trio.sleep_forever()
    assert is_gone(int((tmp_path / "pid").read_text()))
