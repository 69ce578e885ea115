"""What a new day starts from: supply, budget and the next committee, read at a snapshot block.

A chain outage carries supply and committee over.
"""

from consensus.market.budget import compute_budget, market_credit
from consensus.market.ledger_state import Ledger
from consensus.membership import draw
from contracts.errors import ChainUnavailable
from contracts.typed_data import Uint256
from gossip.messages.committee import DayOpening, DrawnMember
from node.chain import ChainReader
from node.context import Node


class Openings:
    """Makes the opening that this member would propose, and judges those of others."""

    def __init__(self, node: Node, chain: ChainReader | None) -> None:
        self._node = node
        self._chain = chain

    async def make(self, day: int, ledger: Ledger) -> DayOpening:
        """The opening of ``day``. Without a chain the supply of the day before is carried over."""
        budget = self._budget(day, ledger)
        previous = ledger.account
        if self._chain is not None:
            try:
                block, supply = await self._chain.snapshot_supply()
                return DayOpening(day, block, Uint256(supply), budget, await self._draw(self._chain, ledger, block))
            except ChainUnavailable as error:
                self._node.log.warning("day opens without the chain", day=day, reason=str(error))
        return DayOpening(day, previous.snapshot_block, previous.supply_wei, budget)

    async def _draw(self, chain: ChainReader, ledger: Ledger, block: int) -> tuple[DrawnMember, ...]:
        """Who takes over next; nobody new is drawn while somebody waits to."""
        return () if ledger.drawn is not None else draw(await chain.candidates(block), ledger.running)

    async def is_fair(self, opening: DayOpening, ledger: Ledger) -> bool:
        """Whether the budget follows the formula and the supply is what this member reads at the same block."""
        if opening.budget_wei != self._budget(opening.day, ledger):
            return False
        previous = ledger.account
        if (opening.snapshot_block, opening.supply_wei) == (previous.snapshot_block, previous.supply_wei):
            return not opening.drawn
        if self._chain is None or opening.snapshot_block < previous.snapshot_block:
            return False
        try:
            if opening.drawn != await self._draw(self._chain, ledger, opening.snapshot_block):
                return False
            return await self._chain.supply(opening.snapshot_block) == opening.supply_wei
        except ChainUnavailable as error:
            self._node.log.warning("opening can't be checked", day=opening.day, reason=str(error))
            return False

    def _budget(self, day: int, ledger: Ledger) -> Uint256:
        terms = self._node.terms
        return compute_budget(day, market_credit(ledger, terms.params, day), terms)
