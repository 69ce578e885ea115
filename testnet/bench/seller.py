"""A provider's session path in a process of its own: ``python -m testnet.bench.seller``.

Real streams, the real session server and a real store on disk, over the synthetic engine; no chain and no gossip. One
line of JSON comes in (:class:`SellerOptions`), the multiaddr goes out; the end of standard input ends it, and the CPU
seconds that it used are its last line.
"""

import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from contracts.typed_data import Digest
from gossip.messages.base import Signed
from gossip.messages.market import Ticket
from gossip.messages.session import Cosigned, Voucher
from gossip.network import NetworkConfig, open_network
from gossip.topics import SESSION
from inference.engine import Generation, Piece, join_pieces
from inference.exllamav2.engine import JOINED_T
from inference.session.pace import FRAMES_PER_S, FramePace
from inference.session.provider import SessionServer
from inference.synthetic import SyntheticEngine
from node.store import Store, open_store
from testnet.bench.market import PROVIDER, TERMS


class SellerOptions(msgspec.Struct, frozen=True):
    """How the provider answers: ``answer_tokens`` T, one every ``interval_s``, to ``slots`` users at once."""

    slots: int
    answer_tokens: int
    interval_s: float
    core: int | None = None
    """The only core that it may use."""
    frames_per_s: float = FRAMES_PER_S
    """Frames that it sends in a second, of all answers."""
    steps: bool = False
    """Whether all answers get their T at the same time."""


class SteppingEngine(SyntheticEngine):
    """Gives every answer its next T in one step, as an engine does that computes all of them as a batch.

    A timer for each T of each answer would cost more than what is measured.
    """

    def __init__(self, options: SellerOptions) -> None:
        super().__init__(answer_tokens=options.answer_tokens, interval_s=options.interval_s, slots=options.slots)
        self._tokens = options.answer_tokens
        self._answers: dict[trio.MemorySendChannel[Piece], tuple[int, int]] = {}
        """T said and T wanted."""
        self.used_s = 0.0
        """CPU that the steps took, which is no part of what selling costs."""

    async def run(self) -> None:
        """Compute for ever."""
        due = trio.current_time()
        while True:
            due += self.interval_s
            await trio.sleep_until(due)
            began = time.thread_time()
            for answer, (said, wanted) in list(self._answers.items()):
                is_last = said + 1 == wanted
                answer.send_nowait(Piece(f"t{said} ", (said,), "length" if is_last else None))
                self._answers[answer] = said + 1, wanted
                if is_last:
                    del self._answers[answer]
            self.used_s += time.thread_time() - began

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:
        """As any engine."""
        tokens = min(self._tokens, request.max_tokens)
        into, out = trio.open_memory_channel[Piece](tokens)
        self._answers[into] = 0, tokens
        try:
            yield _Steps(out)
        finally:
            self._answers.pop(into, None)


class _Steps:
    """What has been computed, all at once where that is several T, as the ExLlamaV2 engine gives it."""

    def __init__(self, pieces: trio.MemoryReceiveChannel[Piece]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> "_Steps":
        return self

    async def __anext__(self) -> Piece:
        piece = await self._pieces.receive()
        try:
            while piece.finish is None and len(piece.token_ids) < JOINED_T:
                piece = join_pieces(piece, self._pieces.receive_nowait())
        except trio.WouldBlock:
            return piece
        return piece


def make_engine(options: SellerOptions) -> SyntheticEngine:
    """What is sold."""
    if options.steps:
        return SteppingEngine(options)
    return SyntheticEngine(answer_tokens=options.answer_tokens, interval_s=options.interval_s, slots=options.slots)


async def sell(options: SellerOptions) -> None:
    """Serve until standard input ends."""
    engine = make_engine(options)
    with tempfile.TemporaryDirectory(prefix="yellowstone-bench-") as folder:
        async with (
            open_store(Path(folder) / "seller.sqlite") as store,
            open_network(NetworkConfig(), os.urandom(32)) as network,
            trio.open_nursery() as nursery,
        ):
            if isinstance(engine, SteppingEngine):
                nursery.start_soon(engine.run)
            server = _server(engine, store, FramePace(options.frames_per_s))
            network.serve(SESSION, server.serve, max_concurrent=options.slots + 8)
            sys.stdout.write(network.multiaddrs[0] + "\n")
            sys.stdout.flush()
            started = time.process_time()
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
                while await stdin.receive_some(4_096):
                    pass
            engine_s = engine.used_s if isinstance(engine, SteppingEngine) else 0.0
            sys.stdout.write(f"{time.process_time() - started - engine_s:.3f}\n")
            nursery.cancel_scope.cancel()


def _server(engine: SyntheticEngine, store: Store, pace: FramePace) -> SessionServer:
    domain = TERMS.domain

    async def accept(ticket: Signed[Ticket]) -> None:
        await store.accept_ticket(ticket.id(domain), ticket)

    async def keep_voucher(ticket: Signed[Ticket], voucher: Signed[Voucher]) -> None:
        await store.put_voucher(ticket.id(domain), voucher)

    async def keep_receipt(ticket: Signed[Ticket], receipt: Cosigned) -> None:
        await store.put_receipt(ticket.id(domain), receipt)

    def engine_for(model_id: Digest) -> SyntheticEngine | None:
        return engine if model_id == engine.model_id else None

    return SessionServer(
        engine_for,
        PROVIDER,
        TERMS,
        on_voucher=keep_voucher,
        on_receipt=keep_receipt,
        now_ms=lambda: time.time_ns() // 1_000_000,
        accept_ticket=accept,
        pace=pace,
    )


def main() -> None:
    """Read the options, then sell."""
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0) as stdin:  # the rest is for the waiting task
        options = msgspec.json.decode(stdin.readline(), type=SellerOptions)
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    trio.run(sell, options)


if __name__ == "__main__":
    main()
