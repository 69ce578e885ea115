"""A whole network as a user starts it: ``python -m testnet up --keep`` in a process of its own."""

import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from openai import OpenAI

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"
UP_S = 240.0
DOWN_S = 30.0

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None], timeout_s: float) -> T:
    """Ask ``look`` until it has something; fails naming ``what`` did not happen."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen in {timeout_s:g} s")


class NodeView:
    """A running node, seen through the files in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "node.toml"
        self.ready: dict[str, Any] = json.loads((folder / "data" / "ready.json").read_text())

    @property
    def pid(self) -> int:
        return int(self.ready["pid"])

    def get(self, path: str) -> Any:
        """The control API's JSON, None where it knows nothing."""
        token = (self.folder / "data" / "control.token").read_text().strip()
        response = httpx.get(self.ready["control_url"] + path, headers={"authorization": f"Bearer {token}"}, timeout=10)
        return None if response.status_code == 404 else response.raise_for_status().json()

    def is_alive(self) -> bool:
        return is_alive(self.pid)


class LocalNetwork:
    """``testnet up --keep`` from start to Ctrl-C."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.output = folder.with_suffix(".out")
        command = [sys.executable, "-m", "testnet", "up", "--keep", "--dir", str(folder), *options]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            wait_for("the network staying up", self._is_up, UP_S)
        except BaseException:
            self.process.kill()
            raise
        self.base = self.node("user").ready["gateway_url"] + "/v1"
        self.client = OpenAI(base_url=self.base, api_key="none", max_retries=0, timeout=120)

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def _is_up(self) -> bool | None:
        if self.process.poll() is not None:
            raise AssertionError(f"the network ended with {self.process.returncode}:\n{self.text()}")
        return True if "The network stays up" in self.text() else None

    def node(self, name: str) -> NodeView:
        return NodeView(self.folder / name)

    def nodes(self) -> list[NodeView]:
        return [NodeView(path.parents[1]) for path in sorted(self.folder.glob("*/data/ready.json"))]

    def provider_at(self, address: str) -> NodeView:
        return next(node for node in self.nodes() if node.ready["address"] == address)

    def chain_pid(self) -> int:
        """The chain's process, by the port that the nodes use."""
        settings = tomllib.loads((self.folder / "provider-1" / "node.toml").read_text())
        port = settings["chain"]["rpc_url"].rsplit(":", 1)[-1]
        inode = _listening_inode(int(port))
        for process in Path("/proc").glob("[0-9]*"):
            try:
                links = [str(link.readlink()) for link in (process / "fd").iterdir()]
            except OSError:
                continue
            if f"socket:[{inode}]" in links:
                return int(process.name)
        raise AssertionError(f"nobody listens on port {port}")

    def settled(self, ticket_id: str, timeout_s: float = 60) -> Any:
        """What a member's ledger made of a ticket."""
        node = self.node("user")
        return wait_for(f"settling {ticket_id}", lambda: node.get(f"/tickets/{ticket_id}"), timeout_s)

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(DOWN_S)


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _listening_inode(port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rsplit(":", 1)[1], 16) == port and fields[3] == "0A":
            return fields[9]
    raise AssertionError(f"nobody listens on port {port}")
