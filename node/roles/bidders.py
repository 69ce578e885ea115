"""Which bidders hold MOR (S43), for whoever must not wait for the chain: what gossip passes on is judged at once.

A bid of somebody who is known to hold too little is not passed on, which is nobody's fault who did: their chain may be
ahead or behind. Somebody unknown is let through, and asked about afterwards; so that fresh addresses do not get past,
all of them together keep to one pace, and a newcomer that finds it used up comes with the next comparison of books. Who
was known to hold MOR at an earlier snapshot stays so until the new one says otherwise, in an outage of the chain for as
long as that lasts (S5).
"""

from collections import OrderedDict

import trio

from consensus.market.errors import MarketError
from consensus.market.ledger_state import account_of
from consensus.market.throttle import Bucket
from contracts.errors import ChainError
from contracts.typed_data import Address
from node.chain import ChainReader
from node.context import Node, now_ms
from node.roles.public import PublicState

MIN_BIDDER_WEI = 1
"""What a bidder has to hold: any MOR at all (S43)."""

KNOWN = 20_000
"""Bidders remembered; the one heard of longest ago goes first."""

ASKED_AT_ONCE = 256
"""Balances in one question to the chain, and unknown bidders that wait for theirs."""

STRANGERS_PER_S, STRANGERS_AT_ONCE = 4, 512
"""Messages of unknown bidders that are passed on, of all of them together."""

LOOK_EVERY_S = 0.5


class Bidders:
    """One node's view; :meth:`run` keeps it."""

    def __init__(self, node: Node, public: PublicState, chain: ChainReader) -> None:
        self._node = node
        self._public = public
        self._chain = chain
        self._known: OrderedDict[Address, tuple[int, int]] = OrderedDict()
        """Snapshot block and wei."""
        self._wanted: dict[Address, None] = {}
        self._strangers = Bucket(STRANGERS_AT_ONCE, now_ms())
        self._block = -1
        self.refused = 0
        """Messages that were not passed on: of bidders without MOR, or of too many unknown ones."""

    async def run(self) -> None:
        """Ask about those who were heard of, for ever."""
        while True:
            await self._look()
            await trio.sleep(LOOK_EVERY_S)

    def passes(self, bidder: Address) -> bool:
        """Whether to pass a bidder's message on. Never waits."""
        held = self._known.get(bidder)
        if held is not None:
            self._known.move_to_end(bidder)
            block, wei = held
            is_fresh = block == self._block
            if not is_fresh:
                self._want(bidder)
            if wei >= MIN_BIDDER_WEI:
                return True
            if is_fresh:
                self.refused += 1
                return False
        if self._strangers.take(STRANGERS_PER_S, STRANGERS_AT_ONCE, now_ms()):
            self.refused += 1
            return False
        self._want(bidder)
        return True

    def _want(self, bidder: Address) -> None:
        if len(self._wanted) < ASKED_AT_ONCE:
            self._wanted[bidder] = None

    async def _look(self) -> None:
        try:
            account = account_of(self._public.ledger, self._node.terms, self._today())
        except MarketError as error:
            self._node.log.info("no balances for this day", reason=str(error))
            return
        block, asked = account.snapshot_block, list(self._wanted)
        self._wanted.clear()
        self._block = block
        if not asked:
            return
        try:
            found = await self._chain.balances(asked, block)
        except ChainError as error:
            self._node.log.info("balances of bidders are not known", reason=str(error))
            for bidder in asked:
                self._want(bidder)
            return
        for bidder, wei in found.items():
            self._known[bidder] = block, wei
            self._known.move_to_end(bidder)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def _today(self) -> int:
        return self._node.terms.params.day_of(self._node.slot())
