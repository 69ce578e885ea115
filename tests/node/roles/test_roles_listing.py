"""Listed models with real nodes (S8): refused before the committee lists it, served after, and unlisted again."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.market.listing import Listing
from contracts.typed_data import Digest
from gossip.messages import sign
from gossip.messages.market import Ticket
from inference.errors import SessionError
from inference.synthetic import SyntheticEngine
from node.api.backend import BackendError
from node.context import now_ms
from node.errors import Unanswerable
from node.roles.access import AccessRefused
from tests.consensus.builders import key, named_digest
from tests.node.roles.fakes import MODEL, WEI
from tests.node.roles.harness import (
    LISTED,
    SHORT,
    Lab,
    Running,
    ask,
    ask_match,
    ask_pass,
    chat,
    make_rfc,
    open_lab,
    until,
)

DAYS_OF_4_S = replace(SHORT, day_slots=10, settle_window_slots=40)
MODEL_ID = SyntheticEngine(MODEL).model_id


def listing(running: Running) -> Listing:
    return running.parts.public.ledger.listing


async def order(running: Running, *, is_listed: bool, model_id: Digest = MODEL_ID) -> None:
    await running.parts.status.order(model_id, is_listed=is_listed)


async def listed_from(lab: Lab, *, is_listed: bool) -> None:
    """Wait until the coming list has the model, or hasn't, and its day has begun."""
    nodes = list(lab.running.values())
    await until(lambda: all((MODEL_ID in listing(one).on(10**6)) == is_listed for one in nodes), "a decided order")
    first = max(listing(nodes[0]).lists)
    await until(lambda: nodes[0].node.slot() // DAYS_OF_4_S.day_slots >= first, "the day of the list")


async def is_shown(user: Running) -> bool:
    assert user.parts.agent is not None
    (card,) = await user.parts.agent.models()
    return card.is_listed


async def test_members_list_a_model_that_was_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch, DAYS_OF_4_S) as lab:
        lab.network = replace(lab.network, listed=())
        members = await lab.start_committee()
        provider = await lab.start_provider("provider")
        user = await lab.start_user("user", 100 * WEI)
        await lab.market(providers=1)
        with pytest.raises(BackendError, match=f"0x{MODEL_ID.hex()} is not listed") as refused:
            await ask(user)
        assert (refused.value.code, refused.value.status) == ("model_not_listed", 404)
        assert not await is_shown(user)
        assert all(not one.desk().queue() and not one.desk()._open for one in members)

        # What a member sees before it signs, and two that are not enough.
        seen = await members[0].parts.status.look_at(MODEL_ID)
        assert [(bid["provider"], bid["balance_wei"]) for bid in seen["bids"]] == [(provider.address, WEI)]
        await order(members[0], is_listed=True)
        await order(members[1], is_listed=True)
        await until(lambda: _percent(members[2]) == 50, "half of the committee")

        # One of the two goes and comes back: its operator need not say it again.
        await members[1].stop()
        members[1] = await lab.start_member(lab_number(members[1]))
        await order(members[2], is_listed=True)
        await listed_from(lab, is_listed=True)
        answer, _ = await ask(user, chat(max_tokens=8))
        assert await is_shown(user)
        explained = await user.parts.status.explain_rfc(answer.rfc_id)
        assert explained is not None
        assert any("the model is listed since day" in line for line in explained["explanation"])
        await until(
            lambda: provider.parts.public.ledger.credits.get(provider.address, 0) > 0, "the provider is credited"
        )

        # And off the list again: all routers refuse from the same day on.
        for member in members[:3]:
            await order(member, is_listed=False)
        await listed_from(lab, is_listed=False)
        with pytest.raises(BackendError, match="is not listed"):
            await ask(user)


def lab_number(member: Running) -> int:
    return int(member.name.removeprefix("member"))


def _percent(member: Running) -> float:
    assert member.parts.status.listings is not None
    waiting = member.parts.status.listings.waiting()
    return waiting[0]["stake_percent"] if waiting else 0


async def test_who_may_not_order_and_what_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        member = await lab.start_member(0)
        waiting = await lab.start("newcomer", ("member",), key("newcomer"))
        full = await lab.start("full", ("full",))
        with pytest.raises(Unanswerable, match="no committee member"):
            await order(full, is_listed=True)
        assert (await full.parts.status.listing())["orders"] is None
        with pytest.raises(Unanswerable, match="no committee member"):
            await full.parts.status.look_at(MODEL_ID)
        with pytest.raises(Unanswerable, match="no member of the running committee"):
            await order(waiting, is_listed=True)
        with pytest.raises(Unanswerable, match="nothing_changes"):
            await order(member, is_listed=True)
        told = await member.parts.status.listing()
        assert told["listed"] == dict.fromkeys(LISTED, 0)
        await order(member, is_listed=True, model_id=named_digest("another"))
        await order(member, is_listed=True, model_id=named_digest("another"))
        await until(lambda: _percent(member) == 25, "its own order, once")


async def test_a_provider_refuses_a_ticket_that_no_batch_would_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        lab.network = replace(lab.network, listed=(named_digest("another"),))
        members = await lab.start_committee()
        provider = await lab.start_provider("provider")
        user = await lab.start_user("user", 100 * WEI)
        await lab.market(providers=1)
        home, session = lab.home_of(user.address), key("session")
        granted = await ask_pass(user, home, user.node.key, session)
        with pytest.raises(AccessRefused) as refused:
            await ask_match(user, home, make_rfc(session, granted))
        assert refused.value.code == "model_not_listed"
        assert refused.value.allowance_left == granted.access_pass.payload.allowance

        # A router that sells a ticket all the same finds nobody who serves it.
        (bid,) = provider.parts.public.book.all_live(now_ms()).bids
        slot = provider.node.slot()
        made = Ticket(named_digest("rfc"), session.address, bid, 64, 64, slot, now_ms() + 10_000, members[0].address)
        assert provider.parts.provider is not None
        with pytest.raises(SessionError, match=r"no batch would pay for it: model .* is not listed"):
            await provider.parts.provider._accept(sign(made, members[0].node.key, lab.terms.domain))
