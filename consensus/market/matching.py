"""Which provider serves an RFC: the lowest bid, drawn among those close to it, so that anyone can check the draw.

The draw mixes the beacon, the router's committed secret of the slot and the RFC's id. The user can't grind an RFC
towards a friend (the secret is unknown until the slot ends), and the router can't grind either (the secret is
committed to before the day starts). Demands: S27, S28, S34, S44.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
from eth_hash.auto import keccak

from consensus.committee import Committee
from consensus.market.beacon import verify_reveal
from consensus.market.book import StandingBid
from consensus.market.errors import BeaconInvalid, MatchInvalid
from consensus.market.listing import Listing, is_payable
from consensus.market.rivals import find_fault
from consensus.params import Terms
from contracts.typed_data import Address, Digest
from gossip.errors import SignerMismatch
from gossip.messages.base import P, Signed, Unit
from gossip.messages.market import LeftOut, Match, Rfc, Ticket
from gossip.messages.records import Bid

MAX_CANDIDATES = 64
"""Bids that take part in one draw; where more tie, the cheapest do."""

MAX_PENALTY = 100
"""A bid ranks at most so many percent dearer for its provider's penalty points (S44)."""

NO_PENALTIES: Mapping[Address, int] = {}


class MatchContext(msgspec.Struct, frozen=True):
    """The public data that a match of one router in one slot is checked against.

    ``beacons`` maps each beacon that the router may have known in that slot to the providers' penalty points as of
    the batch that left the beacon behind. ``tip`` is the router's commitment for the slot's day, ``ceiling_wei`` the
    day's price ceiling per T, ``listing`` says which models are payable on it.
    """

    terms: Terms
    committee: Committee
    tip: Digest | None
    ceiling_wei: int
    beacons: Mapping[Digest, Mapping[Address, int]]
    listing: Listing


def ranked_price(bid: Bid, penalties: Mapping[Address, int] = NO_PENALTIES) -> int:
    """What a bid ranks as, in hundredths of a wei per T: one percent dearer for each penalty point (S44).

    Only the ranking changes: who wins is paid what it bid (S33).
    """
    return bid.price_wei * (100 + min(MAX_PENALTY, penalties.get(bid.provider, 0)))


def candidates(
    bids: Iterable[StandingBid],
    tie_percent: int,
    penalties: Mapping[Address, int] = NO_PENALTIES,
    without: Collection[Digest] = (),
) -> tuple[StandingBid, ...]:
    """The bids that rank within ``tie_percent`` of the lowest, sorted by bid id (S27).

    ``without`` names bids to leave out: once a whole band has failed the liveness check, the next one is drawn from.
    """
    field = [standing for standing in bids if standing.bid_id not in without]
    if not field:
        return ()
    field.sort(key=lambda standing: (ranked_price(standing.bid, penalties), standing.bid_id))
    limit = ranked_price(field[0].bid, penalties) * (100 + tie_percent)
    band = [standing for standing in field if ranked_price(standing.bid, penalties) * 100 <= limit]
    return tuple(sorted(band[:MAX_CANDIDATES], key=lambda standing: standing.bid_id))


def draw(beacon: Digest, secret: Digest, rfc_id: Digest, attempt: int) -> Digest:
    """keccak(beacon ‖ secret ‖ RFC id ‖ attempt), the attempt as 8 bytes big-endian."""
    return Digest(keccak(beacon + secret + rfc_id + attempt.to_bytes(8, "big")))


def pick(band: Sequence[StandingBid], unlive: Collection[Digest], drawn: Digest) -> StandingBid:
    """The candidate that ``drawn`` points at, those that failed liveness left out. Raises :class:`MatchInvalid`."""
    left = [standing for standing in band if standing.bid_id not in unlive]
    if not left:
        raise MatchInvalid("no_candidate_left", len(band))
    return left[int.from_bytes(drawn, "big") % len(left)]


def build_match(
    ticket: Ticket,
    ticket_id: Digest,
    *,
    beacon: Digest,
    secret: Digest,
    band: Sequence[StandingBid],
    unlive: tuple[Digest, ...],
    left_out: tuple[LeftOut, ...] = (),
) -> Match:
    """The router's account of a draw over ``band``, in which the bids ``unlive`` failed liveness in that order.

    ``left_out`` are the providers as cheap that took no part, and why.
    """
    attempt = len(unlive)
    return Match(
        rfc_id=ticket.rfc_id,
        ticket_id=ticket_id,
        slot=ticket.slot,
        beacon=beacon,
        draw=draw(beacon, secret, ticket.rfc_id, attempt),
        attempt=attempt,
        candidates=tuple(standing.signed for standing in band),
        unlive=unlive,
        router=ticket.router,
        left_out=left_out,
    )


def check_match(
    match: Signed[Match], ticket: Signed[Ticket], rfc: Signed[Rfc], secret: Digest | None, context: MatchContext
) -> None:
    """Derive a match again from public data; raise :class:`MatchInvalid` naming the first thing that is wrong.

    ``secret`` is the router's secret of the slot. Before it is revealed, pass None: all but the draw is checked.
    What no message can show (a live bid left out without a word) is :func:`consensus.market.omissions.hidden_bids`'.
    """
    _check_identity(match, ticket, rfc, context)
    band = _check_band(match.payload, rfc.payload, context)
    winner = ticket.payload.bid.id(context.terms.domain)
    if winner not in {standing.bid_id for standing in band}:
        raise MatchInvalid("winner_not_a_candidate", winner)
    if secret is not None:
        _check_draw(match.payload, band, winner, secret, context)


def _check_identity(match: Signed[Match], ticket: Signed[Ticket], rfc: Signed[Rfc], context: MatchContext) -> None:
    domain = context.terms.domain
    _check_signer(match, context)
    _check_signer(ticket, context)
    _check_signer(rfc, context)
    _check_signer(rfc.payload.access_pass, context)
    told, granted, asked = match.payload, ticket.payload, rfc.payload
    rfc_id, issuer = rfc.id(domain), asked.access_pass.payload.issuer
    if context.committee.weight(issuer) == 0:
        raise MatchInvalid("issuer_not_a_member", issuer)
    expected: tuple[tuple[str, object, object], ...] = (
        ("match_router", told.router, issuer),
        ("ticket_router", granted.router, issuer),
        ("match_rfc", told.rfc_id, rfc_id),
        ("ticket_rfc", granted.rfc_id, rfc_id),
        ("match_ticket", told.ticket_id, ticket.id(domain)),
        ("match_slot", told.slot, granted.slot),
        ("session_key", granted.session_key, asked.session_key),
        ("pass_session_key", asked.access_pass.payload.session_key, asked.session_key),
        ("pass_day", asked.access_pass.payload.day, context.terms.params.day_of(granted.slot)),
        ("token_max", granted.token_max, min(granted.token_max, asked.token_max)),
        ("prompt_bound", granted.prompt_bound, asked.prompt_bound),
    )
    for name, found, wanted in expected:
        if found != wanted:
            raise MatchInvalid(name, found)
    if (fault := find_fault(granted, context.terms)) is not None:
        raise MatchInvalid(*fault)
    params = context.terms.params
    if not is_payable(context.listing, asked.model_id, params.day_of(granted.slot), params):
        raise MatchInvalid("model_not_listed", asked.model_id)
    for rival in granted.rivals:
        _check_signer(rival, context)
        if rival.payload.price_wei > context.ceiling_wei:
            raise MatchInvalid("rival_over_ceiling", rival.payload.price_wei)


def _check_band(match: Match, rfc: Rfc, context: MatchContext) -> tuple[StandingBid, ...]:
    """The candidates, each checked by itself and all of them against one another."""
    if match.beacon not in context.beacons:
        raise MatchInvalid("beacon", match.beacon)
    for signed in match.candidates:
        _check_signer(signed, context)
        _check_bid(signed.payload, rfc, match, context)
    domain = context.terms.domain
    band = tuple(StandingBid(signed.id(domain), signed, match.slot) for signed in match.candidates)
    if len({standing.bid.provider for standing in band}) != len(band):
        raise MatchInvalid("provider_twice", len(band))
    named = [one.provider for one in match.left_out]
    if both := {standing.bid.provider for standing in band} & set(named):
        raise MatchInvalid("left_out_candidate", min(both))
    if named != sorted(set(named)):
        raise MatchInvalid("left_out_order", len(named))
    if candidates(band, context.terms.params.tie_percent, context.beacons[match.beacon]) != band:
        raise MatchInvalid("tie_band", [standing.bid.price_wei for standing in band])
    return band


def _check_bid(bid: Bid, rfc: Rfc, match: Match, context: MatchContext) -> None:
    slot_start = context.terms.genesis_ms + match.slot * context.terms.params.slot_ms
    wrong: tuple[tuple[str, bool, object], ...] = (
        ("candidate_model", bid.model_id != rfc.model_id, bid.model_id),
        ("candidate_unit", bid.unit is not Unit.TEXT_TOKEN or rfc.unit is not bid.unit, bid.unit.name),
        ("candidate_slots", bid.slots == 0, bid.slots),
        ("candidate_price", not 0 < bid.price_wei <= context.ceiling_wei, bid.price_wei),
        ("candidate_prompt_max", bid.prompt_max < rfc.prompt_bound, bid.prompt_max),
        ("candidate_expired", bid.expires_ms <= slot_start, bid.expires_ms),
    )
    for name, is_wrong, value in wrong:
        if is_wrong:
            raise MatchInvalid(name, value)


def _check_draw(
    match: Match, band: Sequence[StandingBid], winner: Digest, secret: Digest, context: MatchContext
) -> None:
    params = context.terms.params
    if context.tip is None:
        raise MatchInvalid("no_commitment", match.router)
    try:
        verify_reveal(context.tip, match.slot % params.day_slots, secret, params.day_slots)
    except BeaconInvalid as error:
        raise MatchInvalid("secret", secret) from error
    if match.attempt != len(match.unlive):
        raise MatchInvalid("attempt", match.attempt)
    for attempt, failed in enumerate(match.unlive):
        drawn = draw(match.beacon, secret, match.rfc_id, attempt)
        if pick(band, match.unlive[:attempt], drawn).bid_id != failed:
            raise MatchInvalid("unlive", failed)
    drawn = draw(match.beacon, secret, match.rfc_id, match.attempt)
    if match.draw != drawn:
        raise MatchInvalid("draw", match.draw)
    if pick(band, match.unlive, drawn).bid_id != winner:
        raise MatchInvalid("winner", winner)


def _check_signer(signed: Signed[P], context: MatchContext) -> None:
    try:
        signed.signer(context.terms.domain)
    except SignerMismatch as error:
        raise MatchInvalid("signature", str(error)) from error
