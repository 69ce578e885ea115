"""The ExLlamaV2 engine whole, on a GPU: nothing is replaced. `make test-gpu` runs this where there is one."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from inference.engine import Generation
from inference.errors import EngineCrashed, TooLittleMemory

if not os.environ.get("YELLOWSTONE_GPU"):
    pytest.skip("no GPU was asked for: `make test-gpu` runs this where there is one", allow_module_level=True)

from inference.exllamav2.engine import Exl2Engine, open_exllamav2
from tests.exl2 import questions
from tests.exl2.questions import CONTEXT, FRANCE, STORY, answer, exhaust


@pytest.fixture(scope="module")
def model() -> tuple[Path, bool]:
    """The folder to serve, and whether it is the default model; EXL2_MODEL names another."""
    named = os.environ.get("EXL2_MODEL")
    if named:
        return Path(named), False
    from tests.exl2.gguf_folder import make_folder

    return make_folder(), True


@asynccontextmanager
async def open_engine(folder: Path, log_path: Path, **changes: Any) -> AsyncIterator[Exl2Engine]:
    try:
        async with open_exllamav2(folder, log_path=log_path, **{"slots": 3, "context": CONTEXT, **changes}) as engine:
            print(engine.notes)
            yield engine
    finally:
        print(log_path.read_text() if log_path.exists() else "no engine log")


async def test_answers_stops_refuses_batches_and_reuses(model: tuple[Path, bool], log_path: Path) -> None:
    folder, is_default = model
    async with open_engine(folder, log_path) as engine:
        if is_default:
            await questions.check_answers(engine)
            await questions.check_stops_and_characters(engine)
        await questions.check_refusals(engine)
        await questions.check_batch(engine)
        if (await engine.health()).slots > 1:
            await questions.check_reuse(engine)


@pytest.mark.parametrize("mode", ["q8", "q6", "q4"])
async def test_every_kind_of_cache_answers(model: tuple[Path, bool], log_path: Path, mode: str) -> None:
    async with open_engine(model[0], log_path, cache_mode=mode) as engine:
        said = await answer(engine, Generation(FRANCE, 24))
        assert said.token_ids
        assert len(said.text) > 4


async def test_a_split_by_hand_answers(model: tuple[Path, bool], log_path: Path) -> None:
    async with open_engine(model[0], log_path, gpu_split=(16.0,)) as engine:
        assert (await answer(engine, Generation(FRANCE, 8))).token_ids


async def test_a_killed_worker_comes_back_with_its_memory_free(model: tuple[Path, bool], log_path: Path) -> None:
    async with open_engine(model[0], log_path) as engine:
        before = await answer(engine, Generation(FRANCE, 8))
        pid = engine.worker_pid
        assert pid is not None
        async with engine.generate(Generation(STORY, 400)) as pieces:
            await anext(pieces)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(EngineCrashed):
                await exhaust(pieces)
        with trio.fail_after(300):
            while engine.worker_pid in (None, pid):
                await trio.sleep(0.05)
        assert await answer(engine, Generation(FRANCE, 8)) == before


async def test_too_little_memory_is_told(model: tuple[Path, bool], log_path: Path) -> None:
    with pytest.raises(TooLittleMemory, match="too little memory"):
        async with open_engine(model[0], log_path, cache_tokens=1 << 28):
            pass
