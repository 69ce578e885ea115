"""The Compute Contract and what it should do, side by side: operations on both, and what must hold in between.

The model is :class:`contracts.budget.BudgetGate` for the budget and plain dicts for the money. Tests and
``python -m tests.contracts.fuzz`` choose the operations.
"""

import msgspec

from contracts.bindings import certificate
from contracts.budget import BudgetGate, BudgetPolicy, Economics, Schedule
from contracts.merkle import merkle_proof
from contracts.typed_data import Address, Uint256
from testnet.evm import Refused
from tests.contracts.local_chain import MOR, World

PROVIDERS = [Address(bytes([value]) * 20) for value in (0xA1, 0xB0, 0xCA, 0xD5)]
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
        self.paid = dict.fromkeys(PROVIDERS, 0)
        self.spent: dict[Address, int] = {}
        self.receivers: dict[Address, Address] = {}

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

    def credit(self, provider: Address, market: int, bootstrap: int, day: int, gap: int = 1) -> bool:
        """A batch of ``day`` with so much more for ``provider``; whether it is accepted."""
        credits = self.credited | {provider: self.credited[provider] + market + bootstrap}
        total = Uint256(sum(credits.values()))
        slot = day * DAY_SLOTS
        height = self.height + gap
        after = Uint256(self.gate.bootstrap + bootstrap)
        header = self.world.header(height, credits, slot, total_credited=total, bootstrap_credited=after)
        expected = self._objection(day, total, after)
        try:
            self.world.compute("submit", *certificate(header, 0, self.world.sign(header)))
        except Refused as refusal:
            assert refusal.reason == expected, (refusal.reason, expected)  # noqa: PT017  # checked either way
            return False
        assert expected is None, f"accepted, but: {expected}"
        self.height = height
        self.history[height] = credits
        return True

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

    def claim(self, provider: Address, height: int) -> None:
        credits = self.history[height]
        owed = credits[provider] - self.paid[provider]
        proof = merkle_proof(credits, provider)
        asked = self.world.compute("claimable", provider, credits[provider], height, proof)
        assert asked == max(0, owed)
        try:
            found = self.world.claim(credits, provider, height)
        except Refused as refusal:
            assert (refusal.reason, owed <= 0) == ("compute: nothing to claim", True), refusal.reason  # noqa: PT017  # checked either way
            return
        assert found == owed > 0
        self._note_paid(provider, owed)

    def claim_many(self, height: int) -> None:
        credits = self.history[height]
        many = [(provider, credits[provider], merkle_proof(credits, provider)) for provider in PROVIDERS]
        owed = {provider: max(0, credits[provider] - self.paid[provider]) for provider in PROVIDERS}
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
        gate = self.gate
        expected = None
        if gate.economics.day_start_s(day) > self.world.chain.now_s:
            expected = "compute: day not reached"
        elif day < gate.rolled:
            expected = "compute: old day"
        try:
            self.world.compute("roll", day)
        except Refused as refusal:
            assert refusal.reason == expected, refusal.reason  # noqa: PT017  # checked either way
            return
        assert expected is None
        gate.limit = gate.economics.roll(gate.rolled, gate.limit, day + 1)
        gate.rolled = day + 1

    def redirect(self, provider: Address, receiver: Address) -> None:
        self.world.compute("set_receiver", receiver, sender=provider)
        self.receivers[provider] = receiver

    def check(self) -> None:
        """The invariants, each named after its demand."""
        compute = self.world.compute
        credited, paid = compute("credited_total"), compute("paid_total")
        held = self.world.balance(compute.address)
        assert credited == self.gate.credited, "S11: credited is what was accepted"
        assert compute("bootstrap_credited") == self.gate.bootstrap, "S24: bootstrap is what was accepted"
        assert paid == sum(self.paid.values()), "S33: paid is what was claimed"
        for provider in PROVIDERS:
            assert compute("paid", provider) == self.paid[provider], "S33: never paid twice, nor less"
            assert self.world.balance(provider) == self.spent.get(provider, 0), "S32: paid where it was asked to"
        assert held + paid == self.received == compute("received"), "S35: nothing leaks"
        assert paid <= credited <= self.received, "S35: solvent"
        economics, market, today = self.gate.economics, self.gate.market, self.today
        assert market <= max(0, self.gate.limit), "S37: within what the days allowed"
        assert market <= economics.income(max(today, self.gate.rolled - 1)), "S35: within what was emitted"
        assert self.gate.bootstrap <= economics.bootstrap_ceiling(today), "S24: within the reserve"
        assert compute("budget_left", today) == self.room(today), "S37: the view tells the truth"
