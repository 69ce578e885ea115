"""The Compute Contract and what it should do, side by side: operations on both, and what must hold in between.

The model is :class:`contracts.budget.BudgetGate` for the budget and plain dicts for the money. Tests and
``python -m tests.contracts.fuzz`` choose the operations.
"""

from collections.abc import Sequence

import msgspec

from contracts.bindings import certificate, compact_signature
from contracts.budget import BudgetGate, BudgetPolicy, Economics, Schedule
from contracts.merkle import merkle_proof
from contracts.payout import PayoutOrder
from contracts.signing import Key
from contracts.typed_data import Address, Uint256
from gossip.messages.committee import BatchHeader
from testnet.evm import Refused
from tests.contracts.local_chain import MOR, World

SIGNER = Key(b"\xd5" * 32)
"""The one provider whose payout orders can be signed here."""

PROVIDERS = [*(Address(bytes([value]) * 20) for value in (0xA1, 0xB0, 0xCA)), SIGNER.address]
DAY_SLOTS = 10
SLOT_S = 10
SOURCE_FUNDS = 2_000_000 * MOR

LIFELIKE = Economics(
    Schedule(3_456 * MOR, 592_558_728_240_000_000, payout_start_s=0, interval_s=DAY_SLOTS * SLOT_S),
    genesis_s=0,
    slot_ms=SLOT_S * 1_000,
    day_slots=DAY_SLOTS,
    endowment_wei=20_000 * MOR,
)
"""Compute's own figures on short days."""


class Side:
    """A contract and its model; every method does the same to both and raises AssertionError where they differ."""

    def __init__(self, policy: BudgetPolicy = BudgetPolicy.EMISSION, endowment_wei: int = 20_000 * MOR) -> None:
        economics = msgspec.structs.replace(LIFELIKE, policy=policy, endowment_wei=endowment_wei)
        self.world = World([100], economics=economics, past_s=5, funds=endowment_wei)
        self.source = self.world.deploy_source(SOURCE_FUNDS)
        self.gate = BudgetGate(self.world.economics)
        self.height = 0
        self.received = endowment_wei
        self.pulled = 0
        self.history: dict[int, dict[Address, int]] = {}
        """By accepted height: everybody's credit."""
        self.headers: dict[int, BatchHeader] = {}
        self.paid = dict.fromkeys(PROVIDERS, 0)
        self.spent: dict[Address, int] = {}
        self.receivers: dict[Address, Address] = {}
        self.nonces: dict[Address, int] = {}

    @property
    def today(self) -> int:
        economics = self.gate.economics
        return max(0, self.world.chain.now_s - economics.genesis_s) // economics.day_s

    @property
    def credited(self) -> dict[Address, int]:
        return self.history.get(self.height, dict.fromkeys(PROVIDERS, 0))

    def room(self, day: int) -> int:
        """Wei that a batch of ``day`` may still credit to bids."""
        gate = self.gate
        return gate.economics.roll(gate.rolled, gate.limit, day + 1) - gate.market

    def pass_time(self, seconds: int) -> None:
        self.world.chain.pass_time(seconds)

    def _due(self) -> int:
        due = self.gate.economics.schedule.emitted(self.world.chain.now_s) - self.pulled
        return min(due, SOURCE_FUNDS - self.pulled)

    def credit(
        self, provider: Address, market: int, bootstrap: int, day: int, gap: int = 1, *, is_claiming: bool = False
    ) -> bool:
        """A batch of ``day`` with so much more for ``provider``, who may claim in one call; whether it is taken."""
        credits = self.credited | {provider: self.credited[provider] + market + bootstrap}
        total = Uint256(sum(credits.values()))
        slot = day * DAY_SLOTS
        height = self.height + gap
        after = Uint256(self.gate.bootstrap + bootstrap)
        header = self.world.header(height, credits, slot, total_credited=total, bootstrap_credited=after)
        before = (self.gate, self.received, self.pulled)
        expected = self._objection(day, total, after)
        owed = credits[provider] - self.paid[provider]
        if expected is None and is_claiming and owed <= 0:
            expected = "compute: nothing to claim"
        try:
            if is_claiming:
                found = self._claim_with(header, credits, provider)
            else:
                self.world.compute("submit", *self._certified(header))
        except Refused as refusal:
            assert refusal.reason == expected, (refusal.reason, expected)  # noqa: PT017  # checked either way
            self.gate, self.received, self.pulled = before
            return False
        assert expected is None, f"accepted, but: {expected}"
        self.height = height
        self.history[height], self.headers[height] = credits, header
        if is_claiming:
            assert found == owed
            self._note_paid(provider, owed)
        return True

    def _certified(self, header: BatchHeader) -> tuple[object, ...]:
        return certificate(header, 0, self.world.sign(header))

    def _claim_with(self, header: BatchHeader, credits: dict[Address, int], provider: Address) -> int:
        arguments = (*self._certified(header), provider, credits[provider], merkle_proof(credits, provider))
        return int(self.world.compute("claim_with_certificate", *arguments))

    def _objection(self, day: int, total: int, bootstrap: int) -> str | None:
        economics = self.gate.economics
        if economics.day_start_s(day) > self.world.chain.now_s:
            return "compute: day not reached"
        trial = msgspec.structs.replace(self.gate)
        if objection := trial.objection(day, total, bootstrap):
            return objection
        if total > self.received:
            due = self._due()
            if total > self.received + due:
                return "compute: not funded"
            self.received += due
            self.pulled += due
        self.gate = trial
        return None

    def claim(self, provider: Address, height: int, *, by_certificate: bool = False) -> None:
        """Have a provider paid by an accepted height, however old; with its certificate once more, or without."""
        credits = self.history[height]
        owed = credits[provider] - self.paid[provider]
        proof = merkle_proof(credits, provider)
        asked = self.world.compute("claimable", provider, credits[provider], height, proof)
        assert asked == max(0, owed)
        try:
            if by_certificate:
                found = self._claim_with(self.headers[height], credits, provider)
            else:
                found = self.world.claim(credits, provider, height)
        except Refused as refusal:
            assert (refusal.reason, owed <= 0) == ("compute: nothing to claim", True), refusal.reason  # noqa: PT017  # checked either way
            return
        assert found == owed > 0
        self._note_paid(provider, owed)

    def claim_many(self, height: int, providers: Sequence[Address] = PROVIDERS) -> None:
        """Have several paid in one call, in any order; one that comes twice is paid once."""
        credits = self.history[height]
        many = [(provider, credits[provider], merkle_proof(credits, provider)) for provider in providers]
        owed = {provider: max(0, credits[provider] - self.paid[provider]) for provider in providers}
        assert self.world.compute("claim_many", height, many) == sum(owed.values())
        for provider, amount in owed.items():
            self._note_paid(provider, amount)

    def _note_paid(self, provider: Address, amount: int) -> None:
        self.paid[provider] += amount
        receiver = self.receivers.get(provider, provider)
        self.spent[receiver] = self.spent.get(receiver, 0) + amount

    def pull(self) -> None:
        due = self._due()
        assert self.world.compute("pull") == due
        self.received += due
        self.pulled += due

    def donate(self, amount: int) -> None:
        self.world.mor("mint", self.world.compute.address, amount)
        self.received += amount

    def roll(self, day: int) -> None:
        expected = self.gate.roll(day, self.today)
        try:
            self.world.compute("roll", day)
        except Refused as refusal:
            assert refusal.reason == expected, refusal.reason  # noqa: PT017  # checked either way
            return
        assert expected is None

    def redirect(self, provider: Address, receiver: Address) -> None:
        self.world.compute("set_receiver", receiver, sender=provider)
        self.receivers[provider] = receiver
        self.nonces[provider] = self.nonces.get(provider, 0) + 1

    def redirect_by_order(self, receiver: Address) -> None:
        """The signer's order, handed in by another provider."""
        provider = SIGNER.address
        order = PayoutOrder(provider, receiver, self.nonces.get(provider, 0), self.world.chain.now_s)
        signature = compact_signature(SIGNER.sign(order, self.world.domain))
        arguments = (provider, receiver, order.deadline, signature)
        self.world.compute("set_receiver_by_order", *arguments, sender=PROVIDERS[0])
        self.receivers[provider] = receiver
        self.nonces[provider] = order.nonce + 1

    def check(self) -> None:
        """All invariants."""
        self.s11_what_was_accepted_is_credited()
        self.s23_a_day_takes_one_percent_of_the_pool_at_most()
        self.s24_the_bootstrap_stays_within_its_reserve()
        self.s32_payments_go_where_they_were_asked_to()
        self.s33_everybody_was_paid_what_was_claimed()
        self.s35_the_contract_is_solvent()
        self.s37_the_market_stays_within_its_days()

    def s11_what_was_accepted_is_credited(self) -> None:
        compute = self.world.compute
        assert compute("credited_total") == self.gate.credited == sum(self.credited.values())
        assert compute("latest_height") == self.height

    def s23_a_day_takes_one_percent_of_the_pool_at_most(self) -> None:
        """Today's budget, after what has been credited until now: what comes in, and a hundredth of what is unused."""
        compute, economics, today = self.world.compute, self.gate.economics, self.today
        coming = economics.income(today + 1) - economics.income(today)
        unused = economics.income(today) - self.gate.market
        assert compute("pool") == max(0, unused)
        assert compute("budget", today, self.gate.market) <= coming + max(0, unused) // 100

    def s24_the_bootstrap_stays_within_its_reserve(self) -> None:
        compute, ceiling = self.world.compute, self.gate.economics.bootstrap_ceiling(self.today)
        assert compute("bootstrap_credited") == self.gate.bootstrap <= ceiling
        assert compute("reserve") == ceiling - self.gate.bootstrap

    def s32_payments_go_where_they_were_asked_to(self) -> None:
        for provider in PROVIDERS:
            assert self.world.balance(provider) == self.spent.get(provider, 0)

    def s33_everybody_was_paid_what_was_claimed(self) -> None:
        """Never twice, never less, and never more than its newest credit."""
        for provider in PROVIDERS:
            assert self.world.compute("paid", provider) == self.paid[provider] <= self.credited[provider]

    def s35_the_contract_is_solvent(self) -> None:
        compute = self.world.compute
        credited, paid = compute("credited_total"), compute("paid_total")
        held = self.world.balance(compute.address)
        assert paid == sum(self.paid.values()) <= credited
        assert held >= credited - paid, "all that is owed is here"
        assert held + paid == self.received == compute("received"), "nothing leaks"
        assert self.gate.market <= self.gate.economics.income(max(self.today, self.gate.rolled - 1))

    def s37_the_market_stays_within_its_days(self) -> None:
        assert self.gate.market <= max(0, self.gate.limit)
        assert self.world.compute("budget_left", self.today) == self.room(self.today)

    def settle_up(self) -> None:
        """Nothing is stuck: all that was credited is claimed, each by another way, and is here to the last wei."""
        if not self.history:
            return
        first, second, *others = PROVIDERS[self.height % 4 :] + PROVIDERS[: self.height % 4]
        self.claim(first, self.height)
        self.claim(second, self.height, by_certificate=True)
        self.claim_many(self.height, others)
        assert self.paid == self.credited
        assert self.world.compute("paid_total") == self.world.compute("credited_total")
        self.check()
