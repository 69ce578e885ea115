"""What a day may spend (S23, S24, S37), as integers: the one place where budget and bootstrap reserve are worked out.

Two policies, a network parameter: the compute emission of the day, or 1 % of the pool at the end of the day before.
Either way no more goes out in a day than its emission and 1 % of the pool, so the unused pool falls by at most 1 %.
What a day leaves unspent stays in the pool; neither later days nor the bootstrap reserve spend it. Days of a network
are days of the emission, the first of both being 0.
"""

from consensus.market.ledger_state import Ledger, day_accounts, oldest_day
from consensus.params import NetworkParams
from contracts.emission import DAY_S, PAYOUT_START_S, compute_emission, daily_budget
from contracts.typed_data import Uint256

POOL_PERCENT = 1
"""What a day may take from the pool at most, in percent (S23)."""


def pool_at_start(day: int, credited_wei: int) -> int:
    """Wei in the pool when ``day`` starts: what was emitted for compute before, less what sessions can have been paid.

    ``credited_wei`` is :func:`market_credit`.
    """
    emitted = compute_emission(PAYOUT_START_S, PAYOUT_START_S + day * DAY_S)
    return max(0, emitted - credited_wei)


def compute_budget(day: int, credited_wei: int, params: NetworkParams) -> Uint256:
    """The budget of ``day`` in wei, for its opening; ``credited_wei`` as in :func:`pool_at_start`.

    Raises :class:`~contracts.errors.ContractsError` for a day before the first.
    """
    share = pool_at_start(day, credited_wei) * POOL_PERCENT // 100
    emission = int(daily_budget(day))
    wanted = emission if params.budget_policy == "emission" else share
    return Uint256(min(wanted, emission + share))


def market_credit(ledger: Ledger, params: NetworkParams, day: int) -> int:
    """Wei that sessions have been credited when ``day`` opens after ``ledger``, the bootstrap left out.

    A session is paid from the budget of its ticket's day, in a batch of the next day where it comes late; so what the
    days before may still pay counts as paid. Whatever comes late, the total then stays within what the chain allows.
    """
    accounts, first = day_accounts(ledger, params, day, None), oldest_day(day * params.day_slots, params)
    open_wei = sum(account.budget_left_wei for account in accounts.values() if first <= account.day < day)
    return int(ledger.total_credited) - int(ledger.bootstrap_credited) + open_wei
