"""The ExLlamaV2 engine over a real pipe to a scripted worker: everything but computing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import reduce
from importlib.util import find_spec
from pathlib import Path

import pytest
import trio

from inference.engine import ChatMessage, Generation, Piece, Sampling, join_pieces
from inference.errors import (
    EngineCrashed,
    EngineUnavailable,
    NoGpu,
    PackageMissing,
    PromptRefused,
    PromptTooLong,
    RequestRefused,
)
from inference.exllamav2 import engine as exl2
from inference.exllamav2.engine import Exl2Engine
from inference.exllamav2.link import Exl2Options, open_link
from inference.exllamav2.protocol import WorkerConfig
from inference.model_files import DescribedModel
from inference.session.query import QueryBody
from inference.session.stream import Code
from inference.worker_process import keep_running
from tests.inference.market import ProviderSide, make_ticket, talk

IDENTITY = DescribedModel("scripted", "exllamav2", "0.3.2")


def options(tmp_path: Path, model: str = "model", **changes: object) -> Exl2Options:
    worker = WorkerConfig(folder=str(tmp_path / model), slots=2, context=32, cache_tokens=512)
    fields: dict[str, object] = {"module": "tests.inference.scripted_worker", "load_seconds": 20.0, **changes}
    return Exl2Options(worker, tmp_path / "engine.log", **fields)  # type: ignore[arg-type]  # the tests' own


@asynccontextmanager
async def open_engine(settings: Exl2Options) -> AsyncIterator[Exl2Engine]:
    engine = Exl2Engine(settings, IDENTITY, "scripted", "0.3.2")
    async with keep_running(engine.supervision):
        yield engine


def ask(text: str, max_tokens: int = 8, sampling: Sampling | None = None) -> Generation:
    return Generation((ChatMessage("user", text),), max_tokens, sampling or Sampling())


async def answer(engine: Exl2Engine, request: Generation) -> Piece:
    """All pieces as one: those that wait together come joined."""
    with trio.fail_after(30):
        async with engine.generate(request) as pieces:
            return reduce(join_pieces, [piece async for piece in pieces])


def _body(text: str) -> QueryBody:
    return QueryBody((ChatMessage("user", text),))


SAID = Piece("one two", (1, 2), "stop")


async def test_answers_counts_and_refuses(tmp_path: Path) -> None:
    async with open_engine(options(tmp_path)) as engine:
        assert await answer(engine, ask("hello")) == SAID
        assert await engine.count_text("a b c") == 3
        assert (await engine.count_prompt(ask("x y").messages), engine.notes) == (2, "scripted")
        health = await engine.health()
        assert (health.slots, health.busy, health.context) == (2, 0, 32)
        with pytest.raises(PromptTooLong):
            await answer(engine, ask("word " * 32))
        with pytest.raises(PromptRefused) as refused:
            await engine.count_prompt(ask("forge").messages)
        assert refused.value.index == 0
        with pytest.raises(RequestRefused, match="roles must alternate"):
            await engine.count_prompt(ask("refuse").messages)
        with pytest.raises(RequestRefused, match="stop: 17 strings"):
            await answer(engine, ask("hello", sampling=Sampling(stop=("s",) * 17)))
        with pytest.raises(EngineUnavailable, match="cache is too small") as failed:
            await answer(engine, ask("fail"))
        assert not isinstance(failed.value, EngineCrashed)
        assert (await engine.health()).busy == 0
        assert engine.restarts == 0


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("kill", "its process ended"),
        ("hang", "it hung: nothing was heard of it"),
        ("flood", "it said more to request"),
        ("garbage", "it wrote what is no event"),
    ],
)
async def test_a_lost_worker_ends_its_answer_and_the_next_is_served(tmp_path: Path, trouble: str, why: str) -> None:
    async with open_engine(options(tmp_path, hang_seconds=1.0)) as engine:
        lost = engine.worker_pid
        with pytest.raises(EngineCrashed, match=why):
            await answer(engine, ask(trouble))
        with trio.fail_after(30):
            while engine.worker_pid in (None, lost):
                await trio.sleep(0.01)
        assert await answer(engine, ask("hello")) == SAID
        assert engine.restarts == 1


async def test_a_slow_worker_that_shows_life_is_let_be(tmp_path: Path) -> None:
    async with open_engine(options(tmp_path, hang_seconds=0.5)) as engine:
        assert await answer(engine, ask("beat")) == SAID
        await trio.sleep(1.0)  # idle is not hung
        assert await answer(engine, ask("hello")) == SAID
        assert engine.restarts == 0


async def test_a_broken_generator_costs_its_answers_not_the_worker(tmp_path: Path) -> None:
    async with open_engine(options(tmp_path)) as engine:
        with pytest.raises(EngineCrashed, match="kernel"):
            await answer(engine, ask("break"))
        assert await answer(engine, ask("hello")) == SAID
        assert engine.restarts == 0


async def test_leaving_an_answer_cancels_it(tmp_path: Path) -> None:
    async with open_engine(options(tmp_path)) as engine:
        async with engine.generate(ask("endless")) as pieces:
            await anext(pieces)
            assert (await engine.health()).busy == 1
        with trio.move_on_after(0.2) as scope:
            await answer(engine, ask("endless"))
        assert scope.cancelled_caught
        assert (await engine.load()).waiting == 2  # the scripted worker counts cancels there
        assert (await engine.health()).busy == 0


async def test_a_crash_reaches_the_user_by_its_own_code(tmp_path: Path) -> None:
    async with open_engine(options(tmp_path)) as engine, trio.open_nursery() as nursery:
        side = ProviderSide(engine)
        assert (await talk(side.connect(nursery), make_ticket(engine), body=_body("hello")))[1] is None
        ticket = make_ticket(engine, slot=8)
        outcome, code = await talk(side.connect(nursery), ticket, body=_body("break"))
        assert code == Code.ENGINE_CRASHED
        assert outcome.tokens <= 1
        _, code = await talk(side.connect(nursery), make_ticket(engine, slot=9), body=_body("refuse"))
        assert code == Code.BAD_QUERY
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("model", "error", "why"),
    [
        ("no_gpu", NoGpu, "there is none here"),
        ("mumble", EngineUnavailable, r"said b'hello\?' while loading"),
        ("dies", EngineUnavailable, "could not load .*dies; see .*engine.log"),
        ("stalls", EngineUnavailable, "took longer than 1 s"),
    ],
)
async def test_a_worker_that_does_not_start_says_why(
    tmp_path: Path, model: str, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        async with open_engine(options(tmp_path, model, load_seconds=1.0 if model == "stalls" else 20.0)):
            pass


async def test_loading_is_told_in_steps(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    async with open_link(options(tmp_path), lambda done, total: seen.append((done, total))):
        pass
    assert seen == [(step, 20) for step in range(21)]


@pytest.mark.skipif(find_spec("exllamav2") is not None, reason="exllamav2 is installed here")
async def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(PackageMissing, match=r"pip install 'yellowstone-router\[exl2\]'"):
        async with exl2.open_exllamav2(tmp_path, slots=1, context=256, log_path=tmp_path / "log"):
            pass
    with pytest.raises(PackageMissing, match="'exllamav2' is not installed"):
        async with open_engine(options(tmp_path, module="inference.exllamav2.worker")):
            pass
