"""A model's live bids in the order in which they are drawn from, put in order once and used for many RFCs.

:func:`consensus.market.matching.candidates` is the rule; this says the same, and who is left out of a draw and why,
without looking at every bid each time: who can't be drawn is a bit in a number, so that the next who can is found at
once, and the band of an RFC that nothing else keeps anybody out of is the one that was found for the RFC before.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from consensus.market.book import StandingBid
from consensus.market.matching import MAX_CANDIDATES, NO_PENALTIES, ranked_price
from consensus.market.rivals import counts_as_rival, needed_rivals, payable
from consensus.params import NetworkParams
from contracts.typed_data import Address
from gossip.messages.market import LeftOut, Why

NOBODY: Mapping[Address, Why] = {}

KeepsOut = Callable[[StandingBid], Why | None]
"""Why a bid can't take part in one RFC's draw; None where it can."""


class Band(msgspec.Struct, frozen=True):
    """Who takes part in a draw, by bid id, and who of the others is as cheap and why not, by address."""

    bids: tuple[StandingBid, ...]
    left_out: tuple[LeftOut, ...]


class Ranking:
    """``bids``, one of each provider, as they rank under ``penalties``; ``barred`` providers are never drawn.

    Nothing changes but who has no slot left: :meth:`note_full`.
    """

    def __init__(
        self,
        bids: Sequence[StandingBid],
        params: NetworkParams,
        penalties: Mapping[Address, int] = NO_PENALTIES,
        barred: Mapping[Address, Why] = NOBODY,
    ) -> None:
        self.bids = bids
        self.penalties = penalties
        self.rivals = tuple(one for one in bids if one.bid.provider not in barred)
        """One bid of each provider that could be named beside a winner (S8)."""
        self._tie_percent = params.tie_percent
        self._needed = needed_rivals(params)
        self._counted = frozenset(one.bid.provider for one in self.rivals if counts_as_rival(one.bid, params))
        order = sorted(bids, key=lambda one: (ranked_price(one.bid, penalties), one.bid_id))
        self._order = order
        self._ranks = [ranked_price(one.bid, penalties) for one in order]
        self._at = {one.bid.provider: at for at, one in enumerate(order)}
        self._why = {at: why for at, one in enumerate(order) if (why := self._never(one, barred)) is not None}
        self._shut = sum(1 << at for at in self._why)
        self._full = 0
        self._sizes = sorted({one.bid.prompt_max for one in bids})
        self._roomy: dict[int, int] = {}
        self._lowest: dict[int, int | None] = {}
        self._found: dict[int, Band] = {}
        self.prompt_max = max((one.bid.prompt_max for one in bids), default=0)
        """T of the largest prompt that anybody takes."""
        self.payable_prompt_max = max((one.bid.prompt_max for one in payable(bids, bids, params)), default=0)
        """The same among those who have rivals enough, whoever is barred."""

    def _never(self, standing: StandingBid, barred: Mapping[Address, Why]) -> Why | None:
        why = barred.get(standing.bid.provider)
        return Why.NO_RIVALS if why is None and not self.is_payable(standing) else why

    def is_payable(self, standing: StandingBid) -> bool:
        """Whether enough others bid beside it, as :func:`consensus.market.rivals.payable` has it."""
        return len(self._counted) - (standing.bid.provider in self._counted) >= self._needed

    def bid_of(self, provider: Address) -> StandingBid | None:
        """The provider's bid; None where it has none here."""
        at = self._at.get(provider)
        return None if at is None else self._order[at]

    def note_full(self, provider: Address, *, is_full: bool) -> None:
        """A provider has no slot left, or one again."""
        at = self._at.get(provider)
        if at is not None and self._full >> at & 1 != is_full:
            self._full ^= 1 << at
            self._found.clear()

    def eligible(self, prompt_bound: int) -> Iterator[StandingBid]:
        """Those that could be drawn for a prompt if they had slots, the lowest first."""
        return (self._order[at] for at in _places(self._roomy_for(self._size(prompt_bound)) & ~self._shut))

    def lowest_price(self, prompt_bound: int) -> int | None:
        """Wei per T of the cheapest of :meth:`eligible`; None where there is none."""
        size = self._size(prompt_bound)
        if size not in self._lowest:
            self._lowest[size] = min((one.bid.price_wei for one in self.eligible(prompt_bound)), default=None)
        return self._lowest[size]

    def draw(self, prompt_bound: int = 0, keeps_out: KeepsOut | None = None) -> Band:
        """The candidates for a prompt and those as cheap that are left out, the 64 lowest of each at most.

        ``keeps_out`` is asked of each bid, from the lowest up to the end of the band, that has a slot and isn't barred.
        Of those that take too small prompts nothing is told.
        """
        size = self._size(prompt_bound)
        if keeps_out is not None:
            return self._draw(size, keeps_out)
        found = self._found.get(size)
        if found is None:
            found = self._found[size] = self._draw(size, _nobody)
        return found

    def band(self, takes: Callable[[StandingBid], bool]) -> tuple[StandingBid, ...]:
        """The candidates among payable bids that ``takes`` lets through."""
        return self.draw(keeps_out=lambda standing: None if takes(standing) else Why.NO_SLOT).bids

    def _draw(self, size: int, keeps_out: KeepsOut) -> Band:
        roomy, closed = self._roomy_for(size), self._shut | self._full
        band: list[StandingBid] = []
        out: dict[int, Why] = {}
        limit: int | None = None
        for at in _places(roomy & ~closed):
            if limit is not None and self._ranks[at] * 100 > limit:
                break
            standing = self._order[at]
            if (why := keeps_out(standing)) is not None:
                if len(out) < MAX_CANDIDATES:
                    out[at] = why
                continue
            band.append(standing)
            limit = self._ranks[at] * (100 + self._tie_percent) if limit is None else limit
            if len(band) == MAX_CANDIDATES:
                break
        if limit is None:
            return Band((), ())
        end = bisect_right(self._ranks, limit // 100)
        for at in _places(roomy & closed & ((1 << end) - 1), MAX_CANDIDATES):
            out[at] = self._why.get(at, Why.NO_SLOT)
        cheapest = (LeftOut(self._order[at].bid.provider, out[at]) for at in sorted(out)[:MAX_CANDIDATES])
        band.sort(key=lambda standing: standing.bid_id)
        return Band(tuple(band), tuple(sorted(cheapest, key=lambda one: one.provider)))

    def _size(self, prompt_bound: int) -> int:
        """The same for all prompts that the same bids take."""
        return bisect_left(self._sizes, prompt_bound)

    def _roomy_for(self, size: int) -> int:
        """The places of the bids that take prompts of a size."""
        found = self._roomy.get(size)
        if found is None:
            least = self._sizes[size] if size < len(self._sizes) else None
            takes = (at for at, one in enumerate(self._order) if least is not None and one.bid.prompt_max >= least)
            found = self._roomy[size] = sum(1 << at for at in takes)
        return found


def _nobody(_: StandingBid) -> None:
    return None


def _places(bits: int, most: int | None = None) -> Iterator[int]:
    """The places of the bits that are set, ascending; the first ``most`` of them."""
    while bits and most != 0:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
        most = None if most is None else most - 1
