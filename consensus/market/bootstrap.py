"""The bootstrap reserve (S24): for a year the leading providers of a day share a tenth of compute's emission of it.

The share is paid from a reserve of its own, a tenth of what the pool receives: 122,207.63236830168 MOR over Morpheus's
first 365 days, which is 2.4 % of all emissions in them. It goes through the same cumulative tree, in the first batch of
the next day with a batch. Shares are rounded down; what rounding leaves over, fewer wei than there are leaders, and the
share of a day without credits stay in the reserve for good.
"""

from collections.abc import Mapping
from heapq import nsmallest

from consensus.params import NetworkParams, Terms
from contracts.typed_data import Address, Uint256


def bootstrap_reserve(day: int, terms: Terms) -> Uint256:
    """Wei that the leaders of ``day`` share: nothing once the first ``bootstrap_days`` are over."""
    return Uint256(reserve_until(day + 1, terms) - reserve_until(day, terms))


def reserve_until(day: int, terms: Terms) -> Uint256:
    """Wei that all days before ``day`` may have paid to their leaders: within the contract's ceiling."""
    return Uint256(terms.economics.bootstrap_ceiling(min(day, terms.params.bootstrap_days)))


def by_credit(credited: Mapping[Address, int], most: int) -> list[tuple[Address, int]]:
    """The first ``most`` providers and their wei, the most wei first, among equals the lower address."""
    return nsmallest(most, credited.items(), key=lambda provider: (-provider[1], provider[0]))


def leaders(credited: Mapping[Address, int], params: NetworkParams) -> tuple[tuple[Address, int], ...]:
    """The providers with the most wei credited in a day, the most first; among equals the lower address."""
    return tuple(by_credit(credited, params.bootstrap_providers))


def bootstrap_shares(credited: Mapping[Address, int], reserve_wei: int, params: NetworkParams) -> dict[Address, int]:
    """Wei for each leader of a day: ``reserve_wei`` pro rata to what the day credited it, rounded down."""
    ranked = leaders(credited, params)
    total = sum(wei for _, wei in ranked)
    shares = {provider: reserve_wei * wei // total for provider, wei in ranked} if total else {}
    return {provider: share for provider, share in shares.items() if share}
