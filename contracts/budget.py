"""What the Compute Contract lets the committee credit, day by day (S23, S24, S35, S37). Pure.

The integer formula that contracts/compute.vy enforces and that a day's opening follows, so that the contract refuses no
batch that the ledger allowed. Day d begins at ``genesis_s + d * day_s``; a day's budget depends on nothing but the
schedule and the market's credit at the end of the day before (what the day before may still pay late counts as paid)::

    income(d)  = endowment + emitted(start of d) - reserve(start of d)
    unused(d)  = income(d) - market credit at the end of d - 1          the unused compute pool
    wanted(d)  = emission of d  |  unused(d) / 100                      the two policies
    cap(d)     = income(d + 1) - income(d) + unused(d) / 100            S23: the pool falls by at most 1 %
    budget(d)  = min(wanted(d), cap(d), unused(d))                      never more than has been emitted (S35)

``reserve`` is the bootstrap reserve (S24), a tenth of the first 365 intervals' emission, with a ceiling of its own.
:class:`BudgetGate` is the contract's half: what it may accept when it knows only some of the batches.
"""

import enum

import msgspec

from contracts.emission import compute_period_reward
from contracts.errors import ContractsError

BOOTSTRAP_INTERVALS = 365
"""The first year (S24), in emission intervals."""

BOOTSTRAP_SHARE = 10
"""The bootstrap reserve is one tenth of compute's emission: 2.4 % of all where compute is 24 %."""

POOL_SHARE = 100
"""One percent (S23)."""

MAX_LATE_DAYS = 64
"""A session may be paid so many days late at most."""


class BudgetPolicy(enum.IntEnum):
    """What a day's budget is by rule; S23 and the pool bound it either way."""

    EMISSION = 0
    """The day's compute emission."""
    POOL_PERCENT = 1
    """1 % of the unused pool at the end of the day before."""


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pool's emission: wei per interval, Unix seconds, seconds. The contract's struct, field by field."""

    initial_wei: int
    decrease_wei: int
    payout_start_s: int
    interval_s: int

    def emitted(self, until_s: int) -> int:
        """Wei emitted from the beginning until ``until_s``."""
        return compute_period_reward(
            self.initial_wei,
            self.decrease_wei,
            payout_start_s=self.payout_start_s,
            interval_s=self.interval_s,
            start_s=self.payout_start_s,
            end_s=until_s,
        )


class Economics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a Compute Contract is deployed with, apart from addresses."""

    schedule: Schedule
    genesis_s: int
    """When slot 0 begins, Unix seconds."""
    slot_ms: int
    day_slots: int
    policy: BudgetPolicy = BudgetPolicy.EMISSION
    endowment_wei: int = 0
    """Wei that the pool holds at genesis."""
    late_days: int = 1
    """For so many days after its own a session may still be paid, out of its own day's budget."""

    @property
    def day_s(self) -> int:
        """Seconds of a day."""
        return self.slot_ms * self.day_slots // 1_000

    def day_start_s(self, day: int) -> int:
        """When ``day`` begins, Unix seconds."""
        return self.genesis_s + day * self.day_s

    def emission(self, day: int) -> int:
        """Wei that the pool receives during ``day``, the reserve's share included."""
        return self.schedule.emitted(self.day_start_s(day + 1)) - self.schedule.emitted(self.day_start_s(day))

    def reserve(self, until_s: int) -> int:
        """Wei set aside for the bootstrap until ``until_s`` (S24)."""
        first_year = self.schedule.payout_start_s + BOOTSTRAP_INTERVALS * self.schedule.interval_s
        return self.schedule.emitted(min(until_s, first_year)) // BOOTSTRAP_SHARE

    def bootstrap_ceiling(self, day: int) -> int:
        """Wei of bootstrap that batches up to ``day`` may have credited: the reserve of the days before it."""
        return self.reserve(self.day_start_s(day))

    def income(self, day: int) -> int:
        """Wei that the market's pool has received when ``day`` begins."""
        start_s = self.day_start_s(day)
        return self.endowment_wei + self.schedule.emitted(start_s) - self.reserve(start_s)

    def unused(self, day: int, credited_before: int) -> int:
        """Wei in the unused pool when ``day`` begins, 0 at least."""
        return max(0, self.income(day) - credited_before)

    def budget(self, day: int, credited_before: int) -> int:
        """Wei that the market may be credited on ``day`` (S23, S37).

        ``credited_before`` is the market's credit (bootstrap left out) at the end of the day before. Raises
        :class:`ContractsError` for a day before the first.
        """
        if day < 0 or credited_before < 0:
            raise ContractsError(f"no budget for day {day} after {credited_before} wei")
        unused = self.unused(day, credited_before)
        percent = unused // POOL_SHARE
        wanted = self.emission(day) if self.policy is BudgetPolicy.EMISSION else percent
        return min(wanted, self.income(day + 1) - self.income(day) + percent, unused)

    def late(self, day: int) -> int:
        """Wei that may still be credited on ``day`` out of the budgets of days before, at most."""
        return sum(self.budget(before, 0) for before in range(max(0, day - self.late_days), day))

    def roll(self, rolled: int, limit: int, until: int, known: int | None = None) -> int:
        """The most that the market can have been credited honestly by the end of day ``until - 1``.

        ``limit`` is the same for day ``rolled - 1``, and ``known`` the market's total in a batch of day ``until - 1``:
        days that are too old to be paid late can't have led above it.
        """
        for day in range(rolled, until):
            if known is not None and day == until - 1:
                limit = min(limit, known + self.late(day))
            limit += self.budget(day, limit)
        return limit


class BudgetGate(msgspec.Struct):
    """The contract's memory of the budget: what it has accepted, and how far it may go. Its twin, for tests and audits.

    Heights may be skipped and batches may come late, so the contract doesn't know what a day ended with. It keeps
    ``limit``, the most that honest days can have led to by the end of day ``rolled - 1``.
    """

    economics: Economics
    rolled: int = 0
    limit: int = 0
    credited: int = 0
    """Wei, bootstrap included."""
    bootstrap: int = 0

    @property
    def market(self) -> int:
        """Wei credited to bids."""
        return self.credited - self.bootstrap

    def objection(self, day: int, total: int, bootstrap: int) -> str | None:
        """Why a batch is refused, in the contract's words; None where it is accepted, and then it is remembered."""
        if total < self.credited or bootstrap < self.bootstrap or total - bootstrap < self.market:
            return "compute: falling total"
        if bootstrap > self.bootstrap and bootstrap > self.economics.bootstrap_ceiling(day):
            return "compute: over reserve"
        market = total - bootstrap
        limit = self.economics.roll(self.rolled, self.limit, day + 1, market)
        if market > limit:
            return "compute: over budget"
        self.rolled, self.limit = max(self.rolled, day + 1), limit
        self.credited, self.bootstrap = total, bootstrap
        return None

    def roll(self, day: int, today: int) -> str | None:
        """Why days up to ``day`` are not caught up with on ``today``, in the contract's words; None where they are.

        A stranger may ask for it at any time: a day that batches may still pay for is left to them, because a batch
        proves how little earlier days have led to and a roll does not.
        """
        if day + self.economics.late_days >= today:
            return "compute: day not over"
        if day < self.rolled:
            return "compute: old day"
        self.limit = self.economics.roll(self.rolled, self.limit, day + 1)
        self.rolled = day + 1
        return None
