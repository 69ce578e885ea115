"""Engines that are away or die of a prompt, and what the client of a user's node sees of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from consensus.market.speed import STEP_T
from inference.engine import Generation, Piece
from inference.errors import EngineBusy, EngineCrashed, EngineError, EngineUnavailable
from inference.synthetic import SyntheticEngine
from node.api.backend import BackendError
from tests.node.roles.fakes import MODEL, WEI
from tests.node.roles.harness import PRICE, ask, chat, open_lab, until


class FailingEngine(SyntheticEngine):
    """Fails with each of ``failures`` in turn, before a T or, where ``after`` is set, within the answer."""

    def __init__(self, *failures: EngineError, after: int = 0) -> None:
        super().__init__(MODEL, slots=4)
        self.failures = list(failures)
        self.asked = 0
        self._after = after

    @asynccontextmanager
    async def generate(self, request: Generation) -> AsyncIterator[AsyncIterator[Piece]]:
        self.asked += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None and not self._after:
            raise failure
        self._failure = failure
        async with super().generate(request) as pieces:
            yield pieces

    async def pause(self, index: int) -> None:
        if self._failure is not None and index >= self._after:
            raise self._failure
        await super().pause(index)


async def test_a_provider_that_is_away_is_replaced_before_the_first_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        engine = FailingEngine(EngineUnavailable("restarting"), EngineBusy("full"))
        provider = await lab.start_provider("provider", engine)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        _, text = await ask(user, chat(max_tokens=3))
        assert (text, engine.asked) == ("t0 t1 t2 ", 3)
        states = [(s["state"], s["interrupted"]) for s in user.parts.sessions.all()]
        assert states == [("broken", "engine_unavailable"), ("broken", "busy"), ("finished", None)]
        # Only what was delivered is paid for.
        await until(lambda: provider.parts.public.ledger.total_credited == 3 * PRICE, "the credit")

        # More than three providers in a row are not troubled.
        engine.failures = [EngineBusy("full")] * 4
        with pytest.raises(BackendError) as refused:
            await ask(user)
        assert (refused.value.status, refused.value.code, refused.value.retry_after) == (503, "busy", 1)
        assert (engine.asked, len(engine.failures)) == (6, 1)


async def test_a_prompt_that_crashed_an_engine_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        engines = [FailingEngine(EngineCrashed("gone")), FailingEngine(EngineCrashed("gone"))]
        for number, engine in enumerate(engines):
            await lab.start_provider(f"provider{number}", engine)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=2)
        with pytest.raises(BackendError) as refused:
            await ask(user)
        assert (refused.value.status, refused.value.code, refused.value.final) == (502, "engine_crashed", True)
        assert sum(engine.asked for engine in engines) == 1
        for engine in engines:
            engine.failures.clear()
        _, text = await ask(user)
        assert len(text.split()) == 32, "the next request is served"


async def test_a_crash_within_an_answer_is_told_and_the_next_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        engine = FailingEngine(EngineCrashed("gone"), after=10)
        await lab.start_provider("provider", engine)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        with pytest.raises(BackendError) as broken:
            await ask(user)
        assert (broken.value.status, broken.value.code, broken.value.final) == (502, "engine_crashed", True)
        _, text = await ask(user)
        assert (len(text.split()), engine.asked) == (32, 2)
        first, second = user.parts.sessions.all()
        assert (first["state"], second["state"]) == ("broken", "finished")
        assert 0 < first["tokens"] <= 10


async def test_what_a_user_may_use_today_and_how_fast_a_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", SyntheticEngine(MODEL, answer_tokens=2 * STEP_T))
        lab.offline.add("user")
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        agent = user.parts.agent
        assert agent is not None
        unknown = await agent.allowance()
        assert (unknown.day, unknown.limit_tokens, unknown.remaining_tokens) == (0, None, None)
        assert 0 < unknown.reset_s <= 4_000
        answer, _ = await ask(user, chat(max_tokens=7))
        assert "x-yellowstone-tokens-left" not in answer.headers(), "without a chain nobody here knows"
        # Of every 256 T one makes a sample: a long answer surely, the short one perhaps.
        longer, _ = await ask(user, chat(max_tokens=2 * STEP_T))
        assert longer.tokens >= STEP_T
        await until(lambda: user.parts.public.ledger.speed, "a speed sample")
        (card,) = await agent.models()
        assert card.us_per_t is not None
        assert card.us_per_t > 0
        # With the balance known: UserMax of S38, less what was used.
        account = agent._access._account()
        assert account is not None
        agent._access._balance = account.snapshot_block, 500 * WEI
        known = await agent.allowance()
        assert known.limit_tokens == account.max_t * 500 * WEI // account.supply_wei
        assert known.remaining_tokens == known.limit_tokens - 7 - longer.tokens
        answer, _ = await ask(user, chat(max_tokens=3))
        assert answer.headers()["x-yellowstone-tokens-left"] == str(known.remaining_tokens - 3)
