"""A match in words: the bids, the band, the beacon and the draw, for people who want to see why."""

from consensus.market.errors import MatchInvalid, show
from consensus.market.matching import MatchContext, check_match, draw
from contracts.typed_data import Digest
from gossip.messages.base import Signed
from gossip.messages.market import Match, Rfc, Ticket


def explain_match(
    match: Signed[Match], ticket: Signed[Ticket], rfc: Signed[Rfc], secret: Digest | None, context: MatchContext
) -> tuple[str, ...]:
    """Lines of text that lead from the bids to the winner, and a verdict that this reader derived itself.

    Never raises: a match that does not hold is explained with the reason why.
    """
    told, winner = match.payload, ticket.payload.bid.id(context.terms.domain)
    lines = [
        f"RFC {show(told.rfc_id)} in slot {told.slot}, matched by router {show(told.router)}",
        f"asked for at most {rfc.payload.token_max} T of model {show(rfc.payload.model_id)}",
        f"price ceiling {context.ceiling_wei} wei per T",
    ]
    prices = [signed.payload.price_wei for signed in told.candidates]
    if prices:
        band = context.terms.params.tie_percent
        lines.append(f"lowest bid {min(prices)} wei per T; {len(prices)} within {band} % of it:")
    penalties = context.beacons.get(told.beacon, {})
    for signed in told.candidates:
        bid, bid_id = signed.payload, signed.id(context.terms.domain)
        marks = " <- winner" if bid_id == winner else " (failed liveness)" if bid_id in told.unlive else ""
        points = penalties.get(bid.provider, 0)
        ranked = f", {points} penalty points" if points else ""
        lines.append(f"  bid {show(bid_id)}: {bid.price_wei} wei per T by {show(bid.provider)}{ranked}{marks}")
    rivals = ", ".join(show(signed.payload.provider) for signed in ticket.payload.rivals) or "none"
    needed = context.terms.params.min_providers
    lines.append(f"other providers of the model: {rivals}; {needed} are needed in all (params.min_providers, S8)")
    lines.append(f"beacon {show(told.beacon)}")
    lines.append(f"router's secret of the slot {show(secret) if secret is not None else 'not revealed yet'}")
    if secret is not None:
        for attempt in range(len(told.unlive) + 1):
            drawn = draw(told.beacon, secret, told.rfc_id, attempt)
            left = max(1, len(prices) - attempt)
            lines.append(f"draw {attempt}: {show(drawn)}, number {int.from_bytes(drawn, 'big') % left} of {left} left")
    try:
        check_match(match, ticket, rfc, secret, context)
        lines.append("verdict: the match holds" if secret is not None else "verdict: holds as far as it can be checked")
    except MatchInvalid as error:
        lines.append(f"verdict: the match does NOT hold: {error}")
    return tuple(lines)
