"""Bids that a draw should have had: what a reader with a book of its own holds against a router's account of a match.

A match says who took part and, of all others as cheap, why not. Whoever heard a bid in time and finds its provider in
neither list has found a router that hides bids (S27, S34). Books differ by what gossip takes, so a bid counts here only
once it has been heard a whole slot before it had to count.
"""

from collections import OrderedDict
from collections.abc import Iterable

from consensus.market.book import StandingBid
from consensus.market.matching import MatchContext, ranked_price
from contracts.typed_data import Address, Digest
from gossip.messages.base import Unit
from gossip.messages.market import Match, Rfc

KEPT_BIDS = 8
"""Bids of one provider for one model that are remembered: at the usual pace of renewal the last eight minutes."""

KEPT_SEATS = 5_000
"""Providers times models that are remembered; who bid longest ago goes first."""


class BidHistory:
    """The last bids of every provider: an explanation is asked for after the bids were renewed."""

    def __init__(self, kept_bids: int = KEPT_BIDS, kept_seats: int = KEPT_SEATS) -> None:
        self._kept_bids = kept_bids
        self._kept_seats = kept_seats
        self._seats: OrderedDict[tuple[Address, Digest], list[StandingBid]] = OrderedDict()

    def note(self, standing: StandingBid) -> None:
        """Remember a bid that the book has taken; they come in the order of their sequence."""
        seat = standing.bid.provider, standing.bid.model_id
        held = self._seats.pop(seat, [])
        if not held or held[-1].bid_id != standing.bid_id:
            held.append(standing)
        self._seats[seat] = held[-self._kept_bids :]
        while len(self._seats) > self._kept_seats:
            self._seats.popitem(last=False)

    def known_by(self, model_id: Digest, slot: int) -> tuple[StandingBid, ...]:
        """Each provider's bid for a model that counted in ``slot`` and had been heard a slot before it had to count.

        A provider whose newer bid came in between is left out: the router may have had the one or the other.
        """
        found = []
        for (_, model), held in self._seats.items():
            if model != model_id:
                continue
            older = [standing for standing in held if standing.seen_slot < slot - 1]
            is_settled = not any(slot - 1 <= standing.seen_slot <= slot for standing in held)
            if older and is_settled:
                found.append(older[-1])
        return tuple(found)

    def of_provider(self, provider: Address, model_id: Digest, slot: int) -> StandingBid | None:
        """The provider's bid that counted in ``slot``; None where it had none, or it is forgotten."""
        held = self._seats.get((provider, model_id), [])
        return next((standing for standing in reversed(held) if standing.seen_slot < slot), None)


def band_limit(match: Match, context: MatchContext) -> int:
    """The dearest that a bid may rank and be in the band, in 1/100 of what :func:`ranked_price` counts in."""
    penalties = context.beacons.get(match.beacon, {})
    lowest = min((ranked_price(signed.payload, penalties) for signed in match.candidates), default=0)
    return lowest * (100 + context.terms.params.tie_percent)


def ranks_within(standing: StandingBid, match: Match, context: MatchContext) -> bool:
    """Whether a bid ranks within the band of a match, or below it."""
    penalties = context.beacons.get(match.beacon, {})
    return ranked_price(standing.bid, penalties) * 100 <= band_limit(match, context)


def is_eligible(standing: StandingBid, match: Match, rfc: Rfc, context: MatchContext) -> bool:
    """Whether a bid could have been matched with an RFC in a match's slot, by what is public."""
    bid = standing.bid
    slot_start = context.terms.genesis_ms + match.slot * context.terms.params.slot_ms
    slot_end = slot_start + context.terms.params.slot_ms
    return (
        bid.model_id == rfc.model_id
        and bid.unit is Unit.TEXT_TOKEN
        and bid.slots > 0
        and bid.price_wei <= context.ceiling_wei
        and bid.prompt_max >= rfc.prompt_bound
        and bid.expires_ms > slot_end
    )


def hidden_bids(match: Match, rfc: Rfc, known: Iterable[StandingBid], context: MatchContext) -> tuple[StandingBid, ...]:
    """Those of ``known`` that are as cheap as the candidates and are neither among them nor accounted for.

    ``known`` is what :meth:`BidHistory.known_by` says; bids of providers without a record or a model proof are for the
    caller to take out. A draw that was full (64 candidates) hides nobody: the cheapest took part.
    """
    told = {signed.payload.provider for signed in match.candidates} | {one.provider for one in match.left_out}
    return tuple(
        standing
        for standing in known
        if standing.bid.provider not in told
        and is_eligible(standing, match, rfc, context)
        and ranks_within(standing, match, context)
    )
