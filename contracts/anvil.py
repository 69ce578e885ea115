"""A local development chain: Foundry's anvil, installed once by npm and run as a child process.

The version is pinned and the binary's hash is checked before every start. The chain lives in memory and dies with
its starter, however that ends (see :mod:`contracts.tether`).
"""

import contextlib
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import trio

from contracts import tether
from contracts.errors import AnvilError
from contracts.signing import Key

VERSION = "1.7.1"

CHAIN_ID = 77_101
"""Not 31337, which every development chain has: a signature for another network must not pass here."""

HARDFORK = "prague"

INSTALL_S = 300.0
"""How long npm may take."""

START_S = 30.0
"""How long anvil may take until it listens."""

_SHA256: dict[str, str | None] = {
    "linux-amd64": "10c1c727d6c1de973aeb160e59875b9a9a23464d6e74149ee8abb30b3500311b",
    # no copy of these was at hand to be hashed: the pinned version and npm's own integrity check must do
    "linux-arm64": None,
    "darwin-amd64": None,
    "darwin-arm64": None,
}

_LISTENING = re.compile(r"^Listening on 127\.0\.0\.1:(\d+)$", re.MULTILINE)
_PRIVATE_KEYS = re.compile(r"^\(\d+\) 0x([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class AnvilChain:
    """A running chain. ``funded_keys`` hold 10,000 coins each for gas."""

    url: str
    chain_id: int
    funded_keys: tuple[Key, ...]


@contextlib.asynccontextmanager
async def anvil(
    cache_dir: Path, log_path: Path, *, chain_id: int = CHAIN_ID, accounts: int = 10, block_time_s: int | None = None
) -> AsyncIterator[AnvilChain]:
    """A fresh chain on loopback, installed into ``cache_dir`` first where it isn't.

    A block is mined per transaction, or every ``block_time_s`` seconds. anvil's output goes to ``log_path``.
    Raises :class:`AnvilError` where it cannot be installed, verified or started.
    """
    binary = await install(cache_dir)
    options = ["--host", "127.0.0.1", "--port", "0", "--hardfork", HARDFORK]
    options += ["--chain-id", str(chain_id), "--accounts", str(accounts)]
    if block_time_s is not None:
        options += ["--block-time", str(block_time_s)]
    launcher = [sys.executable, "-I", "-S", str(Path(tether.__file__).resolve()), str(binary), *options]
    with log_path.open("wb") as log:
        process = await trio.lowlevel.open_process(
            launcher, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    try:
        output = await _await_listening(process, log_path)
        yield AnvilChain(_url(output), chain_id, _funded_keys(output))
    finally:
        with trio.CancelScope(shield=True):
            await _stop(process)


async def install(cache_dir: Path) -> Path:
    """The verified binary under ``cache_dir``, fetched by npm where it isn't there yet. Raises :class:`AnvilError`."""
    name = _platform()
    home = cache_dir.resolve() / f"anvil-{VERSION}-{name}"
    binary = home / "node_modules" / "@foundry-rs" / f"anvil-{name}" / "bin" / "anvil"
    if not binary.exists():
        await _fetch(home, f"@foundry-rs/anvil-{name}@{VERSION}")
    await trio.to_thread.run_sync(verify, binary, _SHA256[name])
    return binary


def verify(binary: Path, sha256: str | None) -> None:
    """Raise :class:`AnvilError` unless ``binary`` is of the pinned version and, where one is known, hash."""
    package = binary.parent.parent / "package.json"
    try:
        version = json.loads(package.read_text(encoding="utf-8"))["version"]
        found = hashlib.sha256(binary.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError) as error:
        raise AnvilError(f"{binary} is no installed anvil: {error!r}") from error
    if version != VERSION:
        raise AnvilError(f"{binary} is version {version}, wanted is {VERSION}")
    if sha256 is not None and found != sha256:
        raise AnvilError(
            f"{binary} has SHA-256 {found}, wanted is {sha256}: delete {binary.parents[3]} to fetch it anew"
        )


def _platform() -> str:
    machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine().lower()
    )
    name = f"{sys.platform}-{machine}"
    if name not in _SHA256:
        raise AnvilError(f"there is no anvil for {sys.platform} on {platform.machine()}")
    return name


async def _fetch(home: Path, package: str) -> None:
    """Install ``package`` beside ``home`` and rename it there whole, so that two fetches at once don't meet."""
    npm = shutil.which("npm")
    if npm is None:
        raise AnvilError(f"npm is not on the PATH; it is needed once, to fetch {package}")
    home.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=home.parent, prefix=".fetching-"))
    try:
        command = [npm, "install", "--prefix", str(scratch), "--no-save", "--no-package-lock", "--ignore-scripts"]
        command += ["--no-audit", "--no-fund", package]
        with trio.move_on_after(INSTALL_S) as patience:
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        if patience.cancelled_caught:
            raise AnvilError(f"npm did not install {package} in {INSTALL_S:g} s")
        if done.returncode != 0:
            raise AnvilError(f"npm could not install {package}: {done.stderr.decode(errors='replace').strip()}")
        if not home.exists():
            with contextlib.suppress(OSError):  # another fetch came first: its copy is as good
                scratch.rename(home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def _await_listening(process: trio.Process, log_path: Path) -> str:
    """anvil's output once it listens: addresses, keys and port."""
    with trio.move_on_after(START_S):
        while process.poll() is None:
            output = log_path.read_text(encoding="utf-8", errors="replace")
            if _LISTENING.search(output):
                return output
            await trio.sleep(0.01)
        tail = log_path.read_text(encoding="utf-8", errors="replace")[-500:].strip()
        raise AnvilError(f"anvil ended with status {process.returncode}: {tail}")
    raise AnvilError(f"anvil did not listen within {START_S:g} s, see {log_path}")


def _url(output: str) -> str:
    match = _LISTENING.search(output)
    if match is None:
        raise AnvilError("anvil names no port")
    return f"http://127.0.0.1:{match[1]}"


def _funded_keys(output: str) -> tuple[Key, ...]:
    return tuple(Key(bytes.fromhex(secret)) for secret in _PRIVATE_KEYS.findall(output))


async def _stop(process: trio.Process) -> None:
    """Close the tether and wait; the launcher sees to the rest."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with trio.move_on_after(2 * tether.STOP_S):
        await process.wait()
        return
    process.kill()
    await process.wait()
