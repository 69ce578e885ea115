"""Settlements checked on the event loop in turns of a few ms, between which everything else runs.

Checking ten thousand takes seconds. Threads would be no faster: whoever checks gives the interpreter's lock away with
each signature, and waits 5 ms for it.
"""

from collections.abc import AsyncIterator, Sequence

import trio

from consensus.market.errors import SettlementInvalid
from consensus.market.settlement import VerifiedSettlements
from gossip.messages.session import Settlement

TURN_S = 0.01
"""How long signatures are checked before everything else has its turn."""

MUCH = 200
"""A batch of so many settlements, or one from a pool of so many, is the work of a thread of its own."""


async def check_in_turns(
    verified: VerifiedSettlements, settlements: Sequence[Settlement]
) -> AsyncIterator[tuple[Settlement, SettlementInvalid | None]]:
    """Those that ``verified`` does not know yet, checked and, where they hold, remembered; and what is wrong."""
    began = trio.current_time()
    for settlement in settlements:
        if settlement in verified:
            continue
        if trio.current_time() > began + TURN_S:
            await trio.lowlevel.checkpoint()
            began = trio.current_time()
        try:
            verified(settlement)
        except SettlementInvalid as error:
            yield settlement, error
        else:
            yield settlement, None
