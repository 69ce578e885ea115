"""What padded frames cost: one answer after the other from a provider's process, plain and padded by turns."""

import os
import time
from dataclasses import dataclass, field

from gossip.network import Network, NetworkConfig, open_network
from gossip.streams import FrameStream
from gossip.topics import SESSION
from inference.engine import ChatMessage
from inference.session.client import open_session
from inference.session.query import QueryBody
from testnet.bench.capacity import open_seller
from testnet.bench.figures import Figures
from testnet.bench.market import TERMS, bench_key, make_ticket
from testnet.bench.seller import SellerOptions, make_engine


class CountingStream:
    """A session's stream that notes the size of each frame received."""

    def __init__(self, stream: FrameStream) -> None:
        self._stream = stream
        self.remote_peer = stream.remote_peer
        self.send, self.end, self.fail, self.aclose = stream.send, stream.end, stream.fail, stream.aclose
        self.sizes: list[int] = []

    async def receive(self, *, limit: int, timeout: float) -> bytes | None:
        """As the stream's own."""
        data = await self._stream.receive(limit=limit, timeout=timeout)
        self.sizes.append(len(data or b""))
        return data


@dataclass(slots=True)
class Way:
    """Answers of one kind."""

    first_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    bytes_per_t: list[float] = field(default_factory=list)
    sizes: set[int] = field(default_factory=set)

    def cells(self) -> tuple[str, str, str, str]:
        """First T in ms, T/s, bytes a T, different sizes of frames; the middles."""
        first, rate, size = (Figures.of(sample).p50 for sample in (self.first_ms, self.rates, self.bytes_per_t))
        return f"{first:.1f}", f"{rate:.1f}", f"{size:.1f}", f"{len(self.sizes)}"


async def measure_padding(times: int, rate: float, tokens: int) -> dict[str, Way]:
    """``times`` answers of ``tokens`` T, ``rate`` T/s, of each kind."""
    ways = {"plain": Way(), "padded": Way()}
    options = SellerOptions(2, tokens, 1 / rate)
    async with open_seller(options, []) as multiaddr, open_network(NetworkConfig(), os.urandom(32)) as network:
        peer = await network.connect([multiaddr], timeout=10)
        for number in range(times):
            for index, (name, way) in enumerate(ways.items()):
                await _ask(network, peer, options, 2 * number + index, way, padded=name == "padded")
    return ways


async def _ask(network: Network, peer: str, options: SellerOptions, number: int, way: Way, *, padded: bool) -> None:
    key = bench_key(f"padding {number}")
    ticket = make_ticket(make_engine(options).model_id, number, key, tokens=options.answer_tokens, slots=2)
    stream = CountingStream(await network.open_stream(peer, SESSION, timeout=10))
    body = QueryBody((ChatMessage("user", "tell me"),), padded=padded)
    started, first = time.monotonic(), 0.0
    async with open_session(stream, ticket, body, key, TERMS, lambda: time.monotonic_ns() // 1_000_000) as session:
        async for _ in session.pieces():
            first = first or time.monotonic() - started
        took = time.monotonic() - started
    received = [size for size in stream.sizes if size]
    way.first_ms.append(1_000 * first)
    way.rates.append(session.outcome.tokens / took)
    way.bytes_per_t.append(sum(received) / session.outcome.tokens)
    way.sizes |= set(received)
