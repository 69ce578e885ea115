"""How soon a real engine's slot is free once a user has left its session, over a real stream on this machine."""

import os
import time
from functools import partial

import trio

from contracts.typed_data import Digest
from gossip.messages.base import Signed
from gossip.messages.market import Ticket
from gossip.network import Network, NetworkConfig, open_network
from gossip.topics import SESSION
from inference.engine import ChatMessage
from inference.llamacpp.engine import LlamaCppEngine, open_llamacpp
from inference.model_store import open_cache, pull
from inference.session.client import open_session
from inference.session.provider import SessionServer
from inference.session.query import QueryBody
from testnet.bench.figures import Figures
from testnet.bench.market import PROVIDER, TERMS, bench_key, make_ticket
from testnet.files import CACHE
from testnet.progress import Progress

DECODED_T = 8
"""T after which a user leaves an answer."""

PREFILLED_S = 0.3
"""How long a long prompt has been read when its user leaves."""

IDLE_S = 30.0
_STORY = QueryBody((ChatMessage("user", "Tell me a long story about a river."),), max_tokens=400)


async def measure_cancel(times: int, progress: Progress) -> dict[str, Figures]:
    """ms from leaving a session to a free slot, while decoding and while the prompt is read."""
    store = CACHE / "models"
    path = await pull(store, progress.note)
    decoding: list[float] = []
    reading: list[float] = []
    async with (
        open_llamacpp(
            path, slots=2, context=1_024, threads=1, log_path=CACHE / "bench-engine.log", hash_cache=open_cache(store)
        ) as engine,
        open_network(NetworkConfig(), os.urandom(32)) as seller,
        open_network(NetworkConfig(), os.urandom(32)) as user,
    ):
        seller.serve(SESSION, _server(engine).serve, max_concurrent=8)
        peer = await user.connect(seller.multiaddrs, timeout=10)
        leave = partial(_leave, user, peer, engine)
        with progress.step("cancelling") as step:
            for number in range(times):
                step.say(f"{number} of {times}")
                decoding.append(await leave(_STORY, 2 * number, after_tokens=DECODED_T))
                reading.append(await leave(_long(number), 2 * number + 1, after_s=PREFILLED_S))
    return {"decoding (ms, target 200)": Figures.of(decoding), "prefilling (ms, target 2000)": Figures.of(reading)}


def _long(number: int) -> QueryBody:
    """A long prompt that begins like no other: what an engine has read once it does not read again."""
    return QueryBody(
        (ChatMessage("user", f"Story {number * 7_919}. " + "So it went on and on. " * 140),), max_tokens=64
    )


async def _leave(
    user: Network,
    peer: str,
    engine: LlamaCppEngine,
    body: QueryBody,
    number: int,
    *,
    after_tokens: int = 0,
    after_s: float = 60.0,
) -> float:
    """Ask, leave, and the ms until the worker computes nothing any more."""
    key = bench_key(f"leaver {number}")
    ticket = make_ticket(engine.model_id, number, key, tokens=400, slots=2)
    stream = await user.open_stream(peer, SESSION, timeout=10)
    with trio.move_on_after(60):
        async with open_session(stream, ticket, body, key, TERMS, lambda: time.monotonic_ns() // 1_000_000) as session:
            with trio.move_on_after(after_s):
                async for _ in session.pieces():
                    if after_tokens and session.outcome.tokens >= after_tokens:
                        break
            left = time.monotonic()
    with trio.fail_after(IDLE_S):
        while await engine.busy_slots():
            await trio.sleep(0.002)
    return (time.monotonic() - left) * 1_000


def _server(engine: LlamaCppEngine) -> SessionServer:
    async def keep(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    async def accept(_: Signed[Ticket]) -> None:
        await trio.lowlevel.checkpoint()

    def engine_for(model_id: Digest) -> LlamaCppEngine | None:
        return engine if model_id == engine.model_id else None

    return SessionServer(
        engine_for,
        PROVIDER,
        TERMS,
        on_voucher=keep,
        on_receipt=keep,
        now_ms=lambda: time.time_ns() // 1_000_000,
        accept_ticket=accept,
    )
