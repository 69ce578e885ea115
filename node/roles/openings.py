"""What a new day starts from: supply, budget, the next committee and providers' ranks, read at a snapshot block.

A chain outage carries all but the budget over.
"""

from collections.abc import Callable, Iterable

import structlog

from consensus.market import access
from consensus.market.bootstrap import by_credit
from consensus.market.budget import compute_budget, market_credit
from consensus.market.ledger_state import Ledger
from consensus.membership import draw
from consensus.params import Terms
from contracts.errors import ChainError
from contracts.typed_data import Address, Uint256
from gossip.messages.committee import MAX_RANKED, DayOpening, DrawnMember, ProviderRank
from node.chain import ChainReader


class Openings:
    """Makes the opening that this member would propose, and judges those of others."""

    def __init__(
        self,
        terms: Terms,
        log: structlog.stdlib.BoundLogger,
        chain: ChainReader | None,
        bidders: Callable[[], Iterable[Address]],
    ) -> None:
        """``bidders`` are the providers whose live bids this member knows."""
        self._terms = terms
        self._log = log
        self._chain = chain
        self._bidders = bidders

    async def make(self, day: int, ledger: Ledger) -> DayOpening:
        """The opening of ``day``. Without a chain the supply of the day before is carried over."""
        budget = self._budget(day, ledger)
        previous = ledger.account
        if self._chain is not None:
            try:
                block, supply = await self._chain.snapshot_supply()
                drawn = await self._draw(self._chain, ledger, block)
                ranks = await self._ranks(self._chain, ledger, block, self._bidders())
                return DayOpening(day, block, Uint256(supply), budget, drawn, ranks)
            except ChainError as error:
                self._log.warning("day opens without the chain", day=day, reason=str(error))
        return DayOpening(day, previous.snapshot_block, previous.supply_wei, budget)

    async def _draw(self, chain: ChainReader, ledger: Ledger, block: int) -> tuple[DrawnMember, ...]:
        """Who takes over next; nobody new is drawn while somebody waits to."""
        return () if ledger.drawn is not None else draw(await chain.candidates(block), ledger.running)

    async def _ranks(
        self, chain: ChainReader, ledger: Ledger, block: int, others: Iterable[Address]
    ) -> tuple[ProviderRank, ...]:
        """Who holds how much, for the variant of S44 alone: whoever was credited on the day before, and ``others``."""
        if not self._terms.params.tells_ranks:
            return ()
        wanted = list(dict.fromkeys([*(who for who, _ in by_credit(ledger.day_credits, MAX_RANKED)), *others]))[
            :MAX_RANKED
        ]
        found = await chain.balances(wanted, block)
        return tuple(ProviderRank(who, access.rank(found[who])) for who in sorted(wanted) if found[who])

    async def is_fair(self, opening: DayOpening, ledger: Ledger) -> bool:
        """Whether the budget follows the formula, and the rest is what this member reads at the same block."""
        if opening.budget_wei != self._budget(opening.day, ledger):
            return False
        previous = ledger.account
        is_carried = (opening.snapshot_block, opening.supply_wei) == (previous.snapshot_block, previous.supply_wei)
        if is_carried and not opening.ranks:
            return not opening.drawn
        if self._chain is None or opening.snapshot_block < previous.snapshot_block:
            return False
        try:
            drawn = () if is_carried else await self._draw(self._chain, ledger, opening.snapshot_block)
            listed = [one.provider for one in opening.ranks]
            ranks = await self._ranks(self._chain, ledger, opening.snapshot_block, listed)
            if (opening.drawn, opening.ranks) != (drawn, ranks):
                return False
            return await self._chain.supply(opening.snapshot_block) == opening.supply_wei
        except ChainError as error:
            self._log.warning("opening can't be checked", day=opening.day, reason=str(error))
            return False

    def _budget(self, day: int, ledger: Ledger) -> Uint256:
        return compute_budget(day, market_credit(ledger, self._terms, day), self._terms)
