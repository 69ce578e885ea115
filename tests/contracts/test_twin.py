"""The contract against its Python twin, and the twin against what an honest ledger does.

``python -m tests.contracts.test_twin 500`` does so many examples of the state machine, of 60 steps each.
"""

import sys

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from contracts.budget import BudgetGate, BudgetPolicy, Economics
from contracts.typed_data import Address
from tests.contracts.fuzz import fuzz
from tests.contracts.local_chain import MOR
from tests.contracts.twin import DAY_SLOTS, LIFELIKE, PROVIDERS, SLOT_S, Side

DAY_S = DAY_SLOTS * SLOT_S
PROVIDER = st.sampled_from(PROVIDERS)


def test_contract_and_twin_agree_on_random_operations() -> None:
    done = fuzz(250, seed=20240208)
    assert min(done[name] for name in ("credit", "refused", "claim", "many", "pull", "roll", "redirect")) > 0


class Economy(RuleBasedStateMachine):
    """Batches on time, late, over budget; payments by every way and in any order; money and time in between."""

    @initialize(policy=st.sampled_from(list(BudgetPolicy)), endowment=st.sampled_from([0, 1_000, 20_000]))
    def deploy(self, policy: BudgetPolicy, endowment: int) -> None:
        self.side = Side(policy, endowment * MOR)

    @rule(seconds=st.one_of(st.integers(1, 3 * DAY_S), st.integers(1, 40 * DAY_S)))
    def time_passes(self, seconds: int) -> None:
        self.side.pass_time(seconds)

    @rule(provider=PROVIDER, percent=st.integers(0, 100), late=st.integers(0, 2), gap=st.integers(1, 3))
    def credit_within_budget(self, provider: Address, percent: int, late: int, gap: int) -> None:
        day = max(0, self.side.today - late)
        assert self.side.credit(provider, max(0, self.side.room(day)) * percent // 100, 0, day, gap)

    @rule(provider=PROVIDER, percent=st.integers(0, 100))
    def credit_and_claim(self, provider: Address, percent: int) -> None:
        side = self.side
        amount = max(0, side.room(side.today)) * percent // 100
        is_owed = side.credited[provider] + amount > side.paid[provider]
        assert side.credit(provider, amount, 0, side.today, is_claiming=True) == is_owed

    @rule(provider=PROVIDER, over=st.integers(1, 10**24))
    def s23_what_is_over_budget_is_refused(self, provider: Address, over: int) -> None:
        day = self.side.today
        assert not self.side.credit(provider, self.side.room(day) + over, 0, day)

    @rule(provider=PROVIDER, percent=st.integers(1, 100))
    def s24_the_bootstrap_has_a_ceiling_of_its_own(self, provider: Address, percent: int) -> None:
        left = self.side.gate.economics.bootstrap_ceiling(self.side.today) - self.side.gate.bootstrap
        assert self.side.credit(provider, 0, left * percent // 100, self.side.today)
        assert not self.side.credit(provider, 0, left + 1, self.side.today)

    @precondition(lambda self: self.side.history)
    @rule(provider=PROVIDER, data=st.data(), by_certificate=st.booleans())
    def claim(self, provider: Address, data: st.DataObject, *, by_certificate: bool) -> None:
        self.side.claim(provider, data.draw(st.sampled_from(sorted(self.side.history))), by_certificate=by_certificate)

    @precondition(lambda self: self.side.history)
    @rule(providers=st.lists(PROVIDER, max_size=6), data=st.data())
    def claim_for_some(self, providers: list[Address], data: st.DataObject) -> None:
        self.side.claim_many(data.draw(st.sampled_from(sorted(self.side.history))), providers)

    @rule()
    def pull(self) -> None:
        self.side.pull()

    @rule(amount=st.integers(1, 10**24))
    def endow(self, amount: int) -> None:
        self.side.donate(amount)

    @rule(late=st.integers(-1, 3))
    def roll(self, late: int) -> None:
        self.side.roll(max(0, self.side.today - late))

    @rule(provider=PROVIDER, receiver=PROVIDER)
    def redirect(self, provider: Address, receiver: Address) -> None:
        self.side.redirect(provider, receiver)

    @rule(receiver=PROVIDER)
    def redirect_by_order(self, receiver: Address) -> None:
        self.side.redirect_by_order(receiver)

    @rule()
    def settle_up(self) -> None:
        self.side.settle_up()

    @invariant()
    def s11_what_was_accepted_is_credited(self) -> None:
        self.side.s11_what_was_accepted_is_credited()

    @invariant()
    def s23_a_day_takes_one_percent_of_the_pool_at_most(self) -> None:
        self.side.s23_a_day_takes_one_percent_of_the_pool_at_most()

    @invariant()
    def s24_the_bootstrap_stays_within_its_reserve(self) -> None:
        self.side.s24_the_bootstrap_stays_within_its_reserve()

    @invariant()
    def s32_payments_go_where_they_were_asked_to(self) -> None:
        self.side.s32_payments_go_where_they_were_asked_to()

    @invariant()
    def s33_everybody_was_paid_what_was_claimed(self) -> None:
        self.side.s33_everybody_was_paid_what_was_claimed()

    @invariant()
    def s35_the_contract_is_solvent(self) -> None:
        self.side.s35_the_contract_is_solvent()

    @invariant()
    def s37_the_market_stays_within_its_days(self) -> None:
        self.side.s37_the_market_stays_within_its_days()

    def teardown(self) -> None:
        """S33: nothing is stuck, whoever was credited is paid to the last wei."""
        if hasattr(self, "side"):
            self.side.settle_up()


TestEconomy = Economy.TestCase
TestEconomy.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)


def economics(policy: BudgetPolicy, endowment: int, late_days: int) -> Economics:
    return Economics(
        LIFELIKE.schedule, 0, SLOT_S * 1_000, DAY_SLOTS, policy, endowment_wei=endowment, late_days=late_days
    )


@given(
    st.sampled_from(list(BudgetPolicy)),
    st.sampled_from([0, 5_000 * MOR, 10**6 * MOR]),
    st.integers(0, 3),
    st.lists(
        st.tuples(st.integers(1, 3), st.lists(st.integers(0, 100), min_size=4, max_size=4), st.booleans()),
        max_size=12,
    ),
)
@settings(max_examples=100, deadline=None)
def test_no_honest_batch_is_ever_refused(
    policy: BudgetPolicy, endowment: int, late_days: int, days: list[tuple[int, list[int], bool]]
) -> None:
    """A ledger that spends what it likes of each day's budget, partly late; any of its batches may be submitted.

    ``days``: how many days on, what percent is spent of today's budget and of the late days', and whether a batch is
    submitted.
    """
    terms = economics(policy, endowment, late_days)
    gate = BudgetGate(terms)
    left: dict[int, int] = {}
    credited, day = 0, -1
    for days_on, percents, submitted in days:
        for coming in range(day + 1, day + days_on + 1):
            open_days = {late: wei for late, wei in left.items() if coming - late <= late_days}
            left = open_days | {coming: terms.budget(coming, credited + sum(open_days.values()))}
        day += days_on
        for spent_on, percent in zip(sorted(left, reverse=True), percents, strict=False):
            amount = left[spent_on] * percent // 100
            left[spent_on] -= amount
            credited += amount
        if submitted:
            assert gate.objection(day, credited, 0) is None
    assert credited <= terms.income(max(day, 0))


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.sampled_from(list(BudgetPolicy)))
@settings(max_examples=100, deadline=None)
def test_s23_the_unused_pool_falls_by_one_percent_a_day_at_most(spent: list[int], policy: BudgetPolicy) -> None:
    terms = economics(policy, 20_000 * MOR, 1)
    credited = 0
    for day, percent in enumerate(spent):
        before = terms.unused(day, credited)
        credited += terms.budget(day, credited) * percent // 100
        assert terms.unused(day + 1, credited) * 100 >= before * 99
        assert credited <= terms.income(day)


@given(st.integers(2, 60), st.sampled_from(list(BudgetPolicy)), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_s23_a_lying_committee_gets_the_late_days_and_two_more_where_batches_come_daily(
    more: int, policy: BudgetPolicy, late_days: int
) -> None:
    """Nothing is credited for days, batches show it; then the committee takes all it can."""
    idle = late_days + more
    terms = economics(policy, 20_000 * MOR, late_days)
    gate = BudgetGate(terms)
    for day in range(idle):
        assert gate.objection(day, 0, 0) is None
    taken = terms.late(idle - 1)
    for day in (idle - 1, idle):
        taken += terms.budget(day, taken)
    assert gate.objection(idle, taken + 1, 0) == "compute: over budget"
    assert gate.objection(idle, taken, 0) is None
    assert taken <= sum(terms.budget(day, 0) for day in range(idle - late_days - 1, idle + 1))


if __name__ == "__main__":
    examples = int(sys.argv[1]) if sys.argv[1:] else 500
    longer = settings(max_examples=examples, stateful_step_count=60, deadline=None)
    run_state_machine_as_test(Economy, settings=longer)
    print(f"{examples} examples of 60 steps held all invariants")
