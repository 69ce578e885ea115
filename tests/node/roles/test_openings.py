"""What a member opens a day with, and which openings of others it finds fair: ranks for the variant of S44."""

from collections.abc import Sequence

import pytest
import structlog
from msgspec.structs import replace

from consensus.market import access
from consensus.market.ledger_state import Ledger
from contracts.typed_data import Address
from gossip.messages.committee import ProviderRank
from node.chain import ChainReader
from node.roles.openings import Openings
from tests.consensus.builders import WEI, World, address, make_terms
from tests.node.roles.fakes import FakeChain

BIDDERS = [address("bidder"), address("poor bidder")]


class Opener:
    """One member with a chain of its own; ``provider`` was credited on day 0, ``bidder`` bids only."""

    def __init__(self, *, is_variant: bool = True) -> None:
        self.world = World(make_terms(withhold_only_if_user_richer=is_variant))
        self.ledger: Ledger = self.world.after(self.world.ledger(), [self.world.settlement()], slot=10)
        self.chain = FakeChain()
        self.chain.block = 150
        self.chain.balances = {address("provider"): 3 * WEI, address("bidder"): 1}

    def by(self, bidders: Sequence[Address]) -> Openings:
        reader = ChainReader(self.chain, "test://", 5.0)
        return Openings(self.world.terms, structlog.get_logger(), reader, lambda: bidders)


async def test_s44_an_opening_tells_who_holds_how_much() -> None:
    opener = Opener()
    opening = await opener.by(BIDDERS).make(1, opener.ledger)
    expected = {address("provider"): access.rank(3 * WEI), address("bidder"): 1}
    assert {one.provider: one.rank for one in opening.ranks} == expected, "who holds nothing is left out"
    assert [one.provider for one in opening.ranks] == sorted(expected)
    assert await opener.by([]).is_fair(opening, opener.ledger), "another member's book may differ"
    assert opener.world.after(opener.ledger, slot=100, opening=opening).ranks[1] == expected


@pytest.mark.parametrize("is_variant", [True, False])
async def test_s34_nothing_about_balances_is_told_without_the_variant(is_variant: bool) -> None:
    opener = Opener(is_variant=is_variant)
    opening = await opener.by(BIDDERS).make(1, opener.ledger)
    assert bool(opening.ranks) == is_variant
    assert await opener.by(BIDDERS).is_fair(opening, opener.ledger)


async def test_s44_a_wrong_or_missing_rank_is_unfair() -> None:
    opener = Opener()
    judge = opener.by(BIDDERS)
    opening = await judge.make(1, opener.ledger)
    richer = tuple(ProviderRank(one.provider, one.rank + 1) for one in opening.ranks)
    nobody = (ProviderRank(address("nobody"), 1),)
    without_provider = tuple(one for one in opening.ranks if one.provider != address("provider"))
    for ranks in (richer, without_provider, nobody, ()):
        assert not await judge.is_fair(replace(opening, ranks=ranks), opener.ledger)
    without_bidder = tuple(one for one in opening.ranks if one.provider != address("bidder"))
    assert await judge.is_fair(replace(opening, ranks=without_bidder), opener.ledger), "no state says that it bids"


async def test_s5_an_outage_carries_ranks_over() -> None:
    opener = Opener()
    opener.chain.down = True
    judge = opener.by(BIDDERS)
    opening = await judge.make(1, opener.ledger)
    assert (opening.snapshot_block, opening.ranks) == (opener.ledger.account.snapshot_block, ())
    assert await judge.is_fair(opening, opener.ledger)
    forged = replace(opening, ranks=(ProviderRank(address("bidder"), 50),))
    assert not await judge.is_fair(forged, opener.ledger), "what can't be checked isn't believed"
    opener.chain.down = False
    assert not await opener.by(BIDDERS).is_fair(forged, opener.ledger)
