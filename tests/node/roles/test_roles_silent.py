"""Silent streams: they stand in the doorway, cost their peers points, and keep nobody from a place."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gossip.errors import RemoteError
from gossip.network import Network, NetworkConfig, open_network
from gossip.topics import CHALLENGE, ROUTER, SEAT, SESSION, SYNC, VOCABULARY
from inference.synthetic import SyntheticEngine
from tests.node.roles.harness import open_lab, until

SLOTS = 16
SILENT = SLOTS + 8
"""Streams that once took every place of such a provider."""


@asynccontextmanager
async def peer_of(target: Network, name: bytes) -> AsyncIterator[Network]:
    """A host that is connected to ``target``."""
    async with open_network(NetworkConfig(), name.ljust(32, b".")) as peer:
        await peer.connect(target.multiaddrs, timeout=10)
        yield peer


async def code_of(peer: Network, target: Network, protocol: str) -> str:
    """How ``target`` refuses a first frame that is none."""
    stream = await peer.open_stream(target.peer_id, protocol, timeout=10)
    await stream.send(b"\xff")
    with pytest.raises(RemoteError) as refused:
        await stream.receive(limit=100, timeout=10)
    await stream.aclose()
    return refused.value.code


@pytest.mark.parametrize("protocol", [SESSION, VOCABULARY, SYNC])
async def test_silent_streams_take_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        serving = await lab.start_provider("provider", SyntheticEngine("synthetic", slots=SLOTS))
        target = serving.node.network
        async with peer_of(target, b"silent") as silent, peer_of(target, b"honest") as honest:
            held = [await silent.open_stream(target.peer_id, protocol, timeout=10) for _ in range(SILENT)]
            assert await code_of(honest, target, protocol) in {"bad_message", "protocol_error"}
            assert len(held) == SILENT


@pytest.mark.parametrize("protocol", [SESSION, CHALLENGE, VOCABULARY, SEAT, SYNC, ROUTER])
async def test_silence_is_told_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        running = await lab.start_member(0) if protocol == ROUTER else await lab.start_provider("provider")
        target = running.node.network
        async with peer_of(target, b"silent") as silent:
            held = [await silent.open_stream(target.peer_id, protocol, timeout=10) for _ in range(SILENT)]
            with pytest.raises(RemoteError, match="busy"):
                await held[-1].receive(limit=100, timeout=10)
            await until(lambda: target.statistics().drops.get("silent_stream"), "points for silence", seconds=10)
            assert target.statistics().drops["penalties"]
