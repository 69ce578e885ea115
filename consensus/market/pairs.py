"""What one provider may be credited of one access pass (S8): a bound on what two who are one can move in a day.

A share of the pass's allowance, not of the budget: whoever spreads its allowance over more session keys gains nothing.
"""

from consensus.params import NetworkParams
from contracts.typed_data import Address

EMPTY: dict[bytes, int] = {}


def pair_key(session_key: Address, provider: Address) -> bytes:
    """Session key ‖ provider: what the ledger counts by."""
    return session_key + provider


def pair_cap(allowance: int, params: NetworkParams) -> int:
    """T of a pass of ``allowance`` that are credited to one provider at most; 1 at least."""
    return max(1, allowance * min(100, params.pair_percent) // 100)


def is_capped(params: NetworkParams) -> bool:
    """Whether the network has such a cap; without one nothing is counted."""
    return params.pair_percent < 100
