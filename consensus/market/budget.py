"""What a day may spend (S23, S35, S37): the formula of :mod:`contracts.budget`, on what the ledger knows.

The Compute Contract enforces the same formula, so that it refuses no batch that the ledger allowed. What a day leaves
unspent stays in the pool; neither later days nor the bootstrap reserve spend it.
"""

from consensus.market.ledger_state import Ledger, account_of
from consensus.params import Terms
from contracts.typed_data import Uint256


def compute_budget(day: int, credited_wei: int, terms: Terms) -> Uint256:
    """The budget of ``day`` in wei, for its opening; ``credited_wei`` is :func:`market_credit`.

    Raises :class:`~contracts.errors.ContractsError` for a day before the first.
    """
    return Uint256(terms.economics.budget(day, credited_wei))


def market_credit(ledger: Ledger, terms: Terms, day: int) -> int:
    """Wei that sessions have been credited when ``day`` opens after ``ledger``, the bootstrap left out.

    A session is paid from the budget of its ticket's day, in a batch of the next day where it comes late; so what the
    days before may still pay counts as paid. Whatever comes late, the total then stays within what the chain allows.
    """
    return int(account_of(ledger, terms, day).paid_before_wei)
