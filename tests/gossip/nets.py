"""Hosts and in-memory connections for the tests of this folder."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio
from libp2p.network.connection.exceptions import RawConnError

from gossip.network import Network, NetworkConfig, Verdict, open_network

FAST = NetworkConfig(heartbeat=0.1)
"""A mesh that is repaired quickly."""


def accept_all(_: bytes, __: str) -> Verdict:
    return Verdict.ACCEPT


def seed(number: int) -> bytes:
    return number.to_bytes(32, "big")


@asynccontextmanager
async def open_nets(count: int, config: NetworkConfig = FAST) -> AsyncIterator[list[Network]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_network(config, seed(i + 1))) for i in range(count)]


@asynccontextmanager
async def open_pair(config: NetworkConfig = FAST) -> AsyncIterator[tuple[Network, Network]]:
    """Two hosts, the first connected to the second."""
    async with open_nets(2, config) as (one, other):
        await one.connect(other.multiaddrs, timeout=5)
        yield one, other


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait for ``condition`` to hold."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


class MemoryConn:
    """A secure connection in memory: what a yamux session needs of one."""

    def __init__(self, initiator: bool, incoming: trio.MemoryReceiveChannel[bytes]) -> None:
        self.is_initiator = initiator
        self.incoming = incoming
        self.written: list[bytes] = []
        self.stalled = False
        self.outgoing: trio.MemorySendChannel[bytes] | None = None

    async def read(self, _: int | None = None) -> bytes:
        try:
            return await self.incoming.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return b""

    async def write(self, data: bytes) -> None:
        if self.stalled:
            await trio.sleep_forever()
        self.written.append(data)
        if self.outgoing is not None:
            try:
                await self.outgoing.send(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise RawConnError("closed") from error

    async def close(self) -> None:
        self.incoming.close()
        if self.outgoing is not None:
            self.outgoing.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


def memory_conns() -> tuple[MemoryConn, MemoryConn]:
    to_one, at_one = trio.open_memory_channel[bytes](1000)
    to_other, at_other = trio.open_memory_channel[bytes](1000)
    one, other = MemoryConn(True, at_one), MemoryConn(False, at_other)
    one.outgoing, other.outgoing = to_other, to_one
    return one, other
