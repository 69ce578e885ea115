"""A model's live bids in the order in which they are drawn from, put in order once and used for many RFCs.

:func:`consensus.market.matching.candidates` is the rule; this says the same without looking at every bid each time:
it walks from the cheapest bid up, over those that can't take the RFC, to the end of the tie band.
"""

from collections.abc import Callable, Mapping, Sequence

from consensus.market.book import StandingBid
from consensus.market.matching import MAX_CANDIDATES, NO_PENALTIES, ranked_price
from consensus.market.rivals import counts_as_rival, needed_rivals
from consensus.params import NetworkParams
from contracts.typed_data import Address


class Ranking:
    """``bids``, one of each provider, as they rank under ``penalties``. Never changes."""

    __slots__ = ("_needed", "_ranked", "_rivals", "_tie_percent", "bids", "penalties")

    def __init__(
        self, bids: Sequence[StandingBid], params: NetworkParams, penalties: Mapping[Address, int] = NO_PENALTIES
    ) -> None:
        self.bids = bids
        self.penalties = penalties
        self._tie_percent = params.tie_percent
        self._needed = needed_rivals(params)
        self._rivals = frozenset(one.bid.provider for one in bids if counts_as_rival(one.bid, params))
        ranked = [(ranked_price(one.bid, penalties), one.bid_id, one) for one in bids if self.is_payable(one)]
        self._ranked = sorted(ranked, key=lambda entry: entry[:2])

    def is_payable(self, standing: StandingBid) -> bool:
        """Whether enough others bid beside it, as :func:`consensus.market.rivals.payable` has it."""
        return len(self._rivals) - (standing.bid.provider in self._rivals) >= self._needed

    def band(self, takes: Callable[[StandingBid], bool]) -> tuple[StandingBid, ...]:
        """The candidates among payable bids that ``takes`` lets through: rank within the tie of the lowest, by bid id.

        Looks at each bid that is cheaper than the end of the band, and at no other.
        """
        band: list[StandingBid] = []
        limit: int | None = None
        for rank, _, standing in self._ranked:
            if limit is not None and rank * 100 > limit:
                break
            if takes(standing):
                band.append(standing)
                limit = rank * (100 + self._tie_percent) if limit is None else limit
                if len(band) == MAX_CANDIDATES:
                    break
        band.sort(key=lambda standing: standing.bid_id)
        return tuple(band)
