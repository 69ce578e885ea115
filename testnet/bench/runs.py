"""The measurements: each starts a network of its own and leaves nothing behind."""

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio

from inference.engine import ChatMessage, Generation
from node.config import ModelOffer
from node.engines import open_engine
from testnet.ask import Answer, ask
from testnet.bench.figures import Figures
from testnet.bench.memory import Resident, read_groups
from testnet.errors import AnswerRefused, TestnetError
from testnet.evidence import find_session, gateway, wait_for_bids
from testnet.files import CACHE, MODEL_NAME, open_folder
from testnet.network import Network, running
from testnet.plan import TestnetOptions, compute_plan
from testnet.progress import Progress

PRESSED_SLOTS = 256
"""Slots of each provider where queries come at a rate: it is not engines that are measured."""

WARM_UP = 3
"""Queries before the first that counts: the access pass, streams and caches."""


async def measure_match(options: TestnetOptions, queries: int, progress: Progress) -> dict[str, Figures]:
    """Sequential queries with engines that answer at once: ms from request to match, and to the open stream."""
    matched: list[float] = []
    opened: list[float] = []
    options = msgspec.structs.replace(options, engine="synthetic")
    with open_folder(options.directory) as folder:
        async with running(compute_plan(options), folder, progress, trio.Event()) as network:
            await wait_for_bids(network, progress)
            for i in range(WARM_UP + queries):
                answer = await _ask(network, options, f"query {i}")
                session = await find_session(network, answer.rfc_id)
                if session.match_ms is None or session.stream_open_ms is None:
                    raise TestnetError(f"session {answer.rfc_id} has no times")
                if i >= WARM_UP:
                    matched.append(session.match_ms)
                    opened.append(session.stream_open_ms)
    return {"RFC to match (ms)": Figures.of(matched), "RFC to open stream (ms)": Figures.of(opened)}


async def measure_pressed(options: TestnetOptions, queries: int, rate: float, progress: Progress) -> dict[str, Figures]:
    """As :func:`measure_match`, with ``rate`` queries a second whether or not those before have their answers.

    Raises :class:`~testnet.errors.TestnetError` where one of them gets none.
    """
    options = msgspec.structs.replace(options, engine="synthetic", slots=PRESSED_SLOTS)
    with open_folder(options.directory) as folder:
        async with running(compute_plan(options), folder, progress, trio.Event()) as network:
            await wait_for_bids(network, progress)
            for i in range(WARM_UP):
                await _ask(network, options, f"warm-up {i}")
            with progress.step(f"{queries} queries, {rate:g} a second"):
                began = trio.current_time()
                answers = await press(queries, rate, lambda i: _ask(network, options, f"query {i}"))
                took = trio.current_time() - began
            sessions = [await find_session(network, answer.rfc_id) for answer in answers]
    return {
        "RFC to match (ms)": Figures.of([one.match_ms or 0 for one in sessions]),
        "RFC to open stream (ms)": Figures.of([one.stream_open_ms or 0 for one in sessions]),
        "request to end of answer, at the client (ms)": Figures.of([answer.total_ms for answer in answers]),
        "answers a second": Figures.of([queries / took]),
    }


async def press(queries: int, rate: float, one: Callable[[int], Awaitable[Answer]]) -> list[Answer]:
    """Ask ``one`` query after the other by its number, ``rate`` a second, whether or not those before have answers.

    Ends once all have. Raises :class:`~testnet.errors.TestnetError` where one of them gets none.
    """
    answers: list[Answer] = []
    lost: list[str] = []

    async def note(number: int) -> None:
        try:
            answers.append(await one(number))
        except AnswerRefused as error:
            lost.append(str(error))

    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        for number in range(queries):
            await trio.sleep_until(began + number / rate)
            nursery.start_soon(note, number)
    if lost:
        raise TestnetError(f"{len(lost)} of {queries} queries were lost, the first: {lost[0]}")
    return answers


async def measure_ttft(options: TestnetOptions, queries: int, progress: Progress) -> dict[str, Figures]:
    """Time to first token through the network and from the engine alone, in interleaved pairs, in ms.

    Both serve the same model with the same settings; the engine that is called directly runs beside the network's.
    """
    direct: list[float] = []
    routed: list[float] = []
    with open_folder(options.directory) as folder:
        async with running(compute_plan(options), folder, progress, trio.Event()) as network:
            await wait_for_bids(network, progress)
            offer = ModelOffer(
                model=MODEL_NAME, price_wei=1, path=network.genesis.model_path, engine=options.engine, threads=1
            )
            async with open_engine(offer, CACHE / "bench") as engine:
                for i in range(WARM_UP + queries):
                    prompt = f"{options.prompt} (question {i})"
                    request = Generation((ChatMessage("user", prompt),), options.max_tokens)
                    started = time.monotonic()
                    async with engine.generate(request) as pieces:
                        async for _ in pieces:
                            alone = time.monotonic() - started
                            break
                    answer = await _ask(network, options, prompt)
                    if i >= WARM_UP:
                        direct.append(alone * 1_000)
                        routed.append(answer.first_ms)
    added = [through - alone for through, alone in zip(routed, direct, strict=True)]
    return {
        "engine alone (ms)": Figures.of(direct),
        "through the network (ms)": Figures.of(routed),
        "added (ms)": Figures.of(added),
    }


async def measure_memory(options: TestnetOptions, queries: int, progress: Progress) -> dict[str, list[Resident]]:
    """Resident memory of every process of a network that has answered ``queries`` queries, by node."""
    with open_folder(options.directory) as folder:
        async with running(compute_plan(options), folder, progress, trio.Event()) as network:
            await wait_for_bids(network, progress)
            for i in range(queries):
                await _ask(network, options, f"{options.prompt} (question {i})")
            groups = {node.process.pid: node.name for node in network.nodes}
            found = await trio.to_thread.run_sync(read_groups, set(groups))
    return {name: found[group] for group, name in groups.items()}


async def _ask(network: Network, options: TestnetOptions, prompt: str) -> Answer:
    return await ask(gateway(network), MODEL_NAME, prompt, max_tokens=options.max_tokens, on_text=_ignore)


def _ignore(_: str) -> None:
    """A benchmark reads no answers."""


def rows(figures: dict[str, Figures]) -> Sequence[tuple[str, ...]]:
    """Figures as table rows: name, n, p50, p90, p99, worst."""
    return [
        (name, str(f.count), *(f"{value:.1f}" for value in (f.p50, f.p90, f.p99, f.worst)))
        for name, f in figures.items()
    ]
