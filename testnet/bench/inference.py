"""The same engine called directly and through a whole network, by turns on one machine, seen by the same clock."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio

from inference.engine import ChatMessage, Engine, Generation
from node.config import ModelOffer
from node.engines import open_engine
from testnet.ask import gateway_base
from testnet.bench.figures import Figures
from testnet.errors import AnswerRefused, TestnetError
from testnet.evidence import gateway, wait_for_bids
from testnet.files import CACHE, CONTEXT_T, MODEL_NAME, open_folder
from testnet.network import running
from testnet.plan import TestnetOptions, compute_plan
from testnet.progress import Progress

WARM_UP = 2
"""Rounds before the first that counts: the access pass, streams and caches."""

AT_ONCE = (1, 4)
PROMPT = "Tell me a long story about a river and the people who live by it."

THROUGHPUT_PERCENT = 95
TTFT_P50_MS = 60
TTFT_P99_MS = 250
TOKEN_MS = 0.3


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer: its T, s to the first text and to the last."""

    tokens: int
    first_s: float
    last_s: float


@dataclass(slots=True)
class Side:
    """One way to the engine: its answers by how many ran at once, and each round's T/s."""

    samples: dict[int, list[Sample]] = field(default_factory=lambda: {n: [] for n in AT_ONCE})
    rates: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in AT_ONCE})

    def rate(self, at_once: int) -> float:
        """The middle round's T/s."""
        return Figures.of(self.rates[at_once]).p50

    def token_ms(self) -> list[float]:
        """ms a T of each answer that ran alone, its first T aside."""
        alone = [one for one in self.samples[1] if one.tokens > 1]
        return [1_000 * (one.last_s - one.first_s) / (one.tokens - 1) for one in alone]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides; rounds are paired in their order."""

    direct: Side
    network: Side

    def added_ttft_ms(self) -> Figures:
        """What the network adds to the time to first token, pair by pair, one request at a time."""
        pairs = zip(self.direct.samples[1], self.network.samples[1], strict=True)
        return Figures.of([1_000 * (through.first_s - alone.first_s) for alone, through in pairs])

    def added_token_ms(self) -> float:
        """ms that the network adds to each T: the middle of the pairs' differences."""
        pairs = zip(self.direct.token_ms(), self.network.token_ms(), strict=False)
        return Figures.of([through - alone for alone, through in pairs]).p50

    def rows(self) -> list[tuple[str, ...]]:
        """For a table: what, direct, network, compared, target."""
        rows: list[tuple[str, ...]] = []
        for at_once in AT_ONCE:
            direct, network = self.direct.rate(at_once), self.network.rate(at_once)
            compared = f"{100 * network / direct:.1f} %"
            rows.append((f"T/s, {at_once} at once", f"{direct:.1f}", f"{network:.1f}", compared, "≥ 95 %"))
        added = self.added_ttft_ms()
        sides = [Figures.of([1_000 * one.first_s for one in side.samples[1]]) for side in (self.direct, self.network)]
        for name, target in (("p50", TTFT_P50_MS), ("p99", TTFT_P99_MS)):
            told = [f"{getattr(side, name):.1f}" for side in sides]
            rows.append((f"time to first token {name} (ms)", *told, f"+{getattr(added, name):.1f}", f"≤ +{target}"))
        each = [f"{Figures.of(side.token_ms()).p50:.2f}" for side in (self.direct, self.network)]
        rows.append(("ms a T", *each, f"{self.added_token_ms():+.2f}", f"≤ +{TOKEN_MS}"))
        return rows

    def plot(self, path: Path) -> None:
        """A PNG of both sides: times to first token round by round, and T/s. Raises :class:`TestnetError`."""
        try:
            from matplotlib.figure import Figure  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise TestnetError("a plot needs matplotlib: pip install 'yellowstone-router[plot]'") from error
        figure = Figure(figsize=(10, 4), layout="constrained")
        first, rates = figure.subplots(1, 2)
        for name, side in (("direct", self.direct), ("network", self.network)):
            first.plot([1_000 * one.first_s for one in side.samples[1]], marker=".", label=name)
        first.set(xlabel="round, one at once", ylabel="time to first token (ms)", ylim=(0, None))
        first.legend()
        labels = [f"{name},\n{at_once} at once" for at_once in AT_ONCE for name in ("direct", "network")]
        shown = [side.rates[at_once] for at_once in AT_ONCE for side in (self.direct, self.network)]
        rates.boxplot(shown, tick_labels=labels)
        rates.set(ylabel="T/s of all answers of a round", ylim=(0, None))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise TestnetError(f"cannot write {path}: {error}") from error


Ask = Callable[[str, list[Sample]], Awaitable[None]]
"""Ask one prompt and append what came."""


async def measure_inference(options: TestnetOptions, rounds: int, progress: Progress) -> Comparison:
    """``rounds`` of each: one request direct, one through the network, then four at once of each."""
    sides = Comparison(Side(), Side())
    with open_folder(options.directory) as folder:
        async with running(compute_plan(options), folder, progress, trio.Event()) as network:
            await wait_for_bids(network, progress)
            offer = ModelOffer(
                model=MODEL_NAME,
                price_wei=1,
                path=network.genesis.model_path,
                engine=options.engine,
                slots=options.slots,
                context=CONTEXT_T,
                threads=1,
                token_ms=options.token_ms,
            )
            url = gateway_base(gateway(network))
            async with open_engine(offer, CACHE / "bench") as engine:
                with progress.step("rounds") as step:
                    for number in range(-WARM_UP, rounds):
                        step.say(f"{max(0, number)} of {rounds}")
                        for at_once in AT_ONCE:
                            for side, ask in (
                                (sides.direct, _directly(engine, options.max_tokens)),
                                (sides.network, _through(url, options.max_tokens)),
                            ):
                                await _round(side, ask, number, at_once)
    return sides


async def _round(side: Side, ask: Ask, number: int, at_once: int) -> None:
    heard: list[Sample] = []
    started = time.monotonic()
    async with trio.open_nursery() as nursery:
        for which in range(at_once):
            nursery.start_soon(ask, f"{PROMPT} (story {number} {which} {at_once})", heard)
    took = time.monotonic() - started
    if number >= 0:
        side.samples[at_once] += heard
        side.rates[at_once].append(sum(one.tokens for one in heard) / took)


def _directly(engine: Engine, max_tokens: int) -> Ask:
    async def ask(prompt: str, heard: list[Sample]) -> None:
        request = Generation((ChatMessage("user", prompt),), max_tokens)
        tokens, first, last = 0, 0.0, 0.0
        started = time.monotonic()
        async with engine.generate(request) as pieces:
            async for piece in pieces:
                if piece.token_ids:
                    last = time.monotonic() - started
                    first = first or last
                    tokens += len(piece.token_ids)
        heard.append(Sample(tokens, first, last))

    return ask


def _through(url: str, max_tokens: int) -> Ask:
    async def ask(prompt: str, heard: list[Sample]) -> None:
        body = {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        tokens, first, last = 0, 0.0, 0.0
        timeout = httpx.Timeout(90.0)
        async with httpx.AsyncClient(trust_env=False, timeout=timeout, verify=_NO_TLS) as client:
            started = time.monotonic()
            async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise AnswerRefused(response.status_code, (await response.aread())[:200].decode(errors="replace"))
                async for line in response.aiter_lines():
                    event = _event(line)
                    if any((choice.get("delta") or {}).get("content") for choice in event.get("choices", ())):
                        last = time.monotonic() - started
                        first = first or last
                    tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        heard.append(Sample(tokens, first, last))

    return ask


_NO_TLS = httpx.create_ssl_context()
"""Made once: loading the root certificates takes longer than a short answer."""


def _event(line: str) -> dict[str, Any]:
    if not line.startswith("data: {"):
        return {}
    event: dict[str, Any] = msgspec.json.decode(line.removeprefix("data: "))
    if "error" in event:
        raise AnswerRefused(200, str(event["error"])[:200])
    return event
