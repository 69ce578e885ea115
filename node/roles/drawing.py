"""One RFC's draws at its home router: band by band, less those that failed liveness, and who is asked (S27, S28)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import trio

from consensus.market.book import StandingBid
from consensus.market.matching import MAX_CANDIDATES, candidates, draw, pick, ranked_price
from consensus.market.waiting import Waiting
from contracts.typed_data import Address, Digest
from gossip.messages.market import LeftOut, Why


@dataclass(slots=True)
class Drawing:
    """The draws of one RFC over ``bids``."""

    waiting: Waiting
    slot: int
    beacon: Digest
    secret: Digest
    bids: tuple[StandingBid, ...]
    rivals: tuple[StandingBid, ...]
    """One bid of each provider that could be named beside the winner (S8)."""
    penalties: Mapping[Address, int]
    tie_percent: int
    others: Mapping[Address, tuple[StandingBid, Why]] = field(default_factory=dict)
    """Whose bids could have been among ``bids`` and are not, and why."""
    band: tuple[StandingBid, ...] = ()
    unlive: list[Digest] = field(default_factory=list)
    """Bids of the present band that failed, in the order of the draws."""
    failed: list[Digest] = field(default_factory=list)
    """Those of earlier bands."""

    def next(self) -> StandingBid | None:
        """The next winner, None where every band has failed."""
        if len(self.unlive) == len(self.band):
            self.failed += self.unlive
            self.unlive = []
            self.band = candidates(self.bids, self.tie_percent, self.penalties, self.failed)
        if not self.band:
            return None
        drawn = draw(self.beacon, self.secret, self.waiting.rfc_id, len(self.unlive))
        return pick(self.band, self.unlive, drawn)

    def next_after(self, asked: "list[Question]") -> StandingBid | None:
        """Who would be drawn next, were all of ``asked``, drawn in this order, to fail."""
        ahead = replace(self, unlive=list(self.unlive), failed=list(self.failed))
        following = ahead.next()
        for _ in asked:
            if following is None:
                return None
            ahead.unlive.append(following.bid_id)
            following = ahead.next()
        return following

    def left_out(self) -> tuple[LeftOut, ...]:
        """Those as cheap as the present band that take no part in it, by address, the cheapest 64 at most."""
        lowest = min(ranked_price(standing.bid, self.penalties) for standing in self.band)
        limit = lowest * (100 + self.tie_percent)
        failed = {s.bid.provider: (s, Why.UNLIVE) for s in self.bids if s.bid_id in self.failed}
        ranked = sorted(
            (ranked_price(standing.bid, self.penalties), provider, why)
            for provider, (standing, why) in {**self.others, **failed}.items()
        )
        as_cheap = [LeftOut(provider, why) for rank, provider, why in ranked if rank * 100 <= limit]
        return tuple(sorted(as_cheap[:MAX_CANDIDATES], key=lambda one: one.provider))


class Question:
    """A liveness check under way: to whom, and what came of it."""

    def __init__(self, standing: StandingBid) -> None:
        self.standing = standing
        self.is_live: bool | None = None
        """None while there is no answer and no deadline has passed."""
        self.decided = trio.Event()

    def decide(self, *, is_live: bool) -> None:
        """The answer, or that there was none in time."""
        self.is_live = is_live
        self.decided.set()
