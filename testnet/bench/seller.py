"""A provider's session path in a process of its own: ``python -m testnet.bench.seller``.

Real streams, the real session server and a real store on disk, over the synthetic engine; no chain and no gossip. One
line of JSON comes in (:class:`SellerOptions`), the multiaddr goes out; the end of standard input ends it, and the CPU
seconds that it used are its last line.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import trio

from contracts.typed_data import Digest
from gossip.messages.base import Signed
from gossip.messages.market import Ticket
from gossip.messages.session import Cosigned, Voucher
from gossip.network import NetworkConfig, open_network
from gossip.topics import SESSION
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


def make_engine(options: SellerOptions) -> SyntheticEngine:
    """What is sold."""
    return SyntheticEngine(answer_tokens=options.answer_tokens, interval_s=options.interval_s, slots=options.slots)


async def sell(options: SellerOptions) -> None:
    """Serve until standard input ends."""
    engine = make_engine(options)
    with tempfile.TemporaryDirectory(prefix="yellowstone-bench-") as folder:
        async with (
            open_store(Path(folder) / "seller.sqlite") as store,
            open_network(NetworkConfig(), os.urandom(32)) as network,
        ):
            server = _server(engine, store)
            network.serve(SESSION, server.serve, max_concurrent=options.slots + 8)
            sys.stdout.write(network.multiaddrs[0] + "\n")
            sys.stdout.flush()
            started = time.process_time()
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
                while await stdin.receive_some(4_096):
                    pass
            sys.stdout.write(f"{time.process_time() - started:.3f}\n")


def _server(engine: SyntheticEngine, store: Store) -> SessionServer:
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
