"""The real package's config, tokenizer, caches, jobs, sampler and generator, driven through our engine on a CPU.

`make test-exl2` sets up what this needs. What stands in for CUDA is in this folder and named in inference/README.md.
"""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio

from inference.engine import Generation
from inference.errors import EngineCrashed, ModelUnusable, TooLittleMemory, WrongBuild

if not all(find_spec(name) for name in ("exllamav2", "torch", "gguf")):
    pytest.skip("exllamav2 is not installed here: `make test-exl2` runs this", allow_module_level=True)

from inference.exllamav2.engine import Exl2Engine, open_exllamav2
from tests.exl2 import questions
from tests.exl2.cpu_worker import HANG, KILL, RAISE
from tests.exl2.questions import CONTEXT, FRANCE, STORY, answer, ask, exhaust, wait_until_idle
from tests.inference.market import ProviderSide, make_ticket, talk

pytestmark = pytest.mark.skipif(bool(os.environ.get("YELLOWSTONE_GPU")), reason="this is the CPU's part")


@asynccontextmanager
async def open_engine(folder: Path, log_path: Path, **changes: Any) -> AsyncIterator[Exl2Engine]:
    options: dict[str, Any] = {"slots": 3, "context": CONTEXT, "module": "tests.exl2.cpu_worker", **changes}
    try:
        async with open_exllamav2(folder, log_path=log_path, name="smollm2", **options) as engine:
            yield engine
    finally:
        print(log_path.read_text() if log_path.exists() else "no engine log")


async def test_answers_stops_refuses_batches_and_reuses(folder: Path, log_path: Path) -> None:
    async with open_engine(folder, log_path) as engine:
        assert "tokens/s" in engine.notes
        assert "exllamav2 0.3.2, paged" in engine.notes
        assert (await engine.health()).slots == 3
        assert engine.family == "exllamav2/0.3.2"
        await questions.check_answers(engine)
        await questions.check_stops_and_characters(engine)
        await questions.check_refusals(engine)
        await questions.check_batch(engine)
        await questions.check_reuse(engine)
        await _check_session(engine)
        pid = engine.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # one that does not listen is killed in the end
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def _check_session(engine: Exl2Engine) -> None:
    """A whole session of the market over the engine: T by token ids, receipt and all."""
    async with trio.open_nursery() as nursery:
        side = ProviderSide(engine)
        outcome, code = await talk(side.connect(nursery), make_ticket(engine))
        assert code is None
        assert outcome.text.startswith("The capital of France is Paris")
        assert outcome.tokens == await engine.count_text(outcome.text) == side.receipts[0].receipt.tokens
        assert outcome.prompt_tokens == questions.FRANCE_PROMPT_TOKENS
        nursery.cancel_scope.cancel()


async def test_a_broken_worker_costs_its_sessions_and_the_next_is_served(folder: Path, log_path: Path) -> None:
    async with open_engine(folder, log_path, cache_mode="q8", hang_seconds=15.0) as engine:
        before = await answer(engine, Generation(FRANCE, 8))
        first = engine.worker_pid
        # the generator breaks: its answers are lost, the process and its weights are not
        with pytest.raises(EngineCrashed, match="out of memory"):
            await answer(engine, Generation(ask(f"Say {RAISE} please."), 8))
        assert await answer(engine, Generation(FRANCE, 8)) == before
        assert (engine.worker_pid, engine.restarts) == (first, 0)
        # the process dies, with an innocent answer in the same batch
        async with engine.generate(Generation(STORY, 400)) as pieces:
            await anext(pieces)
            with pytest.raises(EngineCrashed, match="process ended"):
                await answer(engine, Generation(ask(f"Say {KILL} please."), 8))
            with pytest.raises(EngineCrashed):
                await exhaust(pieces)
        await _restarted(engine, first)
        assert await answer(engine, Generation(FRANCE, 8)) == before
        # it hangs: nothing is heard of it for hang_seconds
        second = engine.worker_pid
        with pytest.raises(EngineCrashed, match="hung"):
            await answer(engine, Generation(ask(f"Say {HANG} please."), 8))
        await _restarted(engine, second)
        assert await answer(engine, Generation(FRANCE, 8)) == before
        assert engine.restarts == 2


async def _restarted(engine: Exl2Engine, old: int | None) -> None:
    with trio.fail_after(120):
        while engine.worker_pid in (None, old):
            await trio.sleep(0.02)


async def test_without_paged_attention_answers_take_turns(
    folder: Path, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YELLOWSTONE_TEST_UNPAGED", "1")
    async with open_engine(folder, log_path, cache_mode="q4") as engine:
        assert "not paged" in engine.notes
        assert (await engine.health()).slots == 1
        alone = await answer(engine, Generation(FRANCE, 8))
        assert "capital of France" in alone.text
        answers = []

        async def take() -> None:
            answers.append(await answer(engine, Generation(FRANCE, 8)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            nursery.start_soon(take)
        assert answers == [alone, alone]
        async with engine.generate(Generation(ask("so " * 100), 50)):
            pass
        await wait_until_idle(engine)


async def test_what_cannot_start_says_why(folder: Path, log_path: Path) -> None:
    with pytest.raises(WrongBuild, match=r"PyTorch .* is built without CUDA; install a CUDA build"):
        async with open_exllamav2(folder, slots=1, context=256, log_path=log_path):
            pass
    with pytest.raises(TooLittleMemory, match=r"the model needs [0-9.]+ GiB .* and there is too little memory"):
        async with open_engine(folder, log_path, cache_tokens=1 << 20):
            pass
    with pytest.raises(ModelUnusable, match="was made for 8192 T"):
        async with open_engine(folder, log_path, context=8448):
            pass


def test_the_extract_of_signatures_is_of_this_package() -> None:
    from tests.exl2 import signatures

    found = signatures.render(signatures.installed())
    assert found == signatures.EXTRACT.read_text(), "python -m tests.exl2.signatures --write makes it anew"
