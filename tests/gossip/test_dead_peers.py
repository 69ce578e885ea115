"""Peers in processes of their own, killed and frozen."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from gossip.errors import StreamBroken
from gossip.network import NetworkConfig, open_network
from tests.gossip.nets import seed, until

PEER = """
import trio
from gossip.network import NetworkConfig, open_network

async def main():
    async def echo(stream):
        while (data := await stream.receive(limit=100, timeout=60)) is not None:
            await stream.send(data)
        await stream.end()

    async with open_network(NetworkConfig(), bytes(31) + b"p") as network:
        network.serve("/test/echo", echo)
        print(network.multiaddrs[0], flush=True)
        await trio.sleep(60)

trio.run(main)
"""


@asynccontextmanager
async def peer_process() -> AsyncIterator[tuple[trio.Process, str]]:
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            [sys.executable, "-c", PEER],
            stdout=subprocess.PIPE,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        process: trio.Process = await nursery.start(start)
        assert process.stdout is not None
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
        try:
            yield process, line.decode().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_dead_peer_breaks_its_streams_and_is_forgotten(deadly: signal.Signals) -> None:
    config = NetworkConfig(ping_interval=0.2, ping_deadline=0.5)
    async with open_network(config, seed(1)) as network, peer_process() as (process, address):
        peer = await network.connect([address], timeout=10)
        stream = await network.open_stream(peer, "/test/echo", timeout=5)
        await stream.send(b"alive")
        assert await stream.receive(limit=100, timeout=5) == b"alive"
        process.send_signal(deadly)
        with pytest.raises(StreamBroken):
            await stream.receive(limit=100, timeout=10)
        await until(lambda: not network.peers())
        with pytest.raises(StreamBroken):
            await stream.send(b"x")
