"""Second opinions in the ledger (S8): what is picked, who scores it, whose word counts. Pure rules on single picks.

A later batch's beacon picks a share of the credited sessions and, for each, up to three scorers among the providers of
the model that tickets have shown. The first speaks first; the next one may once one has spoken or a third of the window
has gone by without a word. One Pass settles it, unless somebody said Fail or the session is very long: then two of a
kind do. At the end of the window a pick that nobody has passed has failed, whoever it was that did not open or did not
answer: either side of the session can open the transcript, so a provider that has computed its answer never depends on
its user.

A scorer may also sign that it could not read a transcript, as where its engine named no probabilities for a script
that it handles badly. That is no fault of the provider's, and nothing is forfeited for it. What keeps it from being a
way out for a cheat: every drawn scorer has to say so, and each that does passes the turn on at once; so one that can
read it still says Fail, and one that the provider does not open it to leaves it unheard. A cheat that owns all that
were drawn could have had their Pass, for which no more are needed. Scorers say it of their own engine's failing only,
never of a query or of T that somebody may have made unreadable: these stay without a word. And it holds once a
provider and window: who knows a failing that all engines share gets away with one pick, and forfeits by the next.
Nobody is paid for it.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
from eth_hash.auto import keccak
from msgspec.structs import replace

from consensus.market.errors import OpinionInvalid
from consensus.params import NetworkParams
from contracts.typed_data import ZERO_DIGEST, Address, Digest
from gossip.messages.opinions import Opinion
from gossip.messages.records import Bid
from gossip.messages.session import Settlement

SCORERS = 3
"""Scorers drawn for a pick at most."""

MAX_OFFERS = 64
"""Scorers of one model that the ledger remembers; those that have been credited most."""

TYPICAL_T = 500
"""T of a typical session. Longer ones are picked in proportion to their T, so that few large ones gain nobody more
than many small: however it cuts them, whoever computes nothing gets to TYPICAL_T × 10,000 ÷ ``audit_bps`` T, 25,000 by
default, before its first pick, on average and at most."""

ALL_PICKED = 10_000 * TYPICAL_T

BUCKETS = 64
"""Parts that the window is cut into: credits mature, and picks end, a part at a time."""

Decision = Literal["", "passed", "failed", "unheard", "unread"]

CONVICTING: frozenset[Decision] = frozenset(("failed", "unheard"))
"""What costs a provider all that it has put by."""

Credit = Callable[[Address], int]
"""What a provider has been credited so far, its deposit included, in wei."""


class Offer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A provider that scores a model, as the last ticket with a bid of its own has shown it."""

    provider: Address
    price_wei: int
    """Wei per T scored."""
    slot: int
    """Of that ticket, give or take an eighth of the time for which it counts."""


class Given(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a scorer said."""

    scorer: Address
    passed: bool | None
    """None where it could not read the transcript."""


class Pick(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A credited session that is to be scored again."""

    session_key: Address
    provider: Address
    model_id: Digest
    transcript: Digest
    tokens: int
    """T that were credited: so many are scored, from the first on."""
    slot: int
    """The slot of the batch that picked it."""
    scorers: tuple[Offer, ...]
    """In the order in which they may speak."""
    given: tuple[Given, ...] = ()
    decision: Decision = ""


def bucket_step(params: NetworkParams) -> int:
    """Slots of one part of the window."""
    return max(1, params.audit_slots // BUCKETS)


def bucket_of(slot: int, params: NetworkParams) -> int:
    """The part in which what a batch of ``slot`` picks and puts by comes due; it does at :func:`due_slot`."""
    return (slot + params.audit_slots) // bucket_step(params) + 1


def due_slot(bucket: int, params: NetworkParams) -> int:
    """The first slot whose batch closes a part."""
    return bucket * bucket_step(params)


def transcript_of(settlement: Settlement) -> Digest:
    """What both sides committed to, zero where neither receipt nor voucher does."""
    if settlement.receipt is not None:
        return settlement.receipt.receipt.transcript
    return ZERO_DIGEST if settlement.voucher is None else settlement.voucher.payload.transcript


def is_picked(beacon: Digest, ticket_id: Digest, tokens: int, params: NetworkParams) -> bool:
    """Whether ``beacon`` picks a session of ``tokens`` T for a second opinion.

    ``audit_bps`` of 10,000 are up to :data:`TYPICAL_T`, above that in proportion to T, at last all of them.
    """
    drawn = keccak(b"second opinion" + beacon + ticket_id)
    return int.from_bytes(drawn[:8], "big") % ALL_PICKED < pick_share(tokens, params)


def pick_share(tokens: int, params: NetworkParams) -> int:
    """How many of :data:`ALL_PICKED` sessions of ``tokens`` T are picked; more than all are all."""
    return params.audit_bps * max(TYPICAL_T, tokens)


def needs_two(tokens: int, params: NetworkParams) -> bool:
    """Whether one Pass is too little for a session of ``tokens`` T: as many, cut up, would be picked twice or more."""
    return pick_share(tokens, params) >= 2 * ALL_PICKED


def draw_scorers(
    beacon: Digest,
    ticket_id: Digest,
    provider: Address,
    offers: Iterable[Offer],
    *,
    oldest_slot: int,
    credit_of: Credit,
) -> tuple[Offer, ...]:
    """Who is to score, in order; only offers seen in ``oldest_slot`` or later count, and never the provider itself.

    Each turn is drawn with a chance in proportion to what the network has credited so far: addresses cost nothing,
    credit costs work. Whoever has none is drawn only where nobody else has any.
    """
    found = [offer for offer in offers if offer.provider != provider and offer.slot >= oldest_slot]
    weighed = [(credit_of(offer.provider), offer) for offer in found]
    if any(weight for weight, _ in weighed):
        weighed = [one for one in weighed if one[0]]
    else:
        weighed = [(1, offer) for offer in found]
    drawn: list[Offer] = []
    while weighed and len(drawn) < SCORERS:
        value = keccak(beacon + ticket_id + bytes((len(drawn),)))
        mark = int.from_bytes(value, "big") % sum(weight for weight, _ in weighed)
        drawn.append(weighed.pop(_place(weighed, mark))[1])
    return tuple(drawn)


def _place(weighed: Iterable[tuple[int, Offer]], mark: int) -> int:
    """Whose part of all weights laid end to end ``mark`` falls into."""
    for place, (weight, _) in enumerate(weighed):
        mark -= weight
        if mark < 0:
            return place
    raise ValueError(mark)


def with_offer(
    offers: tuple[Offer, ...], bid: Bid, slot: int, params: NetworkParams, credit_of: Credit
) -> tuple[Offer, ...]:
    """``offers`` with a bid that a ticket of ``slot`` shows; the same tuple where that is no news.

    Where there are too many, one goes that no longer counts, else who has been credited least, else the stalest: new
    addresses push out nobody that was paid.
    """
    held = next((offer for offer in offers if offer.provider == bid.provider), None)
    if held is not None:
        if slot < held.slot or (held.price_wei == bid.price_wei and slot < held.slot + params.settle_window_slots // 8):
            return offers
        offers = tuple(offer for offer in offers if offer is not held)
    new, oldest = Offer(bid.provider, bid.price_wei, slot), slot - params.settle_window_slots
    added = (*offers, new)
    if len(added) > MAX_OFFERS:
        least = min(added, key=lambda one: (one.slot >= oldest, credit_of(one.provider), one.slot, one.provider))
        if least is new:
            return offers
        added = tuple(offer for offer in added if offer is not least)
    return tuple(sorted(added, key=lambda offer: offer.provider))


def turns(pick: Pick, slot: int, params: NetworkParams) -> int:
    """How many of the scorers may speak in a batch of ``slot``."""
    return 1 + len(pick.given) + 3 * (slot - pick.slot) // params.audit_slots


def check_opinion(pick: Pick | None, opinion: Opinion, slot: int, params: NetworkParams) -> Pick:
    """The pick that an opinion, whose signature holds, is about. Raises :class:`OpinionInvalid`."""
    if pick is None:
        raise OpinionInvalid("not_picked", opinion.ticket_id)
    order = [offer.provider for offer in pick.scorers]
    if opinion.scorer not in order:
        raise OpinionInvalid("not_drawn", opinion.scorer)
    if opinion.transcript != pick.transcript:
        raise OpinionInvalid("another_transcript", opinion.transcript)
    if opinion.tokens != pick.tokens:
        raise OpinionInvalid("tokens", opinion.tokens)
    if any(given.scorer == opinion.scorer for given in pick.given):
        raise OpinionInvalid("said_already", opinion.scorer)
    if pick.decision:
        raise OpinionInvalid("decided", pick.decision)
    if order.index(opinion.scorer) >= turns(pick, slot, params):
        raise OpinionInvalid("not_its_turn", opinion.scorer, retry=True)
    return pick


def with_opinion(pick: Pick, opinion: Opinion, params: NetworkParams) -> Pick:
    """The pick once a checked opinion has been given."""
    given = (*pick.given, Given(opinion.scorer, None if opinion.is_unread else opinion.passed))
    passes = sum(one.passed is True for one in given)
    fails = sum(one.passed is False for one in given)
    decision: Decision = ""
    if passes > 1 or (passes and not fails and not needs_two(pick.tokens, params)):
        decision = "passed"
    elif fails > 1:
        decision = "failed"
    elif passes == fails == 0 and len(given) == len(pick.scorers):
        decision = "unread"
    return replace(pick, given=given, decision=decision)


def decide(pick: Pick) -> Decision:
    """What a pick comes to at the end of its window: in doubt, where one said Pass and one Fail, for the provider."""
    if pick.decision:
        return pick.decision
    if any(given.passed for given in pick.given):
        return "passed"
    return "failed" if any(given.passed is False for given in pick.given) else "unheard"


def fees(pick: Pick, decision: Decision) -> tuple[tuple[Address, int], ...]:
    """Scorers whose word agrees with what it came to, and the wei for each: its own bid for each T."""
    prices = {offer.provider: offer.price_wei for offer in pick.scorers}
    return tuple(
        (given.scorer, pick.tokens * prices[given.scorer])
        for given in pick.given
        if given.passed is (decision == "passed")
    )


def contradicted(pick: Pick, decision: Decision) -> tuple[Address, ...]:
    """Scorers that two others have proven wrong."""
    agreeing = sum(given.passed is (decision == "passed") for given in pick.given)
    wrong = tuple(given.scorer for given in pick.given if given.passed is (decision != "passed"))
    return wrong if agreeing > len(wrong) else ()
