"""A provider that vanishes within an answer: another goes on, the client sees one answer, and nothing is paid twice."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from inference.engine import Feature
from inference.errors import EngineError
from inference.session.serving import Serving
from inference.synthetic import SyntheticEngine
from node.api.backend import BackendError
from tests.node.roles.fakes import MODEL, WEI, GatedEngine
from tests.node.roles.harness import PRICE, Lab, Running, ask, chat, eventually, open_lab, until


class Textual(GatedEngine):
    """Cannot go on with another's answer."""

    async def features(self) -> frozenset[Feature]:
        return await super().features() - {"continue"}


async def sellers(lab: Lab, *engines: SyntheticEngine) -> tuple[Running, list[Running]]:
    await lab.start_committee()
    providers = [
        await lab.start_provider(f"provider{number}", engine, price_wei=PRICE * (100 + number) // 100)
        for number, engine in enumerate(engines)
    ]
    user = await lab.start_user("user", 500 * WEI)
    await lab.market(providers=len(engines))
    return user, providers


async def test_another_provider_goes_on_and_each_is_paid_for_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        gates = [GatedEngine(open_for=10), GatedEngine(open_for=10)]
        user, providers = await sellers(lab, *gates)
        agent = user.parts.agent
        assert agent is not None
        async with agent.chat(chat(max_tokens=24)) as answer:
            text = ""
            pieces = answer.pieces()
            while answer.tokens < 10:
                text += (await anext(pieces)).text
            winner = next(one for one in providers if one.address == answer.provider)
            other = next(one for one in providers if one is not winner)
            gates[providers.index(other)].release()
            await winner.stop()
            async for piece in pieces:
                text += piece.text
        assert text.split() == [f"t{number}" for number in range(24)], "one answer, nothing missing, nothing twice"
        assert (answer.tokens, answer.finish) == (24, "length")
        first, second = answer.legs
        assert (first.provider, second.provider) == (winner.address, other.address)
        assert (first.session.outcome.tokens, second.session.outcome.tokens) == (10, 14)
        assert second.opened.matched.ticket.payload.token_max == 14, "TokenMax less what has arrived"
        assert answer.prompt_tokens == first.session.outcome.prompt_tokens or answer.prompt_tokens > 0

        public = user.parts.public
        price = {one.address: PRICE * (100 + providers.index(one)) // 100 for one in providers}
        owed = {winner.address: 10 * price[winner.address], other.address: 14 * price[other.address]}
        await until(lambda: public.ledger.credits == owed, "each to be credited to the wei")
        assert sum(use.used for use in public.ledger.sessions[0].values()) == 24, "the user's quota too, once"
        assert not public.ledger.penalties
        states = [(one["state"], one["tokens"], one["passed"]) for one in user.parts.sessions.all()]
        assert states == [("broken", 10, True), ("finished", 14, True)]


async def test_where_nobody_can_go_on_the_break_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that can't continue refuses, which costs nothing; what was delivered is paid for."""
    async with open_lab(tmp_path, monkeypatch) as lab:
        engines = [Textual(open_for=10), Textual(open_for=10)]
        user, providers = await sellers(lab, *engines)
        agent = user.parts.agent
        assert agent is not None
        async with agent.chat(chat(max_tokens=24)) as answer:
            pieces = answer.pieces()
            while answer.tokens < 10:
                await anext(pieces)
            winner = next(one for one in providers if one.address == answer.provider)
            await winner.stop()
            with pytest.raises(BackendError) as broken:
                _ = [piece async for piece in pieces]
        assert (broken.value.status, broken.value.code) == (502, "provider_failed")
        assert answer.tokens == 10
        price = PRICE * (100 + providers.index(winner)) // 100
        await until(lambda: user.parts.public.ledger.total_credited == 10 * price, "the credit")
        assert not user.parts.public.ledger.penalties.get(
            next(one.address for one in providers if one is not winner), 0
        )


class Flaky(SyntheticEngine):
    """Fails once so many T into an answer, whoever asks."""

    def __init__(self, after: int) -> None:
        super().__init__(MODEL, answer_tokens=32, slots=4)
        self.begun = 0
        self._after = after

    async def pause(self, index: int) -> None:
        if index in {self._after, 2 * self._after, 3 * self._after} and self.begun < index // self._after:
            self.begun += 1
            raise EngineError(f"scripted failure after {index} T")
        await trio.lowlevel.checkpoint()


async def test_an_answer_has_three_sessions_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        engine = Flaky(after=8)
        user, _ = await sellers(lab, engine)
        agent = user.parts.agent
        assert agent is not None
        async with agent.chat(chat(max_tokens=32)) as answer:
            with pytest.raises(BackendError, match="broke off"):
                _ = [piece async for piece in answer.pieces()]
        # what an engine said just before it failed may not have been sent any more
        assert answer.text.split() == [f"t{number}" for number in range(answer.tokens)]
        assert (engine.begun, len(answer.legs)) == (3, 3)
        tickets = [leg.opened.matched.match.payload.ticket_id for leg in answer.legs]
        told = [await eventually(partial(user.node.store.outcome, one), "the settlement") for one in tickets]
        assert {outcome.reason for outcome in told} == {"credited"}
        # the lower count is paid: the last T of each may not have been vouched for when the engine failed
        paid = sum(outcome.tokens for outcome in told)
        assert answer.tokens - 3 * lab.terms.params.voucher_window // 4 <= paid <= answer.tokens
        await until(lambda: user.parts.public.ledger.total_credited == paid * PRICE, "the credits")


async def test_a_lying_receipt_is_a_fail_and_the_client_has_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not true is never paid, however much was delivered; it costs a point, and the user its quota (S44)."""
    honest = Serving._send_receipt

    async def claim_more(self: Any, *args: Any, **options: Any) -> None:
        self._sent += 7
        await honest(self, *args, **options)

    monkeypatch.setattr(Serving, "_send_receipt", claim_more)
    async with open_lab(tmp_path, monkeypatch) as lab:
        user, (liar,) = await sellers(lab, SyntheticEngine(MODEL))
        answer, text = await ask(user, chat(max_tokens=24))
        assert text.split() == [f"t{number}" for number in range(24)]
        assert (answer.finish, answer.outcome.interrupted) == ("length", "protocol_error")
        public = user.parts.public
        await until(lambda: public.ledger.penalties, "the penalty")
        assert dict(public.ledger.penalties) == {liar.address: 100}
        assert public.ledger.total_credited == 0
        (outcome,) = public.ledger.outcomes
        assert (outcome.reason, outcome.charged) == ("failed", 24)
        # The batch holds the user's signed Fail beside the provider's own claim, for whoever wants to judge.
        batch = await user.node.store.get_batch(public.ledger.height)
        assert batch is not None
        (settlement,) = batch.body.settlements
        assert settlement.report is not None
        assert not settlement.report.payload.passed
        assert settlement.voucher is not None
        assert settlement.voucher.payload.tokens == 24
