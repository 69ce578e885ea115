"""The ledger itself and the Compute Contract, side by side: what a committee decides, submitted to a chain.

Sessions are whole and signed, batches are proposed and applied by :mod:`consensus.market`, certificates are the
committee's. A day's budget is small, so that S23 and S37 bind all the time. Every method is one operation; each raises
AssertionError where ledger and contract differ.
"""

import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec

from consensus.market.budget import compute_budget, market_credit
from consensus.market.ledger_state import Ledger
from consensus.params import NetworkParams, Terms, economics_of
from contracts.bindings import certificate
from contracts.budget import BudgetPolicy
from contracts.merkle import CreditTree
from contracts.typed_data import Domain, Uint256
from gossip.messages.committee import BatchHeader, DayOpening, batch_hash
from gossip.messages.session import Settlement
from testnet.evm import Refused
from tests.consensus import builders
from tests.contracts.local_chain import MOR, World

SOURCE_FUNDS = 2_000_000 * MOR
PRICE = 3 * MOR
"""The genesis reference price: a day's budget buys about a thousand T, which ten sessions may use up."""
PROVIDERS = tuple(f"provider {number}" for number in range(6))
ADDRESSES = tuple(builders.address(name) for name in PROVIDERS)
SLOT_S = 12
DAY_SLOTS = 10
MAX_DAYS_TO_REST = 400
"""Days without a session after which no credit may wait any more: a tenth of a day's budget goes to deposits."""


class LedgerSide:
    """A committee's ledger and its contract, from genesis on."""

    def __init__(self, chance: random.Random, **params: Any) -> None:
        """``params`` stand in for what ``chance`` would choose."""
        self.chance = chance
        audit_slots = chance.choice((0, 0, 3, 15))
        chosen = NetworkParams(
            slot_ms=SLOT_S * 1_000,
            day_slots=DAY_SLOTS,
            settle_window_slots=DAY_SLOTS,
            report_deadline_slots=2,
            speed_samples_min=5,
            budget_policy=chance.choice(("emission", "pool")),
            endowment_mor=chance.choice((0, 5_000, 100_000)),
            bootstrap_days=chance.choice((3, 365)),
            bootstrap_providers=3,
            min_providers=1,
            pair_percent=100,
            audit_slots=audit_slots,
            audit_bps=chance.choice((0, 2_000)),
            forfeits=chance.choice(("pair", "provider")),
            deposit_tokens=chance.choice((0, 300, 1_000)),
            deposit_slots=DAY_SLOTS + audit_slots + 5,
            emission_interval_s=SLOT_S * DAY_SLOTS,
        )
        self.params = msgspec.structs.replace(chosen, **params)
        keys = [builders.key(f"member {number}") for number in range(4)]
        economics = msgspec.structs.replace(
            economics_of(self.params, 0), policy=BudgetPolicy(int(self.params.budget_policy == "pool"))
        )
        funds = self.params.endowment_mor * MOR
        self.world = World([1_000 * builders.WEI] * 4, keys=keys, economics=economics, past_s=5, funds=funds)
        self.world.deploy_source(SOURCE_FUNDS)
        genesis_ms = self.world.economics.genesis_s * 1_000
        domain = Domain(self.world.chain.chain_id, self.world.compute.address)
        self.terms = Terms(domain, genesis_ms, self.params)
        self.market = builders.World(
            terms=self.terms, budget_wei=int(compute_budget(0, 0, self.terms)), committed_days=0
        )
        self.ledger = self.market.ledger(PRICE)
        self.submitted: dict[int, Ledger] = {}
        self.paid = dict.fromkeys(ADDRESSES, 0)
        self.known: list[Settlement] = []
        self.forgeries: dict[str, int] = {}
        self.most_at_stake = self.released_wei = 0
        """Wei of deposits that submitted batches have held at most, and have paid back."""

    @cached_property
    def is_even(self) -> bool:
        """Whether contract and ledger were deployed with the same economics."""
        return self.terms.economics == self.world.economics

    def batch(self, gap: int, sessions: int) -> tuple[int, bool]:
        """Settle some sessions in a batch ``gap`` slots later, and submit it; how many were settled, and whether."""
        slot = self.ledger.slot + gap
        day = self.params.day_of(slot)
        self._wait_until(slot)
        opening = None
        if day != self.ledger.day:
            opening = self._opening(day)
        pending = [self._session(slot) for _ in range(sessions)]
        header, body, _ = self.market.propose(self.ledger, pending, slot=slot, opening=opening)
        self.ledger = msgspec.structs.replace(self.market.apply(self.ledger, header, body), parent=batch_hash(header))
        self.known = (self.known + list(body.settlements))[-20:]
        if self.chance.random() < 0.25:
            return len(body.settlements), False  # nobody hands it in: the next batch carries its credits
        self._forge(header)
        self.world.submit(header, self._signed(header))
        self.submitted[header.height] = self.ledger
        self._agree(header)
        return len(body.settlements), True

    def claim(self) -> bool:
        """Have a provider paid by one of the last heights; whether anything was due."""
        if not self.submitted:
            return False
        height = self.chance.choice(sorted(self.submitted)[-3:])
        tree, provider = CreditTree.of(self.submitted[height].credits), self.chance.choice(ADDRESSES)
        if provider not in tree:
            return False
        credited, proof = int(tree[provider]), tree.proof(provider)
        owed = max(0, credited - self.paid[provider])
        assert self.world.compute("claimable", provider, credited, height, proof) == owed
        try:
            found = self.world.compute("claim", provider, credited, height, proof)
        except Refused as refusal:
            assert (refusal.reason, owed) == ("compute: nothing to claim", 0), refusal.reason  # noqa: PT017  # either way
            return False
        assert found == owed > 0
        self.paid[provider] += owed
        assert self.world.balance(provider) == self.paid[provider], "S33: paid to the wei"
        return True

    def settle_up(self) -> None:
        """Nothing is stuck: once everybody has left, all are paid what the newest submitted batch credits."""
        for _ in range(MAX_DAYS_TO_REST if self.params.audit_slots else 0):
            if self._is_at_rest():
                break
            self.batch(DAY_SLOTS, 0)
        else:
            assert not self.params.audit_slots, "S33: immature credits and deposits come out in the end"
        if not self.submitted:
            return
        height = max(self.submitted)
        tree = CreditTree.of(self.submitted[height].credits)
        if not tree:
            return  # no credit has the zero root, which the contract doesn't tell from an unknown height
        many = [(provider, int(tree[provider]), tree.proof(provider)) for provider in tree]
        self.world.compute("claim_many", height, many)
        for provider, credited, _ in many:
            assert self.world.balance(provider) == credited >= self.paid[provider]
            self.paid[provider] = credited

    def _is_at_rest(self) -> bool:
        audits = self.ledger.audits
        full = sum(one.wei for one in audits.deposits.held.values() if one.is_full)
        waiting = audits.immature_wei + full + audits.deposits.leaving_wei
        return waiting == 0 and max(self.submitted, default=0) == self.ledger.height

    def _wait_until(self, slot: int) -> None:
        closes = self.world.economics.genesis_s + (slot + 1) * SLOT_S
        self.world.chain.pass_time(max(0, closes - self.world.chain.now_s))

    def _opening(self, day: int) -> DayOpening:
        before = market_credit(self.ledger, self.terms, day)
        budget = compute_budget(day, before, self.terms)
        assert self.world.compute("budget", day, before) == budget, "S37: both open the day with the same budget"
        return self.market.opening(day, budget_wei=budget)

    def _session(self, slot: int) -> Settlement:
        """A session that may or may not be settled: late, twice, slow, failed, too dear, without a report."""
        chance = self.chance
        if self.known and chance.random() < 0.05:
            return chance.choice(self.known)
        ticket = max(0, slot - chance.choice((0, 0, 0, 0, 1, 2, 5, DAY_SLOTS, DAY_SLOTS + 1)))
        day = self.params.day_of(ticket)
        account = self.ledger.days.get(day, self.ledger.account)
        most = max(1, account.max_t)
        tokens = chance.choice((0, 1, 40, 100, 200, 256))
        reference = account.reference_price_wei
        return self.market.settlement(
            session=f"session {self.market.made}",
            provider=chance.choice(PROVIDERS),
            slot=ticket,
            tokens=tokens,
            user_tokens=chance.choice((tokens, tokens, max(0, tokens - 3), tokens + 3)),
            price_wei=max(
                1, chance.choice((reference, reference, reference // 3, reference * 2, reference * 2 + 1, 1))
            ),
            passed=chance.random() > 0.1,
            last_ms=chance.choice((20, 20, 20, 60)) * max(1, tokens),
            with_report=chance.random() > 0.1,
            allowance=chance.choice((most, most, most, most, most + 1, min(most, 300))),
            rivals=[self.market.bid("scorer", scores=True, price_wei=1)] if self.params.audit_slots else (),
        )

    def _signed(self, header: BatchHeader) -> Sequence[bytes]:
        return self.world.sign(header)

    def _forge(self, header: BatchHeader) -> None:
        """What the whole committee may sign and the contract must refuse."""
        compute = self.world.compute
        left = compute("budget_left", header.day)
        bootstrap_left = self.world.economics.bootstrap_ceiling(header.day) - compute("bootstrap_credited")
        credited = compute("credited_total")
        market = int(header.total_credited - header.bootstrap_credited)
        allowed = credited - compute("bootstrap_credited") + left
        over = allowed + 1 + self.chance.randrange(2 ** self.chance.randrange(1, 70)) - market
        forged: dict[str, dict[str, object]] = {
            "compute: over budget": {"total_credited": Uint256(header.total_credited + over)},
            "compute: falling total": {"total_credited": Uint256(max(0, credited - 1))},
            "compute: over reserve": {
                "total_credited": Uint256(credited + bootstrap_left + 1),
                "bootstrap_credited": Uint256(compute("bootstrap_credited") + bootstrap_left + 1),
            },
            "compute: day not reached": {"slot": header.slot + 2 * DAY_SLOTS, "day": header.day + 2},
            "compute: old height": {"height": compute("latest_height")},
        }
        reason = self.chance.choice(sorted(forged))
        if reason == "compute: falling total" and not credited:
            return
        false = msgspec.structs.replace(header, **forged[reason])
        try:
            compute("submit", *certificate(false, 0, self._signed(false)))
        except Refused as refusal:
            assert refusal.reason == reason, (refusal.reason, reason)  # noqa: PT017  # checked either way
            self.forgeries[reason] = self.forgeries.get(reason, 0) + 1
        else:
            raise AssertionError(f"accepted, but should be refused: {reason}")

    def _agree(self, header: BatchHeader) -> None:
        """The invariants, each named after its demand."""
        compute, ledger, economics = self.world.compute, self.ledger, self.world.economics
        assert self.is_even
        assert compute("batch_hash", certificate(header, 0, [])[0]) == batch_hash(header), "S12: one value is signed"
        assert compute("credit_root", header.height) == CreditTree.of(ledger.credits).root, "S32: the same tree"
        credited, paid = compute("credited_total"), compute("paid_total")
        assert credited == ledger.total_credited == sum(ledger.credits.values()), "S33: the same credit"
        self.most_at_stake = max(self.most_at_stake, int(ledger.audits.deposits.held_wei))
        self.released_wei += int(ledger.account.released_wei) if ledger.account.opened_height == header.height else 0
        assert compute("bootstrap_credited") == ledger.bootstrap_credited, "S24: the same bootstrap"
        assert paid == sum(self.paid.values()) <= credited <= compute("received"), "S35: solvent"
        market = int(ledger.total_credited - ledger.bootstrap_credited)
        for account in ledger.days.values():
            spent = account.credited_wei + account.opinions_wei + account.released_wei - account.returned_wei
            assert spent <= account.budget_wei, "S37: no day spends more than its budget"
        spendable = sum(account.budget_left_wei for account in ledger.days.values())
        late = sum(account.budget_left_wei for account in ledger.days.values() if account.day < header.day)
        assert spendable - late <= compute("budget_left", header.day), "S37: what the ledger may spend is accepted"
        income = economics.income(header.day)
        today = (self.world.chain.now_s - economics.genesis_s) // economics.day_s
        assert compute("pool") == economics.unused(today, market), "S23: one pool"
        account = ledger.account
        before = economics.unused(header.day, int(account.paid_before_wei))
        grown = economics.income(header.day + 1) - income
        assert account.budget_wei <= grown + before // 100, "S23: a day takes at most 1 % of the pool"
        assert ledger.bootstrap_credited <= economics.bootstrap_ceiling(header.day), "S24: within the reserve"
