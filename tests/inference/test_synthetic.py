"""The synthetic engine keeps the engine protocol's promises."""

import pytest
import trio
import trio.testing

from inference.engine import ChatMessage, Engine, Generation
from inference.errors import EngineError, PromptTooLong
from inference.synthetic import SyntheticEngine

ASK = (ChatMessage("user", "one two three"),)


async def collect(engine: Engine, max_tokens: int = 100) -> tuple[str, tuple[int, ...], str | None]:
    text, ids, finish = "", tuple[int, ...](), None
    async with engine.generate(Generation(ASK, max_tokens)) as pieces:
        async for piece in pieces:
            text, ids, finish = text + piece.text, ids + piece.token_ids, piece.finish
    return text, ids, finish


async def test_counts_what_it_says() -> None:
    engine = SyntheticEngine(answer_tokens=5)
    text, ids, finish = await collect(engine)
    assert (text, ids, finish) == ("t0 t1 t2 t3 t4 ", (0, 1, 2, 3, 4), "stop")
    assert await engine.count_text(text) == 5
    assert await engine.count_prompt(ASK) == 7
    assert "no model" in engine.family


async def test_stops_at_the_limit_and_at_the_context() -> None:
    assert (await collect(SyntheticEngine(answer_tokens=5), 3))[1:] == ((0, 1, 2), "length")
    assert (await collect(SyntheticEngine(answer_tokens=5, context=9)))[1:] == ((0, 1), "length")
    with pytest.raises(PromptTooLong):
        await collect(SyntheticEngine(context=7))


async def test_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    await collect(SyntheticEngine(answer_tokens=10, interval_s=0.5))
    assert trio.current_time() - began == pytest.approx(5.0)


async def test_fails_on_cue_and_frees_its_slot() -> None:
    engine = SyntheticEngine(fail_after=2)
    with pytest.raises(EngineError, match="after 2 T"):
        await collect(engine)
    assert (await engine.health()).busy == 0
