"""Independent providers (S8): a model is payable only while several addresses bid for it.

Who deals with itself would sell a model that nobody else has, where no second provider can tell. A ticket therefore
carries live bids of others, each signed by its provider: so a settlement shows by itself that its model was payable,
to a replay as to the provider that is about to serve. Addresses are all that anybody can tell apart; that each holds
MOR and has shown the model is what the router looks at before it names them.
"""

from collections.abc import Sequence

from consensus.market.book import StandingBid
from consensus.params import NetworkParams, Terms
from contracts.typed_data import Address, Digest
from gossip.messages.market import Ticket
from gossip.messages.records import Bid


def needed_rivals(params: NetworkParams) -> int:
    """How many other providers a ticket must name."""
    return max(0, params.min_providers - 1)


def counts_as_rival(bid: Bid, params: NetworkParams) -> bool:
    """With second opinions only who can give one is a rival, unless the network asks for less."""
    return bid.scores or params.audit_slots == 0 or not params.scores_required


def payable(
    bids: Sequence[StandingBid], field: Sequence[StandingBid], params: NetworkParams
) -> tuple[StandingBid, ...]:
    """Those of ``bids`` that have enough rivals in ``field``, which holds one bid of each live provider."""
    rivals = {standing.bid.provider for standing in field if counts_as_rival(standing.bid, params)}
    needed = needed_rivals(params)
    return tuple(one for one in bids if len(rivals) - (one.bid.provider in rivals) >= needed)


def draw_rivals(
    provider: Address, field: Sequence[StandingBid], drawn: Digest, params: NetworkParams
) -> tuple[StandingBid, ...]:
    """The rivals that a ticket for ``provider`` names: as many as are needed, those that follow where ``drawn`` points.

    With second opinions at least one, where there is one: it is from tickets that the ledger learns who can score.
    """
    wanted = max(needed_rivals(params), 1 if params.audit_slots else 0)
    start, found = int.from_bytes(drawn[:8], "big"), list[StandingBid]()
    for step in range(len(field)):
        if len(found) == wanted:
            break
        one = field[(start + step) % len(field)]
        if one.bid.provider != provider and counts_as_rival(one.bid, params):
            found.append(one)
    return tuple(found)


def find_fault(ticket: Ticket, terms: Terms) -> tuple[str, object] | None:
    """What is wrong with a ticket's rivals, apart from signatures and the day's ceiling: a stable word and a value."""
    params, sold = terms.params, ticket.bid.payload
    if len(ticket.rivals) < needed_rivals(params):
        return "too_few_providers", 1 + len(ticket.rivals)
    slot_start = terms.genesis_ms + ticket.slot * params.slot_ms
    seen = {sold.provider}
    for signed in ticket.rivals:
        bid = signed.payload
        if bid.provider in seen:
            return "rival_twice", bid.provider
        seen.add(bid.provider)
        if (bid.model_id, bid.unit) != (sold.model_id, sold.unit):
            return "rival_model", bid.model_id
        if bid.price_wei == 0 or bid.slots == 0 or bid.expires_ms <= slot_start:
            return "rival_not_live", bid.provider
        if not counts_as_rival(bid, params):
            return "rival_cannot_score", bid.provider
    return None
