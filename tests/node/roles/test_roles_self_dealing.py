"""Who deals with itself, over real streams (S8): a lone provider is not paid, and none out of a whole pass."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.market.pairs import pair_key
from gossip.messages.router import DeliveryFiling
from node.api.backend import BackendError
from node.roles import asking
from node.roles.access import MIN_PASS_T, AccessRefused, ask_router
from tests.consensus.builders import key
from tests.node.roles.fakes import WEI, GatedEngine
from tests.node.roles.harness import PRICE, SHORT, ask, ask_match, ask_pass, chat, make_rfc, open_lab, until


async def test_a_model_of_one_provider_is_refused_until_another_sells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch, replace(SHORT, min_providers=2)) as lab:
        await lab.start_committee()
        await lab.start_provider("one", slots=50)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        with pytest.raises(BackendError) as refused:
            await ask(user)
        assert (refused.value.code, refused.value.status) == ("too_few_providers", 503)
        assert "2 are needed" in refused.value.message
        await lab.start_provider("over the ceiling", slots=50, price_wei=PRICE * 2 + 1)
        await lab.market(providers=2)
        with pytest.raises(BackendError, match="too few independent providers"):
            await ask(user)
        dear = await lab.start_provider("dear", slots=50, price_wei=PRICE * 3 // 2)
        await lab.market(providers=3)
        answer, _ = await ask(user)
        assert answer.provider != dear.address
        messages = user.parts.sessions.messages(answer.rfc_id)
        assert messages is not None
        ticket = messages[1].ticket.payload
        assert [rival.payload.provider for rival in ticket.rivals] == [dear.address]
        await until(lambda: user.parts.public.ledger.total_credited > 0, "the credit")


async def test_a_user_is_sent_to_another_provider_once_one_has_its_share_of_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch, replace(SHORT, pair_percent=50)) as lab:
        await lab.start_committee()
        cheap = await lab.start_provider("cheap", slots=50)
        dear = await lab.start_provider("dear", slots=50, price_wei=PRICE * 3 // 2)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=2)
        answer, _ = await ask(user)
        wallet = answer._opened.wallet
        allowance = wallet.granted.payload.allowance
        assert answer.provider == cheap.address
        # T that the router has promised and no batch has settled count as well
        big = chat(max_tokens=allowance * 2 // 5)
        first, _ = await ask(user, big)
        assert first.provider == cheap.address
        home = lab.member(wallet.granted.payload.issuer)
        await until(lambda: home.desk().promised_to(wallet.key.address, cheap.address) == 0, "the settlements")
        await until(lambda: user.parts.public.ledger.pairs, "the user's view of them")
        pair = pair_key(wallet.key.address, cheap.address)
        assert user.parts.public.ledger.pairs[0][pair] <= allowance // 2
        with pytest.raises(BackendError) as refused:
            await ask(user, chat(max_tokens=allowance * 51 // 100))
        assert refused.value.code == "pair_capped"
        second, _ = await ask(user, chat(max_tokens=allowance // 2))
        assert second.provider == dear.address, "what was said to the cheap one leaves it too little"


async def test_a_share_that_is_promised_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a ticket promised a provider of a pass, its batch mostly does not credit."""
    async with open_lab(tmp_path, monkeypatch, replace(SHORT, pair_percent=50)) as lab:
        await lab.start_committee()
        engine = GatedEngine(open_for=4)
        await lab.start_provider("provider", engine, slots=4)
        user = await lab.start_user("user", 500 * WEI)
        await lab.market(providers=1)
        agent = user.parts.agent
        assert agent is not None
        big = chat(max_tokens=MIN_PASS_T * 2 // 5)
        async with agent.chat(big) as first:
            monkeypatch.setattr(asking, "RFC_DEADLINE_MS", 4_000)
            with pytest.raises(BackendError) as refused:
                await ask(user, big)
            assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "pair_held", 1)
            monkeypatch.setattr(asking, "RFC_DEADLINE_MS", 100_000)
            engine.release()
            _ = [piece async for piece in first.pieces()]
        second, _ = await ask(user, big)
        assert second.tokens == 32, "it waited for the batch that settled the first"
        with pytest.raises(BackendError) as refused:
            await ask(user, chat(max_tokens=MIN_PASS_T * 51 // 100))
        assert refused.value.code == "pair_capped"
        assert refused.value.retry_after is not None
        assert refused.value.retry_after > 1


async def test_a_user_files_no_voucher_in_its_providers_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could commit the provider to a transcript that was never sent."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        await lab.start_committee()
        await lab.start_provider("one", slots=50)
        asker, who, session = await lab.start("asker", ("full",)), key("user"), key("session")
        lab.chain.balances[who.address] = 100 * WEI
        await lab.market(providers=1)
        await lab.knows(asker, providers=1)
        home = lab.home_of(who.address)
        matched = await ask_match(asker, home, make_rfc(session, await ask_pass(asker, home, who, session)))
        ticket_id = matched.ticket.id(lab.terms.domain)
        filing = DeliveryFiling(ticket_id, lab.world().voucher(ticket_id, 60), None)
        with pytest.raises(AccessRefused) as refused:
            await ask_router(asker.node, asker.parts.public, home.address, filing, timeout=20)
        assert refused.value.code == "not_the_provider"
