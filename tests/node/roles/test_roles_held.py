"""T that other requests hold are waited for: they are no exhausted day (S36)."""

from pathlib import Path

import pytest
import trio

from node.api.backend import BackendError
from node.roles import asking
from tests.node.roles.fakes import WEI
from tests.node.roles.harness import ask, chat, open_lab, until

MOST_T = 16_384
"""What a pass of the day's whole rest holds for 5 MOR: UserMax is 17,280 T."""
SECOND_T = 1_000
"""More than the 896 T that are left beside it."""


async def test_a_request_waits_for_t_that_another_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        user = await lab.start_user("user", 5 * WEI)
        await lab.start_provider("provider", slots=4)
        await lab.market(providers=1)
        agent = user.parts.agent
        assert agent is not None
        texts: list[str] = []

        async def ask_second() -> None:
            _, text = await ask(user, chat("a second", max_tokens=SECOND_T))
            texts.append(text)

        async with trio.open_nursery() as nursery:
            asked = agent._access.returned()
            async with agent.chat(chat(max_tokens=MOST_T)) as first:
                nursery.start_soon(ask_second)
                # it asks for a pass of its own, gets the day's small rest, and waits
                await until(lambda: len(agent._access._day.wallets) > 1, "the second to have asked")
                assert texts == []
                assert not asked.is_set()
                assert agent._access.held() == MOST_T
                limit = int(first.headers()["x-ratelimit-limit-tokens"])
                assert int(first.headers()["x-ratelimit-remaining-tokens"]) == limit - MOST_T
        assert texts[0].split()[:3] == ["t0", "t1", "t2"]
        assert agent._access.held() == 0


async def test_who_waits_in_vain_is_told_to_come_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "RFC_DEADLINE_MS", 3_000)
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        user = await lab.start_user("user", 5 * WEI)
        await lab.start_provider("provider", slots=4)
        await lab.market(providers=1)
        agent = user.parts.agent
        assert agent is not None
        async with agent.chat(chat(max_tokens=MOST_T)):
            with pytest.raises(BackendError) as caught:
                await ask(user, chat(max_tokens=SECOND_T))
            assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, "allowance_held", 1)
            assert f"{SECOND_T} T were asked for; {MOST_T} T are held by 1 requests that run, 0 T are used" in str(
                caught.value
            )
            assert caught.value.limit is not None
            with pytest.raises(BackendError) as caught:
                await ask(user, chat(max_tokens=MOST_T + 1))
            assert caught.value.code == "token_max_over_allowance", "more than all that may come back is no waiting"
