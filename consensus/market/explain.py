"""A match in words: the bids, the band, the beacon and the draw, for people who want to see why."""

from consensus.market.book import StandingBid
from consensus.market.errors import MatchInvalid, show
from consensus.market.listing import listed_since
from consensus.market.matching import MatchContext, check_match, draw
from consensus.market.omissions import band_limit, ranks_within
from contracts.typed_data import Address, Digest
from gossip.messages.base import Signed
from gossip.messages.market import Match, Rfc, Ticket, Why

WHY = {
    Why.UNPROVEN: "which has not shown this router that it has the model (S42)",
    Why.NO_MOR: "which held no MOR at the day's snapshot (S43)",
    Why.NO_SLOT: "all of whose slots this router has filled",
    Why.PAIR_CAP: "which has had its share of the pass (S8)",
    Why.UNLIVE: "which was drawn in a cheaper band and failed the liveness check (S28)",
    Why.RESTING: "which refused or was silent shortly before, and rests",
    Why.NO_RIVALS: "beside which too few others could be named (S8)",
}
"""A router's reasons in words."""


def explain_match(
    match: Signed[Match], ticket: Signed[Ticket], rfc: Signed[Rfc], secret: Digest | None, context: MatchContext
) -> tuple[str, ...]:
    """Lines of text that lead from the bids to the winner, and a verdict that this reader derived itself.

    Never raises: a match that does not hold is explained with the reason why.
    """
    told, winner = match.payload, ticket.payload.bid.id(context.terms.domain)
    day = context.terms.params.day_of(told.slot)
    lines = [
        f"RFC {show(told.rfc_id)} in slot {told.slot}, matched by router {show(told.router)}",
        f"asked for at most {rfc.payload.token_max} T of model {show(rfc.payload.model_id)}",
        listed_since(context.listing, rfc.payload.model_id, day, context.terms.params),
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
    for one in told.left_out:
        lines.append(f"  left out: {show(one.provider)}, {WHY[one.why]}")
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


def explain_part(
    match: Match,
    ticket: Signed[Ticket],
    rfc: Rfc,
    *,
    provider: Address,
    own: StandingBid | None,
    context: MatchContext,
) -> tuple[str, ...]:
    """Why ``provider`` won or lost, by its own bid that counted in the match's slot (None: it had none)."""
    lines = [f"for {show(provider)}, this node:"]
    if own is None:
        return (*lines, f"  no bid of it for model {show(rfc.model_id)} counted in slot {match.slot}")
    points = context.beacons.get(match.beacon, {}).get(provider, 0)
    ranked = f", with {points} penalty points it ranks {points} % dearer (S44)" if points else ""
    lines.append(f"  its bid was {own.bid.price_wei} wei per T{ranked}")
    return (*lines, "  " + _part(match, ticket, rfc, own, context))


def _part(match: Match, ticket: Signed[Ticket], rfc: Rfc, own: StandingBid, context: MatchContext) -> str:
    provider = own.bid.provider
    mine = [signed.id(context.terms.domain) for signed in match.candidates if signed.payload.provider == provider]
    if ticket.payload.bid.payload.provider == provider:
        return "won"
    if mine and mine[0] in match.unlive:
        number = match.unlive.index(mine[0])
        return f"lost: it was draw {number}, and refused or was silent when it was asked for a slot (S28)"
    if mine:
        return f"lost: one of {len(match.candidates)} candidates, and not drawn (S34)"
    if reasons := [WHY[one.why] for one in match.left_out if one.provider == provider]:
        return f"lost: left out as one {reasons[0]}: the router's word, to be held against this node's own records"
    if own.bid.prompt_max < rfc.prompt_bound:
        return f"lost: the prompt may have {rfc.prompt_bound} T, it takes {own.bid.prompt_max}"
    if own.bid.price_wei > context.ceiling_wei:
        return f"lost: above the day's ceiling of {context.ceiling_wei} wei per T"
    if own.bid.slots == 0:
        return "lost: its bid was withdrawn"
    if not ranks_within(own, match, context):
        limit = band_limit(match, context)
        return f"lost: too dear, the band ended at {limit // 10_000} wei per T (S27)"
    return (
        "lost: the router does not account for this bid, though it is as cheap as the candidates: it may be hiding it"
    )
