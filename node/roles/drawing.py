"""One RFC's draws at its home router: band by band, less those that failed liveness, and who is asked (S27, S28)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import trio

from consensus.market.book import StandingBid
from consensus.market.matching import draw, pick
from consensus.market.ranking import Band
from consensus.market.waiting import Waiting
from contracts.typed_data import Digest
from gossip.messages.market import LeftOut

NO_BAND = Band((), ())


class Bands:
    """An RFC's bands, each found once all bids of those before it have failed, and the same for whoever looks ahead."""

    def __init__(self, find: Callable[[list[Digest]], Band]) -> None:
        self._find = find
        self._found: list[Band] = []

    def get(self, number: int, failed: list[Digest]) -> Band:
        """The band ``number``, from 0; ``failed`` are the bids of those before it."""
        if number == len(self._found):
            self._found.append(self._find(failed))
        return self._found[number]


@dataclass(slots=True)
class Drawing:
    """The draws of one RFC."""

    waiting: Waiting
    slot: int
    beacon: Digest
    secret: Digest
    bands: Bands
    rivals: tuple[StandingBid, ...]
    """One bid of each provider that could be named beside the winner (S8)."""
    band: Band = NO_BAND
    number: int = 0
    """Of the band that comes after this one."""
    unlive: list[Digest] = field(default_factory=list)
    """Bids of the present band that failed, in the order of the draws."""
    failed: list[Digest] = field(default_factory=list)
    """Those of earlier bands."""

    def next(self) -> StandingBid | None:
        """The next winner, None where every band has failed."""
        if len(self.unlive) == len(self.band.bids):
            self.failed += self.unlive
            self.unlive = []
            self.band = self.bands.get(self.number, self.failed)
            self.number += 1
        if not self.band.bids:
            return None
        drawn = draw(self.beacon, self.secret, self.waiting.rfc_id, len(self.unlive))
        return pick(self.band.bids, self.unlive, drawn)

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
        return self.band.left_out


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
