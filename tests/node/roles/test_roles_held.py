"""Many requests of one user at once: what answers hold of the day's allowance for the moment is not used up."""

from pathlib import Path

import pytest
import trio

from inference.synthetic import SyntheticEngine
from node.api.backend import BackendError, RateLimit
from node.api.openai_answers import error_headers
from node.roles import asking
from node.roles.access import MIN_PASS_T
from tests.node.roles.fakes import MODEL, WEI, GatedEngine
from tests.node.roles.harness import Lab, Running, ask, chat, open_lab, until

BALANCE = 10 * WEI
"""Its UserMax is more than one pass of the least size, and less than two."""


async def known_limit(lab: Lab, user: Running) -> RateLimit:
    """What the user may use, once it has read its own balance."""
    agent = user.parts.agent
    assert agent is not None
    await lab.market(providers=1)
    await until(lambda: agent._access.limit() is not None, "the own balance")
    limit = agent._access.limit()
    assert limit is not None
    assert limit.limit_tokens < 2 * MIN_PASS_T
    return limit


async def test_more_at_once_than_the_allowance_holds_wait_for_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("provider", SyntheticEngine(MODEL, answer_tokens=8), slots=16)
        user = await lab.start_user("user", BALANCE)
        limit = await known_limit(lab, user)
        monkeypatch.setattr(asking, "RFC_DEADLINE_MS", 100_000)  # however busy the machine is
        at_once = 16
        share = limit.limit_tokens // 4
        answered: list[int] = []

        async def one() -> None:
            answer, _ = await ask(user, chat(max_tokens=share))
            answered.append(answer.tokens)

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(one)
        assert answered == [8] * at_once
        agent = user.parts.agent
        assert agent is not None
        assert agent._access.used() == 8 * at_once
        assert not any(wallet.held for wallet in agent._access._day.wallets), "nothing is held any more"


async def test_held_for_too_long_is_told_apart_from_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        engine = GatedEngine(open_for=4, slots=4)
        await lab.start_provider("provider", engine, slots=4)
        user = await lab.start_user("user", BALANCE)
        limit = await known_limit(lab, user)
        agent = user.parts.agent
        assert agent is not None
        most = limit.limit_tokens // 2
        async with agent.chat(chat(max_tokens=most)) as first:
            monkeypatch.setattr(asking, "RFC_DEADLINE_MS", 3_000)
            headers = first.headers()
            assert headers["x-ratelimit-limit-tokens"] == str(limit.limit_tokens)
            assert headers["x-ratelimit-remaining-tokens"] == str(limit.limit_tokens - most)
            with pytest.raises(BackendError) as caught:
                await ask(user, chat(max_tokens=most))
            refused = caught.value
            assert (refused.status, refused.code, refused.retry_after) == (429, "allowance_held", 1)
            told = error_headers(refused)
            assert told["retry-after"] == "1"
            assert told["x-ratelimit-remaining-tokens"] == str(limit.limit_tokens - most)
            assert "x-should-retry" not in told, "a client may ask again by itself"
            engine.release()
            _ = [piece async for piece in first.pieces()]
        monkeypatch.setattr(asking, "RFC_DEADLINE_MS", 100_000)
        answer, _ = await ask(user, chat(max_tokens=most))
        assert answer.tokens == 32
        with pytest.raises(BackendError) as caught:
            await ask(user, chat(max_tokens=limit.limit_tokens + 1))
        refused = caught.value
        assert (refused.status, refused.code) == (429, "token_max_over_allowance")
        assert refused.retry_after is not None
        assert refused.retry_after > 1
        assert error_headers(refused)["x-ratelimit-remaining-tokens"] == str(limit.limit_tokens - 64)
