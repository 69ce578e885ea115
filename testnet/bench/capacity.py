"""How many streams at once one provider process sustains on one core, with vouchers, receipts and a store on disk."""

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec
import trio

from gossip.network import Network, NetworkConfig, open_network
from gossip.topics import SESSION
from inference.engine import ChatMessage
from inference.session.client import open_session
from inference.session.pace import FRAMES_PER_S
from inference.session.query import QueryBody
from testnet.bench.figures import Figures
from testnet.bench.market import TERMS, bench_key, make_ticket
from testnet.bench.seller import SellerOptions, make_engine
from testnet.errors import TestnetError
from testnet.processes import ROOT

START_S = 60.0
UNPACED = 1e9
"""Frames a second that no process comes to: every T goes at once."""
HOST_STREAMS = 200
"""Streams of one user's host at most: a connection has 256."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What ``streams`` at once got: T/s of each, the gaps between pieces in ms, and the share of a core it took."""

    streams: int
    asked_rate: float
    rates: Figures
    slowest: float
    """T/s of the slowest stream."""
    gaps_ms: Figures
    core_percent: float
    cpu_us: float
    """µs of the provider's CPU for each T: this tells on a busy machine too, where T/s does not."""
    user_us: float
    """The same of the process with all users."""
    tokens_a_piece: float

    def rows(self) -> list[tuple[str, ...]]:
        """For a table: what, measured, target."""
        return [
            (f"streams at {self.asked_rate:g} T/s", f"{self.streams}", "64"),
            ("T/s of the middle stream", f"{self.rates.p50:.1f}", f"{self.asked_rate:g}"),
            ("T/s of the slowest stream", f"{self.slowest:.1f}", f"{self.asked_rate:g}"),
            ("gap between pieces p50 (ms)", f"{self.gaps_ms.p50:.1f}", ""),
            ("gap between pieces p99 (ms)", f"{self.gaps_ms.p99:.1f}", ""),
            ("provider's share of a core", f"{self.core_percent:.0f} %", "100 %"),
            ("provider's CPU a T (µs)", f"{self.cpu_us:.0f}", f"{1_000_000 / self.streams / self.asked_rate:.0f}"),
        ]

    def cells(self) -> tuple[str, str, str, str, str]:
        """Streams, T/s of the middle one, T in a piece on average, and µs of CPU a T of the provider and its users."""
        each = (f"{self.rates.p50:.1f}", f"{self.tokens_a_piece:.1f}", f"{self.cpu_us:.0f}", f"{self.user_us:.0f}")
        return f"{self.streams}", *each


async def measure_together(streams: int, rate: float, seconds: float, frames_per_s: float) -> Capacity:
    """:func:`measure_capacity` of an engine that computes all answers as a batch, so that its timers count little."""
    return await measure_capacity(streams, rate, seconds, frames_per_s, steps=True)


@dataclass(slots=True)
class _Heard:
    tokens: int
    seconds: float
    gaps_ms: list[float]


async def measure_capacity(
    streams: int, rate: float, seconds: float, frames_per_s: float = FRAMES_PER_S, *, steps: bool = False
) -> Capacity:
    """``streams`` sessions at once, each of a provider that gives ``rate`` T/s, for about ``seconds``."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[0] if len(cores) > 1 else None
    options = SellerOptions(streams, max(2, round(rate * seconds)), 1 / rate, core, frames_per_s, steps)
    heard: list[_Heard] = []
    cpu: list[float] = []
    async with open_seller(options, cpu) as multiaddr, AsyncExitStack() as hosts:
        if len(cores) > 1:
            os.sched_setaffinity(0, set(cores[1:]))
        try:
            users = [
                await hosts.enter_async_context(open_network(NetworkConfig(), os.urandom(32)))
                for _ in range(-(-streams // HOST_STREAMS))
            ]
            peers = [await user.connect([multiaddr], timeout=10) for user in users]
            started, used = time.monotonic(), time.process_time()
            async with trio.open_nursery() as nursery:
                for number in range(streams):
                    host = number % len(users)
                    nursery.start_soon(_listen, users[host], peers[host], options, number, heard)
            took, used = time.monotonic() - started, time.process_time() - used
        finally:
            os.sched_setaffinity(0, set(cores))
    if len(heard) != streams or any(one.tokens != options.answer_tokens for one in heard):
        raise TestnetError(f"{len(heard)} of {streams} streams were answered, not all in full")
    rates = [one.tokens / one.seconds for one in heard]
    gaps = [gap for one in heard for gap in one.gaps_ms]
    cpu_us, user_us = (1_000_000 * seconds_ / sum(one.tokens for one in heard) for seconds_ in (cpu[0], used))
    share, each = 100 * cpu[0] / took, streams * options.answer_tokens / (len(gaps) + streams)
    return Capacity(streams, rate, Figures.of(rates), min(rates), Figures.of(gaps), share, cpu_us, user_us, each)


async def _listen(network: Network, peer: str, options: SellerOptions, number: int, heard: list[_Heard]) -> None:
    key = bench_key(f"session {number}")
    model_id = make_engine(options).model_id
    ticket = make_ticket(model_id, number, key, tokens=options.answer_tokens, slots=options.slots)
    stream = await network.open_stream(peer, SESSION, timeout=10)
    body = QueryBody((ChatMessage("user", "tell me"),))
    gaps: list[float] = []
    async with open_session(stream, ticket, body, key, TERMS, lambda: time.monotonic_ns() // 1_000_000) as session:
        first = last = 0.0
        async for _ in session.pieces():
            now = time.monotonic()
            if first:
                gaps.append((now - last) * 1_000)
            first, last = first or now, now
    interval = options.interval_s  # the first T is there when the clock starts
    heard.append(_Heard(session.outcome.tokens, last - first + interval, gaps))


@asynccontextmanager
async def open_seller(options: SellerOptions, cpu: list[float]) -> AsyncIterator[str]:
    """The provider's address; once it has ended, the CPU seconds that it used are in ``cpu``."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "testnet.bench.seller"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    if process.stdin is None or process.stdout is None:
        raise TestnetError("the provider's process has no pipes")
    try:
        await process.stdin.send_all(msgspec.json.encode(options) + b"\n")
        said = b""
        with trio.fail_after(START_S):
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some(4_096) or _died()
        yield said.decode().strip()
        await process.stdin.aclose()
        said = b""
        with trio.fail_after(START_S):
            while data := await process.stdout.receive_some(4_096):
                said += data
        cpu.append(float(said))
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


def _died() -> bytes:
    raise TestnetError("the provider's process ended before it was ready")
