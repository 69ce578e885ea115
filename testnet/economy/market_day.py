"""One day of one model's market: who is sold how much, when every draw is by the rules and nobody's turn is special.

The draws of a day are summed: within a tie band every bid is drawn as often as any other, and one that is full is out,
so that the next ones and, once the band is empty, the next band get what is left. That is the draw's expectation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consensus.market import pairs
from consensus.market.book import StandingBid
from consensus.market.ranking import Ranking
from consensus.params import NetworkParams
from contracts.typed_data import Address


@dataclass(frozen=True, slots=True)
class Offer:
    """A bid and the T that its provider takes today."""

    standing: StandingBid
    capacity_t: int


def allocate(
    offers: Sequence[Offer],
    demand_t: int,
    ceiling_wei: int,
    params: NetworkParams,
    penalties: Mapping[Address, int],
) -> dict[Address, int]:
    """T that each provider gets of ``demand_t``: cheapest band first, within one evenly, none over its pair cap.

    The cap is every pass's, and so the sum's. Nothing where the model isn't payable.
    """
    bids = [offer.standing for offer in offers if offer.standing.bid.price_wei <= ceiling_wei]
    ranking = Ranking(bids, params, penalties)
    most = pairs.pair_cap(demand_t, params) if demand_t else 0
    left = {offer.standing.bid.provider: min(offer.capacity_t, most) for offer in offers}
    sold: dict[Address, int] = {}

    def takes(standing: StandingBid) -> bool:
        return left[standing.bid.provider] > 0

    while demand_t > 0 and (band := ranking.band(takes)):
        providers = [standing.bid.provider for standing in band]
        each = max(1, min(demand_t // len(providers), *(left[provider] for provider in providers)))
        for provider in providers:
            step = min(each, demand_t, left[provider])
            sold[provider] = sold.get(provider, 0) + step
            left[provider] -= step
            demand_t -= step
    return sold
