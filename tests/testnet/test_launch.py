"""The launcher from start to stop, on a real chain with real contracts, with stand-ins for the nodes' processes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from rich.console import Console
from typer.testing import CliRunner

from contracts.bindings import Mor
from contracts.client import ChainClient
from contracts.signing import Key
from contracts.typed_data import Address
from node.config import load_network, load_node
from testnet import launch
from testnet.cli import app
from testnet.errors import FolderTaken
from testnet.files import LOCK, open_folder
from testnet.plan import BASE_BID_WEI, GUEST_BID_WEI, TestnetOptions
from tests.testnet import stand_in_node

EXPECTED_WEI = stand_in_node.TOKENS * BASE_BID_WEI


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins instead of nodes; cheap keystores."""
    script = str(Path(stand_in_node.__file__))
    monkeypatch.setattr("testnet.network.run_command", lambda path: [sys.executable, script, str(path)])
    monkeypatch.setattr("node.keys.ROUNDS", 1_000)


class Run:
    """A launcher with its output; ``status`` is set once it has ended."""

    def __init__(self, folder: Path, options: TestnetOptions) -> None:
        self.folder = folder
        self.status: int | None = None
        self._output = io.StringIO()
        self._options = options

    @property
    def text(self) -> str:
        return self._output.getvalue()

    async def go(self) -> None:
        self.status = await launch.up(self._options, Console(file=self._output, width=160))

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.move_on_after(60):
            while not condition() and self.status is None:
                await trio.sleep(0.02)
        assert condition(), self.text

    async def pay(self, amount: int) -> None:
        """What a provider's claim does: MOR for provider-1, once the prompt has been asked."""
        await self.until((self.folder / "asked").exists)
        secrets = re.findall(
            r"^\(0\) 0x([0-9a-f]{64})$", (self.folder / "logs" / "chain.log").read_text(), re.MULTILINE
        )
        client = ChainClient(load_node(self.folder / "user" / "node.toml").chain.rpc_url)
        mor = Mor(client, load_network(self.folder / "network.toml").contracts.mor)
        provider = Address(bytes.fromhex(stand_in_node.address(self.folder / "provider-1")[2:]))
        await trio.to_thread.run_sync(mor.mint, Key(bytes.fromhex(secrets[0])), provider, amount)
        client.close()

    def pids(self) -> list[int]:
        return [json.loads(path.read_text())["pid"] for path in self.folder.glob("*/data/ready.json")]


def make_run(tmp_path: Path, **changes: object) -> Run:
    folder = tmp_path / "net"
    options = {"members": 1, "providers": 1, "block_s": 1, "engine": "synthetic", "directory": folder} | changes
    return Run(folder, TestnetOptions(**options))  # type: ignore[arg-type]  # options by name


def is_running(pid: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() != "" and not done.stdout.strip().startswith("Z")


async def test_a_kept_network_pays_loses_a_member_and_stops_when_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, members=4, providers=2, keep=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.go)
        await run.pay(EXPECTED_WEI)
        await run.until(lambda: "stays up until Ctrl-C" in run.text)
        pids = run.pids()
        assert len(pids) == 8
        assert all(map(is_running, pids))
        os.kill(json.loads((run.folder / "member-2" / "data" / "ready.json").read_text())["pid"], signal.SIGKILL)
        await run.until(lambda: "member-2 has ended; the network goes on with 3 members" in run.text)
        os.kill(os.getpid(), signal.SIGTERM)
        await run.until(lambda: run.status is not None)
    assert run.status == 0, run.text
    assert "It is Paris." in run.text
    assert "✓ provider-1 received exactly" in run.text
    assert f"run --config {run.folder / 'guest' / 'node.toml'}" in run.text
    assert f"Logs: {run.folder / 'logs'}" in run.text
    assert not any(map(is_running, pids))
    check_files(run.folder)


def check_files(folder: Path) -> None:
    """What a kept network leaves can be read by a node, and started again at the same addresses."""
    network = load_network(folder / "network.toml")
    assert len(network.members) == 4
    assert {item.payload.day for item in network.commitments} == {0, 1}
    assert len(network.commitments) == 8
    member = load_node(folder / "member-1" / "node.toml")
    ready = json.loads((folder / "member-1" / "data" / "ready.json").read_text())
    assert ready["multiaddrs"][0].startswith(member.listen.p2p[0] + "/p2p/")
    assert len(member.bootstrap) == 7
    assert ready["multiaddrs"][0] in load_node(folder / "guest" / "node.toml").bootstrap
    guest = load_node(folder / "guest" / "provider.toml")
    assert (guest.roles, guest.models[0].price_wei) == (("full", "provider"), GUEST_BID_WEI)
    prices = [load_node(folder / f"provider-{i}" / "node.toml").models[0].price_wei for i in (1, 2)]
    assert prices == [90_000_000_000, 92_700_000_000]


async def test_one_wei_less_is_a_failure(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.go)
        await run.pay(EXPECTED_WEI - 1)
    assert run.status == 1
    assert "✗ provider-1 received" in run.text
    assert not any(map(is_running, run.pids()))


async def test_ctrl_c_while_waiting_for_the_pay(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.go)
        await run.until((run.folder / "asked").exists)
        os.kill(os.getpid(), signal.SIGINT)
    assert run.status == 128 + signal.SIGINT
    assert "Logs: " in run.text
    assert not any(map(is_running, run.pids()))


async def test_pay_that_never_comes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testnet.evidence.SETTLE_S", 0.0)
    monkeypatch.setattr("testnet.evidence.SETTLE_BLOCKS", 1)
    run = make_run(tmp_path)
    await run.go()
    assert run.status == 1
    assert (
        "testnet failed: the claim of provider-1 for batch 1 reaching the chain did not happen within 1 s" in run.text
    )


async def test_a_node_that_dies_at_the_start_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('cannot open the key')"]
    monkeypatch.setattr("testnet.network.run_command", lambda _: command)
    run = make_run(tmp_path)
    await run.go()
    assert run.status == 1
    assert "member-1 exited with 1; its log is" in run.text
    assert "cannot open the key" in run.text


def test_a_folder_is_one_networks_alone(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    with open_folder(folder) as opened:
        (opened / "old").mkdir()
        (opened / "old" / "file").touch()
        with pytest.raises(FolderTaken, match="a test network runs there"):
            open_folder(folder).__enter__()
    with open_folder(folder) as opened:
        assert [entry.name for entry in opened.iterdir()] == [LOCK], "what an earlier network left is gone"


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FolderTaken, match="holds something"):
        open_folder(tmp_path).__enter__()
    with pytest.raises(FolderTaken, match="is not a folder"):
        open_folder(tmp_path / "thesis.txt").__enter__()
    assert (tmp_path / "thesis.txt").exists()


def test_the_command_line_says_which_option_is_wrong() -> None:
    result = CliRunner().invoke(app, ["up", "--members", "0"])
    assert result.exit_code == 2
    assert "--members 0: must be 1 to 64" in result.output
