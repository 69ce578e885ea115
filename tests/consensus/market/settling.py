"""What the ledger makes of one settlement."""

from typing import Any

import pytest

from consensus.market.errors import SettlementInvalid
from consensus.market.ledger import settle
from consensus.market.ledger_state import (
    Ledger,
    Outcome,
)
from consensus.market.settlement import verify_settlement
from gossip.messages.session import Settlement
from tests.consensus.builders import World


def outcome(
    world: World, settlement: Settlement, ledger: Ledger | None = None, slot: int = 10, **options: Any
) -> Outcome:
    ids = verify_settlement(settlement, world.terms)
    return settle(ledger or world.ledger(), settlement, ids, slot, world.terms, **options)


def reason(world: World, settlement: Settlement, ledger: Ledger | None = None, slot: int = 10) -> str:
    with pytest.raises(SettlementInvalid) as refused:
        outcome(world, settlement, ledger, slot)
    return refused.value.reason
