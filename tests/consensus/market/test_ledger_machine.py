"""Whatever is settled, opined and waited for: no wei is lost or made, and the contract takes every batch (S8)."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consensus.market.budget import compute_budget, market_credit
from consensus.market.deposits import release_slot
from consensus.market.errors import OpinionInvalid
from consensus.market.ledger import Draft
from consensus.market.ledger_state import decode_ledger, encode_ledger, state_root
from consensus.market.opinions import due_slot
from contracts.budget import BudgetGate
from contracts.typed_data import Address, Digest
from gossip.messages.base import Signed
from gossip.messages.opinions import Opinion
from gossip.messages.session import Settlement
from tests.consensus.builders import WEI, World, address, key, make_terms, named_digest

PROVIDERS = ("a", "b", "c", "d")
DEAR = WEI // 2
"""Wei per T: a dozen sessions spend a day's budget."""


class Ledgers(RuleBasedStateMachine):
    """A network of four providers, all of which score, and days of twenty slots."""

    @initialize(
        window=st.sampled_from([1, 5, 30, 90]),
        share=st.sampled_from([0, 3_000, 10_000]),
        forfeits=st.sampled_from(["pair", "provider"]),
        policy=st.sampled_from(["emission", "pool"]),
        deposit=st.sampled_from([0, 200, 3_000]),
    )
    def start(self, window: int, share: int, forfeits: str, policy: str, deposit: int) -> None:
        terms = make_terms(
            day_slots=20,
            settle_window_slots=30,
            audit_slots=window,
            audit_bps=share,
            forfeits=forfeits,
            deposit_tokens=deposit,
            deposit_slots=30 + window + 1,
            budget_policy=policy,
            endowment_mor=100_000,
            min_providers=2,
            pair_percent=80,
        )
        self.world = World(terms, committed_days=0)
        self.world.budget_wei = int(compute_budget(0, 0, terms))
        self.ledger = self.world.ledger(DEAR)
        self.gate = BudgetGate(terms.economics)
        self.settled_wei = 0
        self.opinions: list[Signed[Opinion]] = []
        self.pending: list[Settlement] = []
        self.key_of = {address(name): key(name) for name in PROVIDERS}

    @rule(
        provider=st.sampled_from(PROVIDERS),
        session=st.integers(0, 2),
        tokens=st.integers(0, 900),
        passed=st.integers(0, 5),
        kind=st.sampled_from(["receipt", "voucher", "report"]),
    )
    def finish_session(self, provider: str, session: int, tokens: int, passed: int, kind: str) -> None:
        slot = self.ledger.slot + 1
        rivals = [self.world.bid(name, scores=True, price_wei=DEAR) for name in PROVIDERS if name != provider][:2]
        made = self.world.settlement(
            session=f"s{session} of day {slot // 20}",
            provider=provider,
            slot=slot,
            tokens=tokens,
            token_max=1_000,
            price_wei=DEAR,
            passed=passed > 0,
            with_receipt=kind == "receipt",
            voucher_tokens=tokens if kind == "voucher" else None,
            rivals=rivals,
            allowance=2_000,
        )
        self.pending.append(made)

    @rule(which=st.integers(0, 50), scorer=st.integers(0, 2), passed=st.booleans())
    def score(self, which: int, scorer: int, passed: bool) -> None:
        picks = [found for some in self.ledger.audits.picks.values() for found in some.items()]
        if not picks:
            return
        ticket_id, pick = picks[which % len(picks)]
        offer = pick.scorers[scorer % len(pick.scorers)]
        self.opinions.append(self._opinion(ticket_id, offer.provider, pick.tokens, passed))

    def _opinion(self, ticket_id: Digest, scorer: Address, tokens: int, passed: bool) -> Signed[Opinion]:
        made = Opinion(ticket_id, named_digest("transcript"), scorer, tokens, 0, 0, passed)
        return Signed(made, self.key_of[scorer].sign(made, self.world.domain))

    @rule(slots=st.sampled_from([1, 1, 2, 7, 40]))
    def close_batch(self, slots: int) -> None:
        self._close(slots)

    def _close(self, slots: int) -> None:
        world, slot, before = self.world, self.ledger.slot + slots, self.ledger
        day = world.terms.params.day_of(slot)
        opening = None
        if day > before.day:
            budget = compute_budget(day, market_credit(before, world.terms, day), world.terms)
            opening = world.opening(day, budget_wei=budget)
        header, body, _ = world.propose(before, self.pending, slot=slot, opening=opening, opinions=self.opinions)
        self.ledger = world.apply(before, header, body)
        assert world.apply(decode_ledger(encode_ledger(before)), header, body) == self.ledger
        self.settled_wei += sum(outcome.credited_wei for outcome in self.ledger.outcomes)
        assert all(self.ledger.credits[who] >= wei for who, wei in before.credits.items())
        assert self.gate.objection(header.day, header.total_credited, header.bootstrap_credited) is None
        self.pending, self.opinions = [], []

    @invariant()
    def no_wei_is_lost_or_made(self) -> None:
        ledger, audits = self.ledger, self.ledger.audits
        matured = ledger.total_credited - ledger.bootstrap_credited - audits.opinions_wei
        deposits = audits.deposits
        at_stake = deposits.held_wei + deposits.leaving_wei
        assert self.settled_wei == matured + at_stake + audits.immature_wei + audits.forfeited_wei
        assert deposits.held_wei == sum(one.wei for one in deposits.held.values())
        assert deposits.leaving_wei == sum(sum(wei.values()) for wei in deposits.leaving.values())
        assert sum(ledger.credits.values()) == ledger.total_credited
        put_by = sum(sum(sums.values()) for sums in audits.immature.values())
        assert audits.immature_wei == put_by + sum(outcome.credited_wei for outcome in ledger.outcomes)

    @invariant()
    def no_day_spends_more_than_its_budget(self) -> None:
        for account in self.ledger.days.values():
            assert 0 <= account.budget_left_wei <= account.budget_wei
            assert account.returned_wei <= account.credited_wei

    @invariant()
    def what_is_over_is_forgotten(self) -> None:
        for bucket in {*self.ledger.audits.immature, *self.ledger.audits.picks}:
            assert bucket > self.ledger.slot // max(1, self.world.terms.params.audit_slots // 64)

    @invariant()
    def nobody_leaves_with_a_pick_open(self) -> None:
        audits, params = self.ledger.audits, self.world.terms.params
        listed = [who for some in audits.deposits.calendar.values() for who in some]
        assert len(listed) == len(set(listed)) == sum(one.part > 0 for one in audits.deposits.held.values())
        if params.deposit_tokens:
            for bucket, some in audits.picks.items():
                for pick in some.values():
                    stays = release_slot(audits.deposits.of(pick.provider).part, params)
                    assert stays > due_slot(bucket, params)

    def teardown(self) -> None:
        """Everybody leaves: nothing is stuck."""
        if not hasattr(self, "world"):
            return
        self.pending, self.opinions = [], []
        for _ in range(80):
            audits = self.ledger.audits
            if not (audits.immature_wei or audits.picks or audits.deposits.calendar or audits.deposits.leaving_wei):
                break
            self._close(20)
        audits = self.ledger.audits
        assert (audits.immature_wei, audits.deposits.leaving_wei) == (0, 0)
        left = audits.deposits.held.values()
        full_wei = self.world.terms.params.deposit_tokens * self.ledger.account.reference_price_wei
        assert all(not one.is_full and (one.wei < full_wei or one.wei == 0) for one in left)
        self.no_wei_is_lost_or_made()

    @invariant()
    def what_is_refused_changes_nothing(self) -> None:
        draft, root = Draft(self.ledger, self.world.terms, self.ledger.slot + 1), state_root(self.ledger)
        before = draft.close(named_digest("reveal"))
        with pytest.raises(OpinionInvalid, match="not_picked"):
            draft.opine(self._opinion(named_digest("nobody's"), address("a"), 1, True))
        assert draft.close(named_digest("reveal")) == before
        assert state_root(self.ledger) == root


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
